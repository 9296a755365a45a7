// SPDX-License-Identifier: Apache-2.0
// Operators on strings.
#include <algorithm>
#include <limits>
#include <map>
#include <set>
#include <string_view>
#include <unordered_map>

#include "graph/operators/families.hpp"
#include "graph/operators/moving.hpp"
#include "graph/operators/regex.hpp"

namespace moptcore::inline v0::graph {
namespace {

using Integers = std::vector<std::int64_t>;
using Strings = std::vector<std::string>;

void string_concat(Call& call) {
  const Tensor& a = call.input(0, ElementType::string);
  const Tensor& b = call.input(1, ElementType::string);
  const int rank = std::max(a.rank(), b.rank());
  Shape extents;
  Shape steps[2];
  for (int axis = 0; axis < rank; ++axis) {
    const int own = axis - (rank - a.rank());
    const int other = axis - (rank - b.rank());
    const std::int64_t x = own < 0 ? 1 : a.shape()[own];
    const std::int64_t y = other < 0 ? 1 : b.shape()[other];
    call.require(x == y || x == 1 || y == 1, "shapes must agree or be 1, shape", b.shape());
    extents.push_back(x == 1 ? y : x);
    steps[0].push_back(x == 1 ? 0 : 1);
    steps[1].push_back(y == 1 ? 0 : 1);
  }
  Tensor& out = call.output(0, ElementType::string, extents);
  if (out.size() == 0) return;
  std::int64_t products[2] = {1, 1};
  for (int axis = rank - 1; axis >= 0; --axis) {
    for (int i = 0; i < 2; ++i) {
      if (steps[i][axis] == 0) continue;
      steps[i][axis] = products[i];
      products[i] *= extents[axis];
    }
  }
  std::array<std::int64_t, kMaxRank> index{};
  std::int64_t at[2] = {0, 0};
  for (std::string& text : out.mutable_strings()) {
    const std::string& front = a.strings()[at[0]];
    const std::string& back = b.strings()[at[1]];
    // Texts may grow with every node where shapes do not.
    call.environment().spend(static_cast<std::int64_t>((front.size() + back.size()) / 64));
    text = front + back;
    for (int axis = rank - 1; axis >= 0; --axis) {
      for (int i = 0; i < 2; ++i) at[i] += steps[i][axis];
      if (++index[axis] < extents[axis]) break;
      for (int i = 0; i < 2; ++i) at[i] -= extents[axis] * steps[i][axis];
      index[axis] = 0;
    }
  }
}

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

// Calls f with each part of `text`: between delimiters, or words between white space where there is
// none; at most `most` cuts, the rest being one part.
template <class F>
std::int64_t for_each_part(std::string_view text, std::string_view delimiter, std::int64_t most,
                           F&& f) {
  std::int64_t count = 0;
  std::size_t at = 0;
  if (!delimiter.empty()) {
    while (count < most) {
      const std::size_t found = text.find(delimiter, at);
      if (found == std::string_view::npos) break;
      f(count++, text.substr(at, found - at));
      at = found + delimiter.size();
    }
    f(count++, text.substr(at));
    return count;
  }
  while (true) {
    while (at < text.size() && is_space(text[at])) ++at;
    if (at == text.size()) return count;
    if (count == most) {
      f(count++, text.substr(at));
      return count;
    }
    std::size_t end = at;
    while (end < text.size() && !is_space(text[end])) ++end;
    f(count++, text.substr(at, end - at));
    at = end;
  }
}

void string_split(Call& call) {
  const Tensor& texts = call.input(0, ElementType::string);
  const std::string delimiter = call.text("delimiter", "");
  std::int64_t most = std::numeric_limits<std::int64_t>::max();
  if (call.node().find("maxsplit") != nullptr) {
    most = call.required<std::int64_t>("maxsplit");
    if (most < 0) most = std::numeric_limits<std::int64_t>::max();
  }
  Tensor counts = call.environment().allocate(ElementType::int64, texts.shape());
  auto* count = counts.mutable_data<std::int64_t>();
  std::int64_t widest = 0;
  for (std::int64_t i = 0; i < texts.size(); ++i) {
    count[i] =
        for_each_part(texts.strings()[i], delimiter, most, [](std::int64_t, std::string_view) {});
    widest = std::max(widest, count[i]);
  }
  Shape extents = texts.shape();
  extents.push_back(widest);
  Tensor& out = call.output(0, ElementType::string, extents);
  for (std::int64_t i = 0; i < texts.size(); ++i) {
    auto* row = out.mutable_strings().data() + i * widest;
    for_each_part(texts.strings()[i], delimiter, most,
                  [&](std::int64_t at, std::string_view part) { row[at] = part; });
  }
  if (call.wants(1)) call.set(1, counts);
}

// Letters of ASCII in the other case. Letters beyond depend on language and Unicode's tables.
std::string in_case(const Call& call, const std::string& text, bool upper) {
  std::string result = text;
  for (char& c : result) {
    call.require<UnsupportedError>(static_cast<unsigned char>(c) < 0x80,
                                   "cases must be those of ASCII letters, text", text);
    if (upper && c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
    if (!upper && c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return result;
}

void string_normalizer(Call& call) {
  const Tensor& texts = call.input(0, ElementType::string);
  const Shape& shape = texts.shape();
  call.require(shape.rank() == 1 || (shape.rank() == 2 && shape[0] == 1),
               "input must have the shape (count,) or (1, count), shape", shape);
  const std::string action = call.text("case_change_action", "NONE");
  call.require(action == "NONE" || action == "LOWER" || action == "UPPER",
               "case_change_action must be NONE, LOWER or UPPER", action);
  const bool sensitive = call.attribute<std::int64_t>("is_case_sensitive", 0) != 0;
  std::set<std::string> stops;
  for (const std::string& word : call.attribute<Strings>("stopwords", {})) {
    stops.insert(sensitive ? word : in_case(call, word, false));
  }
  Strings kept;
  for (const std::string& text : texts.strings()) {
    const bool compares = !stops.empty();
    if (compares && stops.contains(sensitive ? text : in_case(call, text, false))) continue;
    kept.push_back(action == "NONE" ? text : in_case(call, text, action == "UPPER"));
  }
  if (kept.empty()) kept.emplace_back();
  const auto count = static_cast<std::int64_t>(kept.size());
  Tensor& out =
      call.output(0, ElementType::string, shape.rank() == 1 ? Shape{count} : Shape{1, count});
  std::ranges::move(kept, out.mutable_strings().begin());
}

void regex_full_match(Call& call) {
  const Tensor& texts = call.input(0, ElementType::string);
  const std::string pattern = call.required<std::string>("pattern");
  const Regex regex(pattern, call.where());
  Tensor& out = call.output(0, ElementType::boolean, texts.shape());
  bool* matched = out.mutable_data<bool>();
  for (std::int64_t i = 0; i < texts.size(); ++i) {
    const std::string& text = texts.strings()[i];
    const auto length = static_cast<std::int64_t>(text.size());
    call.environment().spend(checked_product(call, length + 1, regex.size()) / 64);
    matched[i] = regex.matches(text);
  }
}

// The n-grams of a pool as paths of a tree, from items that have become numbers.
class Grams {
 public:
  void add(const Integers& items, std::size_t first, std::size_t count, std::int64_t gram) {
    int at = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const auto [found, added] = edges_.try_emplace({at, items[first + i]}, nodes_);
      if (added) {
        ++nodes_;
        grams_.push_back(-1);
      }
      at = found->second;
    }
    grams_[at] = gram;
  }
  // The node behind `at`, or -1.
  [[nodiscard]] int next(int at, std::int64_t item) const {
    const auto found = edges_.find({at, item});
    return found == edges_.end() ? -1 : found->second;
  }
  [[nodiscard]] std::int64_t gram(int at) const { return grams_[at]; }

 private:
  std::map<std::pair<int, std::int64_t>, int> edges_;
  Integers grams_{-1};
  int nodes_ = 1;
};

struct Vectorizer {
  Grams grams;
  Integers columns;  // of each n-gram
  std::vector<float> weights;
  std::int64_t width = 0;
  std::int64_t shortest = 1;
  std::int64_t longest = 1;
  std::int64_t skips = 0;
};

Vectorizer vectorizer_of(const Call& call, const Integers& pool) {
  Vectorizer result;
  result.shortest = call.required<std::int64_t>("min_gram_length");
  result.longest = call.required<std::int64_t>("max_gram_length");
  result.skips = call.required<std::int64_t>("max_skip_count");
  call.require(result.shortest >= 1 && result.shortest <= result.longest,
               "gram lengths must be >= 1 and ordered, least", result.shortest);
  call.require(result.skips >= 0, "max_skip_count must be >= 0", result.skips);
  const auto& starts = call.required<Integers>("ngram_counts");
  result.columns = call.required<Integers>("ngram_indexes");
  for (const std::int64_t column : result.columns) {
    call.require(column >= 0 && column < INT64_MAX, "ngram_indexes must be >= 0", column);
    result.width = std::max(result.width, column + 1);
  }
  const auto size = static_cast<std::int64_t>(pool.size());
  std::int64_t gram = 0;
  for (std::size_t i = 0; i < starts.size(); ++i) {
    const auto length = static_cast<std::int64_t>(i) + 1;
    const std::int64_t end = i + 1 < starts.size() ? starts[i + 1] : size;
    call.require(
        starts[i] >= 0 && starts[i] <= end && end <= size && (end - starts[i]) % length == 0,
        "ngram_counts must cut the pool into whole n-grams, start", starts[i]);
    for (std::int64_t at = starts[i]; at < end; at += length, ++gram) {
      result.grams.add(pool, static_cast<std::size_t>(at), i + 1, gram);
    }
  }
  const auto columns = static_cast<std::int64_t>(result.columns.size());
  call.require(gram == columns, "ngram_indexes must be one for each n-gram, indexes", columns);
  result.weights = call.attribute<std::vector<float>>("weights", {});
  call.require(result.weights.empty() || result.weights.size() == result.columns.size(),
               "weights must be one for each n-gram, weights", result.weights.size());
  return result;
}

void count_grams(const Call& call, const Vectorizer& how, std::span<const std::int64_t> row,
                 std::vector<float>& counts) {
  const auto length = static_cast<std::int64_t>(row.size());
  std::int64_t shortest = how.shortest;
  for (std::int64_t step = 1; step - 1 <= how.skips && step <= std::max<std::int64_t>(length, 1);
       ++step) {
    call.environment().spend(length);
    for (std::int64_t start = 0; start < length; ++start) {
      int at = 0;
      std::int64_t size = 0;
      for (std::int64_t i = start; i < length && size < how.longest; i += step) {
        at = how.grams.next(at, row[i]);
        if (at < 0) break;
        ++size;
        const std::int64_t gram = how.grams.gram(at);
        if (size >= shortest && gram >= 0) counts[gram] += 1.0f;
      }
    }
    // One item alone is the same whatever is skipped.
    if (shortest == 1 && ++shortest > how.longest) break;
  }
}

void tf_idf_vectorizer(Call& call) {
  const Tensor& items = call.input(0);
  call.require(items.rank() == 1 || items.rank() == 2,
               "input must have one or two dimensions, shape", items.shape());
  const std::string mode = call.required<std::string>("mode");
  call.require(mode == "TF" || mode == "IDF" || mode == "TFIDF", "mode must be TF, IDF or TFIDF",
               mode);
  Integers pool;
  Integers row_items;
  if (items.type() == ElementType::string) {
    // Texts become numbers by where they come first in the pool.
    std::unordered_map<std::string, std::int64_t> numbers;
    for (const std::string& text : call.required<Strings>("pool_strings")) {
      pool.push_back(
          numbers.try_emplace(text, static_cast<std::int64_t>(numbers.size())).first->second);
    }
    for (const std::string& text : items.strings()) {
      const auto found = numbers.find(text);
      row_items.push_back(found == numbers.end() ? -1 : found->second);
    }
  } else {
    pool = call.required<Integers>("pool_int64s");
    row_items = call.integers(0);
  }
  const Vectorizer how = vectorizer_of(call, pool);
  const bool flat = items.rank() == 1;
  const std::int64_t rows = flat ? 1 : items.shape()[0];
  const std::int64_t length = items.shape()[flat ? 0 : 1];
  Tensor& out =
      call.output(0, ElementType::float32, flat ? Shape{how.width} : Shape{rows, how.width});
  auto* values = out.mutable_data<float>();
  std::fill_n(values, out.size(), 0.0f);
  if (out.size() == 0) return;
  std::vector<float> counts(how.columns.size());
  for (std::int64_t row = 0; row < rows; ++row, values += how.width) {
    call.environment().spend(static_cast<std::int64_t>(counts.size()) / 64);
    std::ranges::fill(counts, 0.0f);
    count_grams(call, how, {row_items.data() + row * length, static_cast<std::size_t>(length)},
                counts);
    for (std::size_t gram = 0; gram < counts.size(); ++gram) {
      const float weight = how.weights.empty() ? 1.0f : how.weights[gram];
      if (counts[gram] == 0.0f) continue;
      values[how.columns[gram]] += mode == "TF"    ? counts[gram]
                                   : mode == "IDF" ? weight
                                                   : counts[gram] * weight;
    }
  }
}

constexpr Operator kOperators[] = {
    {"", "StringConcat", 20, string_concat},       {"", "StringNormalizer", 10, string_normalizer},
    {"", "StringSplit", 20, string_split},         {"", "RegexFullMatch", 20, regex_full_match},
    {"", "TfIdfVectorizer", 9, tf_idf_vectorizer},
};

}  // namespace

std::span<const Operator> text_operators() noexcept { return kOperators; }

}  // namespace moptcore::inline v0::graph

// SPDX-License-Identifier: Apache-2.0
#include <moptcore/pack/encoding.hpp>

#include <moptcore/core/copy.hpp>
#include <moptcore/core/parallel.hpp>
#include <moptcore/core/pool.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>
#include <deque>
#include <limits>
#include <memory>
#include <optional>
#include <sstream>
#include <utility>
#include <variant>

#include "checksum.hpp"
#include "grid.hpp"
#include "kernels/unpack.hpp"
#include "layout.hpp"
#include "rans.hpp"
#include "stream.hpp"

namespace moptcore::inline v0::pack {
namespace {

constexpr auto kEncode = "pack.encode";
constexpr std::uint8_t kVersion = 2;
constexpr int kSigned = 8;  // added to Values: zeros have signs
// A reader that allocates the tensor first is led on by at most this factor.
constexpr std::int64_t kMostExpansion = 1024;
constexpr std::int64_t kTiny = 4096;
constexpr std::int64_t kGrain = std::int64_t{1} << 16;

static_assert(static_cast<int>(DType::float64) == 0 && static_cast<int>(DType::boolean) == 12,
              "the numbers of dtypes are part of the format");

// ---- Choosing -----------------------------------------------------------------------------------

struct Codebook {
  Bytes elements;  // distinct, ascending
  Bytes symbols;
  int count = 0;
};

std::uint64_t load_word(const std::uint8_t* data, std::int64_t index, int width) {
  std::uint64_t word = 0;
  std::memcpy(&word, data + index * width, static_cast<std::size_t>(width));
  return word;
}

// Calls f with the unsigned type of `width` bytes.
template <class F>
decltype(auto) visit_width(int width, F&& f) {
  switch (width) {
    case 1: return f(std::uint8_t{});
    case 2: return f(std::uint16_t{});
    case 4: return f(std::uint32_t{});
    default: return f(std::uint64_t{});
  }
}

// Bits of a number of `dtype` as a key whose unsigned order is that of the numbers.
std::uint64_t order_key(std::uint64_t word, DType dtype) {
  const int bits = bit_width(dtype);
  const std::uint64_t sign = std::uint64_t{1} << (bits - 1);
  const std::uint64_t all = sign | (sign - 1);
  if (is_floating(dtype)) return (word & sign) != 0 ? ~word & all : word | sign;
  const bool is_signed = dtype >= DType::int64 && dtype <= DType::int8;
  return is_signed ? word ^ sign : word;
}

// The distinct words in the order in which they occur, and each word's number among them; false
// for more than `most`.
template <class Word>
bool number_words(const std::uint8_t* data, std::int64_t n, int most,
                  std::vector<std::uint64_t>& distinct, std::uint8_t* symbols) {
  // A hash table at most a quarter full; numbers differ mostly in their upper bits.
  constexpr int kSlotBits = 10;
  std::array<Word, 1 << kSlotBits> keys{};
  std::array<std::int16_t, 1 << kSlotBits> ids;
  ids.fill(-1);
  const auto* words = reinterpret_cast<const Word*>(data);
  for (std::int64_t i = 0; i < n; ++i) {
    const Word word = words[i];
    auto slot = static_cast<std::size_t>((word * 0x9E3779B97F4A7C15u) >> (64 - kSlotBits));
    while (ids[slot] >= 0 && keys[slot] != word) slot = (slot + 1) % keys.size();
    if (ids[slot] < 0) {
      if (static_cast<int>(distinct.size()) == most) return false;
      keys[slot] = word;
      ids[slot] = static_cast<std::int16_t>(distinct.size());
      distinct.push_back(word);
    }
    symbols[i] = static_cast<std::uint8_t>(ids[slot]);
  }
  return true;
}

// None where there are more than `most` distinct elements.
std::optional<Codebook> find_codebook(const std::uint8_t* data, std::int64_t n, DType dtype,
                                      int most) {
  const int width = bit_width(dtype) / 8;
  std::vector<std::uint64_t> distinct;
  Codebook book;
  book.symbols.resize(static_cast<std::size_t>(n));
  const bool few = visit_width(width, [&]<class Word>(Word) {
    return number_words<Word>(data, n, most, distinct, book.symbols.data());
  });
  if (!few) return std::nullopt;
  std::vector<std::uint8_t> by_value(distinct.size());
  for (std::size_t i = 0; i < by_value.size(); ++i) by_value[i] = static_cast<std::uint8_t>(i);
  std::sort(by_value.begin(), by_value.end(), [&](std::uint8_t a, std::uint8_t b) {
    return order_key(distinct[a], dtype) < order_key(distinct[b], dtype);
  });
  std::array<std::uint8_t, 256> rank{};
  book.count = static_cast<int>(distinct.size());
  book.elements.resize(distinct.size() * static_cast<std::size_t>(width));
  for (std::size_t i = 0; i < by_value.size(); ++i) {
    rank[by_value[i]] = static_cast<std::uint8_t>(i);
    std::memcpy(book.elements.data() + i * static_cast<std::size_t>(width), &distinct[by_value[i]],
                static_cast<std::size_t>(width));
  }
  for (std::uint8_t& symbol : book.symbols) symbol = rank[symbol];
  return book;
}

// The tensor as encoders see it.
struct Source {
  const std::uint8_t* data;
  std::int64_t n;
  DType dtype;
  const Shape* shape;
  std::optional<Codebook> codebook = std::nullopt;
  std::optional<Grid> grid = std::nullopt;

  [[nodiscard]] int width() const { return bit_width(dtype) / 8; }
  [[nodiscard]] std::int64_t last() const { return shape->empty() ? 1 : shape->back(); }
  [[nodiscard]] std::int64_t columns() const {
    return shape->rank() < 2 || (*shape)[0] == 0 ? n : n / (*shape)[0];
  }

  // The codebook's size where it has no zero.
  [[nodiscard]] int zero_symbol() const {
    int zero = codebook->count;
    for (int s = 0; s < codebook->count; ++s) {
      if (load_word(codebook->elements.data(), s, width()) == 0) zero = s;
    }
    return zero;
  }

  // What a layout chooses from: elements, or the symbols that stand for them.
  [[nodiscard]] Words words(Values values) const {
    if (values == Values::codebook) {
      return {codebook->symbols.data(), n, 1, static_cast<std::uint64_t>(zero_symbol() & 255)};
    }
    if (values == Values::grid) {
      return {grid->symbols.data(), n, 1, static_cast<std::uint64_t>(-grid->low)};
    }
    return {data, n, width(), 0};
  }

  [[nodiscard]] bool has_zero(Values values) const {
    return values != Values::codebook || zero_symbol() < codebook->count;
  }

  [[nodiscard]] int symbol_width(Values values) const {
    return values == Values::codebook ? symbol_bits(std::max(codebook->count - 1, 0)) : grid->bits;
  }
};

Bytes prefix(DType dtype, const Shape& shape, int layout_and_values) {
  Bytes out{kVersion, static_cast<std::uint8_t>(dtype),
            static_cast<std::uint8_t>(layout_and_values), static_cast<std::uint8_t>(shape.rank())};
  for (const std::int64_t extent : shape) put_varint(out, static_cast<std::uint64_t>(extent));
  return out;
}

void finish(Bytes& out, std::int64_t dense) {
  const auto least = static_cast<std::size_t>((dense - 1) / kMostExpansion + 1);
  if (dense > 0 && out.size() + 4 < least) out.resize(least - 4, 0);
  put_checksum(out);
}

using Piece =
    std::variant<Bytes, std::shared_ptr<const Planned>, std::shared_ptr<const PlannedElements>>;

// One way of writing the tensor, with the size that it will have.
struct Candidate {
  std::vector<Piece> pieces;
  std::size_t size = 0;

  void add(Bytes bytes) {
    size += bytes.size();
    pieces.emplace_back(std::move(bytes));
  }
  template <class Plan>
  void add(std::shared_ptr<const Plan> plan) {
    size += plan->size;
    pieces.emplace_back(std::move(plan));
  }
  template <class Plan>
  void add(Plan plan) {
    add(std::make_shared<const Plan>(std::move(plan)));
  }

  [[nodiscard]] Bytes write(std::int64_t dense) const {
    Bytes out;
    out.reserve(size + 64);
    for (const Piece& piece : pieces) {
      if (const auto* bytes = std::get_if<Bytes>(&piece)) put_bytes(out, *bytes);
      else if (const auto* stream = std::get_if<1>(&piece)) put_planned(out, **stream);
      else put_planned(out, *std::get<2>(piece));
    }
    finish(out, dense);
    return out;
  }
};

Bytes varint_of(std::uint64_t value) {
  Bytes out;
  put_varint(out, value);
  return out;
}

std::string group_text(int n, int m) { return std::to_string(n) + ':' + std::to_string(m); }

// The ways of writing one tensor.
class Planner {
 public:
  Planner(Source source, const Encoding& encoding) : source_(source), encoding_(encoding) {}

  /// Zeros have signs, which come last.
  void sign(Bytes signs) {
    signs_ = std::make_shared<const Planned>(plan_stream(std::move(signs), 8, encoding_.coder));
  }

  /// Throws Error where the tensor does not fit the encoding.
  Candidate smallest() {
    prepare();
    for (const Values values : {Values::raw, Values::codebook, Values::grid}) {
      if (wanted(values)) consider_all(values);
    }
    return std::move(*best_);
  }

 private:
  void prepare() {
    source_.codebook = find_codebook(source_.data, source_.n, source_.dtype, 256);
    if (encoding_.any_values || encoding_.values == Values::grid) find_grid();
    check(source_.codebook || encoding_.any_values || encoding_.values != Values::codebook, kEncode,
          "a tensor for codebook must have at most 256 distinct elements, got more");
  }

  void find_grid() {
    const int bits = encoding_.bits == 0 ? 8 : encoding_.bits;
    // With one scale there are no more elements than integers.
    if (source_.codebook) {
      const Codebook& book = *source_.codebook;
      source_.grid = pack::find_grid(book.elements.data(), source_.dtype, Shape{book.count}, bits);
      if (source_.grid) {
        const Bytes integers = std::move(source_.grid->symbols);
        source_.grid->inner = source_.n;
        source_.grid->symbols.resize(book.symbols.size());
        std::transform(book.symbols.begin(), book.symbols.end(), source_.grid->symbols.begin(),
                       [&](std::uint8_t symbol) { return integers[symbol]; });
      }
    }
    if (!source_.grid) {
      source_.grid = find_grids(source_.data, source_.dtype, *source_.shape, bits);
    }
    if (source_.grid || encoding_.any_values) return;
    check<DTypeError>(is_floating(source_.dtype), kEncode, "a tensor for a grid must be of floats",
                      name(source_.dtype));
    std::ostringstream shape;
    shape << "shape " << *source_.shape;
    throw Error(error_text(kEncode,
                           "every element for int" + std::to_string(bits) +
                               " must equal scale * q with at most 2^" + std::to_string(bits) +
                               " consecutive integers q and a scale for the tensor, for each "
                               "index of an axis or for 16 to 256 elements of the last axis",
                           shape.str()));
  }

  [[nodiscard]] bool wanted(Values values) const {
    if (!encoding_.any_values) return values == encoding_.values;
    switch (values) {
      // Symbols say the same in fewer bytes; only what is tiny pays for no table at all, and bytes
      // are symbols themselves.
      case Values::raw:
        return source_.n <= kTiny || source_.width() == 1 || (!source_.codebook && !source_.grid);
      case Values::codebook: return source_.codebook.has_value();
      default: return source_.grid.has_value();
    }
  }

  void consider(Candidate&& candidate, Layout layout) {
    if (signs_) candidate.add(signs_);
    // A mask says in one symbol where eight elements are: with many zeros it is decoded in a third
    // of the time.
    const bool slow = sparse_ && layout != Layout::bitmap;
    const std::size_t cost = candidate.size + (slow ? candidate.size / 256 : 0);
    if (best_ && cost >= best_cost_) return;
    best_cost_ = cost;
    best_ = std::move(candidate);
  }

  void consider_all(Values values) {
    nonzero_elements_.reset();
    nonzero_symbols_.reset();
    mask_.reset();
    if (!source_.has_zero(values)) {
      // All words are stored whatever the layout: dense says it in fewer bytes.
      if (!encoding_.any_layout || encoding_.layout == Layout::dense || encoding_.any_values) {
        consider(dense(values), Layout::dense);
      }
      return;
    }
    if (!encoding_.any_layout) {
      consider(with_layout(encoding_.layout, values), encoding_.layout);
      return;
    }
    const std::int64_t n = source_.n;
    const std::int64_t zeros = n - count_nonzero(source_.words(values));
    const bool tiny = n <= kTiny;
    sparse_ = zeros * 2 >= n;
    // With many zeros among elements the other layouts say all that repeats, and much sooner.
    if (values != Values::raw || tiny || zeros * 4 < n) consider(dense(values), Layout::dense);
    // Fewer zeros than these never pay for saying where they are.
    if (zeros * 64 >= n) consider(with_layout(Layout::bitmap, values), Layout::bitmap);
    if (zeros * 2 >= n && (tiny || gaps_pay(values, zeros))) {
      consider(with_layout(Layout::csr, values), Layout::csr);
    }
    if (zeros * 4 >= n) {
      // Groups that store many zeros with the others are those of no pattern.
      const auto group = group_of(values);
      if (group && (tiny || n / group->second * group->first * 4 <= (n - zeros) * 5)) {
        consider(with_layout(Layout::nm, values), Layout::nm);
      }
    }
  }

  // Whether gaps between elements may be said in fewer bytes than a bit for each: where hardly any
  // are left, or where they repeat. Independent zeros take the same bytes either way.
  bool gaps_pay(Values values, std::int64_t zeros) {
    constexpr std::int64_t kPart = std::int64_t{1} << 14;
    if (zeros >= source_.n - source_.n / 50 || mask(values).coder != Coder::rans) return true;
    Words words = source_.words(values);
    Histogram gaps{};
    Histogram bytes{};
    const std::int64_t step = words.count / 4 / 8 * 8;
    for (std::int64_t part = 0; part < 4; ++part) {
      const std::int64_t first = part * step;
      Words some = words;
      some.data += first * words.width;
      some.count = std::min(kPart, step);
      for (const std::uint8_t gap : rows_of(some, some.count).gaps) ++gaps[gap];
      for (std::int64_t i = first / 8; i < (first + some.count) / 8; ++i) {
        ++bytes[mask(values).symbols[static_cast<std::size_t>(i)]];
      }
    }
    return entropy_bytes(gaps) < 0.98 * entropy_bytes(bytes);
  }

  std::optional<std::pair<int, int>> group_of(Values values) const {
    const auto found = find_groups(source_.words(values), source_.last(), encoding_.m);
    if (!found || encoding_.n == 0) return found;
    return found->first <= encoding_.n ? std::optional(std::pair(encoding_.n, encoding_.m))
                                       : std::nullopt;
  }

  std::pair<int, int> group_or_throw(Values values) const {
    if (const auto found = group_of(values)) return *found;
    const std::string rule =
        encoding_.n == 0
            ? "a tensor for nm must have groups of 2, 4, 8 or 16 elements of the last axis with a "
              "zero in each"
            : "every " + std::to_string(encoding_.m) +
                  " elements of the last axis must have at most " + std::to_string(encoding_.n) +
                  " that are not zero for " + group_text(encoding_.n, encoding_.m);
    throw Error(error_text(kEncode, rule, encoding_.n == 0 ? "none" : "more"));
  }

  [[nodiscard]] Bytes head(Layout layout, Values values) const {
    return prefix(
        source_.dtype, *source_.shape,
        static_cast<int>(layout) * 16 + static_cast<int>(values) + (signs_ ? kSigned : 0));
  }

  void add_table(Candidate& candidate, Values values) const {
    Bytes out;
    if (values == Values::codebook) {
      put_varint(out, static_cast<std::uint64_t>(source_.codebook->count));
      put_bytes(out, source_.codebook->elements);
      candidate.add(std::move(out));
    } else if (values == Values::grid) {
      const Grid& grid = *source_.grid;
      out.push_back(static_cast<std::uint8_t>(grid.bits));
      put_varint(out, static_cast<std::uint64_t>(-grid.low));
      put_varint(out, static_cast<std::uint64_t>(grid.count));
      put_varint(out, static_cast<std::uint64_t>(grid.inner));
      candidate.add(std::move(out));
      candidate.add(plan_elements(grid.scales, scale_width(source_.dtype), true, encoding_.coder));
    }
  }

  void add_words(Candidate& candidate, ByteSpan words, Values values) const {
    if (values == Values::raw) {
      candidate.add(
          plan_elements(words, source_.width(), is_floating(source_.dtype), encoding_.coder));
    } else {
      candidate.add(plan_stream(words, source_.symbol_width(values), encoding_.coder));
    }
  }

  Candidate dense(Values values) const {
    Candidate candidate;
    candidate.add(head(Layout::dense, values));
    add_table(candidate, values);
    const Words words = source_.words(values);
    add_words(candidate, {words.data, static_cast<std::size_t>(words.count * words.width)}, values);
    return candidate;
  }

  const Planned& mask(Values values) {
    if (!mask_) {
      mask_ = std::make_shared<const Planned>(
          plan_stream(mask_of(source_.words(values)), 8, encoding_.coder));
    }
    return *mask_;
  }

  // Those that are not zero, as two layouts store them.
  void add_nonzero(Candidate& candidate, Values values) {
    if (!nonzero_symbols_ && !nonzero_elements_) {
      Candidate words;
      kept_.push_back(nonzero_of(source_.words(values)));
      add_words(words, kept_.back(), values);
      if (values == Values::raw) nonzero_elements_ = std::get<2>(words.pieces[0]);
      else nonzero_symbols_ = std::get<1>(words.pieces[0]);
    }
    if (values == Values::raw) candidate.add(nonzero_elements_);
    else candidate.add(nonzero_symbols_);
  }

  Candidate with_layout(Layout layout, Values values) {
    if (layout == Layout::dense) return dense(values);
    Candidate candidate;
    candidate.add(head(layout, values));
    const Words words = source_.words(values);
    const std::pair<int, int> group =
        layout == Layout::nm ? group_or_throw(values) : std::pair<int, int>();
    if (layout == Layout::nm) {
      candidate.add(varint_of(static_cast<std::uint64_t>(group.first)));
      candidate.add(varint_of(static_cast<std::uint64_t>(group.second)));
    }
    add_table(candidate, values);
    switch (layout) {
      case Layout::bitmap:
        mask(values);
        candidate.add(mask_);
        add_nonzero(candidate, values);
        break;
      case Layout::csr: {
        Rows rows = rows_of(words, source_.columns());
        candidate.add(varint_of(rows.counts.size()));
        candidate.add(plan_stream(std::move(rows.counts), 8, encoding_.coder));
        candidate.add(varint_of(rows.gaps.size()));
        candidate.add(plan_stream(std::move(rows.gaps), 8, encoding_.coder));
        add_nonzero(candidate, values);
        break;
      }
      default: {
        Groups groups = groups_of(words, group.first, group.second);
        const int bits = place_bits(group.second);
        candidate.add(plan_stream(std::move(groups.places),
                                  one_symbol(group.first, group.second) ? group.first * bits : bits,
                                  encoding_.coder));
        kept_.push_back(std::move(groups.words));
        add_words(candidate, kept_.back(), values);
      }
    }
    return candidate;
  }

  Source source_;
  Encoding encoding_;
  std::shared_ptr<const Planned> signs_;
  std::optional<Candidate> best_;
  std::size_t best_cost_ = 0;
  bool sparse_ = false;
  // Of the kind of values at hand.
  std::shared_ptr<const Planned> mask_;
  std::shared_ptr<const Planned> nonzero_symbols_;
  std::shared_ptr<const PlannedElements> nonzero_elements_;
  std::deque<Bytes> kept_;  // what plans look at
};

template <class Word>
constexpr Word kSignBit = static_cast<Word>(Word{1} << (8 * sizeof(Word) - 1));

std::int64_t count_words(const std::uint8_t* data, std::int64_t n, int width, bool negative) {
  return visit_width(width, [&]<class Word>(Word) {
    const auto* words = reinterpret_cast<const Word*>(data);
    const Word zero = negative ? kSignBit<Word> : Word{0};
    std::int64_t count = 0;
    for (std::int64_t i = 0; i < n; ++i) count += words[i] == zero ? 1 : 0;
    return count;
  });
}

// -0.0 becomes 0; a bit for each zero of the result, set where it was negative.
Bytes take_signs(std::uint8_t* data, std::int64_t n, int width) {
  return visit_width(width, [&]<class Word>(Word) {
    auto* words = reinterpret_cast<Word*>(data);
    Bytes signs;
    unsigned byte = 0;
    int filled = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      const Word word = words[i];
      if (static_cast<Word>(word << 1) != 0) continue;
      words[i] = 0;
      byte |= static_cast<unsigned>(word != 0) << filled;
      if (++filled == 8) {
        signs.push_back(static_cast<std::uint8_t>(byte));
        byte = 0;
        filled = 0;
      }
    }
    if (filled > 0) signs.push_back(static_cast<std::uint8_t>(byte));
    return signs;
  });
}

void put_signs(ByteSpan signs, std::uint8_t* data, std::int64_t n, int width) {
  visit_width(width, [&]<class Word>(Word) {
    auto* words = reinterpret_cast<Word*>(data);
    std::size_t zero = 0;
    // Without branches, which would be wrong as often as zeros are anywhere. The byte behind the
    // last sign is read as well.
    for (std::int64_t i = 0; i < n; ++i) {
      const Word is_zero = words[i] == 0 ? 1 : 0;
      const auto sign = static_cast<Word>(signs[zero / 8] >> (zero % 8) & is_zero);
      words[i] = static_cast<Word>(words[i] | sign << (8 * sizeof(Word) - 1));
      zero += is_zero;
    }
  });
}

// The smallest of what `encoding` allows; the tensor without elements has no such.
Bytes encode_elements(const Source& source, const Encoding& encoding) {
  const std::int64_t dense = byte_count(source.dtype, source.n);
  const int width = source.width();
  const std::int64_t negative =
      is_floating(source.dtype) ? count_words(source.data, source.n, width, true) : 0;
  Planner plain(source, encoding);
  if (negative == 0) return plain.smallest().write(dense);

  PoolBuffer copy = pool_allocate(dense);
  auto* data = static_cast<std::uint8_t*>(copy.get());
  std::memcpy(data, source.data, static_cast<std::size_t>(dense));
  Bytes signs = take_signs(data, source.n, width);
  Source unsigned_source = source;
  unsigned_source.data = data;
  Planner with_signs(unsigned_source, encoding);
  with_signs.sign(std::move(signs));
  // As many as these are said apart in no more bytes than as values among the others.
  if (encoding.any_values && source.n > kTiny && negative * 64 >= source.n) {
    return with_signs.smallest().write(dense);
  }
  std::optional<Candidate> as_values;
  try {
    as_values = plain.smallest();
  } catch (const Error&) {
    // Then it fits without the signs, or the error is thrown there.
    return with_signs.smallest().write(dense);
  }
  Candidate apart = with_signs.smallest();
  return (apart.size < as_values->size ? apart : *as_values).write(dense);
}

// ---- Reading ------------------------------------------------------------------------------------

struct Header {
  DType dtype = DType::float32;
  Shape shape;
  Layout layout = Layout::dense;
  Values values = Values::raw;
  bool is_signed = false;
  std::int64_t n = 0;
  std::int64_t dense = 0;
};

Header read_header(Cursor& cursor, std::size_t size) {
  const int version = cursor.u8();
  check<FormatError>(version >= 1 && version <= kVersion, kDecode,
                     "the version of the format must be 1 or 2", version);
  Header header;
  const int dtype = cursor.u8();
  check<FormatError>(dtype <= static_cast<int>(DType::boolean), kDecode,
                     "the number of a dtype must be at most 12", dtype);
  header.dtype = static_cast<DType>(dtype);
  const int kind = cursor.u8();
  check<FormatError>(kind / 16 <= static_cast<int>(Layout::nm), kDecode,
                     "the number of a layout must be at most 3", kind / 16);
  header.is_signed = version > 1 && (kind & kSigned) != 0;
  const int values = kind % 16 - (header.is_signed ? kSigned : 0);
  check<FormatError>(values <= static_cast<int>(Values::grid), kDecode,
                     "the number of a kind of values must be at most 2", values);
  check<FormatError>(!header.is_signed || is_floating(header.dtype), kDecode,
                     "zeros with signs must be of floats", name(header.dtype));
  header.layout = static_cast<Layout>(kind / 16);
  header.values = static_cast<Values>(values);
  const int rank = cursor.u8();
  check<FormatError>(rank <= kMaxRank, kDecode, "a tensor must have at most 16 dimensions", rank);
  const std::int64_t most = static_cast<std::int64_t>(size) * kMostExpansion;
  for (int axis = 0; axis < rank; ++axis) {
    header.shape.push_back(static_cast<std::int64_t>(
        cursor.varint(std::numeric_limits<std::int64_t>::max(), "an extent")));
  }
  // An extent of 0 does not excuse the others: NumPy multiplies them as well.
  std::int64_t n = 1;
  bool fits = true;
  bool empty = false;
  for (const std::int64_t extent : header.shape) {
    empty = empty || extent == 0;
    if (extent > 0) fits = fits && !__builtin_mul_overflow(n, extent, &n) && n <= most;
  }
  header.n = empty ? 0 : n;
  fits = fits && !__builtin_mul_overflow(header.n, bit_width(header.dtype) / 8, &header.dense) &&
         header.dense <= most;
  check<FormatError>(fits, kDecode,
                     "a tensor must have at most 1024 times the bytes that hold it, "
                     "shape",
                     header.shape);
  return header;
}

// Elements of the table in the order of `symbols`, all of which it has.
void look_up(ByteSpan symbols, ByteSpan table, int width, std::uint8_t* out) {
  visit_width(width, [&]<class Word>(Word) {
    std::array<Word, 256> words{};
    std::memcpy(words.data(), table.data(), table.size());
    auto* elements = reinterpret_cast<Word*>(out);
    parallel_for(static_cast<std::int64_t>(symbols.size()), kGrain,
                 [&](std::int64_t first, std::int64_t last) {
                   for (std::int64_t i = first; i < last; ++i) {
                     elements[i] = words[symbols[static_cast<std::size_t>(i)]];
                   }
                 });
  });
}

// Bytes that are written before they are read, with room behind them for vectors.
struct Scratch {
  explicit Scratch(std::int64_t bytes)
      : memory(pool_allocate(bytes + kernels::kExpandSlack)),
        span(static_cast<std::uint8_t*>(memory.get()), static_cast<std::size_t>(bytes)) {}
  PoolBuffer memory;
  std::span<std::uint8_t> span;
};

// Puts the elements at `out`, which has room for header.dense bytes; returns what the encoding is
// called, without its coders.
std::string read_elements(Cursor& cursor, const Header& header, std::vector<Stream>* seen,
                          std::uint8_t* out) {
  const int width = bit_width(header.dtype) / 8;
  const std::int64_t n = header.n;
  std::string text;
  int group_n = 0;
  int group_m = 0;
  switch (header.layout) {
    case Layout::dense: break;
    case Layout::bitmap: text = "bitmap+"; break;
    case Layout::csr: text = "csr+"; break;
    case Layout::nm: {
      group_n = static_cast<int>(cursor.varint(255, "n of n:m"));
      group_m = static_cast<int>(cursor.varint(256, "m of n:m"));
      const bool groups = group_n >= 1 && group_n < group_m && !header.shape.empty() &&
                          header.shape.back() % group_m == 0;
      check<FormatError>(groups, kDecode, "n must be in [1, m) and m divide the last axis",
                         group_text(group_n, group_m));
      text = group_text(group_n, group_m) + '+';
    }
  }

  const bool symbols = header.values != Values::raw;
  Codebook book;
  Grid grid;
  Bytes table;
  std::uint64_t zero = 0;
  int bits = 8;
  StreamReader streams(cursor, seen);
  if (header.values == Values::codebook) {
    book.count = static_cast<int>(cursor.varint(256, "the size of a codebook"));
    check<FormatError>(book.count >= 1, kDecode, "a codebook must have an element", book.count);
    const ByteSpan elements = cursor.take(static_cast<std::uint64_t>(book.count * width));
    book.elements.assign(elements.begin(), elements.end());
    bits = symbol_bits(book.count - 1);
    bool found = false;
    for (int s = 0; s < book.count && !found; ++s) {
      found = load_word(book.elements.data(), s, width) == 0;
      zero = static_cast<std::uint64_t>(s);
    }
    check<FormatError>(found || header.layout == Layout::dense, kDecode,
                       "the codebook of a sparse tensor must have a zero, elements", book.count);
    text += "codebook" + std::to_string(bits);
  } else if (header.values == Values::grid) {
    check<FormatError>(is_floating(header.dtype), kDecode, "a grid must be of floats",
                       name(header.dtype));
    grid.bits = bits = cursor.u8();
    check<FormatError>(bits >= 1 && bits <= 8, kDecode, "a grid must have 1 to 8 bits", bits);
    grid.low = -static_cast<int>(cursor.varint(255, "the lowest integer of a grid, negated"));
    check<FormatError>(header.layout == Layout::dense || -grid.low < 1 << bits, kDecode,
                       "the grid of a sparse tensor must have a zero, lowest integer", grid.low);
    zero = static_cast<std::uint64_t>(-grid.low);
    const auto most = static_cast<std::uint64_t>(n);
    grid.count = static_cast<std::int64_t>(cursor.varint(most, "the number of scales"));
    grid.inner = static_cast<std::int64_t>(cursor.varint(most, "the elements of a scale"));
    check<FormatError>(grid.count >= 1 && grid.inner >= 1 && n / grid.count >= grid.inner &&
                           n % (grid.count * grid.inner) == 0,
                       kDecode, "scales must divide the tensor, scales", grid.count);
    const int bytes = scale_width(header.dtype);
    grid.scales.resize(static_cast<std::size_t>(grid.count * bytes));
    streams.take_elements(grid.scales, bytes, true, "scales");
    text += "int" + std::to_string(bits);
  } else {
    text += "raw";
  }

  Bytes mask;
  Bytes counts;
  Bytes places;
  const std::int64_t rows = header.shape.rank() < 2 || header.shape[0] == 0 ? 1 : header.shape[0];
  std::int64_t stored_count = n;
  switch (header.layout) {
    case Layout::dense: break;
    case Layout::bitmap:
      mask.resize(static_cast<std::size_t>((n + 7) / 8));
      streams.take(mask, 8, "mask");
      check_mask(mask, n);
      stored_count = count_bits(mask);
      break;
    case Layout::csr: {
      // No varint of a count or gap below 2^63 is longer than 9 bytes.
      const auto most = static_cast<std::uint64_t>(9 * std::max(n, rows));
      counts.resize(cursor.varint(most, "the bytes of the counts"));
      streams.take(counts, 8, "counts");
      places.resize(cursor.varint(most, "the bytes of the gaps"));
      streams.take(places, 8, "gaps");
      stored_count = sum_counts(counts, rows, n / rows);
      break;
    }
    case Layout::nm: {
      stored_count = n / group_m * group_n;
      const bool joined = one_symbol(group_n, group_m);
      const int place = place_bits(group_m);
      places.resize(static_cast<std::size_t>(joined ? n / group_m : stored_count));
      streams.take(places, joined ? group_n * place : place, "places");
    }
  }

  // What stands for zero elements is zero, so a codebook may be looked up before its elements are
  // put in their places, and a scale be applied that all of them have.
  const bool sparse = header.layout != Layout::dense;
  const bool one_scale = header.values == Values::grid && grid.count == 1;
  const bool early = !symbols || header.values == Values::codebook || one_scale;
  const std::int64_t stored_bytes = stored_count * width;
  std::optional<Scratch> elements;
  std::span<std::uint8_t> stored(out, static_cast<std::size_t>(stored_bytes));
  if (sparse) stored = elements.emplace(stored_bytes).span;
  std::optional<Scratch> indices;
  if (symbols) {
    streams.take(indices.emplace(stored_count).span, bits, "symbols");
    const ByteSpan taken = indices->span;
    if (header.values == Values::codebook) {
      std::uint8_t largest = 0;
      for (const std::uint8_t symbol : taken) largest = std::max(largest, symbol);
      check<FormatError>(
          stored_count == 0 || largest < book.count, kDecode,
          "an index must be below the size of its codebook, " + std::to_string(book.count),
          static_cast<int>(largest));
      look_up(taken, book.elements, width, stored.data());
    } else if (one_scale) {
      grid.inner = std::max<std::int64_t>(stored_count, 1);
      apply_grid(grid, taken.data(), stored_count, header.dtype, stored.data());
    }
  } else {
    streams.take_elements(stored, width, is_floating(header.dtype), "elements");
  }

  ByteSpan words = stored;
  int word = width;
  std::uint64_t missing = 0;
  std::uint8_t* to = out;
  std::optional<Scratch> spread;
  if (!early) {
    words = indices->span;
    word = 1;
    missing = zero;
    if (sparse) to = spread.emplace(n).span.data();
  }
  switch (header.layout) {
    case Layout::dense: break;
    case Layout::bitmap: expand_mask(mask, words, word, missing, n, to); break;
    case Layout::csr: expand_rows(counts, places, words, word, missing, rows, n / rows, to); break;
    case Layout::nm: expand_groups(places, words, word, missing, group_n, group_m, n, to);
  }
  if (!early) {
    apply_grid(grid, sparse ? to : indices->span.data(), n, header.dtype, out);
  }
  if (header.is_signed) {
    const std::int64_t zeros = count_words(out, n, width, false);
    check<FormatError>(zeros > 0, kDecode, "zeros with signs must be there, zeros", zeros);
    Bytes signs(static_cast<std::size_t>((zeros + 7) / 8) + 1, 0);
    const std::span<std::uint8_t> taken(signs.data(), signs.size() - 1);
    streams.take(taken, 8, "signs");
    check_mask(taken, zeros);
    put_signs(signs, out, n, width);
    text += "+signs";
  }
  return text;
}

std::string with_coders(std::string text, const std::vector<Stream>& streams) {
  constexpr std::array<std::string_view, 4> kNames = {"plain", "zstd", "rans", "fill"};
  std::array<bool, 4> used{};
  for (const Stream& stream : streams) used[static_cast<std::size_t>(stream.coder)] = true;
  for (const Coder coder : {Coder::zstd, Coder::rans}) {
    if (!used[static_cast<std::size_t>(coder)]) continue;
    text += '+';
    text += kNames[static_cast<std::size_t>(coder)];
  }
  return text;
}

// Header and end of the bytes checked; the cursor stands behind the header.
Header open(ByteSpan bytes, Cursor& cursor) {
  check<FormatError>(bytes.size() >= 8, kDecode, "an encoded tensor must have at least 8 bytes",
                     bytes.size());
  check<FormatError>(checksum_holds(bytes), kDecode,
                     "the bytes must have their checksum: they were damaged or cut off, bytes",
                     bytes.size());
  return read_header(cursor, bytes.size());
}

std::string read_all(Cursor& cursor, const Header& header, std::vector<Stream>* seen,
                     std::uint8_t* out) {
  if (header.n == 0) {
    check<FormatError>(header.layout == Layout::dense && header.values == Values::raw, kDecode,
                       "a tensor without elements must be dense and raw, shape", header.shape);
  }
  std::string text = header.n == 0 ? "raw" : read_elements(cursor, header, seen, out);
  const ByteSpan padding = cursor.take(cursor.left());
  const bool zeros = std::all_of(padding.begin(), padding.end(), [](auto b) { return b == 0; });
  check<FormatError>(zeros, kDecode, "bytes behind the last stream must be 0, bytes",
                     padding.size());
  return text;
}

PoolBuffer contiguous(const AnyView& tensor) {
  PoolBuffer copy =
      pool_allocate(std::max<std::int64_t>(byte_count(tensor.dtype(), tensor.size()), 1));
  copy_elements(tensor, MutableAnyView(copy.get(), tensor.dtype(), tensor.shape()));
  return copy;
}

bool is_aligned(const void* data, DType dtype) {
  return reinterpret_cast<std::uintptr_t>(data) %
             static_cast<std::uintptr_t>(bit_width(dtype) / 8) ==
         0;
}

void check_dtype(DType dtype, const char* where) {
  check<DTypeError>(!is_packed(dtype), where, "a tensor must not be of a packed dtype",
                    name(dtype));
}

}  // namespace

Encoding parse_encoding(std::string_view text) {
  constexpr auto where = "pack.parse_encoding";
  const auto refuse = [&](std::string_view part) {
    throw Error(error_text(
        where,
        "encoding must be auto, or names joined by +: one of dense, bitmap, csr, nm and n:m, one "
        "of raw, codebook, grid, int2, int3, int4 and int8, one of plain, zstd and rans",
        '\'' + std::string(part) + "' in '" + std::string(text) + '\''));
  };
  Encoding encoding;
  bool layout = false;
  bool values = false;
  bool coder = false;
  if (text == "auto") return encoding;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t end = std::min(text.find('+', at), text.size());
    const std::string_view part = text.substr(at, end - at);
    at = end + 1;
    const auto set_layout = [&](Layout which) {
      if (layout) refuse(part);
      layout = true;
      encoding.layout = which;
    };
    const auto set_values = [&](Values which, int bits = 0) {
      if (values) refuse(part);
      values = true;
      encoding.values = which;
      encoding.bits = bits;
    };
    const auto set_coder = [&](Coder which) {
      if (coder) refuse(part);
      coder = true;
      encoding.coder = which;
    };
    const std::size_t colon = part.find(':');
    if (part == "auto") continue;
    if (part == "dense") set_layout(Layout::dense);
    else if (part == "bitmap") set_layout(Layout::bitmap);
    else if (part == "csr") set_layout(Layout::csr);
    else if (part == "nm") set_layout(Layout::nm);
    else if (part == "raw") set_values(Values::raw);
    else if (part == "codebook") set_values(Values::codebook);
    else if (part == "grid" || part == "int8") set_values(Values::grid, 8);
    else if (part == "int2") set_values(Values::grid, 2);
    else if (part == "int3") set_values(Values::grid, 3);
    else if (part == "int4") set_values(Values::grid, 4);
    else if (part == "plain") set_coder(Coder::raw);
    else if (part == "zstd") set_coder(Coder::zstd);
    else if (part == "rans") set_coder(Coder::rans);
    else if (colon != std::string_view::npos) {
      set_layout(Layout::nm);
      const auto number = [&](std::string_view digits) {
        int value = 0;
        const auto [last, error] =
            std::from_chars(digits.data(), digits.data() + digits.size(), value);
        if (error != std::errc{} || last != digits.data() + digits.size()) refuse(part);
        return value;
      };
      encoding.n = number(part.substr(0, colon));
      encoding.m = number(part.substr(colon + 1));
      check(encoding.n >= 1 && encoding.n < encoding.m && encoding.m <= 256, where,
            "n:m must have n in [1, m) and m at most 256", part);
    } else {
      refuse(part);
    }
  }
  // "rans" alone leaves open what is stored; "codebook" alone means the codebook of all elements.
  encoding.any_layout = !layout && !values;
  encoding.any_values = !layout && !values;
  return encoding;
}

std::vector<std::uint8_t> encode(const AnyView& tensor, const Encoding& encoding) {
  check_dtype(tensor.dtype(), kEncode);
  check(encoding.n == 0 || (encoding.n >= 1 && encoding.n < encoding.m && encoding.m <= 256),
        kEncode, "n:m must have n in [1, m) and m at most 256", group_text(encoding.n, encoding.m));
  check(encoding.bits >= 0 && encoding.bits <= 8, kEncode, "bits must be in [0, 8]", encoding.bits);
  PoolBuffer copy;
  if (!tensor.is_contiguous() || !is_aligned(tensor.data(), tensor.dtype())) {
    copy = contiguous(tensor);
  }
  const Source source{static_cast<const std::uint8_t*>(copy ? copy.get() : tensor.data()),
                      tensor.size(), tensor.dtype(), &tensor.shape()};
  Bytes plain = prefix(source.dtype, tensor.shape(), 0);
  const std::int64_t dense = byte_count(source.dtype, source.n);
  if (source.n > 0) {
    Bytes best = encode_elements(source, encoding);
    // What putting them down as they are takes: modes, coder, length, checksum.
    const Bytes length = varint_of(static_cast<std::uint64_t>(dense));
    if (best.size() <= plain.size() + 2 + length.size() + static_cast<std::size_t>(dense) + 4) {
      return {best.begin(), best.end()};
    }
    put_planned(
        plain, plan_elements({source.data, static_cast<std::size_t>(dense)}, 1, false, Coder::raw));
  }
  finish(plain, dense);
  return {plain.begin(), plain.end()};
}

Description describe_header(std::span<const std::uint8_t> bytes) {
  Cursor cursor(bytes.size() < 4 ? bytes : bytes.first(bytes.size() - 4));
  const Header header = open(bytes, cursor);
  return {
      header.dtype, header.shape, "", header.dense, static_cast<std::int64_t>(bytes.size()), {}};
}

Description describe(std::span<const std::uint8_t> bytes) {
  Cursor cursor(bytes.size() < 4 ? bytes : bytes.first(bytes.size() - 4));
  const Header header = open(bytes, cursor);
  const PoolBuffer elements = pool_allocate(std::max<std::int64_t>(header.dense, 1));
  Description description{
      header.dtype, header.shape, "", header.dense, static_cast<std::int64_t>(bytes.size()), {}};
  std::string text =
      read_all(cursor, header, &description.streams, static_cast<std::uint8_t*>(elements.get()));
  description.encoding = with_coders(std::move(text), description.streams);
  return description;
}

void decode(std::span<const std::uint8_t> bytes, const MutableAnyView& out) {
  Cursor cursor(bytes.size() < 4 ? bytes : bytes.first(bytes.size() - 4));
  const Header header = open(bytes, cursor);
  check<DTypeError>(out.dtype() == header.dtype, kDecode,
                    "out must have dtype " + std::string(name(header.dtype)), name(out.dtype()));
  if (!(out.shape() == header.shape)) {
    std::ostringstream rule;
    rule << "out must have shape " << header.shape;
    throw Error(error_text(kDecode, rule.str(), out.shape()));
  }
  if (out.is_contiguous() && is_aligned(out.data(), header.dtype)) {
    read_all(cursor, header, nullptr, static_cast<std::uint8_t*>(out.data()));
    return;
  }
  const PoolBuffer elements = pool_allocate(std::max<std::int64_t>(header.dense, 1));
  read_all(cursor, header, nullptr, static_cast<std::uint8_t*>(elements.get()));
  copy_elements(AnyView(elements.get(), header.dtype, header.shape), out);
}

double entropy_bound(const AnyView& tensor) {
  check_dtype(tensor.dtype(), "pack.entropy_bound");
  const PoolBuffer copy = contiguous(tensor);
  const auto* data = static_cast<const std::uint8_t*>(copy.get());
  const std::int64_t n = tensor.size();
  const int width = bit_width(tensor.dtype()) / 8;
  std::vector<std::uint64_t> words(static_cast<std::size_t>(n));
  for (std::int64_t i = 0; i < n; ++i)
    words[static_cast<std::size_t>(i)] = load_word(data, i, width);
  std::sort(words.begin(), words.end());
  double bits = 0.0;
  double distinct = 0.0;
  for (std::size_t first = 0; first < words.size();) {
    std::size_t last = first;
    while (last < words.size() && words[last] == words[first]) ++last;
    const auto count = static_cast<double>(last - first);
    bits += count * std::log2(static_cast<double>(n) / count);
    distinct += 1.0;
    first = last;
  }
  return std::min(bits / 8.0 + distinct * width, static_cast<double>(n * width));
}

}  // namespace moptcore::inline v0::pack

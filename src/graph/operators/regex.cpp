// SPDX-License-Identifier: Apache-2.0
#include "graph/operators/regex.hpp"

#include <algorithm>
#include <optional>

#include <moptcore/core/check.hpp>

namespace moptcore::inline v0::graph {
namespace {

constexpr int kMaxInstructions = 20'000;
constexpr int kMaxRepeat = 1000;
constexpr int kMaxDepth = 200;
constexpr std::uint32_t kLast = 0x10ffff;

std::vector<std::uint32_t> code_points(std::string_view text) {
  std::vector<std::uint32_t> result;
  result.reserve(text.size());
  for (std::size_t i = 0; i < text.size();) {
    const auto lead = static_cast<std::uint8_t>(text[i]);
    const std::size_t length = lead < 0x80   ? 1
                               : lead < 0xc2 ? 0
                               : lead < 0xe0 ? 2
                               : lead < 0xf0 ? 3
                               : lead < 0xf5 ? 4
                                             : 0;
    std::uint32_t value = length <= 1 ? lead : lead & (0x7fu >> length);
    bool good = length > 0 && i + length <= text.size();
    for (std::size_t k = 1; good && k < length; ++k) {
      const auto next = static_cast<std::uint8_t>(text[i + k]);
      good = (next & 0xc0) == 0x80;
      value = value << 6 | (next & 0x3f);
    }
    // A byte that begins no character is a number that no character has.
    result.push_back(good ? value : kLast + 1 + lead);
    i += good ? length : 1;
  }
  return result;
}

bool is_word(std::uint32_t c) {
  return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || c == '_' || (c >= 'a' && c <= 'z');
}

}  // namespace

// Recursive descent into a tree, then from the tree to instructions.
class RegexParser {
 public:
  RegexParser(Regex& regex, std::string_view pattern, std::string_view where)
      : regex_(regex), where_(where), text_(code_points(pattern)) {}

  void run() {
    const int root = alternatives(0);
    check<FormatError>(at_ == text_.size(), where_, "pattern must close what it opens, at", at_);
    emit(root);
    add({Regex::Code::match, 0, 0});
  }

 private:
  enum class Kind : std::uint8_t { empty, set, place, sequence, choice, repeat };
  struct Node {
    Kind kind = Kind::empty;
    std::vector<int> children = {};
    int set = 0;
    int least = 0;
    int most = 0;  // -1: without end
    Regex::Code place = Regex::Code::begin;
  };

  [[nodiscard]] bool more() const { return at_ < text_.size(); }
  [[nodiscard]] bool next_is(char character) const {
    return more() && text_[at_] == static_cast<std::uint8_t>(character);
  }
  bool take(char character) {
    if (!next_is(character)) return false;
    ++at_;
    return true;
  }
  [[noreturn]] void refuse(std::string_view what) const {
    throw UnsupportedError(
        error_text(where_, "pattern must not use " + std::string(what) + ", at", at_));
  }

  int keep(Node node) {
    check<UnsupportedError>(nodes_.size() < kMaxInstructions, where_,
                            "pattern must have at most 20000 parts", nodes_.size());
    nodes_.push_back(std::move(node));
    return static_cast<int>(nodes_.size()) - 1;
  }

  int alternatives(int depth) {
    check<UnsupportedError>(depth < kMaxDepth, where_, "groups must be at most 200 deep", depth);
    Node choice{Kind::choice};
    do {
      Node sequence{Kind::sequence};
      while (more() && !next_is('|') && !next_is(')')) sequence.children.push_back(repeated(depth));
      choice.children.push_back(keep(std::move(sequence)));
    } while (take('|'));
    return choice.children.size() == 1 ? choice.children.front() : keep(std::move(choice));
  }

  int repeated(int depth) {
    int node = atom(depth);
    bool again = false;
    while (true) {
      int least = 0;
      int most = -1;
      if (take('*')) {
      } else if (take('+')) {
        least = 1;
      } else if (take('?')) {
        most = 1;
      } else if (!bounds(least, most)) {
        return node;
      }
      check<FormatError>(!again, where_, "pattern must not repeat a repetition, at", at_);
      again = true;
      take('?');  // whether the match is short or long does not matter for all of a text
      node = keep({Kind::repeat, {node}, 0, least, most});
    }
  }

  // {m}, {m,} or {m,n}; anything else between braces is what it looks like.
  bool bounds(int& least, int& most) {
    const std::size_t start = at_;
    if (!take('{')) return false;
    const auto number = [&]() -> std::optional<int> {
      if (!more() || text_[at_] < '0' || text_[at_] > '9') return std::nullopt;
      int value = 0;
      while (more() && text_[at_] >= '0' && text_[at_] <= '9') {
        value = std::min(value * 10 + static_cast<int>(text_[at_++] - '0'), kMaxRepeat + 1);
      }
      return value;
    };
    const auto low = number();
    if (low) {
      least = most = *low;
      bool good = true;
      if (take(',')) {
        const auto high = number();
        most = high ? *high : -1;
        good = !high || least <= most;
      }
      if (take('}')) {
        check<FormatError>(good && least <= kMaxRepeat && most <= kMaxRepeat, where_,
                           "pattern must repeat {m,n} with m <= n <= 1000, at", start);
        return true;
      }
    }
    at_ = start;
    least = 0;
    most = -1;
    return false;
  }

  int of_set(Regex::Set set) {
    std::sort(set.ranges.begin(), set.ranges.end());
    regex_.sets_.push_back(std::move(set));
    Node node{Kind::set};
    node.set = static_cast<int>(regex_.sets_.size()) - 1;
    return keep(std::move(node));
  }

  // What holds between two characters.
  int of_place(Regex::Code code) {
    Node node{Kind::place};
    node.place = code;
    return keep(std::move(node));
  }

  int atom(int depth) {
    if (take('(')) {
      if (take('?')) {
        if (!take(':')) {
          // A name does not change what matches.
          const bool named = (take('P') && next_is('<')) || next_is('<');
          if (!named || !take('<') || next_is('=') || next_is('!')) {
            refuse("assertions, references or flags");
          }
          while (more() && !next_is('>')) ++at_;
          check<FormatError>(take('>'), where_, "pattern must close the name of a group, at", at_);
        }
      }
      const int inside = alternatives(depth + 1);
      check<FormatError>(take(')'), where_, "pattern must close what it opens, at", at_);
      return inside;
    }
    if (take('[')) return of_set(bracket());
    if (take('.')) return of_set({{{'\n', '\n'}}, true});
    if (take('^')) return of_place(Regex::Code::begin);
    if (take('$')) return of_place(Regex::Code::end);
    if (next_is('*') || next_is('+') || next_is('?')) {
      throw FormatError(error_text(where_, "pattern must not repeat nothing, at", at_));
    }
    if (take('\\')) {
      if (take('A')) return of_place(Regex::Code::begin);
      if (take('z')) return of_place(Regex::Code::end);
      if (take('b')) return of_place(Regex::Code::boundary);
      if (take('B')) return of_place(Regex::Code::inside);
      return of_set(escaped());
    }
    const std::uint32_t literal = text_[at_++];
    return of_set({{{literal, literal}}, false});
  }

  // Behind a backslash.
  Regex::Set escaped() {
    check<FormatError>(more(), where_, "pattern must not end with a backslash, at", at_);
    const std::uint32_t c = text_[at_++];
    switch (c) {
      case 'd': return {{{'0', '9'}}, false};
      case 'D': return {{{'0', '9'}}, true};
      case 'w': return {{{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}}, false};
      case 'W': return {{{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}}, true};
      case 's': return {{{'\t', '\n'}, {'\f', '\r'}, {' ', ' '}}, false};
      case 'S': return {{{'\t', '\n'}, {'\f', '\r'}, {' ', ' '}}, true};
      case 'n': return {{{'\n', '\n'}}, false};
      case 't': return {{{'\t', '\t'}}, false};
      case 'r': return {{{'\r', '\r'}}, false};
      case 'f': return {{{'\f', '\f'}}, false};
      case 'v': return {{{'\v', '\v'}}, false};
      case 'a': return {{{'\a', '\a'}}, false};
      case 'x': return hexadecimal();
      default: break;
    }
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (letter) refuse(std::string("\\") + static_cast<char>(c));
    return {{{c, c}}, false};
  }

  Regex::Set hexadecimal() {
    const bool braces = take('{');
    std::uint32_t value = 0;
    int digits = 0;
    for (; more() && digits < (braces ? 6 : 2); ++digits, ++at_) {
      const std::uint32_t c = text_[at_];
      if (c >= '0' && c <= '9') value = value * 16 + (c - '0');
      else if (c >= 'a' && c <= 'f') value = value * 16 + (c - 'a' + 10);
      else if (c >= 'A' && c <= 'F') value = value * 16 + (c - 'A' + 10);
      else break;
    }
    check<FormatError>((braces ? digits > 0 && take('}') : digits == 2) && value <= kLast, where_,
                       "pattern must write \\x with two digits or {digits}, at", at_);
    return {{{value, value}}, false};
  }

  // Behind an opening bracket.
  Regex::Set bracket() {
    Regex::Set set;
    set.negated = take('^');
    bool first = true;
    while (first || !next_is(']')) {
      check<FormatError>(more(), where_, "pattern must close what it opens, at", at_);
      first = false;
      if (next_is('[') && at_ + 1 < text_.size() && text_[at_ + 1] == ':') {
        refuse("classes by name");
      }
      const Regex::Set low = class_atom();
      const bool single =
          !low.negated && low.ranges.size() == 1 && low.ranges[0].first == low.ranges[0].second;
      const bool range = single && next_is('-') && at_ + 1 < text_.size() && text_[at_ + 1] != ']';
      if (!range) {
        add_ranges(set, low);
        continue;
      }
      ++at_;
      const Regex::Set high = class_atom();
      check<FormatError>(!high.negated && high.ranges.size() == 1 &&
                             high.ranges[0].first == high.ranges[0].second &&
                             low.ranges[0].first <= high.ranges[0].first,
                         where_, "pattern must order the ends of a range, at", at_);
      set.ranges.emplace_back(low.ranges[0].first, high.ranges[0].first);
    }
    ++at_;
    return set;
  }

  Regex::Set class_atom() {
    if (take('\\')) return escaped();
    const std::uint32_t c = text_[at_++];
    return {{{c, c}}, false};
  }

  static void add_ranges(Regex::Set& set, const Regex::Set& other) {
    if (!other.negated) {
      set.ranges.insert(set.ranges.end(), other.ranges.begin(), other.ranges.end());
      return;
    }
    // What lies between the ranges; those of escapes are sorted.
    std::uint32_t start = 0;
    for (const auto& [low, high] : other.ranges) {
      if (low > start) set.ranges.emplace_back(start, low - 1);
      start = high + 1;
    }
    set.ranges.emplace_back(start, kLast);
  }

  int add(Regex::Instruction instruction) {
    check<UnsupportedError>(regex_.program_.size() < kMaxInstructions, where_,
                            "pattern must need at most 20000 states", regex_.program_.size());
    regex_.program_.push_back(instruction);
    return static_cast<int>(regex_.program_.size()) - 1;
  }
  [[nodiscard]] int here() const { return static_cast<int>(regex_.program_.size()); }

  void emit(int at) {
    const Node& node = nodes_[at];
    switch (node.kind) {
      case Kind::empty: break;
      case Kind::set: add({Regex::Code::set, node.set, 0}); break;
      case Kind::place: add({node.place, 0, 0}); break;
      case Kind::sequence:
        for (const int child : node.children) emit(child);
        break;
      case Kind::choice: emit_choice(node); break;
      case Kind::repeat: emit_repeat(node); break;
    }
  }

  void emit_choice(const Node& node) {
    std::vector<int> ends;
    for (std::size_t i = 0; i < node.children.size(); ++i) {
      const bool last = i + 1 == node.children.size();
      const int fork = last ? -1 : add({Regex::Code::split, here() + 1, 0});
      emit(node.children[i]);
      if (last) break;
      ends.push_back(add({Regex::Code::split, 0, 0}));
      regex_.program_[fork].second = here();
    }
    for (const int end : ends) regex_.program_[end].first = regex_.program_[end].second = here();
  }

  void emit_repeat(const Node& node) {
    const int child = node.children.front();
    for (int i = 0; i < node.least; ++i) {
      const int before = here();
      emit(child);
      if (here() == before) return;  // repeats nothing
    }
    if (node.most < 0) {
      const int fork = add({Regex::Code::split, here() + 1, 0});
      emit(child);
      add({Regex::Code::split, fork, fork});
      regex_.program_[fork].second = here();
      return;
    }
    std::vector<int> forks;
    for (int i = node.least; i < node.most; ++i) {
      forks.push_back(add({Regex::Code::split, here() + 1, 0}));
      emit(child);
    }
    for (const int fork : forks) regex_.program_[fork].second = here();
  }

  Regex& regex_;
  std::string_view where_;
  std::vector<std::uint32_t> text_;
  std::size_t at_ = 0;
  std::vector<Node> nodes_;
};

Regex::Regex(std::string_view pattern, std::string_view where) {
  RegexParser(*this, pattern, where).run();
}

bool Regex::holds(const Set& set, std::uint32_t character) const {
  for (const auto& [low, high] : set.ranges) {
    if (character < low) break;
    if (character <= high) return !set.negated;
  }
  return set.negated;
}

bool Regex::matches(std::string_view text) const {
  const std::vector<std::uint32_t> characters = code_points(text);
  const std::size_t length = characters.size();
  std::vector<int> now;
  std::vector<int> next;
  std::vector<int> open;
  // The place at which a state was entered last, so that none is entered twice.
  std::vector<std::size_t> entered(program_.size(), length + 1);
  bool matched = false;
  const auto enter = [&](std::vector<int>& states, int state, std::size_t place) {
    open.push_back(state);
    while (!open.empty()) {
      const int at = open.back();
      open.pop_back();
      if (entered[at] == place) continue;
      entered[at] = place;
      const Instruction& instruction = program_[at];
      switch (instruction.code) {
        case Code::set: states.push_back(at); break;
        case Code::match: matched = matched || place == length; break;
        case Code::begin:
          if (place == 0) open.push_back(at + 1);
          break;
        case Code::end:
          if (place == length) open.push_back(at + 1);
          break;
        case Code::boundary:
        case Code::inside: {
          const bool before = place > 0 && is_word(characters[place - 1]);
          const bool behind = place < length && is_word(characters[place]);
          if ((before != behind) == (instruction.code == Code::boundary)) open.push_back(at + 1);
          break;
        }
        case Code::split:
          open.push_back(instruction.second);
          open.push_back(instruction.first);
          break;
      }
    }
  };
  enter(now, 0, 0);
  for (std::size_t place = 0; place < length && !now.empty(); ++place) {
    next.clear();
    for (const int state : now) {
      if (holds(sets_[program_[state].first], characters[place])) enter(next, state + 1, place + 1);
    }
    std::swap(now, next);
  }
  return matched;
}

}  // namespace moptcore::inline v0::graph

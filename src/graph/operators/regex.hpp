// SPDX-License-Identifier: Apache-2.0
// Regular expressions in time linear in the text: every state is tried at once, none twice.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moptcore::inline v0::graph {

/// The patterns of RE2 that a finite automaton can match whole: characters, `.`, classes with
/// ranges and \d \w \s, groups, `|`, `* + ? {m,n}` and their lazy forms, `^`, `$`, \b and \B. A
/// character is a code point of UTF-8; bytes that are none stand for themselves.
class Regex {
 public:
  /// Throws FormatError for a pattern that is wrong, UnsupportedError that names what it uses
  /// beyond the above (assertions, references, flags, classes of Unicode), or if it grows too
  /// large. `where` is what errors name.
  Regex(std::string_view pattern, std::string_view where);

  /// True where the whole text matches.
  [[nodiscard]] bool matches(std::string_view text) const;

  /// Steps that a match takes at most for each character.
  [[nodiscard]] std::int64_t size() const noexcept {
    return static_cast<std::int64_t>(program_.size());
  }

 private:
  friend class RegexParser;
  enum class Code : std::uint8_t { set, split, begin, end, boundary, inside, match };
  struct Instruction {
    Code code;
    int first = 0;   // set: its number; split: where to go on
    int second = 0;  // split: the other way
  };
  // Sorted ranges of code points, both ends included.
  struct Set {
    std::vector<std::pair<std::uint32_t, std::uint32_t>> ranges;
    bool negated = false;
  };

  [[nodiscard]] bool holds(const Set& set, std::uint32_t character) const;

  std::vector<Instruction> program_;
  std::vector<Set> sets_;
};

}  // namespace moptcore::inline v0::graph

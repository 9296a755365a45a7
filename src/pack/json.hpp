// SPDX-License-Identifier: Apache-2.0
// A strict reader of the JSON that moptcore's files hold, and what a writer needs.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include <moptcore/core/check.hpp>

#include "pack/safetensors.hpp"

namespace moptcore::inline v0::pack {

/// The part of JSON that headers and recipes use: objects of known depth, strings, whole numbers.
class Scanner {
 public:
  /// `where` and `what` begin the text of errors.
  Scanner(std::string_view text, std::string_view where, std::string_view what)
      : text_(text), where_(where), what_(what) {}

  [[noreturn]] void fail(std::string_view rule) const {
    throw FormatError(error_text(
        where_, what_, "a fault at byte " + std::to_string(at_) + ": " + std::string(rule)));
  }

  void skip() {
    while (at_ < text_.size() &&
           (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r' || text_[at_] == '\t')) {
      ++at_;
    }
  }

  [[nodiscard]] bool accept(char c) {
    skip();
    if (at_ == text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  void expect(char c) {
    if (accept(c)) return;
    const std::string got = at_ == text_.size() ? "the end" : shown(text_.substr(at_, 1));
    fail(std::string("there must be a '") + c + "', not " + got);
  }

  void end() {
    skip();
    if (at_ != text_.size()) fail("nothing may follow the last bracket");
  }

  std::string string() {
    expect('"');
    std::string out;
    for (;;) {
      if (at_ == text_.size()) fail("a string must end");
      const char c = text_[at_++];
      if (c == '"') break;
      if (static_cast<unsigned char>(c) < 0x20) fail("a string must not hold control characters");
      if (c != '\\') {
        out += c;
        continue;
      }
      if (at_ == text_.size()) fail("a string must end");
      const char escape = text_[at_++];
      switch (escape) {
        case '"':
        case '\\':
        case '/': out += escape; break;
        case 'b': out += '\b'; break;
        case 'f': out += '\f'; break;
        case 'n': out += '\n'; break;
        case 'r': out += '\r'; break;
        case 't': out += '\t'; break;
        case 'u': put_utf8(out, code_point()); break;
        default: fail("a backslash must begin one of the escapes of JSON");
      }
    }
    if (!is_utf8(out)) fail("a string must be UTF-8");
    return out;
  }

  std::uint64_t number() {
    skip();
    const std::size_t first = at_;
    std::uint64_t value = 0;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') {
      const auto digit = static_cast<std::uint64_t>(text_[at_] - '0');
      constexpr auto kMost = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
      if (value > (kMost - digit) / 10) fail("a number must be below 2^63");
      value = value * 10 + digit;
      ++at_;
    }
    if (at_ == first || (text_[first] == '0' && at_ > first + 1)) {
      fail("there must be a whole number without sign or leading zero");
    }
    return value;
  }

  /// Calls f(name) for each member, whose value f reads; no name twice.
  template <class F>
  void object(F&& f) {
    expect('{');
    if (accept('}')) return;
    std::set<std::string> names;
    do {
      std::string name = string();
      expect(':');
      const auto [place, fresh] = names.insert(std::move(name));
      if (!fresh) fail("a name must not occur twice: " + shown(*place));
      f(*place);
    } while (accept(','));
    expect('}');
  }

  template <class F>
  void array(F&& f) {
    expect('[');
    if (accept(']')) return;
    do {
      f();
    } while (accept(','));
    expect(']');
  }

  std::map<std::string, std::string> strings() {
    std::map<std::string, std::string> out;
    object([&](const std::string& name) { out[name] = string(); });
    return out;
  }

 private:
  std::uint32_t hex() {
    std::uint32_t value = 0;
    for (int i = 0; i < 4; ++i) {
      const char c = at_ < text_.size() ? text_[at_++] : '\0';
      value *= 16;
      if (c >= '0' && c <= '9') value += static_cast<std::uint32_t>(c - '0');
      else if (c >= 'a' && c <= 'f') value += static_cast<std::uint32_t>(c - 'a' + 10);
      else if (c >= 'A' && c <= 'F') value += static_cast<std::uint32_t>(c - 'A' + 10);
      else fail("\\u must have four hexadecimal digits");
    }
    return value;
  }

  std::uint32_t code_point() {
    const std::uint32_t unit = hex();
    if (unit < 0xD800 || unit > 0xDFFF) return unit;
    if (unit > 0xDBFF || text_.substr(at_, 2) != "\\u") fail("surrogates must come in pairs");
    at_ += 2;
    const std::uint32_t low = hex();
    if (low < 0xDC00 || low > 0xDFFF) fail("surrogates must come in pairs");
    return 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
  }

  static void put_utf8(std::string& out, std::uint32_t code) {
    const auto put = [&out](std::uint32_t byte) { out += static_cast<char>(byte); };
    if (code < 0x80) {
      put(code);
    } else if (code < 0x800) {
      put(0xC0 | code >> 6);
      put(0x80 | (code & 63));
    } else if (code < 0x10000) {
      put(0xE0 | code >> 12);
      put(0x80 | (code >> 6 & 63));
      put(0x80 | (code & 63));
    } else {
      put(0xF0 | code >> 18);
      put(0x80 | (code >> 12 & 63));
      put(0x80 | (code >> 6 & 63));
      put(0x80 | (code & 63));
    }
  }

  std::string_view text_;
  std::string_view where_;
  std::string_view what_;
  std::size_t at_ = 0;
};

inline void put_string(std::string& out, std::string_view text) {
  constexpr std::string_view kHex = "0123456789abcdef";
  out += '"';
  constexpr std::string_view kShort = "\"\\\b\f\n\r\t";
  constexpr std::string_view kLetters = "\"\\bfnrt";
  for (const char c : text) {
    if (const std::size_t at = kShort.find(c); at != std::string_view::npos) {
      out += '\\';
      out += kLetters[at];
    } else if (static_cast<unsigned char>(c) < 0x20) {
      out += "\\u00";
      out += kHex[static_cast<std::size_t>(c) / 16];
      out += kHex[static_cast<std::size_t>(c) % 16];
    } else {
      out += c;
    }
  }
  out += '"';
}

template <class Range>
void put_array(std::string& out, const Range& numbers) {
  out += '[';
  const char* between = "";
  for (const auto number : numbers) {
    out += between;
    out += std::to_string(number);
    between = ",";
  }
  out += ']';
}

}  // namespace moptcore::inline v0::pack

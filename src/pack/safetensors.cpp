// SPDX-License-Identifier: Apache-2.0
#include "safetensors.hpp"

#include <moptcore/core/check.hpp>

#include <algorithm>
#include <array>
#include <limits>
#include <set>
#include <utility>

namespace moptcore::inline v0::pack {
namespace {

// Bytes [0] to [12] in the order of DType.
constexpr std::array<std::string_view, 13> kNames = {
    "F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"};
// Other dtypes of the format: their bits are needed to check lengths.
constexpr std::array<std::pair<std::string_view, int>, 9> kOthers = {{{"F8_E5M2", 8},
                                                                      {"F8_E4M3", 8},
                                                                      {"F8_E8M0", 8},
                                                                      {"F8_E4M3FNUZ", 8},
                                                                      {"F8_E5M2FNUZ", 8},
                                                                      {"F6_E2M3", 6},
                                                                      {"F6_E3M2", 6},
                                                                      {"F4", 4},
                                                                      {"C64", 64}}};

int bits_of(std::string_view dtype) {
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    if (dtype == kNames[i]) return bit_width(static_cast<DType>(i));
  }
  for (const auto& [name, bits] : kOthers) {
    if (dtype == name) return bits;
  }
  return 0;
}

// The part of JSON that headers use: objects of known depth, strings, whole numbers.
class Scanner {
 public:
  Scanner(std::string_view text, std::string_view what) : text_(text), what_(what) {}

  [[noreturn]] void fail(std::string_view rule) const {
    throw FormatError(
        error_text(kRead, std::string(what_) + ": " + std::string(rule) + ", byte", at_));
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
    if (!accept(c)) fail(std::string("there must be a '") + c + '\'');
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

  Strings strings() {
    Strings out;
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
  std::string_view what_;
  std::size_t at_ = 0;
};

void put_string(std::string& out, std::string_view text) {
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

void put_strings(std::string& out, const Strings& strings) {
  out += '{';
  for (const auto& [key, value] : strings) {
    if (out.back() != '{') out += ',';
    put_string(out, key);
    out += ':';
    put_string(out, value);
  }
  out += '}';
}

Line parse_line(Scanner& scanner, const std::string& name) {
  Line line;
  line.name = name;
  bool dtype = false;
  bool shape = false;
  bool offsets = false;
  scanner.object([&](const std::string& key) {
    if (key == "dtype") {
      line.dtype = scanner.string();
      dtype = true;
    } else if (key == "shape") {
      scanner.array([&] {
        const std::uint64_t extent = scanner.number();
        if (line.shape.rank() == kMaxRank) {
          scanner.fail("a tensor must have at most 16 dimensions: " + shown(name));
        }
        line.shape.push_back(static_cast<std::int64_t>(extent));
      });
      shape = true;
    } else if (key == "data_offsets") {
      scanner.expect('[');
      line.first = scanner.number();
      scanner.expect(',');
      line.last = scanner.number();
      scanner.expect(']');
      offsets = true;
    } else {
      scanner.fail("a tensor must have dtype, shape and data_offsets only, but " + shown(name) +
                   " has " + shown(key));
    }
  });
  if (!dtype || !shape || !offsets) {
    scanner.fail("a tensor must have dtype, shape and data_offsets: " + shown(name));
  }
  return line;
}

void check_bytes(const Line& line) {
  const int bits = bits_of(line.dtype);
  if (bits == 0) {
    throw FormatError(error_text(kRead, "the dtype of " + shown(line.name) + " must be known",
                                 shown(line.dtype)));
  }
  // An extent of 0 does not excuse the others: NumPy multiplies them as well.
  std::int64_t count = 1;
  bool fits = true;
  bool empty = false;
  for (const std::int64_t extent : line.shape) {
    empty = empty || extent == 0;
    if (extent > 0) fits = fits && !__builtin_mul_overflow(count, extent, &count);
  }
  fits = fits && !__builtin_mul_overflow(count, bits, &count);
  if (empty) count = 0;
  fits = fits && count % 8 == 0 && line.first <= line.last &&
         static_cast<std::uint64_t>(count / 8) == line.last - line.first;
  if (!fits) {
    throw FormatError(error_text(kRead,
                                 "the bytes of " + shown(line.name) + ", " +
                                     std::to_string(line.first) + " to " +
                                     std::to_string(line.last) + ", must be as many as dtype " +
                                     line.dtype + " and its shape need",
                                 line.shape));
  }
}

}  // namespace

std::string shown(std::string_view text) {
  std::string out = "'";
  for (const char c : text.substr(0, 80)) out += c >= ' ' && c != 127 ? c : '?';
  // A character cut in two would not be UTF-8.
  while (!is_utf8(out)) out.pop_back();
  return out + (text.size() > 80 ? "...'" : "'");
}

bool is_utf8(std::string_view text) noexcept {
  for (std::size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const int more = lead < 0x80       ? 0
                     : lead >> 5 == 6  ? 1
                     : lead >> 4 == 14 ? 2
                     : lead >> 3 == 30 ? 3
                                       : -1;
    if (more < 0 || text.size() - i <= static_cast<std::size_t>(more)) return false;
    std::uint32_t code = more == 0 ? lead : lead & (63u >> more);
    for (int k = 1; k <= more; ++k) {
      const auto byte = static_cast<unsigned char>(text[i + static_cast<std::size_t>(k)]);
      if (byte >> 6 != 2) return false;
      code = code << 6 | (byte & 63u);
    }
    constexpr std::array<std::uint32_t, 4> kLeast = {0, 0x80, 0x800, 0x10000};
    if (code < kLeast[static_cast<std::size_t>(more)] || code > 0x10FFFF ||
        (code >= 0xD800 && code <= 0xDFFF)) {
      return false;
    }
    i += static_cast<std::size_t>(more) + 1;
  }
  return true;
}

Header parse_header(std::string_view json, std::uint64_t data_bytes) {
  Header header;
  Scanner scanner(json, "the header must be JSON");
  check<FormatError>(!json.empty() && json.front() == '{', kRead, "the header must begin with '{'");
  scanner.object([&](const std::string& name) {
    if (name == "__metadata__") header.metadata = scanner.strings();
    else header.lines.push_back(parse_line(scanner, name));
  });
  scanner.end();
  std::sort(header.lines.begin(), header.lines.end(), [](const Line& a, const Line& b) {
    return std::tie(a.first, a.last, a.name) < std::tie(b.first, b.last, b.name);
  });
  std::uint64_t next = 0;
  for (const Line& line : header.lines) {
    check_bytes(line);
    if (line.first != next) {
      throw FormatError(error_text(kRead,
                                   "the bytes of " + shown(line.name) +
                                       " must begin where those before it end, at " +
                                       std::to_string(next),
                                   line.first));
    }
    next = line.last;
  }
  check<FormatError>(
      next == data_bytes, kRead,
      "the tensors must fill the file behind its header, " + std::to_string(data_bytes) + " bytes",
      next);
  return header;
}

std::string header_text(const Strings& metadata, const std::vector<Line>& lines) {
  std::string out = "{";
  if (!metadata.empty()) {
    out += "\"__metadata__\":";
    put_strings(out, metadata);
  }
  for (const Line& line : lines) {
    if (out.back() != '{') out += ',';
    put_string(out, line.name);
    out += ":{\"dtype\":\"" + line.dtype + "\",\"shape\":";
    put_array(out, line.shape);
    out += ",\"data_offsets\":";
    put_array(out, std::array{line.first, line.last});
    out += '}';
  }
  out += '}';
  out.resize((out.size() + 7) / 8 * 8, ' ');
  return out;
}

std::string_view safetensors_name(DType dtype) noexcept {
  return kNames[static_cast<std::size_t>(dtype)];
}

DType dtype_named(const Line& line) {
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    if (line.dtype == kNames[i]) return static_cast<DType>(i);
  }
  throw UnsupportedError(error_text(
      kRead, "the dtype of " + shown(line.name) + " must be one that moptcore has", line.dtype));
}

}  // namespace moptcore::inline v0::pack

// SPDX-License-Identifier: Apache-2.0
#include "safetensors.hpp"

#include "json.hpp"

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
  Scanner scanner(json, kRead, "the header must be JSON");
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

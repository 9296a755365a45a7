// SPDX-License-Identifier: Apache-2.0
// The header of a safetensors file: a strict reader of the JSON that it may hold, and a writer.
#pragma once

#include <moptcore/core/dtype.hpp>
#include <moptcore/core/shape.hpp>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace moptcore::inline v0::pack {

inline constexpr auto kRead = "pack.load";
/// As the safetensors package has it.
inline constexpr std::uint64_t kMostHeader = 100'000'000;

struct Line {
  std::string name;
  std::string dtype;  ///< "F32"
  Shape shape;
  std::uint64_t first = 0;  ///< of the bytes, counted from the end of the header
  std::uint64_t last = 0;
};

using Strings = std::map<std::string, std::string>;

struct Header {
  Strings metadata;
  std::vector<Line> lines;  ///< in the order of their bytes
};

/// Checks grammar, UTF-8, that no name occurs twice, that the tensors fill `data_bytes` without
/// overlap or gap and that each has the bytes of its dtype and shape. Throws FormatError.
[[nodiscard]] Header parse_header(std::string_view json, std::uint64_t data_bytes);

/// The lines in the order given; padded with spaces so that the data begin at a multiple of 8.
[[nodiscard]] std::string header_text(const Strings& metadata, const std::vector<Line>& lines);

[[nodiscard]] bool is_utf8(std::string_view text) noexcept;

/// As much of a name as an error needs.
[[nodiscard]] std::string shown(std::string_view text);

/// "F32" for float32; FormatError's kin UnsupportedError where moptcore has no such dtype.
[[nodiscard]] std::string_view safetensors_name(DType dtype) noexcept;
[[nodiscard]] DType dtype_named(const Line& line);

}  // namespace moptcore::inline v0::pack

// SPDX-License-Identifier: Apache-2.0
// Two 4-bit integers in a byte: element 2i in the low nibble, 2i + 1 in the high one, as ONNX
// and DLPack order them.
#pragma once

#include <cstdint>

namespace moptcore::inline v0 {

/// Element `index` of packed uint4 data, in [0, 15].
[[nodiscard]] constexpr std::uint8_t load_uint4(const std::uint8_t* packed,
                                                std::int64_t index) noexcept {
  return static_cast<std::uint8_t>((packed[index / 2] >> (index % 2 * 4)) & 15);
}

/// Element `index` of packed int4 data, in [-8, 7].
[[nodiscard]] constexpr std::int8_t load_int4(const std::uint8_t* packed,
                                              std::int64_t index) noexcept {
  return static_cast<std::int8_t>((load_uint4(packed, index) ^ 8) - 8);
}

/// Stores the low four bits of `value`; the other nibble of the byte is kept.
constexpr void store_nibble(std::uint8_t* packed, std::int64_t index, int value) noexcept {
  const int shift = static_cast<int>(index % 2) * 4;
  const int kept = packed[index / 2] & (0xF0 >> shift);
  packed[index / 2] = static_cast<std::uint8_t>(kept | ((value & 15) << shift));
}

}  // namespace moptcore::inline v0

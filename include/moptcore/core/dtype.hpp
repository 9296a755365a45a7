// SPDX-License-Identifier: Apache-2.0
// Element types, and the two 16-bit floats that C++20 lacks.
#pragma once

#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

namespace moptcore::inline v0 {

enum class DType : std::uint8_t {
  float64,
  float32,
  float16,
  bfloat16,
  int64,
  int32,
  int16,
  int8,
  uint64,
  uint32,
  uint16,
  uint8,
  boolean,  ///< one byte, 0 or 1
  int4,     ///< two per byte, the first in the low nibble
  uint4,    ///< two per byte, the first in the low nibble
};

inline constexpr int kDTypeCount = 15;

/// The name that NumPy uses where it has the type: "float32", "bfloat16", "bool", "int4".
[[nodiscard]] constexpr std::string_view name(DType dtype) noexcept {
  constexpr std::array<std::string_view, kDTypeCount> kNames = {
      "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8",
      "uint64",  "uint32",  "uint16",  "uint8",    "bool",  "int4",  "uint4"};
  return kNames[static_cast<std::size_t>(dtype)];
}

/// Bits of one element: 4 for int4 and uint4.
[[nodiscard]] constexpr int bit_width(DType dtype) noexcept {
  constexpr std::array<int, kDTypeCount> kBits = {64, 32, 16, 16, 64, 32, 16, 8,
                                                  64, 32, 16, 8,  8,  4,  4};
  return kBits[static_cast<std::size_t>(dtype)];
}

[[nodiscard]] constexpr bool is_packed(DType dtype) noexcept { return bit_width(dtype) < 8; }

[[nodiscard]] constexpr bool is_floating(DType dtype) noexcept { return dtype <= DType::bfloat16; }

/// Bytes that `count` consecutive elements occupy; the last byte of int4 may be half used.
[[nodiscard]] constexpr std::int64_t byte_count(DType dtype, std::int64_t count) noexcept {
  return is_packed(dtype) ? (count + 1) / 2 : count * (bit_width(dtype) / 8);
}

/// IEEE 754 binary16, storage only: arithmetic happens in float.
struct float16 {
  std::uint16_t bits = 0;

  float16() = default;
  constexpr explicit float16(float value) noexcept : bits(from_float(value)) {}
  constexpr explicit operator float() const noexcept { return to_float(bits); }

  static constexpr float to_float(std::uint16_t half) noexcept {
    const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
    const std::uint32_t exponent = (half >> 10) & 31u;
    const std::uint32_t fraction = half & 0x3ffu;
    if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (fraction << 13));
    if (exponent != 0) {
      return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (fraction << 13));
    }
    // Zero and denormals: fraction * 2^-24 is exact in float.
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(magnitude));
  }

  /// Rounds half to even; overflow becomes infinity; every NaN stays NaN.
  static constexpr std::uint16_t from_float(float value) noexcept {
    const std::uint32_t word = std::bit_cast<std::uint32_t>(value);
    const auto sign = static_cast<std::uint16_t>((word >> 16) & 0x8000u);
    const std::uint32_t magnitude = word & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
      return static_cast<std::uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
    }
    if (magnitude >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);
    if (magnitude < 0x38800000u) {
      // Adding 0.5 aligns the last bit of the sum with 2^-24, the denormal step of binary16.
      const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
      return static_cast<std::uint16_t>(sign |
                                        (std::bit_cast<std::uint32_t>(shifted) - 0x3f000000u));
    }
    const std::uint32_t odd = (magnitude >> 13) & 1u;
    return static_cast<std::uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
  }
};

/// The upper half of a float, storage only: arithmetic happens in float.
struct bfloat16 {
  std::uint16_t bits = 0;

  bfloat16() = default;
  constexpr explicit bfloat16(float value) noexcept : bits(from_float(value)) {}
  constexpr explicit operator float() const noexcept { return to_float(bits); }

  static constexpr float to_float(std::uint16_t half) noexcept {
    return std::bit_cast<float>(static_cast<std::uint32_t>(half) << 16);
  }

  /// Rounds half to even; every NaN stays NaN.
  static constexpr std::uint16_t from_float(float value) noexcept {
    const std::uint32_t word = std::bit_cast<std::uint32_t>(value);
    if ((word & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((word >> 16) | 0x40u);
    return static_cast<std::uint16_t>((word + 0x7fffu + ((word >> 16) & 1u)) >> 16);
  }
};

static_assert(sizeof(float16) == 2 && sizeof(bfloat16) == 2);

template <class T>
concept Element = std::same_as<T, double> || std::same_as<T, float> || std::same_as<T, float16> ||
                  std::same_as<T, bfloat16> || std::same_as<T, bool> ||
                  (std::integral<T> && !std::same_as<T, wchar_t> && !std::same_as<T, char16_t> &&
                   !std::same_as<T, char32_t> && !std::same_as<T, char8_t> && sizeof(T) <= 8);

template <class T>
concept FloatingElement = std::same_as<T, double> || std::same_as<T, float> ||
                          std::same_as<T, float16> || std::same_as<T, bfloat16>;

/// The DType of a C++ element type; int4 and uint4 have none.
template <Element T>
[[nodiscard]] constexpr DType dtype_of() noexcept {
  if constexpr (std::same_as<T, double>) return DType::float64;
  else if constexpr (std::same_as<T, float>) return DType::float32;
  else if constexpr (std::same_as<T, float16>) return DType::float16;
  else if constexpr (std::same_as<T, bfloat16>) return DType::bfloat16;
  else if constexpr (std::same_as<T, bool>) return DType::boolean;
  else if constexpr (std::signed_integral<T>) {
    return sizeof(T) == 8   ? DType::int64
           : sizeof(T) == 4 ? DType::int32
           : sizeof(T) == 2 ? DType::int16
                            : DType::int8;
  } else {
    return sizeof(T) == 8   ? DType::uint64
           : sizeof(T) == 4 ? DType::uint32
           : sizeof(T) == 2 ? DType::uint16
                            : DType::uint8;
  }
}

}  // namespace moptcore::inline v0

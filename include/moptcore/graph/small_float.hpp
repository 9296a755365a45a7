// SPDX-License-Identifier: Apache-2.0
// Floats of 4 and 8 bits, one at a time: what their codes mean and how a float becomes one.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

#include <moptcore/core/check.hpp>
#include <moptcore/graph/element_type.hpp>

namespace moptcore::inline v0::graph {

/// A sign, an exponent and a fraction in at most 8 bits. Codes without the sign bit are called
/// magnitudes here.
struct SmallFloat {
  int width;         ///< bits in all
  int fraction;      ///< bits of the fraction
  int bias;          ///< of the exponent
  int greatest;      ///< magnitude of the greatest finite number
  int infinity;      ///< its magnitude, -1: there is none
  bool has_nan;      ///< magnitudes above both of these are NaN
  bool signed_zero;  ///< false: the code of -0 is the only NaN
};

inline constexpr SmallFloat kFloat8E4M3FN{8, 3, 7, 0x7e, -1, true, true};
inline constexpr SmallFloat kFloat8E4M3FNUZ{8, 3, 8, 0x7f, -1, true, false};
inline constexpr SmallFloat kFloat8E5M2{8, 2, 15, 0x7b, 0x7c, true, true};
inline constexpr SmallFloat kFloat8E5M2FNUZ{8, 2, 16, 0x7f, -1, true, false};
inline constexpr SmallFloat kFloat4E2M1{4, 1, 1, 0x7, -1, false, true};

/// The format of a type of this kind; null for others, float8e8m0 among them.
[[nodiscard]] constexpr const SmallFloat* small_float_of(ElementType type) noexcept {
  switch (type) {
    case ElementType::float8e4m3fn: return &kFloat8E4M3FN;
    case ElementType::float8e4m3fnuz: return &kFloat8E4M3FNUZ;
    case ElementType::float8e5m2: return &kFloat8E5M2;
    case ElementType::float8e5m2fnuz: return &kFloat8E5M2FNUZ;
    case ElementType::float4e2m1: return &kFloat4E2M1;
    default: return nullptr;
  }
}

/// 2^exponent, for exponents of normal floats.
[[nodiscard]] constexpr float power_of_two(int exponent) noexcept {
  return std::bit_cast<float>(static_cast<std::uint32_t>(exponent + 127) << 23);
}

/// What the low `width` bits of a code mean: exact.
[[nodiscard]] constexpr float decode(const SmallFloat& format, std::uint8_t code) noexcept {
  const int sign_bit = 1 << (format.width - 1);
  const bool negative = (code & sign_bit) != 0;
  const int magnitude = code & (sign_bit - 1);
  const float sign = negative ? -1.0f : 1.0f;
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  if (!format.signed_zero && negative && magnitude == 0) return kNaN;
  if (magnitude == format.infinity) return sign * std::numeric_limits<float>::infinity();
  if (magnitude > format.greatest) return negative ? -kNaN : kNaN;
  const int exponent = magnitude >> format.fraction;
  const int fraction = magnitude & ((1 << format.fraction) - 1);
  const int digits = exponent == 0 ? fraction : fraction + (1 << format.fraction);
  const int scale = (exponent == 0 ? 1 : exponent) - format.bias - format.fraction;
  return sign * static_cast<float>(digits) * power_of_two(scale);
}

/// The nearest number's code, of two the even one. What rounds to more than the greatest number
/// becomes that where `saturate`, else infinity or NaN; float4e2m1 always saturates, and has for
/// NaN the zero of the other sign, as in ml_dtypes.
[[nodiscard]] constexpr std::uint8_t encode(const SmallFloat& format, float value,
                                            bool saturate) noexcept {
  const std::uint32_t word = std::bit_cast<std::uint32_t>(value);
  const int sign_bit = 1 << (format.width - 1);
  const int sign = (word >> 31) != 0 ? sign_bit : 0;
  const std::uint32_t absolute = word & 0x7fffffffu;
  int nan = sign | (format.infinity >= 0 ? format.infinity + 2 : sign_bit - 1);
  if (!format.signed_zero) nan = sign_bit;
  if (!format.has_nan) nan = sign ^ sign_bit;
  if (absolute > 0x7f800000u) return static_cast<std::uint8_t>(nan);

  const int exponent = static_cast<int>(absolute >> 23) - 127;
  int magnitude = sign_bit;  // more than any number
  if (exponent < 40) {
    const int least = 1 - format.bias;
    const int scale = exponent < least ? least : exponent;
    // Adding 2^23 rounds to a multiple of the last place.
    const float places = std::bit_cast<float>(absolute) * power_of_two(format.fraction - scale);
    magnitude = static_cast<int>((places + 0x1p23f) - 0x1p23f);
    if (exponent >= least) magnitude += (exponent - least) << format.fraction;
  }
  if (magnitude > format.greatest) {
    if (saturate || !format.has_nan) magnitude = format.greatest;
    else if (format.infinity >= 0) magnitude = format.infinity;
    else return static_cast<std::uint8_t>(nan);
  }
  if (magnitude == 0 && !format.signed_zero) return 0;
  return static_cast<std::uint8_t>(sign | magnitude);
}

/// How a float that is no power of two becomes a float8e8m0.
enum class ScaleRounding : std::uint8_t { up, down, nearest };

/// 2^(code - 127); NaN for 255.
[[nodiscard]] constexpr float decode_e8m0(std::uint8_t code) noexcept {
  if (code == 255) return std::numeric_limits<float>::quiet_NaN();
  return code == 0 ? 0x1p-127f : power_of_two(code - 127);
}

/// NaN and negative numbers become NaN. Where `saturate`, what lies outside [2^-127, 2^127], zero
/// and infinity among it, becomes the nearer end, else NaN. `nearest` rounds ties up.
[[nodiscard]] constexpr std::uint8_t encode_e8m0(float value, ScaleRounding rounding,
                                                 bool saturate) noexcept {
  constexpr std::uint8_t kNaN = 255;
  if (value != value || value < 0) return kNaN;
  if (value < 0x1p-127f) return saturate ? 0 : kNaN;
  const std::uint32_t word = std::bit_cast<std::uint32_t>(value);
  int code = static_cast<int>(word >> 23);
  std::uint32_t fraction = word & 0x7fffffu;
  if (code == 0) fraction = (fraction & 0x3fffffu) << 1;  // denormal: at least 2^-127
  const bool exact = fraction == 0;
  const bool half = fraction >= 0x400000u;
  if (code != 255 && !exact &&
      (rounding == ScaleRounding::up || (rounding == ScaleRounding::nearest && half))) {
    ++code;
  }
  if (code == 255) return saturate ? 254 : kNaN;
  return static_cast<std::uint8_t>(code);
}

/// A float on the way to fewer bits: toward zero, and the last bit set where that loses something,
/// so that rounding it again gives what rounding `value` would.
[[nodiscard]] constexpr float round_to_odd(double value) noexcept {
  if (value != value) return static_cast<float>(value);
  constexpr double kGreatest = std::numeric_limits<float>::max();
  if (value > kGreatest || value < -kGreatest) {
    const bool infinite = value - value != 0;
    const auto greatest = std::numeric_limits<float>::max();  // its last bit is set
    const float magnitude = infinite ? std::numeric_limits<float>::infinity() : greatest;
    return value < 0 ? -magnitude : magnitude;
  }
  const auto nearest = static_cast<float>(value);
  if (static_cast<double>(nearest) == value) return nearest;
  const double distance = value < 0 ? -value : value;
  const double reached = nearest < 0 ? -static_cast<double>(nearest) : nearest;
  std::uint32_t word = std::bit_cast<std::uint32_t>(nearest);
  if (reached > distance) --word;
  return std::bit_cast<float>(word | 1u);
}

}  // namespace moptcore::inline v0::graph

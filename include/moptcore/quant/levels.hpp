// SPDX-License-Identifier: Apache-2.0
// Few levels that are not evenly spaced integers, their best scales, and 16-bit floats.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include <moptcore/core/export.hpp>
#include <moptcore/core/tensor_view.hpp>

namespace moptcore::inline v0::quant {

/// x as -scale or scale, whichever is nearer; 0 becomes scale. NaN stays NaN.
template <std::floating_point T>
[[nodiscard]] T binarize(T x, float scale) noexcept {
  if (std::isnan(x)) return x;
  return static_cast<T>(x < T(0) ? -scale : scale);
}

/// x as the nearest of 0 and +-scale * 2^-k, k = 0 .. count - 1: nearest on the line of numbers,
/// not of exponents, ties to the larger magnitude. Never -0. NaN stays NaN.
template <std::floating_point T>
[[nodiscard]] T nearest_power_of_two(T x, float scale, int count) noexcept {
  if (std::isnan(x)) return x;
  // Thresholds have few digits: in double they are exact.
  const double magnitude = std::abs(static_cast<double>(x));
  const auto top = static_cast<double>(scale);
  const double least = std::ldexp(1.0, 1 - count);
  if (magnitude < 0.5 * least * top) return T(0);
  double level = 1.0;
  if (magnitude < top) {
    level = std::max(std::ldexp(1.0, std::ilogb(magnitude / top)), least);
    if (level < 1.0 && magnitude >= 1.5 * level * top) level *= 2.0;
    if (level > least && magnitude < 0.75 * level * top) level *= 0.5;
  }
  return static_cast<T>(std::copysign(level * top, static_cast<double>(x)));
}

/// The levels of fake_quantize_levels.
struct Levels {
  int powers = 0;  ///< 0: {-scale, scale}; else 0 and +-scale * 2^-k for k < powers, at most 100
};

/// Rounds every element of `src` to its nearest level, into `dst` (same dtype and shape, may be
/// `src`). `scale` has one element, or one for each index of `axis`. `bits` is empty or has
/// bit_bytes(n) bytes: bit i is 1 where the gradient passes straight through, |x| <= 2 * scale for
/// two levels (each level's cell is as wide as their distance), |x| <= 1.5 * scale for powers of
/// two (half the last gap beyond the last level). Throws NonFiniteError before writing where a
/// value is NaN.
MOPTCORE_API void fake_quantize_levels(const AnyView& src, std::span<const float> scale,
                                       std::optional<std::int64_t> axis, Levels levels,
                                       const MutableAnyView& dst,
                                       std::span<std::uint8_t> bits = {});

enum class ScaleRule : std::uint8_t {
  binary,   ///< mean |x|, the least squared error with +-scale (Rastegari et al., XNOR-Net, 2016)
  ternary,  ///< the least squared error with {-scale, 0, scale}: of the k largest |x| with the
            ///< greatest (sum |x|)^2 / k their mean, all k tried
  twn,      ///< the mean of |x| > 0.7 mean |x| (Li et al., Ternary Weight Networks, 2016)
};

/// The scale of all elements, or one for each index of `axis`; 1 where all are 0. In double,
/// O(n log n) for ternary. Throws NonFiniteError where a value is not finite.
[[nodiscard]] MOPTCORE_API std::vector<float> level_scale(const AnyView& x, ScaleRule rule,
                                                          std::optional<std::int64_t> axis);

enum class Overflow : std::uint8_t {
  error,     ///< throws NonFiniteError before anything is written
  saturate,  ///< the largest finite number of the dtype, with the sign
  infinity,  ///< IEEE 754
};

/// Converts every element of `src` (any floating dtype) to float16 or bfloat16, `dst`'s dtype, with
/// one rounding, half to even. `overflow` is for finite values that round to infinity; NaN and
/// infinities stay what they are, but with Overflow::error they throw too.
MOPTCORE_API void cast(const AnyView& src, const MutableAnyView& dst,
                       Overflow overflow = Overflow::error);

}  // namespace moptcore::inline v0::quant

// SPDX-License-Identifier: Apache-2.0
// Few levels that are not evenly spaced integers, their best scales, and 16-bit floats.
#pragma once

#include <algorithm>
#include <bit>
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

namespace detail {

/// 2^-k, 0 <= k <= 1022.
[[nodiscard]] constexpr double inverse_power(int k) noexcept {
  return std::bit_cast<double>(static_cast<std::uint64_t>(1023 - k) << 52);
}

}  // namespace detail

/// The code of binarize: -1 or 1. NaN has 0.
template <std::floating_point T>
[[nodiscard]] int binary_code(T x) noexcept {
  if (std::isnan(x)) return 0;
  return x < T(0) ? -1 : 1;
}

/// The code of nearest_power_of_two: 0 for 0, k + 1 with the sign of x for +-scale * 2^-k. NaN has
/// 0.
template <std::floating_point T>
[[nodiscard]] int power_of_two_code(T x, float scale, int count) noexcept {
  if (std::isnan(x)) return 0;
  // Thresholds have few digits: in double they are exact.
  const double magnitude = std::abs(static_cast<double>(x));
  const auto top = static_cast<double>(scale);
  if (magnitude < 0.5 * detail::inverse_power(count - 1) * top) return 0;
  int k = 0;
  if (magnitude < top) {
    k = std::min(-std::ilogb(magnitude / top), count - 1);
    if (k > 0 && magnitude >= 1.5 * detail::inverse_power(k) * top) --k;
    if (k < count - 1 && magnitude < 0.75 * detail::inverse_power(k) * top) ++k;
  }
  return x < T(0) ? -k - 1 : k + 1;
}

/// What a code of either kind stands for: sign(code) * scale * 2^(1 - |code|), 0 for 0. Never -0.
template <std::floating_point T = float>
[[nodiscard]] T level_of(int code, float scale) noexcept {
  if (code == 0) return T(0);
  const double level = detail::inverse_power(std::abs(code) - 1) * static_cast<double>(scale);
  // Levels below the least float vanish; adding +0 makes -0 a +0.
  return static_cast<T>(code < 0 ? -level : level) + T(0);
}

/// x as the nearest of 0 and +-scale * 2^-k, k = 0 .. count - 1: nearest on the line of numbers,
/// not of exponents, ties to the larger magnitude. Never -0. NaN stays NaN.
template <std::floating_point T>
[[nodiscard]] T nearest_power_of_two(T x, float scale, int count) noexcept {
  if (std::isnan(x)) return x;
  return level_of<T>(power_of_two_code(x, scale, count), scale);
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

/// The largest magnitude of a code.
inline constexpr int kMaxLevelCode = 100;

/// Writes binary_code (levels.powers 0) or power_of_two_code of every element of `src` into `dst`,
/// int8 of the same shape. Throws NonFiniteError before writing where a value is NaN.
MOPTCORE_API void quantize_levels(const AnyView& src, std::span<const float> scale,
                                  std::optional<std::int64_t> axis, Levels levels,
                                  const MutableAnyView& dst);

/// Writes level_of every code of `src`, int8, into `dst`, any floating dtype: computed in double
/// for float64, else in float. In the dtype of x that is fake_quantize_levels, bit for bit. Throws
/// Error before writing where a code is beyond +-kMaxLevelCode.
MOPTCORE_API void dequantize_levels(const AnyView& src, std::span<const float> scale,
                                    std::optional<std::int64_t> axis, const MutableAnyView& dst);

enum class ScaleRule : std::uint8_t {
  binary,   ///< mean |x|, the least squared error with +-scale (Rastegari et al., XNOR-Net, 2016)
  ternary,  ///< the least squared error with {-scale, 0, scale}: of the k largest |x| with the
            ///< greatest (sum |x|)^2 / k their mean, all k tried
  twn,      ///< the mean of |x| > 0.7 mean |x| (Li et al., Ternary Weight Networks, 2016)
};

/// The scale of all elements, or one for each index of `axis`; 1 where all are 0. Summed in double;
/// ternary sorts a few of the elements. Throws NonFiniteError where a value is not finite.
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

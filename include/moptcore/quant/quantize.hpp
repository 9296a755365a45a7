// SPDX-License-Identifier: Apache-2.0
// Real numbers to integers and back.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdint>

#include <moptcore/core/export.hpp>
#include <moptcore/core/qparams.hpp>
#include <moptcore/core/tensor_view.hpp>
#include <moptcore/quant/compat.hpp>

namespace moptcore::inline v0::quant {

/// x in steps of the scale, rounded but not yet saturated:
///   none: rint(x / scale)   torch: rint(x * (1.0f / scale))   tflite: round(x / scale),
/// where torch is fake quantization: torch's quantize has another rounding, see quantize. rint to
/// even at ties, round away from zero. Integers count from the zero point. float values are
/// computed in float, double ones in double; NaN stays NaN.
template <std::floating_point T>
[[nodiscard]] T steps(T x, const Grid& grid, Compat compat = Compat::none) noexcept {
  if (compat == Compat::torch) return std::nearbyint(x * static_cast<T>(1.0f / grid.scale));
  const T quotient = x / static_cast<T>(grid.scale);
  return compat == Compat::tflite ? std::round(quotient) : std::nearbyint(quotient);
}

/// The integer for x: clamp(steps(x) + zero_point, qmin, qmax), saturated before the cast. NaN
/// becomes zero_point.
///
/// Compat::torch: clamp(rint(x * (1.0f / scale) + zero_point), qmin, qmax), the integers of
/// torch.quantize_per_tensor, which adds with one rounding for both operations (a fused
/// multiply-add), or with `along_axis` those of torch.quantize_per_channel, which rounds the
/// product and then the sum. At ties they may be one beside those of torch.fake_quantize_*, whose
/// zero point is added after rounding. NaN, which torch leaves undefined, becomes qmin.
template <std::floating_point T>
[[nodiscard]] std::int32_t quantize(T x, const Grid& grid, Compat compat = Compat::none,
                                    bool along_axis = false) noexcept {
  if (compat == Compat::torch) {
    const T factor = static_cast<T>(1.0f / grid.scale);
    const T zero = static_cast<T>(grid.zero_point);
    const T product = x * factor;
    const T v = std::nearbyint(along_axis ? product + zero : std::fma(x, factor, zero));
    if (std::isnan(v)) return grid.qmin;
    return static_cast<std::int32_t>(
        std::clamp(v, static_cast<T>(grid.qmin), static_cast<T>(grid.qmax)));
  }
  const T r = steps(x, grid, compat);
  if (std::isnan(r)) return grid.zero_point;
  const T low = static_cast<T>(grid.qmin - grid.zero_point);
  const T high = static_cast<T>(grid.qmax - grid.zero_point);
  return static_cast<std::int32_t>(std::clamp(r, low, high)) + grid.zero_point;
}

/// The real number for q: (q - zero_point) * scale, one rounding in float (exact in double).
template <std::floating_point T = float>
[[nodiscard]] T dequantize(std::int32_t q, const Grid& grid) noexcept {
  return static_cast<T>(q - grid.zero_point) * static_cast<T>(grid.scale);
}

/// Quantizes every element of `src` (any floating dtype, any strides) into `dst`: the dtype of
/// `params`, or int8 for int4 and uint8 for uint4 to get one element a byte. float64 is computed
/// in double, everything else in float. NonFinite::propagate has no meaning here and throws.
/// Throws Error, DTypeError or NonFiniteError before writing.
MOPTCORE_API void quantize(const AnyView& src, const QParams& params, const MutableAnyView& dst,
                           NonFinite nonfinite = NonFinite::error, Compat compat = Compat::none);

/// Dequantizes every element of `src` (the dtype of `params`, or int8 and uint8 for the 4-bit
/// ones) into `dst`, any floating dtype: computed in double for float64, else in float.
MOPTCORE_API void dequantize(const AnyView& src, const QParams& params, const MutableAnyView& dst);

}  // namespace moptcore::inline v0::quant

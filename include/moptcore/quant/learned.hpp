// SPDX-License-Identifier: Apache-2.0
// Quantization whose grid is trained with the network: LSQ, LSQ+ and PACT, with all gradients.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>
#include <optional>

#include <moptcore/core/export.hpp>
#include <moptcore/core/tensor_view.hpp>

namespace moptcore::inline v0::quant {

/// A grid of positions [low, high], `scale` apart, the position 0 at `offset`.
template <std::floating_point T>
struct LearnedGrid {
  T scale = 1;
  T low = -128;
  T high = 127;
  T offset = 0;
};

/// y = clamp(rint((x - offset) / scale), low, high) * scale + offset. NaN stays NaN.
template <std::floating_point T>
[[nodiscard]] T lsq(T x, const LearnedGrid<T>& grid) noexcept {
  const T r = std::nearbyint((x - grid.offset) / grid.scale);
  if (std::isnan(r)) return std::numeric_limits<T>::quiet_NaN();
  return (std::clamp(r, grid.low, grid.high) + T(0)) * grid.scale + grid.offset;
}

/// d y / d x, d y / d scale and d y / d offset of one element.
template <std::floating_point T>
struct LearnedGradient {
  T x = 0;
  T scale = 0;
  T offset = 0;
};

/// The gradient of lsq with rounding taken for the identity. With v = (x - offset) / scale:
/// where rint(v) lies in [low, high]: 1, rint(v) - v, 0; where it is saturated at the bound b:
/// 0, b, 1. All 0 for NaN.
template <std::floating_point T>
[[nodiscard]] LearnedGradient<T> lsq_gradient(T x, const LearnedGrid<T>& grid) noexcept {
  const T v = (x - grid.offset) / grid.scale;
  if (std::isnan(v)) return {};
  const T r = std::nearbyint(v);
  const T bound = std::clamp(r, grid.low, grid.high);
  if (r == bound) return {T(1), r - v, T(0)};
  return {T(0), bound, T(1)};
}

struct LsqOptions {
  /// What `shift` is: an integer of the grid, rounded half to even and clamped to [qmin, qmax]
  /// (alike forward and backward), or LSQ+'s real offset.
  enum class Shift : std::uint8_t { zero_point, offset };

  std::int32_t qmin = -128;
  std::int32_t qmax = 127;
  std::optional<std::int64_t> axis = std::nullopt;  ///< none: one grid
  Shift shift = Shift::zero_point;
  /// Factor of the gradients of scale and shift; none: 1 / sqrt(n qmax) with n the elements that
  /// share a scale (qmax counts as 1 where it is smaller).
  std::optional<double> grad_scale = std::nullopt;
};

/// LSQ (Esser et al. 2020, section 2.1) and LSQ+ (Bhalgat et al. 2020, section 3):
///   zero_point z: y = (clamp(rint(x / scale) + z, qmin, qmax) - z) * scale
///   offset b:     y = clamp(rint((x - b) / scale), qmin, qmax) * scale + b
/// for every element of x (any floating dtype and strides) into `dst` of its dtype and shape,
/// which may be x. `scale` and `shift` (none: 0) are floating: one number, or one for each index
/// of the axis; computed in double for float64, else in float. Throws Error or DTypeError before
/// writing where a scale is not finite and > 0, a shift not finite, or a shape does not fit.
MOPTCORE_API void lsq(const AnyView& x, const AnyView& scale, const std::optional<AnyView>& shift,
                      const MutableAnyView& dst, const LsqOptions& options = {});

/// The gradients of lsq, one pass: d loss / d x into `dst` (x's dtype and shape; may be grad or
/// x), d loss / d scale and d loss / d shift into arrays of scale's and shift's shapes. A
/// saturated x gives -scale to a zero point and 1 to an offset; clamping of a zero point passes
/// its gradient. Sums are in double, with the same bits at any thread count.
MOPTCORE_API void lsq_backward(const AnyView& grad, const AnyView& x, const AnyView& scale,
                               const std::optional<AnyView>& shift, const MutableAnyView& dst,
                               const MutableAnyView& scale_grad,
                               const std::optional<MutableAnyView>& shift_grad,
                               const LsqOptions& options = {});

struct PactOptions {
  int bits = 8;                                     ///< 1 to 16
  std::optional<std::int64_t> axis = std::nullopt;  ///< none: one level
};

/// PACT (Choi et al. 2018, section 3): x clipped to [0, alpha], in 2^bits - 1 steps:
///   y = rint(clamp(x, 0, alpha) / s) s,  s = alpha / (2^bits - 1).
/// `alpha`: finite, > 0, one number or one for each index of the axis. As lsq otherwise.
MOPTCORE_API void pact(const AnyView& x, const AnyView& alpha, const MutableAnyView& dst,
                       const PactOptions& options = {});

/// The gradients of pact: grad where 0 <= x < alpha into `dst`; into `alpha_grad` the sum of grad
/// where x >= alpha.
MOPTCORE_API void pact_backward(const AnyView& grad, const AnyView& x, const AnyView& alpha,
                                const MutableAnyView& dst, const MutableAnyView& alpha_grad,
                                const PactOptions& options = {});

}  // namespace moptcore::inline v0::quant

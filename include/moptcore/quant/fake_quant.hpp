// SPDX-License-Identifier: Apache-2.0
// Quantization seen by training: round to the grid, stay a real number, pass gradients straight
// through inside the range.
#pragma once

#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>
#include <span>

#include <moptcore/core/export.hpp>
#include <moptcore/core/qparams.hpp>
#include <moptcore/core/tensor_view.hpp>
#include <moptcore/quant/compat.hpp>
#include <moptcore/quant/quantize.hpp>

namespace moptcore::inline v0::quant {

/// dequantize(clamp(steps(x) + zero_point, qmin, qmax)), bit for bit; never -0. That is
/// dequantize(quantize(x)) but with Compat::torch, whose quantize rounds differently. NaN stays
/// NaN, with Compat::torch it becomes the value of qmin.
template <std::floating_point T>
[[nodiscard]] T fake_quantize(T x, const Grid& grid, Compat compat = Compat::none) noexcept {
  if (compat != Compat::torch) {
    if (std::isnan(x)) return std::numeric_limits<T>::quiet_NaN();
    return dequantize<T>(quantize(x, grid, compat), grid);
  }
  const T low = static_cast<T>(grid.qmin - grid.zero_point);
  const T high = static_cast<T>(grid.qmax - grid.zero_point);
  const T r = steps(x, grid, compat);
  const T position = std::isnan(r) ? low : std::clamp(r, low, high);
  // torch multiplies in float even where x is a double. Adding +0 makes -0 a +0.
  return static_cast<T>(static_cast<float>(position + T(0)) * grid.scale);
}

/// True where the gradient passes (straight-through estimator): x rounds to an integer in
/// [qmin, qmax] without being saturated. False for NaN and infinities.
template <std::floating_point T>
[[nodiscard]] bool passes_gradient(T x, const Grid& grid, Compat compat = Compat::none) noexcept {
  const T r = steps(x, grid, compat);
  return r >= static_cast<T>(grid.qmin - grid.zero_point) &&
         r <= static_cast<T>(grid.qmax - grid.zero_point);
}

/// Bytes of the packed pass-through mask of n elements.
[[nodiscard]] constexpr std::int64_t bit_bytes(std::int64_t n) noexcept { return (n + 7) / 8; }

/// Fake-quantizes `src` into `dst` (same dtype and shape; any floating dtype and strides; may be
/// `src` itself). `bits` is empty or has bit_bytes(n) bytes: bit i % 8 of byte i / 8 becomes
/// passes_gradient of the i-th element in row-major order, unused bits 0. NaN follows
/// `nonfinite`; with Compat::torch it always becomes the value of qmin. Compat::torch equals
/// torch.fake_quantize_per_tensor_affine and _per_channel_affine, but saturates where the latter
/// overflows (|x / scale| >= 2^63, infinities). Errors name `where`.
MOPTCORE_API void fake_quantize(const AnyView& src, const GridView& grids,
                                const MutableAnyView& dst, std::span<std::uint8_t> bits = {},
                                NonFinite nonfinite = NonFinite::propagate,
                                Compat compat = Compat::none,
                                const char* where = "quant.fake_quantize");

/// The gradient of fake_quantize: `grad` where the bit is set, +0 elsewhere (also for NaN).
/// `dst` has the dtype and shape of `grad` and may be `grad` itself.
MOPTCORE_API void fake_quantize_backward(const AnyView& grad, std::span<const std::uint8_t> bits,
                                         const MutableAnyView& dst);

}  // namespace moptcore::inline v0::quant

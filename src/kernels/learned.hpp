// SPDX-License-Identifier: Apache-2.0
// Quantization whose grid is learned: values, and the gradients of x and of the grid in one pass.
#pragma once

#include <cstdint>

#include <moptcore/core/dtype.hpp>

#include "kernels/grid.hpp"

namespace moptcore::inline v0::kernels {

/// What the gradient is of.
enum class Learned : std::uint8_t {
  step,  ///< scale and offset: GridStep::zero is the offset, a real number that is added
  clip,  ///< a clipping level: GridStep::high is that level, the range is [0, level)
};

/// Sums over elements: of d y / d scale (or level) and of d y / d offset, each times grad.
struct LearnedSums {
  double scale = 0.0;
  double offset = 0.0;
};

/// dst = clamp(rint((src - offset) / factor), low, high) * scale + offset; NaN stays NaN. With
/// `stream`, dst is a multiple of 16 bytes and written past the caches: see stream_fence.
void learned_f32(const float* src, std::int64_t n, const GridStep<float>& grid, float* dst,
                 bool stream = false) noexcept;
void learned_f32(const float* src, std::int64_t n, const GridTable<float>& grids, float* dst,
                 bool stream = false) noexcept;
void learned_f16(const float16* src, std::int64_t n, const GridStep<float>& grid, float16* dst,
                 bool stream = false) noexcept;
void learned_f16(const float16* src, std::int64_t n, const GridTable<float>& grids, float16* dst,
                 bool stream = false) noexcept;
void learned_bf16(const bfloat16* src, std::int64_t n, const GridStep<float>& grid, bfloat16* dst,
                  bool stream = false) noexcept;
void learned_bf16(const bfloat16* src, std::int64_t n, const GridTable<float>& grids, bfloat16* dst,
                  bool stream = false) noexcept;
void learned_f64(const double* src, std::int64_t n, const GridStep<double>& grid, double* dst,
                 bool stream = false) noexcept;
void learned_f64(const double* src, std::int64_t n, const GridTable<double>& grids, double* dst,
                 bool stream = false) noexcept;

/// dst = the gradient by src. Terms are added in 16 lanes over runs of 1024 elements, the runs in
/// double: equal bits on every CPU. `stream`: see above.
[[nodiscard]] LearnedSums learned_backward_f32(const float* grad, const float* src, std::int64_t n,
                                               const GridStep<float>& grid, Learned what,
                                               float* dst, bool stream = false) noexcept;
[[nodiscard]] LearnedSums learned_backward_f16(const float16* grad, const float16* src,
                                               std::int64_t n, const GridStep<float>& grid,
                                               Learned what, float16* dst,
                                               bool stream = false) noexcept;
[[nodiscard]] LearnedSums learned_backward_bf16(const bfloat16* grad, const bfloat16* src,
                                                std::int64_t n, const GridStep<float>& grid,
                                                Learned what, bfloat16* dst,
                                                bool stream = false) noexcept;
[[nodiscard]] LearnedSums learned_backward_f64(const double* grad, const double* src,
                                               std::int64_t n, const GridStep<double>& grid,
                                               Learned what, double* dst,
                                               bool stream = false) noexcept;

/// The same with a grid for each element: adds element i's terms to scale[i] and offset[i].
void learned_backward_f32(const float* grad, const float* src, std::int64_t n,
                          const GridTable<float>& grids, Learned what, float* dst, double* scale,
                          double* offset) noexcept;
void learned_backward_f64(const double* grad, const double* src, std::int64_t n,
                          const GridTable<double>& grids, Learned what, double* dst, double* scale,
                          double* offset) noexcept;

}  // namespace moptcore::inline v0::kernels

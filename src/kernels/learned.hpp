// SPDX-License-Identifier: Apache-2.0
// Quantization whose grid is learned: values, and the gradients of x and of the grid in one pass.
#pragma once

#include <cstdint>

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

/// dst = clamp(rint((src - offset) / factor), low, high) * scale + offset; NaN stays NaN.
void learned_f32(const float* src, std::int64_t n, const GridStep<float>& grid,
                 float* dst) noexcept;
void learned_f32(const float* src, std::int64_t n, const GridTable<float>& grids,
                 float* dst) noexcept;
void learned_f64(const double* src, std::int64_t n, const GridStep<double>& grid,
                 double* dst) noexcept;
void learned_f64(const double* src, std::int64_t n, const GridTable<double>& grids,
                 double* dst) noexcept;

/// dst = the gradient by src. Terms are added in 16 lanes over runs of 1024 elements, the runs in
/// double: equal bits on every CPU.
[[nodiscard]] LearnedSums learned_backward_f32(const float* grad, const float* src, std::int64_t n,
                                               const GridStep<float>& grid, Learned what,
                                               float* dst) noexcept;
[[nodiscard]] LearnedSums learned_backward_f64(const double* grad, const double* src,
                                               std::int64_t n, const GridStep<double>& grid,
                                               Learned what, double* dst) noexcept;

/// The same with a grid for each element: adds element i's terms to scale[i] and offset[i].
void learned_backward_f32(const float* grad, const float* src, std::int64_t n,
                          const GridTable<float>& grids, Learned what, float* dst, double* scale,
                          double* offset) noexcept;
void learned_backward_f64(const double* grad, const double* src, std::int64_t n,
                          const GridTable<double>& grids, Learned what, double* dst, double* scale,
                          double* offset) noexcept;

}  // namespace moptcore::inline v0::kernels

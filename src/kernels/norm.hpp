// SPDX-License-Identifier: Apache-2.0
// Sums and maxima of magnitudes. Element i goes to virtual lane i % 16 and the lanes are combined
// as a tree, whatever the vector length, so the bits of the result do not depend on it.
#pragma once

#include <cstdint>

#include <moptcore/core/export.hpp>

namespace moptcore::inline v0::kernels {

/// Sum of |x|; 0 for n = 0.
double sum_magnitudes_f32(const float* src, std::int64_t n) noexcept;
double sum_magnitudes_f64(const double* src, std::int64_t n) noexcept;

/// Sum of x * x, in double.
MOPTCORE_API double sum_squares_f32(const float* src, std::int64_t n) noexcept;
double sum_squares_f64(const double* src, std::int64_t n) noexcept;

/// Largest |x|; NaN where there is one.
MOPTCORE_API double max_magnitude_f32(const float* src, std::int64_t n) noexcept;
double max_magnitude_f64(const double* src, std::int64_t n) noexcept;

}  // namespace moptcore::inline v0::kernels

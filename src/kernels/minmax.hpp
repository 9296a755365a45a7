// SPDX-License-Identifier: Apache-2.0
// Smallest and largest values, and whether all are finite.
#pragma once

#include <cstdint>
#include <limits>

namespace moptcore::inline v0::kernels {

/// Over the finite values; min > max where there is none. Zeros are +0.
template <class T>
struct MinMax {
  T min = std::numeric_limits<T>::infinity();
  T max = -std::numeric_limits<T>::infinity();
  bool finite = true;  ///< no NaN or infinity was met
};

[[nodiscard]] MinMax<float> min_max_f32(const float* src, std::int64_t n) noexcept;
[[nodiscard]] MinMax<double> min_max_f64(const double* src, std::int64_t n) noexcept;

/// For each of `rows` rows of n values that follow each other: mins[i] = min(mins[i], src[i]) and
/// maxs[i] likewise where src[i] is finite; false where a NaN or infinity was met.
[[nodiscard]] bool min_max_update_f32(const float* src, std::int64_t rows, std::int64_t n,
                                      float* mins, float* maxs) noexcept;
[[nodiscard]] bool min_max_update_f64(const double* src, std::int64_t rows, std::int64_t n,
                                      double* mins, double* maxs) noexcept;

[[nodiscard]] bool has_nan_f32(const float* src, std::int64_t n) noexcept;
[[nodiscard]] bool has_nan_f64(const double* src, std::int64_t n) noexcept;

}  // namespace moptcore::inline v0::kernels

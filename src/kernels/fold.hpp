// SPDX-License-Identifier: Apache-2.0
// Many floats made one: sums in double, greatest and least ones. Element i of a row goes to lane
// i % 16 and the lanes are combined as a tree, so that the bits do not depend on the CPU.
#pragma once

#include <cstdint>

namespace moptcore::inline v0::kernels {

enum class Sum : std::uint8_t { values, squares, magnitudes };
enum class Extreme : std::uint8_t { greatest, least };

inline constexpr std::int64_t kFoldLanes = 16;

/// lanes[i % 16] += what `sum` makes of x[i].
void sum_lanes_f32(Sum sum, const float* x, std::int64_t n, double* lanes) noexcept;

/// sums[i] of row i of n elements; rows follow each other.
void sum_rows_f32(Sum sum, const float* x, std::int64_t rows, std::int64_t n,
                  double* sums) noexcept;

/// For each of `rows` rows, `stride` apart: sums[j] += what `sum` makes of its element j < n.
void sum_columns_f32(Sum sum, const float* x, std::int64_t rows, std::int64_t stride,
                     std::int64_t n, double* sums) noexcept;

/// The extreme of each row; NaN where there is one. n > 0.
void extreme_rows_f32(Extreme extreme, const float* x, std::int64_t rows, std::int64_t n,
                      float* extremes) noexcept;

/// For each of `rows` rows, `stride` apart: extremes[j] becomes its element j < n where that is
/// farther out or NaN.
void extreme_columns_f32(Extreme extreme, const float* x, std::int64_t rows, std::int64_t stride,
                         std::int64_t n, float* extremes) noexcept;

}  // namespace moptcore::inline v0::kernels

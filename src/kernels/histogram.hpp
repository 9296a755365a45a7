// SPDX-License-Identifier: Apache-2.0
// Counts of values on a grid whose width is a power of two.
#pragma once

#include <cstdint>

namespace moptcore::inline v0::kernels {

/// 2^-exponent as the product of two floats, which both exist for exponents in [-149, 128].
struct BinGrid {
  float factor1 = 1.0f;
  float factor2 = 1.0f;
  float first = 0.0f;     ///< a whole number, the bin of the smallest value
  std::int32_t bins = 0;  ///< what values that are not finite become
  bool is_exact = false;  ///< factor2 is 1, and no product with factor1 loses a digit
};

/// Tables of counts that count_f32 fills in turn, because equal values that follow each other
/// would wait for each other's stores.
inline constexpr std::int64_t kCountTables = 4;

/// Adds 1 for each value to element floor(src[i] * factor1 * factor2) - first, which must be in
/// [0, bins), or to element `bins` where src[i] is not finite, of one of kCountTables tables of
/// bins + 1 elements each that follow each other. `finite` says that all values are known to be.
void count_f32(const float* src, std::int64_t n, const BinGrid& grid, bool finite,
               std::uint32_t* tables) noexcept;

}  // namespace moptcore::inline v0::kernels

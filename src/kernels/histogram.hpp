// SPDX-License-Identifier: Apache-2.0
// The bins of values on a grid whose width is a power of two.
#pragma once

#include <cstdint>

namespace moptcore::inline v0::kernels {

/// 2^-exponent as the product of two floats, which both exist for exponents in [-149, 128].
struct BinGrid {
  float factor1 = 1.0f;
  float factor2 = 1.0f;
  float first = 0.0f;     ///< a whole number, the bin of the smallest value
  std::int32_t bins = 0;  ///< what values that are not finite become
};

/// dst[i] = floor(src[i] * factor1 * factor2) - first, in [0, bins) where src[i] is finite and not
/// below the smallest value.
void bin_f32(const float* src, std::int64_t n, const BinGrid& grid, std::int32_t* dst) noexcept;

}  // namespace moptcore::inline v0::kernels

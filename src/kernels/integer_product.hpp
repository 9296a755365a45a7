// SPDX-License-Identifier: Apache-2.0
// A matrix product of 16-bit integers, exact but for wrapping around.
#pragma once

#include <cstdint>

#include "kernels/product.hpp"

namespace moptcore::inline v0::kernels {

/// c[i][j] += sum_k a[i][k] b[k][j] modulo 2^32 for an m x n block of c, whose columns are
/// contiguous, as are those of a. No element of a or b is -2^15.
void product_i16(std::int64_t m, std::int64_t n, std::int64_t depth,
                 const Matrix<const std::int16_t>& a, const Matrix<const std::int16_t>& b,
                 const Matrix<std::int32_t>& c) noexcept;

}  // namespace moptcore::inline v0::kernels

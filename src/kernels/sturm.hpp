// SPDX-License-Identifier: Apache-2.0
// How many eigenvalues of a symmetric tridiagonal matrix lie below given values.
#pragma once

#include <cstdint>

namespace moptcore::inline v0::kernels {

/// counts[k] = eigenvalues below values[k], for `count` of them, of the matrix with `diagonal` [n]
/// and the squares of what stands beside it, squares[i] > 0 between i - 1 and i for i >= 1.
void sturm_counts_f64(const double* diagonal, const double* squares, std::int64_t n,
                      const double* values, std::int64_t count, std::int64_t* counts) noexcept;

}  // namespace moptcore::inline v0::kernels

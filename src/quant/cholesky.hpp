// SPDX-License-Identifier: Apache-2.0
// The Cholesky factor of a dense matrix and its inverse, in blocks whose bits depend neither on the
// number of threads nor on the sizes of caches.
#pragma once

#include <cstdint>
#include <vector>

namespace moptcore::inline v0::quant {

/// Overwrites the lower triangle of the n x n row-major matrix with L, a = L L^T. False where a
/// pivot is not positive and finite; the matrix is then of no use.
[[nodiscard]] bool cholesky(std::vector<double>& a, std::int64_t n);

/// L^-1 of a lower triangular L; zeros above the diagonal.
[[nodiscard]] std::vector<double> invert_lower(const std::vector<double>& l, std::int64_t n);

}  // namespace moptcore::inline v0::quant

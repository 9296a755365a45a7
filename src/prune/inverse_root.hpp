// SPDX-License-Identifier: Apache-2.0
// The triangular root of an inverse matrix.
#pragma once

#include <cstdint>

namespace moptcore::inline v0::prune {

/// Replaces the upper triangle of a symmetric n x n matrix, row-major, by the upper triangular U
/// with U^T U = inverse and a positive diagonal; what is below the diagonal becomes zero. Reads
/// the upper triangle only. Returns the row whose pivot is not positive, or -1. Its bits do not
/// depend on threads or instruction sets.
[[nodiscard]] std::int64_t inverse_root(double* matrix, std::int64_t n);

}  // namespace moptcore::inline v0::prune

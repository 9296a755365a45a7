// SPDX-License-Identifier: Apache-2.0
// The leading singular directions of a large matrix, without those that follow.
#pragma once

#include <cstdint>
#include <optional>

#include "lowrank/matrix.hpp"

namespace moptcore::inline v0::lowrank {

/// The matrix to look at: row-major, each element to be multiplied with a power of two.
struct Leading {
  const float* data;
  std::int64_t rows;
  std::int64_t cols;
  float scale = 1.0F;
};

/// Singular directions of the shorter side, largest first, in orthonormal rows [rank, shorter], and
/// what the matrix makes of them [rank, longer]: directions w^T, or directions w if w is wider than
/// tall.
struct LeadingTerms {
  Matrix<float> directions;
  Matrix<float> images;
};

/// Directions whose projection misses w by at most (1 + tolerance) times what the best of that rank
/// do; `total` is the squared norm of w, scaled. nullopt where float products cannot tell, or where
/// more directions would be needed than make this cheaper than all of them.
///
/// Block Lanczos on w^T w (Golub and Underwood 1977; Musco and Musco, "Randomized block Krylov
/// methods", 2015) from a random start until what further steps would add, extrapolated from what
/// the last ones added, is below the tolerance. The same bits at any number of threads.
[[nodiscard]] std::optional<LeadingTerms> krylov(const Leading& w, double total, std::int64_t rank,
                                                 double tolerance, std::uint64_t seed);

/// Standard normal numbers from `seed`.
[[nodiscard]] Matrix<double> gaussian(std::int64_t rows, std::int64_t cols, std::uint64_t seed);

}  // namespace moptcore::inline v0::lowrank

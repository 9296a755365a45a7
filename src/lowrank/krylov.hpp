// SPDX-License-Identifier: Apache-2.0
// The leading singular directions of a large matrix, without those that follow.
#pragma once

#include <cstdint>
#include <optional>

#include "lowrank/matrix.hpp"

namespace moptcore::inline v0::lowrank {

/// Orthonormal rows u [rank, m], and u w [rank, n].
struct LeadingRows {
  Matrix<float> left;
  Matrix<float> right;
};

/// Directions whose projection misses w by at most (1 + tolerance) times what the best of that rank
/// do; `total` is the squared norm of w. nullopt where float products cannot tell, or where more
/// directions would be needed than make this cheaper than all of them.
///
/// Block Golub-Kahan from a random start (Golub, Luk and Overton 1981; Musco and Musco, "Randomized
/// block Krylov methods", 2015) until what further steps would add, extrapolated from what the last
/// ones added, is below the tolerance. The same bits at any number of threads.
[[nodiscard]] std::optional<LeadingRows> krylov(const Matrix<float>& w, double total,
                                                std::int64_t rank, double tolerance,
                                                std::uint64_t seed);

/// Standard normal numbers from `seed`.
[[nodiscard]] Matrix<double> gaussian(std::int64_t rows, std::int64_t cols, std::uint64_t seed);

}  // namespace moptcore::inline v0::lowrank

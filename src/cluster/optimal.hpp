// SPDX-License-Identifier: Apache-2.0
// The optimum of one-dimensional k-means.
#pragma once

#include <cstdint>
#include <vector>

#include "cluster/points.hpp"

namespace moptcore::inline v0::cluster {

/// Where the clusters of least squared error begin and end: cluster c is points
/// [borders[c], borders[c + 1]), borders.size() == k + 1. 1 <= k <= points.size().
[[nodiscard]] std::vector<std::int64_t> optimal_borders(const Points& points, std::int64_t k);

}  // namespace moptcore::inline v0::cluster

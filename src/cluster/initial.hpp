// SPDX-License-Identifier: Apache-2.0
// Centroids to start from, and Lloyd's iteration from there.
#pragma once

#include <cstdint>
#include <vector>

#include "cluster/points.hpp"

namespace moptcore::inline v0::cluster {

/// k centroids, ascending. `stream` tells groups apart that share a seed.
[[nodiscard]] std::vector<double> linear_centroids(const Points& points, std::int64_t k);
[[nodiscard]] std::vector<double> density_centroids(const Points& points, std::int64_t k);
[[nodiscard]] std::vector<double> random_centroids(const Points& points, std::int64_t k,
                                                   std::uint64_t seed, std::uint64_t stream);
[[nodiscard]] std::vector<double> plus_plus_centroids(const Points& points, std::int64_t k,
                                                      std::uint64_t seed, std::uint64_t stream);

/// Moves sorted centroids by Lloyd's iteration; they stay sorted.
void iterate_lloyd(const Points& points, std::vector<double>& centroids,
                   std::int64_t max_iterations);

}  // namespace moptcore::inline v0::cluster

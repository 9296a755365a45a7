// SPDX-License-Identifier: Apache-2.0
// One-dimensional k-means of very many values, as near to the optimum as asked for.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "cluster/cells.hpp"

namespace moptcore::inline v0::cluster {

/// At most k centroids, ascending, of the values of `cells`, whose sum of squared errors is at most
/// (1 + tolerance) times the least. Divides cells where that is needed. Nothing where that does not
/// help after a few passes over the values.
[[nodiscard]] std::optional<std::vector<double>> approximate_centroids(Cells& cells, std::int64_t k,
                                                                       double tolerance);

}  // namespace moptcore::inline v0::cluster

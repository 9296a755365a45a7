// SPDX-License-Identifier: Apache-2.0
// TFMOT 0.8's initialisations in its own arithmetic: every operation rounds to float32.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include <moptcore/cluster/kmeans.hpp>

namespace moptcore::inline v0::cluster {

/// The seeds that TensorFlow gives to one random operation after the other, run eagerly after
/// tf.random.set_seed(seed): a Mersenne twister as Python seeds and reads it.
class OperationSeeds {
 public:
  explicit OperationSeeds(std::uint64_t seed);

  [[nodiscard]] std::uint32_t global() const noexcept { return global_; }
  [[nodiscard]] std::uint32_t next();

 private:
  std::uint32_t global_;
  std::mt19937 twister_;
};

/// Centroids of a vector of weights, in TFMOT's order. All but `optimal` of Init; groups are to be
/// called one after the other.
[[nodiscard]] std::vector<double> tfmot_centroids(const float* weights, std::int64_t n,
                                                  std::int64_t k, const KMeansOptions& options,
                                                  OperationSeeds& seeds);

}  // namespace moptcore::inline v0::cluster

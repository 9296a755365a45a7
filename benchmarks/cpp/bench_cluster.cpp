// SPDX-License-Identifier: Apache-2.0
#include <moptcore/cluster/cluster.hpp>

#include "isas.hpp"

int main(int argc, char** argv) {
  namespace bench = moptcore::bench;
  namespace cluster = moptcore::cluster;
  constexpr std::int64_t kSize = 1 << 20;
  const auto weights = bench::normal_numbers(kSize);
  std::vector<std::uint8_t> indices(weights.size());
  std::vector<float> values(weights.size());
  cluster::KMeansOptions near;
  near.exact = false;

  for (const std::int64_t k : {16, 32, 256}) {
    const std::string size = '/' + std::to_string(k);
    std::vector<std::uint8_t> assigned(weights.size());
    const cluster::Centroids found = cluster::kmeans(weights, k, assigned, near);
    std::vector<float> centroids(static_cast<std::size_t>(k));
    found.store(centroids);
    bench::on_every_isa("kmeans" + size, kSize, [&, k] {
      benchmark::DoNotOptimize(cluster::kmeans(weights, k, indices, near));
    });
    bench::on_every_isa("assign" + size, kSize,
                        [&, centroids] { cluster::assign(weights, centroids, indices); });
    bench::on_every_isa("lookup" + size, kSize,
                        [&, centroids, assigned] { cluster::lookup(assigned, centroids, values); });
    bench::on_every_isa("centroid_gradient" + size, kSize, [&, k, assigned, centroids]() mutable {
      cluster::centroid_gradient(weights, assigned, k, centroids);
    });
  }
  return bench::run(argc, argv);
}

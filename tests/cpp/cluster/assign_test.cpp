// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/cluster/assign.hpp>
#include <moptcore/core/random.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpp/kernels/every_isa.hpp"
#include "kernels/rank.hpp"

using namespace moptcore;

namespace {

std::vector<float> numbers(std::size_t n, std::uint64_t seed) {
  const Philox philox(seed);
  std::vector<float> values(n);
  for (std::size_t i = 0; i < n; ++i) {
    values[i] = static_cast<float>(static_cast<int>(philox.word(i) % 400) - 200) / 16.0f;
  }
  return values;
}

// Multiples of 1/16 below 16: their differences are exact.
std::size_t nearest(float weight, const std::vector<float>& centroids) {
  std::size_t best = 0;
  for (std::size_t i = 1; i < centroids.size(); ++i) {
    if (std::abs(weight - centroids[i]) < std::abs(weight - centroids[best])) best = i;
  }
  return best;
}

}  // namespace

TEST_CASE("each weight goes to the nearest centroid of the lowest index", "[cluster]") {
  const std::vector<float> weights = numbers(1003, 1);
  tests::with_every_isa([&] {
    for (const std::size_t k : {1u, 2u, 3u, 16u, 33u, 34u, 256u}) {
      const std::vector<float> centroids = numbers(k, k);
      std::vector<std::uint8_t> indices(weights.size());
      cluster::assign(weights, centroids, indices);
      std::vector<std::uint8_t> expected;
      for (const float weight : weights) {
        expected.push_back(static_cast<std::uint8_t>(nearest(weight, centroids)));
      }
      REQUIRE(indices == expected);
    }
  });
}

TEST_CASE("a middle between two doubles that no double holds is still decided", "[cluster]") {
  // 1 and its neighbour: whatever lies at or below the lower one is nearer to it.
  const double low = 1.0;
  const double high = std::nextafter(1.0, 2.0);
  const std::vector<double> weights = {low, high, 0.0, 2.0};
  std::vector<std::uint8_t> indices(4);
  cluster::assign(weights, std::vector<double>{high, low}, indices);
  CHECK(indices == std::vector<std::uint8_t>{1, 0, 1, 0});
  // Distances of which float32 rounds both to 2^30: exactly, the second is nearer.
  const std::vector<float> far = {1073741824.0f};
  std::vector<std::uint8_t> one(1);
  const std::vector<float> close = {0.0f, 1.0f};
  cluster::assign(far, close, one);
  CHECK(one[0] == 1);
  cluster::AssignOptions tfmot;
  tfmot.compat = cluster::Compat::tfmot;
  cluster::assign(far, close, one, tfmot);
  CHECK(one[0] == 0);
}

TEST_CASE("ranks count the thresholds below", "[cluster][kernels]") {
  const std::vector<float> src = numbers(517, 5);
  std::vector<float> thresholds = numbers(32, 6);
  std::ranges::sort(thresholds);
  tests::with_every_isa([&] {
    for (std::int64_t count = 0; count <= kernels::kMaxRanks; ++count) {
      std::vector<std::uint8_t> ranks(src.size());
      kernels::rank_f32(src.data(), static_cast<std::int64_t>(src.size()), thresholds.data(), count,
                        ranks.data());
      for (std::size_t i = 0; i < src.size(); ++i) {
        const auto below =
            std::ranges::count_if(thresholds.begin(), thresholds.begin() + count,
                                  [&](float threshold) { return threshold < src[i]; });
        REQUIRE(ranks[i] == below);
      }
    }
  });
}

TEST_CASE("zeros go to the pinned centroid and nothing else does", "[cluster]") {
  const std::vector<float> weights = {0.0f, -0.0f, 0.01f, 1.0f, -0.01f};
  const std::vector<float> centroids = {-1.0f, 0.0f, 1.0f};
  std::vector<std::uint8_t> indices(5);
  cluster::AssignOptions options;
  options.preserve_zeros = true;
  cluster::assign(weights, centroids, indices, options);
  CHECK(indices == std::vector<std::uint8_t>{1, 1, 2, 2, 0});
  CHECK_THROWS_AS(cluster::assign(weights, std::vector<float>{-1.0f, 1.0f}, indices, options),
                  Error);
}

TEST_CASE("look-up and gradient follow the groups of strided tensors", "[cluster]") {
  // Columns of a 2 x 3 matrix stored by columns, one codebook for each.
  const std::vector<std::uint8_t> indices = {0, 1, 1, 1, 0, 0};
  const AnyView by_column(indices.data(), DType::uint8, Shape{2, 3}, Shape{1, 2});
  const std::vector<float> books = {1, 2, 3, 4, 5, 6};
  const AnyView centroids(books.data(), DType::float32, Shape{3, 2});
  std::vector<float> out(6);
  cluster::lookup(by_column, centroids, MutableAnyView(out.data(), DType::float32, Shape{2, 3}),
                  {1, {}});
  CHECK(out == std::vector<float>{1, 4, 5, 2, 4, 5});
  const std::vector<double> gradient = {1, 2, 3, 4, 5, 6};
  std::vector<double> sums(6);
  const MutableAnyView result(sums.data(), DType::float64, Shape{3, 2});
  const AnyView upstream(gradient.data(), DType::float64, Shape{2, 3});
  cluster::centroid_gradient(upstream, by_column, 2, result, cluster::Reduction::sum, {1, {}});
  CHECK(sums == std::vector<double>{1, 4, 0, 7, 9, 0});
  cluster::centroid_gradient(upstream, by_column, 2, result, cluster::Reduction::mean, {1, {}});
  CHECK(sums == std::vector<double>{1, 4, 0, 3.5, 4.5, 0});
}

// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/cluster/cluster.hpp>
#include <moptcore/core/random.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

using namespace moptcore;

namespace {

std::vector<double> noise(std::size_t n, std::uint64_t seed) {
  const Philox philox(seed);
  std::vector<double> values(n);
  for (std::size_t i = 0; i < n; ++i) {
    const auto bits = philox(i);
    // The sum of four uniform numbers is about normal.
    for (const std::uint32_t word : bits) values[i] += static_cast<double>(word) * 0x1p-32 - 0.5;
  }
  return values;
}

double run_error(const std::vector<double>& sorted, std::size_t first, std::size_t last) {
  double mean = 0.0;
  for (std::size_t i = first; i < last; ++i) mean += sorted[i];
  mean /= static_cast<double>(last - first);
  double error = 0.0;
  for (std::size_t i = first; i < last; ++i) error += (sorted[i] - mean) * (sorted[i] - mean);
  return error;
}

// The textbook's dynamic programme over every place of every border: O(k n^2) run errors.
double least_error(std::vector<double> values, std::size_t k) {
  std::ranges::sort(values);
  const std::size_t n = values.size();
  std::vector<double> best(n + 1, std::numeric_limits<double>::infinity());
  best[0] = 0.0;
  for (std::size_t clusters = 0; clusters < k; ++clusters) {
    std::vector<double> next(n + 1, std::numeric_limits<double>::infinity());
    next[0] = 0.0;
    for (std::size_t last = 1; last <= n; ++last) {
      for (std::size_t first = 0; first < last; ++first) {
        next[last] = std::min(next[last], best[first] + run_error(values, first, last));
      }
    }
    best = next;
  }
  return best[n];
}

double error_of(const std::vector<double>& weights, const std::vector<double>& centroids,
                const std::vector<std::uint8_t>& indices) {
  double error = 0.0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const double distance = weights[i] - centroids[indices[i]];
    error += distance * distance;
  }
  return error;
}

}  // namespace

TEST_CASE("the clusters cost what the textbook's dynamic programme finds", "[cluster]") {
  for (const std::size_t n : {1u, 2u, 7u, 30u, 60u}) {
    for (const std::size_t k : {1u, 2u, 3u, 8u, 29u}) {
      const std::vector<double> weights = noise(n, n + k);
      std::vector<std::uint8_t> indices(n);
      const auto found = cluster::kmeans(weights, static_cast<std::int64_t>(k), indices);
      const double least = least_error(weights, k);
      INFO(n << " values, " << k << " clusters");
      CHECK(error_of(weights, found.values, indices) == Approx(least).margin(1e-13));
      CHECK(std::ranges::is_sorted(found.values));
    }
  }
}

TEST_CASE("a price that no number of clusters but two others has is spliced", "[cluster]") {
  // Three clusters cost exactly the middle between two and four, so no price buys three.
  const std::vector<double> weights = {0, 1, 10, 11};
  std::vector<std::uint8_t> indices(4);
  const auto found = cluster::kmeans(weights, 3, indices);
  CHECK(found.columns == 3);
  CHECK(error_of(weights, found.values, indices) == 0.5);
}

TEST_CASE("equal steps have equal errors everywhere and are still cut into k", "[cluster]") {
  std::vector<double> weights(600);
  for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = static_cast<double>(i);
  for (const std::int64_t k : {7, 100, 299, 599}) {
    std::vector<std::uint16_t> indices(weights.size());
    const auto found = cluster::kmeans(weights, k, indices);
    REQUIRE(found.columns == k);
    // m neighbours cost (m^3 - m) / 12, and the optimum has sizes that differ by one at most.
    const auto cost = [](std::int64_t m) { return static_cast<double>(m * m * m - m) / 12.0; };
    const std::int64_t size = 600 / k;
    const std::int64_t larger = 600 % k;
    const double least =
        static_cast<double>(larger) * cost(size + 1) + static_cast<double>(k - larger) * cost(size);
    double error = 0.0;
    for (std::size_t i = 0; i < weights.size(); ++i) {
      error += std::pow(weights[i] - found.values[indices[i]], 2);
    }
    CHECK(error == Approx(least).epsilon(1e-9));
  }
}

TEST_CASE("centroids of float16 weights are float16 values", "[cluster]") {
  std::vector<float16> weights;
  for (const double value : noise(500, 3)) weights.emplace_back(static_cast<float>(value));
  std::vector<std::uint8_t> indices(500);
  const auto found = cluster::kmeans(weights, 5, indices);
  for (const double value : found.values) {
    CHECK(static_cast<double>(static_cast<float>(float16(static_cast<float>(value)))) == value);
  }
}

TEST_CASE("groups have codebooks of their own and fill up with their largest", "[cluster]") {
  const std::vector<double> weights = {1, 1, 1, 5, 6, 7};
  const AnyView matrix(weights.data(), DType::float64, Shape{2, 3});
  std::vector<std::uint8_t> indices(6);
  cluster::KMeansOptions options;
  options.sharing.axis = 0;
  const auto found = cluster::kmeans(
      matrix, 3, MutableAnyView(indices.data(), DType::uint8, Shape{2, 3}), options);
  CHECK(found.shape() == Shape{2, 3});
  CHECK(found.values == std::vector<double>{1, 1, 1, 5, 6, 7});
  CHECK(indices == std::vector<std::uint8_t>{0, 0, 0, 0, 1, 2});
}

TEST_CASE("Lloyd leaves a centroid without weights where it is", "[cluster]") {
  const std::vector<float> weights = {0, 1, 2, 3};
  const std::vector<float> start = {1, 2, 50};
  const auto found = cluster::lloyd(weights, start);
  CHECK(found.values == std::vector<double>{0.5, 2.5, 50});
}

TEST_CASE("k-means names what it refuses and writes nothing", "[cluster]") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> weights = {1, nan, 2};
  std::vector<std::uint8_t> indices = {9, 9, 9};
  CHECK_THROWS_AS(cluster::kmeans(weights, 2, indices), NonFiniteError);
  CHECK_THROWS_AS(cluster::kmeans(std::vector<float>{}, 2, indices), Error);
  CHECK_THROWS_AS(cluster::kmeans(std::vector<float>{1, 2, 3}, 0, indices), Error);
  CHECK_THROWS_AS(cluster::kmeans(std::vector<float>{1, 2, 3}, 300, indices), DTypeError);
  CHECK_THROWS_AS(cluster::kmeans(std::vector<int>{1, 2, 3}, 2, indices), DTypeError);
  CHECK(indices == std::vector<std::uint8_t>{9, 9, 9});
}

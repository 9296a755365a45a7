// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/core/parallel.hpp>
#include <moptcore/quant/quant.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

using namespace moptcore;
using namespace moptcore::quant;

namespace {

std::vector<float> sample(int n, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0.0f, std::ldexp(1.0f, static_cast<int>(seed % 40) - 20));
  std::vector<float> values(static_cast<std::size_t>(n));
  for (float& value : values) value = normal(engine);
  return values;
}

// The mean squared error of points spread evenly over each bin.
double sampled_error(const BinCounts& bins, const Grid& grid) {
  constexpr int kPoints = 2000;
  double sum = 0;
  double total = 0;
  for (std::size_t i = 0; i < bins.counts.size(); ++i) {
    const auto k = static_cast<double>(bins.first + static_cast<std::int64_t>(i));
    const double low = std::max<double>(std::ldexp(k, bins.exponent), bins.min);
    const double high = std::min<double>(std::ldexp(k + 1, bins.exponent), bins.max);
    const auto count = static_cast<double>(bins.counts[i]);
    for (int p = 0; p < kPoints; ++p) {
      const double x = low + (high - low) * (p + 0.5) / kPoints;
      const double miss = x - fake_quantize(x, grid);
      sum += count * miss * miss / kPoints;
    }
    total += count;
  }
  return sum / total;
}

}  // namespace

TEST_CASE("A bin holds the values between two edges of the grid", "[quant]") {
  const float top = std::numeric_limits<float>::max();
  const float tiny = std::numeric_limits<float>::denorm_min();
  for (const float min : {-top, -1.0f, -tiny, 0.0f}) {
    for (const float max : {0.0f, tiny, 0.75f, 3.0f, top}) {
      for (const std::int64_t bins : {2, 7, 2048}) {
        const int exponent = bin_exponent(min, max, bins);
        CHECK(bin_of(max, exponent) - bin_of(min, exponent) < bins);
        for (const float value : {min, max}) {
          const auto bin = static_cast<double>(bin_of(value, exponent));
          CHECK(std::ldexp(bin, exponent) <= static_cast<double>(value));
          CHECK(std::ldexp(bin + 1, exponent) > static_cast<double>(value));
        }
      }
    }
  }
  CHECK(bin_of(-1e-30f, 100) == -1);
  CHECK(bin_of(1e-30f, 100) == 0);
}

TEST_CASE("Merged counts are those of one observer, whatever the scales", "[quant]") {
  MSEObserver all;
  MSEObserver backwards;
  for (unsigned seed = 0; seed < 40; ++seed) all.update(sample(100, seed));
  for (unsigned seed = 40; seed-- > 0;) {
    MSEObserver one;
    one.update(sample(100, seed));
    backwards.merge(one);
  }
  CHECK(all == backwards);
  std::int64_t count = 0;
  for (const std::int64_t each : all.counts()) count += each;
  CHECK(count == 4000);
  all.merge(all);
  CHECK(all.channel(0).counts[0] == 2 * backwards.channel(0).counts[0]);
  MSEObserver rows(0);
  CHECK_THROWS_AS(rows.merge(all), Error);
}

TEST_CASE("The expected error is that of values spread over the bins", "[quant]") {
  HistogramObserver observer(std::nullopt, 64);
  observer.update(sample(500, 21));
  const BinCounts bins = observer.channel(0);
  for (const float scale : {0.01f, 0.5f, 3.0f}) {
    const Grid grid{scale, -3, -8, 7};
    // A sum of midpoints: off by the jumps of a piecewise parabola at most, below 1 / points.
    CHECK(expected_error(bins, grid) == Approx(sampled_error(bins, grid)).epsilon(2e-3));
  }
}

TEST_CASE("The divergence is 0 where nothing is merged and counts what is cut", "[quant]") {
  const std::vector<std::int64_t> counts = {4, 2, 2, 0, 1, 3};
  CHECK(divergence(counts, 0, 1.0, 0, 6, Grid{1.0f, 0, 0, 7}) == Approx(0.0).margin(1e-15));
  // The centers 1.5 and 2.5 both round to 1 step of 2: 1 and 3 values become 2 and 2.
  const double expected = (1 * std::log(1.0 / 2) + 3 * std::log(3.0 / 2)) / 12;
  const std::vector<std::int64_t> uneven = {4, 1, 3, 0, 2, 2};
  CHECK(divergence(uneven, 0, 1.0, 0, 6, Grid{2.0f, 0, 0, 7}) == Approx(expected));
  // P = 4, 2, 6 of 12, Q = 4, 2, 2 of 8.
  const double cut = (4 * std::log(4.0 / 4) + 2 * std::log(2.0 / 2) + 6 * std::log(6.0 / 2)) / 12 +
                     std::log(8.0 / 12);
  CHECK(divergence(counts, 0, 1.0, 0, 3, Grid{1.0f, 0, 0, 7}) == Approx(cut));
  CHECK(std::isinf(divergence(counts, 0, 1.0, 0, 4, Grid{1.0f, 0, 0, 7})));
}

TEST_CASE("Counting observers refuse what is not finite and stay as they were", "[quant]") {
  PercentileObserver observer(99.0);
  observer.update(std::vector<float>{1, 2, 3});
  const PercentileObserver before = observer;
  const std::vector<float> bad = {1e9f, std::numeric_limits<float>::infinity()};
  CHECK_THROWS_AS(observer.update(bad), NonFiniteError);
  CHECK(observer == before);
  observer.update(bad, OnNonFinite::skip);
  CHECK(observer.max()[0] == 1e9f);
  CHECK_THROWS_AS(observer.restore({0.0f}, {1.0f}, {0}, {1, 2}), FormatError);
}

TEST_CASE("One pass over a tensor counts as passes over its values do", "[quant]") {
  // Pieces whose range grows and shrinks, longer than what one thread or one piece takes.
  std::vector<float> values;
  for (unsigned seed = 0; seed < 40; ++seed) {
    const std::vector<float> some = sample(17001, (seed * 7) % 40);
    values.insert(values.end(), some.begin(), some.end());
  }
  values[300001] = -0.0f;
  const std::vector<double> doubles(values.begin(), values.end());
  for (const std::int64_t bins : {7, 2048}) {
    PercentileObserver all(99.0, Tails::split, std::nullopt, bins);
    all.update(values);
    const BinCounts found = all.channel(0);
    const auto [low, high] = std::ranges::minmax_element(values);
    CHECK(found.min == *low);
    CHECK(found.max == *high);
    CHECK(found.exponent == bin_exponent(*low, *high, bins));
    std::vector<std::int64_t> expected(found.counts.size(), 0);
    for (const float value : values) {
      ++expected[static_cast<std::size_t>(bin_of(value, found.exponent) - found.first)];
    }
    CHECK(std::ranges::equal(found.counts, expected));
    const int before = num_threads();
    for (const int threads : {1, 3}) {
      set_num_threads(threads);
      PercentileObserver again(99.0, Tails::split, std::nullopt, bins);
      again.update(doubles);
      CHECK(again == all);
      again.update(std::vector<float>{1e30f, std::numeric_limits<float>::quiet_NaN(), -2.5f},
                   OnNonFinite::skip);
      PercentileObserver parts(99.0, Tails::split, std::nullopt, bins);
      parts.update(std::vector<float>{1e30f, -2.5f});
      parts.update(values);
      CHECK(again == parts);
    }
    set_num_threads(before);
  }
}

// SPDX-License-Identifier: Apache-2.0
#include "cluster/tfmot.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <utility>

#include <moptcore/core/random.hpp>

namespace moptcore::inline v0::cluster {
namespace {

// tf.linspace.
std::vector<float> linspace(float start, float stop, std::int64_t n) {
  std::vector<float> values(n);
  const float step = (stop - start) / static_cast<float>(std::max<std::int64_t>(n - 1, 1));
  for (std::int64_t i = 0; i < n; ++i) values[i] = start + step * static_cast<float>(i);
  if (n > 1) values.back() = stop;
  return values;
}

// tf.random.uniform.
std::vector<float> random_uniform(float low, float high, std::int64_t n, OperationSeeds& seeds) {
  const Philox philox(seeds.global(), seeds.next());
  std::vector<float> values(n);
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint32_t bits = (philox.word(static_cast<std::uint64_t>(i)) & 0x7fffffu);
    const float unit = std::bit_cast<float>(bits | 0x3f800000u) - 1.0f;
    values[i] = unit * (high - low) + low;
  }
  return values;
}

std::vector<float> density(const std::vector<float>& sorted, std::int64_t k, bool preserve) {
  constexpr std::int64_t kGrid = 30;
  const float low = sorted.front();
  const float high = sorted.back();
  const float gap =
      preserve ? std::min(0.01f, std::min(std::abs(low), std::abs(high)) / 2.0f) : 0.01f;
  const std::vector<float> grid = linspace(low - gap, high + gap, kGrid);
  std::vector<float> shares(kGrid);
  const auto n = static_cast<float>(sorted.size());
  for (std::int64_t i = 0; i < kGrid; ++i) {
    const auto below = std::ranges::upper_bound(sorted, grid[i]) - sorted.begin();
    shares[i] = static_cast<float>(below) / n;
  }
  std::vector<float> centroids;
  for (const float level : linspace(0.01f, 1.0f, k)) {
    const auto found = std::ranges::upper_bound(shares, level) - shares.begin();
    const std::int64_t at = std::min<std::int64_t>(found, kGrid - 1);
    const std::int64_t previous = std::max<std::int64_t>(at - 1, 0);
    if (shares[at] == shares[previous]) {
      centroids.push_back(grid[at]);
      continue;
    }
    // A line through two points of the distribution, solved for the very point it starts from.
    const float slope =
        (shares[previous] - shares[at]) / std::max(grid[previous] - grid[at], 0.001f);
    const float offset = shares[at] - grid[at] * slope;
    centroids.push_back((shares[at] - offset) / slope);
  }
  return centroids;
}

// Words of TensorFlow's generator, one after the other.
class Words {
 public:
  explicit Words(std::uint64_t seed) : philox_(seed) {}

  std::uint32_t next() noexcept { return philox_.word(next_++); }

  float unit() noexcept { return std::bit_cast<float>((next() & 0x7fffffu) | 0x3f800000u) - 1.0f; }

  // A whole number below n; for powers of two the low bits, else no remainder is favoured.
  std::int64_t below(std::int64_t n) noexcept {
    const auto limit = static_cast<std::uint64_t>(n);
    const auto draw = [this] {
      const std::uint64_t low = next();
      return low | std::uint64_t{next()} << 32;
    };
    if (std::has_single_bit(limit)) return static_cast<std::int64_t>(draw() & (limit - 1));
    const std::uint64_t refused = std::numeric_limits<std::uint64_t>::max() % limit + 1;
    std::uint64_t number = draw();
    while (number < refused) number = draw();
    return static_cast<std::int64_t>(number % limit);
  }

 private:
  Philox philox_;
  std::uint64_t next_ = 0;
};

// Seeding of k-means++ with 3 + ln k trials for each centroid, in the order of the weights.
std::vector<float> plus_plus(const std::vector<float>& x, std::int64_t k) {
  constexpr std::uint64_t kSeed = 9;
  const auto n = static_cast<std::int64_t>(x.size());
  check(k <= n, "cluster.kmeans", "k must be at most the weights (" + std::to_string(n) + ')', k);
  Words words(kSeed);
  const auto trials = 3 + static_cast<std::int64_t>(std::log(static_cast<double>(k)));
  std::vector<float> half_square(n);
  for (std::int64_t i = 0; i < n; ++i) half_square[i] = 0.5f * (x[i] * x[i]);
  std::vector<float> distance(n, std::numeric_limits<float>::infinity());
  std::vector<float> cumulative(n);
  std::vector<float> after(n);
  std::vector<float> best_after(n);
  std::vector<bool> taken(n, false);
  const auto draw = [&](bool first) {
    if (first) return words.below(n);
    std::int64_t at = 0;
    do {
      const float total = cumulative.back();
      at = total > 0.0f
               ? std::ranges::upper_bound(cumulative, words.unit() * total) - cumulative.begin()
               : words.below(n);
      at = std::min(at, n - 1);
    } while (taken[at]);
    return at;
  };
  std::vector<float> centroids;
  while (static_cast<std::int64_t>(centroids.size()) < k) {
    const bool first = centroids.empty();
    if (!first) std::partial_sum(distance.begin(), distance.end(), cumulative.begin());
    double least = std::numeric_limits<double>::infinity();
    std::int64_t best = 0;
    for (std::int64_t trial = 0; trial < trials; ++trial) {
      const std::int64_t at = draw(first);
      double error = 0.0;
      for (std::int64_t i = 0; i < n; ++i) {
        after[i] = std::min(distance[i], (half_square[i] - x[i] * x[at]) + half_square[at]);
        error += after[i];
      }
      if (error >= least) continue;
      least = error;
      best = at;
      best_after.swap(after);
    }
    distance.swap(best_after);
    taken[best] = true;
    centroids.push_back(x[best]);
  }
  return centroids;
}

std::vector<float> interval(std::vector<float> weights, std::int64_t k,
                            const KMeansOptions& options, OperationSeeds& seeds) {
  // TensorFlow draws the seed of an operation also where it makes no number.
  if (k <= 0 && options.init == Init::random) static_cast<void>(seeds.next());
  if (k <= 0) return {};
  if (options.init == Init::kmeans_plus_plus) return plus_plus(weights, k);
  std::ranges::sort(weights);
  switch (options.init) {
    case Init::linear: return linspace(weights.front(), weights.back(), k);
    case Init::random: return random_uniform(weights.front(), weights.back(), k, seeds);
    default: return density(weights, k, options.preserve_zeros);
  }
}

}  // namespace

OperationSeeds::OperationSeeds(std::uint64_t seed)
    : global_(static_cast<std::uint32_t>(seed % 0x7fffffffu)) {
  // Python hands the seed to the generator as an array of its 32-bit digits, and mixes that in as
  // the authors of the generator do in their init_by_array.
  constexpr std::uint32_t kSize = std::mt19937::state_size;
  std::array<std::uint32_t, kSize> state;
  state[0] = 19650218u;
  for (std::uint32_t i = 1; i < kSize; ++i) {
    state[i] = 1812433253u * (state[i - 1] ^ (state[i - 1] >> 30)) + i;
  }
  const std::array<std::uint32_t, 2> digits = {static_cast<std::uint32_t>(seed),
                                               static_cast<std::uint32_t>(seed >> 32)};
  const std::uint32_t length = digits[1] != 0 ? 2 : 1;
  std::uint32_t i = 1;
  const auto step = [&](std::uint32_t factor) {
    state[i] ^= (state[i - 1] ^ (state[i - 1] >> 30)) * factor;
  };
  const auto advance = [&] {
    if (++i < kSize) return;
    state[0] = state[kSize - 1];
    i = 1;
  };
  for (std::uint32_t count = 0; count < kSize; ++count) {
    const std::uint32_t j = count % length;
    step(1664525u);
    state[i] += digits[j] + j;
    advance();
  }
  for (std::uint32_t count = 1; count < kSize; ++count) {
    step(1566083941u);
    state[i] -= i;
    advance();
  }
  state[0] = 0x80000000u;
  // A seed sequence that hands over a finished state is taken as it is, but for the first word,
  // of which only the top bit counts.
  struct Finished {
    using result_type = std::uint32_t;
    const std::array<std::uint32_t, kSize>* state;
    void generate(std::uint32_t* first, std::uint32_t* last) const {
      std::copy(state->begin(), state->begin() + (last - first), first);
    }
  } finished{&state};
  twister_.seed(finished);
}

std::uint32_t OperationSeeds::next() {
  std::uint32_t word = twister_();
  while (word >= 0x80000000u) word = twister_();
  return word % 0x7fffffffu;
}

std::vector<double> tfmot_centroids(const float* weights, std::int64_t n, std::int64_t k,
                                    const KMeansOptions& options, OperationSeeds& seeds) {
  std::vector<float> centroids;
  if (!options.preserve_zeros) {
    centroids = interval(std::vector<float>(weights, weights + n), k, options, seeds);
  } else {
    std::vector<float> negative;
    std::vector<float> positive;
    for (std::int64_t i = 0; i < n; ++i) {
      if (weights[i] < 0.0f) negative.push_back(weights[i]);
      if (weights[i] > 0.0f) positive.push_back(weights[i]);
    }
    const std::size_t nonzero = negative.size() + positive.size();
    if (nonzero == 0) return {0.0};
    const double share = static_cast<double>(negative.size()) / static_cast<double>(nonzero);
    const auto below =
        static_cast<std::int64_t>(std::nearbyint(static_cast<double>(k - 1) * share));
    centroids = interval(std::move(negative), below, options, seeds);
    const std::vector<float> above = interval(std::move(positive), k - 1 - below, options, seeds);
    centroids.push_back(0.0f);
    centroids.insert(centroids.end(), above.begin(), above.end());
  }
  return {centroids.begin(), centroids.end()};
}

}  // namespace moptcore::inline v0::cluster

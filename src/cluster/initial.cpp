// SPDX-License-Identifier: Apache-2.0
#include "cluster/initial.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include <moptcore/core/random.hpp>

namespace moptcore::inline v0::cluster {
namespace {

// Uniform doubles in [0, 1) with 53 bits, one after the other.
class Uniform {
 public:
  Uniform(std::uint64_t seed, std::uint64_t stream) : philox_(seed, stream) {}

  double operator()() noexcept {
    const std::uint64_t high = philox_.word(next_);
    const std::uint64_t low = philox_.word(next_ + 1);
    next_ += 2;
    return static_cast<double>((high << 32 | low) >> 11) * 0x1p-53;
  }

 private:
  Philox philox_;
  std::uint64_t next_ = 0;
};

// Centroids drawn so far, as places among the points, and the squared error of the points that
// belong to each. Everything is a few look-ups in prefix sums, whatever the number of points.
class Drawn {
 public:
  explicit Drawn(const Points& points) : points_(points) {}

  // Squared error of the points between two neighbouring centroids (places, -1 and size() outside).
  [[nodiscard]] double between(std::int64_t left, std::int64_t right) const {
    const std::int64_t n = points_.size();
    if (left < 0) return points_.cost_to(0, right, points_.value(right));
    if (right >= n) return points_.cost_to(left + 1, n, points_.value(left));
    const std::int64_t border = middle(left, right);
    return points_.cost_to(left + 1, border, points_.value(left)) +
           points_.cost_to(border, right, points_.value(right));
  }

  void add(std::int64_t place) {
    const auto at = std::ranges::lower_bound(places_, place);
    const auto i = at - places_.begin();
    const auto [left, right] = neighbours(place);
    places_.insert(at, place);
    if (errors_.empty()) {
      errors_ = {between(-1, place), between(place, points_.size())};
      return;
    }
    errors_[i] = between(left, place);
    errors_.insert(errors_.begin() + i + 1, between(place, right));
  }

  // By how much the error falls when `place` is added.
  [[nodiscard]] double gain(std::int64_t place) const {
    const auto [left, right] = neighbours(place);
    return between(left, right) - between(left, place) - between(place, right);
  }

  [[nodiscard]] bool has(std::int64_t place) const {
    return std::ranges::binary_search(places_, place);
  }

  // A place with chances by squared distance to the nearest centroid; -1 where all are zero.
  [[nodiscard]] std::int64_t draw(double share) const {
    double total = 0.0;
    for (const double error : errors_) total += error;
    double rest = share * total;
    for (std::size_t i = 0; i < errors_.size(); ++i) {
      if (rest < errors_[i]) return draw_between(i, rest);
      rest -= errors_[i];
    }
    return -1;
  }

  [[nodiscard]] const std::vector<std::int64_t>& places() const { return places_; }

 private:
  // The first point nearer to the right one.
  [[nodiscard]] std::int64_t middle(std::int64_t left, std::int64_t right) const {
    const double half = 0.5 * points_.value(left) + 0.5 * points_.value(right);
    return std::clamp(points_.up_to(half), left + 1, right);
  }

  [[nodiscard]] std::pair<std::int64_t, std::int64_t> neighbours(std::int64_t place) const {
    const auto at = std::ranges::lower_bound(places_, place);
    return {at == places_.begin() ? -1 : at[-1], at == places_.end() ? points_.size() : *at};
  }

  [[nodiscard]] std::int64_t draw_between(std::size_t i, double rest) const {
    const std::int64_t n = points_.size();
    const std::int64_t left = i == 0 ? -1 : places_[i - 1];
    const std::int64_t right = i == places_.size() ? n : places_[i];
    const std::int64_t border = left < 0 ? 0 : right >= n ? n : middle(left, right);
    // Error of points (left, end) as they are assigned.
    const auto up_to = [&](std::int64_t end) {
      double error = 0.0;
      if (left >= 0) error += points_.cost_to(left + 1, std::min(end, border), points_.value(left));
      if (end > border) error += points_.cost_to(border, end, points_.value(right));
      return error;
    };
    std::int64_t low = left + 1;
    std::int64_t high = right;
    while (high - low > 1) {
      const std::int64_t at = low + (high - low) / 2;
      (up_to(at) <= rest ? low : high) = at;
    }
    return low;
  }

  const Points& points_;
  std::vector<std::int64_t> places_;
  std::vector<double> errors_;  // before, between and behind the centroids
};

}  // namespace

std::vector<double> linear_centroids(const Points& points, std::int64_t k) {
  const double first = points.value(0);
  const double last = points.value(points.size() - 1);
  std::vector<double> centroids(k);
  for (std::int64_t i = 0; i < k; ++i) {
    const double share = k == 1 ? 0.0 : static_cast<double>(i) / static_cast<double>(k - 1);
    centroids[i] = first * (1.0 - share) + last * share;
  }
  return centroids;
}

std::vector<double> density_centroids(const Points& points, std::int64_t k) {
  std::vector<double> centroids(k);
  const auto total = static_cast<double>(points.total());
  std::int64_t at = 0;
  for (std::int64_t i = 0; i < k; ++i) {
    const double rank = (static_cast<double>(i) + 0.5) / static_cast<double>(k) * total;
    while (at + 1 < points.size() && points.count_before(at + 1) <= rank) ++at;
    centroids[i] = points.value(at);
  }
  return centroids;
}

std::vector<double> random_centroids(const Points& points, std::int64_t k, std::uint64_t seed,
                                     std::uint64_t stream) {
  Uniform uniform(seed, stream);
  const double first = points.value(0);
  const double last = points.value(points.size() - 1);
  std::vector<double> centroids(k);
  for (double& centroid : centroids) {
    const double share = uniform();
    centroid = first * (1.0 - share) + last * share;
  }
  std::ranges::sort(centroids);
  return centroids;
}

std::vector<double> plus_plus_centroids(const Points& points, std::int64_t k, std::uint64_t seed,
                                        std::uint64_t stream) {
  Uniform uniform(seed, stream);
  Drawn drawn(points);
  const auto trials = 2 + static_cast<std::int64_t>(std::log(static_cast<double>(k)));
  const double first = std::floor(uniform() * static_cast<double>(points.total()));
  std::int64_t low = 0;
  std::int64_t high = points.size();
  while (high - low > 1) {
    const std::int64_t at = low + (high - low) / 2;
    (points.count_before(at) <= first ? low : high) = at;
  }
  drawn.add(low);
  while (static_cast<std::int64_t>(drawn.places().size()) < k) {
    std::int64_t best = -1;
    double most = -1.0;
    for (std::int64_t trial = 0; trial < trials; ++trial) {
      const std::int64_t place = drawn.draw(uniform());
      if (place < 0 || drawn.has(place)) continue;
      const double gain = drawn.gain(place);
      if (gain > most) {
        most = gain;
        best = place;
      }
    }
    // Rounding can leave no error to draw from; any free place is as good then.
    for (std::int64_t place = 0; best < 0; ++place) {
      if (!drawn.has(place)) best = place;
    }
    drawn.add(best);
  }
  std::vector<double> centroids;
  for (const std::int64_t place : drawn.places()) centroids.push_back(points.value(place));
  return centroids;
}

void iterate_lloyd(const Points& points, std::vector<double>& centroids,
                   std::int64_t max_iterations) {
  const auto k = static_cast<std::int64_t>(centroids.size());
  std::vector<std::int64_t> borders(k + 1, 0);
  std::vector<std::int64_t> before;
  const auto cut = [&] {
    borders[k] = points.size();
    for (std::int64_t i = 1; i < k; ++i) {
      const double half = 0.5 * centroids[i - 1] + 0.5 * centroids[i];
      // Of equal centroids the first takes all.
      const std::int64_t at = points.up_to(half);
      borders[i] = std::max(borders[i - 1], at);
    }
  };
  for (std::int64_t step = 0; step < max_iterations; ++step) {
    cut();
    if (borders == before) break;
    for (std::int64_t i = 0; i < k; ++i) {
      if (borders[i] < borders[i + 1]) {
        centroids[i] = points.quick_mean(borders[i], borders[i + 1]);
      }
    }
    // A centroid that stayed behind without weights may have been overtaken.
    std::ranges::sort(centroids);
    before = borders;
  }
  if (max_iterations == 0) return;
  cut();
  for (std::int64_t i = 0; i < k; ++i) {
    if (borders[i] < borders[i + 1]) centroids[i] = points.mean(borders[i], borders[i + 1]);
  }
  std::ranges::sort(centroids);
}

}  // namespace moptcore::inline v0::cluster

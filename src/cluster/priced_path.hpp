// SPDX-License-Identifier: Apache-2.0
// The least cost of cutting a sequence into k runs where costs are concave Monge: a price for each
// run turns it into a shortest path, and the price is searched that buys k.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

namespace moptcore::inline v0::cluster {

using Path = std::vector<std::int64_t>;

/// The cheapest way to cut into any number of runs that cost `price` each. Costs has size(), the
/// number of places where a run may end, and cost(first, last) for places 0 <= first < last <=
/// size(). A later start of the last run, once better than an earlier one, stays better: the
/// starts that are best for some end form a queue of intervals.
template <class Costs>
class PricedPath {
 public:
  explicit PricedPath(const Costs& costs) : costs_(costs), n_(costs.size()) {
    best_.resize(n_ + 1);
    from_.resize(n_ + 1);
    queue_.resize(n_ + 1);
  }

  [[nodiscard]] Path find(double price) {
    best_[0] = 0.0;
    std::int64_t front = 0;
    std::int64_t back = 0;
    queue_[0] = {0, 1};
    for (std::int64_t end = 1; end <= n_; ++end) {
      while (front < back && queue_[front + 1].from <= end) ++front;
      const std::int64_t start = queue_[front].start;
      best_[end] = through(start, end) + price;
      from_[end] = start;
      if (end == n_) break;
      // `end` becomes a start: from where on is it better than those in the queue?
      while (back > front &&
             through(end, queue_[back].from) < through(queue_[back].start, queue_[back].from)) {
        --back;
      }
      const std::int64_t from = first_better(queue_[back], end);
      if (from <= n_) queue_[++back] = {end, from};
    }
    Path path;
    for (std::int64_t at = n_; at > 0; at = from_[at]) path.push_back(at);
    path.push_back(0);
    std::ranges::reverse(path);
    return path;
  }

  /// What the path that was found last costs, prices included.
  [[nodiscard]] double total() const noexcept { return best_[n_]; }

 private:
  struct Candidate {
    std::int64_t start;
    std::int64_t from;  // the first end for which `start` is the best
  };

  [[nodiscard]] double through(std::int64_t start, std::int64_t end) const noexcept {
    return best_[start] + costs_.cost(start, end);
  }

  // The first end at which `start` beats the candidate, or n_ + 1; searched in growing steps,
  // because neighbouring starts begin to win at neighbouring ends.
  [[nodiscard]] std::int64_t first_better(const Candidate& candidate, std::int64_t start) const {
    std::int64_t low = std::max(candidate.from, start);  // not better there
    std::int64_t step = 1;
    std::int64_t high = low + step;
    while (high <= n_ && !(through(start, high) < through(candidate.start, high))) {
      low = high;
      step *= 2;
      high = low + step;
    }
    high = std::min(high, n_ + 1);
    while (high - low > 1) {
      const std::int64_t middle = low + (high - low) / 2;
      (through(start, middle) < through(candidate.start, middle) ? high : low) = middle;
    }
    return high;
  }

  const Costs& costs_;
  std::int64_t n_;
  std::vector<double> best_;
  std::vector<std::int64_t> from_;
  std::vector<Candidate> queue_;
};

/// Of two paths that are both the cheapest at one price, one with fewer than k runs and one with
/// more, the Monge property makes one with exactly k: where a run of the longer path lies within
/// one of the shorter, the paths may be exchanged behind it.
[[nodiscard]] inline Path splice(const Path& few, const Path& many, std::int64_t k) {
  const auto runs = static_cast<std::int64_t>(few.size()) - 1;
  const std::int64_t shift = k - runs;
  std::int64_t i = runs - 1;
  while (few[i] > many[i + shift]) --i;
  Path path(many.begin(), many.begin() + i + shift + 1);
  path.insert(path.end(), few.begin() + i + 1, few.end());
  return path;
}

/// Where to look for the price that buys k runs: between one that buys more and one that buys
/// fewer. The error falls with 1 / k^2, so the price of the last run with 1 / k^3.
class PriceSearch {
 public:
  PriceSearch(std::int64_t k, std::int64_t most, double total)
      : k_(static_cast<double>(k)), most_(static_cast<double>(most)), high_(2.0 * total) {}

  [[nodiscard]] bool inside(double price) const noexcept { return price > low_ && price < high_; }
  [[nodiscard]] double start(double guess) const noexcept {
    if (inside(guess)) return guess;
    const double price = high_ / (k_ * k_ * k_);
    return inside(price) ? price : 0.5 * high_;
  }

  /// The next price to try after one that bought so many runs, not k.
  [[nodiscard]] double next(double price, std::int64_t bought) noexcept {
    const auto runs = static_cast<double>(bought);
    if (runs > k_) {
      low_ = price;
      most_ = runs;
    } else {
      high_ = price;
      least_ = runs;
    }
    ++steps_;
    double next = 0.0;
    if (low_ > 0.0 && least_ > 1.0) {
      const double share = std::log(most_ / k_) / std::log(most_ / least_);
      next = low_ * std::pow(high_ / low_, steps_ % 3 == 0 ? 0.5 : share);
    } else {
      const double ratio = runs / k_;
      next = price * ratio * ratio * ratio;
    }
    if (inside(next)) return next;
    next = low_ > 0.0 ? std::sqrt(low_) * std::sqrt(high_) : high_ * 0x1p-20;
    return inside(next) ? next : low_ + 0.5 * (high_ - low_);
  }

 private:
  double k_;
  double low_ = 0.0;  // buys most_ > k_ runs
  double most_;
  double high_;  // buys least_ < k_
  double least_ = 1.0;
  int steps_ = 0;
};

struct Cheapest {
  Path path;           // k runs
  double price = 0.0;  // that bought them, or nearly
};

/// The cheapest cut into k runs, 1 < k < costs.size(), searched from a guess of the price.
template <class Costs>
[[nodiscard]] Cheapest cheapest_path(const Costs& costs, std::int64_t k, double guess) {
  const std::int64_t n = costs.size();
  PriceSearch search(k, n, costs.cost(0, n));
  Path many(n + 1);
  std::iota(many.begin(), many.end(), std::int64_t{0});
  Path few = {0, n};
  PricedPath<Costs> priced(costs);
  double price = search.start(guess);
  for (int step = 0; step < 200 && search.inside(price); ++step) {
    Path path = priced.find(price);
    const auto runs = static_cast<std::int64_t>(path.size()) - 1;
    if (runs == k) return {std::move(path), price};
    const double next = search.next(price, runs);
    (runs > k ? many : few) = std::move(path);
    price = next;
  }
  return {splice(few, many, k), price};
}

struct LowerBound {
  double bound = 0.0;  // no cut into k runs costs less
  Path path;           // about k runs, nearly the cheapest
};

/// At any price the cheapest path less k prices is a bound. Tries some, until one is `enough`.
template <class Costs>
[[nodiscard]] LowerBound lower_bound(const Costs& costs, std::int64_t k, double guess,
                                     double enough) {
  constexpr int kTries = 5;
  PriceSearch search(k, costs.size(), costs.cost(0, costs.size()));
  PricedPath<Costs> priced(costs);
  LowerBound result;
  double price = search.start(guess);
  for (int step = 0; step < kTries && search.inside(price); ++step) {
    Path path = priced.find(price);
    const auto runs = static_cast<std::int64_t>(path.size()) - 1;
    const double bound = priced.total() - static_cast<double>(k) * price;
    if (result.path.empty() || bound > result.bound) {
      result.bound = std::max(bound, 0.0);
      result.path = std::move(path);
    }
    if (runs == k || result.bound >= enough) break;
    price = search.next(price, runs);
  }
  return result;
}

}  // namespace moptcore::inline v0::cluster

// SPDX-License-Identifier: Apache-2.0
#include "cluster/optimal.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace moptcore::inline v0::cluster {
namespace {

using Path = std::vector<std::int64_t>;

// The cheapest way to cut points into any number of clusters that cost `price` each, where cuts
// are allowed at every `stride`-th point only. The cost of a run is a concave Monge function, so a
// later start of the last cluster, once better than an earlier one, stays better: the starts that
// are best for some end form a queue of intervals.
class PricedPath {
 public:
  PricedPath(const Points& points, std::int64_t stride)
      : points_(points), stride_(stride), n_((points.size() + stride - 1) / stride) {
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
    for (std::int64_t at = n_; at > 0; at = from_[at]) path.push_back(position(at));
    path.push_back(0);
    std::ranges::reverse(path);
    return path;
  }

 private:
  struct Candidate {
    std::int64_t start;
    std::int64_t from;  // the first end for which `start` is the best
  };

  [[nodiscard]] std::int64_t position(std::int64_t cut) const noexcept {
    return std::min(cut * stride_, points_.size());
  }

  [[nodiscard]] double through(std::int64_t start, std::int64_t end) const noexcept {
    return best_[start] + points_.cost(position(start), position(end));
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

  const Points& points_;
  std::int64_t stride_;
  std::int64_t n_;
  std::vector<double> best_;
  std::vector<std::int64_t> from_;
  std::vector<Candidate> queue_;
};

// Of two paths that are both the cheapest at one price, one with fewer than k clusters and one
// with more, the Monge property makes one with exactly k: where a cluster of the longer path lies
// within one of the shorter, the paths may be exchanged behind it.
Path splice(const Path& few, const Path& many, std::int64_t k) {
  const auto clusters = static_cast<std::int64_t>(few.size()) - 1;
  const std::int64_t shift = k - clusters;
  std::int64_t i = clusters - 1;
  while (few[i] > many[i + shift]) --i;
  Path path(many.begin(), many.begin() + i + shift + 1);
  path.insert(path.end(), few.begin() + i + 1, few.end());
  return path;
}

struct Bracket {
  double low = 0.0;   // at this price a path has more than k clusters
  double high = 0.0;  // at this one fewer
  Path many;
  Path few;
};

// Narrows the bracket until a path has k clusters, which is then returned, or the prices meet.
Path search(PricedPath& priced, std::int64_t k, double price, Bracket& bracket) {
  for (int step = 0; step < 200; ++step) {
    if (!(price > bracket.low && price < bracket.high)) break;
    Path path = priced.find(price);
    const auto clusters = static_cast<std::int64_t>(path.size()) - 1;
    if (clusters == k) return path;
    if (clusters > k) {
      bracket.low = price;
      bracket.many = std::move(path);
    } else {
      bracket.high = price;
      bracket.few = std::move(path);
    }
    // The error falls with 1 / k^2, so the price of the last cluster with 1 / k^3.
    const double ratio = static_cast<double>(clusters) / static_cast<double>(k);
    double next = price * ratio * ratio * ratio;
    const bool leaps = step % 3 != 2 && next > bracket.low && next < bracket.high;
    if (!leaps) {
      next = bracket.low > 0.0 ? std::sqrt(bracket.low) * std::sqrt(bracket.high)
                               : bracket.high * 0x1p-20;
      if (!(next > bracket.low && next < bracket.high)) {
        next = bracket.low + 0.5 * (bracket.high - bracket.low);
      }
    }
    price = next;
  }
  return {};
}

}  // namespace

std::vector<std::int64_t> optimal_borders(const Points& points, std::int64_t k) {
  const std::int64_t n = points.size();
  if (k == 1) return {0, n};
  Path all(n + 1);
  std::iota(all.begin(), all.end(), std::int64_t{0});
  if (k >= n) return all;
  const double total = points.cost(0, n);
  const auto cubed = static_cast<double>(k) * static_cast<double>(k) * static_cast<double>(k);
  double price = 2.0 * total / cubed;
  // A coarse search costs little and finds about the right price.
  const std::int64_t stride = n / std::max<std::int64_t>(4096, 32 * k);
  if (stride > 1) {
    PricedPath coarse(points, stride);
    Bracket bracket{0.0, 2.0 * total, {}, {}};
    for (int step = 0; step < 40; ++step) {
      const auto clusters = static_cast<double>(coarse.find(price).size() - 1);
      const double ratio = clusters / static_cast<double>(k);
      if (ratio == 1.0) break;
      (ratio > 1.0 ? bracket.low : bracket.high) = price;
      double next = price * ratio * ratio * ratio;
      if (step % 3 == 2 || !(next > bracket.low && next < bracket.high)) {
        next = bracket.low + 0.5 * (bracket.high - bracket.low);
      }
      price = next;
    }
  }
  Bracket bracket{0.0, 2.0 * total, all, {0, n}};
  PricedPath priced(points, 1);
  Path path = search(priced, k, price, bracket);
  return path.empty() ? splice(bracket.few, bracket.many, k) : path;
}

}  // namespace moptcore::inline v0::cluster

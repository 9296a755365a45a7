// SPDX-License-Identifier: Apache-2.0
// How a partition is proved to be near the optimum. A value x costs x^2 + g(x), where g, the least
// of some lines, is concave, whatever the centroids are. Within a cell [low, high] g lies above its
// chord, so that the cell costs no less than if its values lay at its two ends, as many at each as
// keep their mean, except for what their squares add by that: count (mean - low) (high - mean) -
// variance. The optimum of these ends, found by the same search, is therefore a lower bound, and
// the partition of the cells is near the optimum where few values lie in cells that hold a border.
// The variances of the cells are in both and cancel.
#include "cluster/approximate.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "cluster/points.hpp"
#include "cluster/priced_path.hpp"

namespace moptcore::inline v0::cluster {
namespace {

constexpr int kPasses = 6;  // over the values
constexpr std::int64_t kGroups = 1024;

// Neighbouring cells as groups: cuts are allowed between groups only.
class Grouped {
 public:
  Grouped(const Points& points, const Path& cuts) : points_(points), cuts_(cuts) {}

  [[nodiscard]] std::int64_t size() const noexcept {
    return static_cast<std::int64_t>(cuts_.size()) - 1;
  }
  [[nodiscard]] double cost(std::int64_t first, std::int64_t last) const noexcept {
    return points_.cost(cuts_[first], cuts_[last]);
  }

 private:
  const Points& points_;
  const Path& cuts_;
};

// The values of each group at its two ends.
class Ends {
 public:
  Ends(const std::vector<Cell>& cells, const Points& points, const Path& cuts, double centre) {
    struct End {
      double x;
      double w;
      std::int64_t at;  // 2 group + (0 or 1)
    };
    const auto groups = static_cast<std::int64_t>(cuts.size()) - 1;
    std::vector<End> ends;
    ends.reserve(2 * groups);
    for (std::int64_t i = 0; i < groups; ++i) {
      const double low = cells[cuts[i]].low - centre;
      const double high = cells[cuts[i + 1] - 1].high - centre;
      const double w = points.count_before(cuts[i + 1]) - points.count_before(cuts[i]);
      const double mean = std::clamp(points.quick_mean(cuts[i], cuts[i + 1]) - centre, low, high);
      const double above = high > low ? w * ((mean - low) / (high - low)) : 0.0;
      ends.push_back({low, w - above, 2 * i});
      ends.push_back({high, above, 2 * i + 1});
      excess_ += w * (mean - low) * (high - mean) - points.cost(cuts[i], cuts[i + 1]);
    }
    std::ranges::stable_sort(ends, {}, &End::x);
    places_.resize(ends.size());
    sums_.push_back({});
    Sums sums;
    double last = std::nan("");
    for (const End& end : ends) {
      sums.w += end.w;
      sums.x += end.w * end.x;
      sums.xx += end.w * end.x * end.x;
      // Equal ends are one point, so that there is no cut between them.
      end.x == last ? void(sums_.back() = sums) : sums_.push_back(sums);
      last = end.x;
      places_[end.at] = size() - 1;
    }
  }

  [[nodiscard]] std::int64_t size() const noexcept {
    return static_cast<std::int64_t>(sums_.size()) - 1;
  }
  [[nodiscard]] double cost(std::int64_t first, std::int64_t last) const noexcept {
    const Sums& a = sums_[first];
    const Sums& b = sums_[last];
    const double w = b.w - a.w;
    const double x = b.x - a.x;
    const double cost = w > 0.0 ? (b.xx - a.xx) - x * x / w : 0.0;
    return cost > 0.0 ? cost : 0.0;
  }

  /// What the squares of the ends add to those of the cells' means.
  [[nodiscard]] double excess() const noexcept { return excess_; }

  /// Groups with a cut between their ends.
  [[nodiscard]] std::vector<char> divided_by(const Path& path) const {
    std::vector<std::int64_t> before(sums_.size(), 0);
    for (std::size_t i = 1; i + 1 < path.size(); ++i) ++before[path[i]];
    for (std::size_t i = 1; i < before.size(); ++i) before[i] += before[i - 1];
    std::vector<char> divided(places_.size() / 2);
    for (std::size_t i = 0; i < divided.size(); ++i) {
      divided[i] = before[places_[2 * i]] != before[places_[2 * i + 1]] ? 1 : 0;
    }
    return divided;
  }

 private:
  struct Sums {
    double w = 0.0;
    double x = 0.0;
    double xx = 0.0;
  };
  std::vector<Sums> sums_;
  std::vector<std::int64_t> places_;
  double excess_ = 0.0;
};

// Groups of cells that are the narrower the nearer they are to a border. Where those of the bound
// run off to wider groups they gain little, and all move together at next to no cost.
Path graded(const Path& borders, std::int64_t least, std::int64_t slope) {
  Path cuts = {0};
  for (std::size_t i = 0; i + 1 < borders.size(); ++i) {
    const std::int64_t first = borders[i];
    const std::int64_t middle = first + (borders[i + 1] - first) / 2;
    const auto width = [&](std::int64_t distance) { return std::max(least, distance / slope); };
    for (std::int64_t at = first; at < middle;) {
      at = std::min(at + width(at - first), middle);
      cuts.push_back(at);
    }
    Path back;
    for (std::int64_t at = borders[i + 1]; at > middle; at -= width(borders[i + 1] - at)) {
      back.push_back(at);
    }
    cuts.insert(cuts.end(), back.rbegin(), back.rend());
  }
  return cuts;
}

// Cells as points, and what the search knows of them.
struct Problem {
  const std::vector<Cell>& cells;
  Points points;
  double centre = 0.0;
  double shift = 0.0;  // what all values, as one vector, are moved by

  static Problem of(const std::vector<Cell>& cells) {
    std::vector<double> means;
    std::vector<std::int64_t> counts;
    double moved = 0.0;
    double sum = 0.0;
    for (const Cell& cell : cells) {
      means.push_back(cell.mean);
      counts.push_back(cell.count);
      const auto count = static_cast<double>(cell.count);
      moved += count * cell.shift * cell.shift;
      sum += count * cell.mean;
    }
    Points points(std::move(means), std::move(counts));
    const double centre = sum / static_cast<double>(points.total());
    return {cells, std::move(points), centre, std::sqrt(moved)};
  }
};

Path each_alone(std::int64_t n) {
  Path path(n + 1);
  std::iota(path.begin(), path.end(), std::int64_t{0});
  return path;
}

// Borders, as positions of cells, of at most k clusters of groups.
Path best_borders(const Problem& problem, const Path& cuts, std::int64_t k, double& price) {
  const Grouped grouped(problem.points, cuts);
  if (k == 1) return {0, cuts.back()};
  if (k >= grouped.size()) return cuts;
  Cheapest cheapest = cheapest_path(grouped, k, price);
  price = cheapest.price;
  for (std::int64_t& at : cheapest.path) at = cuts[at];
  return std::move(cheapest.path);
}

// Whether clusters of this cost are proved to be near the optimum; and which groups hold borders of
// the bound.
bool is_proved(const Problem& problem, double cost, const Path& cuts, std::int64_t k, double price,
               double tolerance, std::vector<char>& divided) {
  // Distances to the nearest centroids, all values together as one vector, change by no more than
  // the values are moved.
  const double needed =
      std::pow((std::sqrt(cost) + problem.shift) / std::sqrt(1.0 + tolerance) + problem.shift, 2);
  const Ends ends(problem.cells, problem.points, cuts, problem.centre);
  LowerBound least;
  if (k == 1) {
    least = {ends.cost(0, ends.size()), {0, ends.size()}};
  } else if (k >= ends.size()) {
    least = {0.0, each_alone(ends.size())};
  } else {
    least = lower_bound(ends, k, price, needed + ends.excess());
  }
  divided = ends.divided_by(least.path);
  return least.bound - ends.excess() >= needed;
}

struct Division {
  std::vector<std::int64_t> positions;
  std::vector<std::int64_t> parts;
};

// The cells through which a border might cost more than the budget, where centroids to both sides
// are as far apart as those around, and cells that hold borders of the bound.
Division to_divide(const Problem& problem, const Path& borders,
                   const std::vector<double>& centroids, double budget,
                   const std::vector<char>& divided) {
  constexpr double kMostParts = 32768;
  Division result;
  const std::size_t k = centroids.size();
  for (std::size_t j = 0; j < k; ++j) {
    double gap = std::numeric_limits<double>::infinity();
    if (j > 0) gap = std::min(gap, centroids[j] - centroids[j - 1]);
    if (j + 1 < k) gap = std::min(gap, centroids[j + 1] - centroids[j]);
    for (std::int64_t i = borders[j]; i < borders[j + 1]; ++i) {
      const Cell& cell = problem.cells[i];
      const double width = cell.high - cell.low;
      if (!(width > 0.0)) continue;
      // Of p parts each holds a p-th of the values and is a p-th as wide.
      const double excess =
          0.5 * std::min(gap, 1e3 * width) * static_cast<double>(cell.count) * width;
      const double parts = budget > 0.0 ? std::ceil(std::sqrt(excess / budget)) : kMostParts;
      if (parts < 2.0 && divided[i] == 0) continue;
      result.positions.push_back(i);
      result.parts.push_back(static_cast<std::int64_t>(std::clamp(parts, 4.0, kMostParts)));
    }
  }
  return result;
}

}  // namespace

std::optional<std::vector<double>> approximate_centroids(Cells& all, std::int64_t k,
                                                         double tolerance) {
  double price = 0.0;
  double share = 0.5;
  for (int pass = 0; pass < kPasses; ++pass, share *= 0.25) {
    const Problem problem = Problem::of(all.cells());
    const std::int64_t n = problem.points.size();
    // Borders are found among wide groups first and then among ever narrower ones around them.
    Path cuts = graded({0, n}, std::max<std::int64_t>(1, n / std::max(kGroups, 8 * k)), n);
    Path borders = best_borders(problem, cuts, k, price);
    borders = best_borders(problem, graded(borders, 2, 4), k, price);
    borders = best_borders(problem, graded(borders, 1, 8), k, price);
    double cost = 0.0;
    std::vector<double> centroids;
    for (std::size_t i = 0; i + 1 < borders.size(); ++i) {
      cost += problem.points.cost(borders[i], borders[i + 1]);
      centroids.push_back(problem.points.mean(borders[i], borders[i + 1]));
    }
    std::vector<char> divided;
    cuts = graded(borders, 1, std::max<std::int64_t>(8, k));
    if (is_proved(problem, cost, cuts, k, price, tolerance, divided)) return centroids;
    cuts = each_alone(n);
    if (is_proved(problem, cost, cuts, k, price, tolerance, divided)) return centroids;

    const double budget = share * tolerance * cost / static_cast<double>(k);
    const auto [positions, parts] = to_divide(problem, borders, centroids, budget, divided);
    // Cells that hold few values each cost more than the values themselves.
    if (positions.empty() || 4 * n > problem.points.total()) break;
    all.divide(positions, parts);
  }
  return std::nullopt;
}

}  // namespace moptcore::inline v0::cluster

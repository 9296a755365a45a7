// SPDX-License-Identifier: Apache-2.0
#include <moptcore/lowrank/rank.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <string>

#include <moptcore/core/shape.hpp>

namespace moptcore::inline v0::lowrank {
namespace {

constexpr auto kWhere = "lowrank.allocate_ranks";

// One choice for a matrix: `rank` terms, or the matrix itself where rank is 0.
struct Point {
  std::int64_t rank;
  std::int64_t cost;
  double loss;
};

// From one corner of the hull of a matrix's points to the next.
struct Step {
  std::size_t matrix;
  std::size_t point;  // it leads from points[point] to points[point + 1] of the hull
  double gain_per_parameter;
};

// All sensible choices for a matrix, by cost; losses descend.
std::vector<Point> points_of(std::int64_t m, std::int64_t n, const std::vector<double>& values,
                             double importance) {
  const auto count = static_cast<std::int64_t>(values.size());
  std::vector<double> tail(values.size() + 1, 0.0);  // summed from the small end
  for (std::size_t i = values.size(); i-- > 0;) tail[i] = tail[i + 1] + values[i] * values[i];
  std::vector<Point> points;
  for (std::int64_t r = 1; r <= std::min(count, largest_useful_rank(m, n)); ++r) {
    points.push_back({r, r * (m + n), importance * tail[static_cast<std::size_t>(r)]});
  }
  points.push_back({0, m * n, 0.0});
  return points;
}

double slope(const Point& from, const Point& to) {
  return (from.loss - to.loss) / static_cast<double>(to.cost - from.cost);
}

// The corners at which the gain for a parameter falls; only keeping a matrix whole cuts any off.
std::vector<Point> hull_of(const std::vector<Point>& points) {
  std::vector<Point> hull;
  for (const Point& point : points) {
    while (hull.size() >= 2 &&
           slope(hull[hull.size() - 2], hull.back()) < slope(hull.back(), point)) {
      hull.pop_back();
    }
    hull.push_back(point);
  }
  return hull;
}

void check_arguments(const std::vector<std::vector<double>>& singular_values,
                     const std::vector<std::pair<std::int64_t, std::int64_t>>& shapes,
                     const AllocateOptions& options) {
  check(options.params.has_value() != options.error.has_value(), kWhere,
        "exactly one of params and error must be given");
  if (options.params) {
    check(*options.params > 0.0 && *options.params <= 1.0, kWhere, "params must be in (0, 1]",
          *options.params);
  }
  if (options.error) {
    check(*options.error >= 0.0 && *options.error < 1.0, kWhere, "error must be in [0, 1)",
          *options.error);
  }
  check(!shapes.empty(), kWhere, "shapes must hold one or more matrices");
  check(singular_values.size() == shapes.size(), kWhere,
        "singular_values must be as many as the shapes, " + std::to_string(shapes.size()),
        singular_values.size());
  check(options.importance.empty() || options.importance.size() == shapes.size(), kWhere,
        "importance must be as many as the shapes, " + std::to_string(shapes.size()),
        options.importance.size());
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const auto [m, n] = shapes[i];
    check(m >= 1 && n >= 1 && m <= (std::int64_t{1} << 31) && n <= (std::int64_t{1} << 31), kWhere,
          "shapes must hold extents in [1, 2^31]", Shape{m, n});
    const auto& values = singular_values[i];
    check(static_cast<std::int64_t>(values.size()) == std::min(m, n), kWhere,
          "singular_values must hold all " + std::to_string(std::min(m, n)) + " of matrix " +
              std::to_string(i),
          values.size());
    double before = std::numeric_limits<double>::max();
    for (const double value : values) {
      check(value >= 0.0 && value <= before, kWhere,
            "singular_values must be finite, >= 0 and descending", value);
      before = value;
    }
    if (!options.importance.empty()) {
      const double weight = options.importance[i];
      check(std::isfinite(weight) && weight >= 0.0, kWhere, "importance must be finite and >= 0",
            weight);
    }
  }
}

}  // namespace

std::vector<std::optional<std::int64_t>> allocate_ranks(
    const std::vector<std::vector<double>>& singular_values,
    const std::vector<std::pair<std::int64_t, std::int64_t>>& shapes,
    const AllocateOptions& options) {
  check_arguments(singular_values, shapes, options);
  std::vector<std::vector<Point>> all;
  std::vector<std::vector<Point>> hulls;
  std::vector<Step> steps;
  double total_cost = 0.0;  // sums of products of extents may leave 63 bits
  double total_loss = 0.0;
  double cost = 0.0;
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const auto [m, n] = shapes[i];
    double energy = 0.0;
    for (const double value : singular_values[i]) energy += value * value;
    const double importance = !options.importance.empty() ? options.importance[i]
                              : energy > 0.0              ? 1.0 / energy
                                                          : 0.0;
    all.push_back(points_of(m, n, singular_values[i], importance));
    hulls.push_back(hull_of(all.back()));
    const auto& hull = hulls.back();
    for (std::size_t p = 0; p + 1 < hull.size(); ++p) {
      steps.push_back({i, p, slope(hull[p], hull[p + 1])});
    }
    total_cost += static_cast<double>(m) * static_cast<double>(n);
    total_loss += importance * energy;
    cost += static_cast<double>(hull.front().cost);
  }
  std::ranges::stable_sort(steps, std::greater<>(), &Step::gain_per_parameter);

  std::vector<Point> chosen;
  for (const auto& hull : hulls) chosen.push_back(hull.front());
  if (options.params) {
    const double most = *options.params * total_cost;
    check(cost <= most, kWhere,
          "params must allow rank 1 everywhere, at least " + std::to_string(cost / total_cost),
          *options.params);
    std::vector<bool> closed(shapes.size(), false);
    for (const Step& step : steps) {
      if (closed[step.matrix] || step.gain_per_parameter <= 0.0) continue;
      // What does not fit whole may still fit in part: the points between two corners.
      Point& now = chosen[step.matrix];
      const Point& end = hulls[step.matrix][step.point + 1];
      Point best = now;
      for (const Point& point : all[step.matrix]) {
        const double grown = cost + static_cast<double>(point.cost - now.cost);
        if (point.cost > best.cost && point.cost <= end.cost && grown <= most) best = point;
      }
      closed[step.matrix] = best.cost != end.cost;
      cost += static_cast<double>(best.cost - now.cost);
      now = best;
    }
  } else {
    const double most = *options.error * *options.error * total_loss;
    // Summed anew each time: differences would not come to an exact 0.
    const auto without = [&](std::size_t matrix) {
      double sum = 0.0;
      for (std::size_t i = 0; i < chosen.size(); ++i) sum += i == matrix ? 0.0 : chosen[i].loss;
      return sum;
    };
    for (const Step& step : steps) {
      const double others = without(step.matrix);
      if (others + chosen[step.matrix].loss <= most) break;
      Point& now = chosen[step.matrix];
      const Point& end = hulls[step.matrix][step.point + 1];
      Point next = end;
      for (const Point& point : all[step.matrix]) {
        if (point.cost > now.cost && point.cost < next.cost && others + point.loss <= most) {
          next = point;
        }
      }
      now = next;
    }
  }
  std::vector<std::optional<std::int64_t>> ranks;
  for (const Point& point : chosen) {
    ranks.push_back(point.rank == 0 ? std::nullopt : std::optional(point.rank));
  }
  return ranks;
}

}  // namespace moptcore::inline v0::lowrank

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

constexpr auto kRanks = "lowrank.allocate_ranks";
constexpr auto kChoices = "lowrank.allocate_choices";
constexpr std::int64_t kWhole = -1;

// One choice for a tensor: its number, a rank or an index, or the tensor itself.
struct Point {
  std::int64_t label;
  std::int64_t cost;
  double loss;
};

// The choices of a tensor by cost, with descending losses; the tensor itself is the last.
using Points = std::vector<Point>;

// From one corner of the hull of a tensor's points to the next.
struct Step {
  std::size_t tensor;
  std::size_t point;  // it leads from points[point] to points[point + 1] of the hull
  double gain_per_parameter;
};

Points points_of(std::int64_t m, std::int64_t n, const std::vector<double>& values,
                 double importance) {
  const auto count = static_cast<std::int64_t>(values.size());
  std::vector<double> tail(values.size() + 1, 0.0);  // summed from the small end
  for (std::size_t i = values.size(); i-- > 0;) tail[i] = tail[i + 1] + values[i] * values[i];
  Points points;
  for (std::int64_t r = 1; r <= std::min(count, largest_useful_rank(m, n)); ++r) {
    points.push_back({r, r * (m + n), importance * tail[static_cast<std::size_t>(r)]});
  }
  points.push_back({kWhole, m * n, 0.0});
  return points;
}

Points points_of(const std::vector<Choice>& choices, std::int64_t size, double importance) {
  Points sorted;
  for (std::size_t i = 0; i < choices.size(); ++i) {
    if (choices[i].parameters >= size) continue;
    sorted.push_back(
        {static_cast<std::int64_t>(i), choices[i].parameters, importance * choices[i].loss});
  }
  std::ranges::stable_sort(sorted, [](const Point& a, const Point& b) {
    return a.cost != b.cost ? a.cost < b.cost : a.loss < b.loss;
  });
  Points points;
  for (const Point& point : sorted) {
    if (points.empty() || point.loss < points.back().loss) points.push_back(point);
  }
  points.push_back({kWhole, size, 0.0});
  return points;
}

double slope(const Point& from, const Point& to) {
  return (from.loss - to.loss) / static_cast<double>(to.cost - from.cost);
}

// The corners at which the gain for a parameter falls.
Points hull_of(const Points& points) {
  Points hull;
  for (const Point& point : points) {
    while (hull.size() >= 2 &&
           slope(hull[hull.size() - 2], hull.back()) < slope(hull.back(), point)) {
      hull.pop_back();
    }
    hull.push_back(point);
  }
  return hull;
}

void check_options(const AllocateOptions& options, std::size_t count, const char* counted,
                   const char* where) {
  check(options.params.has_value() != options.error.has_value(), where,
        "exactly one of params and error must be given");
  if (options.params) {
    check(*options.params > 0.0 && *options.params <= 1.0, where, "params must be in (0, 1]",
          *options.params);
  }
  if (options.error) {
    check(*options.error >= 0.0 && *options.error < 1.0, where, "error must be in [0, 1)",
          *options.error);
  }
  check(count > 0, where, std::string(counted) + " must not be empty");
  check(options.importance.empty() || options.importance.size() == count, where,
        std::string("importance must be as many as the ") + counted + ", " + std::to_string(count),
        options.importance.size());
  for (const double weight : options.importance) {
    check(std::isfinite(weight) && weight >= 0.0, where, "importance must be finite and >= 0",
          weight);
  }
}

void check_spectra(const std::vector<std::vector<double>>& singular_values,
                   const std::vector<std::pair<std::int64_t, std::int64_t>>& shapes) {
  check(singular_values.size() == shapes.size(), kRanks,
        "singular_values must be as many as the shapes, " + std::to_string(shapes.size()),
        singular_values.size());
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const auto [m, n] = shapes[i];
    check(m >= 1 && n >= 1 && m <= (std::int64_t{1} << 31) && n <= (std::int64_t{1} << 31), kRanks,
          "shapes must hold extents in [1, 2^31]", Shape{m, n});
    const auto& values = singular_values[i];
    check(static_cast<std::int64_t>(values.size()) == std::min(m, n), kRanks,
          "singular_values must hold all " + std::to_string(std::min(m, n)) + " of matrix " +
              std::to_string(i),
          values.size());
    double before = std::numeric_limits<double>::max();
    for (const double value : values) {
      check(value >= 0.0 && value <= before, kRanks,
            "singular_values must be finite, >= 0 and descending", value);
      before = value;
    }
  }
}

void check_choices(const std::vector<std::vector<Choice>>& choices,
                   const std::vector<std::int64_t>& sizes) {
  check(choices.size() == sizes.size(), kChoices,
        "choices must be as many as the sizes, " + std::to_string(sizes.size()), choices.size());
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    check(sizes[i] >= 1, kChoices, "sizes must be >= 1", sizes[i]);
    for (const Choice& choice : choices[i]) {
      check(choice.parameters >= 1, kChoices, "choices must have parameters >= 1",
            choice.parameters);
      check(choice.loss >= 0.0 && choice.loss <= 1.0, kChoices,
            "choices must have a loss in [0, 1]", choice.loss);
    }
  }
}

// The labels of the points to take. `total_loss` is what losing everything would cost; `least`
// says what the cheapest points are.
std::vector<std::int64_t> allocate(const std::vector<Points>& all, double total_loss,
                                   const AllocateOptions& options, const char* least,
                                   const char* where) {
  std::vector<Points> hulls;
  std::vector<Step> steps;
  double total_cost = 0.0;  // sums of products of extents may leave 63 bits
  double cost = 0.0;
  for (std::size_t i = 0; i < all.size(); ++i) {
    hulls.push_back(hull_of(all[i]));
    const Points& hull = hulls.back();
    for (std::size_t p = 0; p + 1 < hull.size(); ++p) {
      steps.push_back({i, p, slope(hull[p], hull[p + 1])});
    }
    total_cost += static_cast<double>(hull.back().cost);
    cost += static_cast<double>(hull.front().cost);
  }
  std::ranges::stable_sort(steps, std::greater<>(), &Step::gain_per_parameter);

  Points chosen;
  for (const auto& hull : hulls) chosen.push_back(hull.front());
  if (options.params) {
    const double most = *options.params * total_cost;
    check(cost <= most, where,
          std::string("params must allow ") + least + " everywhere, at least " +
              std::to_string(cost / total_cost),
          *options.params);
    std::vector<bool> closed(all.size(), false);
    for (const Step& step : steps) {
      if (closed[step.tensor] || step.gain_per_parameter <= 0.0) continue;
      // What does not fit whole may still fit in part: the points between two corners.
      Point& now = chosen[step.tensor];
      const Point& end = hulls[step.tensor][step.point + 1];
      Point best = now;
      for (const Point& point : all[step.tensor]) {
        const double grown = cost + static_cast<double>(point.cost - now.cost);
        if (point.cost > best.cost && point.cost <= end.cost && grown <= most) best = point;
      }
      closed[step.tensor] = best.cost != end.cost;
      cost += static_cast<double>(best.cost - now.cost);
      now = best;
    }
  } else {
    const double most = *options.error * *options.error * total_loss;
    // Summed anew each time: differences would not come to an exact 0.
    const auto without = [&](std::size_t tensor) {
      double sum = 0.0;
      for (std::size_t i = 0; i < chosen.size(); ++i) sum += i == tensor ? 0.0 : chosen[i].loss;
      return sum;
    };
    for (const Step& step : steps) {
      const double others = without(step.tensor);
      if (others + chosen[step.tensor].loss <= most) break;
      Point& now = chosen[step.tensor];
      const Point& end = hulls[step.tensor][step.point + 1];
      Point next = end;
      for (const Point& point : all[step.tensor]) {
        if (point.cost > now.cost && point.cost < next.cost && others + point.loss <= most) {
          next = point;
        }
      }
      now = next;
    }
  }
  std::vector<std::int64_t> labels;
  for (const Point& point : chosen) labels.push_back(point.label);
  return labels;
}

}  // namespace

std::vector<std::optional<std::size_t>> allocate_choices(
    const std::vector<std::vector<Choice>>& choices, const std::vector<std::int64_t>& sizes,
    const AllocateOptions& options) {
  check_options(options, sizes.size(), "sizes", kChoices);
  check_choices(choices, sizes);
  std::vector<Points> all;
  double total_loss = 0.0;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const double importance = options.importance.empty() ? 1.0 : options.importance[i];
    all.push_back(points_of(choices[i], sizes[i], importance));
    total_loss += importance;
  }
  std::vector<std::optional<std::size_t>> result;
  for (const std::int64_t label :
       allocate(all, total_loss, options, "the cheapest choice", kChoices)) {
    result.push_back(label == kWhole ? std::nullopt
                                     : std::optional(static_cast<std::size_t>(label)));
  }
  return result;
}

std::vector<std::optional<std::int64_t>> allocate_ranks(
    const std::vector<std::vector<double>>& singular_values,
    const std::vector<std::pair<std::int64_t, std::int64_t>>& shapes,
    const AllocateOptions& options) {
  check_options(options, shapes.size(), "shapes", kRanks);
  check_spectra(singular_values, shapes);
  std::vector<Points> all;
  double total_loss = 0.0;
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const auto [m, n] = shapes[i];
    double energy = 0.0;
    for (const double value : singular_values[i]) energy += value * value;
    const double importance = !options.importance.empty() ? options.importance[i]
                              : energy > 0.0              ? 1.0 / energy
                                                          : 0.0;
    all.push_back(points_of(m, n, singular_values[i], importance));
    total_loss += importance * energy;
  }
  std::vector<std::optional<std::int64_t>> ranks;
  for (const std::int64_t label : allocate(all, total_loss, options, "rank 1", kRanks)) {
    ranks.push_back(label == kWhole ? std::nullopt : std::optional(label));
  }
  return ranks;
}

}  // namespace moptcore::inline v0::lowrank

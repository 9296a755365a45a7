// SPDX-License-Identifier: Apache-2.0
#include "cluster/optimal.hpp"

#include <algorithm>
#include <numeric>

#include "cluster/doubled.hpp"
#include "cluster/priced_path.hpp"

namespace moptcore::inline v0::cluster {
namespace {

// Cuts are allowed at every `stride`-th point only.
template <class Costs>
class Strided {
 public:
  Strided(const Costs& costs, std::int64_t stride)
      : costs_(costs), stride_(stride), n_((costs.size() + stride - 1) / stride) {}

  [[nodiscard]] std::int64_t size() const noexcept { return n_; }
  [[nodiscard]] double cost(std::int64_t first, std::int64_t last) const noexcept {
    return costs_.cost(first * stride_, std::min(last * stride_, costs_.size()));
  }

 private:
  const Costs& costs_;
  std::int64_t stride_;
  std::int64_t n_;
};

template <class Costs>
Path cheapest_borders(const Costs& costs, std::int64_t k) {
  const std::int64_t n = costs.size();
  const auto cubed = static_cast<double>(k) * static_cast<double>(k) * static_cast<double>(k);
  double price = 2.0 * costs.cost(0, n) / cubed;
  // A coarse search costs little and finds about the right price.
  const std::int64_t stride = n / std::max<std::int64_t>(4096, 32 * k);
  if (stride > 1) price = cheapest_path(Strided(costs, stride), k, price).price;
  return cheapest_path(costs, k, price).path;
}

template <class Costs>
double cost_of(const Costs& costs, const Path& path) {
  double sum = 0.0;
  for (std::size_t i = 1; i < path.size(); ++i) sum += costs.cost(path[i - 1], path[i]);
  return sum;
}

}  // namespace

std::vector<std::int64_t> optimal_borders(const Points& points, std::int64_t k) {
  const std::int64_t n = points.size();
  if (k == 1) return {0, n};
  if (k >= n) {
    Path all(n + 1);
    std::iota(all.begin(), all.end(), std::int64_t{0});
    return all;
  }
  Path borders = cheapest_borders(points, k);
  // Prefix sums of a million values err by about 2^-43 of the last one: from here on by more than
  // a millionth of the result.
  constexpr double kNoise = 0x1p-23;
  if (cost_of(points, borders) > kNoise * points.cost(0, n)) return borders;
  return cheapest_borders(DoubledPoints(points), k);
}

}  // namespace moptcore::inline v0::cluster

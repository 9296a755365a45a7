// SPDX-License-Identifier: Apache-2.0
#include "cluster/optimal.hpp"

#include <algorithm>
#include <numeric>

#include "cluster/priced_path.hpp"

namespace moptcore::inline v0::cluster {
namespace {

// Cuts are allowed at every `stride`-th point only.
class Strided {
 public:
  Strided(const Points& points, std::int64_t stride)
      : points_(points), stride_(stride), n_((points.size() + stride - 1) / stride) {}

  [[nodiscard]] std::int64_t size() const noexcept { return n_; }
  [[nodiscard]] double cost(std::int64_t first, std::int64_t last) const noexcept {
    return points_.cost(first * stride_, std::min(last * stride_, points_.size()));
  }

 private:
  const Points& points_;
  std::int64_t stride_;
  std::int64_t n_;
};

}  // namespace

std::vector<std::int64_t> optimal_borders(const Points& points, std::int64_t k) {
  const std::int64_t n = points.size();
  if (k == 1) return {0, n};
  if (k >= n) {
    Path all(n + 1);
    std::iota(all.begin(), all.end(), std::int64_t{0});
    return all;
  }
  const auto cubed = static_cast<double>(k) * static_cast<double>(k) * static_cast<double>(k);
  double price = 2.0 * points.cost(0, n) / cubed;
  // A coarse search costs little and finds about the right price.
  const std::int64_t stride = n / std::max<std::int64_t>(4096, 32 * k);
  if (stride > 1) price = cheapest_path(Strided(points, stride), k, price).price;
  return cheapest_path(points, k, price).path;
}

}  // namespace moptcore::inline v0::cluster

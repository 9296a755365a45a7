// SPDX-License-Identifier: Apache-2.0
// The squared error of runs of points in twice the precision of a double, for values that lie in
// clumps much narrower than their distances: there the difference of two sums of squares is noise.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "cluster/points.hpp"

namespace moptcore::inline v0::cluster {

/// An unevaluated sum of two doubles, |low| <= ulp(high) / 2 (Dekker, 1971).
struct Doubled {
  double high = 0.0;
  double low = 0.0;
};

[[nodiscard]] inline Doubled doubled_sum(double a, double b) noexcept {
  const double sum = a + b;
  const double part = sum - a;
  return {sum, (a - (sum - part)) + (b - part)};
}

[[nodiscard]] inline Doubled doubled_product(double a, double b) noexcept {
  const double product = a * b;
  return {product, std::fma(a, b, -product)};
}

[[nodiscard]] inline Doubled operator+(const Doubled& a, const Doubled& b) noexcept {
  const Doubled sum = doubled_sum(a.high, b.high);
  const Doubled low = doubled_sum(a.low, b.low);
  const Doubled next = doubled_sum(sum.high, sum.low + low.high);
  return doubled_sum(next.high, next.low + low.low);
}

[[nodiscard]] inline Doubled operator-(const Doubled& a, const Doubled& b) noexcept {
  return a + Doubled{-b.high, -b.low};
}

[[nodiscard]] inline Doubled operator*(const Doubled& a, double b) noexcept {
  const Doubled product = doubled_product(a.high, b);
  return doubled_sum(product.high, std::fma(a.low, b, product.low));
}

[[nodiscard]] inline Doubled operator/(const Doubled& a, double b) noexcept {
  const double first = a.high / b;
  const Doubled rest = a - doubled_product(first, b);
  return doubled_sum(first, rest.high / b);
}

[[nodiscard]] inline Doubled squared(const Doubled& a) noexcept {
  const Doubled square = doubled_product(a.high, a.high);
  return doubled_sum(square.high, std::fma(2.0 * a.high, a.low, square.low));
}

/// Like Points for size() and cost(), about ten times slower.
class DoubledPoints {
 public:
  explicit DoubledPoints(const Points& points) : sums_(points.size() + 1) {
    Sums sums;
    for (std::int64_t i = 0; i < points.size(); ++i) {
      const double x = points.scaled_value(i);
      const double w = points.count_before(i + 1) - points.count_before(i);
      sums.w += w;
      sums.x = sums.x + doubled_product(x, w);
      sums.xx = sums.xx + doubled_product(x, x) * w;
      sums_[i + 1] = sums;
    }
  }

  [[nodiscard]] std::int64_t size() const noexcept {
    return static_cast<std::int64_t>(sums_.size()) - 1;
  }

  [[nodiscard]] double cost(std::int64_t first, std::int64_t last) const noexcept {
    const Sums& a = sums_[first];
    const Sums& b = sums_[last];
    const Doubled cost = (b.xx - a.xx) - squared(b.x - a.x) / (b.w - a.w);
    return cost.high > 0.0 ? cost.high : 0.0;
  }

 private:
  struct Sums {
    double w = 0.0;
    Doubled x;
    Doubled xx;
  };

  std::vector<Sums> sums_;
};

}  // namespace moptcore::inline v0::cluster

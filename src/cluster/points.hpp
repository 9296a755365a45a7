// SPDX-License-Identifier: Apache-2.0
// The values of a group in ascending order with their multiplicities, and prefix sums that give
// the squared error of any run of them in constant time.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace moptcore::inline v0::cluster {

class Points {
 public:
  /// Distinct values, ascending, and how often each occurs.
  Points(std::vector<double> values, std::vector<std::int64_t> counts);

  [[nodiscard]] std::int64_t size() const noexcept {
    return static_cast<std::int64_t>(values_.size());
  }
  [[nodiscard]] double value(std::int64_t i) const noexcept { return values_[i]; }
  /// The same in the units of cost().
  [[nodiscard]] double scaled_value(std::int64_t i) const noexcept { return values_[i] * scale_; }
  [[nodiscard]] std::int64_t total() const noexcept { return total_; }

  /// Occurrences of values [0, i).
  [[nodiscard]] double count_before(std::int64_t i) const noexcept { return sums_[i].w; }

  /// Mean of values [first, last), in which a single value is exactly itself.
  [[nodiscard]] double mean(std::int64_t first, std::int64_t last) const noexcept;

  /// The same in constant time, from the prefix sums.
  [[nodiscard]] double quick_mean(std::int64_t first, std::int64_t last) const noexcept;

  /// Sum of squared distances of values [first, last) to their mean, in units of 1 / scale()^2.
  [[nodiscard]] double cost(std::int64_t first, std::int64_t last) const noexcept {
    const Sums& a = sums_[first];
    const Sums& b = sums_[last];
    const double x = b.x - a.x;
    const double cost = (b.xx - a.xx) - x * x / (b.w - a.w);
    return cost > 0.0 ? cost : 0.0;
  }

  /// The same to any point: sum of w (x - value)^2.
  [[nodiscard]] double cost_to(std::int64_t first, std::int64_t last, double value) const noexcept;

  /// Values below or at `x`.
  [[nodiscard]] std::int64_t up_to(double x) const noexcept;

  /// Takes out the value zero; whether it was there.
  bool remove_zero();

 private:
  struct Sums {
    double w = 0.0;
    double x = 0.0;
    double xx = 0.0;
  };

  void sum();

  std::vector<double> values_;
  std::vector<std::int64_t> counts_;
  std::vector<Sums> sums_;
  std::int64_t total_ = 0;
  double scale_ = 1.0;   // a power of two that keeps squares in range
  double centre_ = 0.0;  // of the scaled values, so that little cancels
};

/// Sorted distinct values of a contiguous array; false where one is NaN or infinite.
[[nodiscard]] bool sort_values(const float* src, std::int64_t n, std::vector<double>& values,
                               std::vector<std::int64_t>& counts);
[[nodiscard]] bool sort_values(const double* src, std::int64_t n, std::vector<double>& values,
                               std::vector<std::int64_t>& counts);

}  // namespace moptcore::inline v0::cluster

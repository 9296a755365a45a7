// SPDX-License-Identifier: Apache-2.0
#include "cluster/points.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <utility>

namespace moptcore::inline v0::cluster {
namespace {

// Unsigned integers that sort as the floats do.
std::uint32_t key_of(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value + 0.0f);
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}
std::uint64_t key_of(double value) noexcept {
  const auto bits = std::bit_cast<std::uint64_t>(value + 0.0);
  return (bits >> 63) != 0 ? ~bits : bits | (std::uint64_t{1} << 63);
}
float value_of(std::uint32_t key) noexcept {
  return std::bit_cast<float>((key >> 31) != 0 ? key & 0x7fffffffu : ~key);
}
double value_of(std::uint64_t key) noexcept {
  return std::bit_cast<double>((key >> 63) != 0 ? key & ~(std::uint64_t{1} << 63) : ~key);
}

// Least significant digit first. Digits that all keys share cost no pass.
template <class Key>
void radix_sort(std::vector<Key>& keys) {
  constexpr int kBits = 11;
  constexpr int kPasses = (std::numeric_limits<Key>::digits + kBits - 1) / kBits;
  constexpr std::size_t kBins = std::size_t{1} << kBits;
  if (keys.size() < 4 * kBins) {
    std::ranges::sort(keys);
    return;
  }
  std::vector<std::array<std::int64_t, kBins>> starts(kPasses);
  for (auto& bins : starts) bins.fill(0);
  for (const Key key : keys) {
    for (int pass = 0; pass < kPasses; ++pass) {
      ++starts[pass][(key >> (pass * kBits)) & (kBins - 1)];
    }
  }
  std::vector<Key> other(keys.size());
  for (int pass = 0; pass < kPasses; ++pass) {
    auto& bins = starts[pass];
    if (std::ranges::find(bins, static_cast<std::int64_t>(keys.size())) != bins.end()) continue;
    std::int64_t start = 0;
    for (std::int64_t& bin : bins) start += std::exchange(bin, start);
    for (const Key key : keys) other[bins[(key >> (pass * kBits)) & (kBins - 1)]++] = key;
    keys.swap(other);
  }
}

template <class T>
bool sort_distinct(const T* src, std::int64_t n, std::vector<double>& values,
                   std::vector<std::int64_t>& counts) {
  using Key = decltype(key_of(T{}));
  std::vector<Key> keys(n);
  bool finite = true;
  for (std::int64_t i = 0; i < n; ++i) {
    finite = finite && std::isfinite(src[i]);
    keys[i] = key_of(src[i]);
  }
  if (!finite) return false;
  radix_sort(keys);
  values.clear();
  counts.clear();
  for (std::int64_t i = 0; i < n;) {
    std::int64_t j = i + 1;
    while (j < n && keys[j] == keys[i]) ++j;
    values.push_back(static_cast<double>(value_of(keys[i])));
    counts.push_back(j - i);
    i = j;
  }
  return true;
}

}  // namespace

Points::Points(std::vector<double> values, std::vector<std::int64_t> counts)
    : values_(std::move(values)), counts_(std::move(counts)) {
  sum();
}

void Points::sum() {
  sums_.assign(values_.size() + 1, Sums{});
  total_ = 0;
  if (values_.empty()) return;
  const double largest = std::max(std::abs(values_.front()), std::abs(values_.back()));
  // Squares of these summed over any tensor neither overflow nor vanish.
  constexpr double kLow = 0x1p-200;
  constexpr double kHigh = 0x1p+400;
  scale_ = 1.0;
  if (largest > 0.0 && (largest < kLow || largest > kHigh)) {
    scale_ = std::ldexp(1.0, std::clamp(-std::ilogb(largest), -1000, 1000));
  }
  double mean = 0.0;
  for (std::size_t i = 0; i < values_.size(); ++i) {
    total_ += counts_[i];
    mean += static_cast<double>(counts_[i]) * (values_[i] * scale_);
  }
  centre_ = mean / static_cast<double>(total_);
  Sums sums;
  for (std::size_t i = 0; i < values_.size(); ++i) {
    const auto w = static_cast<double>(counts_[i]);
    const double x = values_[i] * scale_ - centre_;
    sums.w += w;
    sums.x += w * x;
    sums.xx += w * x * x;
    sums_[i + 1] = sums;
  }
}

double Points::mean(std::int64_t first, std::int64_t last) const noexcept {
  const double start = values_[first] * scale_;
  double sum = 0.0;
  double weight = 0.0;
  for (std::int64_t i = first; i < last; ++i) {
    const auto w = static_cast<double>(counts_[i]);
    sum += w * (values_[i] * scale_ - start);
    weight += w;
  }
  const double mean = (start + sum / weight) / scale_;
  return std::clamp(mean, values_[first], values_[last - 1]);
}

double Points::quick_mean(std::int64_t first, std::int64_t last) const noexcept {
  const Sums& a = sums_[first];
  const Sums& b = sums_[last];
  const double mean = ((b.x - a.x) / (b.w - a.w) + centre_) / scale_;
  return std::clamp(mean, values_[first], values_[last - 1]);
}

double Points::cost_to(std::int64_t first, std::int64_t last, double value) const noexcept {
  const Sums& a = sums_[first];
  const Sums& b = sums_[last];
  const double c = value * scale_ - centre_;
  const double cost = (b.xx - a.xx) - 2.0 * c * (b.x - a.x) + c * c * (b.w - a.w);
  return cost > 0.0 ? cost : 0.0;
}

std::int64_t Points::up_to(double x) const noexcept {
  return std::ranges::upper_bound(values_, x) - values_.begin();
}

bool Points::remove_zero() {
  const auto at = std::ranges::lower_bound(values_, 0.0);
  if (at == values_.end() || *at != 0.0) return false;
  counts_.erase(counts_.begin() + (at - values_.begin()));
  values_.erase(at);
  sum();
  return true;
}

bool sort_values(const float* src, std::int64_t n, std::vector<double>& values,
                 std::vector<std::int64_t>& counts) {
  return sort_distinct(src, n, values, counts);
}

bool sort_values(const double* src, std::int64_t n, std::vector<double>& values,
                 std::vector<std::int64_t>& counts) {
  return sort_distinct(src, n, values, counts);
}

}  // namespace moptcore::inline v0::cluster

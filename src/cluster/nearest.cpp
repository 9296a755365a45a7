// SPDX-License-Identifier: Apache-2.0
#include "cluster/nearest.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <type_traits>

#include "kernels/rank.hpp"

namespace moptcore::inline v0::cluster {
namespace {

// Sign of 2 value - (a + b), exactly: a + b as the sum of two doubles, of which the second is too
// small to matter unless the first is equal.
int compare_to_middle(double value, double a, double b) noexcept {
  const double shrink = std::max(std::abs(a), std::abs(b)) > 0x1p+1000 ? 0x1p-4 : 1.0;
  value *= 2.0 * shrink;
  a *= shrink;
  b *= shrink;
  const double sum = a + b;
  if (value != sum) return value < sum ? -1 : 1;
  const double b_part = sum - a;
  const double error = (a - (sum - b_part)) + (b - b_part);
  return error == 0.0 ? 0 : error > 0.0 ? -1 : 1;
}

// The largest T that belongs to the lower one of two centroids.
template <class T>
T threshold(double low, double high, bool tie_is_low) noexcept {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  const auto is_low = [=](T value) {
    const int side = compare_to_middle(static_cast<double>(value), low, high);
    return side < 0 || (side == 0 && tie_is_low);
  };
  auto at = static_cast<T>(low * 0.5 + high * 0.5);
  while (!is_low(at)) at = std::nextafter(at, -kInfinity);
  for (T next = std::nextafter(at, kInfinity); is_low(next);
       next = std::nextafter(next, kInfinity)) {
    at = next;
  }
  return at;
}

}  // namespace

std::int64_t zero_centroid(std::span<const double> centroids) noexcept {
  const auto at = std::ranges::find(centroids, 0.0);
  return at == centroids.end() ? -1 : at - centroids.begin();
}

template <class T>
Nearest<T>::Nearest(std::span<const double> centroids, bool preserve_zeros, Compat compat)
    : preserve_zeros_(preserve_zeros), compat_(compat) {
  const auto k = static_cast<std::int64_t>(centroids.size());
  if (preserve_zeros) zero_ = zero_centroid(centroids);
  std::vector<std::int64_t> order;
  for (std::int64_t i = 0; i < k; ++i) {
    if (i != zero_ || k == 1) order.push_back(i);
  }
  std::ranges::stable_sort(order, {}, [&](std::int64_t i) { return centroids[i]; });
  for (const std::int64_t i : order) {
    if (!centroids_.empty() && centroids[i] == centroids_.back()) continue;
    identity_ = identity_ && i == static_cast<std::int64_t>(indices_.size());
    centroids_.push_back(centroids[i]);
    indices_.push_back(static_cast<std::uint16_t>(i));
  }
  const std::size_t borders = centroids_.size() - 1;
  const std::size_t padded = std::bit_ceil(borders + 1);
  top_ = static_cast<std::int64_t>(padded / 2);
  thresholds_.assign(padded, std::numeric_limits<T>::infinity());
  for (std::size_t i = 0; i < borders; ++i) {
    thresholds_[i] = threshold<T>(centroids_[i], centroids_[i + 1], indices_[i] < indices_[i + 1]);
  }
  make_table(static_cast<std::int64_t>(borders));
}

// About eight bins for each threshold leave few with more than one.
template <class T>
void Nearest<T>::make_table(std::int64_t borders) {
  constexpr int kMost = 8;
  if (borders < 2) return;
  const std::int64_t count = std::clamp<std::int64_t>(
      static_cast<std::int64_t>(std::bit_ceil(8 * thresholds_.size())), 256, std::int64_t{1} << 16);
  const T low = thresholds_.front();
  const T range = thresholds_[borders - 1] - low;
  const kernels::Bins<T> bins{low, static_cast<T>(count) / range,
                              static_cast<std::int32_t>(count - 1)};
  if (!(range > T{0}) || !std::isfinite(range) || !std::isfinite(bins.scale)) return;
  std::vector<std::int32_t> of_thresholds(borders);
  kernels::bin_in_range(thresholds_.data(), borders, bins, of_thresholds.data());
  std::vector<std::uint16_t> starts(count, 0);
  std::vector<int> within(count, 0);
  for (const std::int32_t bin : of_thresholds) ++within[bin];
  const int most = *std::ranges::max_element(within);
  if (most > kMost) return;
  int below = 0;
  for (std::int64_t bin = 0; bin < count; ++bin) {
    starts[bin] = static_cast<std::uint16_t>(below);
    below += within[bin];
  }
  bins_ = bins;
  starts_ = std::move(starts);
  most_ = most;
}

template <class T>
std::int64_t Nearest<T>::rank(T value) const noexcept {
  const T* at = thresholds_.data();
  for (std::int64_t step = top_; step > 0; step /= 2) at += at[step - 1] < value ? step : 0;
  return at - thresholds_.data();
}

template <class T>
template <class Index>
void Nearest<T>::rank(const T* src, std::int64_t n, Index* dst) const noexcept {
  if constexpr (std::is_same_v<T, float> && std::is_same_v<Index, std::uint8_t>) {
    const auto borders = static_cast<std::int64_t>(centroids_.size()) - 1;
    if (borders <= kernels::kMaxRanks) {
      kernels::rank_f32(src, n, thresholds_.data(), borders, dst);
      return;
    }
  }
  if (starts_.empty()) {
    for (std::int64_t i = 0; i < n; ++i) dst[i] = static_cast<Index>(rank(src[i]));
    return;
  }
  constexpr std::int64_t kBlock = 1024;
  std::array<std::int32_t, kBlock> bins;
  const std::uint16_t* starts = starts_.data();
  const T* thresholds = thresholds_.data();
  for (std::int64_t first = 0; first < n; first += kBlock) {
    const std::int64_t count = std::min(kBlock, n - first);
    const T* values = src + first;
    Index* found = dst + first;
    kernels::bin_in_range(values, count, bins_, bins.data());
    if (most_ == 1) {
      for (std::int64_t i = 0; i < count; ++i) {
        const unsigned at = starts[bins[i]];
        found[i] = static_cast<Index>(at + (thresholds[at] < values[i] ? 1u : 0u));
      }
      continue;
    }
    for (std::int64_t i = 0; i < count; ++i) {
      unsigned at = starts[bins[i]];
      // What lies at or below a threshold lies below those behind it as well.
      for (int step = 0; step < most_; ++step) at += thresholds[at] < values[i] ? 1u : 0u;
      found[i] = static_cast<Index>(at);
    }
  }
}

// Rounded distances may be equal where exact ones are not, so that a neighbour with a lower index
// wins; they grow with the exact ones, so that neighbours are enough.
template <class T>
std::int64_t Nearest<T>::tfmot_index(T value, std::int64_t near) const noexcept {
  const auto distance = [&](std::int64_t i) {
    return std::abs(value - static_cast<T>(centroids_[i]));
  };
  const auto k = static_cast<std::int64_t>(centroids_.size());
  const T least = distance(near);
  std::int64_t index = indices_[near];
  for (std::int64_t i = near - 1; i >= 0 && distance(i) == least; --i) {
    index = std::min<std::int64_t>(index, indices_[i]);
  }
  for (std::int64_t i = near + 1; i < k && distance(i) == least; ++i) {
    index = std::min<std::int64_t>(index, indices_[i]);
  }
  return index;
}

template <class T>
template <class Index>
bool Nearest<T>::find(const T* src, std::int64_t n, Index* dst) const noexcept {
  rank(src, n, dst);
  if (compat_ == Compat::tfmot) {
    for (std::int64_t i = 0; i < n; ++i) {
      dst[i] = static_cast<Index>(tfmot_index(src[i], dst[i]));
    }
  } else if (!identity_) {
    for (std::int64_t i = 0; i < n; ++i) dst[i] = static_cast<Index>(indices_[dst[i]]);
  }
  bool found = true;
  if (preserve_zeros_) {
    for (std::int64_t i = 0; i < n; ++i) {
      if (src[i] != T{0}) continue;
      found = found && zero_ >= 0;
      dst[i] = static_cast<Index>(zero_);
    }
  }
  return found;
}

template class Nearest<float>;
template class Nearest<double>;
template bool Nearest<float>::find(const float*, std::int64_t, std::uint8_t*) const noexcept;
template bool Nearest<float>::find(const float*, std::int64_t, std::uint16_t*) const noexcept;
template bool Nearest<double>::find(const double*, std::int64_t, std::uint8_t*) const noexcept;
template bool Nearest<double>::find(const double*, std::int64_t, std::uint16_t*) const noexcept;

}  // namespace moptcore::inline v0::cluster

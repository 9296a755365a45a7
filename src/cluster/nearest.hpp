// SPDX-License-Identifier: Apache-2.0
// The nearest of some centroids as a search among thresholds, exact to the last bit.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <moptcore/cluster/assign.hpp>

#include "kernels/nearest.hpp"

namespace moptcore::inline v0::cluster {

/// Where one of the centroids is pinned to zero: the first that equals zero, or -1.
[[nodiscard]] std::int64_t zero_centroid(std::span<const double> centroids) noexcept;

/// For weights held as T: float (and what float holds exactly) or double.
template <class T>
class Nearest {
 public:
  Nearest(std::span<const double> centroids, bool preserve_zeros, Compat compat);

  /// Indices of n weights. False where a weight is zero, zeros are preserved and no centroid is.
  template <class Index>
  [[nodiscard]] bool find(const T* src, std::int64_t n, Index* dst) const noexcept;

 private:
  template <class Index>
  void rank(const T* src, std::int64_t n, Index* dst) const noexcept;
  [[nodiscard]] std::int64_t rank(T value) const noexcept;
  [[nodiscard]] std::int64_t tfmot_index(T value, std::int64_t near) const noexcept;

  void make_table(std::int64_t borders);

  std::vector<T> thresholds_;           // padded with infinity to a power of two
  std::vector<double> centroids_;       // distinct, ascending
  std::vector<std::uint16_t> indices_;  // of these, in the order they came in
  std::int64_t top_ = 0;                // half of the power of two
  kernels::Bins<T> bins_;
  std::vector<std::uint16_t> starts_;  // thresholds below each bin; empty: no table
  int most_ = 0;                       // thresholds in one bin
  std::int64_t zero_ = -1;
  bool preserve_zeros_;
  bool identity_ = true;  // indices_[i] == i
  Compat compat_;
};

extern template class Nearest<float>;
extern template class Nearest<double>;

}  // namespace moptcore::inline v0::cluster

// SPDX-License-Identifier: Apache-2.0
#include "cluster/groups.hpp"

#include <algorithm>
#include <string>

#include <moptcore/core/parallel.hpp>

namespace moptcore::inline v0::cluster {

Groups::Groups(const Shape& shape, const Sharing& sharing, const char* where)
    : extent_(element_count(shape)), shared_(!sharing.axis && !sharing.group_size) {
  if (sharing.axis) {
    axis_ = normalize_axis(*sharing.axis, shape.rank(), where);
    const std::int64_t n = extent_;
    extent_ = shape[axis_];
    inner_ = extent_ == 0 ? 0 : n / extent_;
  }
  if (sharing.group_size) {
    check(*sharing.group_size >= 1, where, "group_size must be >= 1", *sharing.group_size);
    width_ = std::min(*sharing.group_size, std::max<std::int64_t>(extent_, 1));
  } else if (!sharing.axis) {
    width_ = std::max<std::int64_t>(extent_, 1);
  }
  count_ = shared_ ? 1 : block_count(extent_, width_);
}

std::int64_t Groups::size(std::int64_t group) const noexcept {
  return std::min(width_, extent_ - group * width_) * inner_;
}

std::int64_t Groups::columns(const AnyView& centroids, const char* where) const {
  if (shared_) {
    check(centroids.rank() == 1, where,
          "centroids must have 1 dimension without axis and group_size", centroids.shape());
  } else {
    check(centroids.rank() == 2 && centroids.shape()[0] == count_, where,
          "centroids must have shape (" + std::to_string(count_) + ", k)", centroids.shape());
  }
  const std::int64_t k = centroids.shape().back();
  check(k >= 1 && k <= kMaxClusters, where, "centroids must be 1 to 65536", k);
  return k;
}

}  // namespace moptcore::inline v0::cluster

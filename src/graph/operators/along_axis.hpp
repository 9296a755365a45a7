// SPDX-License-Identifier: Apache-2.0
// A tensor cut at one axis: outer x extent x inner elements.
#pragma once

#include <cstdint>

#include <moptcore/graph/operator.hpp>

namespace moptcore::inline v0::graph {

struct AlongAxis {
  std::int64_t outer = 1;
  std::int64_t extent = 1;
  std::int64_t inner = 1;

  /// Lines along the axis.
  [[nodiscard]] std::int64_t lines() const noexcept { return outer * inner; }
  /// Where line `index` starts; its elements lie `inner` apart.
  [[nodiscard]] std::int64_t start(std::int64_t index) const noexcept {
    return index / inner * extent * inner + index % inner;
  }
};

/// `axis` in [0, rank) of a tensor with elements.
[[nodiscard]] inline AlongAxis along_axis(const Shape& shape, int axis) noexcept {
  AlongAxis cut;
  for (int i = 0; i < shape.rank(); ++i) {
    (i < axis ? cut.outer : i == axis ? cut.extent : cut.inner) *= shape[i];
  }
  return cut;
}

/// An axis counted from the front; Error where it is none of `rank`.
[[nodiscard]] inline int checked_axis(const Call& call, std::int64_t axis, int rank) {
  call.require(axis >= -rank && axis < rank,
               "axis must be in [" + std::to_string(-rank) + ", " + std::to_string(rank) + ")",
               axis);
  return static_cast<int>(axis < 0 ? axis + rank : axis);
}

}  // namespace moptcore::inline v0::graph

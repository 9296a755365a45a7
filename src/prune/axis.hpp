// SPDX-License-Identifier: Apache-2.0
// Tensors seen around one of their axes.
#pragma once

#include <cstdint>

#include <moptcore/core/shape.hpp>
#include <moptcore/core/tensor_view.hpp>

namespace moptcore::inline v0::prune {

/// A tensor as [outer, extent, inner].
struct AxisSplit {
  AxisSplit(const Shape& shape, int axis) : extent(shape[axis]) {
    for (int i = 0; i < axis; ++i) outer *= shape[i];
    for (int i = axis + 1; i < shape.rank(); ++i) inner *= shape[i];
  }
  std::int64_t outer = 1;
  std::int64_t extent;
  std::int64_t inner = 1;
};

/// The same elements with the axis at place `to`, the others in their order.
[[nodiscard]] inline AnyView move_axis(const AnyView& view, int axis, int to) {
  Shape shape;
  Shape strides;
  for (int i = 0, from = 0; i < view.rank(); ++i) {
    if (from == axis) ++from;
    const int source = i == to ? axis : from++;
    shape.push_back(view.shape()[source]);
    strides.push_back(view.strides()[source]);
  }
  return {view.data(), view.dtype(), shape, strides};
}

/// A vector repeated along every axis of `shape` but one.
[[nodiscard]] inline AnyView spread(const AnyView& vector, const Shape& shape, int axis) {
  Shape strides;
  for (int i = 0; i < shape.rank(); ++i) strides.push_back(i == axis ? vector.strides()[0] : 0);
  return {vector.data(), vector.dtype(), shape, strides};
}

}  // namespace moptcore::inline v0::prune

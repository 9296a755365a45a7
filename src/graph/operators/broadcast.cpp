// SPDX-License-Identifier: Apache-2.0
#include "graph/operators/broadcast.hpp"

#include <algorithm>
#include <sstream>

namespace moptcore::inline v0::graph {
namespace {

[[noreturn]] void refuse_shapes(const Call& call, const Shape& common, const Shape& shape) {
  std::ostringstream rule;
  rule << "shapes must broadcast to each other, so far to " << common;
  throw Error(error_text(call.where(), rule.str(), shape));
}

}  // namespace

Shape broadcast_shape(const Call& call, std::span<const Shape* const> shapes) {
  int rank = 0;
  for (const Shape* shape : shapes) rank = std::max(rank, shape->rank());
  Shape result;
  for (int axis = 0; axis < rank; ++axis) result.push_back(1);
  for (const Shape* shape : shapes) {
    const int shift = rank - shape->rank();
    for (int axis = 0; axis < shape->rank(); ++axis) {
      const std::int64_t extent = (*shape)[axis];
      std::int64_t& common = result[axis + shift];
      if (extent == 1 || extent == common) continue;
      if (common != 1) refuse_shapes(call, result, *shape);
      common = extent;
    }
  }
  return result;
}

Broadcast::Broadcast(const Call& call, std::span<const Shape* const> shapes)
    : shape_(broadcast_shape(call, shapes)), size_(element_count(shape_)), steps_(shapes.size()) {
  if (size_ == 0) {  // strides of huge extents beside a 0 could overflow
    extents_[0] = 1;
    return;
  }
  const auto operands = static_cast<int>(shapes.size());
  std::vector<Shape> strides;
  for (const Shape* shape : shapes) strides.push_back(contiguous_strides(*shape));
  int last = -1;
  for (int axis = 0; axis < shape_.rank(); ++axis) {
    if (shape_[axis] == 1) continue;
    const auto step_of = [&](int i) -> std::int64_t {
      const int own = axis - (shape_.rank() - shapes[i]->rank());
      return own < 0 || (*shapes[i])[own] == 1 ? 0 : strides[i][own];
    };
    bool joins = last >= 0;
    for (int i = 0; i < operands && joins; ++i) {
      joins = steps_[i][last] == step_of(i) * shape_[axis];
    }
    if (joins) {
      extents_[last] *= shape_[axis];
    } else {
      extents_[++last] = shape_[axis];
    }
    for (int i = 0; i < operands; ++i) steps_[i][last] = step_of(i);
  }
  if (last < 0) extents_[last = 0] = 1;
  rank_ = last + 1;
}

}  // namespace moptcore::inline v0::graph

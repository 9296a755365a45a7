// SPDX-License-Identifier: Apache-2.0
// The one-dimensional slices of a tensor along one axis.
#pragma once

#include <moptcore/core/tensor_view.hpp>

#include "kernels/strided.hpp"

namespace moptcore::inline v0::distill {

/// Shape of a tensor without one axis.
[[nodiscard]] inline Shape without_axis(const Shape& shape, int axis) {
  Shape rest;
  for (int i = 0; i < shape.rank(); ++i) {
    if (i != axis) rest.push_back(shape[i]);
  }
  return rest;
}

/// Row number r of `View` (AnyView or MutableAnyView), in row-major order of the other axes.
template <class View>
class Rows {
 public:
  Rows(const View& view, int axis)
      : view_(view),
        outer_(without_axis(view.shape(), axis), without_axis(view.strides(), axis)),
        length_(view.shape()[axis]),
        stride_(view.strides()[axis]) {}

  [[nodiscard]] std::int64_t count() const noexcept { return outer_.size(); }

  [[nodiscard]] View operator[](std::int64_t row) const {
    return View(address(row), view_.dtype(), Shape{length_}, Shape{stride_});
  }

  /// Where the row lies, if it is contiguous values of type T; else nullptr.
  template <class T>
  [[nodiscard]] auto* contiguous(std::int64_t row) const noexcept {
    using Void = std::remove_pointer_t<decltype(view_.data())>;
    using Typed = std::conditional_t<std::is_const_v<Void>, const T, T>;
    const bool direct = view_.dtype() == dtype_of<T>() && (stride_ == 1 || length_ == 1);
    return direct ? static_cast<Typed*>(address(row)) : nullptr;
  }

 private:
  [[nodiscard]] auto* address(std::int64_t row) const noexcept {
    std::int64_t offset = 0;
    for (int axis = outer_.rank() - 1; axis > 0; --axis) {
      offset += row % outer_.shape()[axis] * outer_.strides()[axis];
      row /= outer_.shape()[axis];
    }
    if (outer_.rank() > 0) offset += row * outer_.strides()[0];
    using Void = std::remove_pointer_t<decltype(view_.data())>;
    using Byte = std::conditional_t<std::is_const_v<Void>, const char, char>;
    return static_cast<Void*>(static_cast<Byte*>(view_.data()) +
                              offset * (bit_width(view_.dtype()) / 8));
  }

  View view_;
  Layout outer_;
  std::int64_t length_;
  std::int64_t stride_;
};

}  // namespace moptcore::inline v0::distill

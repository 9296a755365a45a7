// SPDX-License-Identifier: Apache-2.0
// Which elements of a tensor share a codebook.
#pragma once

#include <cstdint>

#include <moptcore/cluster/assign.hpp>
#include <moptcore/core/tensor_view.hpp>

#include "kernels/strided.hpp"

namespace moptcore::inline v0::cluster {

class Groups {
 public:
  Groups(const Shape& shape, const Sharing& sharing, const char* where);

  [[nodiscard]] std::int64_t count() const noexcept { return count_; }
  [[nodiscard]] bool shared() const noexcept { return shared_; }  ///< centroids are a vector
  [[nodiscard]] std::int64_t size(std::int64_t group) const noexcept;
  [[nodiscard]] std::int64_t largest() const noexcept { return count_ == 0 ? 0 : size(0); }

  /// Throws unless `centroids` has the rows of these groups; returns its columns.
  std::int64_t columns(const AnyView& centroids, const char* where) const;

  /// A group as a tensor of its own, whose elements are [first(group), first(group) + size(group))
  /// of it in row-major order.
  template <class View>
  [[nodiscard]] View view(const View& tensor, std::int64_t group) const {
    if (axis_ < 0) return tensor;
    Shape shape = tensor.shape();
    const std::int64_t start = group * width_;
    shape[axis_] = std::min(width_, shape[axis_] - start);
    const std::int64_t bytes = bit_width(tensor.dtype()) / 8;
    using Byte = std::conditional_t<std::is_same_v<View, AnyView>, const char, char>;
    return View(static_cast<Byte*>(tensor.data()) + start * tensor.strides()[axis_] * bytes,
                tensor.dtype(), shape, tensor.strides());
  }
  [[nodiscard]] std::int64_t first(std::int64_t group) const noexcept {
    return axis_ < 0 ? group * width_ : 0;
  }

 private:
  int axis_ = -1;            // -1: elements in row-major order are grouped
  std::int64_t extent_ = 1;  // indices that are grouped
  std::int64_t inner_ = 1;   // elements of one index
  std::int64_t width_ = 1;   // indices of a group
  std::int64_t count_ = 1;
  bool shared_ = true;
};

}  // namespace moptcore::inline v0::cluster

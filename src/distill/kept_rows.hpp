// SPDX-License-Identifier: Apache-2.0
// The rows that a mask keeps, without gaps: masked rows are not even read, so that whatever
// padding holds, NaN too, reaches neither the loss nor a gradient.
#pragma once

#include <cstring>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <moptcore/core/tensor_view.hpp>

#include "distill/rows.hpp"

namespace moptcore::inline v0::distill {

[[nodiscard]] inline std::string shape_text(const Shape& shape) {
  std::ostringstream out;
  out << shape;
  return out.str();
}

/// The values of a mask, one byte each, after checks against the shape of the rows.
[[nodiscard]] inline std::vector<std::uint8_t> mask_values(const AnyView& mask, const Shape& rows,
                                                           std::string_view where) {
  check<DTypeError>(mask.dtype() == DType::boolean, where, "mask must be bool", name(mask.dtype()));
  check(mask.shape() == rows, where, "mask must have the shape of the rows " + shape_text(rows),
        mask.shape());
  std::vector<std::uint8_t> values(static_cast<std::size_t>(mask.size()));
  kernels::gather(mask, 0, mask.size(), values.data());
  return values;
}

/// The same elements with `axis` last.
template <class View>
[[nodiscard]] View axis_last(const View& view, int axis) {
  Shape shape = without_axis(view.shape(), axis);
  Shape strides = without_axis(view.strides(), axis);
  shape.push_back(view.shape()[axis]);
  strides.push_back(view.strides()[axis]);
  return View(view.data(), view.dtype(), shape, strides);
}

/// Packed copies of kept rows, and the way back. A row is what lies behind the leading axes of a
/// tensor that the mask counts.
class KeptRows {
 public:
  KeptRows(const AnyView& mask, const Shape& rows, std::string_view where)
      : mask_(mask_values(mask, rows, where)), rank_(rows.rank()) {
    for (const std::uint8_t kept : mask_) count_ += kept != 0 ? 1 : 0;
  }

  [[nodiscard]] std::int64_t count() const noexcept { return count_; }

  /// The kept rows [count, width] of `view`, which has the mask's rows in its leading axes.
  class Copy {
   public:
    Copy(std::int64_t count, std::int64_t width, DType dtype)
        : bytes_(static_cast<std::size_t>(count * width * (bit_width(dtype) / 8))),
          dtype_(dtype),
          shape_{count, width} {}

    [[nodiscard]] MutableAnyView view() { return {bytes_.data(), dtype_, shape_}; }
    [[nodiscard]] MutableAnyView flat() { return {bytes_.data(), dtype_, Shape{shape_[0]}}; }
    [[nodiscard]] std::uint8_t* data() { return bytes_.data(); }

   private:
    std::vector<std::uint8_t> bytes_;
    DType dtype_;
    Shape shape_;
  };

  [[nodiscard]] Copy empty(const AnyView& like) const {
    return {count_, width(like), like.dtype()};
  }

  [[nodiscard]] Copy pack(const AnyView& view) const {
    Copy copy = empty(view);
    const std::int64_t values = width(view);
    std::uint8_t* to = copy.data();
    for (std::size_t row = 0; row < mask_.size(); ++row) {
      if (mask_[row] == 0) continue;
      kernels::gather(view, static_cast<std::int64_t>(row) * values, values, to);
      to += values * (bit_width(view.dtype()) / 8);
    }
    return copy;
  }

  /// Writes the kept rows of `copy` into `view` and zeros into the others.
  void spread(Copy& copy, const MutableAnyView& view) const {
    const std::int64_t values = width(view);
    const std::int64_t bytes = values * (bit_width(view.dtype()) / 8);
    const std::vector<std::uint8_t> zeros(static_cast<std::size_t>(bytes));
    const std::uint8_t* from = copy.data();
    for (std::size_t row = 0; row < mask_.size(); ++row) {
      const bool kept = mask_[row] != 0;
      kernels::scatter(kept ? from : zeros.data(), static_cast<std::int64_t>(row) * values, values,
                       view);
      if (kept) from += bytes;
    }
  }

 private:
  [[nodiscard]] std::int64_t width(const AnyView& view) const {
    std::int64_t values = 1;
    for (int axis = rank_; axis < view.rank(); ++axis) values *= view.shape()[axis];
    return values;
  }

  std::vector<std::uint8_t> mask_;
  int rank_;
  std::int64_t count_ = 0;
};

}  // namespace moptcore::inline v0::distill

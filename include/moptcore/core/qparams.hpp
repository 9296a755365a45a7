// SPDX-License-Identifier: Apache-2.0
// What turns a real number into an integer and back: real = (integer - zero_point) * scale.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <moptcore/core/check.hpp>
#include <moptcore/core/dtype.hpp>
#include <moptcore/core/grid_type.hpp>
#include <moptcore/core/shape.hpp>

namespace moptcore::inline v0 {

/// Integers [qmin, qmax] and the real numbers that they stand for: (q - zero_point) * scale.
struct Grid {
  float scale = 1.0f;           ///< finite, > 0
  std::int32_t zero_point = 0;  ///< in [qmin, qmax]
  std::int32_t qmin = -128;
  std::int32_t qmax = 127;

  friend bool operator==(const Grid&, const Grid&) = default;
};

/// Grids that are someone else's memory: one for a whole tensor, one per index of `axis`, or one
/// for each `group_size` neighbours along `axis` (ONNX's block_size).
struct GridView {
  std::span<const float> scale;
  std::span<const std::int32_t> zero_point;
  std::int32_t qmin = -128;
  std::int32_t qmax = 127;
  std::optional<std::int64_t> axis = std::nullopt;        ///< none: one grid
  std::optional<std::int64_t> group_size = std::nullopt;  ///< none: one group an index of axis
  Shape shape = {};  ///< of scale where there are groups: grouped_shape of the tensor's
};

/// The shape of the scales of a tensor in groups: its own, but the extent n of `axis` becomes
/// ceil(n / group_size). A last group may be incomplete. `axis` must lie in [0, rank).
[[nodiscard]] inline Shape grouped_shape(Shape shape, int axis, std::int64_t group_size) {
  shape[axis] = shape[axis] == 0 ? 0 : (shape[axis] - 1) / group_size + 1;
  return shape;
}

/// Throws unless every scale is finite and > 0, qmin < qmax lie in [-32768, 65535], every zero
/// point lies in [qmin, qmax], scale and zero_point are equally long (one grid without axis) and
/// groups have a size, an axis and as many scales as their shape says.
inline void check_grids(const GridView& grids, std::string_view where) {
  check(grids.qmin < grids.qmax && grids.qmin >= -32768 && grids.qmax <= 65535, where,
        "qmin and qmax must be in [-32768, 65535] with qmin < qmax",
        std::to_string(grids.qmin) + " and " + std::to_string(grids.qmax));
  check(
      grids.scale.size() == grids.zero_point.size(), where,
      "zero_point must have as many elements as scale (" + std::to_string(grids.scale.size()) + ")",
      grids.zero_point.size());
  check(grids.axis.has_value() || grids.scale.size() == 1, where,
        "scale must be one number where axis is None", std::to_string(grids.scale.size()));
  if (grids.group_size) {
    check(*grids.group_size >= 1, where, "group_size must be at least 1", *grids.group_size);
    check(grids.axis.has_value(), where, "axis must be given where group_size is", "None");
    check(grids.shape.rank() >= 1 &&
              element_count(grids.shape) == static_cast<std::int64_t>(grids.scale.size()),
          where, "scale must have at least 1 dimension where group_size is given", grids.shape);
    (void)normalize_axis(*grids.axis, grids.shape.rank(), where);
  }
  for (const float scale : grids.scale) {
    check(std::isfinite(scale) && scale > 0.0f, where, "scale must be finite and > 0", scale);
  }
  for (const std::int32_t zero_point : grids.zero_point) {
    if (zero_point < grids.qmin || zero_point > grids.qmax) [[unlikely]] {
      throw Error(error_text(where,
                             "zero_point must be in [" + std::to_string(grids.qmin) + ", " +
                                 std::to_string(grids.qmax) + "]",
                             zero_point));
    }
  }
}

/// Scale, zero point and integer range of a quantized tensor. Holds no mutable state.
class QParams {
 public:
  struct Options {
    GridType dtype = DType::int8;                           ///< int8, uint8, int16 ..., FewLevels
    std::optional<std::int32_t> qmin = std::nullopt;        ///< none: the type's least integer
    std::optional<std::int32_t> qmax = std::nullopt;        ///< none: the type's greatest integer
    std::optional<std::int64_t> group_size = std::nullopt;  ///< none: no groups
    Shape scale_shape = {};                                 ///< of scale, where there are groups
  };

  /// One grid for the whole tensor.
  explicit QParams(float scale, std::int32_t zero_point = 0)
      : QParams(scale, zero_point, Options()) {}
  QParams(float scale, std::int32_t zero_point, const Options& options)
      : QParams({scale}, {zero_point}, std::nullopt, options) {}

  /// One grid per index of `axis`, which may count from the back; none: one grid. With a
  /// group_size one grid for each group of so many neighbours along `axis` and for each index of
  /// every other axis: scale and zero_point are row-major in options.scale_shape.
  /// Throws Error naming what is wrong: scale not finite or <= 0, zero_point outside
  /// [qmin, qmax], lengths that differ, a range that the type does not hold.
  QParams(std::vector<float> scale, std::vector<std::int32_t> zero_point,
          std::optional<std::int64_t> axis, const Options& options)
      : scale_(std::move(scale)),
        zero_point_(std::move(zero_point)),
        axis_(axis),
        group_size_(options.group_size),
        scale_shape_(options.group_size ? options.scale_shape : Shape{}),
        type_(options.dtype) {
    constexpr auto where = "quant.QParams";
    check<DTypeError>(is_quantized(type_), where, kGridTypeRule, name(type_));
    const auto [least, greatest] = integer_range(type_);
    qmin_ = options.qmin.value_or(least);
    qmax_ = options.qmax.value_or(greatest);
    if (qmin_ < least || qmax_ > greatest || qmin_ >= qmax_) [[unlikely]] {
      throw Error(error_text(where,
                             "qmin and qmax must satisfy " + std::to_string(least) +
                                 " <= qmin < qmax <= " + std::to_string(greatest) + " for " +
                                 std::string(name(type_)),
                             std::to_string(qmin_) + " and " + std::to_string(qmax_)));
    }
    check(!scale_.empty(), where, "scale must have at least one element", 0);
    // Whoever gave only qmin or qmax never named a zero point.
    const bool lacks_zero = qmin_ > 0 || qmax_ < 0;
    check(!lacks_zero || std::find(zero_point_.begin(), zero_point_.end(), 0) == zero_point_.end(),
          where,
          "zero_point must be in [" + std::to_string(qmin_) + ", " + std::to_string(qmax_) +
              "] (the default zero_point is 0)",
          0);
    check_grids(view(), where);
  }

  [[nodiscard]] const std::vector<float>& scale() const noexcept { return scale_; }
  [[nodiscard]] const std::vector<std::int32_t>& zero_point() const noexcept { return zero_point_; }
  [[nodiscard]] const std::optional<std::int64_t>& axis() const noexcept { return axis_; }
  [[nodiscard]] const std::optional<std::int64_t>& group_size() const noexcept {
    return group_size_;
  }
  /// The shape of scale and zero_point where there are groups, else rank 0.
  [[nodiscard]] const Shape& scale_shape() const noexcept { return scale_shape_; }
  [[nodiscard]] const GridType& type() const noexcept { return type_; }
  /// What stores the integers: the type's storage.
  [[nodiscard]] DType dtype() const noexcept { return type_.storage(); }
  [[nodiscard]] std::int32_t qmin() const noexcept { return qmin_; }
  [[nodiscard]] std::int32_t qmax() const noexcept { return qmax_; }

  /// Grids held: 1, the extent of the axis, or the number of groups.
  [[nodiscard]] std::int64_t size() const noexcept {
    return static_cast<std::int64_t>(scale_.size());
  }

  [[nodiscard]] Grid grid(std::int64_t index = 0) const noexcept {
    const auto i = static_cast<std::size_t>(index);
    return {scale_[i], zero_point_[i], qmin_, qmax_};
  }

  /// Valid as long as this object.
  [[nodiscard]] GridView view() const noexcept {
    return {scale_, zero_point_, qmin_, qmax_, axis_, group_size_, scale_shape_};
  }

  friend bool operator==(const QParams&, const QParams&) = default;

 private:
  std::vector<float> scale_;
  std::vector<std::int32_t> zero_point_;
  std::optional<std::int64_t> axis_;
  std::optional<std::int64_t> group_size_;
  Shape scale_shape_;
  GridType type_;
  std::int32_t qmin_ = 0;
  std::int32_t qmax_ = 0;
};

}  // namespace moptcore::inline v0

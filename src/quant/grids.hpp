// SPDX-License-Identifier: Apache-2.0
// Cuts the elements of a tensor into runs that share one grid, or that have a table of grids.
#pragma once

#include <moptcore/core/qparams.hpp>
#include <moptcore/core/shape.hpp>
#include <moptcore/quant/compat.hpp>

#include <algorithm>
#include <cstdint>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/grid.hpp"

namespace moptcore::inline v0::quant {

/// The axis of a tensor and what lies before and after it: element (o, c, i) of a tensor seen as
/// [outer, channels, inner]. Without an axis there is one channel.
struct ChannelLayout {
  std::int64_t channels = 1;
  std::int64_t inner = 1;

  ChannelLayout() = default;
  ChannelLayout(const Shape& shape, int axis) : channels(shape[axis]) {
    for (int after = axis + 1; after < shape.rank(); ++after) inner *= shape[after];
  }

  /// From this many elements in a row on, one kernel call a row is cheaper than a table.
  static constexpr std::int64_t kRow = 32;
  static constexpr std::int64_t kTable = 1024;

  [[nodiscard]] bool has_rows() const noexcept { return inner >= kRow; }
  [[nodiscard]] std::int64_t period() const noexcept { return channels * inner; }

  /// Elements of a table: whole periods, long enough that a run is worth a kernel call.
  [[nodiscard]] std::int64_t table_size() const noexcept {
    const std::int64_t p = std::max<std::int64_t>(period(), 1);
    return p * ((kTable + p - 1) / p);
  }

  /// Calls row(position, count, channel) where rows are long, else table(position, count, offset
  /// in the table), for consecutive runs that make up elements [first, first + n).
  template <class Row, class Table>
  void for_each_run(std::int64_t first, std::int64_t n, Row&& row, Table&& table) const {
    const std::int64_t last = first + n;
    if (has_rows()) {
      for (std::int64_t at = first; at < last;) {
        const std::int64_t count = std::min(inner - at % inner, last - at);
        row(at, count, at / inner % channels);
        at += count;
      }
    } else {
      const std::int64_t size = table_size();
      for (std::int64_t at = first; at < last;) {
        const std::int64_t offset = at % period();
        const std::int64_t count = std::min(size - offset, last - at);
        table(at, count, offset);
        at += count;
      }
    }
  }
};

[[nodiscard]] inline kernels::GridRule grid_rule(NonFinite nonfinite, Compat compat) noexcept {
  using kernels::NanPosition, kernels::Rounding;
  if (compat == Compat::torch) return {Rounding::multiply_even, NanPosition::low, true};
  const auto nan = nonfinite == NonFinite::zero_point ? NanPosition::zero : NanPosition::nan;
  const auto rounding = compat == Compat::tflite ? Rounding::divide_away : Rounding::divide_even;
  return {rounding, nan, false};
}

template <class T>
[[nodiscard]] kernels::GridStep<T> grid_step(const GridView& grids, std::size_t index,
                                             kernels::Rounding rounding) noexcept {
  const float scale = grids.scale[index];
  const std::int32_t zero = grids.zero_point[index];
  const float factor = rounding == kernels::Rounding::multiply_even ? 1.0f / scale : scale;
  return {static_cast<T>(factor), static_cast<T>(scale), static_cast<T>(grids.qmin - zero),
          static_cast<T>(grids.qmax - zero), static_cast<T>(zero)};
}

/// The grids of a tensor as the kernels take them.
template <class T>
class GridSteps {
 public:
  using Step = kernels::GridStep<T>;

  /// One grid for all elements.
  explicit GridSteps(const Step& one) : one_(one) {}

  /// One grid for each index of `axis`, whose extent must be their number.
  GridSteps(std::vector<Step> steps, std::int64_t axis, const Shape& shape, std::string_view where,
            std::string_view argument)
      : per_axis_(true) {
    check(shape.rank() > 0, where, "the tensor must have at least 1 dimension where axis is given",
          "shape ()");
    const int at = normalize_axis(axis, shape.rank(), where);
    if (static_cast<std::int64_t>(steps.size()) != shape[at]) [[unlikely]] {
      throw Error(error_text(where,
                             std::string(argument) + " must have " + std::to_string(shape[at]) +
                                 " elements, the extent of axis " + std::to_string(axis),
                             steps.size()));
    }
    layout_ = ChannelLayout(shape, at);
    rows_ = std::move(steps);
    if (element_count(shape) != 0 && !layout_.has_rows()) fill_table();
  }

  /// One grid for each group of `group_size` neighbours along an axis, row-major in `scales`, the
  /// shape that grouped_shape gives.
  GridSteps(std::vector<Step> steps, std::int64_t axis, std::int64_t group_size,
            const Shape& scales, const Shape& shape, std::string_view where)
      : per_axis_(true), group_size_(group_size) {
    check(shape.rank() > 0, where, "the tensor must have at least 1 dimension where axis is given",
          "shape ()");
    const int at = normalize_axis(axis, shape.rank(), where);
    const Shape expected = grouped_shape(shape, at, group_size);
    if (!(scales == expected)) [[unlikely]] {
      std::ostringstream rule;
      rule << "scale must have shape " << expected << ", one for each " << group_size
           << " along axis " << axis;
      throw Error(error_text(where, rule.str(), scales));
    }
    layout_ = ChannelLayout(shape, at);
    groups_ = expected[at];
    rows_ = std::move(steps);
    if (element_count(shape) != 0 && layout_.inner != 1) fill_group_table();
  }

  /// Checks the grids and takes them over.
  static GridSteps from(const GridView& grids, const Shape& shape, kernels::Rounding rounding,
                        std::string_view where) {
    check_grids(grids, where);
    if (!grids.axis) return GridSteps(grid_step<T>(grids, 0, rounding));
    std::vector<Step> steps;
    steps.reserve(grids.scale.size());
    for (std::size_t c = 0; c < grids.scale.size(); ++c) {
      steps.push_back(grid_step<T>(grids, c, rounding));
    }
    if (grids.group_size) {
      return GridSteps(std::move(steps), *grids.axis, *grids.group_size, grids.shape, shape, where);
    }
    return GridSteps(std::move(steps), *grids.axis, shape, where, "scale");
  }

  /// Calls one(position, count, GridStep) or many(position, count, GridTable) for consecutive
  /// runs that make up elements [first, first + n).
  template <class One, class Many>
  void for_each_run(std::int64_t first, std::int64_t n, One&& one, Many&& many) const {
    if (!per_axis_) {
      one(first, n, one_);
      return;
    }
    if (group_size_ != 0) {
      for_each_group(first, n, one, many);
      return;
    }
    layout_.for_each_run(
        first, n,
        [&](std::int64_t at, std::int64_t count, std::int64_t channel) {
          one(at, count, rows_[static_cast<std::size_t>(channel)]);
        },
        [&](std::int64_t at, std::int64_t count, std::int64_t offset) {
          const T* data = table_.data() + offset;
          const std::int64_t size = layout_.table_size();
          many(at, count,
               kernels::GridTable<T>{data, data + size, data + 2 * size, data + 3 * size,
                                     data + 4 * size});
        });
  }

  /// True where every run but the last starts and ends at a multiple of 8 elements.
  [[nodiscard]] bool has_whole_bytes() const noexcept {
    if (!per_axis_) return true;
    if (group_size_ != 0) {
      return layout_.inner == 1 ? group_size_ % 8 == 0 && layout_.channels % 8 == 0
                                : layout_.inner % 8 == 0;
    }
    return (layout_.has_rows() ? layout_.inner : layout_.period()) % 8 == 0;
  }

 private:
  // Neighbours share a grid where the axis is the last one; else each of a row has its own and the
  // table has the scales' shape.
  template <class One, class Many>
  void for_each_group(std::int64_t first, std::int64_t n, One&& one, Many&& many) const {
    const std::int64_t last = first + n;
    const std::int64_t inner = layout_.inner;
    for (std::int64_t at = first; at < last;) {
      const std::int64_t i = at % inner;
      const std::int64_t c = at / inner % layout_.channels;
      const std::int64_t row = at / inner / layout_.channels * groups_ + c / group_size_;
      if (inner == 1) {
        const std::int64_t rest = std::min(group_size_ - c % group_size_, layout_.channels - c);
        const std::int64_t count = std::min(rest, last - at);
        one(at, count, rows_[static_cast<std::size_t>(row)]);
        at += count;
      } else {
        const std::int64_t count = std::min(inner - i, last - at);
        const auto size = static_cast<std::int64_t>(rows_.size());
        const T* data = table_.data() + row * inner + i;
        many(at, count,
             kernels::GridTable<T>{data, data + size, data + 2 * size, data + 3 * size,
                                   data + 4 * size});
        at += count;
      }
    }
  }

  void fill_group_table() {
    const std::size_t size = rows_.size();
    table_.resize(5 * size);
    for (std::size_t at = 0; at < size; ++at) {
      table_[at] = rows_[at].factor;
      table_[at + size] = rows_[at].scale;
      table_[at + 2 * size] = rows_[at].low;
      table_[at + 3 * size] = rows_[at].high;
      table_[at + 4 * size] = rows_[at].zero;
    }
  }

  void fill_table() {
    const auto size = static_cast<std::size_t>(layout_.table_size());
    table_.resize(5 * size);
    std::size_t at = 0;
    while (at < size) {
      for (const Step& step : rows_) {
        for (std::int64_t i = 0; i < layout_.inner; ++i, ++at) {
          table_[at] = step.factor;
          table_[at + size] = step.scale;
          table_[at + 2 * size] = step.low;
          table_[at + 3 * size] = step.high;
          table_[at + 4 * size] = step.zero;
        }
      }
    }
  }

  Step one_;
  ChannelLayout layout_;
  std::vector<Step> rows_;
  std::vector<T> table_;
  bool per_axis_ = false;
  std::int64_t group_size_ = 0;  // 0: no groups
  std::int64_t groups_ = 0;      // along the axis
};

}  // namespace moptcore::inline v0::quant

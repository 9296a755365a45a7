// SPDX-License-Identifier: Apache-2.0
// Shapes and strides: at most kMaxRank signed 64-bit numbers, held in place.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <ostream>
#include <ranges>
#include <span>

#include <moptcore/core/check.hpp>

namespace moptcore::inline v0 {

inline constexpr int kMaxRank = 16;

/// Extents of a tensor, or its strides in elements. Rank 0 is one element.
class Shape {
 public:
  Shape() = default;

  Shape(std::initializer_list<std::int64_t> extents)
      : Shape(std::span<const std::int64_t>(extents.begin(), extents.size())) {}

  explicit Shape(std::span<const std::int64_t> extents) {
    check<UnsupportedError>(extents.size() <= kMaxRank, "core.Shape",
                            "a tensor must have at most 16 dimensions", extents.size());
    rank_ = static_cast<int>(extents.size());
    std::ranges::copy(extents, extents_.begin());
  }

  /// From any sized range of integers, such as the shape() of an xtensor container.
  template <std::ranges::sized_range R>
    requires std::integral<std::remove_cvref_t<std::ranges::range_value_t<R>>> &&
             (!std::convertible_to<const R&, std::span<const std::int64_t>>)
  explicit Shape(const R& extents) {
    check<UnsupportedError>(std::ranges::size(extents) <= kMaxRank, "core.Shape",
                            "a tensor must have at most 16 dimensions", std::ranges::size(extents));
    for (const auto extent : extents) extents_[rank_++] = static_cast<std::int64_t>(extent);
  }

  [[nodiscard]] int rank() const noexcept { return rank_; }
  [[nodiscard]] std::size_t size() const noexcept { return static_cast<std::size_t>(rank_); }
  [[nodiscard]] bool empty() const noexcept { return rank_ == 0; }
  [[nodiscard]] std::int64_t operator[](int axis) const noexcept { return extents_[axis]; }
  [[nodiscard]] std::int64_t& operator[](int axis) noexcept { return extents_[axis]; }
  [[nodiscard]] const std::int64_t* begin() const noexcept { return extents_.data(); }
  [[nodiscard]] const std::int64_t* end() const noexcept { return extents_.data() + rank_; }
  [[nodiscard]] std::int64_t back() const noexcept { return extents_[rank_ - 1]; }

  void push_back(std::int64_t extent) {
    check<UnsupportedError>(rank_ < kMaxRank, "core.Shape",
                            "a tensor must have at most 16 dimensions", rank_ + 1);
    extents_[rank_++] = extent;
  }

  friend bool operator==(const Shape& a, const Shape& b) noexcept {
    return std::ranges::equal(a, b);
  }

  /// (2, 3), as Python prints it.
  friend std::ostream& operator<<(std::ostream& out, const Shape& shape) {
    out << '(';
    for (int axis = 0; axis < shape.rank_; ++axis) {
      out << (axis == 0 ? "" : ", ") << shape.extents_[axis];
    }
    return out << (shape.rank_ == 1 ? ",)" : ")");
  }

 private:
  std::array<std::int64_t, kMaxRank> extents_{};
  int rank_ = 0;
};

/// Number of elements; refuses negative extents and products beyond 2^63 - 1.
[[nodiscard]] inline std::int64_t element_count(const Shape& shape) {
  std::int64_t count = 1;
  bool zero = false;
  for (const std::int64_t extent : shape) {
    check(extent >= 0, "core.Shape", "extents must be >= 0", shape);
    zero = zero || extent == 0;
  }
  if (zero) return 0;
  for (const std::int64_t extent : shape) {
    check(count <= std::numeric_limits<std::int64_t>::max() / extent, "core.Shape",
          "the number of elements must fit in 63 bits", shape);
    count *= extent;
  }
  return count;
}

/// Row-major strides in elements.
[[nodiscard]] inline Shape contiguous_strides(const Shape& shape) noexcept {
  Shape strides = shape;
  std::int64_t step = 1;
  for (int axis = shape.rank() - 1; axis >= 0; --axis) {
    strides[axis] = step;
    step *= std::max<std::int64_t>(shape[axis], 1);
  }
  return strides;
}

/// The axis counted from the front; throws std::out_of_range (IndexError in Python).
[[nodiscard]] inline int normalize_axis(std::int64_t axis, int rank, std::string_view where) {
  if (axis < -rank || axis >= rank) [[unlikely]] {
    throw std::out_of_range(error_text(
        where, "axis must be in [" + std::to_string(-rank) + ", " + std::to_string(rank) + ")",
        axis));
  }
  return static_cast<int>(axis < 0 ? axis + rank : axis);
}

}  // namespace moptcore::inline v0

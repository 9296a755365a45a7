// SPDX-License-Identifier: Apache-2.0
// What operators that only move elements share: elements of any type as units of a width, axes and
// indices that a file names, checked.
#pragma once

#include <algorithm>
#include <array>
#include <complex>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "graph/operators/strided.hpp"
#include "graph/operators/types.hpp"

namespace moptcore::inline v0::graph {

/// f.operator()<T>() with T an unsigned integer as wide as an element, or std::complex<double>, or
/// std::string. Types that share bytes have to be run through `moving` first.
template <class F>
decltype(auto) visit_units(const Call& call, ElementType type, F&& f) {
  if (type == ElementType::string) return std::forward<F>(f).template operator()<std::string>();
  return visit_width(call, type, std::forward<F>(f));
}

template <class T>
[[nodiscard]] const T* units(const Tensor& tensor) {
  if constexpr (std::is_same_v<T, std::string>) return tensor.strings().data();
  else return static_cast<const T*>(tensor.raw());
}

template <class T>
[[nodiscard]] T* mutable_units(Tensor& tensor) {
  if constexpr (std::is_same_v<T, std::string>) return tensor.mutable_strings().data();
  else return static_cast<T*>(tensor.mutable_raw());
}

/// Runs `op` with every input of a packed type replaced by uint8, an element a byte, and packs the
/// outputs again that it makes of them.
void run_unpacked(Call& call, OperatorFunction op);

template <OperatorFunction op>
void moving(Call& call) {
  run_unpacked(call, op);
}

/// Tensors of one type joined along an axis. Throws Error where they do not fit together.
[[nodiscard]] Tensor concatenated(const Call& call, std::span<const Tensor> parts,
                                  std::int64_t axis);

/// The same elements with a new axis of extent 1 before `axis`.
[[nodiscard]] Tensor with_axis(const Tensor& tensor, int axis);

/// Elements that share bytes, each in a byte of its own; other tensors as they are.
[[nodiscard]] Tensor unpacked(const Call& call, const Tensor& tensor);

/// The reverse, of bytes into elements of `type`.
[[nodiscard]] Tensor packed(const Call& call, const Tensor& bytes, ElementType type);

/// An axis counted from the front, of a tensor with `rank` axes. Throws Error.
[[nodiscard]] inline int axis_of(const Call& call, std::int64_t axis, int rank) {
  if (axis < -rank || axis >= rank) [[unlikely]] {
    throw Error(error_text(
        call.where(),
        "axis must be in [" + std::to_string(-rank) + ", " + std::to_string(rank) + ")", axis));
  }
  return static_cast<int>(axis < 0 ? axis + rank : axis);
}

/// Axes counted from the front, none twice.
[[nodiscard]] std::vector<int> axes_of(const Call& call, const std::vector<std::int64_t>& axes,
                                       int rank);

/// Index `at` of `extent` places, counted from the back where it is negative. Throws Error.
[[nodiscard]] inline std::int64_t index_of(const Call& call, std::int64_t at, std::int64_t extent) {
  if (at < -extent || at >= extent) [[unlikely]] {
    throw Error(error_text(
        call.where(),
        "indices must be in [" + std::to_string(-extent) + ", " + std::to_string(extent) + ")",
        at));
  }
  return at < 0 ? at + extent : at;
}

/// a * b; throws Error where that, of numbers >= 0, does not fit.
[[nodiscard]] inline std::int64_t checked_product(const Call& call, std::int64_t a,
                                                  std::int64_t b) {
  std::int64_t product = 0;
  call.require(!__builtin_mul_overflow(a, b, &product), "sizes must fit in 63 bits", a);
  return product;
}

[[nodiscard]] inline std::int64_t checked_sum(const Call& call, std::int64_t a, std::int64_t b) {
  std::int64_t sum = 0;
  call.require(!__builtin_add_overflow(a, b, &sum), "sizes must fit in 63 bits", a);
  return sum;
}

/// Products of the extents before, at and behind an axis: element (o, i, k) of the three lies at
/// (o * extent + i) * inner + k.
struct Around {
  std::int64_t outer = 1;
  std::int64_t extent = 1;
  std::int64_t inner = 1;
};

[[nodiscard]] inline Around around(const Shape& shape, int axis) {
  Around result;
  // The extents of a tensor without elements may have products beyond 63 bits.
  if (element_count(shape) == 0) {
    for (int i = 0; i < axis; ++i) result.outer = std::min<std::int64_t>(result.outer, shape[i]);
    for (int i = axis + 1; i < shape.rank(); ++i) {
      result.inner = std::min<std::int64_t>(result.inner, shape[i]);
    }
    result.extent = shape[axis];
    return result;
  }
  for (int i = 0; i < axis; ++i) result.outer *= shape[i];
  result.extent = shape[axis];
  for (int i = axis + 1; i < shape.rank(); ++i) result.inner *= shape[i];
  return result;
}

/// Elements of `in` in steps of `from`, offset included, written row-major into output 0.
template <class T>
void copy_rows(T* out, const Shape& extents, const T* in, const Shape& from) {
  std::array<StridedAxis, kMaxRank> axes;
  const Shape to = contiguous_strides(extents);
  for (int axis = 0; axis < extents.rank(); ++axis) {
    axes[axis] = {extents[axis], from[axis], to[axis]};
  }
  copy_strided<T>(out, in, {axes.data(), extents.size()});
}

}  // namespace moptcore::inline v0::graph

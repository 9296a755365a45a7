// SPDX-License-Identifier: Apache-2.0
// How the float32 elements of a tensor lie in memory: row by row, with strides, or in the blocks
// that oneDNN chose.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include <moptcore/core/shape.hpp>

namespace moptcore::inline v0::kernels::onednn {

/// Immutable and cheap to copy. The shape is the tensor's own; none of its extents is 0.
class Layout {
 public:
  struct State;

  /// Of nothing.
  Layout() = default;

  /// Row-major. Throws std::runtime_error for shapes that oneDNN cannot describe.
  explicit Layout(const Shape& shape);
  Layout(const Shape& shape, const Shape& strides);
  explicit Layout(std::shared_ptr<const State> state) : state_(std::move(state)) {}

  [[nodiscard]] bool empty() const noexcept { return state_ == nullptr; }
  [[nodiscard]] const Shape& shape() const noexcept;
  /// Of the whole buffer, padding included.
  [[nodiscard]] std::int64_t bytes() const noexcept;
  [[nodiscard]] bool is_row_major() const noexcept;
  /// True where the buffer holds each element once and nothing else.
  [[nodiscard]] bool is_dense() const noexcept;
  /// True where every element lies at a sum of strides.
  [[nodiscard]] bool is_strided() const noexcept;
  /// Of a strided layout, one per axis.
  [[nodiscard]] Shape strides() const;
  /// What a transposition makes of it: axis i of the result is axis axes[i].
  [[nodiscard]] Layout transposed(std::span<const int> axes) const;

  /// The same memory with an axis of extent 1 more at `axis`, or with that axis left out.
  [[nodiscard]] Layout with_axis(int axis) const;
  [[nodiscard]] Layout without_axis(int axis) const;

  [[nodiscard]] const State& state() const noexcept { return *state_; }
  friend bool operator==(const Layout& a, const Layout& b) noexcept;

 private:
  std::shared_ptr<const State> state_;
};

}  // namespace moptcore::inline v0::kernels::onednn

// SPDX-License-Identifier: Apache-2.0
// Multidirectional broadcasting: one odometer over any number of operands, whose inner runs are
// contiguous or one value repeated.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <vector>

#include <moptcore/core/parallel.hpp>
#include <moptcore/graph/operator.hpp>

namespace moptcore::inline v0::graph {

/// The shape that shapes broadcast to, aligned at their last axes. Throws Error where extents
/// differ and neither is 1.
[[nodiscard]] Shape broadcast_shape(const Call& call, std::span<const Shape* const> shapes);

class Broadcast {
 public:
  static constexpr std::int64_t kGrain = 1 << 14;  ///< elements that one thread takes at a time

  /// Row-major operands of these shapes.
  Broadcast(const Call& call, std::span<const Shape* const> shapes);
  Broadcast(const Call& call, std::initializer_list<const Shape*> shapes)
      : Broadcast(call, std::span<const Shape* const>(shapes.begin(), shapes.size())) {}

  [[nodiscard]] const Shape& shape() const noexcept { return shape_; }
  [[nodiscard]] std::int64_t size() const noexcept { return size_; }

  /// True where operand `index` has a value for each element of a run, false where it has one.
  [[nodiscard]] bool moves(int index) const noexcept { return steps_[index][rank_ - 1] != 0; }

  /// Calls f(position, count, offsets) for runs of the elements [first, last) of the result: where
  /// each operand's first value lies.
  template <class F>
  void for_each_run(std::int64_t first, std::int64_t last, F&& f) const {
    const std::size_t operands = steps_.size();
    std::array<std::int64_t, kMaxRank> at{};
    std::vector<std::int64_t> offsets(operands, 0);
    std::int64_t rest = first;
    for (int axis = rank_ - 1; axis >= 0 && rest > 0; --axis) {
      at[axis] = rest % extents_[axis];
      rest /= extents_[axis];
      for (std::size_t i = 0; i < operands; ++i) offsets[i] += at[axis] * steps_[i][axis];
    }
    const int inner = rank_ - 1;
    for (std::int64_t position = first; position < last;) {
      const std::int64_t count = std::min(extents_[inner] - at[inner], last - position);
      f(position, count, offsets.data());
      position += count;
      at[inner] += count;
      for (std::size_t i = 0; i < operands; ++i) offsets[i] += count * steps_[i][inner];
      for (int axis = inner; axis > 0 && at[axis] == extents_[axis]; --axis) {
        at[axis] = 0;
        ++at[axis - 1];
        for (std::size_t i = 0; i < operands; ++i) {
          offsets[i] += steps_[i][axis - 1] - extents_[axis] * steps_[i][axis];
        }
      }
    }
  }

  /// The same on several threads.
  template <class F>
  void parallel_runs(F&& f) const {
    parallel_for(size_, kGrain,
                 [&](std::int64_t first, std::int64_t last) { for_each_run(first, last, f); });
  }

 private:
  Shape shape_;
  std::int64_t size_ = 0;
  int rank_ = 1;  // of what is left when axes that lie one behind the other are made one
  std::array<std::int64_t, kMaxRank> extents_{};
  std::vector<std::array<std::int64_t, kMaxRank>> steps_;
};

}  // namespace moptcore::inline v0::graph

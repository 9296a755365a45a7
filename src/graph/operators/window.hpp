// SPDX-License-Identifier: Apache-2.0
// Walks over the windows of a convolution or pooling, as runs along the last axis.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include <moptcore/core/parallel.hpp>
#include <moptcore/graph/geometry.hpp>

namespace moptcore::inline v0::graph {

/// Windows of one plane that a block of work covers.
inline constexpr std::int64_t kWindowPiece = 1 << 13;

/// The extents of all spatial axes: what geometry.hpp says of each, and their products.
struct Windows {
  std::vector<WindowAxis> axes;
  std::int64_t inputs = 1;   ///< elements of one plane of the input
  std::int64_t outputs = 1;  ///< windows of one plane
  std::int64_t taps = 1;     ///< elements of the kernel

  [[nodiscard]] int rank() const noexcept { return static_cast<int>(axes.size()); }

  /// True where some tap of some window lies outside the input.
  [[nodiscard]] bool has_gaps() const noexcept {
    return std::ranges::any_of(axes, [](const WindowAxis& axis) {
      return axis.first_window(0) > 0 || axis.last_window(axis.kernel - 1) < axis.output;
    });
  }

  /// True where tap and window are one and the same: a kernel of one element, no stride or pad.
  [[nodiscard]] bool is_identity() const noexcept {
    return std::ranges::all_of(axes, [](const WindowAxis& axis) {
      return axis.kernel == 1 && axis.stride == 1 && axis.pad_begin == 0 &&
             axis.output == axis.input;
    });
  }

  /// Fills in the products. Throws Error where they pass 2^63.
  void measure() {
    Shape in;
    Shape out;
    Shape kernel;
    for (const WindowAxis& axis : axes) {
      in.push_back(axis.input);
      out.push_back(axis.output);
      kernel.push_back(axis.kernel);
    }
    inputs = element_count(in);
    outputs = element_count(out);
    taps = element_count(kernel);
  }
};

/// The taps of an axis that may read the input in some window: [first, second).
[[nodiscard]] inline std::pair<std::int64_t, std::int64_t> reading_taps(const WindowAxis& axis) {
  if (axis.input == 0 || axis.output == 0) return {0, 0};
  const std::int64_t reach = axis.pad_begin - (axis.output - 1) * axis.stride;
  const std::int64_t low = reach <= 0 ? 0 : (reach - 1) / axis.dilation + 1;
  const std::int64_t high =
      std::min((axis.input - 1 + axis.pad_begin) / axis.dilation + 1, axis.kernel);
  return {std::min(low, high), high};
}

/// The coordinates of one element of a box, moved on in row-major order.
class Odometer {
 public:
  explicit Odometer(const Shape& extents) : extents_(extents) {}

  /// Element `index` of the box, whose extents must not be 0.
  void seek(std::int64_t index) noexcept {
    for (int axis = extents_.rank() - 1; axis >= 0; --axis) {
      at_[axis] = index % extents_[axis];
      index /= extents_[axis];
    }
  }
  void next() noexcept {
    for (int axis = extents_.rank() - 1; axis >= 0; --axis) {
      if (++at_[axis] < extents_[axis]) return;
      at_[axis] = 0;
    }
  }
  [[nodiscard]] std::int64_t operator[](int axis) const noexcept { return at_[axis]; }

 private:
  Shape extents_;
  std::array<std::int64_t, kMaxRank> at_{};
};

/// Windows [first, last) of a plane in row-major order, cut into runs that differ in the last axis
/// only.
class WindowRuns {
 public:
  WindowRuns(const Windows& windows, std::int64_t first, std::int64_t last) : windows_(&windows) {
    Shape outer;
    for (int axis = 0; axis + 1 < windows.rank(); ++axis) {
      outer.push_back(windows.axes[axis].output);
    }
    const std::int64_t width = windows.axes.back().output;
    Odometer row(outer);
    if (first < last) row.seek(first / width);
    for (std::int64_t at = first; at < last;) {
      Run run;
      run.column = at - first;
      run.begin = at % width;
      run.end = std::min(width, run.begin + (last - at));
      for (int axis = 0; axis < outer.rank(); ++axis) {
        const WindowAxis& w = windows.axes[axis];
        run.corner[axis] = row[axis] * w.stride - w.pad_begin;
      }
      at += run.end - run.begin;
      runs_.push_back(run);
      row.next();
    }
  }

  /// f(column, count, offset) for each run of windows whose tap (coordinates `tap`) lies in the
  /// input: columns count from the first window, window column + i reads element
  /// offset + i * stride of the plane.
  template <class Tap, class F>
  void visit(const Tap& tap, F&& f) const {
    const int inner = windows_->rank() - 1;
    const WindowAxis& last = windows_->axes[inner];
    const std::int64_t low = last.first_window(tap[inner]);
    const std::int64_t high = last.last_window(tap[inner]);
    const std::int64_t shift = tap[inner] * last.dilation - last.pad_begin;
    for (const Run& run : runs_) {
      const std::int64_t begin = std::max(run.begin, low);
      const std::int64_t end = std::min(run.end, high);
      if (begin >= end) continue;
      std::int64_t row = 0;
      bool inside = true;
      for (int axis = 0; axis < inner; ++axis) {
        const WindowAxis& w = windows_->axes[axis];
        const std::int64_t at = run.corner[axis] + tap[axis] * w.dilation;
        inside = inside && at >= 0 && at < w.input;
        row = row * w.input + at;
        if (!inside) break;
      }
      if (!inside) continue;
      f(run.column + begin - run.begin, end - begin,
        row * last.input + begin * last.stride + shift);
    }
  }

 private:
  struct Run {
    std::int64_t column = 0;
    std::int64_t begin = 0;
    std::int64_t end = 0;
    std::array<std::int64_t, kMaxRank> corner{};
  };
  const Windows* windows_;
  std::vector<Run> runs_;
};

/// f(index, coordinates) for each tap of the kernel in row-major order.
template <class F>
void for_each_tap(const Windows& windows, F&& f) {
  Shape kernel;
  for (const WindowAxis& axis : windows.axes) kernel.push_back(axis.kernel);
  Odometer tap(kernel);
  for (std::int64_t index = 0; index < windows.taps; ++index) {
    f(index, tap);
    tap.next();
  }
}

/// f(coordinates) for each tap of the kernel in row-major order, but none that reads padding only:
/// kernels of poolings may be far larger than any memory.
template <class F>
void for_each_reading_tap(const Windows& windows, F&& f) {
  Shape first;
  Shape extents;
  for (const WindowAxis& axis : windows.axes) {
    const auto [low, high] = reading_taps(axis);
    first.push_back(low);
    extents.push_back(high - low);
  }
  const std::int64_t count = element_count(extents);
  Odometer tap(extents);
  std::array<std::int64_t, kMaxRank> at{};
  for (std::int64_t i = 0; i < count; ++i) {
    for (int axis = 0; axis < first.rank(); ++axis) at[axis] = first[axis] + tap[axis];
    f(at);
    tap.next();
  }
}

/// f(plane, first window, window behind the last, runs) for pieces of `planes` planes, in parallel.
template <class F>
void for_each_piece(const Windows& windows, std::int64_t planes, F&& f) {
  if (windows.outputs == 0 || planes == 0) return;
  const std::int64_t pieces = block_count(windows.outputs, kWindowPiece);
  const std::int64_t grain = std::max<std::int64_t>(kWindowPiece / windows.outputs, 1);
  parallel_for(planes * pieces, grain, [&](std::int64_t first, std::int64_t last) {
    if (pieces == 1) {
      const WindowRuns runs(windows, 0, windows.outputs);
      for (std::int64_t plane = first; plane < last; ++plane) f(plane, 0, windows.outputs, runs);
      return;
    }
    for (std::int64_t job = first; job < last; ++job) {
      const std::int64_t begin = job % pieces * kWindowPiece;
      const std::int64_t end = std::min(begin + kWindowPiece, windows.outputs);
      f(job / pieces, begin, end, WindowRuns(windows, begin, end));
    }
  });
}

}  // namespace moptcore::inline v0::graph

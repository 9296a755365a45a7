// SPDX-License-Identifier: Apache-2.0
// Where the windows of convolutions and poolings lie: padding and output extents of a node, axis
// by axis, so that axes of unknown extent can be left out.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <moptcore/core/export.hpp>
#include <moptcore/graph/model.hpp>

namespace moptcore::inline v0::graph {

enum class AutoPad : std::uint8_t { notset, valid, same_upper, same_lower };

/// What the attributes of a node say of one spatial axis; all checked.
struct WindowAttributes {
  AutoPad auto_pad = AutoPad::notset;
  bool ceil_mode = false;
  std::vector<std::int64_t> kernel;
  std::vector<std::int64_t> strides;
  std::vector<std::int64_t> dilations;
  std::vector<std::int64_t> begins;  ///< of `pads`; 0 unless auto_pad is notset
  std::vector<std::int64_t> ends;
  std::vector<std::int64_t> output_padding;  ///< of a transposed convolution
  std::vector<std::int64_t> output_shape;    ///< likewise; empty where the node does not say

  [[nodiscard]] int rank() const noexcept { return static_cast<int>(kernel.size()); }
};

/// One spatial axis: tap k of window i reads element i * stride + k * dilation - pad_begin of the
/// input, where that is in [0, input). In a transposed convolution input and output change places.
struct WindowAxis {
  std::int64_t input = 0;
  std::int64_t output = 0;
  std::int64_t kernel = 1;
  std::int64_t stride = 1;
  std::int64_t dilation = 1;
  std::int64_t pad_begin = 0;
  std::int64_t pad_end = 0;

  /// Elements from the first to the last tap.
  [[nodiscard]] std::int64_t extent() const noexcept { return dilation * (kernel - 1) + 1; }

  /// The first window, and the one behind the last, whose tap k lies in the input.
  [[nodiscard]] std::int64_t first_window(std::int64_t tap) const noexcept {
    const std::int64_t reach = pad_begin - tap * dilation;
    const std::int64_t first = reach <= 0 ? 0 : (reach - 1) / stride + 1;
    return first < output ? first : output;
  }
  [[nodiscard]] std::int64_t last_window(std::int64_t tap) const noexcept {
    const std::int64_t reach = input - 1 + pad_begin - tap * dilation;
    if (reach < 0) return 0;
    const std::int64_t last = reach / stride + 1;
    return last < output ? last : output;
  }
};

/// Reads auto_pad, pads, strides, dilations, ceil_mode, and output_padding and output_shape where
/// the operator has them. `kernel` are the spatial extents of the weights; where it is empty the
/// attribute kernel_shape must be there, otherwise it must agree. Throws Error for lists that are
/// not as long as the axes are many, and for values out of range: kernels, strides and dilations
/// in [1, 2^31), pads in [0, 2^31).
[[nodiscard]] MOPTCORE_API WindowAttributes read_window(const Node& node, int spatial_rank,
                                                        std::span<const std::int64_t> kernel = {});

/// One axis of a convolution or pooling over `input` elements. With ceil_mode the last window may
/// reach beyond the padding, but does not begin there. Throws Error where the padded input is
/// smaller than the window, and for extents of 2^48 and more.
[[nodiscard]] MOPTCORE_API WindowAxis window_axis(const WindowAttributes& attributes, int axis,
                                                  std::int64_t input, std::string_view where);

/// One axis of a transposed convolution. Throws Error where the output would be negative, or of
/// 2^48 and more.
[[nodiscard]] MOPTCORE_API WindowAxis transposed_axis(const WindowAttributes& attributes, int axis,
                                                      std::int64_t input, std::string_view where);

}  // namespace moptcore::inline v0::graph

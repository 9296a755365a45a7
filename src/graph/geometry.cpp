// SPDX-License-Identifier: Apache-2.0
#include <moptcore/graph/geometry.hpp>

#include <algorithm>

namespace moptcore::inline v0::graph {
namespace {

constexpr std::int64_t kMaxStep = (std::int64_t{1} << 31) - 1;
constexpr std::int64_t kMaxExtent = (std::int64_t{1} << 48) - 1;

using List = std::vector<std::int64_t>;

AutoPad auto_pad_of(const Node& node, const std::string& where) {
  const auto text = node.get<std::string>("auto_pad", "NOTSET");
  if (text == "NOTSET" || text.empty()) return AutoPad::notset;
  if (text == "VALID") return AutoPad::valid;
  if (text == "SAME_UPPER") return AutoPad::same_upper;
  if (text == "SAME_LOWER") return AutoPad::same_lower;
  throw Error(error_text(where, "auto_pad must be NOTSET, VALID, SAME_UPPER or SAME_LOWER", text));
}

List read_list(const Node& node, std::string_view attribute, std::size_t length,
               std::int64_t fallback, std::int64_t least, const std::string& where) {
  const Attribute* found = node.find(attribute);
  if (found == nullptr) return List(length, fallback);
  List values = node.get<List>(attribute, {});
  check(values.size() == length, where,
        std::string(attribute) + " must have " + std::to_string(length) + " elements",
        values.size());
  for (const std::int64_t value : values) {
    check(value >= least && value <= kMaxStep, where,
          std::string(attribute) + " must be in [" + std::to_string(least) + ", 2^31)", value);
  }
  return values;
}

void check_input(std::int64_t input, std::string_view where) {
  check(input >= 0 && input <= kMaxExtent, where, "spatial extents must be in [0, 2^48)", input);
}

}  // namespace

WindowAttributes read_window(const Node& node, int spatial_rank,
                             std::span<const std::int64_t> kernel) {
  const std::string where = "graph." + node.op_type;
  check(spatial_rank >= 1 && spatial_rank <= kMaxRank - 2, where,
        "the input must have 3 to 16 dimensions, spatial ones are", spatial_rank);
  const auto rank = static_cast<std::size_t>(spatial_rank);
  WindowAttributes window;
  window.auto_pad = auto_pad_of(node, where);
  window.ceil_mode = node.get<std::int64_t>("ceil_mode", 0) != 0;
  if (node.find("kernel_shape") != nullptr || kernel.empty()) {
    check<FormatError>(node.find("kernel_shape") != nullptr, where, "an attribute must be given",
                       "kernel_shape");
    window.kernel = read_list(node, "kernel_shape", rank, 1, 1, where);
    check(kernel.empty() || std::ranges::equal(kernel, window.kernel), where,
          "kernel_shape must be that of the weights", Shape(window.kernel));
  } else {
    window.kernel.assign(kernel.begin(), kernel.end());
    check(window.kernel.size() == rank, where, "weights must have as many dimensions as the input",
          window.kernel.size() + 2);
    for (const std::int64_t extent : window.kernel) {
      check(extent >= 1 && extent <= kMaxStep, where, "kernel extents must be in [1, 2^31)",
            extent);
    }
  }
  window.strides = read_list(node, "strides", rank, 1, 1, where);
  window.dilations = read_list(node, "dilations", rank, 1, 1, where);
  window.begins.assign(rank, 0);
  window.ends.assign(rank, 0);
  if (window.auto_pad == AutoPad::notset) {
    const List pads = read_list(node, "pads", 2 * rank, 0, 0, where);
    std::copy_n(pads.begin(), rank, window.begins.begin());
    std::copy_n(pads.begin() + spatial_rank, rank, window.ends.begin());
  }
  window.output_padding = read_list(node, "output_padding", rank, 0, 0, where);
  if (const Attribute* shape = node.find("output_shape"); shape != nullptr) {
    window.output_shape = node.get<List>("output_shape", {});
    // Some writers name the batch and channels too.
    if (window.output_shape.size() == rank + 2) {
      window.output_shape.erase(window.output_shape.begin(), window.output_shape.begin() + 2);
    }
    check(window.output_shape.empty() || window.output_shape.size() == rank, where,
          "output_shape must have " + std::to_string(rank) + " elements",
          window.output_shape.size());
    for (const std::int64_t extent : window.output_shape) {
      check(extent >= 0 && extent <= kMaxExtent, where, "output_shape must be in [0, 2^48)",
            extent);
    }
  }
  return window;
}

WindowAxis window_axis(const WindowAttributes& attributes, int axis, std::int64_t input,
                       std::string_view where) {
  check_input(input, where);
  WindowAxis result;
  result.input = input;
  result.kernel = attributes.kernel[axis];
  result.stride = attributes.strides[axis];
  result.dilation = attributes.dilations[axis];
  result.pad_begin = attributes.begins[axis];
  result.pad_end = attributes.ends[axis];
  const std::int64_t extent = result.extent();
  if (attributes.auto_pad == AutoPad::same_upper || attributes.auto_pad == AutoPad::same_lower) {
    result.output = input == 0 ? 0 : (input - 1) / result.stride + 1;
    // An input of 2^48 times a stride of 2^31 would not fit, but (output - 1) * stride < input.
    const std::int64_t needed =
        input == 0 ? 0 : (result.output - 1) * result.stride + extent - input;
    const std::int64_t total = std::max<std::int64_t>(needed, 0);
    const std::int64_t half = total / 2;
    const bool upper = attributes.auto_pad == AutoPad::same_upper;
    result.pad_begin = upper ? half : total - half;
    result.pad_end = upper ? total - half : half;
    return result;
  }
  const std::int64_t room = input + result.pad_begin + result.pad_end - extent;
  check(room >= 0, where,
        "the padded input must be as large as the dilated kernel, " + std::to_string(extent) +
            " in axis " + std::to_string(axis),
        input + result.pad_begin + result.pad_end);
  result.output = room / result.stride + 1;
  if (attributes.ceil_mode && attributes.auto_pad == AutoPad::notset && room % result.stride != 0 &&
      result.output * result.stride < input + result.pad_begin) {
    ++result.output;
  }
  return result;
}

WindowAxis transposed_axis(const WindowAttributes& attributes, int axis, std::int64_t input,
                           std::string_view where) {
  check_input(input, where);
  WindowAxis result;
  result.kernel = attributes.kernel[axis];
  result.stride = attributes.strides[axis];
  result.dilation = attributes.dilations[axis];
  result.pad_begin = attributes.begins[axis];
  result.pad_end = attributes.ends[axis];
  result.output = input;
  const std::int64_t steps = std::max<std::int64_t>(input - 1, 0);
  check(steps <= kMaxExtent / result.stride, where, "the output must have extents below 2^48, axis",
        axis);
  const std::int64_t natural =
      steps * result.stride + attributes.output_padding[axis] + result.extent();
  const bool same =
      attributes.auto_pad == AutoPad::same_upper || attributes.auto_pad == AutoPad::same_lower;
  if (same || !attributes.output_shape.empty()) {
    check(input <= kMaxExtent / result.stride, where,
          "the output must have extents below 2^48, axis", axis);
    result.input =
        attributes.output_shape.empty() ? input * result.stride : attributes.output_shape[axis];
    const std::int64_t total = std::max<std::int64_t>(natural - result.input, 0);
    const std::int64_t half = total / 2;
    const bool upper = attributes.auto_pad == AutoPad::same_upper;
    result.pad_begin = upper ? half : total - half;
    result.pad_end = upper ? total - half : half;
  } else {
    result.input = natural - result.pad_begin - result.pad_end;
  }
  check(result.input >= 0 && result.input <= kMaxExtent, where,
        "the output must have extents in [0, 2^48), axis " + std::to_string(axis), result.input);
  return result;
}

}  // namespace moptcore::inline v0::graph

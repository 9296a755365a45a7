// SPDX-License-Identifier: Apache-2.0
#include <moptcore/graph/geometry.hpp>

#include "catch.hpp"

using namespace moptcore;
using namespace moptcore::graph;

namespace {

using List = std::vector<std::int64_t>;

Node pool(List kernel) {
  Node node;
  node.op_type = "MaxPool";
  node.set("kernel_shape", std::move(kernel));
  return node;
}

WindowAxis axis_of(const Node& node, std::int64_t input) {
  return window_axis(read_window(node, 1), 0, input, "graph.MaxPool");
}

// Windows that fit, counted one by one.
std::int64_t counted(std::int64_t input, std::int64_t begin, std::int64_t end, std::int64_t extent,
                     std::int64_t stride, bool ceil_mode) {
  std::int64_t count = 0;
  std::int64_t start = -begin;
  for (; start + extent <= input + end; start += stride) ++count;
  // One more that is cut off, unless nothing is left for it or it begins in the padding behind.
  if (ceil_mode && start - stride + extent < input + end && start < input) ++count;
  return count;
}

}  // namespace

TEST_CASE("window_axis makes as many windows as can be counted", "[graph][geometry]") {
  for (std::int64_t input = 1; input <= 7; ++input) {
    for (std::int64_t kernel = 1; kernel <= 3; ++kernel) {
      for (std::int64_t stride = 1; stride <= 4; ++stride) {
        for (std::int64_t dilation = 1; dilation <= 2; ++dilation) {
          for (std::int64_t pads = 0; pads < 9; ++pads) {
            for (const bool ceil_mode : {false, true}) {
              const std::int64_t begin = pads % 3;
              const std::int64_t end = pads / 3;
              const std::int64_t extent = dilation * (kernel - 1) + 1;
              if (input + begin + end < extent) continue;
              Node node = pool({kernel});
              node.set("strides", List{stride});
              node.set("dilations", List{dilation});
              node.set("pads", List{begin, end});
              node.set("ceil_mode", std::int64_t{ceil_mode});
              INFO(input << ' ' << kernel << ' ' << stride << ' ' << dilation << ' ' << pads);
              REQUIRE(axis_of(node, input).output ==
                      counted(input, begin, end, extent, stride, ceil_mode));
            }
          }
        }
      }
    }
  }
}

TEST_CASE("first_window and last_window hold the windows whose tap is inside",
          "[graph][geometry]") {
  for (std::int64_t input = 1; input <= 6; ++input) {
    for (std::int64_t pad = 0; pad <= 3; ++pad) {
      for (std::int64_t stride = 1; stride <= 3; ++stride) {
        WindowAxis axis;
        axis.input = input;
        axis.kernel = 4;
        axis.stride = stride;
        axis.dilation = 2;
        axis.pad_begin = pad;
        axis.output = 5;
        for (std::int64_t tap = 0; tap < 4; ++tap) {
          const std::int64_t first = axis.first_window(tap);
          const std::int64_t last = axis.last_window(tap);
          for (std::int64_t i = 0; i < axis.output; ++i) {
            const std::int64_t at = i * stride + 2 * tap - pad;
            REQUIRE((first <= i && i < last) == (0 <= at && at < input));
          }
        }
      }
    }
  }
}

TEST_CASE("auto_pad keeps the extent divided by the stride, the odd element where it says",
          "[graph][geometry]") {
  Node node = pool({2});
  node.set("auto_pad", std::string("SAME_UPPER"));
  WindowAxis axis = axis_of(node, 5);
  CHECK(axis.output == 5);
  CHECK(axis.pad_begin == 0);
  CHECK(axis.pad_end == 1);
  node.set("auto_pad", std::string("SAME_LOWER"));
  axis = axis_of(node, 5);
  CHECK(axis.pad_begin == 1);
  CHECK(axis.pad_end == 0);
  node.set("strides", List{3});
  axis = axis_of(node, 5);
  CHECK(axis.output == 2);
  // (2 - 1) * 3 + 2 - 5 = 0
  CHECK(axis.pad_begin + axis.pad_end == 0);
  node.set("auto_pad", std::string("VALID"));
  CHECK(axis_of(node, 5).output == 2);
}

TEST_CASE("transposed_axis turns the formula around", "[graph][geometry]") {
  Node node;
  node.op_type = "ConvTranspose";
  node.set("kernel_shape", List{3});
  node.set("strides", List{2});
  node.set("pads", List{1, 0});
  node.set("output_padding", List{1});
  const auto axis = [&] { return transposed_axis(read_window(node, 1), 0, 4, "graph.T"); };
  CHECK(axis().input == 3 * 2 + 3 + 1 - 1);
  CHECK(axis().output == 4);
  node.set("output_shape", List{8});
  // 10 - 8 = 2 elements are cut, of which the begin has the larger half.
  CHECK(axis().input == 8);
  CHECK(axis().pad_begin == 1);
  CHECK(axis().pad_end == 1);
  node.set("output_shape", List{7});
  CHECK(axis().pad_begin == 2);
  node.set("auto_pad", std::string("SAME_UPPER"));
  CHECK(axis().pad_begin == 1);
  node.set("output_shape", List{1, 5, 7});
  CHECK(axis().input == 7);
}

TEST_CASE("geometry names attributes that do not fit", "[graph][geometry]") {
  const auto window = [](const Node& node) { return read_window(node, 1); };
  Node node = pool({3});
  node.set("strides", List{0});
  CHECK_THROWS_WITH(window(node), "[graph.MaxPool] strides must be in [1, 2^31), got 0");
  node.set("strides", List{1, 1});
  CHECK_THROWS_WITH(window(node), "[graph.MaxPool] strides must have 1 elements, got 2");
  node = pool({3});
  node.set("pads", List{-1, 0});
  CHECK_THROWS_WITH(window(node), "[graph.MaxPool] pads must be in [0, 2^31), got -1");
  node.set("pads", List{INT64_MAX, 0});
  CHECK_THROWS_AS(window(node), Error);
  node = pool({0});
  CHECK_THROWS_AS(window(node), Error);
  node = pool({3});
  node.set("auto_pad", std::string("SOME"));
  CHECK_THROWS_WITH(window(node),
                    "[graph.MaxPool] auto_pad must be NOTSET, VALID, SAME_UPPER or SAME_LOWER, "
                    "got SOME");
  node = pool({3});
  CHECK_THROWS_WITH(axis_of(node, 2),
                    "[graph.MaxPool] the padded input must be as large as the dilated kernel, 3 in "
                    "axis 0, got 2");
  CHECK_THROWS_AS(axis_of(node, INT64_MAX), Error);
  const List weights{2};
  CHECK_THROWS_WITH(read_window(node, 1, weights),
                    "[graph.MaxPool] kernel_shape must be that of the weights, got (3,)");
  CHECK_THROWS_AS(read_window(node, 0), Error);
  Node without;
  without.op_type = "MaxPool";
  CHECK_THROWS_AS(read_window(without, 1), FormatError);
}

TEST_CASE("geometry survives the largest attributes", "[graph][geometry]") {
  const std::int64_t most = (std::int64_t{1} << 31) - 1;
  Node node = pool({most});
  node.set("strides", List{most});
  node.set("dilations", List{most});
  node.set("pads", List{most, most});
  CHECK_THROWS_AS(axis_of(node, 5), Error);
  node.set("auto_pad", std::string("SAME_UPPER"));
  CHECK(axis_of(node, (std::int64_t{1} << 48) - 1).output == (std::int64_t{1} << 17) + 1);
  node.op_type = "ConvTranspose";
  CHECK_THROWS_AS(transposed_axis(read_window(node, 1), 0, (std::int64_t{1} << 48) - 1, "graph.T"),
                  Error);
  node.set("auto_pad", std::string("NOTSET"));
  CHECK_THROWS_AS(transposed_axis(read_window(node, 1), 0, 3, "graph.T"), Error);
}

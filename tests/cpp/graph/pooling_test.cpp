// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <limits>

#include "catch.hpp"
#include "single_node.hpp"

using namespace moptcore;
using namespace moptcore::graph;
using moptcore::test::pick;
using moptcore::test::random_tensor;
using moptcore::test::SingleNode;

namespace {

using List = std::vector<std::int64_t>;

struct Window {
  std::vector<std::int64_t> elements;  // of the plane
  std::int64_t padded = 0;             // taps in the padded input
};

// A pooling of two axes: all windows of a plane, row by row.
struct Case {
  std::int64_t input[2];
  std::int64_t kernel[2];
  std::int64_t stride[2];
  std::int64_t dilation[2];
  std::int64_t begin[2];
  std::int64_t end[2];
  bool ceil_mode;

  [[nodiscard]] std::int64_t output(int axis) const {
    const std::int64_t extent = dilation[axis] * (kernel[axis] - 1) + 1;
    std::int64_t count = 0;
    std::int64_t start = -begin[axis];
    for (; start + extent <= input[axis] + end[axis]; start += stride[axis]) ++count;
    if (ceil_mode && start - stride[axis] + extent < input[axis] + end[axis] && start < input[axis])
      ++count;
    return count;
  }
  [[nodiscard]] Window window(std::int64_t i, std::int64_t j) const {
    Window made;
    for (std::int64_t a = 0; a < kernel[0]; ++a) {
      for (std::int64_t b = 0; b < kernel[1]; ++b) {
        const std::int64_t row = i * stride[0] + a * dilation[0] - begin[0];
        const std::int64_t column = j * stride[1] + b * dilation[1] - begin[1];
        if (row >= input[0] + end[0] || column >= input[1] + end[1]) continue;
        ++made.padded;
        if (row < 0 || column < 0 || row >= input[0] || column >= input[1]) continue;
        made.elements.push_back(row * input[1] + column);
      }
    }
    return made;
  }
  SingleNode node(const std::string& op) const {
    SingleNode node(op);
    node.ints("kernel_shape", {kernel[0], kernel[1]}).ints("strides", {stride[0], stride[1]});
    node.ints("dilations", {dilation[0], dilation[1]});
    node.ints("pads", {begin[0], begin[1], end[0], end[1]});
    node.with("ceil_mode", std::int64_t{ceil_mode});
    return node;
  }
};

Case random_case(std::mt19937& random) {
  Case made{};
  for (int axis = 0; axis < 2; ++axis) {
    made.kernel[axis] = pick(random, 1, 4);
    made.stride[axis] = pick(random, 1, 3);
    made.dilation[axis] = pick(random, 1, 2);
    made.begin[axis] = pick(random, 0, made.kernel[axis] - 1);
    made.end[axis] = pick(random, 0, made.kernel[axis] - 1);
    const std::int64_t extent = made.dilation[axis] * (made.kernel[axis] - 1) + 1;
    made.input[axis] = pick(random, extent, extent + 7);
  }
  made.ceil_mode = pick(random, 0, 1) == 1;
  return made;
}

}  // namespace

TEST_CASE("pools are those of their windows for any geometry", "[graph][pooling]") {
  std::mt19937 random(1);
  for (int round = 0; round < 100; ++round) {
    const Case c = random_case(random);
    const Tensor x = random_tensor<float>(random, Shape{2, 3, c.input[0], c.input[1]});
    const auto max = c.node("MaxPool").run({x}, 22, 2);
    const auto only = c.node("MaxPool").run({x}, 22);
    const auto columns = c.node("MaxPool").with("storage_order", std::int64_t{1}).run({x}, 22, 2);
    const auto average = c.node("AveragePool").run({x}, 22);
    const auto padded =
        c.node("AveragePool").with("count_include_pad", std::int64_t{1}).run({x}, 22);
    const auto norm = c.node("LpPool").with("p", std::int64_t{3}).run({x}, 22);
    const Shape shape{2, 3, c.output(0), c.output(1)};
    REQUIRE(max[0].shape() == shape);
    const std::int64_t plane = c.input[0] * c.input[1];
    std::int64_t at = 0;
    for (std::int64_t p = 0; p < 6; ++p) {
      for (std::int64_t i = 0; i < shape[2]; ++i) {
        for (std::int64_t j = 0; j < shape[3]; ++j, ++at) {
          const Window window = c.window(i, j);
          float best = -std::numeric_limits<float>::infinity();
          std::int64_t where = -1;
          double sum = 0;
          double cubes = 0;
          for (const std::int64_t e : window.elements) {
            const float value = x.data<float>()[p * plane + e];
            if (value > best) {
              best = value;
              where = e;
            }
            sum += value;
            cubes += std::pow(std::abs(static_cast<double>(value)), 3);
          }
          REQUIRE(max[0].data<float>()[at] == best);
          REQUIRE(only[0].data<float>()[at] == best);
          if (where >= 0) {
            REQUIRE(max[1].data<std::int64_t>()[at] == p * plane + where);
            const std::int64_t moved = where / c.input[1] + where % c.input[1] * c.input[0];
            REQUIRE(columns[1].data<std::int64_t>()[at] == p * plane + moved);
          }
          const double count = std::max<double>(static_cast<double>(window.elements.size()), 1);
          // 16 terms below 1, a rounding of 2^-24 each.
          REQUIRE(std::abs(average[0].data<float>()[at] - sum / count) < 16 * 0x1p-24);
          const double all = std::max<double>(static_cast<double>(window.padded), 1);
          REQUIRE(std::abs(padded[0].data<float>()[at] - sum / all) < 16 * 0x1p-24);
          // The relative error of a sum of 16 cubes, and powf's.
          REQUIRE(std::abs(norm[0].data<float>()[at] - std::cbrt(cubes)) < 40 * 0x1p-23);
        }
      }
    }
  }
}

TEST_CASE("global pools take whole planes", "[graph][pooling]") {
  const Tensor x = Tensor::of<float>(Shape{1, 2, 2, 2}, {1, 2, 3, 6, -3, 0, 4, 0});
  CHECK(SingleNode("GlobalAveragePool").run({x}, 22)[0].data<float>()[0] == 3.0f);
  CHECK(SingleNode("GlobalMaxPool").run({x}, 22)[0].data<float>()[1] == 4.0f);
  CHECK(SingleNode("GlobalLpPool").run({x}, 22)[0].data<float>()[1] == 5.0f);
  CHECK(SingleNode("GlobalLpPool").with("p", std::int64_t{1}).run({x}, 22)[0].data<float>()[1] ==
        7.0f);
  CHECK(SingleNode("GlobalMaxPool").run({x}, 22)[0].shape() == Shape{1, 2, 1, 1});
}

TEST_CASE("MaxPool of integers and of NaN", "[graph][pooling]") {
  const Tensor x = Tensor::of<std::int8_t>(Shape{1, 1, 3}, {-128, -7, 5});
  const auto y = SingleNode("MaxPool").ints("kernel_shape", {2}).run({x}, 12);
  CHECK(y[0].data<std::int8_t>()[0] == -7);
  CHECK(y[0].data<std::int8_t>()[1] == 5);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const Tensor z = Tensor::of<float>(Shape{1, 1, 3}, {1.0f, nan, 2.0f});
  const auto w = SingleNode("MaxPool").ints("kernel_shape", {3}).run({z}, 12);
  CHECK(std::isnan(w[0].data<float>()[0]));
}

TEST_CASE("MaxUnpool puts back what MaxPool took", "[graph][pooling]") {
  std::mt19937 random(2);
  const Tensor x = random_tensor<float>(random, Shape{2, 2, 6, 8});
  SingleNode pool("MaxPool");
  pool.ints("kernel_shape", {2, 2}).ints("strides", {2, 2});
  const auto pooled = pool.run({x}, 22, 2);
  SingleNode unpool("MaxUnpool");
  unpool.ints("kernel_shape", {2, 2}).ints("strides", {2, 2});
  const Tensor y = unpool.run({pooled[0], pooled[1]}, 22)[0];
  REQUIRE(y.shape() == x.shape());
  std::int64_t kept = 0;
  for (std::int64_t i = 0; i < y.size(); ++i) {
    if (y.data<float>()[i] == 0) continue;
    REQUIRE(y.data<float>()[i] == x.data<float>()[i]);
    ++kept;
  }
  CHECK(kept == pooled[0].size());
  const Tensor larger =
      unpool.run({pooled[0], pooled[1], Tensor::of<std::int64_t>(Shape{4}, {2, 2, 7, 9})}, 22)[0];
  REQUIRE(larger.shape() == Shape{2, 2, 7, 9});
  for (std::int64_t p = 0; p < 4; ++p) {
    for (std::int64_t i = 0; i < 6; ++i) {
      for (std::int64_t j = 0; j < 8; ++j) {
        REQUIRE(larger.data<float>()[(p * 7 + i) * 9 + j] == y.data<float>()[(p * 6 + i) * 8 + j]);
      }
    }
  }
}

TEST_CASE("pools name what does not fit", "[graph][pooling]") {
  const Tensor x = Tensor::of<float>(Shape{1, 1, 2, 2}, {1, 2, 3, 4});
  const auto run = [&](SingleNode node) { return node.run({x}, 22); };
  CHECK_THROWS_AS(run(SingleNode("MaxPool")), FormatError);
  CHECK_THROWS_WITH(run(SingleNode("MaxPool").ints("kernel_shape", {3, 1})),
                    "[graph.MaxPool] the padded input must be as large as the dilated kernel, 3 in "
                    "axis 0, got 2");
  CHECK_THROWS_AS(run(SingleNode("AveragePool").ints("kernel_shape", {1})), Error);
  CHECK_THROWS_AS(run(SingleNode("LpPool").ints("kernel_shape", {1, 1}).with("p", std::int64_t{0})),
                  Error);
  CHECK_THROWS_WITH(run(SingleNode("MaxPool")
                            .ints("kernel_shape", {1, 1})
                            .with("storage_order", std::int64_t{2})),
                    "[graph.MaxPool] storage_order must be 0 or 1, got 2");
  CHECK_THROWS_AS(SingleNode("GlobalMaxPool").run({Tensor::scalar(1.0f)}, 22), Error);
  SingleNode unpool("MaxUnpool");
  unpool.ints("kernel_shape", {2, 2}).ints("strides", {2, 2});
  const auto index = [](std::int64_t i) {
    return Tensor::of<std::int64_t>(Shape{1, 1, 1, 1}, {i});
  };
  const Tensor one = Tensor::of<float>(Shape{1, 1, 1, 1}, {1.0f});
  CHECK_THROWS_WITH(unpool.run({one, index(4)}, 22),
                    "[graph.MaxUnpool] indices must be in [0, 4), got 4");
  CHECK_THROWS_AS(unpool.run({one, index(-1)}, 22), Error);
  CHECK_THROWS_AS(unpool.run({x, index(0)}, 22), Error);
  CHECK_THROWS_AS(unpool.run({one, index(0), Tensor::of<std::int64_t>(Shape{4}, {1, 1, 1, 2})}, 22),
                  Error);
}

TEST_CASE("a huge kernel over padding ends at once", "[graph][pooling]") {
  const Tensor x = Tensor::of<float>(Shape{1, 1, 1, 1}, {2.0f});
  const std::int64_t half = 1'000'000'000;
  SingleNode node("AveragePool");
  node.ints("kernel_shape", {2 * half + 1, 2 * half + 1}).ints("pads", {half, half, half, half});
  CHECK(node.run({x}, 22)[0].data<float>()[0] == 2.0f);
  // Windows a kernel apart make every tap possible: refused as too many steps.
  SingleNode wide("MaxPool");
  wide.ints("kernel_shape", {half, half}).ints("strides", {half / 2, half / 2});
  wide.ints("pads", {half, half, half, half});
  CHECK_THROWS_AS(wide.run({x}, 22), Error);
}

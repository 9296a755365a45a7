// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <limits>

#include "catch.hpp"
#include "single_node.hpp"

using namespace moptcore;
using namespace moptcore::graph;
using moptcore::test::random_tensor;
using moptcore::test::SingleNode;

namespace {

Tensor integers(std::initializer_list<std::int64_t> values) {
  return Tensor::of<std::int64_t>(Shape{static_cast<std::int64_t>(values.size())}, values);
}

}  // namespace

TEST_CASE("an affine grid of the identity samples the image itself", "[graph][spatial]") {
  std::mt19937 random(1);
  const Tensor x = random_tensor<double>(random, Shape{1, 2, 4, 5});
  const Tensor theta = Tensor::of<double>(Shape{1, 2, 3}, {1, 0, 0, 0, 1, 0});
  for (const std::int64_t aligned : {0, 1}) {
    const Tensor grid = SingleNode("AffineGrid")
                            .with("align_corners", aligned)
                            .run({theta, integers({1, 2, 4, 5})}, 20)[0];
    for (const char* mode : {"nearest", "linear", "cubic"}) {
      const Tensor y = SingleNode("GridSample")
                           .with("align_corners", aligned)
                           .with("mode", std::string(mode))
                           .run({x, grid}, 22)[0];
      for (std::int64_t i = 0; i < x.size(); ++i) {
        REQUIRE(std::abs(y.data<double>()[i] - x.data<double>()[i]) < 1e-13);
      }
    }
  }
}

TEST_CASE("GridSample pads places outside as asked", "[graph][spatial]") {
  const Tensor x = Tensor::of<float>(Shape{1, 1, 3}, {1, 2, 4});
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  // Aligned: places are (n + 1), so 3, 4, -1, far, and no place.
  const Tensor grid = Tensor::of<float>(Shape{1, 5, 1}, {2, 3, -2, inf, nan});
  const auto sampled = [&](const char* padding) {
    const Tensor y = SingleNode("GridSample")
                         .with("align_corners", std::int64_t{1})
                         .with("padding_mode", std::string(padding))
                         .run({x, grid}, 22)[0];
    return std::vector<float>(y.values<float>().begin(), y.values<float>().end());
  };
  const auto zeros = sampled("zeros");
  for (const float value : zeros) CHECK(value == 0.0f);
  const auto border = sampled("border");
  CHECK(border[0] == 4.0f);
  CHECK(border[2] == 1.0f);
  CHECK(border[3] == 4.0f);
  const auto reflection = sampled("reflection");
  CHECK(reflection[0] == 2.0f);
  CHECK(reflection[1] == 1.0f);
  CHECK(reflection[2] == 2.0f);
  CHECK_THROWS_AS(sampled("wrap"), Error);
  CHECK_THROWS_AS(SingleNode("GridSample").run({x, Tensor::of<float>(Shape{1, 1, 2}, {0, 0})}, 22),
                  Error);
}

TEST_CASE("DeformConv without offsets is Conv, an offset moves what is read", "[graph][spatial]") {
  std::mt19937 random(2);
  const Tensor x = random_tensor<double>(random, Shape{2, 4, 6, 7});
  const Tensor w = random_tensor<double>(random, Shape{6, 2, 3, 2});
  const Tensor bias = random_tensor<double>(random, Shape{6});
  const auto node = [](const char* op) {
    SingleNode made(op);
    made.ints("strides", {2, 1}).ints("dilations", {1, 2}).ints("pads", {1, 0, 1, 1});
    made.with("group", std::int64_t{2});
    return made;
  };
  const Tensor wanted = node("Conv").run({x, w, bias}, 22)[0];
  Tensor offsets(ElementType::float64, Shape{2, 24, wanted.shape()[2], wanted.shape()[3]});
  std::fill_n(offsets.mutable_data<double>(), offsets.size(), 0.0);
  const auto deform = node("DeformConv").with("offset_group", std::int64_t{2});
  const Tensor y = deform.run({x, w, offsets, bias}, 22)[0];
  REQUIRE(y.shape() == wanted.shape());
  for (std::int64_t i = 0; i < y.size(); ++i) {
    REQUIRE(std::abs(y.data<double>()[i] - wanted.data<double>()[i]) < 1e-14);
  }
  // One tap moved by half an element down: the mean of two.
  const Tensor image = Tensor::of<double>(Shape{1, 1, 2, 2}, {1, 2, 5, 8});
  const Tensor one = Tensor::of<double>(Shape{1, 1, 1, 1}, {1});
  const Tensor moved = Tensor::of<double>(Shape{1, 2, 2, 2}, {0.5, 0.5, 0, 1e300, 0, 0, -0.5, 0});
  const Tensor mask = Tensor::of<double>(Shape{1, 1, 2, 2}, {1, 2, 1, 1});
  const Tensor z = SingleNode("DeformConv").run({image, one, moved, Value(), mask}, 22)[0];
  CHECK(z.data<double>()[0] == 3.0);
  CHECK(z.data<double>()[1] == 10.0);
  CHECK(z.data<double>()[2] == 2.5);  // half of it outside
  CHECK(z.data<double>()[3] == 0.0);
  CHECK_THROWS_AS(deform.run({x, w, x}, 22), Error);
}

TEST_CASE("Col2Im adds overlapping blocks", "[graph][spatial]") {
  // Blocks of 2 in a row of 3, all elements 1: the middle is in both.
  const Tensor x = Tensor::of<std::int32_t>(Shape{1, 2, 2}, {1, 1, 1, 1});
  const Tensor y = SingleNode("Col2Im").run({x, integers({1, 3}), integers({1, 2})}, 18)[0];
  REQUIRE(y.shape() == Shape{1, 1, 1, 3});
  CHECK(y.data<std::int32_t>()[0] == 1);
  CHECK(y.data<std::int32_t>()[1] == 2);
  CHECK(y.data<std::int32_t>()[2] == 1);
  CHECK_THROWS_WITH(SingleNode("Col2Im").run({x, integers({1, 4}), integers({1, 2})}, 18),
                    "[graph.Col2Im] blocks must be as many as fit into the image, 3, got 2");
  CHECK_THROWS_AS(SingleNode("Col2Im").run({x, integers({1, 3}), integers({1, 3})}, 18), Error);
  CHECK_THROWS_AS(SingleNode("Col2Im").run({x, integers({1, -3}), integers({1, 2})}, 18), Error);
  CHECK_THROWS_AS(SingleNode("Col2Im").run({x, integers({1, 3}), integers({1, 0})}, 18), Error);
}

TEST_CASE("regions are pooled and averaged", "[graph][spatial]") {
  Tensor x(ElementType::float32, Shape{1, 1, 4, 4});
  for (int i = 0; i < 16; ++i) x.mutable_data<float>()[i] = static_cast<float>(i);
  const Tensor box = Tensor::of<float>(Shape{1, 5}, {0, 0, 0, 3, 3});
  const Tensor pooled = SingleNode("MaxRoiPool").ints("pooled_shape", {2, 2}).run({x, box}, 22)[0];
  const float corners[] = {5, 7, 13, 15};
  for (int i = 0; i < 4; ++i) CHECK(pooled.data<float>()[i] == corners[i]);
  const Tensor roi = Tensor::of<float>(Shape{1, 4}, {0.5f, 0.5f, 2.5f, 2.5f});
  SingleNode align("RoiAlign");
  align.with("sampling_ratio", std::int64_t{2});
  // A plane is averaged to its value in the middle of the region, (1, 1) from centers.
  const Tensor y = align.run({x, roi, integers({0})}, 16)[0];
  CHECK(y.data<float>()[0] == 5.0f);
  CHECK_THROWS_WITH(align.run({x, roi, integers({1})}, 16),
                    "[graph.RoiAlign] batch indices must be in [0, 1), got 1");
  CHECK_THROWS_AS(align.run({x, roi, integers({0, 0})}, 16), Error);
  const float inf = std::numeric_limits<float>::infinity();
  const Tensor endless = Tensor::of<float>(Shape{1, 4}, {0, 0, inf, 1e9f});
  CHECK_THROWS_AS(SingleNode("RoiAlign").run({x, endless, integers({0})}, 16), Error);
  const Tensor astray = Tensor::of<float>(Shape{1, 5}, {-1, 0, 0, 3, 3});
  CHECK_THROWS_AS(SingleNode("MaxRoiPool").ints("pooled_shape", {2, 2}).run({x, astray}, 22),
                  Error);
}

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

Tensor scales(std::initializer_list<float> values) {
  return Tensor::of<float>(Shape{static_cast<std::int64_t>(values.size())}, values);
}

Tensor sizes(std::initializer_list<std::int64_t> values) {
  return Tensor::of<std::int64_t>(Shape{static_cast<std::int64_t>(values.size())}, values);
}

std::vector<float> resized(SingleNode node, const Tensor& x, const Tensor& by) {
  const Tensor y = node.run({x, Value(), by}, 19)[0];
  return {y.values<float>().begin(), y.values<float>().end()};
}

}  // namespace

TEST_CASE("Resize in mode nearest rounds as it is told", "[graph][resize]") {
  const Tensor x = Tensor::of<float>(Shape{4}, {0, 1, 2, 3});
  SingleNode node("Resize");
  node.with("coordinate_transformation_mode", std::string("half_pixel"));
  // Places -0.25 0.25 0.75 ... 3.25; halves only with scale 0.5: 0.5 and 2.5.
  const auto mode = [&](const char* name, float scale) {
    node.with("nearest_mode", std::string(name));
    return resized(node, x, scales({scale}));
  };
  CHECK(mode("floor", 2) == std::vector<float>{0, 0, 0, 1, 1, 2, 2, 3});
  CHECK(mode("ceil", 2) == std::vector<float>{0, 1, 1, 2, 2, 3, 3, 3});
  CHECK(mode("round_prefer_floor", 0.5f) == std::vector<float>{0, 2});
  CHECK(mode("round_prefer_ceil", 0.5f) == std::vector<float>{1, 3});
  // Elements that are only moved may be anything.
  const Tensor words = Tensor::of_strings(Shape{2}, {"a", "b"});
  CHECK(SingleNode("Resize").run({words, Value(), scales({2})}, 13)[0].strings()[3] == "b");
}

TEST_CASE("Resize places elements by every transformation of coordinates", "[graph][resize]") {
  // A ramp shows the places themselves, bounded at the ends.
  const Tensor x = Tensor::of<float>(Shape{4}, {0, 1, 2, 3});
  const auto places = [&](const char* name, std::int64_t size) {
    SingleNode node("Resize");
    node.with("mode", std::string("linear"));
    node.with("coordinate_transformation_mode", std::string(name));
    const Tensor y = node.run({x, Value(), Value(), sizes({size})}, 19)[0];
    return std::vector<float>(y.values<float>().begin(), y.values<float>().end());
  };
  CHECK(places("half_pixel", 2) == std::vector<float>{0.5f, 2.5f});
  CHECK(places("asymmetric", 2) == std::vector<float>{0, 2});
  CHECK(places("align_corners", 2) == std::vector<float>{0, 3});
  CHECK(places("align_corners", 1) == std::vector<float>{0});
  CHECK(places("half_pixel", 1) == std::vector<float>{1.5f});
  CHECK(places("pytorch_half_pixel", 1) == std::vector<float>{0});
  CHECK(places("half_pixel", 8) ==
        std::vector<float>{0, 0.25f, 0.75f, 1.25f, 1.75f, 2.25f, 2.75f, 3});
  // 0.6 of 4 elements are 2.4, of which 2 are made: the middles lie over one another.
  SingleNode node("Resize");
  node.with("mode", std::string("linear"));
  node.with("coordinate_transformation_mode", std::string("half_pixel_symmetric"));
  const std::vector<float> symmetric = resized(node, x, scales({0.6f}));
  REQUIRE(symmetric.size() == 2);
  CHECK(std::abs(symmetric[0] + symmetric[1] - 3) < 1e-6f);
}

TEST_CASE("tf_crop_and_resize reads a region and extrapolates beyond it", "[graph][resize]") {
  const Tensor x = Tensor::of<float>(Shape{1, 4}, {0, 1, 2, 3});
  SingleNode node("Resize");
  node.with("coordinate_transformation_mode", std::string("tf_crop_and_resize"));
  node.with("mode", std::string("linear")).with("extrapolation_value", 9.0f);
  const Tensor roi = Tensor::of<float>(Shape{2}, {0.5f, 1.5f});
  node.ints("axes", {1});
  const Tensor y = node.run({x, roi, Value(), sizes({3})}, 18)[0];
  CHECK(y.data<float>()[0] == 1.5f);
  CHECK(y.data<float>()[1] == 3.0f);
  CHECK(y.data<float>()[2] == 9.0f);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const Tensor lost =
      node.run({x, Tensor::of<float>(Shape{2}, {nan, nan}), Value(), sizes({2})}, 18)[0];
  CHECK(lost.data<float>()[0] == 9.0f);
  CHECK_THROWS_AS(node.run({x, Value(), Value(), sizes({3})}, 18), Error);
}

TEST_CASE("cubic weights reproduce lines, and cubics with the coefficient -0.5",
          "[graph][resize]") {
  Tensor x(ElementType::float64, Shape{9});
  for (std::int64_t i = 0; i < 9; ++i) {
    const auto at = static_cast<double>(i);
    x.mutable_data<double>()[i] = at * at;
  }
  SingleNode node("Resize");
  node.with("mode", std::string("cubic")).with("cubic_coeff_a", -0.5f);
  node.with("coordinate_transformation_mode", std::string("asymmetric"));
  const Tensor y = node.run({x, Value(), scales({4})}, 13)[0];
  // Away from the edges squares come back exactly.
  for (std::int64_t i = 4; i <= 28; ++i) {
    const double at = static_cast<double>(i) / 4;
    REQUIRE(std::abs(y.data<double>()[i] - at * at) < 1e-13);
  }
}

TEST_CASE("Resize keeps the ratio of the extents as asked", "[graph][resize]") {
  const Tensor x(ElementType::float32, Shape{1, 4, 6});
  const auto shape = [&](const char* policy) {
    SingleNode node("Resize");
    node.with("keep_aspect_ratio_policy", std::string(policy)).ints("axes", {1, 2});
    return node.run({x, Value(), Value(), sizes({6, 7})}, 18)[0].shape();
  };
  CHECK(shape("stretch") == Shape{1, 6, 7});
  // Scales 1.5 and 7/6: 4 * 7/6 = 4.67, 6 * 1.5 = 9.
  CHECK(shape("not_larger") == Shape{1, 5, 7});
  CHECK(shape("not_smaller") == Shape{1, 6, 9});
  CHECK_THROWS_AS(shape("bent"), Error);
}

TEST_CASE("Upsample and the first Resize repeat elements", "[graph][resize]") {
  const Tensor x = Tensor::of<std::uint8_t>(Shape{1, 1, 1, 2}, {1, 2});
  SingleNode old("Upsample");
  old.with("scales", std::vector<float>{1, 1, 1, 2});
  const Tensor a = old.run({x}, 7)[0];
  const Tensor b = SingleNode("Upsample").run({x, scales({1, 1, 1, 2})}, 9)[0];
  const Tensor c = SingleNode("Resize").run({x, scales({1, 1, 1, 2})}, 10)[0];
  const std::uint8_t expected[] = {1, 1, 2, 2};
  for (int i = 0; i < 4; ++i) {
    CHECK(a.data<std::uint8_t>()[i] == expected[i]);
    CHECK(b.data<std::uint8_t>()[i] == expected[i]);
    CHECK(c.data<std::uint8_t>()[i] == expected[i]);
  }
}

TEST_CASE("integers are interpolated and rounded", "[graph][resize]") {
  const Tensor x = Tensor::of<std::int8_t>(Shape{2}, {0, 3});
  SingleNode node("Resize");
  node.with("mode", std::string("linear"));
  node.with("coordinate_transformation_mode", std::string("align_corners"));
  const Tensor y = node.run({x, Value(), Value(), sizes({7})}, 13)[0];
  const std::int8_t expected[] = {0, 0, 1, 2, 2, 2, 3};  // 0.5 and 1.5, 2.5 to even
  for (int i = 0; i < 7; ++i) CHECK(y.data<std::int8_t>()[i] == expected[i]);
}

TEST_CASE("Resize names what does not fit", "[graph][resize]") {
  const Tensor x = Tensor::of<float>(Shape{2, 2}, {1, 2, 3, 4});
  const auto run = [&](SingleNode node, std::vector<Value> inputs) { return node.run(inputs, 19); };
  const SingleNode node("Resize");
  const float nan = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS_AS(run(node, {x, Value(), scales({1})}), Error);
  CHECK_THROWS_AS(run(node, {x, Value(), scales({1, 0})}), Error);
  CHECK_THROWS_AS(run(node, {x, Value(), scales({1, nan})}), Error);
  CHECK_THROWS_AS(run(node, {x, Value(), scales({1, 1e30f})}), Error);
  CHECK_THROWS_AS(run(node, {x, Value(), scales({1, 1e9f})}), Error);
  CHECK_THROWS_AS(run(node, {x, Value(), Value(), sizes({1, -1})}), Error);
  CHECK_THROWS_AS(run(node, {x}), Error);
  CHECK_THROWS_AS(run(node, {x, Value(), scales({1, 1}), sizes({1, 1})}), Error);
  CHECK_THROWS_AS(run(SingleNode(node).ints("axes", {0, 0}), {x, Value(), scales({1, 1})}), Error);
  CHECK_THROWS_AS(run(SingleNode(node).ints("axes", {2}), {x, Value(), scales({1})}), Error);
  CHECK_THROWS_AS(
      run(SingleNode(node).with("mode", std::string("x")), {x, Value(), scales({1, 1})}), Error);
  CHECK_THROWS_AS(
      run(SingleNode(node).with("antialias", std::int64_t{1}), {x, Value(), scales({1, 1})}),
      Error);
  const Tensor empty(ElementType::float32, Shape{0, 2});
  CHECK_THROWS_AS(run(node, {empty, Value(), Value(), sizes({1, 2})}), Error);
  CHECK(run(node, {empty, Value(), scales({2, 2})})[0].shape() == Shape{0, 4});
}

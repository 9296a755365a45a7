// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "catch.hpp"
#include "single_node.hpp"

using namespace moptcore;
using namespace moptcore::graph;
using moptcore::test::random_tensor;
using moptcore::test::SingleNode;

namespace {

// Equal but for some roundings to 2^-24, or whatever `relative` is.
bool is_near(double a, double b, double relative = 0x1p-20) {
  return std::abs(a - b) <= relative * std::abs(b);
}

// Mean and population variance of elements `first`, `first + step`, ...
std::pair<double, double> moments(const Tensor& x, std::int64_t first, std::int64_t count) {
  double mean = 0;
  for (std::int64_t i = 0; i < count; ++i) mean += x.data<float>()[first + i];
  mean /= static_cast<double>(count);
  double variance = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    variance += std::pow(x.data<float>()[first + i] - mean, 2);
  }
  return {mean, variance / static_cast<double>(count)};
}

Tensor floats(std::initializer_list<float> values) {
  return Tensor::of<float>(Shape{static_cast<std::int64_t>(values.size())}, values);
}

}  // namespace

TEST_CASE("BatchNormalization shifts and scales by channel", "[graph][normalization]") {
  const Tensor x = Tensor::of<float>(Shape{1, 2, 2}, {1, 2, 3, 4});
  const Tensor y =
      SingleNode("BatchNormalization")
          .with("epsilon", 0.0f)
          .run({x, floats({2, 1}), floats({0, 10}), floats({1, 3}), floats({4, 1})}, 15)[0];
  CHECK(y.data<float>()[0] == 0.0f);
  CHECK(y.data<float>()[1] == 1.0f);
  CHECK(y.data<float>()[2] == 10.0f);
  CHECK(y.data<float>()[3] == 11.0f);
}

TEST_CASE("BatchNormalization of opset 7 knows statistics of each place",
          "[graph][normalization]") {
  const Tensor x = Tensor::of<float>(Shape{2, 1, 2}, {1, 2, 3, 4});
  const Shape place{1, 2};
  const auto at = [&](float a, float b) { return Tensor::of<float>(place, {a, b}); };
  SingleNode node("BatchNormalization");
  node.with("epsilon", 0.0f).with("spatial", std::int64_t{0});
  const Tensor y = node.run({x, at(1, 2), at(0, 1), at(1, 2), at(1, 4)}, 7)[0];
  CHECK(y.data<float>()[0] == 0.0f);
  CHECK(y.data<float>()[1] == 1.0f);
  CHECK(y.data<float>()[2] == 2.0f);
  CHECK(y.data<float>()[3] == 3.0f);
  // The same numbers read by channel do not fit.
  CHECK_THROWS_AS(node.run({x, at(1, 2), at(0, 1), at(1, 2), at(1, 4)}, 9), Error);
}

TEST_CASE("BatchNormalization in training mode keeps running statistics",
          "[graph][normalization]") {
  const Tensor x = Tensor::of<float>(Shape{2, 1, 2}, {1, 2, 3, 6});
  SingleNode node("BatchNormalization");
  node.with("training_mode", std::int64_t{1}).with("momentum", 0.5f).with("epsilon", 0.0f);
  const auto y = node.run({x, floats({1}), floats({0}), floats({1}), floats({1})}, 15, 3);
  // The mean is 3, the variance (4 + 1 + 0 + 9) / 4.
  CHECK(y[1].data<float>()[0] == 2.0f);
  CHECK(y[2].data<float>()[0] == 2.25f);
  CHECK(is_near(y[0].data<float>()[0], -2 / std::sqrt(3.5)));
  CHECK_THROWS_AS(SingleNode("BatchNormalization")
                      .run({x, floats({1}), floats({0}), floats({1}), floats({1})}, 15, 3),
                  Error);
}

TEST_CASE("GroupNormalization scales by group before opset 21, by channel from then on",
          "[graph][normalization]") {
  std::mt19937 random(1);
  const Tensor x = random_tensor<float>(random, Shape{2, 4, 3});
  SingleNode node("GroupNormalization");
  node.with("num_groups", std::int64_t{2});
  const Tensor old = node.run({x, floats({2, 3}), floats({1, -1})}, 18)[0];
  const Tensor now = node.run({x, floats({2, 2, 3, 3}), floats({1, 1, -1, -1})}, 21)[0];
  for (std::int64_t i = 0; i < x.size(); ++i) {
    REQUIRE(old.data<float>()[i] == now.data<float>()[i]);
    const auto [mean, variance] = moments(x, i / 6 * 6, 6);
    const double scale = i / 6 % 2 == 0 ? 2 : 3;
    const double bias = i / 6 % 2 == 0 ? 1 : -1;
    // Four roundings of numbers below 10.
    REQUIRE(std::abs(now.data<float>()[i] -
                     (scale * (x.data<float>()[i] - mean) / std::sqrt(variance + 1e-5) + bias)) <
            40 * 0x1p-23);
  }
  CHECK_THROWS_AS(node.run({x, floats({2, 3}), floats({1, -1})}, 21), Error);
  node.with("num_groups", std::int64_t{3});
  CHECK_THROWS_WITH(node.run({x, floats({2, 3}), floats({1, -1})}, 21),
                    "[graph.GroupNormalization] num_groups must be >= 1 and divide the channels, "
                    "got 3");
}

TEST_CASE("LayerNormalization broadcasts its scale and gives statistics of the stash type",
          "[graph][normalization]") {
  std::mt19937 random(2);
  const Tensor x = random_tensor<float>(random, Shape{2, 3, 4});
  const Tensor scale = random_tensor<float>(random, Shape{3, 1});
  SingleNode node("LayerNormalization");
  node.with("axis", std::int64_t{1}).with("stash_type", std::int64_t{16});
  const auto y = node.run({x, scale}, 17, 3);
  REQUIRE(y[1].type() == ElementType::bfloat16);
  REQUIRE(y[1].shape() == Shape{2, 1, 1});
  for (std::int64_t i = 0; i < x.size(); ++i) {
    const auto [mean, variance] = moments(x, i / 12 * 12, 12);
    const double wanted =
        (x.data<float>()[i] - mean) / std::sqrt(variance + 1e-5) * scale.data<float>()[i / 4 % 3];
    REQUIRE(std::abs(y[0].data<float>()[i] - wanted) < 20 * 0x1p-23);
    REQUIRE(std::abs(static_cast<float>(y[1].data<bfloat16>()[i / 12]) - mean) <
            std::abs(mean) * 0x1p-8);
  }
  CHECK_THROWS_AS(node.run({x, random_tensor<float>(random, Shape{2})}, 17), Error);
  CHECK_THROWS_AS(
      SingleNode("LayerNormalization").with("axis", std::int64_t{3}).run({x, scale}, 17), Error);
  CHECK_THROWS_AS(
      SingleNode("LayerNormalization").with("stash_type", std::int64_t{7}).run({x, scale}, 17),
      DTypeError);
}

TEST_CASE("RMSNormalization has the type of its scale", "[graph][normalization]") {
  const Tensor x = floats({3, 4});
  Tensor scale(ElementType::float16, Shape{2});
  scale.mutable_data<float16>()[0] = float16(5.0f);
  scale.mutable_data<float16>()[1] = float16(10.0f);
  const Tensor y = SingleNode("RMSNormalization").with("epsilon", 0.0f).run({x, scale}, 23)[0];
  REQUIRE(y.type() == ElementType::float16);
  // The mean square is 12.5.
  CHECK(is_near(static_cast<float>(y.data<float16>()[0]), 15 / std::sqrt(12.5), 0x1p-10));
  CHECK(is_near(static_cast<float>(y.data<float16>()[1]), 40 / std::sqrt(12.5), 0x1p-10));
}

TEST_CASE("LRN sums over neighbouring channels, more of them behind", "[graph][normalization]") {
  const Tensor x = Tensor::of<float>(Shape{1, 4, 1}, {1, 2, 3, 4});
  SingleNode node("LRN");
  node.with("size", std::int64_t{2}).with("alpha", 2.0f).with("beta", 1.0f).with("bias", 0.0f);
  const Tensor y = node.run({x}, 13)[0];
  CHECK(is_near(y.data<float>()[0], 1.0 / (1 + 4)));
  CHECK(is_near(y.data<float>()[2], 3.0 / (9 + 16)));
  CHECK(is_near(y.data<float>()[3], 4.0 / 16));
  CHECK_THROWS_AS(SingleNode("LRN").with("size", std::int64_t{0}).run({x}, 13), Error);
  node.with("size", std::int64_t{INT64_MAX}).with("alpha", 0.0f).with("bias", 1.0f);
  CHECK(node.run({x}, 13)[0].data<float>()[3] == 4.0f);
}

TEST_CASE("LpNormalization leaves zeros zero", "[graph][normalization]") {
  const Tensor x = Tensor::of<float>(Shape{2, 2}, {3, 0, 4, 0});
  const Tensor y = SingleNode("LpNormalization").with("axis", std::int64_t{0}).run({x}, 22)[0];
  CHECK(is_near(y.data<float>()[0], 0.6));
  CHECK(y.data<float>()[1] == 0.0f);
  CHECK(is_near(y.data<float>()[2], 0.8));
  CHECK_THROWS_WITH(SingleNode("LpNormalization").with("p", std::int64_t{3}).run({x}, 22),
                    "[graph.LpNormalization] p must be 1 or 2, got 3");
  CHECK_THROWS_AS(SingleNode("LpNormalization").run({Tensor::scalar(1.0f)}, 22), Error);
}

TEST_CASE("MeanVarianceNormalization works over the axes that it is given",
          "[graph][normalization]") {
  std::mt19937 random(3);
  const Tensor x = random_tensor<float>(random, Shape{3, 5});
  const Tensor y = SingleNode("MeanVarianceNormalization").ints("axes", {-1}).run({x}, 13)[0];
  for (std::int64_t i = 0; i < 15; ++i) {
    const auto [mean, variance] = moments(x, i / 5 * 5, 5);
    const double wanted = (x.data<float>()[i] - mean) / (std::sqrt(variance) + 1e-9);
    REQUIRE(std::abs(y.data<float>()[i] - wanted) < 4 * 0x1p-23);
  }
  CHECK_THROWS_AS(SingleNode("MeanVarianceNormalization").run({x}, 13), Error);
}

// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "catch.hpp"
#include "graph/run_node.hpp"

using namespace moptcore;
using namespace moptcore::graph;
using run_node::run;
using run_node::values;

namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

Tensor axes(std::initializer_list<std::int64_t> list) {
  return Tensor::of<std::int64_t>(Shape{static_cast<std::int64_t>(list.size())}, list);
}

Tensor small_integers(const Shape& shape, unsigned seed) {
  Tensor tensor(ElementType::float32, shape);
  std::mt19937 random(seed);
  for (std::int64_t i = 0; i < tensor.size(); ++i) {
    tensor.mutable_data<float>()[i] = static_cast<float>(random() % 17) - 8;
  }
  return tensor;
}

}  // namespace

TEST_CASE("reductions over every set of axes agree with counting them out", "[graph]") {
  // Small integers: sums of them and of their squares are exact. Extents beyond one strip and one
  // lane, an extent of 1 among them.
  const Shape shape{3, 1, 270, 11};
  const Tensor x = small_integers(shape, 1);
  for (int mask = 0; mask < 16; ++mask) {
    std::vector<std::int64_t> chosen;
    Shape kept;
    for (int axis = 0; axis < 4; ++axis) {
      const bool reduced = (mask >> axis & 1) != 0;
      if (reduced) chosen.push_back(axis % 2 == 0 ? axis : axis - 4);
      kept.push_back(reduced ? 1 : shape[axis]);
    }
    const Shape strides = contiguous_strides(kept);
    std::vector<double> sums(element_count(kept), 0);
    std::vector<double> squares(sums.size(), 0);
    std::vector<float> greatest(sums.size(), -kInfinity);
    std::int64_t at = 0;
    for (std::int64_t i = 0; i < 3; ++i) {
      for (std::int64_t j = 0; j < 270; ++j) {
        for (std::int64_t k = 0; k < 11; ++k, ++at) {
          const std::int64_t index[] = {i, 0, j, k};
          std::int64_t place = 0;
          for (int axis = 0; axis < 4; ++axis) {
            if (kept[axis] != 1) place += index[axis] * strides[axis];
          }
          const float value = x.values<float>()[at];
          sums[place] += value;
          squares[place] += value * value;
          greatest[place] = std::max(greatest[place], value);
        }
      }
    }
    const Tensor list = Tensor::of<std::int64_t>(Shape{static_cast<std::int64_t>(chosen.size())},
                                                 std::span<const std::int64_t>(chosen));
    const auto how = run_node::Options{{{"noop_with_empty_axes", std::int64_t{1}}}};
    INFO("axes " << mask);
    const Tensor sum = run("ReduceSum", {x, list}, how);
    CHECK(sum.shape() == kept);
    CHECK(std::ranges::equal(sum.values<float>(), sums));
    CHECK(std::ranges::equal(run("ReduceSumSquare", {x, list}, how).values<float>(), squares));
    CHECK(std::ranges::equal(run("ReduceMax", {x, list}, how).values<float>(), greatest));
    const auto integers = run("Cast", {x}, {{{"to", std::int64_t{6}}}});
    const Tensor counted = run("ReduceSum", {integers, list}, how);
    CHECK(std::ranges::equal(counted.values<std::int32_t>(), sums));
  }
}

TEST_CASE("axes are an attribute before they are an input", "[graph]") {
  const Tensor x = Tensor::of<float>(Shape{2, 2}, {1, 2, 3, 4});
  const std::vector<std::int64_t> first{0};
  const std::int64_t no = 0;
  CHECK(values<float>(run("ReduceSum", {x}, {{{"axes", first}, {"keepdims", no}}, 11})) ==
        std::vector<float>{4, 6});
  CHECK(values<float>(run("ReduceMean", {x}, {{{"axes", first}, {"keepdims", no}}, 17})) ==
        std::vector<float>{2, 3});
  const Tensor mean = run("ReduceMean", {x, axes({-1})}, {{{"keepdims", no}}, 18});
  CHECK(mean.shape() == Shape{2});
  CHECK(values<float>(mean) == std::vector<float>{1.5f, 3.5f});
  CHECK(run("ReduceProd", {x}).shape() == Shape{1, 1});
  CHECK(values<float>(run("ReduceProd", {x})) == std::vector<float>{24});
  CHECK_THROWS_WITH(run("ReduceSum", {x, axes({2})}),
                    "[graph.ReduceSum] axis must be in [-2, 2), got 2");
}

TEST_CASE("reductions of nothing give what ONNX says", "[graph]") {
  const Tensor none(ElementType::float32, Shape{2, 0});
  const Tensor last = axes({1});
  const auto both = [](float value) { return std::vector<float>(2, value); };
  CHECK(values<float>(run("ReduceSum", {none, last})) == both(0));
  CHECK(values<float>(run("ReduceProd", {none, last})) == both(1));
  CHECK(values<float>(run("ReduceMax", {none, last})) == both(-kInfinity));
  CHECK(values<float>(run("ReduceMin", {none, last})) == both(kInfinity));
  CHECK(values<float>(run("ReduceLogSumExp", {none, last})) == both(-kInfinity));
  CHECK(values<float>(run("ReduceLogSum", {none, last})) == both(-kInfinity));
  CHECK(std::isnan(values<float>(run("ReduceMean", {none, last}))[0]));
  const Tensor bytes(ElementType::int8, Shape{0});
  CHECK(values<std::int8_t>(run("ReduceMax", {bytes})) == std::vector<std::int8_t>{-128});
  CHECK(values<std::int8_t>(run("ReduceMin", {bytes})) == std::vector<std::int8_t>{127});
  const Tensor truths(ElementType::boolean, Shape{0});
  CHECK(values<bool>(run("ReduceMax", {truths})) == std::vector<bool>{false});
  CHECK(values<bool>(run("ReduceMin", {truths})) == std::vector<bool>{true});
  CHECK_THROWS_AS(run("ReduceMean", {Tensor(ElementType::int32, Shape{0})}), Error);
  CHECK_THROWS_AS(run("ReduceSum", {bytes}), DTypeError);
}

TEST_CASE("ReduceMax and ReduceMin give NaN wherever it lies, along rows and columns", "[graph]") {
  constexpr std::int64_t kExtent = 19;
  for (std::int64_t odd = 0; odd < kExtent; ++odd) {
    std::vector<float> numbers(3 * kExtent, 1.0f);
    numbers[kExtent + odd] = kNaN;
    const Tensor x = Tensor::of<float>(Shape{3, kExtent}, numbers);
    for (const std::string op : {"ReduceMax", "ReduceMin"}) {
      CAPTURE(op, odd);
      const auto rows = values<float>(run(op, {x, axes({1})}));
      CHECK(rows[0] == 1.0f);
      CHECK(std::isnan(rows[1]));
      CHECK(rows[2] == 1.0f);
      const auto columns = values<float>(run(op, {x, axes({0})}));
      for (std::int64_t j = 0; j < kExtent; ++j) {
        CHECK((j == odd ? std::isnan(columns[j]) : columns[j] == 1.0f));
      }
    }
  }
}

TEST_CASE("ReduceLogSumExp neither overflows nor loses infinities", "[graph]") {
  const Tensor x =
      Tensor::of<float>(Shape{4, 3}, {1000, 1000, 1000,     //
                                      -1000, -1000, -1000,  //
                                      -kInfinity, -kInfinity, -kInfinity, kInfinity, kInfinity, 0});
  const auto y = values<float>(run("ReduceLogSumExp", {x, axes({1})}));
  // log(3 e^1000): rounded once to float.
  CHECK(y[0] == static_cast<float>(1000 + std::log(3.0)));
  CHECK(y[1] == static_cast<float>(-1000 + std::log(3.0)));
  CHECK(y[2] == -kInfinity);
  CHECK(y[3] == kInfinity);
}

TEST_CASE("sums of floats are as exact as double makes them", "[graph]") {
  // In float the ones would vanish beside 2^25.
  Tensor x(ElementType::float32, Shape{4097});
  std::fill_n(x.mutable_data<float>(), 4097, 1.0f);
  x.mutable_data<float>()[0] = 0x1p25f;
  CHECK(values<float>(run("ReduceSum", {x})) == std::vector<float>{0x1p25f + 4096});
}

TEST_CASE("ArgMax names the first or last of equals and NaN before all", "[graph]") {
  const Tensor x = Tensor::of<float>(Shape{3, 4}, {2, 5, 5, 1,        //
                                                   kNaN, 9, kNaN, 0,  //
                                                   -kInfinity, -kInfinity, -kInfinity, -kInfinity});
  const std::int64_t one = 1;
  const std::int64_t zero = 0;
  const auto arg = [&](const char* op, std::int64_t last) {
    return values<std::int64_t>(run(
        op, {x}, {{{"axis", std::int64_t{-1}}, {"keepdims", zero}, {"select_last_index", last}}}));
  };
  CHECK(arg("ArgMax", zero) == std::vector<std::int64_t>{1, 0, 0});
  CHECK(arg("ArgMax", one) == std::vector<std::int64_t>{2, 2, 3});
  CHECK(arg("ArgMin", zero) == std::vector<std::int64_t>{3, 0, 0});
  CHECK(arg("ArgMin", one) == std::vector<std::int64_t>{3, 2, 3});
  const Tensor wide = small_integers(Shape{5, 700}, 3);
  const auto got = values<std::int64_t>(run("ArgMin", {wide}));
  for (std::int64_t j = 0; j < 700; ++j) {
    std::int64_t best = 0;
    for (std::int64_t i = 1; i < 5; ++i) {
      if (wide.values<float>()[i * 700 + j] < wide.values<float>()[best * 700 + j]) best = i;
    }
    REQUIRE(got[j] == best);
  }
  CHECK_THROWS_AS(run("ArgMax", {Tensor(ElementType::float32, Shape{0, 2})}), Error);
}

TEST_CASE("CumSum and CumProd go either way, with or without the element itself", "[graph]") {
  const Tensor x = Tensor::of<std::int32_t>(Shape{3}, {1, 2, 3});
  const std::int64_t one = 1;
  const Tensor zero = Tensor::scalar<std::int64_t>(0);
  using Integers = std::vector<std::int32_t>;
  CHECK(values<std::int32_t>(run("CumSum", {x, zero})) == Integers{1, 3, 6});
  CHECK(values<std::int32_t>(run("CumSum", {x, zero}, {{{"exclusive", one}}})) ==
        Integers{0, 1, 3});
  CHECK(values<std::int32_t>(run("CumSum", {x, zero}, {{{"reverse", one}}})) == Integers{6, 5, 3});
  CHECK(values<std::int32_t>(
            run("CumProd", {x, zero}, {{{"reverse", one}, {"exclusive", one}}, 26})) ==
        Integers{6, 3, 1});
  const Tensor grid = Tensor::of<float>(Shape{2, 2}, {1, 2, 3, 4});
  CHECK(values<float>(run("CumSum", {grid, Tensor::scalar<std::int32_t>(-2)})) ==
        std::vector<float>{1, 2, 4, 6});
  CHECK_THROWS_AS(run("CumSum", {x, Tensor::scalar<std::int64_t>(1)}), Error);
}

TEST_CASE("Softmax flattens before opset 13 and takes one axis since", "[graph]") {
  const Tensor x = small_integers(Shape{2, 3, 70}, 5);
  const auto softmax = [&](std::int64_t outer, std::int64_t count, std::int64_t inner) {
    std::vector<double> y(x.size());
    for (std::int64_t i = 0; i < outer * inner; ++i) {
      const std::int64_t start = i / inner * count * inner + i % inner;
      double sum = 0;
      for (std::int64_t k = 0; k < count; ++k) {
        sum += std::exp(static_cast<double>(x.values<float>()[start + k * inner]));
      }
      for (std::int64_t k = 0; k < count; ++k) {
        y[start + k * inner] =
            std::exp(static_cast<double>(x.values<float>()[start + k * inner])) / sum;
      }
    }
    return y;
  };
  const auto compare = [](const Tensor& got, const std::vector<double>& expected, bool logarithm) {
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const double value = logarithm ? std::log(expected[i]) : expected[i];
      // exp and three roundings in float, each within a unit of 2^-23 or so; a logarithm of up to
      // 22 is rounded after a subtraction.
      REQUIRE(std::abs(got.values<float>()[i] - value) <=
              (logarithm ? 5e-6 : 1e-6 * std::abs(value)));
    }
  };
  const std::int64_t one = 1;
  compare(run("Softmax", {x}, {{{"axis", one}}, 13}), softmax(2, 3, 70), false);
  compare(run("LogSoftmax", {x}, {{{"axis", one}}, 13}), softmax(2, 3, 70), true);
  compare(run("Softmax", {x}, {{}, 13}), softmax(6, 70, 1), false);
  compare(run("Softmax", {x}, {{}, 11}), softmax(2, 210, 1), false);
  const Tensor hard = run("Hardmax", {Tensor::of<float>(Shape{4}, {1, 3, 3, 0})});
  CHECK(values<float>(hard) == std::vector<float>{0, 1, 0, 0});
  CHECK(run("Softmax", {Tensor(ElementType::float32, Shape{0, 4})}).shape() == Shape{0, 4});
  CHECK_THROWS_AS(run("Softmax", {x}, {{{"axis", std::int64_t{3}}}, 13}), Error);
}

TEST_CASE("losses choose by label, weigh and leave out what is ignored", "[graph]") {
  const Tensor logs = Tensor::of<float>(Shape{3, 2}, {-1, -2, -3, -4, -5, -6});
  const Tensor labels = Tensor::of<std::int64_t>(Shape{3}, {0, 1, 0});
  const Tensor weights = Tensor::of<float>(Shape{2}, {1, 3});
  const auto loss = [&](const std::vector<Value>& inputs, const char* reduction,
                        std::int64_t ignored = -100) {
    return values<float>(run("NegativeLogLikelihoodLoss", inputs,
                             {{{"reduction", std::string(reduction)}, {"ignore_index", ignored}}}));
  };
  CHECK(loss({logs, labels}, "none") == std::vector<float>{1, 4, 5});
  CHECK(loss({logs, labels, weights}, "sum") == std::vector<float>{18});
  CHECK(loss({logs, labels, weights}, "mean") == std::vector<float>{18.0f / 5});
  CHECK(loss({logs, labels, weights}, "mean", 1) == std::vector<float>{3});
  CHECK_THROWS_WITH(loss({logs, Tensor::of<std::int64_t>(Shape{3}, {0, 2, 0})}, "sum"),
                    "[graph.NegativeLogLikelihoodLoss] labels must be in [0, 2), got 2");
  CHECK_THROWS_AS(loss({logs, Tensor::of<std::int64_t>(Shape{2}, {0, 1})}, "sum"), Error);
  const auto both = run_node::run_all(
      "SoftmaxCrossEntropyLoss",
      {Tensor::of<float>(Shape{1, 2}, {0, 0}), Tensor::of<std::int64_t>(Shape{1}, {1})},
      {{}, 13, 2});
  const auto half = static_cast<float>(std::log(2.0));
  CHECK(values<float>(both[0].tensor()) == std::vector<float>{half});
  CHECK(values<float>(both[1].tensor()) == std::vector<float>{-half, -half});
}

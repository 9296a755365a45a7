// SPDX-License-Identifier: Apache-2.0
#include <moptcore/runtime/session.hpp>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <random>
#include <sstream>
#include <thread>

#include <moptcore/core/pool.hpp>
#include <moptcore/graph/onnx.hpp>

#include "catch.hpp"

using namespace moptcore;
using namespace moptcore::graph;
using moptcore::runtime::SessionOptions;

namespace {

using Attributes = std::vector<std::pair<std::string, AttributeValue>>;
using Integers = std::vector<std::int64_t>;

// Builds graphs value by value.
class Builder {
 public:
  explicit Builder(unsigned seed = 0, std::int64_t opset = 17) : random_(seed) {
    model.opsets = {{"", opset}};
  }

  std::string input(const std::string& name, const std::vector<Dimension>& shape,
                    ElementType type = ElementType::float32) {
    model.graph.inputs.push_back({name, ValueType::tensor(type, shape), {}, {}, {}});
    return name;
  }

  std::string weight(const Shape& shape, float scale = 1) {
    Tensor tensor(ElementType::float32, shape);
    std::normal_distribution<float> gauss(0, scale);
    for (std::int64_t i = 0; i < tensor.size(); ++i)
      tensor.mutable_data<float>()[i] = gauss(random_);
    return constant(std::move(tensor));
  }

  std::string constant(Tensor tensor) {
    const std::string name = fresh("w");
    model.graph.initializers.emplace(name, std::move(tensor));
    return name;
  }

  std::string integers(const Integers& values) {
    return constant(Tensor::of<std::int64_t>(Shape{static_cast<std::int64_t>(values.size())},
                                             std::span<const std::int64_t>(values)));
  }

  std::string number(float value) { return constant(Tensor::scalar(value)); }

  std::string op(const std::string& type, const std::vector<std::string>& inputs,
                 const Attributes& attributes = {}) {
    Node node;
    node.op_type = type;
    node.inputs = inputs;
    node.outputs = {fresh("v")};
    for (const auto& [name, value] : attributes) node.set(name, value);
    model.graph.nodes.push_back(node);
    return node.outputs[0];
  }

  Model finish(const std::vector<std::string>& outputs) {
    for (const std::string& name : outputs) {
      model.graph.outputs.push_back({name, ValueType::tensor(ElementType::float32), {}, {}, {}});
    }
    return std::move(model);
  }

  Model model;

 private:
  std::string fresh(const char* prefix) { return prefix + std::to_string(count_++); }

  std::mt19937 random_;
  int count_ = 0;
};

Dimension known(std::int64_t extent) { return {extent, {}, {}}; }
Dimension named(const std::string& symbol) { return {-1, symbol, {}}; }

Tensor noise(const Shape& shape, unsigned seed, float scale = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> gauss(0, scale);
  Tensor tensor(ElementType::float32, shape);
  for (std::int64_t i = 0; i < tensor.size(); ++i) tensor.mutable_data<float>()[i] = gauss(random);
  return tensor;
}

// Sums of up to 1200 products in another order: sqrt(1200) * 2^-24 * 2 of their magnitude for a
// layer, less than 2e-5 of the largest result after the few layers of these models.
void check_close(const Tensor& got, const Tensor& expected, double tolerance = 2e-5) {
  REQUIRE(got.type() == expected.type());
  REQUIRE(got.shape() == expected.shape());
  if (expected.type() != ElementType::float32) {
    REQUIRE(std::equal(static_cast<const char*>(got.raw()),
                       static_cast<const char*>(got.raw()) + got.bytes(),
                       static_cast<const char*>(expected.raw())));
    return;
  }
  const auto a = got.values<float>();
  const auto b = expected.values<float>();
  double largest = 1e-6;
  for (const float each : b) largest = std::max<double>(largest, std::abs(each));
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    worst = std::max(worst, std::abs(static_cast<double>(a[i]) - b[i]));
  }
  CHECK(worst <= tolerance * largest);
}

// Fused and not, with one thread and two, planned and again: all as the plain loops.
void check_model(const Model& model, const std::vector<Values>& inputs, double tolerance = 2e-5) {
  const Evaluator evaluator(model);
  std::vector<Values> expected;
  for (const Values& each : inputs) expected.push_back(evaluator.run(each));
  for (const bool fuse : {true, false}) {
    for (const int threads : {1, 2}) {
      SessionOptions options;
      options.fuse = fuse;
      options.threads = threads;
      const Session session(model, options);
      for (int round = 0; round < 3; ++round) {
        for (std::size_t i = 0; i < inputs.size(); ++i) {
          const Values outputs = session.run(inputs[i]);
          REQUIRE(outputs.size() == expected[i].size());
          for (const auto& [name, value] : expected[i]) {
            INFO("output " << name << " fuse " << fuse << " threads " << threads << " round "
                           << round);
            check_close(outputs.at(name).tensor(), value.tensor(), tolerance);
          }
        }
      }
    }
  }
}

Attributes window(Integers kernel, Integers strides, Integers pads, std::int64_t group = 1,
                  Integers dilations = {1, 1}) {
  return {{"kernel_shape", std::move(kernel)},
          {"strides", std::move(strides)},
          {"pads", std::move(pads)},
          {"group", group},
          {"dilations", std::move(dilations)}};
}

// A small residual network with every kind of convolution.
Model small_cnn(unsigned seed) {
  Builder b(seed);
  std::string x = b.input("x", {named("N"), known(3), named("H"), named("W")});
  const auto conv = [&](const std::string& from, std::int64_t in, std::int64_t out, std::int64_t k,
                        std::int64_t stride, std::int64_t group = 1) {
    const float scale = 1 / std::sqrt(static_cast<float>(in / group * k * k));
    return b.op("Conv",
                {from, b.weight(Shape{out, in / group, k, k}, scale), b.weight(Shape{out}, 0.1f)},
                window({k, k}, {stride, stride}, {k / 2, k / 2, k / 2, k / 2}, group));
  };
  x = b.op("Relu", {conv(x, 3, 32, 3, 2)});
  const std::string deep = b.op("Relu", {conv(x, 32, 32, 3, 1)});
  x = b.op("Relu", {b.op("Add", {conv(deep, 32, 32, 3, 1), x})});
  std::string wide = conv(x, 32, 40, 1, 1);
  wide = b.op("Clip", {wide, b.number(0), b.number(6)});
  wide = b.op("HardSwish", {conv(wide, 40, 40, 3, 1, 40)});
  const std::string gate = b.op("Sigmoid", {conv(b.op("GlobalAveragePool", {wide}), 40, 40, 1, 1)});
  wide = b.op("Mul", {wide, gate});
  const std::string pooled = b.op("MaxPool", {x},
                                  {{"kernel_shape", Integers{3, 3}},
                                   {"strides", Integers{1, 1}},
                                   {"pads", Integers{1, 1, 1, 1}}});
  const std::string both = b.op("Concat", {wide, pooled}, {{"axis", std::int64_t{1}}});
  const std::string average =
      b.op("AveragePool", {both}, {{"kernel_shape", Integers{2, 2}}, {"strides", Integers{2, 2}}});
  const std::string linear = conv(average, 72, 24, 1, 1);
  const std::string swish = b.op("Mul", {linear, b.op("Sigmoid", {linear})});
  const std::string grouped = b.op("LeakyRelu", {conv(swish, 24, 24, 3, 1, 4)}, {{"alpha", 0.2f}});
  const std::string flat = b.op("Flatten", {b.op("GlobalAveragePool", {grouped})});
  const std::string logits =
      b.op("Gemm", {flat, b.weight(Shape{10, 24}, 0.2f), b.weight(Shape{10})},
           {{"transB", std::int64_t{1}}});
  return b.finish({b.op("Softmax", {logits}, {{"axis", std::int64_t{-1}}}), grouped});
}

Model attention(unsigned seed) {
  Builder b(seed);
  const std::string x = b.input("x", {named("N"), known(12), known(32)});
  const auto linear = [&](const std::string& from, std::int64_t in, std::int64_t out) {
    const float scale = 1 / std::sqrt(static_cast<float>(in));
    return b.op("Add", {b.weight(Shape{out}, 0.1f),
                        b.op("MatMul", {from, b.weight(Shape{in, out}, scale)})});
  };
  const auto heads = [&](const std::string& from, Integers order) {
    const std::string split = b.op("Reshape", {from, b.integers({-1, 12, 4, 8})});
    return b.op("Transpose", {split}, {{"perm", std::move(order)}});
  };
  const std::string q = heads(linear(x, 32, 32), {0, 2, 1, 3});
  const std::string k = heads(linear(x, 32, 32), {0, 2, 3, 1});
  const std::string v = heads(linear(x, 32, 32), {0, 2, 1, 3});
  const std::string scores = b.op("Mul", {b.op("MatMul", {q, k}), b.number(0.35355339f)});
  const std::string weights = b.op("Softmax", {scores}, {{"axis", std::int64_t{-1}}});
  const std::string mixed =
      b.op("Transpose", {b.op("MatMul", {weights, v})}, {{"perm", Integers{0, 2, 1, 3}}});
  const std::string joined = b.op("Reshape", {mixed, b.integers({-1, 12, 32})});
  const std::string sum = b.op("Add", {x, linear(joined, 32, 32)});
  const std::string normed =
      b.op("LayerNormalization", {sum, b.weight(Shape{32}), b.weight(Shape{32})},
           {{"axis", std::int64_t{-1}}});
  const std::string wide = linear(normed, 32, 64);
  const std::string erf = b.op("Erf", {b.op("Div", {wide, b.number(1.41421356f)})});
  const std::string gelu =
      b.op("Mul", {b.op("Mul", {wide, b.op("Add", {erf, b.number(1)})}), b.number(0.5f)});
  return b.finish({b.op("Add", {linear(gelu, 64, 32), normed})});
}

}  // namespace

TEST_CASE("a session computes a residual network as the plain loops do", "[runtime][session]") {
  check_model(small_cnn(1), {{{"x", noise(Shape{1, 3, 32, 32}, 1)}}});
}

TEST_CASE("a session plans for each set of shapes", "[runtime][session]") {
  check_model(small_cnn(2),
              {{{"x", noise(Shape{1, 3, 20, 28}, 1)}}, {{"x", noise(Shape{3, 3, 33, 16}, 2)}}});
}

TEST_CASE("a session computes attention as the plain loops do", "[runtime][session]") {
  check_model(attention(3),
              {{{"x", noise(Shape{1, 12, 32}, 1)}}, {{"x", noise(Shape{5, 12, 32}, 2)}}});
}

TEST_CASE("an empty batch gives empty results", "[runtime][session]") {
  const Session session(attention(4));
  const Tensor y =
      session.run({{"x", Tensor(ElementType::float32, Shape{0, 12, 32})}}).begin()->second.tensor();
  CHECK(y.shape() == Shape{0, 12, 32});
}

TEST_CASE("every activation is fused behind every kind of product", "[runtime][session]") {
  const std::vector<std::pair<std::string, Attributes>> activations = {
      {"Relu", {}},
      {"LeakyRelu", {{"alpha", 0.3f}}},
      {"Elu", {{"alpha", 0.7f}}},
      {"Sigmoid", {}},
      {"Tanh", {}},
      {"HardSigmoid", {{"alpha", 0.3f}}},
      {"HardSwish", {}},
      {"Softplus", {}},
      {"Abs", {}},
      {"Exp", {}},
      {"Neg", {}},
      {"Gelu", {}},
      {"Gelu", {{"approximate", std::string("tanh")}}},
      {"Mish", {}}};
  for (const auto& [name, attributes] : activations) {
    INFO(name);
    Builder b(7, 20);
    const std::string x = b.input("x", {named("N"), known(16)});
    const std::string image = b.input("image", {named("N"), known(16), known(9), known(9)});
    const std::string product = b.op("MatMul", {x, b.weight(Shape{16, 24}, 0.3f)});
    const std::string linear = b.op("Add", {product, b.weight(Shape{24})});
    const std::string filtered =
        b.op("Conv", {image, b.weight(Shape{16, 16, 3, 3}, 0.1f), b.weight(Shape{16})},
             window({3, 3}, {1, 1}, {1, 1, 1, 1}));
    const Model model = b.finish({b.op(name, {linear}, attributes),
                                  b.op(name, {filtered}, attributes), b.op(name, {x}, attributes)});
    check_model(model, {{{"x", noise(Shape{7, 16}, 1)}, {"image", noise(Shape{7, 16, 9, 9}, 2)}}},
                1e-5);
  }
}

TEST_CASE("gelu is fused however it is written out", "[runtime][session]") {
  for (const bool exact : {true, false}) {
    for (const int ending : {0, 1, 2}) {
      for (const bool power : {true, false}) {
        INFO("exact " << exact << " ending " << ending << " power " << power);
        Builder b(13, 17);
        const std::string in = b.input("x", {named("N"), known(16)});
        const std::string x = b.op("MatMul", {in, b.weight(Shape{16, 24}, 0.5f)});
        std::string gate;
        if (exact) {
          const std::string scaled = power ? b.op("Div", {x, b.number(1.41421356f)})
                                           : b.op("Mul", {x, b.number(0.70710678f)});
          gate = b.op("Erf", {scaled});
        } else {
          const std::string c = b.number(0.044715f);
          std::string cube;
          if (power) cube = b.op("Mul", {b.op("Pow", {x, b.number(3)}), c});
          else if (ending == 0) cube = b.op("Mul", {x, b.op("Mul", {x, b.op("Mul", {c, x})})});
          else cube = b.op("Mul", {c, b.op("Mul", {b.op("Mul", {x, x}), x})});
          const std::string sum = b.op("Add", {x, cube});
          gate = b.op("Tanh", {b.op("Mul", {b.number(0.79788456f), sum})});
        }
        const std::string one = b.op("Add", {gate, b.number(1)});
        std::string y;
        if (ending == 0) y = b.op("Mul", {b.op("Mul", {x, one}), b.number(0.5f)});
        if (ending == 1) y = b.op("Mul", {x, b.op("Mul", {one, b.number(0.5f)})});
        if (ending == 2) y = b.op("Mul", {b.op("Mul", {x, b.number(0.5f)}), one});
        const Model model = b.finish({y});
        const Values given{{"x", noise(Shape{9, 16}, 5)}};
        check_model(model, {given});
        CHECK(Session(model).profile(given, 1).rows.size() == 1);
      }
    }
  }
}

TEST_CASE("a number with many axes is fused only where it adds none", "[runtime][session]") {
  Builder b(14);
  const std::string x = b.input("x", {named("N"), known(6)});
  const std::string image = b.input("image", {named("N"), known(6), known(4)});
  const std::string wide = b.constant(Tensor::of<float>(Shape{1, 1, 1}, {1.5f}));
  const std::string matrix = b.weight(Shape{6, 7});
  const std::string narrow = b.weight(Shape{4, 7});
  const std::string bias = b.weight(Shape{1, 1, 7});
  const Model model = b.finish({b.op("Relu", {b.op("Mul", {b.op("Sigmoid", {x}), wide})}),
                                b.op("Relu", {b.op("Mul", {b.op("Sigmoid", {image}), wide})}),
                                b.op("Add", {wide, x}),
                                b.op("Relu", {b.op("Add", {b.op("MatMul", {x, matrix}), bias})}),
                                b.op("Add", {b.op("MatMul", {image, narrow}), bias})});
  check_model(model, {{{"x", noise(Shape{5, 6}, 1)}, {"image", noise(Shape{5, 6, 4}, 2)}}});
}

TEST_CASE("activations are as exact as the plain loops over their whole range",
          "[runtime][session]") {
  // Absolute for values below 1, relative above: oneDNN's polynomials are good to a few units in
  // the last place of the largest term.
  Tensor x(ElementType::float32, Shape{1, 4001});
  for (int i = 0; i <= 4000; ++i) {
    x.mutable_data<float>()[i] = (static_cast<float>(i) - 2000) / 100;
  }
  for (const char* name : {"Sigmoid", "Tanh", "Gelu", "Softplus", "Elu", "HardSwish", "Mish"}) {
    INFO(name);
    Builder b(0, 20);
    const std::string in = b.input("x", {known(1), known(4001)});
    const Model model = b.finish({b.op(name, {in})});
    const Tensor got = Session(model).run({{"x", x}}).begin()->second.tensor();
    const Tensor expected = evaluate(model, {{"x", x}}).begin()->second.tensor();
    double worst = 0;
    for (int i = 0; i <= 4000; ++i) {
      const double a = got.data<float>()[i];
      const double e = expected.data<float>()[i];
      worst = std::max(worst, std::abs(a - e) / std::max(1.0, std::abs(e)));
    }
    CHECK(worst < 1e-5);
  }
}

TEST_CASE("Softplus keeps its digits far below 0", "[runtime][session]") {
  Tensor x(ElementType::float32, Shape{1, 2001});
  for (int i = 0; i <= 2000; ++i) {
    x.mutable_data<float>()[i] = static_cast<float>(i) / 100 - 20;
  }
  Builder b(0, 20);
  const Model model = b.finish({b.op("Softplus", {b.input("x", {known(1), known(2001)})})});
  const Tensor got = Session(model).run({{"x", x}}).begin()->second.tensor();
  for (int i = 0; i <= 2000; ++i) {
    const double exact = std::log1p(std::exp(static_cast<double>(x.data<float>()[i])));
    // An exponential and a logarithm in float32, each good to some units of 2^-24.
    CHECK(std::abs(got.data<float>()[i] - exact) <= 16 * 0x1p-24 * exact);
  }
}

TEST_CASE("elementwise operators broadcast both ways", "[runtime][session]") {
  for (const char* name : {"Add", "Sub", "Mul", "Div", "Max", "Min"}) {
    INFO(name);
    Builder b(11);
    const std::string x = b.input("x", {known(2), known(8), known(5), known(5)});
    // Away from 0, where a quotient would show what sums in another order differ by.
    const std::string sum =
        b.op("Conv", {x, b.weight(Shape{8, 8, 1, 1}, 0.4f)}, window({1, 1}, {1, 1}, {0, 0, 0, 0}));
    const std::string filtered = b.op("Add", {b.op("Sigmoid", {sum}), b.number(1)});
    const std::string channel = b.weight(Shape{8, 1, 1});
    const std::string row = b.weight(Shape{5});
    const std::string full = b.weight(Shape{2, 8, 5, 5});
    const Model model = b.finish({b.op(name, {filtered, channel}), b.op(name, {channel, filtered}),
                                  b.op(name, {row, filtered}), b.op(name, {filtered, full}),
                                  b.op(name, {full, filtered}), b.op(name, {x, x})});
    check_model(model, {{{"x", noise(Shape{2, 8, 5, 5}, 5)}}});
  }
}

TEST_CASE("convolutions with groups, strides, dilations and uneven padding agree with the loops",
          "[runtime][session]") {
  struct Case {
    std::int64_t in, out, group;
    Integers kernel, strides, dilations, pads;
  };
  const std::vector<Case> cases = {{32, 48, 1, {3, 3}, {1, 1}, {1, 1}, {1, 1, 1, 1}},
                                   {32, 32, 1, {3, 3}, {1, 1}, {1, 1}, {0, 1, 2, 0}},
                                   {8, 12, 4, {3, 3}, {2, 1}, {1, 1}, {0, 1, 1, 0}},
                                   {16, 16, 16, {5, 3}, {1, 2}, {1, 1}, {2, 1, 2, 1}},
                                   {7, 9, 1, {3, 3}, {1, 1}, {2, 2}, {2, 2, 2, 2}},
                                   {64, 40, 1, {1, 1}, {2, 2}, {1, 1}, {0, 0, 0, 0}},
                                   {12, 24, 12, {3, 3}, {1, 1}, {1, 1}, {1, 1, 1, 1}}};
  for (const Case& c : cases) {
    INFO(c.in << " to " << c.out << " in " << c.group);
    Builder b(3);
    const std::string x = b.input("x", {named("N"), known(c.in), named("H"), named("W")});
    const std::string weight =
        b.weight(Shape{c.out, c.in / c.group, c.kernel[0], c.kernel[1]}, 0.1f);
    const Model model = b.finish(
        {b.op("Conv", {x, weight}, window(c.kernel, c.strides, c.pads, c.group, c.dilations))});
    check_model(model, {{{"x", noise(Shape{2, c.in, 13, 16}, 1)}},
                        {{"x", noise(Shape{1, c.in, 8, 7}, 2)}}});
  }
}

TEST_CASE("convolutions of images one pixel wide agree with the loops", "[runtime][session]") {
  struct Case {
    std::int64_t in, out, group, kernel, stride, pad;
  };
  for (const Case& c : {Case{16, 24, 1, 5, 1, 0}, Case{24, 24, 24, 3, 1, 1}, Case{3, 8, 1, 4, 2, 1},
                        Case{12, 8, 4, 3, 1, 2}, Case{16, 16, 1, 1, 2, 0}}) {
    INFO(c.in << " to " << c.out << " in " << c.group);
    Builder b(5);
    const std::string x = b.input("x", {named("N"), known(c.in), named("H"), named("W")});
    const std::string y =
        b.op("Conv",
             {x, b.weight(Shape{c.out, c.in / c.group, c.kernel, 1}, 0.3f), b.weight(Shape{c.out})},
             window({c.kernel, 1}, {c.stride, 1}, {c.pad, 0, c.pad, 0}, c.group));
    const std::string scaled = b.op("Mul", {y, b.weight(Shape{1, c.out, 1, 1})});
    const std::string again =
        b.op("Conv", {b.op("Relu", {scaled}), b.weight(Shape{8, c.out, 3, 1}, 0.3f)},
             window({3, 1}, {1, 1}, {1, 0, 1, 0}));
    const Model model = b.finish({again, b.op("GlobalMaxPool", {again})});
    check_model(
        model, {{{"x", noise(Shape{2, c.in, 19, 1}, 1)}}, {{"x", noise(Shape{1, c.in, 9, 6}, 2)}}});
  }
}

TEST_CASE("convolutions of signals agree with the loops", "[runtime][session]") {
  struct Case {
    std::int64_t in, out, group, kernel, stride, dilation, before, after;
  };
  for (const Case& c : {Case{16, 16, 16, 3, 1, 1, 1, 1}, Case{24, 24, 24, 5, 2, 1, 2, 1},
                        Case{12, 24, 12, 3, 1, 4, 8, 0}, Case{8, 12, 4, 3, 1, 1, 1, 1},
                        Case{6, 10, 1, 7, 3, 1, 0, 3}, Case{32, 32, 32, 1, 1, 1, 0, 0}}) {
    INFO(c.in << " to " << c.out << " in " << c.group);
    Builder b(5);
    const std::string x = b.input("x", {named("N"), known(c.in), named("T")});
    const Attributes attributes = {{"strides", Integers{c.stride}},
                                   {"dilations", Integers{c.dilation}},
                                   {"pads", Integers{c.before, c.after}},
                                   {"group", c.group}};
    const std::string y = b.op(
        "Conv", {x, b.weight(Shape{c.out, c.in / c.group, c.kernel}, 0.3f), b.weight(Shape{c.out})},
        attributes);
    const std::string mixed = b.op("Conv", {b.op("Relu", {y}), b.weight(Shape{8, c.out, 1}, 0.3f)});
    const Model model = b.finish(
        {b.op("Add", {mixed, b.weight(Shape{8, 1})}), b.op("GlobalMaxPool", {b.op("Tanh", {y})})});
    check_model(model,
                {{{"x", noise(Shape{2, c.in, 29}, 1)}}, {{"x", noise(Shape{1, c.in, 17}, 2)}}});
  }
}

TEST_CASE("a hard swish is fused even where its sixth has become part of other numbers",
          "[runtime][session]") {
  for (const bool divides : {true, false}) {
    Builder b(6, 13);
    const std::string x = b.input("x", {named("N"), known(8), named("H"), named("W")});
    const std::string y = b.op("Conv", {x, b.weight(Shape{16, 8, 1, 1}), b.weight(Shape{16})},
                               window({1, 1}, {1, 1}, {0, 0, 0, 0}));
    const std::string ramp =
        b.op("Clip", {b.op("Add", {y, b.number(3)}), b.number(0), b.number(6)});
    const std::string swish = b.op("Mul", {y, ramp});
    const std::string scaled =
        divides ? b.op("Div", {swish, b.number(6)}) : b.op("Mul", {swish, b.number(0.7f)});
    const std::string shifted =
        b.op("Mul",
             {b.op("Add", {b.op("Mul", {scaled, b.number(1.3f)}), b.number(-0.4f)}), b.number(2)});
    const Model model = b.finish({b.op("Conv", {shifted, b.weight(Shape{8, 16, 3, 3}, 0.1f)},
                                       window({3, 3}, {1, 1}, {1, 1, 1, 1}))});
    const Values given{{"x", noise(Shape{2, 8, 9, 11}, 3, 3)}};
    check_model(model, {given});
    const runtime::Profile profile = Session(model).profile(given, 1);
    const auto fused = [](const runtime::ProfileRow& row) {
      return row.operation.starts_with("Conv+Add+Clip+Mul");
    };
    CHECK(std::ranges::any_of(profile.rows, fused));
    CHECK(std::ranges::none_of(profile.rows, [](const runtime::ProfileRow& row) {
      return row.operation == "Clip" || row.operation == "Mul" || row.operation == "Add";
    }));
  }
}

TEST_CASE("constants much larger than the model are computed by the first run, and only once",
          "[runtime][session]") {
  Builder b(8);
  b.model.ir_version = 3;
  const std::string x = b.input("x", {named("N"), known(4096)});
  // Files of IR version 3 list initializers as inputs.
  const std::string shape = b.integers({4096, 600});
  b.input(shape, {known(2)}, ElementType::int64);
  const std::string weight =
      b.op("ConstantOfShape", {shape}, {{"value", Tensor::of<float>(Shape{1}, {0.25f})}});
  const Model model = b.finish({b.op("MatMul", {x, weight})});
  const Session session(serialize(model));
  REQUIRE(session.inputs().size() == 1);
  const Tensor given = noise(Shape{1, 4096}, 4);
  const Tensor got = session.run({{"x", given}}).begin()->second.tensor();
  double sum = 0;
  for (const float each : given.values<float>()) sum += each;
  for (const float each : got.values<float>()) CHECK(std::abs(each - sum / 4) < 1e-3);
  const runtime::Profile profile = session.profile({{"x", given}}, 1);
  CHECK(profile.rows.size() == 1);
}

TEST_CASE("weights that live on in packed form serve other shapes too", "[runtime][session]") {
  // Many rows, few rows and images of one column take different forms of the same weights.
  Builder b(11);
  const std::string x = b.input("x", {named("N"), known(40)});
  const std::string y = b.op("Relu", {b.op("MatMul", {x, b.weight(Shape{40, 72}, 0.2f)})});
  const std::string z = b.op("Gemm", {y, b.weight(Shape{33, 72}, 0.2f), b.weight(Shape{33})},
                             {{"transB", std::int64_t{1}}});
  const Model products = b.finish({z});
  std::vector<Values> rows;
  for (const std::int64_t n : {64, 3, 8, 1, 64}) rows.push_back({{"x", noise(Shape{n, 40}, 7)}});
  check_model(products, rows);

  Builder c(12);
  const std::string image = c.input("x", {named("N"), known(32), named("H"), named("W")});
  const std::string deep =
      c.op("Conv", {image, c.weight(Shape{32, 32, 3, 1}, 0.1f), c.weight(Shape{32})},
           window({3, 1}, {1, 1}, {1, 0, 1, 0}));
  const Model images = c.finish({c.op("Conv", {deep, c.weight(Shape{40, 32, 3, 3}, 0.1f)},
                                      window({3, 3}, {1, 1}, {1, 1, 1, 1}))});
  std::vector<Values> sizes;
  for (const auto& [h, w] :
       {std::pair(3, 3), std::pair(24, 24), std::pair(9, 1), std::pair(3, 3)}) {
    sizes.push_back({{"x", noise(Shape{1, 32, h, w}, 8)}});
  }
  check_model(images, sizes);
}

TEST_CASE("loading does not compute what the file is too small for", "[runtime][session]") {
  // 24 GiB of constants, if they were made.
  Builder b(9);
  const std::string x = b.input("x", {known(1)});
  const std::string shape = b.integers({std::int64_t{1} << 24});
  std::string sum = x;
  for (int i = 0; i < 400; ++i) {
    sum = b.op("Add", {sum, b.op("ConstantOfShape", {shape})});
  }
  const auto resident = [] {
    std::ifstream file("/proc/self/statm");
    std::int64_t whole = 0;
    std::int64_t pages = 0;
    file >> whole >> pages;
    return pages * 4096;
  };
  const std::int64_t before = resident();
  const Session session(b.finish({sum}));
  CHECK(resident() - before < std::int64_t{1} << 28);
}

TEST_CASE("transposed convolutions agree with the loops", "[runtime][session]") {
  for (const std::int64_t group : {1, 2}) {
    Builder b(5);
    const std::string x = b.input("x", {named("N"), known(8), known(6), known(5)});
    const std::string weight = b.weight(Shape{8, 6 / group, 3, 3}, 0.2f);
    const std::string y = b.op("ConvTranspose", {x, weight, b.weight(Shape{6})},
                               {{"strides", Integers{2, 2}},
                                {"pads", Integers{1, 1, 1, 1}},
                                {"output_padding", Integers{1, 1}},
                                {"group", group}});
    check_model(b.finish({b.op("Relu", {y})}), {{{"x", noise(Shape{2, 8, 6, 5}, 1)}}});
  }
}

TEST_CASE("normalization by known statistics is part of the convolution or stands alone",
          "[runtime][session]") {
  Builder b(12);
  const std::string x = b.input("x", {named("N"), known(8), known(9), known(7)});
  const auto normalized = [&](const std::string& from) {
    Tensor variance(ElementType::float32, Shape{8});
    std::fill_n(variance.mutable_data<float>(), 8, 0.5f);
    return b.op("BatchNormalization", {from, b.weight(Shape{8}), b.weight(Shape{8}),
                                       b.weight(Shape{8}), b.constant(variance)});
  };
  const std::string filtered =
      b.op("Conv", {x, b.weight(Shape{8, 8, 3, 3}, 0.2f)}, window({3, 3}, {1, 1}, {1, 1, 1, 1}));
  const Model model = b.finish(
      {b.op("Relu", {normalized(filtered)}), normalized(b.op("Tanh", {x})),
       b.op("Relu", {b.op("Mul", {normalized(b.op("Abs", {x})), b.weight(Shape{8, 1, 1})})})});
  check_model(model, {{{"x", noise(Shape{2, 8, 9, 7}, 1)}}});
}

TEST_CASE("a large batch is run in parts and gives what its samples give", "[runtime][session]") {
  const Model model = small_cnn(13);
  const Tensor x = noise(Shape{40, 3, 64, 64}, 1);
  check_model(model, {{{"x", x}}});
}

TEST_CASE("shapes that depend on elements are computed anew in each run", "[runtime][session]") {
  Builder b(6);
  const std::string x = b.input("x", {known(6)});
  const std::string found = b.op("NonZero", {b.op("Relu", {x})});
  const std::string picked = b.op("Gather", {x, b.op("Squeeze", {found, b.integers({0})})});
  const Model model = b.finish({b.op("Sigmoid", {picked})});
  check_model(model, {{{"x", Tensor::of<float>(Shape{6}, {1.f, -1.f, 2.f, 0.f, -3.f, 4.f})}},
                      {{"x", Tensor::of<float>(Shape{6}, {-1.f, -1.f, -2.f, 0.f, 3.f, -4.f})}},
                      {{"x", Tensor::of<float>(Shape{6}, {0.f, 0.f, 0.f, 0.f, 0.f, 0.f})}}});
}

TEST_CASE("sessions run in eight threads at once", "[runtime][session]") {
  const Model model = small_cnn(8);
  SessionOptions options;
  options.threads = 1;
  const Session session(model, options);
  std::vector<Tensor> inputs;
  std::vector<Tensor> expected;
  for (unsigned i = 0; i < 8; ++i) {
    inputs.push_back(noise(Shape{1 + i % 2, 3, 24, 24}, i));
    expected.push_back(session.run({{"x", inputs[i]}}).begin()->second.tensor());
  }
  std::vector<int> wrong(8, 0);
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 10; ++round) {
        const Tensor y = session.run({{"x", inputs[i]}}).begin()->second.tensor();
        const auto a = y.values<float>();
        const auto e = expected[i].values<float>();
        wrong[i] += std::equal(a.begin(), a.end(), e.begin(), e.end()) ? 0 : 1;
      }
    });
  }
  for (std::thread& each : threads) each.join();
  CHECK(wrong == std::vector<int>(8, 0));
}

TEST_CASE("results belong to the caller", "[runtime][session]") {
  Builder b;
  const std::string x = b.input("x", {known(3)});
  const std::string same = b.op("Identity", {x});
  const std::string fixed = b.constant(Tensor::of<float>(Shape{2}, {5.f, 6.f}));
  Model model = b.finish({same, b.op("Identity", {fixed}), b.op("Neg", {x})});
  const Session session(std::move(model));
  const Tensor x0 = Tensor::of<float>(Shape{3}, {1.f, 2.f, 3.f});
  for (int round = 0; round < 3; ++round) {
    Values outputs = session.run({{"x", x0}});
    for (auto& [name, value] : outputs) {
      auto& tensor = const_cast<Tensor&>(value.tensor());
      REQUIRE(tensor.is_sole_owner());
      for (std::int64_t i = 0; i < tensor.size(); ++i) tensor.mutable_data<float>()[i] = -9;
    }
    CHECK(x0.values<float>()[0] == 1.0f);
  }
  const Values outputs = session.run({{"x", x0}});
  CHECK(outputs.at(same).tensor().values<float>()[2] == 3.0f);
}

TEST_CASE("a session names what is wrong with its inputs", "[runtime][session]") {
  const Session session(attention(9));
  CHECK_THROWS_WITH(session.run({}),
                    "[runtime.Session] every input must be given, what is missing is, got x");
  CHECK_THROWS_WITH(session.run({{"x", Value()}}),
                    "[runtime.Session] every input must be given, what is missing is, got x");
  CHECK_THROWS_WITH(session.run({{"x", Tensor::scalar(1.0f)}}),
                    "[runtime.Session] input 'x' must have shape (N, 12, 32), got ()");
  CHECK_THROWS_WITH(session.run({{"x", Tensor(ElementType::int64, Shape{1, 12, 32})}}),
                    "[runtime.Session] input 'x' must be float32, got int64");
  const Tensor good = noise(Shape{1, 12, 32}, 1);
  CHECK_THROWS_WITH(session.run({{"x", good}, {"q", good}}),
                    "[runtime.Session] inputs must be ones that the model has (x), got q");
}

TEST_CASE("an output of another type than the model declares is named", "[runtime][session]") {
  Builder b;
  Model model = b.finish({b.op("Relu", {b.input("x", {named("N")})})});
  model.graph.outputs[0].type.element = ElementType::int64;
  const Session session(model);
  CHECK_THROWS_WITH(
      session.run({{"x", noise(Shape{3}, 1)}}),
      Catch::Matchers::Contains("must be int64, as the model declares it, got float32"));
}

TEST_CASE("thousands of steps are planned in memory that they share", "[runtime][session]") {
  Builder b(15);
  std::string x = b.input("x", {named("N"), known(8)});
  // Each needs the one before and the one before that.
  std::string before = x;
  for (int i = 0; i < 6000; ++i) {
    const std::string next = b.op("Div", {b.op("Add", {x, before}), b.op("Exp", {b.number(0.7f)})});
    before = x;
    x = next;
  }
  const Model model = b.finish({x});
  const Values given{{"x", noise(Shape{2, 8}, 1)}};
  const Tensor expected = evaluate(model, given).begin()->second.tensor();
  const Session session(model);
  for (int round = 0; round < 3; ++round) {
    check_close(session.run(given).begin()->second.tensor(), expected, 1e-3);
  }
}

TEST_CASE("a session lists every operator that it lacks", "[runtime][session]") {
  Builder b;
  const std::string x = b.input("x", {known(3)});
  Model model = b.finish({b.op("Frobnicate", {x}), b.op("Quux", {x})});
  CHECK_THROWS_WITH(Session(std::move(model)),
                    "[runtime.Session] operators must be ones that moptcore has, it lacks "
                    "Frobnicate, Quux");
}

TEST_CASE("a session opens ONNX files only", "[runtime][session]") {
  CHECK_THROWS_WITH(Session(std::filesystem::path("model.tflite")),
                    "[runtime.Session] path must be of an ONNX file, got model.tflite");
  CHECK_THROWS_AS(Session(std::filesystem::path("weights.safetensors")), UnsupportedError);
}

TEST_CASE("a tensor beyond the limit is refused", "[runtime][session]") {
  Builder b;
  const std::string x = b.input("x", {named("N"), named("N")});
  const Model model = b.finish({b.op("MatMul", {x, x})});
  SessionOptions options;
  options.max_bytes = 1 << 16;
  const Session session(model, options);
  CHECK_NOTHROW(session.run({{"x", noise(Shape{64, 64}, 1)}}));
  CHECK_THROWS_WITH(session.run({{"x", noise(Shape{256, 256}, 1)}}),
                    Catch::Matchers::Contains("max_bytes"));
}

TEST_CASE("a profile has a row for each step and its time", "[runtime][session]") {
  const Session session(small_cnn(10));
  const runtime::Profile profile = session.profile({{"x", noise(Shape{1, 3, 32, 32}, 1)}}, 5);
  REQUIRE(profile.rows.size() > 10);
  double sum = 0;
  for (const runtime::ProfileRow& row : profile.rows) {
    CHECK(row.milliseconds >= 0);
    CHECK_FALSE(row.operation.empty());
    sum += row.last;
  }
  CHECK(sum > 0);
  CHECK(profile.table().find("Conv+Add+Relu") != std::string::npos);
  CHECK(profile.chrome_trace().starts_with("{\"traceEvents\":["));
}

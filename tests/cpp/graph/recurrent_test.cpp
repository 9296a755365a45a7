// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <functional>

#include "catch.hpp"
#include "single_node.hpp"

using namespace moptcore;
using namespace moptcore::graph;
using moptcore::test::random_tensor;
using moptcore::test::SingleNode;

namespace {

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

using Strings = std::vector<std::string>;

// All weights of one unit over one input are these numbers.
Tensor column(std::initializer_list<double> values) {
  return Tensor::of<double>(Shape{1, static_cast<std::int64_t>(values.size()), 1}, values);
}
Tensor row(std::initializer_list<double> values) {
  return Tensor::of<double>(Shape{1, static_cast<std::int64_t>(values.size())}, values);
}

}  // namespace

TEST_CASE("LSTM follows its equations, peepholes and coupled gates too", "[graph][recurrent]") {
  const Tensor x = Tensor::of<double>(Shape{2, 1, 1}, {0.5, -1.0});
  const Tensor w = column({0.1, 0.2, 0.3, 0.4});  // i o f c
  const Tensor r = column({-0.5, 0.6, 0.7, -0.8});
  const Tensor b = row({0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08});
  const Tensor p = row({0.9, -0.3, 0.2});  // i o f
  const Tensor h0 = Tensor::of<double>(Shape{1, 1, 1}, {0.25});
  const Tensor c0 = Tensor::of<double>(Shape{1, 1, 1}, {-0.75});
  for (const bool coupled : {false, true}) {
    SingleNode node("LSTM");
    node.with("input_forget", std::int64_t{coupled});
    const auto y = node.run({x, w, r, b, Value(), h0, c0, p}, 14, 3);
    double h = 0.25;
    double c = -0.75;
    for (int t = 0; t < 2; ++t) {
      const double in = x.data<double>()[t];
      const double i = sigmoid(0.1 * in - 0.5 * h + 0.06 + 0.9 * c);
      const double f = coupled ? 1 - i : sigmoid(0.3 * in + 0.7 * h + 0.10 + 0.2 * c);
      c = f * c + i * std::tanh(0.4 * in - 0.8 * h + 0.12);
      const double o = sigmoid(0.2 * in + 0.6 * h + 0.08 - 0.3 * c);
      h = o * std::tanh(c);
      REQUIRE(std::abs(y[0].data<double>()[t] - h) < 1e-14);
    }
    CHECK(y[1].data<double>()[0] == y[0].data<double>()[1]);
    CHECK(std::abs(y[2].data<double>()[0] - c) < 1e-14);
  }
}

TEST_CASE("GRU resets before or after the linear part", "[graph][recurrent]") {
  const Tensor x = Tensor::of<double>(Shape{1, 1, 1}, {0.5});
  const Tensor w = column({0.1, 0.2, 0.3});  // z r h
  const Tensor r = column({-0.5, 0.6, 0.7});
  const Tensor b = row({0.01, 0.02, 0.03, 0.04, 0.05, 0.06});
  const double before = 0.25;
  const Tensor h0 = Tensor::of<double>(Shape{1, 1, 1}, {before});
  const double z = sigmoid(0.05 - 0.5 * before + 0.05);
  const double reset = sigmoid(0.1 + 0.6 * before + 0.07);
  const double first = std::tanh(0.15 + reset * before * 0.7 + 0.09);
  const double last = std::tanh(0.15 + 0.03 + reset * (before * 0.7 + 0.06));
  const auto run = [&](std::int64_t linear) {
    return SingleNode("GRU")
        .with("linear_before_reset", linear)
        .run({x, w, r, b, Value(), h0}, 14)[0]
        .data<double>()[0];
  };
  CHECK(std::abs(run(0) - ((1 - z) * first + z * before)) < 1e-15);
  CHECK(std::abs(run(1) - ((1 - z) * last + z * before)) < 1e-15);
}

TEST_CASE("RNN applies every activation of the schema", "[graph][recurrent]") {
  const Tensor w = column({1.0});
  const Tensor r = column({0.0});
  const std::vector<std::pair<std::string, std::function<double(double)>>> activations = {
      {"Relu", [](double v) { return std::max(v, 0.0); }},
      {"Tanh", [](double v) { return std::tanh(v); }},
      {"Sigmoid", sigmoid},
      {"Affine", [](double v) { return 0.5 * v + 0.25; }},
      {"LeakyRelu", [](double v) { return v >= 0 ? v : 0.5 * v; }},
      {"ThresholdedRelu", [](double v) { return v >= 0.5 ? v : 0.0; }},
      {"ScaledTanh", [](double v) { return 0.5 * std::tanh(0.25 * v); }},
      {"HardSigmoid", [](double v) { return std::clamp(0.5 * v + 0.25, 0.0, 1.0); }},
      {"Elu", [](double v) { return v >= 0 ? v : 0.5 * (std::exp(v) - 1); }},
      {"Softsign", [](double v) { return v / (1 + std::abs(v)); }},
      {"Softplus", [](double v) { return std::log(1 + std::exp(v)); }},
  };
  for (const auto& [name, f] : activations) {
    for (const double value : {-2.0, -0.25, 0.0, 0.5, 2.0}) {
      SingleNode node("RNN");
      node.with("activations", Strings{name}).with("activation_alpha", std::vector<float>{0.5f});
      node.with("activation_beta", std::vector<float>{0.25f});
      const Tensor y = node.run({Tensor::of<double>(Shape{1, 1, 1}, {value}), w, r}, 14)[0];
      INFO(name << ' ' << value);
      CHECK(std::abs(y.data<double>()[0] - f(value)) < 1e-15);
    }
  }
  // Infinite sums must not become NaN.
  SingleNode node("RNN");
  node.with("activations", Strings{"Softplus"});
  const Tensor y = node.run({Tensor::of<double>(Shape{1, 1, 1}, {1000}), w, r}, 14)[0];
  CHECK(y.data<double>()[0] == 1000);
}

TEST_CASE("sequences end where their lengths say, backward ones begin there",
          "[graph][recurrent]") {
  // Sums of all that was seen: a linear activation with weights of 1.
  const Tensor x = Tensor::of<float>(Shape{3, 2, 1}, {1, 10, 2, 20, 4, 40});
  const Tensor ones = Tensor::of<float>(Shape{2, 1, 1}, {1, 1});
  const Tensor lengths = Tensor::of<std::int32_t>(Shape{2}, {3, 2});
  SingleNode node("RNN");
  node.with("direction", std::string("bidirectional"));
  node.with("activations", Strings{"Affine", "Affine"});
  const auto y = node.run({x, ones, ones, Value(), lengths}, 14, 2);
  // (step, direction, sequence)
  const float expected[] = {1, 10, 7, 30, 3, 30, 6, 20, 7, 0, 4, 0};
  for (int i = 0; i < 12; ++i) CHECK(y[0].data<float>()[i] == expected[i]);
  const float last[] = {7, 30, 7, 30};
  for (int i = 0; i < 4; ++i) CHECK(y[1].data<float>()[i] == last[i]);
}

TEST_CASE("clip bounds what goes into an activation", "[graph][recurrent]") {
  const Tensor x = Tensor::of<double>(Shape{1, 1, 1}, {5});
  SingleNode node("RNN");
  node.with("clip", 0.5f);
  const Tensor y = node.run({x, column({1}), column({0})}, 14)[0];
  CHECK(y.data<double>()[0] == std::tanh(0.5));
}

TEST_CASE("recurrent networks name what does not fit", "[graph][recurrent]") {
  std::mt19937 random(1);
  const Tensor x = random_tensor<float>(random, Shape{3, 2, 4});
  const Tensor w = random_tensor<float>(random, Shape{1, 5, 4});
  const Tensor r = random_tensor<float>(random, Shape{1, 5, 5});
  const auto rnn = [&](SingleNode node, std::vector<Value> inputs) { return node.run(inputs, 14); };
  const SingleNode node("RNN");
  CHECK_NOTHROW(rnn(node, {x, w, r}));
  CHECK_THROWS_AS(rnn(SingleNode("GRU"), {x, w, r}), Error);
  CHECK_THROWS_AS(rnn(SingleNode("LSTM"), {x, w, r}), Error);
  CHECK_THROWS_AS(rnn(SingleNode(node).with("hidden_size", std::int64_t{4}), {x, w, r}), Error);
  CHECK_THROWS_AS(rnn(SingleNode(node).with("direction", std::string("up")), {x, w, r}), Error);
  CHECK_THROWS_AS(rnn(SingleNode(node).with("direction", std::string("bidirectional")), {x, w, r}),
                  Error);
  CHECK_THROWS_WITH(rnn(SingleNode(node).with("activations", Strings{"Sinus"}), {x, w, r}),
                    "[graph.RNN] activations must be ones that ONNX has, got Sinus");
  CHECK_THROWS_AS(rnn(node, {x, w, r, random_tensor<float>(random, Shape{1, 5})}), Error);
  const Tensor lengths = Tensor::of<std::int32_t>(Shape{2}, {1, 4});
  CHECK_THROWS_WITH(rnn(node, {x, w, r, Value(), lengths}),
                    "[graph.RNN] sequence_lens must be in [0, 3], got 4");
  CHECK_THROWS_AS(rnn(node, {x, w, r, Value(), Value(), random_tensor<float>(random, Shape{2, 5})}),
                  Error);
  CHECK_THROWS_AS(rnn(node, {x, random_tensor<double>(random, w.shape()), r}), DTypeError);
  CHECK_THROWS_AS(rnn(node, {Tensor::scalar(1.0f), w, r}), Error);
}

TEST_CASE("networks of no unit end at once, however many steps", "[graph][recurrent]") {
  const std::int64_t steps = std::int64_t{1} << 40;
  const Tensor x(ElementType::float32, Shape{steps, 1, 0});
  const Tensor w(ElementType::float32, Shape{1, 0, 0});
  for (const char* op : {"RNN", "GRU", "LSTM"}) {
    CHECK(SingleNode(op).run({x, w, w}, 14)[0].shape() == Shape{steps, 1, 1, 0});
  }
}

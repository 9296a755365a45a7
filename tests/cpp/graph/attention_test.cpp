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

constexpr double kNever = -std::numeric_limits<double>::infinity();

// Probabilities of `keys` scores.
std::vector<double> softmax(std::vector<double> scores) {
  double sum = 0;
  for (double& score : scores) sum += score = std::exp(score);
  for (double& score : scores) score = sum == 0 ? 0 : score / sum;
  return scores;
}

}  // namespace

TEST_CASE("Attention is the softmax of its scores over keys that may be seen",
          "[graph][attention]") {
  std::mt19937 random(1);
  for (int round = 0; round < 30; ++round) {
    const std::int64_t group = pick(random, 1, 3);
    const std::int64_t kv_heads = pick(random, 1, 2);
    const std::int64_t heads = group * kv_heads;
    const std::int64_t queries = pick(random, 1, 40);
    const std::int64_t fresh = pick(random, 1, 12);
    const std::int64_t past = pick(random, 0, 4);
    const std::int64_t keys = past + fresh;
    const std::int64_t size = pick(random, 1, 5);
    const std::int64_t value_size = pick(random, 1, 5);
    const bool causal = pick(random, 0, 1) == 1;
    const std::int64_t left = pick(random, -1, 3);
    const std::int64_t right = pick(random, -1, 3);
    const double cap = pick(random, 0, 1) == 1 ? 0.5 : 0.0;
    const Tensor q = random_tensor<double>(random, Shape{2, heads, queries, size});
    const Tensor k = random_tensor<double>(random, Shape{2, kv_heads, fresh, size});
    const Tensor v = random_tensor<double>(random, Shape{2, kv_heads, fresh, value_size});
    const Tensor old_k = random_tensor<double>(random, Shape{2, kv_heads, past, size});
    const Tensor old_v = random_tensor<double>(random, Shape{2, kv_heads, past, value_size});
    const Tensor mask = random_tensor<double>(random, Shape{heads, 1, keys});
    SingleNode node("Attention");
    node.with("is_causal", std::int64_t{causal}).with("left_window_size", left);
    node.with("right_window_size", right).with("softcap", static_cast<float>(cap));
    node.with("qk_matmul_output_mode", std::int64_t{3}).with("scale", 0.75f);
    const auto y = node.run({q, k, v, mask, old_k, old_v}, 25, 4);
    REQUIRE(y[1].shape() == Shape{2, kv_heads, keys, size});
    const auto key = [&](std::int64_t b, std::int64_t h, std::int64_t j, std::int64_t i) {
      const std::int64_t head = b * kv_heads + h;
      return j < past ? old_k.data<double>()[(head * past + j) * size + i]
                      : k.data<double>()[(head * fresh + j - past) * size + i];
    };
    for (std::int64_t b = 0; b < 2; ++b) {
      for (std::int64_t h = 0; h < heads; ++h) {
        for (std::int64_t i = 0; i < queries; ++i) {
          const std::int64_t row = (b * heads + h) * queries + i;
          std::vector<double> scores;
          for (std::int64_t j = 0; j < keys; ++j) {
            double score = 0;
            for (std::int64_t s = 0; s < size; ++s) {
              score += q.data<double>()[row * size + s] * key(b, h / group, j, s) * 0.75;
            }
            if (cap > 0) score = cap * std::tanh(score / cap);
            score += mask.data<double>()[h * keys + j];
            const std::int64_t at = i + past;
            if (causal && j > at) score = kNever;
            if (left >= 0 && j < at - left) score = kNever;
            if (right >= 0 && j > at + right) score = kNever;
            scores.push_back(score);
          }
          const std::vector<double> weights = softmax(scores);
          for (std::int64_t j = 0; j < keys; ++j) {
            REQUIRE(std::abs(y[3].data<double>()[row * keys + j] - weights[j]) < 1e-14);
          }
          for (std::int64_t s = 0; s < value_size; ++s) {
            double sum = 0;
            for (std::int64_t j = 0; j < keys; ++j) {
              const std::int64_t at = ((b * kv_heads + h / group) * keys + j) * value_size + s;
              sum += weights[j] * y[2].data<double>()[at];
            }
            REQUIRE(std::abs(y[0].data<double>()[row * value_size + s] - sum) < 1e-14);
          }
        }
      }
    }
  }
}

TEST_CASE("queries that may see nothing give zeros", "[graph][attention]") {
  std::mt19937 random(2);
  const Tensor q = random_tensor<float>(random, Shape{1, 1, 3, 2});
  const Tensor k = random_tensor<float>(random, Shape{1, 1, 3, 2});
  const Tensor length = Tensor::of<std::int64_t>(Shape{1}, {2});
  SingleNode node("Attention");
  node.with("is_causal", std::int64_t{1});
  // The three queries end with key 2 of 2, so the first one comes before all keys.
  const auto y = node.run({q, k, k, Value(), Value(), Value(), length}, 24);
  CHECK(y[0].data<float>()[0] == 0.0f);
  CHECK(y[0].data<float>()[1] == 0.0f);
  CHECK(y[0].data<float>()[2] == k.data<float>()[0]);
  Tensor mask(ElementType::boolean, Shape{3, 3});
  std::fill_n(mask.mutable_data<bool>(), 9, false);
  const auto none = SingleNode("Attention").run({q, k, k, mask}, 23);
  for (int i = 0; i < 6; ++i) CHECK(none[0].data<float>()[i] == 0.0f);
}

TEST_CASE("FlexAttention runs the subgraphs that it is given", "[graph][attention]") {
  std::mt19937 random(3);
  const Tensor q = random_tensor<float>(random, Shape{1, 2, 3, 4});
  const Tensor k = random_tensor<float>(random, Shape{1, 1, 5, 4});
  SingleNode plain("FlexAttention", "ai.onnx.preview");
  const Tensor wanted = SingleNode("Attention").run({q, k, k}, 23)[0];
  const Tensor y = plain.run({q, k, k}, 23)[0];
  for (std::int64_t i = 0; i < y.size(); ++i) {
    REQUIRE(std::abs(y.data<float>()[i] - wanted.data<float>()[i]) < 8 * 0x1p-23);
  }
  Graph body;
  body.inputs = {{"in", {}, {}, {}, {}}};
  body.outputs = {{"out", {}, {}, {}, {}}};
  Node negate;
  negate.op_type = "Neg";
  negate.inputs = {"in"};
  negate.outputs = {"out"};
  body.nodes = {negate};
  const Tensor turned = SingleNode(plain).with("prob_mod", Subgraph(body)).run({q, k, k}, 23)[0];
  for (std::int64_t i = 0; i < y.size(); ++i) {
    REQUIRE(turned.data<float>()[i] == -y.data<float>()[i]);
  }
  body.nodes[0].op_type = "Constant";
  body.nodes[0].inputs = {};
  body.nodes[0].set("value", Tensor::scalar(1.0f));
  CHECK_THROWS_WITH(SingleNode(plain).with("score_mod", Subgraph(body)).run({q, k, k}, 23),
                    "[graph.FlexAttention] a modifier must keep the shape, got ()");
}

TEST_CASE("LinearAttention is its recurrence", "[graph][attention]") {
  // One key and value element: s = e^g s + beta k (v - e^g s k), o = q s.
  const auto line = [](std::initializer_list<float> values) {
    return Tensor::of<float>(Shape{1, 2, 1}, values);
  };
  SingleNode node("LinearAttention");
  node.with("q_num_heads", std::int64_t{1}).with("kv_num_heads", std::int64_t{1});
  node.with("scale", 1.0f);
  const Tensor past = Tensor::of<float>(Shape{1, 1, 1, 1}, {0.5f});
  const auto y = node.run({line({2, 3}), line({0.5f, 1}), line({1, 4}), past, line({0.1f, -0.2f}),
                           line({0.25f, 0.75f})},
                          27, 2);
  double state = 0.5 * std::exp(0.1);
  state += 0.25 * 0.5 * (1 - state * 0.5);
  CHECK(std::abs(y[0].data<float>()[0] - 2 * state) < 1e-6);
  state *= std::exp(-0.2);
  state += 0.75 * (4 - state);
  CHECK(std::abs(y[0].data<float>()[1] - 3 * state) < 1e-6);
  CHECK(std::abs(y[1].data<float>()[0] - state) < 1e-6);
  node.with("update_rule", std::string("linear"));
  CHECK_THROWS_AS(node.run({line({2, 3}), line({1, 1}), line({1, 4}), past, line({0, 0})}, 27, 2),
                  Error);
  const auto linear = node.run({line({2, 3}), line({1, 1}), line({1, 4})}, 27, 2);
  CHECK(linear[0].data<float>()[1] == 15.0f);
}

TEST_CASE("RotaryEmbedding turns pairs and keeps what is not rotated", "[graph][attention]") {
  const Tensor x = Tensor::of<float>(Shape{1, 1, 1, 5}, {1, 2, 3, 4, 5});
  const Tensor cosines = Tensor::of<float>(Shape{2, 2}, {9, 9, 0, 1});
  const Tensor sines = Tensor::of<float>(Shape{2, 2}, {9, 9, 1, 0});
  const Tensor at = Tensor::of<std::int64_t>(Shape{1, 1}, {1});
  SingleNode node("RotaryEmbedding");
  node.with("rotary_embedding_dim", std::int64_t{4});
  const Tensor halves = node.run({x, cosines, sines, at}, 23)[0];
  const float first[] = {-3, 2, 1, 4, 5};
  for (int i = 0; i < 5; ++i) CHECK(halves.data<float>()[i] == first[i]);
  node.with("interleaved", std::int64_t{1});
  const Tensor pairs = node.run({x, cosines, sines, at}, 23)[0];
  const float second[] = {-2, 1, 3, 4, 5};
  for (int i = 0; i < 5; ++i) CHECK(pairs.data<float>()[i] == second[i]);
  const Tensor beyond = Tensor::of<std::int64_t>(Shape{1, 1}, {2});
  CHECK_THROWS_WITH(node.run({x, cosines, sines, beyond}, 23),
                    "[graph.RotaryEmbedding] position_ids must be in [0, 2), got 2");
  node.with("rotary_embedding_dim", std::int64_t{6});
  CHECK_THROWS_AS(node.run({x, cosines, sines, at}, 23), Error);
}

TEST_CASE("attention names what does not fit", "[graph][attention]") {
  std::mt19937 random(4);
  const Tensor q = random_tensor<float>(random, Shape{1, 4, 3, 2});
  const Tensor k = random_tensor<float>(random, Shape{1, 2, 3, 2});
  const auto run = [&](SingleNode node, std::vector<Value> inputs) { return node.run(inputs, 24); };
  const SingleNode node("Attention");
  CHECK_NOTHROW(run(node, {q, k, k}));
  CHECK_THROWS_AS(run(node, {q, random_tensor<float>(random, Shape{1, 3, 3, 2}), k}), Error);
  CHECK_THROWS_AS(run(node, {q, random_tensor<float>(random, Shape{1, 2, 3, 3}), k}), Error);
  CHECK_THROWS_AS(run(node, {q, k, random_tensor<float>(random, Shape{1, 2, 4, 2})}), Error);
  CHECK_THROWS_AS(run(node, {q, k, k, random_tensor<float>(random, Shape{2, 3})}), Error);
  CHECK_THROWS_AS(run(node, {q, k, k, Value(), k}), Error);
  CHECK_THROWS_AS(
      run(node, {q, k, k, Value(), Value(), Value(), Tensor::of<std::int64_t>(Shape{1}, {4})}),
      Error);
  CHECK_THROWS_AS(run(SingleNode(node).with("qk_matmul_output_mode", std::int64_t{4}), {q, k, k}),
                  Error);
  CHECK_THROWS_AS(run(SingleNode(node).with("left_window_size", std::int64_t{-2}), {q, k, k}),
                  Error);
  CHECK_THROWS_AS(run(SingleNode(node).with("softmax_precision", std::int64_t{7}), {q, k, k}),
                  DTypeError);
  const Tensor flat = random_tensor<float>(random, Shape{1, 3, 6});
  CHECK_THROWS_WITH(run(node, {flat, flat, flat}),
                    "[graph.Attention] the number of heads must be >= 1 and divide the last "
                    "dimension, got 0");
}

TEST_CASE("attention over nothing ends at once, however many heads", "[graph][attention]") {
  const std::int64_t many = std::int64_t{1} << 20;
  const Tensor q(ElementType::float32, Shape{many, many, 1024, 0});
  const Tensor k(ElementType::float32, Shape{many, many, 0, 0});
  CHECK(SingleNode("Attention").run({q, k, k}, 23, 4)[0].shape() == q.shape());
  CHECK(SingleNode("FlexAttention", "ai.onnx.preview").run({q, k, k}, 23)[0].shape() == q.shape());
}

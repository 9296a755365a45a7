// SPDX-License-Identifier: Apache-2.0
#include <moptcore/graph/channels.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <stdexcept>

#include <moptcore/graph/evaluate.hpp>
#include <moptcore/graph/operator.hpp>

#include "catch.hpp"
#include "graph/models.hpp"

using namespace moptcore;
using namespace moptcore::graph;
using namespace moptcore::graph::testing;

namespace {

std::string numbered(std::string stem, std::size_t number) {
  stem += std::to_string(number);
  return stem;
}

class Builder {
 public:
  explicit Builder(std::uint32_t seed, std::int64_t opset = 17) : random_(seed) {
    model_.opsets[""] = opset;
  }

  std::int64_t pick(std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(random_);
  }

  // Values in [low, high], written as an initializer.
  std::string weight(const Shape& shape, float low, float high) {
    Tensor tensor(ElementType::float32, shape);
    std::uniform_real_distribution<float> draw(low, high);
    for (std::int64_t i = 0; i < tensor.size(); ++i)
      tensor.mutable_data<float>()[i] = draw(random_);
    const std::string name = numbered("w", model_.graph.initializers.size());
    model_.graph.initializers[name] = std::move(tensor);
    return name;
  }

  std::string constant(const Ints& values) {
    const std::string name = numbered("c", model_.graph.initializers.size());
    model_.graph.initializers[name] = ints(values);
    return name;
  }

  std::vector<std::string> add(const std::string& op, std::vector<std::string> inputs,
                               std::vector<std::pair<std::string, AttributeValue>> attributes = {},
                               int outputs = 1) {
    std::vector<std::string> names;
    for (int i = 0; i < outputs; ++i) names.push_back(numbered("v", values_++));
    model_.graph.nodes.push_back(node(op, std::move(inputs), names, std::move(attributes)));
    return names;
  }

  std::string conv(const std::string& x, std::int64_t in, std::int64_t out, std::int64_t kernel,
                   std::int64_t groups = 1) {
    const float bound = 1.5F / std::sqrt(static_cast<float>(in / groups * kernel * kernel));
    const std::string w = weight({out, in / groups, kernel, kernel}, -bound, bound);
    std::vector<std::string> inputs = {x, w};
    if (pick(0, 1) == 1) inputs.push_back(weight({out}, -0.5F, 0.5F));
    const std::int64_t pad = kernel / 2;
    return add("Conv", inputs, {{"group", groups}, {"pads", Ints{pad, pad, pad, pad}}})[0];
  }

  Model model_;

 private:
  std::mt19937 random_;
  std::size_t values_ = 0;
};

Tensor random_tensor(const Shape& shape, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> draw(-1.0F, 1.0F);
  Tensor tensor(ElementType::float32, shape);
  for (std::int64_t i = 0; i < tensor.size(); ++i) tensor.mutable_data<float>()[i] = draw(random);
  return tensor;
}

const ChannelGroup& group_of(const std::vector<ChannelGroup>& groups, std::string_view tensor,
                             int axis) {
  for (const ChannelGroup& group : groups) {
    for (const ChannelMember& member : group.members) {
      if (member.tensor == tensor && member.axis == axis) return group;
    }
  }
  FAIL("no group has " << tensor);
  return groups.front();
}

// What is kept is computed from the same numbers in the same order, but for zeros that are added:
// sums of up to a few hundred products of float32 may round differently by 2^-24 each.
void check_same(const Model& a, const Model& b, const Values& inputs) {
  const Values x = evaluate(a, inputs);
  const Values y = evaluate(b, inputs);
  REQUIRE(x.size() == y.size());
  for (const auto& [name, value] : x) {
    const Tensor& one = value.tensor();
    const Tensor& other = y.at(name).tensor();
    REQUIRE(one.shape() == other.shape());
    double most = 1.0;
    double difference = 0.0;
    for (std::int64_t i = 0; i < one.size(); ++i) {
      const double p = one.values<float>()[static_cast<std::size_t>(i)];
      const double q = other.values<float>()[static_cast<std::size_t>(i)];
      REQUIRE(std::isfinite(p));
      most = std::max(most, std::fabs(p));
      difference = std::max(difference, std::fabs(p - q));
    }
    CHECK(difference <= 1e-5 * most);
  }
}

bool mentions(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

std::int64_t parameters(const Model& model) {
  std::int64_t sum = 0;
  for (const auto& [name, tensor] : model.graph.initializers) sum += tensor.size();
  return sum;
}

}  // namespace

TEST_CASE("a convolution, its normalization and what reads it are one group", "[graph][channels]") {
  Builder b(1);
  b.model_.graph.inputs = {value("x", ElementType::float32, {"N", 3, 5, 5})};
  const std::string first = b.conv("x", 3, 8, 3);
  const std::string w1 = b.model_.graph.nodes[0].inputs[1];
  const std::string scale = b.weight({8}, 0.5F, 1.5F);
  const std::string bias = b.weight({8}, -1.0F, 1.0F);
  const std::string mean = b.weight({8}, -1.0F, 1.0F);
  const std::string var = b.weight({8}, 0.5F, 1.5F);
  const std::string norm = b.add("BatchNormalization", {first, scale, bias, mean, var})[0];
  const std::string act = b.add("Sigmoid", {norm})[0];
  const std::string w2 = b.weight({4, 8, 1, 1}, -1.0F, 1.0F);
  b.model_.graph.nodes.push_back(node("Conv", {act, w2}, {"y"}));
  b.model_.graph.outputs = {untyped("y")};

  const auto groups = channel_groups(b.model_);
  const ChannelGroup& group = group_of(groups, w1, 0);
  CHECK_FALSE(group.fixed);
  CHECK(group.name == w1 + ":0");
  CHECK(group.extent == 8);
  CHECK(group.unit == 1);
  CHECK(&group_of(groups, w2, 1) == &group);
  CHECK(&group_of(groups, var, 0) == &group);
  CHECK(group_of(groups, w1, 1).fixed);
  CHECK(mentions(group_of(groups, w1, 1).reason, "input"));
  CHECK(mentions(group_of(groups, w2, 0).reason, "output"));

  Recipe recipe;
  recipe.fingerprint = fingerprint(b.model_);
  recipe.groups[group.name] = {8, {1, 4, 6}};
  const Model pruned = remove_channels(b.model_, recipe);
  CHECK(pruned.graph.initializers.at(w1).shape() == Shape{3, 3, 3, 3});
  CHECK(pruned.graph.initializers.at(w2).shape() == Shape{4, 3, 1, 1});
  CHECK(pruned.graph.initializers.at(scale).values<float>()[2] ==
        b.model_.graph.initializers.at(scale).values<float>()[6]);
  const Model masked = mask_channels(b.model_, recipe);
  CHECK(masked.graph.initializers.at(w1).shape() == Shape{8, 3, 3, 3});
  check_same(pruned, masked, {{"x", random_tensor({2, 3, 5, 5}, 7)}});
}

TEST_CASE("random graphs without channels compute what they do with zeros there",
          "[graph][channels]") {
  std::int64_t cut = 0;
  for (std::uint32_t seed = 0; seed < 150; ++seed) {
    CAPTURE(seed);
    Builder b(seed);
    const std::int64_t size = b.pick(3, 5);
    b.model_.graph.inputs = {value("x", ElementType::float32, {"N", 3, size, size})};
    struct Map {
      std::string name;
      std::int64_t channels;
    };
    const std::int64_t width = 4 * b.pick(1, 4);
    std::vector<Map> maps = {{b.conv("x", 3, width, 3), width}};
    for (std::int64_t step = b.pick(3, 10); step > 0; --step) {
      const Map from =
          maps[static_cast<std::size_t>(b.pick(0, static_cast<std::int64_t>(maps.size()) - 1))];
      const std::int64_t c = from.channels;
      switch (b.pick(0, 17)) {
        case 0: {
          const std::int64_t out = 2 * b.pick(1, 8);
          maps.push_back({b.conv(from.name, c, out, b.pick(0, 1) * 2 + 1), out});
          break;
        }
        case 1: maps.push_back({b.conv(from.name, c, c, 3, c), c}); break;
        case 2:
          if (c % 4 == 0) maps.push_back({b.conv(from.name, c, 2 * c, 1, c / 2), 2 * c});
          break;
        case 3: {
          const std::string scale = b.weight({c}, 0.5F, 1.5F);
          const std::string bias = b.weight({c}, -0.5F, 0.5F);
          const std::string mean = b.weight({c}, -0.5F, 0.5F);
          const std::string var = b.weight({c}, 0.5F, 1.5F);
          maps.push_back({b.add("BatchNormalization", {from.name, scale, bias, mean, var})[0], c});
          break;
        }
        case 4: maps.push_back({b.add("Relu", {from.name})[0], c}); break;
        case 5: maps.push_back({b.add("HardSigmoid", {from.name})[0], c}); break;
        case 6:
        case 7:
          for (const Map& other : std::vector<Map>(maps)) {
            if (other.channels == c && other.name != from.name) {
              maps.push_back(
                  {b.add(b.pick(0, 3) == 0 ? "Max" : "Add", {from.name, other.name})[0], c});
              break;
            }
          }
          break;
        case 8: {
          const Map& other =
              maps[static_cast<std::size_t>(b.pick(0, static_cast<std::int64_t>(maps.size()) - 1))];
          maps.push_back({b.add("Concat", {from.name, other.name}, {{"axis", std::int64_t{1}}})[0],
                          c + other.channels});
          break;
        }
        case 9: {
          const std::int64_t part = b.pick(1, c - 1);
          const auto parts = b.add("Split", {from.name, b.constant({part, c - part})},
                                   {{"axis", std::int64_t{1}}}, 2);
          maps.push_back({parts[0], part});
          maps.push_back({parts[1], c - part});
          break;
        }
        case 10: {
          const std::string pooled = b.add("GlobalAveragePool", {from.name})[0];
          const std::string inner = b.add("Relu", {b.conv(pooled, c, 4, 1)})[0];
          const std::string gate = b.add("Sigmoid", {b.conv(inner, 4, c, 1)})[0];
          maps.push_back({b.add("Mul", {from.name, gate})[0], c});
          break;
        }
        case 11:
          if (c % 2 == 0) {
            const std::string apart =
                b.add("Reshape", {from.name, b.constant({0, 2, c / 2, size, size})})[0];
            const std::string turned =
                b.add("Transpose", {apart}, {{"perm", Ints{0, 2, 1, 3, 4}}})[0];
            maps.push_back({b.add("Reshape", {turned, b.constant({0, -1, size, size})})[0], c});
          }
          break;
        case 12: {
          const std::int64_t start = b.pick(0, c - 1);
          const std::int64_t end = b.pick(start + 1, c);
          maps.push_back({b.add("Slice", {from.name, b.constant({start}), b.constant({end}),
                                          b.constant({1})})[0],
                          end - start});
          break;
        }
        case 13: {
          Ints order;
          for (std::int64_t i = 0; i < c; ++i) order.push_back(c - 1 - i);
          maps.push_back(
              {b.add("Gather", {from.name, b.constant(order)}, {{"axis", std::int64_t{1}}})[0], c});
          break;
        }
        case 14:
          maps.push_back({b.add("MaxPool", {from.name},
                                {{"kernel_shape", Ints{3, 3}}, {"pads", Ints{1, 1, 1, 1}}})[0],
                          c});
          break;
        case 15: {
          const std::int64_t out = 2 * b.pick(1, 4);
          const std::string w = b.weight({c, out, 1, 1}, -0.5F, 0.5F);
          maps.push_back({b.add("ConvTranspose", {from.name, w})[0], out});
          break;
        }
        case 16:
          maps.push_back(
              {b.add("Pad", {from.name, b.constant({0, 1, 0, 0, 0, 2, 0, 0})})[0], c + 3});
          break;
        default:
          maps.push_back({b.add("Add", {from.name, b.weight({c, 1, 1}, -1.0F, 1.0F)})[0], c});
          break;
      }
    }
    const Map last = maps.back();
    std::string flat = last.name;
    std::int64_t features = last.channels * size * size;
    if (b.pick(0, 1) == 1) {
      flat = b.add("GlobalAveragePool", {flat})[0];
      features = last.channels;
    }
    flat = b.add("Flatten", {flat})[0];
    const std::string hidden =
        b.add("Gemm", {flat, b.weight({features, 6}, -0.3F, 0.3F), b.weight({6}, -1.0F, 1.0F)})[0];
    const std::string active = b.add("Tanh", {hidden})[0];
    b.model_.graph.nodes.push_back(node("MatMul", {active, b.weight({6, 2}, -1.0F, 1.0F)}, {"y"}));
    b.model_.graph.outputs = {untyped("y")};

    ChannelChoice choice;
    choice.sparsity = 0.5;
    ChannelScores scores;
    for (const ChannelGroup& group : channel_groups(b.model_)) {
      if (group.fixed) {
        CHECK_FALSE(group.reason.empty());
        continue;
      }
      for (std::int64_t unit = 0; unit < group.units(); ++unit) {
        scores[group.name].push_back(static_cast<double>(b.pick(0, 1000)));
      }
    }
    choice.scores = scores;
    const Recipe recipe = choose_channels(b.model_, choice);
    CHECK(Recipe::from_json(recipe.to_json()) == recipe);
    const Model pruned = remove_channels(b.model_, recipe);
    if (!recipe.groups.empty()) {
      ++cut;
      CHECK(parameters(pruned) < parameters(b.model_));
    }
    check_same(pruned, mask_channels(b.model_, recipe),
               {{"x", random_tensor({2, 3, size, size}, seed)}});
  }
  // The loop would show nothing if all groups were fixed.
  CHECK(cut > 120);
}

TEST_CASE("attention loses whole heads and its feed-forward layer single channels",
          "[graph][channels]") {
  constexpr std::int64_t kHeads = 4;
  constexpr std::int64_t kWidth = 3;
  constexpr std::int64_t kModel = kHeads * kWidth;
  Builder b(3);
  b.model_.graph.inputs = {value("x", ElementType::float32, {"B", "T", kModel})};
  std::vector<std::string> weights;
  const auto project = [&](const std::string& x, std::int64_t in, std::int64_t out) {
    weights.push_back(b.weight({in, out}, -0.5F, 0.5F));
    return b.add("Add", {b.add("MatMul", {x, weights.back()})[0], b.weight({out}, -0.5F, 0.5F)})[0];
  };
  const auto heads = [&](const std::string& x, const Ints& order) {
    const std::string apart = b.add("Reshape", {x, b.constant({0, -1, kHeads, kWidth})})[0];
    return b.add("Transpose", {apart}, {{"perm", order}})[0];
  };
  const std::string q = heads(project("x", kModel, kModel), {0, 2, 1, 3});
  const std::string k = heads(project("x", kModel, kModel), {0, 2, 3, 1});
  const std::string v = heads(project("x", kModel, kModel), {0, 2, 1, 3});
  const std::string scores = b.add("Softmax", {b.add("MatMul", {q, k})[0]})[0];
  const std::string mixed =
      b.add("Transpose", {b.add("MatMul", {scores, v})[0]}, {{"perm", Ints{0, 2, 1, 3}}})[0];
  const std::string joined = b.add("Reshape", {mixed, b.constant({0, -1, kModel})})[0];
  const std::string attended = b.add("Add", {project(joined, kModel, kModel), "x"})[0];
  const std::string normal =
      b.add("LayerNormalization", {attended, b.weight({kModel}, 0.5F, 1.5F)})[0];
  const std::string inner = b.add("Gelu", {project(normal, kModel, 10)})[0];
  b.model_.opsets[""] = 20;
  const std::string outer = project(inner, 10, kModel);
  b.model_.graph.nodes.push_back(node("Add", {outer, normal}, {"y"}));
  b.model_.graph.outputs = {untyped("y")};

  const auto groups = channel_groups(b.model_);
  const ChannelGroup& head = group_of(groups, weights[0], 1);
  CHECK_FALSE(head.fixed);
  CHECK(head.extent == kModel);
  CHECK(head.unit == kWidth);
  CHECK(&group_of(groups, weights[1], 1) == &head);
  CHECK(&group_of(groups, weights[2], 1) == &head);
  CHECK(&group_of(groups, weights[3], 0) == &head);
  const ChannelGroup& feed = group_of(groups, weights[4], 1);
  CHECK_FALSE(feed.fixed);
  CHECK(feed.units() == 10);
  CHECK(group_of(groups, weights[3], 1).fixed);

  const Recipe recipe = choose_channels(b.model_);
  CHECK(recipe.groups.size() == 2);
  const Model pruned = remove_channels(b.model_, recipe);
  CHECK(pruned.graph.initializers.at(weights[0]).shape() == Shape{kModel, kModel / 2});
  check_same(pruned, mask_channels(b.model_, recipe), {{"x", random_tensor({2, 5, kModel}, 1)}});
}

TEST_CASE("normalization over channels and unknown operators fix them with a reason",
          "[graph][channels]") {
  const auto reason_behind = [](Node middle, std::int64_t opset = 17) {
    Builder b(1, opset);
    b.model_.opsets["custom"] = 1;
    b.model_.graph.inputs = {value("x", ElementType::float32, {1, 3, 4, 4})};
    const std::string w = b.weight({8, 3, 1, 1}, -1.0F, 1.0F);
    b.model_.graph.initializers["second"] = random_tensor({2, 8, 1, 1}, 1);
    b.model_.graph.nodes = {node("Conv", {"x", w}, {"a"}), std::move(middle),
                            node("Conv", {"b", "second"}, {"y"})};
    b.model_.graph.outputs = {untyped("y")};
    const auto groups = channel_groups(b.model_);
    const ChannelGroup& group = group_of(groups, w, 0);
    return group.fixed ? group.reason : std::string("free");
  };
  CHECK(reason_behind(node("Relu", {"a"}, {"b"})) == "free");
  CHECK(mentions(reason_behind(node("LRN", {"a"}, {"b"}, {{"size", std::int64_t{3}}})),
                 "neighbours"));
  CHECK(mentions(reason_behind(node("Softmax", {"a"}, {"b"}, {{"axis", std::int64_t{1}}})),
                 "sum to 1"));
  CHECK(mentions(reason_behind(node("LpNormalization", {"a"}, {"b"}, {{"axis", std::int64_t{1}}})),
                 "normalizes"));
  Node custom = node("Thing", {"a"}, {"b"});
  custom.domain = "custom";
  CHECK(mentions(reason_behind(custom), "does not follow"));
}

TEST_CASE("nodes that lack inputs or have absurd attributes are refused or left whole",
          "[graph][channels]") {
  constexpr std::int64_t kHuge = std::numeric_limits<std::int64_t>::max();
  std::int64_t refused = 0;
  std::int64_t whole = 0;
  for (const Operator& op : operators()) {
    if (!op.domain.empty()) continue;
    for (int count = 0; count < 4; ++count) {
      for (const std::int64_t number : {std::int64_t{0}, std::int64_t{-7}, kHuge, -kHuge - 1}) {
        CAPTURE(op.name, count, number);
        Model model;
        model.opsets[""] = 20;
        model.graph.inputs = {value("x", ElementType::float32, {1, 3, 4, 4})};
        model.graph.initializers["first"] = random_tensor({4, 3, 1, 1}, 1);
        model.graph.initializers["second"] = random_tensor({2, 4, 1, 1}, 2);
        model.graph.initializers["numbers"] = ints({number, 1, 0, number});
        std::vector<std::string> inputs = {"a", "numbers", "numbers"};
        inputs.resize(static_cast<std::size_t>(std::min(count, 3)));
        Node middle = node(std::string(op.name), inputs, {"b"});
        for (const char* name : {"axis", "group", "num_groups", "blocksize", "start", "end"}) {
          middle.set(name, number);
        }
        for (const char* name : {"axes", "perm", "pads", "split"}) {
          middle.set(name, Ints{number, 1});
        }
        model.graph.nodes = {node("Conv", {"x", "first"}, {"a"}), middle,
                             node("Conv", {"b", "second"}, {"y"})};
        model.graph.values = {value("b", ElementType::float32, {1, 4, 4, 4})};
        model.graph.outputs = {untyped("y")};
        try {
          const Recipe recipe = choose_channels(model);
          static_cast<void>(remove_channels(model, recipe));
          static_cast<void>(mask_channels(model, recipe));
          ++whole;
        } catch (const Error&) {
          ++refused;
        } catch (const std::out_of_range&) {
          ++refused;
        }
      }
    }
  }
  CHECK(refused > 0);
  CHECK(whole > 0);
}

TEST_CASE("choices keep what they are told to keep", "[graph][channels]") {
  Builder b(5);
  b.model_.graph.inputs = {value("x", ElementType::float32, {1, 3, 4, 4})};
  b.model_.graph.initializers["first"] = random_tensor({10, 3, 1, 1}, 1);
  b.model_.graph.initializers["second"] = random_tensor({6, 10, 1, 1}, 2);
  b.model_.graph.initializers["third"] = random_tensor({2, 6, 1, 1}, 3);
  b.model_.graph.nodes = {node("Conv", {"x", "first"}, {"a"}), node("Conv", {"a", "second"}, {"b"}),
                          node("Conv", {"b", "third"}, {"y"})};
  b.model_.graph.outputs = {untyped("y")};
  const auto kept = [&](const ChannelChoice& choice, std::string_view name) -> std::int64_t {
    const Recipe recipe = choose_channels(b.model_, choice);
    const auto found = recipe.groups.find(name);
    return found == recipe.groups.end() ? -1 : static_cast<std::int64_t>(found->second.kept.size());
  };
  CHECK(kept({}, "first:0") == 5);
  CHECK(kept({}, "second:0") == 3);
  ChannelChoice choice;
  choice.multiple_of = 4;
  CHECK(kept(choice, "first:0") == 8);
  CHECK(kept(choice, "second:0") == 4);
  choice = {};
  choice.sparsity = 0.95;
  choice.min_units = 2;
  CHECK(kept(choice, "first:0") == 2);
  choice = {};
  choice.shares["second:0"] = 0.0;
  CHECK(kept(choice, "second:0") == -1);
  choice = {};
  choice.take = [](const ChannelGroup& group) { return group.name == "second:0"; };
  CHECK(kept(choice, "first:0") == -1);
  choice = {};
  choice.scope = ChannelScope::global;
  CHECK(std::max<std::int64_t>(kept(choice, "first:0"), 0) +
            std::max<std::int64_t>(kept(choice, "second:0"), 0) >=
        8 - 6);
  choice = {};
  choice.scores = ChannelScores{{"second:0", {5, 1, 4, 2, 3, 0}}};
  CHECK(choose_channels(b.model_, choice).groups.at("second:0").kept == Ints{0, 2, 4});

  choice = {};
  choice.sparsity = 1.0;
  CHECK_THROWS_AS(choose_channels(b.model_, choice), Error);
  choice = {};
  choice.shares["nobody"] = 0.5;
  CHECK_THROWS_AS(choose_channels(b.model_, choice), Error);
  choice = {};
  choice.scores = ChannelScores{{"second:0", {1.0}}};
  CHECK_THROWS_AS(choose_channels(b.model_, choice), Error);

  Tensor& first = b.model_.graph.initializers.at("first");
  // Of the 10 first channels the norms of what writes and what reads them, by hand.
  const ChannelScores scores = channel_scores(b.model_);
  const auto w1 = first.values<float>();
  const auto w2 = b.model_.graph.initializers.at("second").values<float>();
  for (std::size_t channel = 0; channel < 10; ++channel) {
    double sum = 0;
    for (std::size_t i = 0; i < 3; ++i) sum += std::pow(double{w1[channel * 3 + i]}, 2);
    for (std::size_t o = 0; o < 6; ++o) sum += std::pow(double{w2[o * 10 + channel]}, 2);
    CHECK(std::fabs(scores.at("first:0")[channel] - std::sqrt(sum)) < 1e-12);
  }
  first = first.clone();
  first.mutable_data<float>()[0] = std::nanf("");
  CHECK_THROWS_AS(channel_scores(b.model_), NonFiniteError);
}

TEST_CASE("a recipe fits its architecture only and its text is checked", "[graph][channels]") {
  Builder b(5);
  b.model_.graph.inputs = {value("x", ElementType::float32, {1, 3, 4, 4})};
  b.model_.graph.initializers["first"] = random_tensor({4, 3, 1, 1}, 1);
  b.model_.graph.initializers["second"] = random_tensor({2, 4, 1, 1}, 2);
  b.model_.graph.nodes = {node("Conv", {"x", "first"}, {"a"}),
                          node("Conv", {"a", "second"}, {"y"})};
  b.model_.graph.outputs = {untyped("y")};
  const Recipe recipe = choose_channels(b.model_);

  Model other = b.model_;
  other.graph.initializers["first"] = random_tensor({4, 3, 1, 1}, 9);
  CHECK(fingerprint(other) == recipe.fingerprint);
  CHECK_NOTHROW(remove_channels(other, recipe));
  other.graph.nodes[0].set("strides", Ints{2, 2});
  CHECK(fingerprint(other) != recipe.fingerprint);
  CHECK_THROWS_AS(remove_channels(other, recipe), FormatError);

  const auto with = [&](std::string name, Recipe::Group group) {
    Recipe changed = recipe;
    changed.groups = {{std::move(name), std::move(group)}};
    return changed;
  };
  CHECK_THROWS_AS(remove_channels(b.model_, with("first:0", {5, {0}})), FormatError);
  CHECK_THROWS_AS(remove_channels(b.model_, with("first:0", {4, {}})), FormatError);
  CHECK_THROWS_AS(remove_channels(b.model_, with("first:0", {4, {2, 1}})), FormatError);
  CHECK_THROWS_AS(remove_channels(b.model_, with("first:0", {4, {4}})), FormatError);
  CHECK_THROWS_AS(remove_channels(b.model_, with("nobody", {4, {0}})), FormatError);
  CHECK_THROWS_AS(mask_channels(b.model_, with("second:0", {2, {0}})), FormatError);

  const std::string text = recipe.to_json();
  CHECK(Recipe::from_json(text) == recipe);
  for (std::size_t length = 0; length + 2 < text.size(); ++length) {
    CHECK_THROWS_AS(Recipe::from_json(text.substr(0, length)), FormatError);
  }
  const auto refused = [](const std::string& json, const std::string& place) {
    std::string text = "accepted";
    try {
      static_cast<void>(Recipe::from_json(json));
    } catch (const FormatError& error) {
      text = error.what();
    }
    CAPTURE(text);
    CHECK(mentions(text, place));
  };
  const std::string head =
      R"({"format":"moptcore.channels","version":1,"fingerprint":"a","groups":)";
  refused(R"({"format":"other"})", "$.format");
  refused(R"({"format":"moptcore.channels","version":2})", "$.version");
  refused(R"({"extra":1})", "$ must");
  refused(head + R"({"g":{"units":0,"kept":[0]}}})", "$.groups[");
  refused(head + R"({"g":{"units":2,"kept":[1,1]}}})", ".kept");
  refused(head + R"({"g":{"units":2,"kept":[2]}}})", ".kept");
  refused(head + R"({"g":{"units":2,"kept":[]}}})", ".kept");
  refused(head + R"({"g":{"units":2}}})", "$.groups[");
  refused(head + R"({}} {)", "last bracket");
}

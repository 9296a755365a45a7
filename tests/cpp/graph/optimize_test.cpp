// SPDX-License-Identifier: Apache-2.0
#include <moptcore/graph/optimize.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <random>
#include <set>

#include <moptcore/graph/infer.hpp>
#include <moptcore/graph/summary.hpp>

#include "catch.hpp"
#include "graph/models.hpp"

using namespace moptcore;
using namespace moptcore::graph;
using namespace moptcore::graph::testing;

namespace {

Tensor floats(const Shape& shape, std::uint32_t seed, float low = -1.0f, float high = 1.0f) {
  std::mt19937 engine(seed);
  std::uniform_real_distribution<float> draw(low, high);
  Tensor tensor(ElementType::float32, shape);
  float* values = tensor.mutable_data<float>();
  for (std::int64_t i = 0; i < tensor.size(); ++i) values[i] = draw(engine);
  return tensor;
}

std::int64_t count_of(const Model& model, std::string_view op) {
  return std::ranges::count(model.graph.nodes, op, &Node::op_type);
}

// Every pass alone, and all together, computes what the model computed. Integers and moved
// elements are compared bit by bit, floats to 1e-5 of the output's magnitude: each refolded weight
// is rounded once more (2^-24), in sums of at most some hundred terms.
void check_passes(const Model& model) {
  for (const std::string& name : pass_names()) {
    Model alone = model;
    (void)graph::run_pass(alone, name);
    const Verification one = verify_equal(model, alone);
    INFO(name << " " << one.reason);
    REQUIRE(one.ran);
    const PassReport again = graph::run_pass(alone, name);
    CHECK(again.changes == 0);
  }
  Model whole = model;
  OptimizeOptions options;
  options.verify = true;
  options.attention = true;
  const OptimizeReport report = optimize(whole, options);
  REQUIRE(report.verification.ran);
  CHECK(report.verification.difference <= 1e-5);
  REQUIRE(whole.graph.outputs.size() == model.graph.outputs.size());
  for (std::size_t i = 0; i < model.graph.outputs.size(); ++i) {
    CHECK(whole.graph.outputs[i].name == model.graph.outputs[i].name);
  }
}

Model conv_model(std::vector<Node> behind) {
  Model model;
  model.graph.inputs = {value("x", ElementType::float32, {2, 4, 9, 8})};
  model.graph.initializers["w"] = floats(Shape{6, 4, 3, 3}, 1);
  model.graph.initializers["b"] = floats(Shape{6}, 2);
  model.graph.initializers["scale"] = floats(Shape{6}, 3);
  model.graph.initializers["shift"] = floats(Shape{6}, 4);
  model.graph.initializers["mean"] = floats(Shape{6}, 5);
  model.graph.initializers["var"] = floats(Shape{6}, 6, 0.5f, 2.0f);
  model.graph.nodes = {
      node("Conv", {"x", "w", "b"}, {"c"}, {{"pads", Ints{1, 0, 1, 2}}, {"strides", Ints{2, 1}}})};
  for (Node& one : behind) model.graph.nodes.push_back(std::move(one));
  model.graph.outputs = {untyped(model.graph.nodes.back().outputs[0])};
  return model;
}

}  // namespace

TEST_CASE("fold_batch_norm multiplies it into the convolution before", "[graph][optimize]") {
  const Model model =
      conv_model({node("BatchNormalization", {"c", "scale", "shift", "mean", "var"}, {"y"})});
  check_passes(model);
  Model folded = model;
  CHECK(graph::run_pass(folded, "fold_batch_norm").changes == 1);
  REQUIRE(folded.graph.nodes.size() == 1);
  CHECK(folded.graph.nodes[0].outputs[0] == "y");
  const float* w = folded.graph.initializers.at(folded.graph.nodes[0].inputs[1]).data<float>();
  const double factor =
      model.graph.initializers.at("scale").data<float>()[0] /
      std::sqrt(static_cast<double>(model.graph.initializers.at("var").data<float>()[0]) + 1e-5f);
  CHECK(w[0] == static_cast<float>(model.graph.initializers.at("w").data<float>()[0] * factor));
}

TEST_CASE("fold_batch_norm folds into grouped and transposed convolutions", "[graph][optimize]") {
  for (const bool transposed : {false, true}) {
    Model model;
    model.graph.inputs = {value("x", ElementType::float32, {1, 4, 7, 7})};
    // Two groups: 4 -> 6 channels.
    model.graph.initializers["w"] = floats(transposed ? Shape{4, 3, 3, 3} : Shape{6, 2, 3, 3}, 1);
    model.graph.initializers["s"] = floats(Shape{6}, 2);
    model.graph.initializers["t"] = floats(Shape{6}, 3);
    model.graph.initializers["m"] = floats(Shape{6}, 4);
    model.graph.initializers["v"] = floats(Shape{6}, 5, 0.5f, 2.0f);
    model.graph.nodes = {node(transposed ? "ConvTranspose" : "Conv", {"x", "w"}, {"c"},
                              {{"group", std::int64_t{2}}}),
                         node("BatchNormalization", {"c", "s", "t", "m", "v"}, {"y"})};
    model.graph.outputs = {untyped("y")};
    check_passes(model);
    CHECK(graph::run_pass(model, "fold_batch_norm").changes == 1);
  }
}

TEST_CASE("sums before a padded convolution stay where they are", "[graph][optimize]") {
  for (const bool padded : {false, true}) {
    Model model;
    model.graph.inputs = {value("x", ElementType::float32, {1, 3, 6, 6})};
    model.graph.initializers["a"] = floats(Shape{3, 1, 1}, 1);
    model.graph.initializers["w"] = floats(Shape{4, 3, 3, 3}, 2);
    model.graph.nodes = {node("Add", {"x", "a"}, {"s"}), node("Conv", {"s", "w"}, {"y"})};
    if (padded) model.graph.nodes[1].set("pads", Ints{1, 1, 1, 1});
    model.graph.outputs = {untyped("y")};
    check_passes(model);
    CHECK(graph::run_pass(model, "fold_affine").changes == (padded ? 0 : 1));
  }
}

TEST_CASE("products of constants go into the weights on both sides", "[graph][optimize]") {
  Model model;
  model.graph.inputs = {value("x", ElementType::float32, {"N", 5})};
  model.graph.initializers["s"] = floats(Shape{5}, 1);
  model.graph.initializers["w"] = floats(Shape{5, 7}, 2);
  model.graph.initializers["t"] = floats(Shape{1, 7}, 3);
  model.graph.initializers["d"] = Tensor::scalar(4.0f);
  model.graph.nodes = {node("Mul", {"x", "s"}, {"a"}), node("MatMul", {"a", "w"}, {"b"}),
                       node("Add", {"b", "t"}, {"c"}), node("Div", {"c", "d"}, {"y"})};
  model.graph.outputs = {untyped("y")};
  check_passes(model);
  (void)optimize(model);
  REQUIRE(model.graph.nodes.size() == 1);
  CHECK(model.graph.nodes[0].op_type == "Gemm");
}

TEST_CASE("factors and sums of channels go into a normalization that stands alone",
          "[graph][optimize]") {
  Model model;
  model.graph.inputs = {value("x", ElementType::float32, {2, 6, 4, 3})};
  for (const auto& [name, seed] : {std::pair("s", 1), std::pair("t", 2), std::pair("m", 3)}) {
    model.graph.initializers[name] = floats(Shape{6}, static_cast<unsigned>(seed));
  }
  model.graph.initializers["v"] = floats(Shape{6}, 4, 0.5f, 2.0f);
  model.graph.initializers["a"] = floats(Shape{1, 6, 1, 1}, 5);
  model.graph.initializers["b"] = floats(Shape{6, 1, 1}, 6);
  model.graph.initializers["row"] = floats(Shape{3}, 7);
  model.graph.nodes = {node("BatchNormalization", {"x", "s", "t", "m", "v"}, {"n"}),
                       node("Mul", {"n", "a"}, {"f"}), node("Add", {"f", "b"}, {"g"}),
                       node("Relu", {"g"}, {"h"}),
                       // Not of channels.
                       node("BatchNormalization", {"h", "s", "t", "m", "v"}, {"k"}),
                       node("Mul", {"k", "row"}, {"y"})};
  model.graph.outputs = {untyped("y")};
  check_passes(model);
  CHECK(graph::run_pass(model, "fold_affine").changes == 2);
  CHECK(count_of(model, "Mul") == 1);
  CHECK(count_of(model, "Add") == 0);
}

TEST_CASE("transposes around element by element operators cancel", "[graph][optimize]") {
  Model model;
  model.graph.inputs = {value("x", ElementType::float32, {1, 2, 3, 4})};
  model.graph.initializers["bias"] = floats(Shape{2}, 1);
  model.graph.nodes = {node("Transpose", {"x"}, {"a"}, {{"perm", Ints{0, 2, 3, 1}}}),
                       node("Add", {"a", "bias"}, {"b"}), node("Relu", {"b"}, {"c"}),
                       node("Transpose", {"c"}, {"y"}, {{"perm", Ints{0, 3, 1, 2}}})};
  model.graph.outputs = {untyped("y")};
  check_passes(model);
  (void)optimize(model);
  CHECK(count_of(model, "Transpose") == 0);
  CHECK(model.graph.nodes.size() == 2);
}

TEST_CASE("padding goes into the convolution behind it", "[graph][optimize]") {
  Model model;
  model.graph.inputs = {value("x", ElementType::float32, {1, 2, 5, 5})};
  model.graph.initializers["pads"] = ints({0, 0, 1, 2, 0, 0, 0, 1});
  model.graph.initializers["w"] = floats(Shape{2, 2, 3, 3}, 1);
  model.graph.nodes = {node("Pad", {"x", "pads"}, {"p"}), node("Conv", {"p", "w"}, {"c"}),
                       node("Pad", {"c", "pads"}, {"q"}),
                       node("AveragePool", {"q"}, {"y"}, {{"kernel_shape", Ints{2, 2}}})};
  model.graph.outputs = {untyped("y")};
  check_passes(model);
  (void)optimize(model);
  CHECK(count_of(model, "Pad") == 0);
}

TEST_CASE("the parts of a LayerNormalization and of Gelu become one node", "[graph][optimize]") {
  Model model;
  Graph& graph = model.graph;
  graph.inputs = {value("x", ElementType::float32, {"N", 3, 8})};
  graph.initializers["two"] = Tensor::scalar(2.0f);
  graph.initializers["eps"] = Tensor::scalar(1e-5f);
  graph.initializers["g"] = floats(Shape{8}, 1);
  graph.initializers["b"] = floats(Shape{8}, 2);
  graph.initializers["root"] = Tensor::scalar(1.41421354f);
  graph.initializers["one"] = Tensor::scalar(1.0f);
  graph.initializers["half"] = Tensor::scalar(0.5f);
  graph.initializers["axes"] = ints({-1});
  graph.nodes = {node("ReduceMean", {"x", "axes"}, {"mean"}),
                 node("Sub", {"x", "mean"}, {"d"}),
                 node("Pow", {"d", "two"}, {"sq"}),
                 node("ReduceMean", {"sq", "axes"}, {"var"}),
                 node("Add", {"var", "eps"}, {"ve"}),
                 node("Sqrt", {"ve"}, {"std"}),
                 node("Div", {"d", "std"}, {"n"}),
                 node("Mul", {"n", "g"}, {"ng"}),
                 node("Add", {"ng", "b"}, {"ln"}),
                 node("Div", {"ln", "root"}, {"e0"}),
                 node("Erf", {"e0"}, {"e1"}),
                 node("Add", {"e1", "one"}, {"e2"}),
                 node("Mul", {"ln", "e2"}, {"e3"}),
                 node("Mul", {"e3", "half"}, {"y"})};
  graph.outputs = {untyped("y")};
  check_passes(model);
  (void)optimize(model);
  REQUIRE(graph.nodes.size() == 2);
  CHECK(graph.nodes[0].op_type == "LayerNormalization");
  CHECK(graph.nodes[0].get<std::int64_t>("axis", 0) == 2);
  CHECK(graph.nodes[1].op_type == "Gelu");
  CHECK(graph.nodes[1].outputs[0] == "y");
}

TEST_CASE("shapes that are computed of a known shape become constants", "[graph][optimize]") {
  Model model;
  Graph& graph = model.graph;
  graph.inputs = {value("x", ElementType::float32, {2, 6, 4})};
  graph.initializers["one"] = Tensor::scalar<std::int64_t>(1);
  graph.initializers["axes"] = ints({0});
  graph.initializers["open"] = ints({-1});
  graph.nodes = {node("Shape", {"x"}, {"s"}), node("Gather", {"s", "one"}, {"d"}),
                 node("Unsqueeze", {"d", "axes"}, {"d1"}),
                 node("Concat", {"open", "d1"}, {"t"}, {{"axis", std::int64_t{0}}}),
                 node("Reshape", {"x", "t"}, {"y"})};
  graph.outputs = {untyped("y")};
  check_passes(model);
  (void)optimize(model);
  CHECK(graph.nodes.size() == 1);
}

TEST_CASE("names that a subgraph reads follow their values", "[graph][optimize]") {
  Model model;
  Graph& graph = model.graph;
  graph.inputs = {value("x", ElementType::float32, {2, 3}), value("c", ElementType::boolean, {})};
  Graph yes;
  // The body has a value of the same name as one around it.
  yes.nodes = {node("Neg", {"copy"}, {"t"}), node("Identity", {"t"}, {"y1"})};
  yes.outputs = {untyped("y1")};
  Graph no;
  no.nodes = {node("Abs", {"r1"}, {"t"}), node("Add", {"t", "r2"}, {"y2"})};
  no.outputs = {untyped("y2")};
  graph.nodes = {
      node("Identity", {"x"}, {"copy"}),
      node("Relu", {"copy"}, {"r1"}),
      node("Relu", {"x"}, {"r2"}),
      node("Exp", {"x"}, {"t"}),
      node("If", {"c"}, {"i"}, {{"then_branch", Subgraph(yes)}, {"else_branch", Subgraph(no)}}),
      node("Add", {"i", "t"}, {"y"})};
  graph.outputs = {untyped("y"), untyped("r1")};
  check_passes(model);
  (void)optimize(model);
  CHECK(count_of(model, "Relu") == 1);
}

TEST_CASE("random operators are neither folded nor merged", "[graph][optimize]") {
  Model model;
  Graph& graph = model.graph;
  graph.nodes = {node("RandomNormal", {}, {"a"}, {{"shape", Ints{2}}}),
                 node("RandomNormal", {}, {"b"}, {{"shape", Ints{2}}}),
                 node("Sub", {"a", "b"}, {"y"})};
  graph.outputs = {untyped("y")};
  (void)optimize(model);
  CHECK(graph.nodes.size() == 3);
}

namespace {

// A random graph of operators that the passes know; every value is float32 of rank 4 (N, C, H, W)
// or, behind a Flatten, a matrix.
class RandomModel {
 public:
  explicit RandomModel(std::uint32_t seed) : engine_(seed) {
    Graph& graph = model_.graph;
    graph.inputs = {value("x", ElementType::float32, {2, 4, 5, 6})};
    values_.push_back({"x", {2, 4, 5, 6}});
    const int count = 3 + pick(9);
    for (int i = 0; i < count; ++i) step();
    std::set<std::string> read;
    for (const Node& one : graph.nodes) read.insert(one.inputs.begin(), one.inputs.end());
    for (const Known& known : values_) {
      if (known.name != "x" && (!read.contains(known.name) || pick(8) == 0)) {
        graph.outputs.push_back(untyped(known.name));
      }
    }
    if (graph.outputs.empty()) graph.outputs.push_back(untyped(values_.back().name));
  }

  [[nodiscard]] const Model& get() const { return model_; }

 private:
  struct Known {
    std::string name;
    std::vector<std::int64_t> shape;
  };

  int pick(int count) { return static_cast<int>(engine_() % static_cast<unsigned>(count)); }

  std::string constant(const Shape& shape, float low = -1.0f, float high = 1.0f) {
    const std::string name = "k" + std::to_string(model_.graph.initializers.size());
    model_.graph.initializers[name] = floats(shape, engine_(), low, high);
    return name;
  }

  std::string ints_constant(std::vector<std::int64_t> list) {
    const std::string name = "k" + std::to_string(model_.graph.initializers.size());
    model_.graph.initializers[name] = ints(std::move(list));
    return name;
  }

  void emit(std::string op, std::vector<std::string> inputs, std::vector<std::int64_t> shape,
            std::vector<std::pair<std::string, AttributeValue>> attributes = {}) {
    const std::string name = "v" + std::to_string(next_++);
    model_.graph.nodes.push_back(
        node(std::move(op), std::move(inputs), {name}, std::move(attributes)));
    values_.push_back({name, std::move(shape)});
  }

  void step() {
    // Mostly the newest value, so that chains form.
    const std::size_t from = pick(3) != 0
                                 ? values_.size() - 1
                                 : static_cast<std::size_t>(pick(static_cast<int>(values_.size())));
    const Known a = values_[from];
    const std::int64_t channels = a.shape[1];
    const bool image = a.shape.size() == 4;
    switch (pick(16)) {
      case 0:
        return emit(std::array{"Relu", "Tanh", "Sigmoid", "Neg", "Abs"}[pick(5)], {a.name},
                    a.shape);
      case 1: return emit("Identity", {a.name}, a.shape);
      case 2: {
        const Shape shape = image ? Shape{channels, 1, 1} : Shape{channels};
        return emit(std::array{"Add", "Mul", "Sub"}[pick(3)], {a.name, constant(shape)}, a.shape);
      }
      case 3:
        return emit(std::array{"Div", "Mul"}[pick(2)], {a.name, constant(Shape{}, 0.5f, 2.0f)},
                    a.shape);
      case 4: {
        for (const Known& b : values_) {
          if (b.shape == a.shape && pick(2) == 0) {
            return emit(std::array{"Add", "Mul", "Sub", "Max"}[pick(4)], {a.name, b.name}, a.shape);
          }
        }
        return emit("Add", {a.name, a.name}, a.shape);
      }
      case 5: {
        if (!image) return;
        std::vector<std::int64_t> perm{0, 1, 2, 3};
        if (pick(2) == 0) perm = pick(2) == 0 ? Ints{0, 2, 3, 1} : Ints{0, 3, 1, 2};
        std::vector<std::int64_t> shape;
        for (const auto axis : perm) shape.push_back(a.shape[static_cast<std::size_t>(axis)]);
        return emit("Transpose", {a.name}, shape, {{"perm", perm}});
      }
      case 6:
      case 7: {
        if (!image || a.shape[2] < 3 || a.shape[3] < 3 || channels > 12) return;
        const std::int64_t out = 1 + pick(5);
        const bool padded = pick(2) == 0;
        const std::int64_t shrink = padded ? 0 : 2;
        std::vector<std::string> inputs{a.name, constant(Shape{out, channels, 3, 3})};
        if (pick(2) == 0) inputs.push_back(constant(Shape{out}));
        return emit("Conv", inputs, {a.shape[0], out, a.shape[2] - shrink, a.shape[3] - shrink},
                    {{"pads", padded ? Ints{1, 1, 1, 1} : Ints{0, 0, 0, 0}}});
      }
      case 8:
      case 9: {
        if (image && pick(2) == 0) return;
        return emit("BatchNormalization",
                    {a.name, constant(Shape{channels}, 0.5f, 1.5f), constant(Shape{channels}),
                     constant(Shape{channels}), constant(Shape{channels}, 0.5f, 2.0f)},
                    a.shape);
      }
      case 10: {
        if (image) {
          const std::int64_t rest = channels * a.shape[2] * a.shape[3];
          return emit("Flatten", {a.name}, {a.shape[0], rest});
        }
        const std::int64_t out = 1 + pick(6);
        return emit("MatMul", {a.name, constant(Shape{channels, out}, -0.3f, 0.3f)},
                    {a.shape[0], out});
      }
      case 11: {
        if (image) return;
        const std::int64_t out = 1 + pick(6);
        const bool turned = pick(2) == 0;
        return emit(
            "Gemm",
            {a.name, constant(turned ? Shape{out, channels} : Shape{channels, out}, -0.3f, 0.3f),
             constant(Shape{out})},
            {a.shape[0], out}, {{"transB", std::int64_t{turned}}, {"alpha", 0.5f}, {"beta", 2.0f}});
      }
      case 12: {
        if (!image) return;
        const std::int64_t more = pick(2);
        return emit("Pad", {a.name, ints_constant({0, 0, more, 1, 0, 0, 0, more})},
                    {a.shape[0], channels, a.shape[2] + more, a.shape[3] + 1 + more});
      }
      case 13: {
        if (!image) return;
        const std::int64_t flat = a.shape[2] * a.shape[3];
        const std::string between = "v" + std::to_string(next_);
        emit("Reshape", {a.name, ints_constant({a.shape[0], channels, flat, 1})},
             {a.shape[0], channels, flat, 1});
        return emit("Reshape", {between, ints_constant(a.shape)}, a.shape);
      }
      case 14: {
        if (!image || channels > 8) return;
        auto shape = a.shape;
        shape[1] *= 2;
        return emit("Concat", {a.name, a.name}, shape, {{"axis", std::int64_t{1}}});
      }
      default:
        return emit("Add",
                    {constant(image ? Shape{1, channels, 1, 1} : Shape{1, channels}), a.name},
                    a.shape);
    }
  }

  std::mt19937 engine_;
  Model model_;
  std::vector<Known> values_;
  int next_ = 0;
};

}  // namespace

TEST_CASE("random graphs compute the same when they are rewritten", "[graph][optimize]") {
  std::int64_t before = 0;
  std::int64_t after = 0;
  for (std::uint32_t seed = 0; seed < 2000; ++seed) {
    const RandomModel random(seed);
    Model model = random.get();
    INFO("seed " << seed);
    const OptimizeReport report = optimize(model);
    before += report.nodes_before;
    after += report.nodes_after;
    // Passes move products and sums through chains of a dozen operators whose values may cancel:
    // 1e-4 of the magnitude is 800 roundings.
    VerifyOptions options;
    options.tolerance = 1e-4;
    const Verification result = verify_equal(random.get(), model, options);
    INFO(result.reason);
    REQUIRE(result.ran);
  }
  CHECK(after < before);
}

TEST_CASE("inferred types of random graphs are those of their values", "[graph][infer]") {
  for (std::uint32_t seed = 0; seed < 300; ++seed) {
    Model model = RandomModel(seed).get();
    infer_types(model);
    EvaluateOptions options;
    std::int64_t seen = 0;
    options.observe = [&](const Node&, const std::string& name, const Value& found) {
      ++seen;
      std::string text = "float32 [";
      for (int i = 0; i < found.tensor().rank(); ++i) {
        text += (i == 0 ? "" : ", ") + std::to_string(found.tensor().shape()[i]);
      }
      CHECK(type_text(model.graph, name) == text + "]");
    };
    (void)evaluate(model, random_inputs(model), options);
    CHECK(seen == static_cast<std::int64_t>(model.graph.nodes.size()));
  }
}

TEST_CASE("models that would fold to gigabytes stay small", "[graph][optimize]") {
  const auto bomb = [](std::vector<Node> nodes, std::map<std::string, Tensor> constants) {
    Model model;
    model.graph.nodes = std::move(nodes);
    for (auto& [name, tensor] : constants) model.graph.initializers[name] = tensor;
    model.graph.outputs = {untyped(model.graph.nodes.back().outputs[0])};
    model.graph.nodes.push_back(node("Neg", {model.graph.outputs[0].name}, {"end"}));
    model.graph.outputs = {untyped("end")};
    return model;
  };
  const std::int64_t huge = std::int64_t{1} << 32;
  std::vector<Model> bombs;
  bombs.push_back(bomb({node("ConstantOfShape", {"s"}, {"a"}),
                        node("ReduceSum", {"a"}, {"b"}, {{"keepdims", std::int64_t{0}}})},
                       {{"s", ints({huge})}}));
  bombs.push_back(bomb({node("Expand", {"c", "s"}, {"a"})},
                       {{"c", Tensor::scalar(1.0f)}, {"s", ints({huge, 4})}}));
  bombs.push_back(bomb({node("Tile", {"c", "s"}, {"a"}), node("Tile", {"a", "s"}, {"b"})},
                       {{"c", floats(Shape{64}, 1)}, {"s", ints({1 << 20})}}));
  bombs.push_back(bomb({node("Range", {"zero", "limit", "one"}, {"a"})},
                       {{"zero", Tensor::scalar<std::int64_t>(0)},
                        {"limit", Tensor::scalar<std::int64_t>(huge)},
                        {"one", Tensor::scalar<std::int64_t>(1)}}));
  // Doubles forty times.
  std::vector<Node> doubling;
  std::string last = "c";
  for (int i = 0; i < 40; ++i) {
    const std::string next = "d" + std::to_string(i);
    doubling.push_back(node("Concat", {last, last}, {next}, {{"axis", std::int64_t{0}}}));
    last = next;
  }
  bombs.push_back(bomb(doubling, {{"c", floats(Shape{1024}, 1)}}));
  // Each product of constants is 10^11 multiplications.
  bombs.push_back(bomb({node("MatMul", {"c", "c"}, {"a"}), node("MatMul", {"a", "c"}, {"b"})},
                       {{"c", floats(Shape{4096, 1024}, 1).reshaped(Shape{2048, 2048})}}));
  for (Model& model : bombs) {
    std::int64_t held = 1 << 20;
    for (const auto& [name, tensor] : model.graph.initializers) held += 17 * tensor.bytes();
    const auto begin = std::chrono::steady_clock::now();
    (void)optimize(model);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    std::int64_t bytes = 0;
    for (const auto& [name, tensor] : model.graph.initializers) bytes += tensor.bytes();
    CHECK(bytes <= std::min(held, (std::int64_t{64} << 20) + held / 17));
    CHECK(took.count() < 10.0);
  }
}

TEST_CASE("branches nested in branches are rewritten in linear time", "[graph][optimize]") {
  Graph inner;
  inner.nodes = {node("Neg", {"x"}, {"leaf"})};
  inner.outputs = {untyped("leaf")};
  for (int depth = 0; depth < 40; ++depth) {
    Graph next;
    const std::string name = "y" + std::to_string(depth);
    Graph other;
    other.nodes = {node("Identity", {"x"}, {"o" + std::to_string(depth)})};
    other.outputs = {untyped("o" + std::to_string(depth))};
    next.nodes = {node("If", {"c"}, {name},
                       {{"then_branch", Subgraph(inner)}, {"else_branch", Subgraph(other)}})};
    next.outputs = {untyped(name)};
    inner = next;
  }
  Model model;
  model.graph.inputs = {value("x", ElementType::float32, {2}),
                        value("c", ElementType::boolean, {})};
  model.graph.nodes = inner.nodes;
  model.graph.outputs = {untyped("y39")};
  const auto begin = std::chrono::steady_clock::now();
  (void)optimize(model);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  CHECK(took.count() < 10.0);
  CHECK(type_text(model.graph, "y39") == "float32 [2]");
}

TEST_CASE("verify_equal tells models apart that differ", "[graph][optimize]") {
  Model model;
  model.graph.inputs = {value("x", ElementType::float32, {"N"})};
  model.graph.nodes = {node("Neg", {"x"}, {"y"})};
  model.graph.outputs = {untyped("y")};
  Model other = model;
  other.graph.nodes[0].op_type = "Abs";
  CHECK(verify_equal(model, model).ran);
  CHECK_THROWS_AS(verify_equal(model, other), Error);
}

TEST_CASE("count knows the multiplications of convolutions and products", "[graph][summary]") {
  Model model = conv_model({node("Relu", {"c"}, {"y"})});
  const ModelCost cost = count(model);
  REQUIRE(cost.nodes.size() == 2);
  // Output (2, 6, 5, 8); each element has 4 * 3 * 3 products.
  CHECK(cost.nodes[0].macs == 2 * 6 * 5 * 8 * 36);
  CHECK(cost.nodes[0].parameters == 6 * 36 + 6);
  CHECK(cost.nodes[1].macs == 0);
  CHECK(cost.activation_bytes == 2 * 2 * 6 * 5 * 8 * 4);
  CHECK(cost.complete);
  CHECK(table(cost).find("Conv") != std::string::npos);
}

namespace {

// Queries, keys and values of 4 heads of 16, behind `keys` and `scores`, which write "t" and "p".
Model attention_model(std::vector<Node> nodes, std::vector<ValueInfo> more = {}) {
  Model model;
  model.opsets[""] = 23;
  for (const char* name : {"q", "k", "v"}) {
    model.graph.inputs.push_back(value(name, ElementType::float32, {"n", 4, "s", 16}));
  }
  for (ValueInfo& info : more) model.graph.inputs.push_back(std::move(info));
  model.graph.initializers["one"] = Tensor::of<float>(Shape{1}, {1.0f});
  model.graph.initializers["root"] = Tensor::scalar<float>(0.5f);
  model.graph.initializers["four"] = Tensor::scalar<float>(4.0f);
  model.graph.initializers["last"] = ints({-1});
  model.graph.initializers["end"] = ints({INT64_MAX});
  model.graph.nodes = std::move(nodes);
  model.graph.nodes.push_back(node("Softmax", {"p"}, {"w"}));
  model.graph.nodes.push_back(node("MatMul", {"w", "v"}, {"y"}));
  model.graph.outputs = {untyped("y")};
  return model;
}

// One Attention with the scale 1 / 4, which computes the same.
void check_attention(const Model& model, std::size_t inputs) {
  Model fused = model;
  OptimizeOptions options;
  options.attention = true;
  options.verify = true;
  const OptimizeReport report = optimize(fused, options);
  CHECK(report.verification.ran);
  REQUIRE(count_of(fused, "Attention") == 1);
  CHECK(fused.graph.nodes.size() == 1);
  const Node& made = fused.graph.nodes.back();
  CHECK(made.inputs.size() == inputs);
  // The factors are rounded a few times each.
  CHECK(std::abs(made.get<float>("scale", 0.0f) - 0.25f) <= 1e-6f);
}

}  // namespace

TEST_CASE("fuse_attention finds a scale that is computed of the shape, on both sides",
          "[graph][optimize]") {
  const auto nodes = [] {
    return std::vector<Node>{
        node("Shape", {"q"}, {"shape"}),
        node("Slice", {"shape", "last", "end"}, {"extent"}),
        node("Cast", {"extent"}, {"width"}, {{"to", std::int64_t{1}}}),
        node("Sqrt", {"width"}, {"r"}),
        node("Div", {"one", "r"}, {"scale"}),
        node("Sqrt", {"scale"}, {"half"}),
        node("Mul", {"q", "half"}, {"a"}),
        node("Transpose", {"k"}, {"turned"}, {{"perm", Ints{0, 1, 3, 2}}}),
        node("Mul", {"turned", "half"}, {"t"}),
    };
  };
  std::vector<Node> plain = nodes();
  plain.push_back(node("MatMul", {"a", "t"}, {"p"}));
  check_attention(attention_model(plain), 3);
  std::vector<Node> masked = nodes();
  masked.push_back(node("MatMul", {"a", "t"}, {"scores"}));
  masked.push_back(node("Add", {"scores", "mask"}, {"p"}));
  check_attention(
      attention_model(masked, {value("mask", ElementType::float32, {"n", 1, "s", "s"})}), 4);
  // An older model is upgraded.
  Model old = attention_model(plain);
  old.opsets[""] = 17;
  check_attention(old, 3);
}

TEST_CASE("fuse_attention finds keys that are turned as one batch of matrices",
          "[graph][optimize]") {
  const auto model = [](Ints back) {
    Model made = attention_model({
        node("Shape", {"k"}, {"shape"}),
        node("Shape", {"k"}, {"batch"}, {{"end", std::int64_t{1}}}),
        node("Shape", {"k"}, {"rows"}, {{"start", std::int64_t{2}}, {"end", std::int64_t{3}}}),
        node("Concat", {"last", "rows", "columns"}, {"flat"}, {{"axis", std::int64_t{0}}}),
        node("Reshape", {"k", "flat"}, {"matrices"}),
        node("Transpose", {"matrices"}, {"turned"}, {{"perm", Ints{0, 2, 1}}}),
        node("Concat", {"batch", "heads", "columns", "rows"}, {"back"},
             {{"axis", std::int64_t{0}}}),
        node("Reshape", {"turned", "back"}, {"again"}),
        node("Mul", {"q", "root"}, {"a"}),
        node("Mul", {"again", "root"}, {"t"}),
        node("MatMul", {"a", "t"}, {"p"}),
    });
    made.graph.initializers["columns"] = ints({16});
    made.graph.initializers["heads"] = ints(std::move(back));
    return made;
  };
  check_attention(model({4}), 3);
}

TEST_CASE("fuse_attention divides, adds a mask and turns keys of rows of heads",
          "[graph][optimize]") {
  Model model = attention_model(
      {
          node("Transpose", {"rows"}, {"t"}, {{"perm", Ints{0, 2, 3, 1}}}),
          node("MatMul", {"q", "t"}, {"scores"}),
          node("Div", {"scores", "four"}, {"scaled"}),
          node("Add", {"mask", "scaled"}, {"p"}),
      },
      {value("rows", ElementType::float32, {"n", "s", 4, 16}),
       value("mask", ElementType::float32, {"s", "s"})});
  Model fused = model;
  OptimizeOptions options;
  options.attention = true;
  options.verify = true;
  REQUIRE(optimize(fused, options).verification.ran);
  CHECK(count_of(fused, "Attention") == 1);
  CHECK(count_of(fused, "Softmax") == 0);
  CHECK(count_of(fused, "Transpose") == 1);
}

TEST_CASE("fuse_attention leaves keys that are moved between heads", "[graph][optimize]") {
  // The matrices are turned, but 2 batches of 4 heads come back as 4 batches of 2.
  Model model;
  model.opsets[""] = 23;
  model.graph.inputs = {value("q", ElementType::float32, {4, 2, 3, 16}),
                        value("k", ElementType::float32, {2, 4, 5, 16}),
                        value("v", ElementType::float32, {4, 2, 5, 16})};
  model.graph.initializers["flat"] = ints({8, 5, 16});
  model.graph.initializers["back"] = ints({4, 2, 16, 5});
  model.graph.nodes = {node("Reshape", {"k", "flat"}, {"matrices"}),
                       node("Transpose", {"matrices"}, {"turned"}, {{"perm", Ints{0, 2, 1}}}),
                       node("Reshape", {"turned", "back"}, {"t"}),
                       node("MatMul", {"q", "t"}, {"p"}),
                       node("Softmax", {"p"}, {"w"}),
                       node("MatMul", {"w", "v"}, {"y"})};
  model.graph.outputs = {untyped("y")};
  OptimizeOptions options;
  options.attention = true;
  options.verify = true;
  REQUIRE(optimize(model, options).verification.ran);
  CHECK(count_of(model, "Attention") == 0);
}

TEST_CASE("fold_constants folds the extents of a shape that are known", "[graph][optimize]") {
  Model model;
  model.graph.inputs = {value("x", ElementType::float32, {"n", 4, "s", 16})};
  model.graph.initializers["first"] = ints({1});
  model.graph.initializers["third"] = ints({2});
  model.graph.initializers["ends"] = ints({3, 1});
  model.graph.nodes = {
      node("Shape", {"x"}, {"shape"}), node("Slice", {"shape", "first", "third"}, {"heads"}),
      node("Gather", {"shape", "ends"}, {"known"}), node("Gather", {"shape", "third"}, {"open"}),
      node("Concat", {"heads", "known", "open"}, {"y"}, {{"axis", std::int64_t{0}}})};
  model.graph.outputs = {untyped("y")};
  const Model before = model;
  CHECK(graph::run_pass(model, "fold_constants").changes == 2);
  CHECK(model.graph.nodes.size() == 3);
  CHECK(verify_equal(before, model).ran);
}

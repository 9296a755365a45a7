// SPDX-License-Identifier: Apache-2.0
#include <moptcore/graph/evaluate.hpp>

#include "catch.hpp"

using namespace moptcore;
using namespace moptcore::graph;

namespace {

Model identity_model() {
  Model model;
  Node node;
  node.op_type = "Identity";
  node.inputs = {"x"};
  node.outputs = {"y"};
  model.graph.nodes = {node};
  ValueType type = ValueType::tensor(ElementType::float32, {{{2, {}, {}}}});
  model.graph.inputs = {{"x", type, {}, {}, {}}};
  model.graph.outputs = {{"y", type, {}, {}, {}}};
  return model;
}

}  // namespace

TEST_CASE("evaluate runs the nodes of a model", "[graph]") {
  const Values outputs =
      evaluate(identity_model(), {{"x", Tensor::of<float>(Shape{2}, {1.5f, -2.0f})}});
  const auto values = outputs.at("y").tensor().values<float>();
  CHECK(values[0] == 1.5f);
  CHECK(values[1] == -2.0f);
}

TEST_CASE("evaluate names inputs that are missing, unknown or of a wrong type", "[graph]") {
  const Evaluator evaluator(identity_model());
  CHECK_THROWS_WITH(evaluator.run({}),
                    "[graph.evaluate] every input must be given, what is missing is, got x");
  const Tensor good = Tensor::of<float>(Shape{2}, {1.0f, 2.0f});
  CHECK_THROWS_WITH(evaluator.run({{"x", good}, {"q", good}}),
                    "[graph.evaluate] inputs must be ones that the model has, got q");
  CHECK_THROWS_WITH(evaluator.run({{"x", Tensor::of<std::int64_t>(Shape{2}, {1, 2})}}),
                    "[graph.evaluate] input 'x' must be float32, got int64");
  CHECK_THROWS_WITH(evaluator.run({{"x", Tensor::scalar(1.0f)}}),
                    "[graph.evaluate] input 'x' must have the shape of the model, got ()");
}

TEST_CASE("evaluate lists every operator that it lacks at once", "[graph]") {
  Model model = identity_model();
  Node unknown;
  unknown.op_type = "Frobnicate";
  unknown.inputs = {"x"};
  unknown.outputs = {"a"};
  Node other = unknown;
  other.op_type = "Other";
  other.domain = "com.example";
  other.outputs = {"b"};
  model.graph.nodes.push_back(unknown);
  model.graph.nodes.push_back(other);
  CHECK(missing_operators(model) == std::vector<std::string>{"Frobnicate", "com.example.Other"});
  CHECK_THROWS_AS(Evaluator(model), UnsupportedError);
}

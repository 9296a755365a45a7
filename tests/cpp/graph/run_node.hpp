// SPDX-License-Identifier: Apache-2.0
// Runs a model of one node, for tests of operators.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include <moptcore/graph/evaluate.hpp>

namespace run_node {

namespace graph = moptcore::graph;

struct Options {
  std::vector<std::pair<std::string, graph::AttributeValue>> attributes = {};
  std::int64_t version = 21;
  int outputs = 1;
  std::string domain = {};
  std::uint64_t seed = 0;
};

/// The outputs of `op`; inputs without a value are left out.
inline std::vector<graph::Value> run_all(const std::string& op,
                                         const std::vector<graph::Value>& inputs,
                                         const Options& options = {}) {
  graph::Model model;
  model.opsets = {{"", options.version}};
  if (!options.domain.empty()) model.opsets[options.domain] = options.version;
  graph::Node node;
  node.op_type = op;
  node.domain = options.domain;
  graph::Values values;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i].has_value()) {
      node.inputs.push_back("");
      continue;
    }
    const std::string name = std::string("x").append(std::to_string(i));
    node.inputs.push_back(name);
    model.graph.inputs.push_back({name, {}, {}, {}, {}});
    values[name] = inputs[i];
  }
  for (int i = 0; i < options.outputs; ++i) {
    const std::string name = std::string("y").append(std::to_string(i));
    node.outputs.push_back(name);
    model.graph.outputs.push_back({name, {}, {}, {}, {}});
  }
  for (const auto& [name, value] : options.attributes) node.set(name, value);
  model.graph.nodes = {node};
  graph::EvaluateOptions how;
  how.seed = options.seed;
  const graph::Values made = graph::evaluate(model, values, how);
  std::vector<graph::Value> results;
  for (const std::string& name : node.outputs) results.push_back(made.at(name));
  return results;
}

/// The only output, a tensor.
inline graph::Tensor run(const std::string& op, const std::vector<graph::Value>& inputs,
                         const Options& options = {}) {
  return run_all(op, inputs, options).front().tensor();
}

/// Its elements.
template <class T>
std::vector<T> values(const graph::Tensor& tensor) {
  const auto all = tensor.values<T>();
  return {all.begin(), all.end()};
}

}  // namespace run_node

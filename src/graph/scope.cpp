// SPDX-License-Identifier: Apache-2.0
#include "graph/scope.hpp"

namespace moptcore::inline v0::graph {

std::set<std::string> names_read(const Node& node) {
  std::set<std::string> names;
  for (const std::string& name : node.inputs) {
    if (!name.empty()) names.insert(name);
  }
  for_each_subgraph(node, [&](const Graph& body) { names.merge(names_captured(body)); });
  return names;
}

std::set<std::string> names_captured(const Graph& graph) {
  std::set<std::string> read;
  for (const Node& node : graph.nodes) read.merge(names_read(node));
  for (const ValueInfo& output : graph.outputs) {
    if (!output.name.empty()) read.insert(output.name);
  }
  for (const Node& node : graph.nodes) {
    for (const std::string& name : node.outputs) read.erase(name);
  }
  for (const ValueInfo& input : graph.inputs) read.erase(input.name);
  for (const auto& [name, tensor] : graph.initializers) read.erase(name);
  return read;
}

}  // namespace moptcore::inline v0::graph

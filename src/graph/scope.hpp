// SPDX-License-Identifier: Apache-2.0
// Names and the subgraphs in which they are read.
#pragma once

#include <set>
#include <string>
#include <type_traits>
#include <variant>

#include <moptcore/graph/model.hpp>

namespace moptcore::inline v0::graph {

/// Calls f(graph) with each subgraph in the attributes of `node`, which may be const.
template <class NodeType, class F>
void for_each_subgraph(NodeType& node, F&& f) {
  for (auto& attribute : node.attributes) {
    if (auto* one = std::get_if<Subgraph>(&attribute.value)) f(**one);
    if (auto* many = std::get_if<std::vector<Subgraph>>(&attribute.value)) {
      for (auto& body : *many) f(*body);
    }
  }
}

/// The values around `graph` that its nodes read, at any depth.
[[nodiscard]] MOPTCORE_API std::set<std::string> names_captured(const Graph& graph);

/// What a node reads: its inputs and what its subgraphs capture.
[[nodiscard]] std::set<std::string> names_read(const Node& node);

}  // namespace moptcore::inline v0::graph

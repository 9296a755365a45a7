// SPDX-License-Identifier: Apache-2.0
#include <moptcore/graph/passes/remove_dead_code.hpp>

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "graph/passes/editor.hpp"
#include "graph/scope.hpp"

namespace moptcore::inline v0::graph {
namespace {

// Innermost graphs first: what they no longer read may be dead around them.
std::int64_t sweep(Graph& graph) {
  std::int64_t removed = 0;
  for (Node& node : graph.nodes) {
    for_each_subgraph(node, [&](Graph& body) { removed += sweep(body); });
  }
  std::unordered_set<std::string> live;
  for (const ValueInfo& output : graph.outputs) live.insert(output.name);
  std::vector<bool> keep(graph.nodes.size(), false);
  for (std::size_t i = graph.nodes.size(); i-- > 0;) {
    const Node& node = graph.nodes[i];
    keep[i] = std::ranges::any_of(node.outputs, [&](const std::string& name) {
      return !name.empty() && live.contains(name);
    });
    if (!keep[i]) continue;
    for (const std::string& name : names_read(node)) live.insert(name);
  }
  std::size_t next = 0;
  removed += std::erase_if(graph.nodes, [&](const Node&) { return !keep[next++]; });
  std::unordered_set<std::string> inputs;
  for (const ValueInfo& input : graph.inputs) inputs.insert(input.name);
  removed += std::erase_if(graph.initializers, [&](const auto& entry) {
    return !live.contains(entry.first) && !inputs.contains(entry.first);
  });
  std::erase_if(graph.notes,
                [&](const auto& entry) { return !graph.initializers.contains(entry.first); });
  return removed;
}

}  // namespace

PassReport remove_dead_code(Model& model, const PassOptions& options) {
  bool first = true;
  return run_pass(model, "remove_dead_code", options, {}, [&](GraphEditor& editor) {
    if (!std::exchange(first, false)) return;
    editor.count(sweep(editor.graph()));
  });
}

}  // namespace moptcore::inline v0::graph

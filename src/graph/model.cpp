// SPDX-License-Identifier: Apache-2.0
#include <moptcore/graph/model.hpp>

#include <functional>
#include <queue>
#include <set>
#include <unordered_map>
#include <unordered_set>

#include "graph/scope.hpp"

namespace moptcore::inline v0::graph {
namespace {

constexpr auto kWhere = "graph.sort_nodes";
// Subgraphs in subgraphs, and calls of functions in functions.
constexpr int kMaxDepth = 64;

std::string label(const Node& node) {
  return node.op_type + " '" +
         (node.name.empty() ? (node.outputs.empty() ? "" : node.outputs[0]) : node.name) + "'";
}

// The names that exist in a graph, and around it: a chain, so that no level copies another.
struct Names {
  std::unordered_set<std::string> own;
  const Names* around = nullptr;

  [[nodiscard]] bool contains(const std::string& name) const {
    for (const Names* level = this; level != nullptr; level = level->around) {
      if (level->own.contains(name)) return true;
    }
    return false;
  }
};

void sort_nodes(Graph& graph, const Names* around, int depth) {
  check<FormatError>(depth <= kMaxDepth, kWhere, "subgraphs must be nested at most 64 deep");
  std::unordered_map<std::string, std::size_t> writer;
  for (std::size_t i = 0; i < graph.nodes.size(); ++i) {
    for (const std::string& name : graph.nodes[i].outputs) {
      if (name.empty()) continue;
      check<FormatError>(writer.emplace(name, i).second, kWhere,
                         "a value must be written by one node only", name);
    }
  }
  Names given{{}, around};
  for (const ValueInfo& input : graph.inputs) given.own.insert(input.name);
  for (const auto& [name, tensor] : graph.initializers) given.own.insert(name);
  for (const std::string& name : given.own) {
    check<FormatError>(!writer.contains(name), kWhere,
                       "a node must not write an input or initializer of its graph", name);
  }

  // Edges by what each node reads, its subgraphs included.
  std::vector<std::vector<std::size_t>> readers(graph.nodes.size());
  std::vector<std::size_t> waiting(graph.nodes.size(), 0);
  for (std::size_t i = 0; i < graph.nodes.size(); ++i) {
    for (const std::string& name : names_read(graph.nodes[i])) {
      if (const auto found = writer.find(name); found != writer.end()) {
        readers[found->second].push_back(i);
        ++waiting[i];
      } else {
        check<FormatError>(given.contains(name), kWhere,
                           label(graph.nodes[i]) + " must read a value that exists", name);
      }
    }
  }
  std::priority_queue<std::size_t, std::vector<std::size_t>, std::greater<>> ready;
  for (std::size_t i = 0; i < waiting.size(); ++i) {
    if (waiting[i] == 0) ready.push(i);
  }
  std::vector<Node> sorted;
  sorted.reserve(graph.nodes.size());
  while (!ready.empty()) {
    const std::size_t next = ready.top();
    ready.pop();
    for (const std::size_t reader : readers[next]) {
      if (--waiting[reader] == 0) ready.push(reader);
    }
    sorted.push_back(std::move(graph.nodes[next]));
  }
  if (sorted.size() != graph.nodes.size()) {
    for (std::size_t i = 0; i < waiting.size(); ++i) {
      check<FormatError>(waiting[i] == 0, kWhere, "nodes must not form a cycle, at",
                         label(graph.nodes[i]));
    }
  }
  graph.nodes = std::move(sorted);

  for (const auto& [name, index] : writer) given.own.insert(name);
  for (const ValueInfo& output : graph.outputs) {
    check<FormatError>(given.contains(output.name), kWhere, "an output must be a value that exists",
                       output.name);
  }
  for (Node& node : graph.nodes) {
    for_each_subgraph(node, [&](Graph& body) { sort_nodes(body, &given, depth + 1); });
  }
}

}  // namespace

Subgraph::Subgraph() : graph_(std::make_unique<Graph>()) {}
Subgraph::Subgraph(Graph graph) : graph_(std::make_unique<Graph>(std::move(graph))) {}
Subgraph::Subgraph(const Subgraph& other) : graph_(std::make_unique<Graph>(*other.graph_)) {}
// A moved-from Subgraph is an empty graph, so that it is never null.
Subgraph::Subgraph(Subgraph&& other) noexcept : graph_(std::make_unique<Graph>()) {
  graph_.swap(other.graph_);
}
Subgraph& Subgraph::operator=(const Subgraph& other) {
  if (this != &other) graph_ = std::make_unique<Graph>(*other.graph_);
  return *this;
}
Subgraph& Subgraph::operator=(Subgraph&& other) noexcept {
  graph_.swap(other.graph_);
  return *this;
}
Subgraph::~Subgraph() = default;

void sort_nodes(Graph& graph) { sort_nodes(graph, nullptr, 0); }

}  // namespace moptcore::inline v0::graph

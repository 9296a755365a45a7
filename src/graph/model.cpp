// SPDX-License-Identifier: Apache-2.0
#include <moptcore/graph/model.hpp>

#include <algorithm>
#include <functional>
#include <queue>
#include <set>
#include <tuple>
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

constexpr auto kInline = "graph.inline_functions";

using Key = std::tuple<std::string, std::string, std::string>;
using Renaming = std::unordered_map<std::string, std::string>;

Key key_of(const Node& node) { return {node.domain, node.op_type, node.overload}; }

class Inliner {
 public:
  Inliner(Model& model, std::int64_t max_nodes) : model_(model), max_nodes_(max_nodes) {
    for (const Function& function : model.functions) {
      functions_.emplace(Key{function.domain, function.name, function.overload}, &function);
    }
  }

  void run(std::vector<Node>& nodes) {
    std::vector<Node> result;
    for (Node& node : nodes) {
      for_each_subgraph(node, [this](Graph& body) { run(body.nodes); });
      if (const auto found = functions_.find(key_of(node)); found != functions_.end()) {
        expand(node, *found->second, result);
      } else {
        count();
        result.push_back(std::move(node));
      }
    }
    nodes = std::move(result);
  }

 private:
  void count() {
    check<FormatError>(++written_ <= max_nodes_, kInline,
                       "functions written out must make at most " + std::to_string(max_nodes_) +
                           " nodes (max_nodes)");
  }

  void expand(const Node& call, const Function& function, std::vector<Node>& result) {
    const std::string title = function.domain + "." + function.name;
    check<FormatError>(std::ranges::find(active_, &function) == active_.end(), kInline,
                       "a function must not call itself", title);
    check<FormatError>(active_.size() < 64, kInline, "functions must be nested at most 64 deep",
                       title);
    check<FormatError>(call.inputs.size() <= function.inputs.size() &&
                           call.outputs.size() <= function.outputs.size(),
                       kInline, "a call must not have more inputs or outputs than its function",
                       title);
    for (const auto& [domain, version] : function.opsets) model_.opsets.emplace(domain, version);

    // Attributes: those of the call, then the function's defaults.
    std::vector<Attribute> attributes = call.attributes;
    for (const Attribute& fallback : function.defaults) {
      if (call.find(fallback.name) == nullptr) attributes.push_back(fallback);
    }
    for (const std::string& name : function.attributes) {
      check<FormatError>(call.find(name) != nullptr, kInline,
                         "a call of " + title + " must have the attribute", name);
    }

    Renaming names;
    for (std::size_t i = 0; i < function.inputs.size(); ++i) {
      names[function.inputs[i]] = i < call.inputs.size() ? call.inputs[i] : "";
    }
    for (std::size_t i = 0; i < function.outputs.size(); ++i) {
      const bool read = i < call.outputs.size() && !call.outputs[i].empty();
      if (!read) continue;
      // An output that is an input needs a node to carry it.
      if (const auto input = names.find(function.outputs[i]); input != names.end()) {
        Node copy;
        copy.op_type = "Identity";
        copy.inputs = {input->second};
        copy.outputs = {call.outputs[i]};
        model_.opsets.emplace("", 21);
        count();
        result.push_back(std::move(copy));
      } else {
        names[function.outputs[i]] = call.outputs[i];
      }
    }
    const std::string prefix =
        (call.name.empty() ? function.name : call.name) + "/" + std::to_string(calls_++) + "/";
    std::vector<Node> body = function.nodes;
    for (Node& node : body) rename(node, names, prefix, attributes);
    active_.push_back(&function);
    for (Node& node : body) {
      for_each_subgraph(node, [this](Graph& inner) { run(inner.nodes); });
      if (const auto found = functions_.find(key_of(node)); found != functions_.end()) {
        expand(node, *found->second, result);
      } else {
        count();
        result.push_back(std::move(node));
      }
    }
    active_.pop_back();
  }

  static void rename(std::string& name, Renaming& names, const std::string& prefix) {
    if (name.empty()) return;
    name = names.emplace(name, prefix + name).first->second;
  }

  void rename(Node& node, Renaming& names, const std::string& prefix,
              const std::vector<Attribute>& attributes) {
    for (std::string& name : node.inputs) rename(name, names, prefix);
    for (std::string& name : node.outputs) rename(name, names, prefix);
    if (!node.name.empty()) node.name = prefix + node.name;
    std::vector<Attribute> kept;
    for (Attribute& attribute : node.attributes) {
      if (attribute.reference.empty()) {
        kept.push_back(std::move(attribute));
        continue;
      }
      const auto found = std::ranges::find(attributes, attribute.reference, &Attribute::name);
      if (found == attributes.end()) continue;  // an optional attribute that the call leaves out
      Attribute filled = *found;
      filled.name = attribute.name;
      kept.push_back(std::move(filled));
    }
    node.attributes = std::move(kept);
    for_each_subgraph(node, [&](Graph& body) { rename(body, names, prefix, attributes); });
  }

  void rename(Graph& body, Renaming& names, const std::string& prefix,
              const std::vector<Attribute>& attributes) {
    for (ValueInfo& input : body.inputs) rename(input.name, names, prefix);
    std::map<std::string, Tensor, std::less<>> initializers;
    for (auto& [name, tensor] : body.initializers) {
      std::string renamed = name;
      rename(renamed, names, prefix);
      initializers.emplace(std::move(renamed), std::move(tensor));
    }
    body.initializers = std::move(initializers);
    body.notes.clear();
    for (Node& node : body.nodes) rename(node, names, prefix, attributes);
    for (ValueInfo& output : body.outputs) rename(output.name, names, prefix);
    for (ValueInfo& value : body.values) rename(value.name, names, prefix);
  }

  Model& model_;
  std::map<Key, const Function*> functions_;
  std::vector<const Function*> active_;
  std::int64_t max_nodes_;
  std::int64_t written_ = 0;
  std::int64_t calls_ = 0;
};

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

void inline_functions(Model& model, std::int64_t max_nodes) {
  if (model.functions.empty()) return;
  Inliner(model, max_nodes).run(model.graph.nodes);
  model.functions.clear();
}

}  // namespace moptcore::inline v0::graph

// SPDX-License-Identifier: Apache-2.0
// A model's own functions, written out where they are called.
#include <algorithm>
#include <tuple>
#include <unordered_map>

#include <moptcore/graph/model.hpp>

#include "graph/scope.hpp"

namespace moptcore::inline v0::graph {
namespace {

constexpr auto kWhere = "graph.inline_functions";

using Key = std::tuple<std::string, std::string, std::string>;
using Names = std::unordered_map<std::string, std::string>;

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
    check<FormatError>(++written_ <= max_nodes_, kWhere,
                       "functions written out must make at most " + std::to_string(max_nodes_) +
                           " nodes (max_nodes)");
  }

  void expand(const Node& call, const Function& function, std::vector<Node>& result) {
    const std::string title = function.domain + "." + function.name;
    check<FormatError>(std::ranges::find(active_, &function) == active_.end(), kWhere,
                       "a function must not call itself", title);
    check<FormatError>(active_.size() < 64, kWhere, "functions must be nested at most 64 deep",
                       title);
    check<FormatError>(call.inputs.size() <= function.inputs.size() &&
                           call.outputs.size() <= function.outputs.size(),
                       kWhere, "a call must not have more inputs or outputs than its function",
                       title);
    for (const auto& [domain, version] : function.opsets) model_.opsets.emplace(domain, version);

    // Attributes: those of the call, then the function's defaults.
    std::vector<Attribute> attributes = call.attributes;
    for (const Attribute& fallback : function.defaults) {
      if (call.find(fallback.name) == nullptr) attributes.push_back(fallback);
    }
    for (const std::string& name : function.attributes) {
      check<FormatError>(call.find(name) != nullptr, kWhere,
                         "a call of " + title + " must have the attribute", name);
    }

    Names names;
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

  static void rename(std::string& name, Names& names, const std::string& prefix) {
    if (name.empty()) return;
    name = names.emplace(name, prefix + name).first->second;
  }

  void rename(Node& node, Names& names, const std::string& prefix,
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

  void rename(Graph& body, Names& names, const std::string& prefix,
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

void inline_functions(Model& model, std::int64_t max_nodes) {
  if (model.functions.empty()) return;
  Inliner(model, max_nodes).run(model.graph.nodes);
  model.functions.clear();
}

}  // namespace moptcore::inline v0::graph

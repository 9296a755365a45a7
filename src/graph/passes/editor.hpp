// SPDX-License-Identifier: Apache-2.0
// A graph while a pass rewrites it: who writes and reads each value, changes that are collected and
// applied at the end of a round.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include <moptcore/graph/passes/pass.hpp>

namespace moptcore::inline v0::graph {

/// Names that a model uses, so that new ones differ.
class NamePool {
 public:
  explicit NamePool(const Graph& graph) : graph_(graph) {}
  std::string make(std::string_view base);

 private:
  void collect(const Graph& graph);
  const Graph& graph_;
  bool collected_ = false;  // on the first call: most passes need no name
  std::unordered_set<std::string> names_;
  std::unordered_map<std::string, std::int64_t> next_;
};

class GraphEditor {
 public:
  GraphEditor(Graph& graph, const GraphEditor* outer, NamePool& names,
              const std::map<std::string, std::int64_t>& opsets);

  [[nodiscard]] std::vector<Node>& nodes() noexcept { return graph_.nodes; }
  [[nodiscard]] Graph& graph() noexcept { return graph_; }
  [[nodiscard]] std::int64_t opset(const std::string& domain = "") const;

  /// The node of this graph that writes the value; null for inputs and what is outside.
  [[nodiscard]] Node* writer(const std::string& value) const;
  /// The writer, if it is an operator `op` of ONNX that nothing has changed in this round.
  [[nodiscard]] Node* writer(const std::string& value, std::string_view op) const;
  /// Reads by inputs of nodes, by subgraphs and as outputs of the graph.
  [[nodiscard]] int uses(const std::string& value) const;
  [[nodiscard]] bool is_output(const std::string& value) const;
  /// True where one input of one node reads the value, and nobody else.
  [[nodiscard]] bool has_one_reader(const std::string& value) const {
    return uses(value) == 1 && !is_output(value) && readers(value).size() == 1;
  }
  [[nodiscard]] const std::vector<Node*>& readers(const std::string& value) const;
  /// The elements of a value that never changes: an initializer that is not an input.
  [[nodiscard]] const Tensor* constant(const std::string& value) const;
  /// Its one element as a number.
  [[nodiscard]] std::optional<double> number(const std::string& value) const;
  [[nodiscard]] std::optional<std::vector<std::int64_t>> integers(const std::string& value) const;
  /// As infer_types has written it; null where nothing is known.
  [[nodiscard]] const ValueType* type(const std::string& value) const;
  [[nodiscard]] const std::vector<Dimension>* dims(const std::string& value) const;
  [[nodiscard]] int rank(const std::string& value) const;  // -1: unknown
  [[nodiscard]] ElementType element(const std::string& value) const;

  /// True where the node is still as it was when the round began.
  [[nodiscard]] bool fresh(const Node* node) const { return !touched_.contains(node); }
  void touch(const Node* node) { touched_.insert(node); }

  std::string make_name(std::string_view base) { return names_.make(base); }
  /// A new initializer of this graph.
  std::string add_constant(std::string_view base, Tensor tensor);
  /// A new node in front of `place`.
  void insert_before(const Node* place, Node node);
  void insert_after(const Node* place, Node node);
  void remove(const Node* node);
  /// Whoever reads `value` reads `by` from now on. False, and nothing changed, where `value` is an
  /// output of the graph whose name cannot go over to the writer of `by`.
  bool replace(const std::string& value, const std::string& by);
  /// What stands for a value now.
  [[nodiscard]] const std::string& resolve(const std::string& value) const;

  void count(std::int64_t changes = 1) { changes_ += changes; }
  [[nodiscard]] std::int64_t changes() const noexcept { return changes_; }
  /// Applies what was collected.
  void flush();

 private:
  Graph& graph_;
  const GraphEditor* outer_;
  NamePool& names_;
  const std::map<std::string, std::int64_t>& opsets_;
  std::unordered_map<std::string, Node*> writers_;
  std::unordered_map<std::string, std::vector<Node*>> readers_;
  std::unordered_map<std::string, int> uses_;
  std::unordered_set<std::string> outputs_;
  std::unordered_set<std::string> inputs_;
  std::unordered_map<std::string, const ValueType*> types_;
  std::unordered_map<std::string, std::string> replaced_;
  std::unordered_set<std::string> fixed_;  // may not be renamed or replaced any more this round
  std::unordered_set<const Node*> touched_;
  std::unordered_set<const Node*> removed_;
  std::unordered_map<const Node*, std::vector<Node>> inserted_;
  std::unordered_map<const Node*, std::vector<Node>> appended_;
  std::int64_t changes_ = 0;
};

struct PassNeeds {
  bool types = false;
};

/// Calls `edit` with each graph of the model, the main one first, until nothing changes.
PassReport run_pass(Model& model, std::string_view name, const PassOptions& options,
                    PassNeeds needs, const std::function<void(GraphEditor&)>& edit);

/// Bytes that constants made by folding may have beside those of the model.
[[nodiscard]] MOPTCORE_API std::int64_t fold_limit(const Model& model, const PassOptions& options);

/// Renames what subgraphs define under a name that is taken around them.
void make_names_unique(Graph& graph);

/// The elements of a float tensor (float64, float32, float16, bfloat16).
[[nodiscard]] std::optional<std::vector<double>> read_floats(const Tensor& tensor);
/// A tensor of one of those types, each element rounded once.
[[nodiscard]] Tensor make_floats(ElementType type, const Shape& shape,
                                 const std::vector<double>& values);

[[nodiscard]] inline bool is_op(const Node& node, std::string_view op) {
  return node.domain.empty() && node.op_type == op;
}
[[nodiscard]] inline const std::string& input(const Node& node, std::size_t index) {
  static const std::string none;
  return index < node.inputs.size() ? node.inputs[index] : none;
}

/// True for operators whose output i depends on element i of their one tensor input alone.
[[nodiscard]] bool is_elementwise_unary(const Node& node);

}  // namespace moptcore::inline v0::graph

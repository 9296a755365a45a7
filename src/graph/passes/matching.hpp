// SPDX-License-Identifier: Apache-2.0
// Small questions that patterns of nodes ask.
#pragma once

#include <cmath>
#include <optional>
#include <string>

#include "graph/passes/editor.hpp"

namespace moptcore::inline v0::graph {

/// Equal to six digits, as constants of formulas are written.
[[nodiscard]] inline bool is_near(double value, double wanted) {
  return std::abs(value - wanted) <= 2e-6 * std::abs(wanted);
}

struct WithNumber {
  std::string x;
  double number = 0.0;
};

/// `value` as op(x, number), of the node that writes it; either order where op is Add or Mul.
[[nodiscard]] inline std::optional<WithNumber> with_number(const GraphEditor& editor,
                                                           const std::string& value,
                                                           std::string_view op) {
  const Node* node = editor.writer(value, op);
  if (node == nullptr || node->inputs.size() != 2) return std::nullopt;
  if (const auto number = editor.number(node->inputs[1])) {
    return WithNumber{node->inputs[0], *number};
  }
  if (op != "Add" && op != "Mul") return std::nullopt;
  if (const auto number = editor.number(node->inputs[0])) {
    return WithNumber{node->inputs[1], *number};
  }
  return std::nullopt;
}

/// x * factor, written as Mul or Div; a constant has one element.
[[nodiscard]] inline std::optional<WithNumber> scaled(const GraphEditor& editor,
                                                      const std::string& value) {
  if (auto product = with_number(editor, value, "Mul")) return product;
  auto quotient = with_number(editor, value, "Div");
  if (!quotient || quotient->number == 0.0) return std::nullopt;
  quotient->number = 1.0 / quotient->number;
  return quotient;
}

/// The other input where `value` is op(x, other) or op(other, x).
[[nodiscard]] inline std::optional<std::string> other_input(const Node& node,
                                                            const std::string& x) {
  if (node.inputs.size() != 2) return std::nullopt;
  if (node.inputs[0] == x) return node.inputs[1];
  if (node.inputs[1] == x) return node.inputs[0];
  return std::nullopt;
}

/// The node that alone reads `value`, if it is an operator `op` that nothing has changed.
[[nodiscard]] inline Node* only_reader(const GraphEditor& editor, const std::string& value,
                                       std::string_view op) {
  if (!editor.has_one_reader(value)) return nullptr;
  Node* reader = editor.readers(value).front();
  return is_op(*reader, op) && editor.fresh(reader) ? reader : nullptr;
}

/// Makes `node` an operator of one input, its output the same.
inline void become(GraphEditor& editor, Node& node, std::string op, std::string x) {
  node.op_type = std::move(op);
  node.inputs = {std::move(x)};
  node.attributes.clear();
  editor.touch(&node);
  editor.count();
}

}  // namespace moptcore::inline v0::graph

// SPDX-License-Identifier: Apache-2.0
#include <moptcore/graph/passes/sink_transposes.hpp>

#include <algorithm>
#include <set>

#include "graph/passes/editor.hpp"

namespace moptcore::inline v0::graph {
namespace {

using Order = std::vector<std::int64_t>;

bool is_elementwise_binary(const Node& node) {
  static const std::set<std::string_view> kNames = {"Add", "Sub", "Mul", "Div",
                                                    "Pow", "Min", "Max", "PRelu"};
  return node.domain.empty() && node.inputs.size() == 2 && kNames.contains(node.op_type);
}

std::optional<Order> order_of(const Node& node) {
  auto order = node.get<Order>("perm", {});
  if (order.empty()) return std::nullopt;
  std::vector<bool> seen(order.size(), false);
  for (const std::int64_t axis : order) {
    if (axis < 0 || axis >= static_cast<std::int64_t>(order.size()) || seen[axis]) {
      return std::nullopt;
    }
    seen[axis] = true;
  }
  return order;
}

Order inverse(const Order& order) {
  Order result(order.size());
  for (std::size_t i = 0; i < order.size(); ++i) {
    result[static_cast<std::size_t>(order[i])] = static_cast<std::int64_t>(i);
  }
  return result;
}

bool undoes(const Order& a, const Order& b) { return inverse(a) == b; }

bool may_pass(const GraphEditor& editor, const Node& node) {
  if (is_elementwise_unary(node)) {
    for (std::size_t i = 1; i < node.outputs.size(); ++i) {
      if (!node.outputs[i].empty()) return false;
    }
    return true;
  }
  return (is_elementwise_binary(node) && editor.opset() >= 7) || is_op(node, "Concat");
}

// True where a Transpose that undoes `order` follows, behind operators that it may pass.
bool is_awaited(const GraphEditor& editor, const std::string& value, const Order& order) {
  std::string now = value;
  for (int step = 0; step < 64; ++step) {
    if (!editor.has_one_reader(now)) {
      // Several readers may all undo it.
      const auto& readers = editor.readers(now);
      if (editor.is_output(now) || readers.empty() ||
          editor.uses(now) != static_cast<int>(readers.size())) {
        return false;
      }
      return step > 0 && std::ranges::all_of(readers, [&](const Node* reader) {
               const auto own = is_op(*reader, "Transpose") ? order_of(*reader) : std::nullopt;
               return own && undoes(order, *own);
             });
    }
    const Node& reader = *editor.readers(now).front();
    if (is_op(reader, "Transpose")) {
      const auto own = order_of(reader);
      return step > 0 && own && undoes(order, *own);
    }
    if (!may_pass(editor, reader)) return false;
    now = reader.outputs[0];
  }
  return false;
}

// The value before the Transpose, or a constant turned back; empty where neither is possible.
std::string untransposed(GraphEditor& editor, const std::string& value, const Order& order,
                         bool broadcasts) {
  if (const Node* before = editor.writer(value, "Transpose")) {
    const auto own = order_of(*before);
    return own && *own == order && editor.has_one_reader(value) ? before->inputs[0] : std::string();
  }
  const Tensor* tensor = editor.constant(value);
  if (tensor == nullptr || !broadcasts) return {};
  if (tensor->size() == 1) {
    if (tensor->rank() <= static_cast<int>(order.size())) return value;
    return {};
  }
  // Constants of one axis that matters: a reshape is all they need.
  const auto rank = static_cast<int>(order.size());
  if (tensor->rank() > rank) return {};
  int axis = -1;
  for (int i = 0; i < tensor->rank(); ++i) {
    if (tensor->shape()[i] == 1) continue;
    if (axis >= 0) return {};
    axis = rank - tensor->rank() + i;
  }
  if (axis < 0) return {};
  Shape shape;
  for (int i = 0; i < rank; ++i) shape.push_back(1);
  shape[static_cast<int>(order[static_cast<std::size_t>(axis)])] = tensor->size();
  return editor.add_constant(value, tensor->reshaped(shape));
}

}  // namespace

PassReport sink_transposes(Model& model, const PassOptions& options) {
  return run_pass(model, "sink_transposes", options, {.types = true}, [](GraphEditor& editor) {
    for (Node& node : editor.nodes()) {
      if (!editor.fresh(&node) || !may_pass(editor, node)) continue;
      const bool joins = is_op(node, "Concat");
      const Node* first = nullptr;
      for (const std::string& name : node.inputs) {
        if (first == nullptr) first = editor.writer(name, "Transpose");
      }
      if (first == nullptr) continue;
      const auto order = order_of(*first);
      if (!order || !is_awaited(editor, first->outputs[0], *order)) continue;
      const auto rank = static_cast<std::int64_t>(order->size());
      std::int64_t axis = node.get<std::int64_t>("axis", 0);
      if (joins && axis < 0) axis += rank;
      if (joins && (axis < 0 || axis >= rank)) continue;
      // PRelu's slope broadcasts to the data only.
      const std::size_t tensors = is_elementwise_unary(node) ? 1 : node.inputs.size();
      std::vector<std::string> inputs = node.inputs;
      bool possible = true;
      for (std::size_t i = 0; possible && i < tensors; ++i) {
        inputs[i] = untransposed(editor, node.inputs[i], *order, !joins);
        possible = !inputs[i].empty();
      }
      if (!possible ||
          (tensors == 2 && editor.constant(node.inputs[0]) != nullptr && node.op_type == "PRelu")) {
        continue;
      }
      for (std::size_t i = 0; i < tensors; ++i) {
        if (const Node* before = editor.writer(node.inputs[i], "Transpose")) {
          if (editor.has_one_reader(node.inputs[i])) editor.remove(before);
        }
      }
      node.inputs = inputs;
      if (joins) node.set("axis", (*order)[static_cast<std::size_t>(axis)]);
      // The node computes an unturned value now; a Transpose behind it gives the old one.
      Node turned;
      turned.op_type = "Transpose";
      turned.set("perm", *order);
      turned.inputs = {editor.make_name(node.outputs[0])};
      turned.outputs = {node.outputs[0]};
      node.outputs[0] = turned.inputs[0];
      editor.touch(&node);
      editor.insert_after(&node, std::move(turned));
      editor.count();
    }
  });
}

}  // namespace moptcore::inline v0::graph

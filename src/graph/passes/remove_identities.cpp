// SPDX-License-Identifier: Apache-2.0
#include <moptcore/graph/passes/remove_identities.hpp>

#include <algorithm>
#include <numeric>

#include "graph/passes/editor.hpp"

namespace moptcore::inline v0::graph {
namespace {

bool all(const std::optional<std::vector<std::int64_t>>& values, std::int64_t wanted) {
  return values && std::ranges::all_of(*values, [&](auto value) { return value == wanted; });
}

// True where both are known to have equal extents, by number or by symbol.
bool same_shape(const GraphEditor& editor, const std::string& a, const std::string& b) {
  const auto* left = editor.dims(a);
  const auto* right = editor.dims(b);
  if (left == nullptr || right == nullptr || left->size() != right->size()) return false;
  for (std::size_t i = 0; i < left->size(); ++i) {
    if ((*left)[i].is_unknown() || !((*left)[i] == (*right)[i])) return false;
  }
  return true;
}

bool slices_all(const GraphEditor& editor, const Node& node) {
  const std::int64_t version = editor.opset();
  std::optional<std::vector<std::int64_t>> starts;
  std::optional<std::vector<std::int64_t>> steps;
  if (version >= 10) {
    starts = editor.integers(input(node, 1));
    if (!input(node, 4).empty()) {
      steps = editor.integers(input(node, 4));
      if (!all(steps, 1)) return false;
    }
  } else {
    starts = node.get<std::vector<std::int64_t>>("starts", {});
  }
  // Nothing is left out in front, and the extents are what they were.
  return all(starts, 0) && same_shape(editor, input(node, 0), node.outputs[0]);
}

bool passes_on(const GraphEditor& editor, const Node& node) {
  if (!node.domain.empty() || node.inputs.empty() || node.outputs.empty()) return false;
  const std::string& op = node.op_type;
  const std::string& x = node.inputs[0];
  if (x.empty()) return false;
  for (std::size_t i = 1; i < node.outputs.size(); ++i) {
    if (!node.outputs[i].empty() && (editor.uses(node.outputs[i]) > 0)) return false;
  }
  if (op == "Identity") return true;
  if (op == "Dropout") {
    if (editor.opset() < 7) return false;
    if (input(node, 2).empty()) return true;
    const Tensor* training = editor.constant(node.inputs[2]);
    return training != nullptr && training->type() == ElementType::boolean &&
           training->size() == 1 && !training->values<bool>()[0];
  }
  if (op == "Cast") {
    const auto to = node.get<std::int64_t>("to", 0);
    return to != 0 && static_cast<std::int64_t>(editor.element(x)) == to;
  }
  if (op == "CastLike") {
    return editor.element(x) != ElementType::undefined &&
           editor.element(x) == editor.element(input(node, 1));
  }
  if (op == "Reshape" || op == "Flatten" || op == "Squeeze" || op == "Unsqueeze" ||
      op == "Expand") {
    if (!same_shape(editor, x, node.outputs[0])) return false;
    // A shape that cannot be right must still end in its error.
    return op != "Expand" || editor.constant(input(node, 1)) != nullptr;
  }
  if (op == "Tile") return all(editor.integers(input(node, 1)), 1);
  if (op == "Transpose") {
    const auto perm = node.get<std::vector<std::int64_t>>("perm", {});
    if (perm.empty()) return editor.rank(x) == 0 || editor.rank(x) == 1;
    for (std::size_t i = 0; i < perm.size(); ++i) {
      if (perm[i] != static_cast<std::int64_t>(i)) return false;
    }
    return true;
  }
  if (op == "Pad") {
    if (editor.opset() >= 11) return all(editor.integers(input(node, 1)), 0);
    return all(node.get<std::vector<std::int64_t>>("pads", {}), 0);
  }
  if (op == "Slice") return slices_all(editor, node);
  if (op == "Concat" || op == "Sum" || op == "Max" || op == "Min" || op == "Mean") {
    return node.inputs.size() == 1;
  }
  if (op == "AveragePool" || op == "MaxPool") {
    const auto kernel = node.get<std::vector<std::int64_t>>("kernel_shape", {});
    const auto ones = [](const std::vector<std::int64_t>& values) {
      return std::ranges::all_of(values, [](auto value) { return value == 1; });
    };
    return !kernel.empty() && ones(kernel) &&
           ones(node.get<std::vector<std::int64_t>>("strides", {})) &&
           all(node.get<std::vector<std::int64_t>>("pads", {}), 0);
  }
  return false;
}

// Transpose of Transpose: one with both orders.
bool merge_transposes(GraphEditor& editor, Node& node) {
  Node* before = editor.writer(input(node, 0), "Transpose");
  if (before == nullptr) return false;
  auto outer = node.get<std::vector<std::int64_t>>("perm", {});
  auto inner = before->get<std::vector<std::int64_t>>("perm", {});
  const std::size_t rank = std::max(outer.size(), inner.size());
  const auto reversed = [rank](std::vector<std::int64_t>& perm) {
    if (!perm.empty()) return;
    perm.resize(rank);
    std::iota(perm.rbegin(), perm.rend(), 0);
  };
  if (rank == 0) {
    // Both turn the axes round: nothing is left.
    node.op_type = "Identity";
    node.attributes.clear();
  } else {
    reversed(outer);
    reversed(inner);
    if (outer.size() != inner.size()) return false;
    std::vector<std::int64_t> merged;
    for (const std::int64_t axis : outer) {
      if (axis < 0 || axis >= static_cast<std::int64_t>(rank)) return false;
      merged.push_back(inner[static_cast<std::size_t>(axis)]);
    }
    node.set("perm", merged);
  }
  node.inputs[0] = before->inputs[0];
  editor.touch(&node);
  editor.count();
  return true;
}

bool is_view(const Node& node) {
  return is_op(node, "Reshape") || is_op(node, "Flatten") || is_op(node, "Squeeze") ||
         is_op(node, "Unsqueeze");
}

// A view of a view: the first one does not matter where the second says its whole shape.
bool merge_views(GraphEditor& editor, Node& node) {
  Node* before = editor.writer(input(node, 0));
  if (before == nullptr || !editor.fresh(before) || !is_view(*before)) return false;
  if (before->inputs.empty() || before->inputs[0].empty()) return false;
  if (is_op(node, "Reshape")) {
    const auto shape = editor.integers(input(node, 1));
    if (!shape) return false;
    // A 0 copies an axis of the value in between.
    const bool copies = std::ranges::count(*shape, 0) > 0;
    if (copies) return false;
    node.inputs[0] = before->inputs[0];
    editor.touch(&node);
    editor.count();
    return true;
  }
  // Others say less than their shape: they become a Reshape to what is known.
  const auto* dims = editor.dims(node.outputs[0]);
  if (dims == nullptr || editor.opset() < 5) return false;
  std::vector<std::int64_t> shape;
  int open = 0;
  for (const Dimension& dimension : *dims) {
    if (dimension.value == 0) return false;
    if (!dimension.is_known()) ++open;
    shape.push_back(dimension.is_known() ? dimension.value : -1);
  }
  if (open > 1) return false;
  const auto count = static_cast<std::int64_t>(shape.size());
  const std::string made = editor.add_constant(
      node.outputs[0] + "_shape",
      Tensor::of<std::int64_t>(Shape{count}, std::span<const std::int64_t>(shape)));
  node.op_type = "Reshape";
  node.attributes.clear();
  node.inputs = {before->inputs[0], made};
  editor.touch(&node);
  editor.count();
  return true;
}

}  // namespace

PassReport remove_identities(Model& model, const PassOptions& options) {
  return run_pass(model, "remove_identities", options, {.types = true}, [](GraphEditor& editor) {
    for (Node& node : editor.nodes()) {
      if (!editor.fresh(&node)) continue;
      if (passes_on(editor, node)) {
        if (editor.replace(node.outputs[0], node.inputs[0])) {
          editor.remove(&node);
          editor.count();
        }
        continue;
      }
      if (is_op(node, "Transpose") && merge_transposes(editor, node)) continue;
      if (is_view(node)) (void)merge_views(editor, node);
    }
  });
}

}  // namespace moptcore::inline v0::graph

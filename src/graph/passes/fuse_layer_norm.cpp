// SPDX-License-Identifier: Apache-2.0
#include <moptcore/graph/passes/fuse_layer_norm.hpp>

#include <algorithm>

#include "graph/passes/matching.hpp"

namespace moptcore::inline v0::graph {
namespace {

// The first of the reduced axes, where they are the last ones and stay with extent 1.
std::optional<std::int64_t> first_axis(const GraphEditor& editor, const Node& node) {
  if (node.get<std::int64_t>("keepdims", 1) == 0) return std::nullopt;
  std::vector<std::int64_t> axes = node.get<std::vector<std::int64_t>>("axes", {});
  if (axes.empty()) {
    const auto given = editor.integers(input(node, 1));
    if (!given || given->empty()) return std::nullopt;
    axes = *given;
  }
  const int rank = editor.rank(node.inputs[0]);
  if (rank < 1) return std::nullopt;
  for (std::int64_t& axis : axes) axis += axis < 0 ? rank : 0;
  std::ranges::sort(axes);
  for (std::size_t i = 0; i < axes.size(); ++i) {
    if (axes[i] != rank - static_cast<std::int64_t>(axes.size() - i)) return std::nullopt;
  }
  return axes.front();
}

// The x of x^2, as Pow or Mul.
std::optional<std::string> squared(const GraphEditor& editor, const std::string& value) {
  if (const auto power = with_number(editor, value, "Pow")) {
    return power->number == 2.0 ? std::optional(power->x) : std::nullopt;
  }
  const Node* product = editor.writer(value, "Mul");
  if (product != nullptr && product->inputs[0] == product->inputs[1]) return product->inputs[0];
  return std::nullopt;
}

struct Normalized {
  std::string x;
  std::int64_t axis = 0;
  double epsilon = 0.0;
};

// `node` as (x - mean) / sqrt(variance + epsilon).
std::optional<Normalized> normalized(const GraphEditor& editor, const Node& node) {
  const Node* centered = editor.writer(input(node, 0), "Sub");
  std::string root = input(node, 1);
  if (is_op(node, "Mul")) {
    const Node* inverse = editor.writer(root, "Reciprocal");
    if (inverse == nullptr) {
      centered = editor.writer(input(node, 1), "Sub");
      inverse = editor.writer(input(node, 0), "Reciprocal");
    }
    if (inverse == nullptr) return std::nullopt;
    root = inverse->inputs[0];
  } else if (!is_op(node, "Div")) {
    return std::nullopt;
  }
  const Node* sqrt = editor.writer(root, "Sqrt");
  if (centered == nullptr || sqrt == nullptr || !editor.has_one_reader(root)) return std::nullopt;
  const auto sum = with_number(editor, sqrt->inputs[0], "Add");
  if (!sum || !(sum->number > 0.0)) return std::nullopt;
  const Node* variance = editor.writer(sum->x, "ReduceMean");
  const Node* mean = editor.writer(input(*centered, 1), "ReduceMean");
  if (variance == nullptr || mean == nullptr) return std::nullopt;
  const auto deviation = squared(editor, variance->inputs[0]);
  if (deviation != centered->outputs[0]) {
    // Some exporters subtract the mean twice.
    const Node* again = deviation ? editor.writer(*deviation, "Sub") : nullptr;
    if (again == nullptr || again->inputs != centered->inputs) return std::nullopt;
  }
  if (mean->inputs[0] != centered->inputs[0]) return std::nullopt;
  const auto axis = first_axis(editor, *mean);
  if (!axis || axis != first_axis(editor, *variance)) return std::nullopt;
  return Normalized{centered->inputs[0], *axis, sum->number};
}

// True where `value` is a constant of the extents of x from `axis` on.
bool is_weight(const GraphEditor& editor, const std::string& value, const std::string& x,
               std::int64_t axis) {
  const Tensor* tensor = editor.constant(value);
  const auto* dims = editor.dims(x);
  if (tensor == nullptr || dims == nullptr || tensor->type() != ElementType::float32) return false;
  if (tensor->rank() != static_cast<int>(dims->size()) - axis) return false;
  for (int i = 0; i < tensor->rank(); ++i) {
    if ((*dims)[static_cast<std::size_t>(axis + i)].value != tensor->shape()[i]) return false;
  }
  return true;
}

}  // namespace

PassReport fuse_layer_norm(Model& model, const PassOptions& options) {
  return run_pass(model, "fuse_layer_norm", options, {.types = true}, [](GraphEditor& editor) {
    if (editor.opset() < 17) return;
    for (Node& node : editor.nodes()) {
      if (!editor.fresh(&node) || node.inputs.size() != 2 || node.outputs.size() != 1) continue;
      const auto found = normalized(editor, node);
      if (!found || editor.element(found->x) != ElementType::float32) continue;
      Node* end = &node;
      std::string scale;
      std::string shift;
      if (Node* product = only_reader(editor, node.outputs[0], "Mul")) {
        const auto other = other_input(*product, node.outputs[0]);
        if (other && is_weight(editor, *other, found->x, found->axis)) {
          scale = *other;
          end = product;
        }
      }
      if (Node* sum = only_reader(editor, end->outputs[0], "Add"); sum && !scale.empty()) {
        const auto other = other_input(*sum, end->outputs[0]);
        if (other && is_weight(editor, *other, found->x, found->axis)) {
          shift = *other;
          end = sum;
        }
      }
      if (scale.empty()) {
        const auto* dims = editor.dims(found->x);
        Shape shape;
        bool known = dims != nullptr;
        for (std::size_t i = static_cast<std::size_t>(found->axis); known && i < dims->size();
             ++i) {
          known = (*dims)[i].is_known() && (*dims)[i].value < (1 << 20);
          shape.push_back((*dims)[i].value);
        }
        if (!known || element_count(shape) > (1 << 20)) continue;
        const std::vector<double> ones(static_cast<std::size_t>(element_count(shape)), 1.0);
        scale = editor.add_constant(node.outputs[0] + "_scale",
                                    make_floats(ElementType::float32, shape, ones));
      }
      end->op_type = "LayerNormalization";
      end->attributes.clear();
      end->inputs = {found->x, scale};
      if (!shift.empty()) end->inputs.push_back(shift);
      end->set("axis", found->axis);
      end->set("epsilon", static_cast<float>(found->epsilon));
      editor.touch(end);
      editor.touch(&node);
      editor.count();
    }
  });
}

}  // namespace moptcore::inline v0::graph

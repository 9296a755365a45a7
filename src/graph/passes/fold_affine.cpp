// SPDX-License-Identifier: Apache-2.0
#include <moptcore/graph/passes/fold_affine.hpp>

#include <algorithm>
#include <cmath>

#include "graph/passes/scaling.hpp"

namespace moptcore::inline v0::graph {
namespace {

// x op constant, with `constant` on either side where the order does not matter.
struct Affine {
  std::string x;
  const Tensor* constant = nullptr;
  std::string name;
  bool multiplies = false;
  bool inverted = false;  // Sub and Div
};

std::optional<Affine> affine_of(const GraphEditor& editor, const Node& node) {
  if (!node.domain.empty() || node.inputs.size() != 2 || node.outputs.size() != 1 ||
      editor.opset() < 7) {
    return std::nullopt;
  }
  const bool turns = node.op_type == "Add" || node.op_type == "Mul";
  if (!turns && node.op_type != "Sub" && node.op_type != "Div") return std::nullopt;
  Affine affine;
  affine.multiplies = node.op_type == "Mul" || node.op_type == "Div";
  affine.inverted = !turns;
  for (const int side : {1, 0}) {
    if (side == 0 && !turns) break;
    affine.constant = editor.constant(node.inputs[static_cast<std::size_t>(side)]);
    if (affine.constant == nullptr) continue;
    affine.name = node.inputs[static_cast<std::size_t>(side)];
    affine.x = node.inputs[static_cast<std::size_t>(1 - side)];
    return affine;
  }
  return std::nullopt;
}

std::optional<ChannelAffine> channels_of(const Affine& affine, int rank, int axis,
                                         std::int64_t channels) {
  auto values = per_channel(*affine.constant, rank, axis, channels);
  if (!values) return std::nullopt;
  ChannelAffine result;
  result.scale.assign(values->size(), 1.0);
  result.shift.assign(values->size(), 0.0);
  for (std::size_t i = 0; i < values->size(); ++i) {
    const double value = (*values)[i];
    if (!std::isfinite(value) || (affine.inverted && affine.multiplies && value == 0.0)) {
      return std::nullopt;
    }
    if (affine.multiplies) result.scale[i] = affine.inverted ? 1.0 / value : value;
    else result.shift[i] = affine.inverted ? -value : value;
  }
  return result;
}

int rank_of(const GraphEditor& editor, const LinearNode& linear, const std::string& value) {
  if (linear.channel_axis == 1) return linear.weights->rank();
  return is_op(*linear.node, "Gemm") ? 2 : editor.rank(value);
}

bool fold_before(GraphEditor& editor, Node& node, const Affine& affine) {
  auto linear = linear_node(editor, editor.writer(affine.x));
  if (!linear || !editor.has_one_reader(affine.x)) return false;
  const auto channels = channels_of(affine, rank_of(editor, *linear, affine.x),
                                    linear->channel_axis, linear->outputs);
  if (!channels || affine.constant->type() != linear->weights->type()) return false;
  if (!scale_outputs(editor, *linear, *channels)) return false;
  linear->node->outputs[0] = node.outputs[0];
  editor.remove(&node);
  editor.count();
  return true;
}

// Into the scale and bias of a normalization by known statistics that no convolution has taken.
bool fold_into_norm(GraphEditor& editor, Node& node, const Affine& affine) {
  Node* norm = editor.writer(affine.x, "BatchNormalization");
  if (norm == nullptr || !editor.fresh(norm) || !editor.has_one_reader(affine.x) ||
      norm->outputs.size() != 1 || norm->inputs.size() != 5 ||
      norm->get<std::int64_t>("training_mode", 0) != 0 ||
      norm->get<std::int64_t>("spatial", 1) == 0) {
    return false;
  }
  const Tensor* scale = editor.constant(norm->inputs[1]);
  const Tensor* bias = editor.constant(norm->inputs[2]);
  if (scale == nullptr || bias == nullptr || scale->rank() != 1 ||
      !(scale->shape() == bias->shape()) || affine.constant->type() != scale->type() ||
      bias->type() != scale->type()) {
    return false;
  }
  const int rank = editor.rank(affine.x);
  if (rank < 2) return false;
  const auto channels = channels_of(affine, rank, 1, scale->size());
  auto scales = read_floats(*scale);
  auto shifts = read_floats(*bias);
  if (!channels || !scales || !shifts) return false;
  for (std::size_t i = 0; i < scales->size(); ++i) {
    (*scales)[i] *= channels->scale[i];
    (*shifts)[i] = (*shifts)[i] * channels->scale[i] + channels->shift[i];
  }
  const ElementType type = scale->type();
  const Shape shape = scale->shape();
  norm->inputs[1] = editor.add_constant(norm->inputs[1], make_floats(type, shape, *scales));
  norm->inputs[2] = editor.add_constant(norm->inputs[2], make_floats(type, shape, *shifts));
  editor.touch(norm);
  norm->outputs[0] = node.outputs[0];
  editor.remove(&node);
  editor.count();
  return true;
}

bool fold_behind(GraphEditor& editor, Node& node, const Affine& affine) {
  const std::string y = node.outputs[0];
  if (!editor.has_one_reader(y)) return false;
  auto linear = linear_node(editor, editor.readers(y).front());
  if (!linear || input(*linear->node, 0) != y) return false;
  // The sum or product must not have more elements than x.
  const int rank = rank_of(editor, *linear, affine.x);
  if (rank < 0 || editor.rank(affine.x) != rank) return false;
  const auto channels = channels_of(affine, rank, linear->channel_axis, linear->inputs);
  if (!channels || affine.constant->type() != linear->weights->type()) return false;
  const auto* dims = editor.dims(affine.x);
  const auto axis = static_cast<std::size_t>(linear->channel_axis < 0 ? rank - 1 : 1);
  if (dims == nullptr || (*dims)[axis].value != linear->inputs) return false;
  if (!scale_inputs(editor, *linear, *channels)) return false;
  linear->node->inputs[0] = affine.x;
  editor.remove(&node);
  editor.count();
  return true;
}

bool is_normal(double value) {
  return value == 0.0 || (std::abs(value) >= 1.2e-38 && std::abs(value) <= 3.0e38);
}

// (x * a) * b is x * (a * b), and sums likewise.
bool join(GraphEditor& editor, Node& node, const Affine& outer) {
  Node* before = editor.writer(outer.x);
  if (before == nullptr || !editor.fresh(before) || !editor.has_one_reader(outer.x)) return false;
  const auto inner = affine_of(editor, *before);
  if (!inner || inner->multiplies != outer.multiplies ||
      inner->constant->type() != outer.constant->type()) {
    return false;
  }
  // Of equal shape, or one element that has no more dimensions than the other.
  const Tensor& a = *inner->constant;
  const Tensor& b = *outer.constant;
  const bool equal = a.shape() == b.shape();
  const bool small = b.size() == 1 && b.rank() <= a.rank();
  if (!equal && !small) return false;
  const auto left = read_floats(a);
  const auto right = read_floats(b);
  if (!left || !right || a.type() == ElementType::float16) return false;
  std::vector<double> values;
  for (std::size_t i = 0; i < left->size(); ++i) {
    double x = (*left)[i];
    double y = (*right)[b.size() == 1 ? 0 : i];
    if (outer.multiplies) {
      if (inner->inverted) x = 1.0 / x;
      if (outer.inverted) y = 1.0 / y;
    } else {
      if (inner->inverted) x = -x;
      if (outer.inverted) y = -y;
    }
    values.push_back(outer.multiplies ? x * y : x + y);
    if (!is_normal(x) || !is_normal(y) || !is_normal(values.back())) return false;
    if (outer.multiplies && values.back() == 0.0) return false;
  }
  // Sums of large constants cancel: only what keeps the precision of both.
  if (!outer.multiplies) {
    for (std::size_t i = 0; i < left->size(); ++i) {
      const double y = (*right)[b.size() == 1 ? 0 : i];
      if (std::abs(values[i]) < std::max(std::abs((*left)[i]), std::abs(y))) return false;
    }
  }
  const std::string made =
      editor.add_constant(inner->name, make_floats(a.type(), a.shape(), values));
  node.op_type = outer.multiplies ? "Mul" : "Add";
  node.inputs = {inner->x, made};
  editor.touch(&node);
  editor.remove(before);
  editor.count();
  return true;
}

}  // namespace

PassReport fold_affine(Model& model, const PassOptions& options) {
  return run_pass(model, "fold_affine", options, {.types = true}, [](GraphEditor& editor) {
    for (Node& node : editor.nodes()) {
      if (!editor.fresh(&node)) continue;
      const auto affine = affine_of(editor, node);
      if (!affine || !read_floats(*affine->constant)) continue;
      if (fold_before(editor, node, *affine)) continue;
      if (fold_into_norm(editor, node, *affine)) continue;
      if (join(editor, node, *affine)) continue;
      (void)fold_behind(editor, node, *affine);
    }
  });
}

}  // namespace moptcore::inline v0::graph

// SPDX-License-Identifier: Apache-2.0
#include <moptcore/graph/passes/fold_batch_norm.hpp>

#include <cmath>

#include "graph/passes/scaling.hpp"

namespace moptcore::inline v0::graph {
namespace {

std::optional<ChannelAffine> affine_of(const GraphEditor& editor, const Node& node) {
  if (node.get<std::int64_t>("training_mode", 0) != 0 ||
      node.get<std::int64_t>("spatial", 1) == 0 || editor.opset() < 7) {
    return std::nullopt;
  }
  for (std::size_t i = 1; i < node.outputs.size(); ++i) {
    if (!node.outputs[i].empty()) return std::nullopt;
  }
  std::vector<double> parts[4];
  for (std::size_t i = 0; i < 4; ++i) {
    const Tensor* tensor = editor.constant(input(node, i + 1));
    if (tensor == nullptr) return std::nullopt;
    auto values = read_floats(*tensor);
    if (!values || (i > 0 && values->size() != parts[0].size())) return std::nullopt;
    parts[i] = std::move(*values);
  }
  const double epsilon = node.get<float>("epsilon", 1e-5f);
  ChannelAffine affine;
  for (std::size_t i = 0; i < parts[0].size(); ++i) {
    const double variance = parts[3][i] + epsilon;
    if (!(variance > 0.0)) return std::nullopt;
    affine.scale.push_back(parts[0][i] / std::sqrt(variance));
    affine.shift.push_back(parts[1][i] - parts[2][i] * affine.scale.back());
  }
  return affine;
}

}  // namespace

PassReport fold_batch_norm(Model& model, const PassOptions& options) {
  return run_pass(model, "fold_batch_norm", options, {.types = true}, [](GraphEditor& editor) {
    for (Node& node : editor.nodes()) {
      if (!is_op(node, "BatchNormalization") || !editor.fresh(&node)) continue;
      const auto affine = affine_of(editor, node);
      if (!affine) continue;
      const auto channels = static_cast<std::int64_t>(affine->scale.size());
      const std::string x = node.inputs[0];
      // Channels are axis 1, which is the last one of matrices only.
      const auto fits = [&](const LinearNode& linear) {
        return linear.channel_axis == 1 || editor.rank(x) == 2;
      };
      auto before = linear_node(editor, editor.writer(x));
      if (before && editor.has_one_reader(x) && before->outputs == channels && fits(*before) &&
          scale_outputs(editor, *before, *affine)) {
        if (editor.replace(node.outputs[0], x)) {
          editor.remove(&node);
          editor.count();
          continue;
        }
        // The name of an output moves to the node before.
        before->node->outputs[0] = node.outputs[0];
        editor.remove(&node);
        editor.count();
        continue;
      }
      const std::string y = node.outputs[0];
      if (!editor.has_one_reader(y)) continue;
      auto behind = linear_node(editor, editor.readers(y).front());
      if (!behind || input(*behind->node, 0) != y || behind->inputs != channels || !fits(*behind) ||
          !scale_inputs(editor, *behind, *affine)) {
        continue;
      }
      behind->node->inputs[0] = x;
      editor.remove(&node);
      editor.count();
    }
  });
}

}  // namespace moptcore::inline v0::graph

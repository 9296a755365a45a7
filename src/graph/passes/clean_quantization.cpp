// SPDX-License-Identifier: Apache-2.0
#include <moptcore/graph/passes/clean_quantization.hpp>

#include <cstring>

#include "graph/passes/editor.hpp"

namespace moptcore::inline v0::graph {
namespace {

bool same_constant(const GraphEditor& editor, const std::string& a, const std::string& b) {
  if (a == b) return !a.empty();
  const Tensor* left = editor.constant(a);
  const Tensor* right = editor.constant(b);
  return left != nullptr && right != nullptr && left->type() == right->type() &&
         left->shape() == right->shape() && left->type() != ElementType::string &&
         std::memcmp(left->raw(), right->raw(), static_cast<std::size_t>(left->bytes())) == 0;
}

}  // namespace

PassReport clean_quantization(Model& model, const PassOptions& options) {
  return run_pass(model, "clean_quantization", options, {.types = true}, [](GraphEditor& editor) {
    for (Node& node : editor.nodes()) {
      if (!is_op(node, "QuantizeLinear") || !editor.fresh(&node)) continue;
      Node* before = editor.writer(input(node, 0), "DequantizeLinear");
      if (before == nullptr || input(node, 2).empty() || input(*before, 2).empty()) continue;
      // (q - zero) * scale / scale + zero rounds back to q for integers of 8 bits in float32: the
      // two roundings move it by less than 2^-15.
      const ElementType type = editor.element(before->inputs[0]);
      if (type != ElementType::int8 && type != ElementType::uint8) continue;
      if (editor.element(input(node, 1)) != ElementType::float32) continue;
      if (editor.element(node.outputs[0]) != type) continue;
      if (!same_constant(editor, input(node, 1), input(*before, 1)) ||
          !same_constant(editor, input(node, 2), input(*before, 2))) {
        continue;
      }
      const auto scale = editor.constant(node.inputs[1]);
      if (scale == nullptr) continue;
      bool usable = true;
      for (const float value : scale->values<float>()) {
        usable = usable && value > 1e-30f && value < 1e30f;
      }
      const bool same_axis =
          node.get<std::int64_t>("axis", 1) == before->get<std::int64_t>("axis", 1) &&
          node.get<std::int64_t>("block_size", 0) == before->get<std::int64_t>("block_size", 0);
      if (!usable || !same_axis) continue;
      if (editor.replace(node.outputs[0], before->inputs[0])) {
        editor.remove(&node);
        editor.count();
      }
    }
  });
}

}  // namespace moptcore::inline v0::graph

// SPDX-License-Identifier: Apache-2.0
#include <moptcore/graph/passes/fuse_gemm.hpp>

#include "graph/passes/editor.hpp"

namespace moptcore::inline v0::graph {
namespace {

bool is_float(ElementType type) {
  return type == ElementType::float32 || type == ElementType::float64 ||
         type == ElementType::float16 || type == ElementType::bfloat16;
}

// True where `value` broadcasts to the matrix `dims` and not the other way round.
bool broadcasts_to(const GraphEditor& editor, const std::string& value,
                   const std::vector<Dimension>& dims) {
  const auto broadcasts = [&](const Dimension& own, std::size_t from_back) {
    const Dimension& out = dims[dims.size() - from_back];
    return own.value == 1 || (!own.is_unknown() && own == out);
  };
  if (const Tensor* tensor = editor.constant(value)) {
    if (tensor->rank() > 2) return false;
    for (int i = 0; i < tensor->rank(); ++i) {
      if (!broadcasts({tensor->shape()[i], {}, {}}, static_cast<std::size_t>(tensor->rank() - i))) {
        return false;
      }
    }
    return true;
  }
  const auto* own = editor.dims(value);
  if (own == nullptr || own->size() > 2) return false;
  for (std::size_t i = 0; i < own->size(); ++i) {
    if (!broadcasts((*own)[i], own->size() - i)) return false;
  }
  return true;
}

}  // namespace

PassReport fuse_gemm(Model& model, const PassOptions& options) {
  return run_pass(model, "fuse_gemm", options, {.types = true}, [](GraphEditor& editor) {
    if (editor.opset() < 11) return;  // Gemm without C
    for (Node& node : editor.nodes()) {
      if (!is_op(node, "Add") || node.inputs.size() != 2 || !editor.fresh(&node)) continue;
      for (const std::size_t side : {0, 1}) {
        const std::string product = node.inputs[side];
        const std::string bias = node.inputs[1 - side];
        Node* multiply = editor.writer(product, "MatMul");
        if (multiply == nullptr || !editor.has_one_reader(product) ||
            editor.rank(multiply->inputs[0]) != 2 || editor.rank(multiply->inputs[1]) != 2 ||
            !is_float(editor.element(multiply->inputs[0]))) {
          continue;
        }
        const auto* dims = editor.dims(product);
        if (dims == nullptr || !broadcasts_to(editor, bias, *dims)) continue;
        node.op_type = "Gemm";
        node.inputs = {multiply->inputs[0], multiply->inputs[1], bias};
        node.attributes.clear();
        editor.touch(&node);
        editor.remove(multiply);
        editor.count();
        break;
      }
    }
  });
}

}  // namespace moptcore::inline v0::graph

// SPDX-License-Identifier: Apache-2.0
#include "graph/passes/scaling.hpp"

#include <algorithm>
#include <cmath>

namespace moptcore::inline v0::graph {
namespace {

bool is_float(ElementType type) {
  return type == ElementType::float32 || type == ElementType::float64 ||
         type == ElementType::float16 || type == ElementType::bfloat16;
}

bool none_padded(const Node& node) {
  const std::string mode = node.get<std::string>("auto_pad", "NOTSET");
  if (mode != "NOTSET" && mode != "VALID" && !mode.empty()) return false;
  const auto pads = node.get<std::vector<std::int64_t>>("pads", {});
  return mode == "VALID" || std::ranges::all_of(pads, [](auto pad) { return pad == 0; });
}

bool all_below(const std::vector<double>& values, double largest) {
  return std::ranges::all_of(values, [&](double value) { return std::abs(value) <= largest; });
}

// The bias as doubles, one for each output channel; zeros where there is none.
std::optional<std::vector<double>> bias_of(const GraphEditor& editor, const LinearNode& linear,
                                           std::size_t index) {
  const std::string& name = input(*linear.node, index);
  if (name.empty()) return std::vector<double>(static_cast<std::size_t>(linear.outputs), 0.0);
  const Tensor* bias = editor.constant(name);
  if (bias == nullptr) return std::nullopt;
  // Gemm broadcasts (N), (1, N), (1) and scalars; a column is no bias of channels.
  return per_channel(*bias, 2, -1, linear.outputs);
}

void set_input(Node& node, std::size_t index, std::string name) {
  while (node.inputs.size() <= index) node.inputs.emplace_back();
  node.inputs[index] = std::move(name);
}

bool is_zero(const std::vector<double>& values) {
  return std::ranges::all_of(values, [](double value) { return value == 0.0; });
}

// Where the weights of output channel o and input channel i lie.
struct Layout {
  std::int64_t rows = 0;     // axis 0
  std::int64_t columns = 0;  // axis 1
  std::int64_t inner = 1;    // the rest
  std::int64_t groups = 1;
  enum class Kind { conv, transposed, matrix, matrix_transposed } kind = Kind::matrix;

  [[nodiscard]] std::int64_t output_of(std::int64_t row, std::int64_t column) const {
    switch (kind) {
      case Kind::conv: return row;
      case Kind::transposed: return row / (rows / groups) * columns + column;
      case Kind::matrix: return column;
      case Kind::matrix_transposed: return row;
    }
    return 0;
  }
  [[nodiscard]] std::int64_t input_of(std::int64_t row, std::int64_t column) const {
    switch (kind) {
      case Kind::conv: return row / (rows / groups) * columns + column;
      case Kind::transposed: return row;
      case Kind::matrix: return row;
      case Kind::matrix_transposed: return column;
    }
    return 0;
  }
};

Layout layout_of(const LinearNode& linear) {
  const Tensor& w = *linear.weights;
  Layout layout;
  layout.rows = w.shape()[0];
  layout.columns = w.shape()[1];
  for (int axis = 2; axis < w.rank(); ++axis) layout.inner *= w.shape()[axis];
  const Node& node = *linear.node;
  if (is_op(node, "Conv")) {
    layout.kind = Layout::Kind::conv;
    layout.groups = node.get<std::int64_t>("group", 1);
  } else if (is_op(node, "ConvTranspose")) {
    layout.kind = Layout::Kind::transposed;
    layout.groups = node.get<std::int64_t>("group", 1);
  } else if (is_op(node, "Gemm") && node.get<std::int64_t>("transB", 0) != 0) {
    layout.kind = Layout::Kind::matrix_transposed;
  }
  return layout;
}

template <class F>
void for_each_weight(const Layout& layout, std::vector<double>& weights, F&& f) {
  std::size_t at = 0;
  for (std::int64_t row = 0; row < layout.rows; ++row) {
    for (std::int64_t column = 0; column < layout.columns; ++column) {
      const std::int64_t out = layout.output_of(row, column);
      const std::int64_t in = layout.input_of(row, column);
      for (std::int64_t i = 0; i < layout.inner; ++i) f(weights[at++], out, in);
    }
  }
}

// alpha and beta go into weights and bias.
void plain_gemm(const Node& node, std::vector<double>& weights, std::vector<double>& bias) {
  const double alpha = node.get<float>("alpha", 1.0f);
  const double beta = node.get<float>("beta", 1.0f);
  for (double& weight : weights) weight *= alpha;
  for (double& element : bias) element *= beta;
}

bool finish(GraphEditor& editor, const LinearNode& linear, const std::vector<double>& weights,
            const std::vector<double>& bias) {
  const ElementType type = linear.weights->type();
  // What the type of the weights cannot hold stays outside of them.
  const double largest = type == ElementType::float16 ? 65504.0 : 3.0e38;
  if (!all_below(weights, largest) || !all_below(bias, largest)) return false;
  Node& node = *linear.node;
  std::erase_if(node.attributes, [](const Attribute& attribute) {
    return attribute.name == "alpha" || attribute.name == "beta";
  });
  const bool had_bias = !input(node, 2).empty();
  const Shape shape = linear.weights->shape();
  const std::string name = node.inputs[1];
  set_input(node, 1, editor.add_constant(name, make_floats(type, shape, weights)));
  if (had_bias || !is_zero(bias)) {
    const Shape row{static_cast<std::int64_t>(bias.size())};
    set_input(node, 2, editor.add_constant(name + "_bias", make_floats(type, row, bias)));
    if (is_op(node, "MatMul")) node.op_type = "Gemm";
  }
  editor.touch(&node);
  return true;
}

bool may_become_gemm(const GraphEditor& editor, const Node& node) {
  return editor.opset() >= 11 && editor.rank(node.inputs[0]) == 2;
}

}  // namespace

std::optional<LinearNode> linear_node(const GraphEditor& editor, Node* node) {
  if (node == nullptr || !editor.fresh(node) || !node->domain.empty()) return std::nullopt;
  const bool conv = node->op_type == "Conv";
  const bool transposed = node->op_type == "ConvTranspose";
  const bool gemm = node->op_type == "Gemm";
  if (!conv && !transposed && !gemm && node->op_type != "MatMul") return std::nullopt;
  if (editor.opset() < 7) return std::nullopt;
  LinearNode linear;
  linear.node = node;
  linear.weights = editor.constant(input(*node, 1));
  if (linear.weights == nullptr || !is_float(linear.weights->type())) return std::nullopt;
  const Shape& shape = linear.weights->shape();
  if (conv || transposed) {
    if (shape.rank() < 3) return std::nullopt;
    const auto group = node->get<std::int64_t>("group", 1);
    if (group <= 0 || group > (1 << 24) || shape[0] % group != 0 || shape[0] == 0 ||
        shape[1] > (std::int64_t{1} << 32)) {
      return std::nullopt;
    }
    linear.outputs = conv ? shape[0] : shape[1] * group;
    linear.inputs = conv ? shape[1] * group : shape[0];
    linear.channel_axis = 1;
    return linear;
  }
  if (shape.rank() != 2) return std::nullopt;
  const bool turned = gemm && node->get<std::int64_t>("transB", 0) != 0;
  linear.outputs = shape[turned ? 0 : 1];
  linear.inputs = shape[turned ? 1 : 0];
  linear.channel_axis = -1;
  return linear;
}

bool scale_outputs(GraphEditor& editor, const LinearNode& linear, const ChannelAffine& affine) {
  Node& node = *linear.node;
  const bool matrix = is_op(node, "MatMul");
  if (matrix && !is_zero(affine.shift) && !may_become_gemm(editor, node)) return false;
  auto bias = matrix ? std::vector<double>(static_cast<std::size_t>(linear.outputs), 0.0)
                     : bias_of(editor, linear, 2);
  auto weights = read_floats(*linear.weights);
  if (!bias || !weights) return false;
  if (is_op(node, "Gemm")) plain_gemm(node, *weights, *bias);
  for_each_weight(layout_of(linear), *weights, [&](double& weight, std::int64_t out, std::int64_t) {
    weight *= affine.scale[static_cast<std::size_t>(out)];
  });
  for (std::size_t i = 0; i < bias->size(); ++i) {
    (*bias)[i] = (*bias)[i] * affine.scale[i] + affine.shift[i];
  }
  return finish(editor, linear, *weights, *bias);
}

bool scale_inputs(GraphEditor& editor, const LinearNode& linear, const ChannelAffine& affine) {
  Node& node = *linear.node;
  const bool shifts = !is_zero(affine.shift);
  const bool matrix = is_op(node, "MatMul");
  if (is_op(node, "ConvTranspose") && shifts) return false;
  if (is_op(node, "Conv") && shifts && !none_padded(node)) return false;
  if (matrix && shifts && !may_become_gemm(editor, node)) return false;
  if (is_op(node, "Gemm") && node.get<std::int64_t>("transA", 0) != 0) return false;
  auto bias = matrix ? std::vector<double>(static_cast<std::size_t>(linear.outputs), 0.0)
                     : bias_of(editor, linear, 2);
  auto weights = read_floats(*linear.weights);
  if (!bias || !weights) return false;
  if (is_op(node, "Gemm")) plain_gemm(node, *weights, *bias);
  for_each_weight(layout_of(linear), *weights,
                  [&](double& weight, std::int64_t out, std::int64_t in) {
                    (*bias)[static_cast<std::size_t>(out)] +=
                        weight * affine.shift[static_cast<std::size_t>(in)];
                    weight *= affine.scale[static_cast<std::size_t>(in)];
                  });
  return finish(editor, linear, *weights, *bias);
}

std::optional<std::vector<double>> per_channel(const Tensor& tensor, int rank, int axis,
                                               std::int64_t channels) {
  const auto values = read_floats(tensor);
  if (!values || rank < 1 || tensor.rank() > rank || channels < 1) return std::nullopt;
  const int wanted = axis < 0 ? rank - 1 : axis;
  for (int i = 0; i < tensor.rank(); ++i) {
    const int place = rank - tensor.rank() + i;
    if (place != wanted && tensor.shape()[i] != 1) return std::nullopt;
  }
  if (tensor.size() == 1) {
    return std::vector<double>(static_cast<std::size_t>(channels), values->front());
  }
  if (tensor.size() != channels) return std::nullopt;
  return values;
}

}  // namespace moptcore::inline v0::graph

// SPDX-License-Identifier: Apache-2.0
#include <moptcore/graph/passes/fuse_activations.hpp>

#include "graph/passes/matching.hpp"

namespace moptcore::inline v0::graph {
namespace {

constexpr double kRootTwo = 1.4142135623730951;
constexpr double kTanhScale = 0.7978845608028654;  // sqrt(2 / pi)

bool is_cube(const GraphEditor& editor, const std::string& value, const std::string& x) {
  if (const auto power = with_number(editor, value, "Pow")) {
    return power->x == x && power->number == 3.0;
  }
  const Node* outer = editor.writer(value, "Mul");
  if (outer == nullptr) return false;
  const auto square = other_input(*outer, x);
  const Node* inner = square ? editor.writer(*square, "Mul") : nullptr;
  return inner != nullptr && inner->inputs[0] == x && inner->inputs[1] == x;
}

// The x of sqrt(2 / pi) * (x + 0.044715 * x^3).
std::optional<std::string> tanh_argument(const GraphEditor& editor, const std::string& value) {
  const auto outer = scaled(editor, value);
  if (!outer || !is_near(outer->number, kTanhScale)) return std::nullopt;
  const Node* sum = editor.writer(outer->x, "Add");
  if (sum == nullptr || sum->inputs.size() != 2) return std::nullopt;
  for (const std::size_t side : {0, 1}) {
    const std::string& x = sum->inputs[side];
    const auto term = scaled(editor, sum->inputs[1 - side]);
    if (term && is_near(term->number, 0.044715) && is_cube(editor, term->x, x)) return x;
  }
  return std::nullopt;
}

// `half`, 1 + erf or 1 + tanh, times x and 0.5 in any order: the node that ends the product.
Node* gelu_end(const GraphEditor& editor, const std::string& half, const std::string& x) {
  Node* first = only_reader(editor, half, "Mul");
  if (first == nullptr) return nullptr;
  const auto other = other_input(*first, half);
  if (!other) return nullptr;
  const auto halved = scaled(editor, *other);
  if (halved && halved->x == x && is_near(halved->number, 0.5)) return first;
  const std::string& product = first->outputs[0];
  if (*other == x) {
    for (const std::string_view op : {"Mul", "Div"}) {
      Node* end = only_reader(editor, product, op);
      if (end == nullptr) continue;
      const auto whole = scaled(editor, end->outputs[0]);
      if (whole && whole->x == product && is_near(whole->number, 0.5)) return end;
    }
    return nullptr;
  }
  const auto number = editor.number(*other);
  if (!number || !is_near(*number, 0.5)) return nullptr;
  Node* end = only_reader(editor, product, "Mul");
  return end != nullptr && other_input(*end, product) == x ? end : nullptr;
}

bool fuse_gelu(GraphEditor& editor, Node& node) {
  if (editor.opset() < 20) return false;
  const bool exact = is_op(node, "Erf");
  if (!exact && !is_op(node, "Tanh")) return false;
  std::optional<std::string> x;
  if (exact) {
    const auto argument = scaled(editor, node.inputs[0]);
    if (argument && is_near(argument->number, 1.0 / kRootTwo)) x = argument->x;
  } else {
    x = tanh_argument(editor, node.inputs[0]);
  }
  if (!x) return false;
  const Node* sum = only_reader(editor, node.outputs[0], "Add");
  if (sum == nullptr) return false;
  const auto one = with_number(editor, sum->outputs[0], "Add");
  if (!one || one->number != 1.0) return false;
  Node* end = gelu_end(editor, sum->outputs[0], *x);
  // Constants of one element that have more dimensions than x would add them.
  if (end == nullptr || editor.rank(*x) < 0 || editor.rank(end->outputs[0]) != editor.rank(*x)) {
    return false;
  }
  become(editor, *end, "Gelu", *x);
  if (!exact) end->set("approximate", std::string("tanh"));
  return true;
}

// Clip(x, low, high), of whatever opset.
std::optional<std::string> clipped(const GraphEditor& editor, const std::string& value, double low,
                                   double high) {
  const Node* node = editor.writer(value, "Clip");
  if (node == nullptr) return std::nullopt;
  if (editor.opset() >= 11) {
    if (editor.number(input(*node, 1)) != low || editor.number(input(*node, 2)) != high) {
      return std::nullopt;
    }
  } else if (node->get<float>("min", -3.4e38f) != static_cast<float>(low) ||
             node->get<float>("max", 3.4e38f) != static_cast<float>(high)) {
    return std::nullopt;
  }
  return node->inputs[0];
}

// The x of Clip(x + 3, 0, 6).
std::optional<std::string> six_ramp(const GraphEditor& editor, const std::string& value) {
  const auto inside = clipped(editor, value, 0.0, 6.0);
  if (!inside) return std::nullopt;
  const auto sum = with_number(editor, *inside, "Add");
  if (!sum || sum->number != 3.0) return std::nullopt;
  return sum->x;
}

bool same_rank(const GraphEditor& editor, const std::string& a, const std::string& b) {
  return editor.rank(a) >= 0 && editor.rank(a) == editor.rank(b);
}

bool fuse_hard(GraphEditor& editor, Node& node) {
  const std::string& y = node.outputs[0];
  if (const auto sixth = scaled(editor, y); sixth && is_near(sixth->number, 1.0 / 6.0)) {
    if (const auto x = six_ramp(editor, sixth->x); x && same_rank(editor, *x, y)) {
      become(editor, node, "HardSigmoid", *x);
      node.set("alpha", static_cast<float>(1.0 / 6.0));
      node.set("beta", 0.5f);
      return true;
    }
    // x * Clip(x + 3, 0, 6) / 6
    const Node* product = editor.writer(sixth->x, "Mul");
    if (product != nullptr && editor.opset() >= 14 && product->inputs.size() == 2) {
      for (const std::size_t side : {0, 1}) {
        const std::string x = product->inputs[side];
        if (six_ramp(editor, product->inputs[1 - side]) == x && same_rank(editor, x, y)) {
          become(editor, node, "HardSwish", x);
          return true;
        }
      }
    }
  }
  return false;
}

// x * f(x)
bool fuse_gated(GraphEditor& editor, Node& node) {
  if (!is_op(node, "Mul") || node.inputs.size() != 2) return false;
  for (const std::size_t side : {0, 1}) {
    const std::string x = node.inputs[side];
    const std::string& gate = node.inputs[1 - side];
    if (!editor.has_one_reader(gate)) continue;
    if (const Node* sigmoid = editor.writer(gate, "Sigmoid")) {
      if (sigmoid->inputs[0] == x && editor.opset() >= 24) {
        become(editor, node, "Swish", x);
        return true;
      }
    }
    if (const Node* hard = editor.writer(gate, "HardSigmoid")) {
      if (hard->inputs[0] == x && editor.opset() >= 14 &&
          is_near(hard->get<float>("alpha", 0.2f), 1.0 / 6.0) &&
          hard->get<float>("beta", 0.5f) == 0.5f) {
        become(editor, node, "HardSwish", x);
        return true;
      }
    }
    if (const Node* tanh = editor.writer(gate, "Tanh")) {
      const Node* soft = editor.writer(tanh->inputs[0], "Softplus");
      if (soft != nullptr && soft->inputs[0] == x && editor.opset() >= 18) {
        become(editor, node, "Mish", x);
        return true;
      }
    }
  }
  return false;
}

}  // namespace

PassReport fuse_activations(Model& model, const PassOptions& options) {
  return run_pass(model, "fuse_activations", options, {.types = true}, [](GraphEditor& editor) {
    for (Node& node : editor.nodes()) {
      if (!editor.fresh(&node) || !node.domain.empty() || node.outputs.empty() ||
          node.inputs.empty()) {
        continue;
      }
      if (fuse_gelu(editor, node)) continue;
      if (fuse_hard(editor, node)) continue;
      (void)fuse_gated(editor, node);
    }
  });
}

}  // namespace moptcore::inline v0::graph

// SPDX-License-Identifier: Apache-2.0
#include <moptcore/graph/passes/fuse_attention.hpp>

#include "graph/passes/matching.hpp"

namespace moptcore::inline v0::graph {
namespace {

bool same(const Dimension& a, const Dimension& b) { return !a.is_unknown() && a == b; }

// Takes scalar factors off a value; `factor` collects them.
std::string unscaled(const GraphEditor& editor, std::string value, double& factor) {
  for (int step = 0; step < 4; ++step) {
    const auto product = scaled(editor, value);
    if (!product || !editor.has_one_reader(value)) break;
    // A constant of more dimensions would add them.
    if (editor.rank(product->x) != editor.rank(value)) break;
    factor *= product->number;
    value = product->x;
  }
  return value;
}

// Keys whose last axes are turned: what they were, and the order of its axes.
struct Turned {
  std::string source;
  std::vector<std::int64_t> order;
};

// Matrices that are turned as one batch: Reshape to three axes, Transpose, and Reshape to four.
std::optional<Turned> turned_in_one_batch(const GraphEditor& editor, const Node& last) {
  const Node* transpose = editor.writer(input(last, 0), "Transpose");
  if (transpose == nullptr ||
      transpose->get<std::vector<std::int64_t>>("perm", {}) != std::vector<std::int64_t>{0, 2, 1}) {
    return std::nullopt;
  }
  const Node* first = editor.writer(input(*transpose, 0), "Reshape");
  if (first == nullptr) return std::nullopt;
  const auto* from = editor.dims(input(*first, 0));
  const auto* flat = editor.dims(input(*transpose, 0));
  const auto* to = last.outputs.empty() ? nullptr : editor.dims(last.outputs[0]);
  if (from == nullptr || flat == nullptr || to == nullptr || from->size() != 4 ||
      flat->size() != 3 || to->size() != 4) {
    return std::nullopt;
  }
  // The number of matrices is the same where their rows and columns are.
  const bool whole = same((*from)[2], (*flat)[1]) && same((*from)[3], (*flat)[2]) &&
                     same((*from)[0], (*to)[0]) && same((*from)[1], (*to)[1]) &&
                     same((*from)[2], (*to)[3]) && same((*from)[3], (*to)[2]);
  if (!whole) return std::nullopt;
  return Turned{first->inputs[0], {0, 1, 3, 2}};
}

std::optional<Turned> turned_keys(const GraphEditor& editor, const std::string& value) {
  if (const Node* last = editor.writer(value, "Reshape")) return turned_in_one_batch(editor, *last);
  const Node* transpose = editor.writer(value, "Transpose");
  if (transpose == nullptr) return std::nullopt;
  auto order = transpose->get<std::vector<std::int64_t>>("perm", {});
  if (order.size() != 4) return std::nullopt;
  return Turned{transpose->inputs[0], std::move(order)};
}

bool fuse(GraphEditor& editor, Node& end) {
  const Node* softmax = editor.writer(input(end, 0), "Softmax");
  if (softmax == nullptr || !editor.has_one_reader(end.inputs[0])) return false;
  const auto axis = softmax->get<std::int64_t>("axis", -1);
  if (axis != -1 && axis != 3) return false;
  std::string scores = softmax->inputs[0];
  if (!editor.has_one_reader(scores)) return false;
  double scale = 1.0;
  std::string mask;
  if (const Node* sum = editor.writer(scores, "Add")) {
    // The side that is a product of matrices, scaled or not, is the scores.
    for (const std::size_t side : {0, 1}) {
      double unused = 1.0;
      const std::string inner = unscaled(editor, sum->inputs[side], unused);
      if (editor.writer(inner, "MatMul") == nullptr || !editor.has_one_reader(sum->inputs[side])) {
        continue;
      }
      mask = sum->inputs[1 - side];
      const auto* own = editor.dims(mask);
      const auto* whole = editor.dims(scores);
      const auto* part = editor.dims(sum->inputs[side]);
      if (own == nullptr || whole == nullptr || part == nullptr || whole->size() != 4 ||
          part->size() != 4 || own->size() < 2 || own->size() > 4 ||
          !same(own->back(), whole->back())) {
        return false;
      }
      for (std::size_t i = 0; i < 4; ++i) {
        if (!same((*whole)[i], (*part)[i])) return false;
      }
      scores = sum->inputs[side];
      break;
    }
    if (mask.empty()) return false;
  }
  scores = unscaled(editor, scores, scale);
  const Node* product = editor.writer(scores, "MatMul");
  if (product == nullptr || !editor.has_one_reader(scores)) return false;
  const std::string q = unscaled(editor, product->inputs[0], scale);
  auto keys = turned_keys(editor, unscaled(editor, product->inputs[1], scale));
  if (!keys) return false;
  std::vector<std::int64_t>& order = keys->order;
  std::swap(order[2], order[3]);
  const std::string v = input(end, 1);
  const auto* q_dims = editor.dims(q);
  const auto* source = editor.dims(keys->source);
  const auto* v_dims = editor.dims(v);
  if (q_dims == nullptr || source == nullptr || v_dims == nullptr || q_dims->size() != 4 ||
      source->size() != 4 || v_dims->size() != 4 || editor.element(q) != ElementType::float32) {
    return false;
  }
  std::vector<Dimension> k_dims;
  for (const std::int64_t from : order) {
    if (from < 0 || from > 3) return false;
    k_dims.push_back((*source)[static_cast<std::size_t>(from)]);
  }
  for (const std::size_t i : {0, 1}) {
    if (!same((*q_dims)[i], k_dims[i]) || !same(k_dims[i], (*v_dims)[i])) return false;
  }
  // There are as many keys as values, whatever their symbols are: the product takes no others.
  if (!(*q_dims)[1].is_known()) return false;
  std::string k = keys->source;
  if (order != std::vector<std::int64_t>{0, 1, 2, 3}) {
    Node again;
    again.op_type = "Transpose";
    again.set("perm", std::vector<std::int64_t>(order));
    again.inputs = {k};
    k = editor.make_name(k);
    again.outputs = {k};
    editor.insert_before(&end, std::move(again));
  }
  end.op_type = "Attention";
  end.attributes.clear();
  end.inputs = {q, k, v};
  if (!mask.empty()) end.inputs.push_back(mask);
  end.set("scale", static_cast<float>(scale));
  editor.touch(&end);
  editor.count();
  return true;
}

}  // namespace

PassReport fuse_attention(Model& model, const PassOptions& options) {
  return run_pass(model, "fuse_attention", options, {.types = true}, [](GraphEditor& editor) {
    if (editor.opset() < 23) return;
    for (Node& node : editor.nodes()) {
      if (is_op(node, "MatMul") && editor.fresh(&node)) (void)fuse(editor, node);
    }
  });
}

}  // namespace moptcore::inline v0::graph

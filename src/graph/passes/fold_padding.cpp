// SPDX-License-Identifier: Apache-2.0
#include <moptcore/graph/passes/fold_padding.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "graph/passes/editor.hpp"

namespace moptcore::inline v0::graph {
namespace {

struct Padding {
  std::vector<std::int64_t> begins;  // for each axis
  std::vector<std::int64_t> ends;
  double value = 0.0;
};

std::optional<Padding> padding_of(const GraphEditor& editor, const Node& node, int rank) {
  if (node.get<std::string>("mode", "constant") != "constant") return std::nullopt;
  Padding padding;
  std::vector<std::int64_t> pads;
  std::vector<std::int64_t> axes(static_cast<std::size_t>(rank));
  std::iota(axes.begin(), axes.end(), 0);
  if (editor.opset() >= 11) {
    const auto given = editor.integers(input(node, 1));
    if (!given) return std::nullopt;
    pads = *given;
    if (!input(node, 2).empty()) {
      const auto value = editor.number(node.inputs[2]);
      if (!value) return std::nullopt;
      padding.value = *value;
    }
    if (!input(node, 3).empty()) {
      const auto chosen = editor.integers(node.inputs[3]);
      if (!chosen) return std::nullopt;
      axes = *chosen;
    }
  } else {
    pads = node.get<std::vector<std::int64_t>>("pads", {});
    padding.value = node.get<float>("value", 0.0f);
  }
  if (pads.size() != 2 * axes.size()) return std::nullopt;
  padding.begins.assign(static_cast<std::size_t>(rank), 0);
  padding.ends = padding.begins;
  for (std::size_t i = 0; i < axes.size(); ++i) {
    const std::int64_t axis = axes[i] < 0 ? axes[i] + rank : axes[i];
    if (axis < 0 || axis >= rank) return std::nullopt;
    padding.begins[static_cast<std::size_t>(axis)] = pads[i];
    padding.ends[static_cast<std::size_t>(axis)] = pads[i + axes.size()];
  }
  return padding;
}

bool fold(GraphEditor& editor, Node& node, Node& pad) {
  const auto* dims = editor.dims(pad.inputs[0]);
  if (dims == nullptr || dims->size() < 3) return false;
  const auto padding = padding_of(editor, pad, static_cast<int>(dims->size()));
  if (!padding) return false;
  const std::size_t spatial = dims->size() - 2;
  for (std::size_t i = 0; i < dims->size(); ++i) {
    const std::int64_t begin = padding->begins[i];
    const std::int64_t end = padding->ends[i];
    if (begin < 0 || end < 0 || begin > (1 << 20) || end > (1 << 20)) return false;
    if (i < 2 && begin + end != 0) return false;
  }
  const std::string mode = node.get<std::string>("auto_pad", "NOTSET");
  if (mode != "NOTSET" && mode != "VALID" && !mode.empty()) return false;
  auto pads = node.get<std::vector<std::int64_t>>("pads", {});
  if (mode == "VALID" || pads.empty()) pads.assign(2 * spatial, 0);
  if (pads.size() != 2 * spatial) return false;
  const bool none = std::ranges::all_of(pads, [](auto value) { return value == 0; });
  if (is_op(node, "AveragePool")) {
    const bool counts = node.get<std::int64_t>("count_include_pad", 0) != 0;
    // Windows that reach beyond the padding count what is there only, padded before or not.
    if (padding->value != 0.0 || (!none && !counts) || editor.opset() < 7 ||
        node.get<std::int64_t>("ceil_mode", 0) != 0) {
      return false;
    }
  } else if (is_op(node, "MaxPool")) {
    if (!(std::isinf(padding->value) && padding->value < 0) || node.outputs.size() > 1 ||
        node.get<std::int64_t>("ceil_mode", 0) != 0) {
      return false;
    }
    // A window over padding alone is -inf in one and refused or undefined in the other.
    const auto kernel = node.get<std::vector<std::int64_t>>("kernel_shape", {});
    for (std::size_t i = 0; i < spatial; ++i) {
      if (i >= kernel.size() || pads[i] + padding->begins[2 + i] >= kernel[i] ||
          pads[i + spatial] + padding->ends[2 + i] >= kernel[i]) {
        return false;
      }
    }
  } else if (padding->value != 0.0) {
    return false;
  }
  if (is_op(node, "AveragePool")) node.set("count_include_pad", std::int64_t{1});
  for (std::size_t i = 0; i < spatial; ++i) {
    pads[i] += padding->begins[2 + i];
    pads[i + spatial] += padding->ends[2 + i];
  }
  std::erase_if(node.attributes,
                [](const Attribute& attribute) { return attribute.name == "auto_pad"; });
  node.set("pads", pads);
  node.inputs[0] = pad.inputs[0];
  editor.touch(&node);
  editor.count();
  return true;
}

}  // namespace

PassReport fold_padding(Model& model, const PassOptions& options) {
  return run_pass(model, "fold_padding", options, {.types = true}, [](GraphEditor& editor) {
    for (Node& node : editor.nodes()) {
      if (!is_op(node, "Conv") && !is_op(node, "AveragePool") && !is_op(node, "MaxPool")) continue;
      if (!editor.fresh(&node)) continue;
      Node* pad = editor.writer(input(node, 0), "Pad");
      if (pad == nullptr || !fold(editor, node, *pad)) continue;
      if (editor.has_one_reader(pad->outputs[0])) editor.remove(pad);
    }
  });
}

}  // namespace moptcore::inline v0::graph

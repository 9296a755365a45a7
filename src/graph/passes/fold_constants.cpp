// SPDX-License-Identifier: Apache-2.0
#include <moptcore/graph/passes/fold_constants.hpp>

#include <algorithm>
#include <set>

#include <moptcore/graph/operator.hpp>

#include "graph/passes/editor.hpp"
#include "graph/scope.hpp"

namespace moptcore::inline v0::graph {
namespace {

constexpr auto kWhere = "graph.fold_constants";

// What is left of the budgets: an operator that would pass them is left as it is.
class FoldEnvironment final : public Environment {
 public:
  FoldEnvironment(std::int64_t bytes, std::int64_t steps) : bytes_(bytes), steps_(steps) {}

  Tensor allocate(ElementType type, const Shape& shape) override {
    const std::int64_t count = element_count(shape);
    const std::int64_t width =
        std::max<std::int64_t>(byte_count(type, 1), 32 * (bit_width(type) == 0));
    check(count <= bytes_ / width, kWhere, "the budget of bytes must last, shape", shape);
    bytes_ -= count * width;
    return {type, shape};
  }
  std::vector<Value> run(const Graph&, std::span<const Value>) override {
    throw UnsupportedError("[graph.fold_constants] subgraphs are not folded");
  }
  std::uint64_t next_seed() override {
    throw UnsupportedError("[graph.fold_constants] random numbers are not folded");
  }
  void spend(std::int64_t steps) override {
    check(steps <= steps_, kWhere, "the budget of steps must last, steps", steps);
    steps_ -= steps;
  }

  [[nodiscard]] std::int64_t bytes() const noexcept { return bytes_; }
  [[nodiscard]] std::int64_t steps() const noexcept { return steps_; }

 private:
  std::int64_t bytes_;
  std::int64_t steps_;
};

// Operators whose work is in proportion to what they read and write; others are folded only where
// even every pair of elements is little work.
bool is_light(const Node& node) {
  static const std::set<std::string_view> kNames = {"Add",
                                                    "And",
                                                    "BitShift",
                                                    "BitwiseAnd",
                                                    "BitwiseNot",
                                                    "BitwiseOr",
                                                    "BitwiseXor",
                                                    "CastLike",
                                                    "Concat",
                                                    "ConstantOfShape",
                                                    "Div",
                                                    "Equal",
                                                    "Expand",
                                                    "EyeLike",
                                                    "Flatten",
                                                    "Gather",
                                                    "GatherElements",
                                                    "GatherND",
                                                    "Greater",
                                                    "GreaterOrEqual",
                                                    "Less",
                                                    "LessOrEqual",
                                                    "Max",
                                                    "Mean",
                                                    "Min",
                                                    "Mod",
                                                    "Mul",
                                                    "NonZero",
                                                    "OneHot",
                                                    "Or",
                                                    "Pad",
                                                    "Pow",
                                                    "QuantizeLinear",
                                                    "Range",
                                                    "ReduceMax",
                                                    "ReduceMean",
                                                    "ReduceMin",
                                                    "ReduceProd",
                                                    "ReduceSum",
                                                    "Reshape",
                                                    "ScatterElements",
                                                    "ScatterND",
                                                    "Shape",
                                                    "Size",
                                                    "Slice",
                                                    "Softmax",
                                                    "Split",
                                                    "Squeeze",
                                                    "Sub",
                                                    "Sum",
                                                    "Tile",
                                                    "Transpose",
                                                    "Trilu",
                                                    "Unsqueeze",
                                                    "Where",
                                                    "Xor"};
  return node.domain.empty() && (kNames.contains(node.op_type) || is_elementwise_unary(node));
}

class Folder {
 public:
  Folder(const Model& model, const PassOptions& options)
      : max_bytes_(fold_limit(model, options)),
        bytes_(max_bytes_),
        steps_(options.max_fold_steps) {}

  [[nodiscard]] std::int64_t used() const noexcept { return max_bytes_ - bytes_; }

  void edit(GraphEditor& editor) {
    for (Node& node : editor.nodes()) {
      if (is_op(node, "If")) inline_branch(editor, node);
      else fold(editor, node);
    }
  }

 private:
  bool fold(GraphEditor& editor, Node& node) {
    if (!editor.fresh(&node) || refused_.contains(label(node))) return false;
    if (is_op(node, "DequantizeLinear") || node.outputs.empty()) return false;
    if (is_op(node, "Shape") || is_op(node, "Size")) {
      if (const auto value = shape_of(editor, node)) {
        return finish(editor, node, std::vector<Value>{*value});
      }
    }
    const std::int64_t version = editor.opset(node.domain);
    const Operator* op = find_operator(node.domain, node.op_type, version);
    bool has_bodies = false;
    for_each_subgraph(node, [&](const Graph&) { has_bodies = true; });
    if (op == nullptr || !op->deterministic || has_bodies) return false;
    std::vector<Value> values;
    double read = 1;
    bool partial = false;
    for (const std::string& name : node.inputs) {
      values.emplace_back();
      if (name.empty()) continue;
      const Tensor* tensor = editor.constant(editor.resolve(name));
      if (tensor == nullptr && values.size() == 1) {
        // A part of a shape may be known where the whole is not.
        if (const auto shape = partly_known(editor, node)) {
          values.back() = *shape;
          partial = true;
          continue;
        }
      }
      if (tensor == nullptr) return false;
      values.back() = *tensor;
      read += static_cast<double>(tensor->size());
    }
    for (const std::string& name : node.outputs) {
      // The output of a model must be one of its values: initializers are.
      if (editor.is_output(name)) return false;
    }
    double written = 1;
    const auto* dims = editor.dims(node.outputs.front());
    if (dims != nullptr) {
      for (const Dimension& dimension : *dims) {
        written *= dimension.is_known() ? static_cast<double>(dimension.value) : 1.0;
      }
    }
    const double work = is_light(node) ? read + written : read * std::max(written, read);
    if (work > static_cast<double>(steps_)) return refuse(node);
    std::vector<const Value*> given;
    for (std::size_t i = 0; i < values.size(); ++i) {
      given.push_back(node.inputs[i].empty() ? nullptr : &values[i]);
    }
    std::vector<Value> results(node.outputs.size());
    FoldEnvironment environment(bytes_, steps_ - static_cast<std::int64_t>(work));
    try {
      Call call(node, version, given, results, environment);
      op->evaluate(call);
    } catch (const std::exception&) {
      return refuse(node);  // beyond the budget, or wrong: whoever runs it gets the error
    }
    for (std::size_t i = 0; i < results.size(); ++i) {
      if (!node.outputs[i].empty() && !results[i].is_tensor()) return refuse(node);
    }
    if (partial) {
      const auto part = results.front().tensor().values<std::int64_t>();
      if (std::ranges::any_of(part, [](std::int64_t extent) { return extent < 0; })) return false;
    }
    bytes_ = environment.bytes();
    steps_ = environment.steps();
    return finish(editor, node, results);
  }

  // Named by what no pass renames while this one runs.
  static std::string label(const Node& node) {
    return node.outputs.empty() ? node.name : node.outputs.front();
  }

  bool refuse(const Node& node) {
    refused_.insert(label(node));
    return false;
  }

  static bool finish(GraphEditor& editor, Node& node, const std::vector<Value>& results) {
    for (const std::string& name : node.outputs) {
      if (!name.empty() && editor.is_output(name)) return false;
    }
    for (std::size_t i = 0; i < results.size(); ++i) {
      if (node.outputs[i].empty()) continue;
      const std::string made = editor.add_constant(node.outputs[i], results[i].tensor());
      (void)editor.replace(node.outputs[i], made);
    }
    editor.remove(&node);
    editor.count();
    return true;
  }

  // The shape that Slice or Gather takes extents of, -1 for those that are unknown.
  static std::optional<Value> partly_known(const GraphEditor& editor, const Node& node) {
    if (!is_op(node, "Slice") && !is_op(node, "Gather")) return std::nullopt;
    const Node* shape = editor.writer(input(node, 0), "Shape");
    if (shape == nullptr) return std::nullopt;
    const auto extents = extents_of(editor, *shape);
    if (!extents) return std::nullopt;
    return Tensor::of<std::int64_t>(Shape{static_cast<std::int64_t>(extents->size())},
                                    std::span<const std::int64_t>(*extents));
  }

  static std::optional<Value> shape_of(const GraphEditor& editor, const Node& node) {
    const auto extents = extents_of(editor, node);
    if (!extents || std::ranges::any_of(*extents, [](auto extent) { return extent < 0; })) {
      return std::nullopt;
    }
    if (node.op_type == "Size") {
      return Tensor::scalar<std::int64_t>(
          element_count(Shape(std::span<const std::int64_t>(*extents))));
    }
    return Tensor::of<std::int64_t>(Shape{static_cast<std::int64_t>(extents->size())},
                                    std::span<const std::int64_t>(*extents));
  }

  // What Shape gives, or Size multiplies; -1 for what is unknown.
  static std::optional<std::vector<std::int64_t>> extents_of(const GraphEditor& editor,
                                                             const Node& node) {
    const auto* dims = editor.dims(editor.resolve(input(node, 0)));
    if (dims == nullptr) return std::nullopt;
    std::vector<std::int64_t> extents;
    for (const Dimension& dimension : *dims) extents.push_back(dimension.value);
    const auto rank = static_cast<std::int64_t>(extents.size());
    std::int64_t first = 0;
    std::int64_t last = rank;
    if (node.op_type == "Shape") {
      const auto clamp = [&](std::int64_t position) {
        return std::clamp<std::int64_t>(position < 0 ? position + rank : position, 0, rank);
      };
      first = clamp(node.get<std::int64_t>("start", 0));
      last = std::max(first, clamp(node.get<std::int64_t>("end", rank)));
    }
    return std::vector<std::int64_t>{extents.begin() + first, extents.begin() + last};
  }

  static void inline_branch(GraphEditor& editor, Node& node) {
    const Tensor* condition = editor.constant(editor.resolve(input(node, 0)));
    if (condition == nullptr || condition->type() != ElementType::boolean ||
        condition->size() != 1 || !editor.fresh(&node)) {
      return;
    }
    Attribute* chosen = nullptr;
    for (Attribute& attribute : node.attributes) {
      const bool taken = condition->values<bool>()[0];
      if (attribute.name == (taken ? "then_branch" : "else_branch")) chosen = &attribute;
    }
    Subgraph* body = chosen == nullptr ? nullptr : std::get_if<Subgraph>(&chosen->value);
    if (body == nullptr || (*body)->outputs.size() != node.outputs.size()) return;
    Graph& branch = **body;
    if (!branch.inputs.empty()) return;
    // The names of the branch are known from here on, while its nodes wait to be inserted.
    (void)editor.make_name(node.op_type);
    for (auto& [name, tensor] : branch.initializers) {
      editor.graph().initializers.emplace(name, tensor);
    }
    for (auto& [name, note] : branch.notes) editor.graph().notes.emplace(name, note);
    for (std::size_t i = 0; i < node.outputs.size(); ++i) {
      if (node.outputs[i].empty()) continue;
      // A node carries the name over; remove_identities takes it away again.
      Node carrier;
      carrier.op_type = "Identity";
      carrier.inputs = {branch.outputs[i].name};
      carrier.outputs = {node.outputs[i]};
      branch.nodes.push_back(std::move(carrier));
    }
    for (Node& inner : branch.nodes) editor.insert_before(&node, std::move(inner));
    branch.nodes.clear();
    editor.remove(&node);
    editor.count();
  }

  std::int64_t max_bytes_;
  std::int64_t bytes_;
  std::int64_t steps_;
  std::set<std::string> refused_;
};

}  // namespace

PassReport fold_constants(Model& model, const PassOptions& options) {
  check(options.max_fold_bytes >= 0, kWhere, "max_fold_bytes must be >= 0", options.max_fold_bytes);
  check(options.max_fold_steps >= 0, kWhere, "max_fold_steps must be >= 0", options.max_fold_steps);
  Folder folder(model, options);
  PassReport report = run_pass(model, "fold_constants", options, {.types = true},
                               [&](GraphEditor& editor) { folder.edit(editor); });
  report.bytes = folder.used();
  return report;
}

}  // namespace moptcore::inline v0::graph

// SPDX-License-Identifier: Apache-2.0
// The operators of ONNX whose attributes became inputs, or whose defaults or meaning changed.
#include <moptcore/graph/upgrade.hpp>

#include <algorithm>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include <moptcore/graph/onnx.hpp>

#include "graph/scope.hpp"

namespace moptcore::inline v0::graph {
namespace onnx {
namespace {

constexpr auto kWhere = "graph.upgrade";

using Integers = std::vector<std::int64_t>;

[[noreturn]] void refuse(const Node& node, std::string_view why) {
  throw UnsupportedError("[graph.upgrade] " + node.op_type + " '" + node.name + "' " +
                         std::string(why));
}

void collect_names(const Graph& graph, std::unordered_set<std::string>& names);

void collect_names(const std::vector<Node>& nodes, std::unordered_set<std::string>& names) {
  for (const Node& node : nodes) {
    names.insert(node.inputs.begin(), node.inputs.end());
    names.insert(node.outputs.begin(), node.outputs.end());
    for_each_subgraph(node, [&](const Graph& body) { collect_names(body, names); });
  }
}

void collect_names(const Graph& graph, std::unordered_set<std::string>& names) {
  for (const ValueInfo& info : graph.inputs) names.insert(info.name);
  for (const ValueInfo& info : graph.outputs) names.insert(info.name);
  for (const auto& [name, tensor] : graph.initializers) names.insert(name);
  collect_names(graph.nodes, names);
}

// What is known of values: of their types where the model says them, of weights all.
struct Known {
  std::unordered_map<std::string, const ValueType*> types;
  std::unordered_map<std::string, const Tensor*> tensors;
  std::unordered_set<std::string> read;  // by a node, or as an output
  bool only_single = true;               // no weight or input is float16, bfloat16 or float64

  void see(ElementType type) {
    only_single = only_single && type != ElementType::float16 && type != ElementType::float64 &&
                  type != ElementType::bfloat16;
  }
  void add(const std::vector<ValueInfo>& infos) {
    for (const ValueInfo& info : infos) {
      types[info.name] = &info.type;
      see(info.type.element);
    }
  }
  void add(const Graph& graph) {
    add(graph.inputs);
    add(graph.outputs);
    add(graph.values);
    for (const auto& [name, tensor] : graph.initializers) {
      tensors[name] = &tensor;
      see(tensor.type());
    }
    for (const ValueInfo& info : graph.outputs) read.insert(info.name);
    for (const Node& node : graph.nodes) {
      read.insert(node.inputs.begin(), node.inputs.end());
      for_each_subgraph(node, [&](const Graph& body) { add(body); });
    }
  }
  // Names in functions are their own: what they read is known, their types are not.
  void add_reads(const std::vector<Node>& nodes) {
    for (const Node& node : nodes) {
      read.insert(node.inputs.begin(), node.inputs.end());
      for_each_subgraph(node, [&](const Graph& body) {
        for (const ValueInfo& info : body.outputs) read.insert(info.name);
        add_reads(body.nodes);
      });
    }
  }

  [[nodiscard]] ElementType element(const std::string& name) const {
    if (const auto tensor = tensors.find(name); tensor != tensors.end()) {
      return tensor->second->type();
    }
    const auto type = types.find(name);
    return type == types.end() ? ElementType::undefined : type->second->element;
  }
  [[nodiscard]] int rank(const std::string& name) const {
    if (const auto tensor = tensors.find(name); tensor != tensors.end()) {
      return tensor->second->rank();
    }
    const auto type = types.find(name);
    const bool known = type != types.end() && type->second->dimensions.has_value();
    return known ? static_cast<int>(type->second->dimensions->size()) : -1;
  }
};

void erase(Node& node, std::string_view attribute) {
  std::erase_if(node.attributes, [&](const Attribute& a) { return a.name == attribute; });
}

// Puts input `index`, leaving out those between.
void set_input(Node& node, std::size_t index, std::string name) {
  if (node.inputs.size() <= index) node.inputs.resize(index + 1);
  node.inputs[index] = std::move(name);
}

class Upgrader {
 public:
  Upgrader(std::int64_t to, std::unordered_set<std::string> names, const Known& known)
      : to_(to), names_(std::move(names)), known_(known) {}

  // Nodes of opset `from`.
  void run(std::vector<Node>& nodes, std::int64_t from) {
    from_ = from;
    std::vector<Node> around = std::exchange(done_, {});
    std::vector<Node> old = std::exchange(nodes, {});
    for (Node& node : old) {
      for_each_subgraph(node, [&](Graph& body) { run(body.nodes, from); });
      if (node.domain.empty()) step(std::move(node));
      else done_.push_back(std::move(node));
    }
    nodes = std::exchange(done_, std::move(around));
  }

 private:
  // True where the change of version `version` lies on the way.
  [[nodiscard]] bool passes(std::int64_t version) const noexcept {
    return from_ < version && version <= to_;
  }

  std::string fresh(const Node& node) {
    const std::string base = (node.outputs.empty() ? node.op_type : node.outputs[0]) + "_opset_";
    for (;;) {
      std::string name = base + std::to_string(counter_++);
      if (names_.insert(name).second) return name;
    }
  }

  std::string constant(const Node& node, Tensor tensor) {
    Node made;
    made.op_type = "Constant";
    made.outputs = {fresh(node)};
    made.set("value", std::move(tensor));
    done_.push_back(std::move(made));
    return done_.back().outputs[0];
  }
  std::string integers(const Node& node, const Integers& values) {
    return constant(node, Tensor::of<std::int64_t>(Shape{std::ssize(values)},
                                                   std::span<const std::int64_t>(values)));
  }

  // A number of the type of the first input.
  std::string scalar_like_input(const Node& node, float value) {
    ElementType type = known_.element(node.inputs.at(0));
    if (type == ElementType::undefined) {
      if (!known_.only_single) refuse(node, "must have an input of known type");
      type = ElementType::float32;
    }
    switch (type) {
      case ElementType::float32: return constant(node, Tensor::scalar(value));
      case ElementType::float64: return constant(node, Tensor::scalar<double>(value));
      case ElementType::float16: return constant(node, Tensor::scalar(float16(value)));
      default: refuse(node, "must have an input of float16, float32 or float64");
    }
  }

  void attribute_to_input(Node& node, std::string_view attribute, std::size_t index) {
    if (node.find(attribute) == nullptr) return;
    const auto values = node.get<Integers>(attribute, {});
    erase(node, attribute);
    // Without axes an operator reduces or squeezes all; an empty list is left out for the same.
    if (!values.empty()) set_input(node, index, integers(node, values));
  }

  void step(Node node);
  void softmax(Node node);
  void resize(Node& node);

  std::int64_t to_;
  std::int64_t from_ = 0;
  std::unordered_set<std::string> names_;
  const Known& known_;
  std::vector<Node> done_;
  std::int64_t counter_ = 0;
};

bool is_one_of(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::ranges::find(names, name) != names.end();
}

// Before version 13 the axes from `axis` on were one.
void Upgrader::softmax(Node node) {
  const auto axis = node.get<std::int64_t>("axis", 1);
  const int rank = known_.rank(node.inputs.at(0));
  if (axis == -1 || (rank > 0 && axis == rank - 1)) {
    node.set("axis", std::int64_t{-1});
    done_.push_back(std::move(node));
    return;
  }
  const std::string flat = fresh(node);
  const std::string soft = fresh(node);
  const std::string shape = fresh(node);
  const auto add = [&](std::string op, std::vector<std::string> inputs, std::string output) {
    Node made;
    made.op_type = std::move(op);
    made.inputs = std::move(inputs);
    made.outputs = {std::move(output)};
    return made;
  };
  Node flatten = add("Flatten", {node.inputs[0]}, flat);
  flatten.set("axis", axis);
  done_.push_back(std::move(flatten));
  done_.push_back(add("Shape", {node.inputs[0]}, shape));
  const std::string output = node.outputs.at(0);
  node.set("axis", std::int64_t{-1});
  node.inputs = {flat};
  node.outputs = {soft};
  done_.push_back(std::move(node));
  Node reshape = add("Reshape", {soft, shape}, output);
  if (to_ >= 14) reshape.set("allowzero", std::int64_t{1});
  done_.push_back(std::move(reshape));
}

void Upgrader::resize(Node& node) {
  if (node.op_type == "Upsample" && passes(10)) {
    if (from_ < 9) {
      const auto scales = node.get<std::vector<float>>("scales", {});
      erase(node, "scales");
      node.inputs.resize(1);
      node.inputs.push_back(constant(
          node, Tensor::of<float>(Shape{std::ssize(scales)}, std::span<const float>(scales))));
    }
    node.op_type = "Resize";
  }
  if (node.op_type != "Resize") return;
  if (passes(11)) {
    if (node.inputs.size() < 2) refuse(node, "must have scales");
    node.inputs = {node.inputs[0], "", node.inputs[1]};
    node.set("coordinate_transformation_mode", std::string("asymmetric"));
    node.set("nearest_mode", std::string("floor"));
  }
  if (passes(13)) {
    const std::string mode = node.get<std::string>("coordinate_transformation_mode", "half_pixel");
    if (mode == "tf_half_pixel_for_nn") refuse(node, "must have another mode of coordinates");
    // What is not wanted had to be an empty tensor before it could be left out.
    for (std::size_t i = 1; i < std::min<std::size_t>(node.inputs.size(), 3); ++i) {
      const auto weight = known_.tensors.find(node.inputs[i]);
      if (weight != known_.tensors.end() && weight->second->size() == 0) node.inputs[i].clear();
    }
  }
}

void Upgrader::step(Node node) {
  const std::string& op = node.op_type;
  if (op == "BatchNormalization") {
    if (passes(9)) {
      if (node.get<std::int64_t>("spatial", 1) != 1) refuse(node, "must be spatial");
      erase(node, "spatial");
    }
    if (passes(14)) {
      for (std::size_t i = 1; i < node.outputs.size(); ++i) {
        if (!node.outputs[i].empty()) refuse(node, "must have one output, as in inference");
      }
      node.outputs.resize(1);
    }
  } else if (op == "Upsample" || op == "Resize") {
    resize(node);
  } else if (op == "Slice" && passes(10)) {
    const auto starts = node.get<Integers>("starts", {});
    const auto ends = node.get<Integers>("ends", {});
    node.inputs.resize(1);
    node.inputs.push_back(integers(node, starts));
    node.inputs.push_back(integers(node, ends));
    if (node.find("axes") != nullptr) {
      node.inputs.push_back(integers(node, node.get<Integers>("axes", {})));
    }
    for (const auto* name : {"starts", "ends", "axes"}) erase(node, name);
  } else if (op == "TopK" && passes(10)) {
    const Integers k = {node.get<std::int64_t>("k", 0)};
    erase(node, "k");
    set_input(node, 1, integers(node, k));
  } else if (op == "Dropout" && passes(12)) {
    const bool has_mask = node.outputs.size() > 1 && !node.outputs[1].empty();
    if (from_ < 10 && has_mask) {
      if (known_.read.contains(node.outputs[1])) {
        refuse(node, "must have no mask, which was not bool");
      }
      node.outputs.resize(1);
    }
    if (node.find("ratio") != nullptr) {
      const float ratio = node.get<float>("ratio", 0.5f);
      erase(node, "ratio");
      set_input(node, 1, constant(node, Tensor::scalar(ratio)));
    }
  } else if (op == "Clip" && passes(11)) {
    std::size_t index = 1;
    for (const auto* name : {"min", "max"}) {
      if (node.find(name) != nullptr) {
        const float value = node.get<float>(name, 0);
        erase(node, name);
        set_input(node, index, scalar_like_input(node, value));
      }
      ++index;
    }
  } else if (op == "Pad" && passes(11)) {
    const auto pads = node.get<Integers>("pads", {});
    const float value = node.get<float>("value", 0);
    erase(node, "pads");
    erase(node, "value");
    set_input(node, 1, integers(node, pads));
    if (value != 0) set_input(node, 2, scalar_like_input(node, value));
  } else if (op == "Scatter" && passes(11)) {
    node.op_type = "ScatterElements";
  } else if (is_one_of(op, {"Softmax", "LogSoftmax", "Hardmax"}) && passes(13)) {
    return softmax(std::move(node));
  } else if (op == "Split") {
    if (passes(13)) attribute_to_input(node, "split", 1);
    const bool sized = node.inputs.size() > 1 && !node.inputs[1].empty();
    if (passes(18) && !sized) node.set("num_outputs", std::ssize(node.outputs));
  } else if (is_one_of(op, {"Squeeze", "Unsqueeze", "ReduceSum"}) && passes(13)) {
    attribute_to_input(node, "axes", 1);
  } else if (is_one_of(op, {"ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax",
                            "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSumSquare"}) &&
             passes(18)) {
    attribute_to_input(node, "axes", 1);
  } else if (op == "RoiAlign" && passes(16)) {
    node.set("coordinate_transformation_mode", std::string("output_half_pixel"));
  } else if (op == "GridSample" && passes(20)) {
    const auto mode = node.get<std::string>("mode", "bilinear");
    if (mode == "bilinear") node.set("mode", std::string("linear"));
    if (mode == "bicubic") node.set("mode", std::string("cubic"));
  } else if (op == "DFT" && passes(20)) {
    const auto axis = node.get<std::int64_t>("axis", 1);
    erase(node, "axis");
    set_input(node, 2, constant(node, Tensor::scalar(axis)));
  } else if (op == "GroupNormalization" && passes(21)) {
    refuse(node, "must have a scale for each channel, as from opset 21 on");
  } else if (op == "Scan" && passes(9)) {
    refuse(node, "must have no batch, as from opset 9 on");
  }
  done_.push_back(std::move(node));
}

// The oldest version of the format in which an opset may be written.
std::int64_t ir_of_opset(std::int64_t opset) {
  constexpr std::pair<std::int64_t, std::int64_t> kSince[] = {
      {9, 4},   {10, 5},  {11, 6},  {12, 7},  {15, 8}, {19, 9},
      {21, 10}, {23, 11}, {24, 12}, {25, 13}, {28, 14}};
  std::int64_t ir = 3;
  for (const auto& [first, version] : kSince) {
    if (opset >= first) ir = version;
  }
  return ir;
}

}  // namespace
}  // namespace onnx

void upgrade(Model& model, std::int64_t opset) {
  check<UnsupportedError>(opset >= kOldestWrittenOpset && opset <= kNewestOpset, onnx::kWhere,
                          "opset must be in [13, 28]", opset);
  const auto own = model.opsets.find("");
  const std::int64_t from = own == model.opsets.end() ? opset : own->second;
  check<UnsupportedError>(from <= opset, onnx::kWhere,
                          "opset must not be below the model's, " + std::to_string(from), opset);
  Model changed = model;
  std::unordered_set<std::string> names;
  onnx::collect_names(model.graph, names);
  onnx::Known known;
  known.add(model.graph);
  for (const Function& function : model.functions) {
    onnx::collect_names(function.nodes, names);
    known.read.insert(function.outputs.begin(), function.outputs.end());
    known.add_reads(function.nodes);
  }
  onnx::Upgrader upgrader(opset, std::move(names), known);
  if (from < opset) upgrader.run(changed.graph.nodes, from);
  for (Function& function : changed.functions) {
    const auto version = function.opsets.find("");
    if (version == function.opsets.end() || version->second >= opset) continue;
    upgrader.run(function.nodes, version->second);
    version->second = opset;
  }
  if (own != model.opsets.end()) changed.opsets[""] = opset;
  changed.ir_version = std::max(model.ir_version, onnx::ir_of_opset(opset));
  model = std::move(changed);
}

}  // namespace moptcore::inline v0::graph

// SPDX-License-Identifier: Apache-2.0
#include <moptcore/graph/evaluate.hpp>

#include <algorithm>
#include <set>
#include <unordered_map>
#include <utility>

#include <moptcore/graph/operator.hpp>

#include "graph/naming.hpp"
#include "graph/scope.hpp"

namespace moptcore::inline v0::graph {
namespace {

constexpr auto kWhere = "graph.evaluate";

void collect_missing(const std::vector<Node>& nodes,
                     const std::map<std::string, std::int64_t>& opsets,
                     const std::set<std::tuple<std::string, std::string, std::string>>& functions,
                     std::set<std::string>& missing) {
  for (const Node& node : nodes) {
    if (!functions.contains({node.domain, node.op_type, node.overload})) {
      const auto opset = opsets.find(node.domain);
      const std::int64_t version = opset == opsets.end() ? 0 : opset->second;
      if (find_operator(node.domain, node.op_type, version) == nullptr) {
        std::string text = node.domain.empty() ? node.op_type : node.domain + "." + node.op_type;
        const bool later = find_operator(node.domain, node.op_type, INT64_MAX) != nullptr;
        if (later) text += " (opset " + std::to_string(version) + ")";
        missing.insert(std::move(text));
      }
    }
    for_each_subgraph(
        node, [&](const Graph& body) { collect_missing(body.nodes, opsets, functions, missing); });
  }
}

// One node, its values as indices into a frame.
struct Step {
  const Node* node = nullptr;
  const Operator* op = nullptr;
  std::int64_t version = 0;
  std::vector<int> inputs;  // -1: left out
  std::vector<int> outputs;
  std::vector<int> last_uses;  // values that no later step reads
};

// A graph whose names have become indices.
struct Compiled {
  const Graph* graph = nullptr;
  std::vector<Step> steps;
  std::vector<std::string> names;  // of the frame's values
  std::unordered_map<std::string, int> index;
  std::vector<int> inputs;
  std::vector<int> outputs;
  std::vector<std::pair<int, const Tensor*>> initializers;
  std::vector<std::pair<int, int>> captures;  // own index, index in the frame around

  int slot(const std::string& name) {
    const auto [found, added] = index.emplace(name, static_cast<int>(names.size()));
    if (added) names.push_back(name);
    return found->second;
  }
};

using Bodies = std::unordered_map<const Graph*, Compiled>;

void compile(const Graph& graph, const std::map<std::string, std::int64_t>& opsets,
             Compiled* around, Bodies& bodies) {
  Compiled& self = bodies[&graph];  // references into an unordered_map stay valid
  self.graph = &graph;
  for (const ValueInfo& input : graph.inputs) self.inputs.push_back(self.slot(input.name));
  for (const auto& [name, tensor] : graph.initializers) {
    self.initializers.emplace_back(self.slot(name), &tensor);
  }
  if (around != nullptr) {
    for (const std::string& name : names_captured(graph)) {
      self.captures.emplace_back(self.slot(name), around->slot(name));
    }
  }
  for (const Node& node : graph.nodes) {
    Step step;
    step.node = &node;
    step.version = opsets.at(node.domain);
    step.op = find_operator(node.domain, node.op_type, step.version);
    for (const std::string& name : node.inputs) {
      step.inputs.push_back(name.empty() ? -1 : self.slot(name));
    }
    for_each_subgraph(node, [&](const Graph& body) { compile(body, opsets, &self, bodies); });
    for (const std::string& name : node.outputs) {
      step.outputs.push_back(name.empty() ? -1 : self.slot(name));
    }
    self.steps.push_back(std::move(step));
  }
  for (const ValueInfo& output : graph.outputs) self.outputs.push_back(self.slot(output.name));

  std::vector<bool> read(self.names.size(), false);
  for (const int output : self.outputs) read[output] = true;
  for (auto step = self.steps.rbegin(); step != self.steps.rend(); ++step) {
    const auto use = [&](int slot) {
      if (slot < 0 || read[slot]) return;
      read[slot] = true;
      step->last_uses.push_back(slot);
    };
    for (const int slot : step->inputs) use(slot);
    for (const int slot : step->outputs) use(slot);
    for_each_subgraph(*step->node, [&](const Graph& body) {
      for (const auto& [own, outer] : bodies.at(&body).captures) use(outer);
    });
  }
}

// Runs compiled graphs; the frames of nested subgraphs form a stack.
class Runner final : public Environment {
 public:
  Runner(const Bodies& bodies, const EvaluateOptions& options)
      : bodies_(bodies), options_(options), seed_(options.seed) {}

  Tensor allocate(ElementType type, const Shape& shape) override {
    const std::int64_t count = element_count(shape);
    const std::int64_t width =
        std::max<std::int64_t>(byte_count(type, 1), 32 * (bit_width(type) == 0));
    check(count <= options_.max_bytes / width, kWhere,
          "a tensor must have at most " + std::to_string(options_.max_bytes) +
              " bytes (max_bytes), shape",
          shape);
    return {type, shape};
  }

  std::vector<Value> run(const Graph& body, std::span<const Value> inputs) override {
    const Compiled& compiled = bodies_.at(&body);
    const std::vector<Value>* around = frame_;
    check<FormatError>(inputs.size() == compiled.inputs.size(), kWhere,
                       "a subgraph must have as many inputs as its node gives it", inputs.size());
    std::vector<Value> frame(compiled.names.size());
    for (const auto& [own, outer] : compiled.captures) frame[own] = (*around)[outer];
    for (std::size_t i = 0; i < inputs.size(); ++i) frame[compiled.inputs[i]] = inputs[i];
    run_steps(compiled, frame, {}, false);
    std::vector<Value> outputs;
    outputs.reserve(compiled.outputs.size());
    for (const int slot : compiled.outputs) outputs.push_back(frame[slot]);
    return outputs;
  }

  std::uint64_t next_seed() override { return seed_++; }

  void spend(std::int64_t steps) override {
    check(steps <= options_.max_steps - spent_, kWhere,
          "loops must take at most " + std::to_string(options_.max_steps) + " steps (max_steps)");
    spent_ += steps;
  }

  // `kept` are values that must outlive their last use.
  void run_steps(const Compiled& compiled, std::vector<Value>& frame, const std::set<int>& kept,
                 bool observed) {
    for (const auto& [slot, tensor] : compiled.initializers) {
      if (!frame[slot].has_value()) frame[slot] = *tensor;
    }
    std::vector<const Value*> inputs;
    std::vector<Value> outputs;
    for (const Step& step : compiled.steps) {
      inputs.clear();
      for (const int slot : step.inputs) inputs.push_back(slot < 0 ? nullptr : &frame[slot]);
      outputs.assign(step.outputs.size(), Value());
      Call call(*step.node, step.version, inputs, outputs, *this);
      const std::vector<Value>* around = std::exchange(frame_, &frame);
      with_name(*step.node, compiled.steps.size() == 1, [&] { step.op->evaluate(call); });
      frame_ = around;
      for (std::size_t i = 0; i < outputs.size(); ++i) {
        if (step.outputs[i] < 0) continue;
        frame[step.outputs[i]] = std::move(outputs[i]);
        if (observed && options_.observe) {
          options_.observe(*step.node, step.node->outputs[i], frame[step.outputs[i]]);
        }
      }
      for (const int slot : step.last_uses) {
        if (!kept.contains(slot)) frame[slot] = Value();
      }
    }
  }

 private:
  const Bodies& bodies_;
  const EvaluateOptions& options_;
  std::uint64_t seed_;
  std::int64_t spent_ = 0;
  const std::vector<Value>* frame_ = nullptr;
};

void check_input(const ValueInfo& info, const Value& value) {
  if (info.type.kind != ValueType::Kind::tensor || !value.is_tensor()) return;
  const Tensor& tensor = value.tensor();
  if (info.type.element != ElementType::undefined) {
    check<DTypeError>(tensor.type() == info.type.element, kWhere,
                      "input '" + info.name + "' must be " + std::string(name(info.type.element)),
                      name(tensor.type()));
  }
  if (!info.type.dimensions) return;
  const auto& dimensions = *info.type.dimensions;
  bool fits = static_cast<int>(dimensions.size()) == tensor.rank();
  for (int axis = 0; fits && axis < tensor.rank(); ++axis) {
    fits = !dimensions[axis].is_known() || dimensions[axis].value == tensor.shape()[axis];
  }
  check(fits, kWhere, "input '" + info.name + "' must have the shape of the model", tensor.shape());
}

}  // namespace

struct Evaluator::Program {
  Model model;
  Bodies bodies;
};

std::vector<std::string> missing_operators(const Model& model) {
  std::set<std::tuple<std::string, std::string, std::string>> functions;
  for (const Function& function : model.functions) {
    functions.emplace(function.domain, function.name, function.overload);
  }
  std::set<std::string> missing;
  collect_missing(model.graph.nodes, model.opsets, functions, missing);
  for (const Function& function : model.functions) {
    collect_missing(function.nodes, function.opsets, functions, missing);
  }
  return {missing.begin(), missing.end()};
}

Evaluator::Evaluator(Model model) : program_(std::make_unique<Program>()) {
  if (const auto missing = missing_operators(model); !missing.empty()) {
    std::string list;
    for (const std::string& name : missing) list += (list.empty() ? "" : ", ") + name;
    throw UnsupportedError("[graph.evaluate] operators must be ones that moptcore has, it lacks " +
                           list);
  }
  inline_functions(model);
  sort_nodes(model.graph);
  program_->model = std::move(model);
  compile(program_->model.graph, program_->model.opsets, nullptr, program_->bodies);
}

Evaluator::Evaluator(Evaluator&&) noexcept = default;
Evaluator& Evaluator::operator=(Evaluator&&) noexcept = default;
Evaluator::~Evaluator() = default;

const Model& Evaluator::model() const noexcept { return program_->model; }

Values Evaluator::run(const Values& inputs, std::span<const std::string> wanted,
                      const EvaluateOptions& options) const {
  const Graph& graph = program_->model.graph;
  const Compiled& compiled = program_->bodies.at(&graph);
  std::vector<Value> frame(compiled.names.size());
  for (const auto& [name, value] : inputs) {
    const auto found = std::ranges::find(graph.inputs, name, &ValueInfo::name);
    check(found != graph.inputs.end(), kWhere, "inputs must be ones that the model has", name);
    check_input(*found, value);
    frame[compiled.index.at(name)] = value;
  }
  for (const ValueInfo& input : graph.inputs) {
    check(inputs.contains(input.name) || graph.initializers.contains(input.name) ||
              input.type.kind == ValueType::Kind::optional,
          kWhere, "every input must be given, what is missing is", input.name);
  }
  std::vector<std::string> names(wanted.begin(), wanted.end());
  if (names.empty()) {
    for (const ValueInfo& output : graph.outputs) names.push_back(output.name);
  }
  std::set<int> kept;
  for (const std::string& name : names) {
    const auto found = compiled.index.find(name);
    check(found != compiled.index.end(), kWhere, "wanted values must be ones of the model", name);
    kept.insert(found->second);
  }
  Runner runner(program_->bodies, options);
  runner.run_steps(compiled, frame, kept, true);
  Values results;
  for (const std::string& name : names) results[name] = frame[compiled.index.at(name)];
  return results;
}

Values evaluate(const Model& model, const Values& inputs, const EvaluateOptions& options) {
  return Evaluator(model).run(inputs, {}, options);
}

}  // namespace moptcore::inline v0::graph

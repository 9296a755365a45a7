// SPDX-License-Identifier: Apache-2.0
#include "graph/passes/editor.hpp"

#include <algorithm>
#include <set>

#include <moptcore/graph/infer.hpp>

#include "graph/scope.hpp"

namespace moptcore::inline v0::graph {
namespace {

void rename_reads(Graph& graph, const std::unordered_map<std::string, std::string>& names);

void rename_reads(Node& node, const std::unordered_map<std::string, std::string>& names) {
  for (std::string& name : node.inputs) {
    if (const auto found = names.find(name); found != names.end()) name = found->second;
  }
  for_each_subgraph(node, [&](Graph& body) { rename_reads(body, names); });
}

void rename_reads(Graph& graph, const std::unordered_map<std::string, std::string>& names) {
  for (Node& node : graph.nodes) rename_reads(node, names);
  for (ValueInfo& output : graph.outputs) {
    if (const auto found = names.find(output.name); found != names.end()) {
      output.name = found->second;
    }
  }
}

void count_captures(const Node& node, std::unordered_map<std::string, int>& uses) {
  for_each_subgraph(node, [&](const Graph& body) {
    // Twice: what a subgraph reads is never "read by one node only".
    for (const std::string& name : names_captured(body)) uses[name] += 2;
  });
}

void define(Graph& graph, const std::function<void(std::string&)>& f) {
  for (ValueInfo& info : graph.inputs) f(info.name);
  for (Node& node : graph.nodes) {
    for (std::string& name : node.outputs) {
      if (!name.empty()) f(name);
    }
  }
}

void make_names_unique(Graph& graph, std::unordered_set<std::string>& taken) {
  std::unordered_map<std::string, std::string> renamed;
  const auto rename = [&](std::string& name) {
    if (taken.insert(name).second) return;
    std::string made;
    std::int64_t number = 0;
    do made = name + "_inner" + std::to_string(number++);
    while (taken.contains(made));
    taken.insert(made);
    renamed[name] = made;
    name = made;
  };
  // An initializer may also be an input: one name for both.
  std::vector<std::string> constants;
  for (const auto& [name, tensor] : graph.initializers) constants.push_back(name);
  define(graph, rename);
  for (const std::string& name : constants) {
    std::string now = name;
    const bool is_input =
        renamed.contains(name) ||
        std::ranges::find(graph.inputs, name, &ValueInfo::name) != graph.inputs.end();
    if (renamed.contains(name)) now = renamed[name];
    else if (!is_input) rename(now);
    if (now != name) {
      auto entry = graph.initializers.extract(name);
      entry.key() = now;
      graph.initializers.insert(std::move(entry));
      if (auto note = graph.notes.extract(name); !note.empty()) {
        note.key() = now;
        graph.notes.insert(std::move(note));
      }
    }
  }
  if (!renamed.empty()) {
    for (Node& node : graph.nodes) rename_reads(node, renamed);
    for (auto* list : {&graph.outputs, &graph.values}) {
      for (ValueInfo& info : *list) {
        if (const auto found = renamed.find(info.name); found != renamed.end()) {
          info.name = found->second;
        }
      }
    }
  }
  for (Node& node : graph.nodes) {
    for_each_subgraph(node, [&](Graph& body) { make_names_unique(body, taken); });
  }
}

// Types of values that are no more.
void forget_types(Graph& graph) {
  std::unordered_set<std::string> present;
  define(graph, [&](std::string& name) { present.insert(name); });
  for (const auto& [name, tensor] : graph.initializers) present.insert(name);
  std::erase_if(graph.values, [&](const ValueInfo& info) { return !present.contains(info.name); });
  for (Node& node : graph.nodes) {
    for_each_subgraph(node, [](Graph& body) { forget_types(body); });
  }
}

std::int64_t initializer_bytes(const Graph& graph) {
  std::int64_t total = 0;
  for (const auto& [name, tensor] : graph.initializers) total += tensor.bytes();
  for (const Node& node : graph.nodes) {
    for (const Attribute& attribute : node.attributes) {
      if (const auto* tensor = std::get_if<Tensor>(&attribute.value)) total += tensor->bytes();
    }
    for_each_subgraph(node, [&](const Graph& body) { total += initializer_bytes(body); });
  }
  return total;
}

const std::vector<Node*> kNobody;

}  // namespace

void make_names_unique(Graph& graph) {
  std::unordered_set<std::string> taken;
  make_names_unique(graph, taken);
}

std::int64_t fold_limit(const Model& model, const PassOptions& options) {
  const std::int64_t ratio = options.max_fold_ratio;
  check(ratio >= 0, "graph.fold_constants", "max_fold_ratio must be >= 0", ratio);
  if (ratio == 0) return options.max_fold_bytes;
  constexpr std::int64_t kMost = std::int64_t{1} << 61;
  const std::int64_t own = std::min(initializer_bytes(model.graph), kMost / ratio);
  return std::min(options.max_fold_bytes, ratio * own + (std::int64_t{1} << 20));
}

void NamePool::collect(const Graph& graph) {
  for (const ValueInfo& info : graph.inputs) names_.insert(info.name);
  for (const ValueInfo& info : graph.outputs) names_.insert(info.name);
  for (const auto& [name, tensor] : graph.initializers) names_.insert(name);
  for (const Node& node : graph.nodes) {
    names_.insert(node.outputs.begin(), node.outputs.end());
    for_each_subgraph(node, [&](const Graph& body) { collect(body); });
  }
}

std::string NamePool::make(std::string_view base) {
  if (!collected_) collect(graph_);
  collected_ = true;
  std::int64_t& next = next_[std::string(base)];
  std::string name;
  do name = std::string(base) + "_" + std::to_string(next++);
  while (!names_.insert(name).second);
  return name;
}

GraphEditor::GraphEditor(Graph& graph, const GraphEditor* outer, NamePool& names,
                         const std::map<std::string, std::int64_t>& opsets)
    : graph_(graph), outer_(outer), names_(names), opsets_(opsets) {
  for (const ValueInfo& info : graph.inputs) {
    inputs_.insert(info.name);
    types_.emplace(info.name, &info.type);
  }
  for (const ValueInfo& info : graph.outputs) {
    outputs_.insert(info.name);
    ++uses_[info.name];
    types_.emplace(info.name, &info.type);
  }
  for (const ValueInfo& info : graph.values) types_.emplace(info.name, &info.type);
  for (Node& node : graph.nodes) {
    for (const std::string& name : node.outputs) {
      if (!name.empty()) writers_.emplace(name, &node);
    }
    for (const std::string& name : node.inputs) {
      if (name.empty()) continue;
      ++uses_[name];
      std::vector<Node*>& readers = readers_[name];
      if (readers.empty() || readers.back() != &node) readers.push_back(&node);
    }
    count_captures(node, uses_);
  }
}

std::int64_t GraphEditor::opset(const std::string& domain) const {
  const auto found = opsets_.find(domain);
  return found == opsets_.end() ? 0 : found->second;
}

Node* GraphEditor::writer(const std::string& value) const {
  const auto found = writers_.find(value);
  return found == writers_.end() || removed_.contains(found->second) ? nullptr : found->second;
}

Node* GraphEditor::writer(const std::string& value, std::string_view op) const {
  Node* node = writer(value);
  return node != nullptr && is_op(*node, op) && fresh(node) ? node : nullptr;
}

int GraphEditor::uses(const std::string& value) const {
  const auto found = uses_.find(value);
  return found == uses_.end() ? 0 : found->second;
}

bool GraphEditor::is_output(const std::string& value) const { return outputs_.contains(value); }

const std::vector<Node*>& GraphEditor::readers(const std::string& value) const {
  const auto found = readers_.find(value);
  return found == readers_.end() ? kNobody : found->second;
}

const Tensor* GraphEditor::constant(const std::string& value) const {
  for (const GraphEditor* editor = this; editor != nullptr; editor = editor->outer_) {
    const auto found = editor->graph_.initializers.find(value);
    if (found != editor->graph_.initializers.end()) {
      return editor->inputs_.contains(value) ? nullptr : &found->second;
    }
    if (editor->inputs_.contains(value) || editor->writers_.contains(value)) return nullptr;
  }
  return nullptr;
}

std::optional<double> GraphEditor::number(const std::string& value) const {
  const Tensor* tensor = constant(value);
  if (tensor == nullptr || tensor->size() != 1) return std::nullopt;
  if (tensor->type() == ElementType::int64) {
    return static_cast<double>(tensor->values<std::int64_t>()[0]);
  }
  const auto floats = read_floats(*tensor);
  return floats ? std::optional(floats->front()) : std::nullopt;
}

std::optional<std::vector<std::int64_t>> GraphEditor::integers(const std::string& value) const {
  const Tensor* tensor = constant(value);
  if (tensor == nullptr) return std::nullopt;
  if (tensor->type() == ElementType::int64) {
    const auto values = tensor->values<std::int64_t>();
    return std::vector<std::int64_t>(values.begin(), values.end());
  }
  if (tensor->type() == ElementType::int32) {
    const auto values = tensor->values<std::int32_t>();
    return std::vector<std::int64_t>(values.begin(), values.end());
  }
  return std::nullopt;
}

const ValueType* GraphEditor::type(const std::string& value) const {
  for (const GraphEditor* editor = this; editor != nullptr; editor = editor->outer_) {
    const auto found = editor->types_.find(value);
    if (found != editor->types_.end()) return found->second;
  }
  return nullptr;
}

const std::vector<Dimension>* GraphEditor::dims(const std::string& value) const {
  const ValueType* found = type(value);
  if (found == nullptr || found->kind != ValueType::Kind::tensor || !found->dimensions) {
    return nullptr;
  }
  return &*found->dimensions;
}

int GraphEditor::rank(const std::string& value) const {
  if (const Tensor* tensor = constant(value)) return tensor->rank();
  const auto* found = dims(value);
  return found == nullptr ? -1 : static_cast<int>(found->size());
}

ElementType GraphEditor::element(const std::string& value) const {
  if (const Tensor* tensor = constant(value)) return tensor->type();
  const ValueType* found = type(value);
  return found == nullptr || found->kind != ValueType::Kind::tensor ? ElementType::undefined
                                                                    : found->element;
}

std::string GraphEditor::add_constant(std::string_view base, Tensor tensor) {
  std::string name = make_name(base);
  graph_.initializers.emplace(name, std::move(tensor));
  return name;
}

void GraphEditor::insert_before(const Node* place, Node node) {
  inserted_[place].push_back(std::move(node));
}

void GraphEditor::insert_after(const Node* place, Node node) {
  appended_[place].push_back(std::move(node));
}

void GraphEditor::remove(const Node* node) {
  removed_.insert(node);
  touched_.insert(node);
}

const std::string& GraphEditor::resolve(const std::string& value) const {
  const std::string* name = &value;
  for (auto found = replaced_.find(*name); found != replaced_.end();
       found = replaced_.find(*name)) {
    name = &found->second;
  }
  return *name;
}

bool GraphEditor::replace(const std::string& value, const std::string& by) {
  const std::string target = resolve(by);
  if (target == value || replaced_.contains(value)) return false;
  if (!is_output(value)) {
    replaced_[value] = target;
    fixed_.insert(target);
    return true;
  }
  // The writer of the other value takes the name of the output over.
  Node* other = writer(target);
  if (other == nullptr || is_output(target) || fixed_.contains(target) || !fresh(other)) {
    return false;
  }
  for (std::string& name : other->outputs) {
    if (name == target) name = value;
  }
  writers_[value] = other;
  touch(other);
  for (Node* reader : readers(target)) touch(reader);
  replaced_[target] = value;
  fixed_.insert(value);
  return true;
}

void GraphEditor::flush() {
  if (!removed_.empty() || !inserted_.empty() || !appended_.empty()) {
    std::vector<Node> result;
    result.reserve(graph_.nodes.size());
    for (Node& node : graph_.nodes) {
      if (const auto found = inserted_.find(&node); found != inserted_.end()) {
        for (Node& added : found->second) result.push_back(std::move(added));
      }
      const auto behind = appended_.find(&node);
      if (!removed_.contains(&node)) result.push_back(std::move(node));
      if (behind != appended_.end()) {
        for (Node& added : behind->second) result.push_back(std::move(added));
      }
    }
    graph_.nodes = std::move(result);
  }
  if (!replaced_.empty()) {
    std::unordered_map<std::string, std::string> names;
    for (const auto& [value, by] : replaced_) names.emplace(value, resolve(by));
    for (Node& node : graph_.nodes) rename_reads(node, names);
  }
}

PassReport run_pass(Model& model, std::string_view name, const PassOptions& options,
                    PassNeeds needs, const std::function<void(GraphEditor&)>& edit) {
  check(options.max_rounds > 0, "graph." + std::string(name), "max_rounds must be > 0",
        options.max_rounds);
  PassReport report;
  report.pass = name;
  if (!options.types_are_current) {
    make_names_unique(model.graph);
    sort_nodes(model.graph);
  }
  NamePool names(model.graph);
  while (report.rounds < options.max_rounds) {
    ++report.rounds;
    if (needs.types && !(options.types_are_current && report.rounds == 1)) infer_types(model);
    std::int64_t changes = 0;
    const std::function<void(Graph&, const GraphEditor*)> visit = [&](Graph& graph,
                                                                      const GraphEditor* outer) {
      GraphEditor editor(graph, outer, names, model.opsets);
      edit(editor);
      editor.flush();
      changes += editor.changes();
      // Bodies see the graph around them as it is now.
      std::optional<GraphEditor> now;
      for (Node& node : graph.nodes) {
        for_each_subgraph(node, [&](Graph& body) {
          if (!now) now.emplace(graph, outer, names, model.opsets);
          visit(body, &*now);
        });
      }
    };
    visit(model.graph, nullptr);
    report.changes += changes;
    if (changes == 0) break;
    sort_nodes(model.graph);
  }
  if (report.changes > 0) forget_types(model.graph);
  return report;
}

std::optional<std::vector<double>> read_floats(const Tensor& tensor) {
  std::vector<double> result(static_cast<std::size_t>(tensor.size()));
  const auto copy = [&]<class T>(std::span<const T> values) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      result[i] = static_cast<double>(static_cast<float>(values[i]));
    }
  };
  switch (tensor.type()) {
    case ElementType::float64:
      std::ranges::copy(tensor.values<double>(), result.begin());
      return result;
    case ElementType::float32: copy(tensor.values<float>()); return result;
    case ElementType::float16: copy(tensor.values<float16>()); return result;
    case ElementType::bfloat16: copy(tensor.values<bfloat16>()); return result;
    default: return std::nullopt;
  }
}

Tensor make_floats(ElementType type, const Shape& shape, const std::vector<double>& values) {
  Tensor result(type, shape);
  const auto copy = [&]<class T>(T* out) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      if constexpr (std::is_same_v<T, double>) out[i] = values[i];
      else out[i] = static_cast<T>(static_cast<float>(values[i]));
    }
  };
  switch (type) {
    case ElementType::float64: copy(result.mutable_data<double>()); break;
    case ElementType::float16: copy(result.mutable_data<float16>()); break;
    case ElementType::bfloat16: copy(result.mutable_data<bfloat16>()); break;
    default: copy(result.mutable_data<float>()); break;
  }
  return result;
}

bool is_elementwise_unary(const Node& node) {
  static const std::set<std::string_view> kNames = {
      "Abs",       "Acos",     "Acosh", "Asin",     "Asinh",
      "Atan",      "Atanh",    "Cast",  "Ceil",     "Celu",
      "Clip",      "Cos",      "Cosh",  "Dropout",  "Elu",
      "Erf",       "Exp",      "Floor", "Gelu",     "HardSigmoid",
      "HardSwish", "Identity", "IsInf", "IsNaN",    "LeakyRelu",
      "Log",       "Mish",     "Neg",   "Not",      "Reciprocal",
      "Relu",      "Round",    "Selu",  "Shrink",   "Sigmoid",
      "Sign",      "Sin",      "Sinh",  "Softplus", "Softsign",
      "Sqrt",      "Swish",    "Tan",   "Tanh",     "ThresholdedRelu"};
  return node.domain.empty() && kNames.contains(node.op_type);
}

}  // namespace moptcore::inline v0::graph

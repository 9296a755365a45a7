// SPDX-License-Identifier: Apache-2.0
#include <moptcore/graph/infer.hpp>

#include <algorithm>
#include <unordered_map>

#include <moptcore/graph/operator.hpp>

#include "graph/inference/rule.hpp"
#include "graph/scope.hpp"

namespace moptcore::inline v0::graph {
namespace {

constexpr auto kWhere = "graph.infer_types";
constexpr int kMaxDepth = 64;
// A value with more elements than this is not computed ahead.
constexpr std::int64_t kMaxElements = static_cast<std::int64_t>(kMaxContent);

// Runs operators on constants of a few elements.
class SmallEnvironment final : public Environment {
 public:
  Tensor allocate(ElementType type, const Shape& shape) override {
    check(element_count(shape) <= kMaxElements, kWhere, "a constant must be small", shape);
    return {type, shape};
  }
  std::vector<Value> run(const Graph&, std::span<const Value>) override {
    throw UnsupportedError("[graph.infer_types] subgraphs are not run ahead");
  }
  std::uint64_t next_seed() override {
    throw UnsupportedError("[graph.infer_types] random numbers are not drawn ahead");
  }
  void spend(std::int64_t steps) override {
    check(steps <= 10'000 - spent_, kWhere, "a constant must take few steps");
    spent_ += steps;
  }

 private:
  std::int64_t spent_ = 0;
};

// Some exporters write "?" for whatever they do not know, so that it is no name of one extent.
bool is_named(const Dimension& dimension) {
  return !dimension.symbol.empty() && dimension.symbol != "?";
}

struct Scope {
  std::unordered_map<std::string, Fact> facts;
  const Scope* outer = nullptr;

  [[nodiscard]] const Fact* find(const std::string& name) const {
    for (const Scope* scope = this; scope != nullptr; scope = scope->outer) {
      const auto found = scope->facts.find(name);
      if (found != scope->facts.end()) return &found->second;
    }
    return nullptr;
  }
};

class Driver final : public BodyInference {
 public:
  explicit Driver(const std::map<std::string, std::int64_t>& opsets) : opsets_(opsets) {}

  Fact fact_of(const ValueType& type) {
    Fact fact;
    fact.kind = type.kind;
    fact.element = type.element;
    fact.encoded = type.encoded;
    if (type.dimensions) {
      fact.dims.emplace();
      for (const Dimension& dimension : *type.dimensions) {
        fact.dims->push_back(dimension.is_known()   ? table_.known(dimension.value)
                             : !is_named(dimension) ? table_.fresh()
                                                    : table_.symbol(dimension.symbol));
      }
    }
    if (!type.inner.empty()) {
      Fact inner = fact_of(type.inner.front());
      fact.inner = std::make_shared<const Fact>(std::move(inner));
    }
    return fact;
  }

  // `inputs`: facts of a subgraph's inputs; the main graph takes those of its declared types.
  std::vector<Fact> run(Graph& graph, const Scope* outer, const std::span<const Fact>* inputs,
                        int depth) {
    check<FormatError>(depth <= kMaxDepth, kWhere, "subgraphs must be nested at most 64 deep");
    Scope scope;
    scope.outer = outer;
    for (const auto& [name, tensor] : graph.initializers) {
      scope.facts[name] = constant(tensor);
    }
    for (std::size_t i = 0; i < graph.inputs.size(); ++i) {
      ValueInfo& info = graph.inputs[i];
      Fact declared = fact_of(info.type);
      if (inputs != nullptr && i < inputs->size()) {
        Fact given = (*inputs)[i];
        if (given.kind == ValueType::Kind::unknown) given = declared;
        if (given.element == ElementType::undefined) given.element = declared.element;
        write(info.type, given);
        scope.facts[info.name] = std::move(given);
      } else {
        // An initializer of the same name is a default that a caller may replace.
        scope.facts[info.name] = std::move(declared);
      }
    }
    std::unordered_map<std::string, std::size_t> places;
    for (std::size_t i = 0; i < graph.values.size(); ++i) places.emplace(graph.values[i].name, i);
    std::unordered_map<std::string, ValueInfo*> results;
    for (ValueInfo& output : graph.outputs) results.emplace(output.name, &output);

    const Scope* around = std::exchange(scope_, &scope);
    const int depth_before = std::exchange(depth_, depth);
    const auto restore = [&] {
      scope_ = around;
      depth_ = depth_before;
    };
    try {
      for (Node& node : graph.nodes) {
        std::vector<Fact> facts = run_node(node, scope);
        scope_ = &scope;
        for (std::size_t i = 0; i < facts.size(); ++i) {
          const std::string& name = node.outputs[i];
          if (name.empty()) continue;
          if (!results.contains(name)) {
            const auto place = places.find(name);
            if (facts[i].kind == ValueType::Kind::unknown && place != places.end()) {
              facts[i] = declared_fact(graph.values[place->second].type);
            } else if (facts[i].kind != ValueType::Kind::unknown) {
              if (place == places.end()) {
                places.emplace(name, graph.values.size());
                graph.values.push_back({name, {}, {}, {}, {}});
                write(graph.values.back().type, facts[i]);
              } else {
                write(graph.values[place->second].type, facts[i]);
              }
            }
          } else if (facts[i].kind == ValueType::Kind::unknown) {
            facts[i] = declared_fact(results[name]->type);
          }
          scope.facts[name] = std::move(facts[i]);
        }
      }
    } catch (...) {
      restore();
      throw;
    }
    restore();
    std::vector<Fact> outputs;
    for (ValueInfo& output : graph.outputs) {
      const Fact* found = scope.find(output.name);
      outputs.push_back(found == nullptr ? Fact{} : *found);
      write_output(output.type, outputs.back());
    }
    return outputs;
  }

  std::vector<Fact> infer(Graph& body, std::span<const Fact> inputs) override {
    const Scope* around = scope_;
    return run(body, around, &inputs, depth_ + 1);
  }

  std::vector<Fact> infer_leniently(Graph& body, std::span<const Fact> inputs) override {
    try {
      return infer(body, inputs);
    } catch (const FormatError&) {
      return std::vector<Fact>(body.outputs.size());
    }
  }

  // Deeper loops are looked at once, so that time stays linear.
  [[nodiscard]] int rounds() const noexcept override { return depth_ < 3 ? 4 : 1; }

 private:
  Fact constant(const Tensor& tensor) {
    Extents dims;
    for (const std::int64_t extent : tensor.shape()) dims.push_back(table_.known(extent));
    Fact fact = Fact::tensor(tensor.type(), std::move(dims));
    fact.constant = tensor;
    return fact;
  }

  // Of what a file says of a value that no rule knows: its type, not its shape, which may be of
  // other inputs than these.
  Fact declared_fact(const ValueType& type) {
    Fact fact = fact_of(type);
    if (fact.dims) {
      for (Extent& extent : *fact.dims) extent = table_.fresh();
    }
    fact.inner.reset();
    return fact;
  }

  [[nodiscard]] std::int64_t version(const std::string& domain) const {
    const auto found = opsets_.find(domain);
    return found == opsets_.end() ? 1 : found->second;
  }

  std::vector<Fact> run_node(Node& node, const Scope& scope) {
    static const Fact nothing;
    std::vector<const Fact*> inputs;
    inputs.reserve(node.inputs.size());
    for (const std::string& name : node.inputs) {
      const Fact* found = name.empty() ? nullptr : scope.find(name);
      inputs.push_back(name.empty() ? nullptr : found == nullptr ? &nothing : found);
    }
    while (!inputs.empty() && inputs.back() == nullptr) inputs.pop_back();
    std::vector<Fact> outputs(node.outputs.size());
    const RuleFunction rule = find_rule(node.domain, node.op_type);
    if (rule == nullptr) return outputs;
    Inference call(node, version(node.domain), inputs, outputs, table_, *this);
    try {
      rule(call);
    } catch (const FormatError& error) {
      if (std::string_view(error.what()).starts_with("[graph.infer_types]")) throw;
      throw FormatError("[graph.infer_types] " + call.title() + ": " + error.what());
    } catch (const Error& error) {
      throw FormatError("[graph.infer_types] " + call.title() + ": " + error.what());
    }
    for (Fact& fact : outputs) settle(fact);
    compute(node, inputs, outputs);
    return outputs;
  }

  // Content of which every element is known is a constant.
  void settle(Fact& fact) {
    if (!fact.content || fact.constant || !fact.dims) return;
    if (fact.element != ElementType::int64 && fact.element != ElementType::int32) return;
    std::vector<std::int64_t> values;
    for (const Extent extent : *fact.content) {
      const auto value = table_.value(extent);
      if (!value) return;
      values.push_back(*value);
    }
    Shape shape;
    for (const Extent extent : *fact.dims) {
      const auto value = table_.value(extent);
      if (!value) return;
      shape.push_back(*value);
    }
    if (element_count(shape) != static_cast<std::int64_t>(values.size())) return;
    if (fact.element == ElementType::int64) {
      fact.constant = Tensor::of<std::int64_t>(shape, std::span<const std::int64_t>(values));
    } else {
      std::vector<std::int32_t> narrow;
      for (const std::int64_t value : values) {
        if (value != static_cast<std::int32_t>(value)) return;
        narrow.push_back(static_cast<std::int32_t>(value));
      }
      fact.constant = Tensor::of<std::int32_t>(shape, std::span<const std::int32_t>(narrow));
    }
    fact.content.reset();
  }

  // Outputs of constants that are small are computed by the operator itself.
  void compute(const Node& node, std::span<const Fact* const> inputs, std::vector<Fact>& outputs) {
    if (outputs.empty() || outputs[0].constant) return;
    std::vector<Value> values;
    for (const Fact* input : inputs) {
      values.emplace_back();
      if (input == nullptr) continue;
      if (!input->constant || input->constant->size() > kMaxElements) return;
      values.back() = *input->constant;
    }
    for (const Fact& output : outputs) {
      if (output.kind != ValueType::Kind::tensor) return;
      if (!output.dims) continue;
      std::int64_t count = 1;
      for (const Extent extent : *output.dims) {
        const auto value = table_.value(extent);
        if (value && *value > 0 && count > kMaxElements / *value) return;
        if (value) count *= std::max<std::int64_t>(*value, 1);
      }
    }
    bool has_bodies = false;
    for_each_subgraph(node, [&](const Graph&) { has_bodies = true; });
    const Operator* op = find_operator(node.domain, node.op_type, version(node.domain));
    if (has_bodies || op == nullptr || !op->deterministic) return;
    std::vector<const Value*> given;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      given.push_back(inputs[i] == nullptr ? nullptr : &values[i]);
    }
    std::vector<Value> results(outputs.size());
    SmallEnvironment environment;
    try {
      Call call(node, version(node.domain), given, results, environment);
      op->evaluate(call);
    } catch (const std::exception&) {
      return;  // whoever runs the node gets the error
    }
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      if (results[i].is_tensor()) outputs[i] = constant(results[i].tensor());
    }
  }

  Dimension dimension(Extent extent, bool shared) {
    Dimension result;
    if (const auto value = table_.value(extent)) {
      result.value = *value;
    } else if (shared || table_.is_named(extent)) {
      result.symbol = table_.text(extent);
    }
    return result;
  }

  // `shared`: the extents are those of one tensor, not of several.
  void write(ValueType& type, const Fact& fact, bool shared = true) {
    if (fact.kind == ValueType::Kind::unknown) return;
    ValueType made;
    made.denotation = type.denotation;
    made.kind = fact.kind;
    made.element = fact.element;
    made.encoded = fact.encoded;
    if (fact.dims) {
      made.dimensions.emplace();
      for (std::size_t i = 0; i < fact.dims->size(); ++i) {
        made.dimensions->push_back(dimension((*fact.dims)[i], shared));
        if (type.dimensions && type.dimensions->size() == fact.dims->size()) {
          made.dimensions->back().denotation = (*type.dimensions)[i].denotation;
        }
      }
    }
    if (fact.inner) {
      ValueType inner;
      write(inner, *fact.inner, false);
      if (inner.kind != ValueType::Kind::unknown) made.inner.push_back(std::move(inner));
    }
    if (made.inner.empty() &&
        (fact.kind == ValueType::Kind::sequence || fact.kind == ValueType::Kind::optional)) {
      made.inner = type.inner;
    }
    type = std::move(made);
  }

  // What the model says of an output stays where we know no more.
  void write_output(ValueType& type, const Fact& fact) {
    const ValueType declared = type;
    write(type, fact);
    if (fact.kind != ValueType::Kind::tensor || declared.kind != ValueType::Kind::tensor) return;
    if (type.element == ElementType::undefined) type.element = declared.element;
    if (!declared.dimensions) return;
    if (!fact.dims) {
      type.dimensions = declared.dimensions;
      return;
    }
    if (fact.dims->size() != declared.dimensions->size()) return;
    for (std::size_t i = 0; i < fact.dims->size(); ++i) {
      if (!table_.is_named((*fact.dims)[i]) && !(*declared.dimensions)[i].is_unknown()) {
        (*type.dimensions)[i] = (*declared.dimensions)[i];
      }
    }
  }

  const std::map<std::string, std::int64_t>& opsets_;
  ExtentTable table_;
  const Scope* scope_ = nullptr;
  int depth_ = 0;
};

// Types that were found in a copy whose functions are written out.
void copy_types(const Graph& from, Graph& to) {
  std::unordered_map<std::string, const ValueInfo*> known;
  for (const ValueInfo& value : from.values) known.emplace(value.name, &value);
  std::unordered_map<std::string, const Node*> writers;
  for (const Node& node : from.nodes) {
    for (const std::string& name : node.outputs) {
      if (!name.empty()) writers.emplace(name, &node);
    }
  }
  std::unordered_map<std::string, ValueInfo*> present;
  for (ValueInfo& value : to.values) present.emplace(value.name, &value);
  std::vector<ValueInfo> added;
  for (Node& node : to.nodes) {
    for (const std::string& name : node.outputs) {
      const auto found = known.find(name);
      if (found == known.end()) continue;
      if (const auto own = present.find(name); own != present.end()) {
        own->second->type = found->second->type;
      } else {
        added.push_back({name, found->second->type, {}, {}, {}});
      }
    }
    const auto writer = node.outputs.empty() ? writers.end() : writers.find(node.outputs.front());
    if (writer == writers.end() || writer->second->op_type != node.op_type) continue;
    std::vector<const Graph*> bodies;
    for_each_subgraph(*writer->second, [&](const Graph& body) { bodies.push_back(&body); });
    std::size_t next = 0;
    for_each_subgraph(node, [&](Graph& body) {
      if (next < bodies.size()) copy_types(*bodies[next++], body);
    });
  }
  to.values.insert(to.values.end(), added.begin(), added.end());
  if (from.outputs.size() == to.outputs.size()) {
    for (std::size_t i = 0; i < to.outputs.size(); ++i) to.outputs[i].type = from.outputs[i].type;
  }
}

// Gives inputs the extents of `shapes`, and their symbols in the other inputs too.
void pin(Graph& graph, const InputShapes& shapes) {
  std::map<std::string, std::int64_t> symbols;
  for (const auto& [name, extents] : shapes) {
    const auto found = std::ranges::find(graph.inputs, name, &ValueInfo::name);
    check(found != graph.inputs.end(), kWhere, "inputs must be ones that the model has", name);
    ValueType& type = found->type;
    check(type.kind == ValueType::Kind::tensor, kWhere, "inputs with a shape must be tensors",
          name);
    if (!type.dimensions) type.dimensions.emplace(extents.size());
    check(type.dimensions->size() == extents.size(), kWhere,
          "the shape of input '" + name + "' must have the rank of the model", extents.size());
    for (std::size_t i = 0; i < extents.size(); ++i) {
      Dimension& dimension = (*type.dimensions)[i];
      if (extents[i] == -1) continue;
      check(extents[i] >= 0, kWhere, "extents must be >= 0 (or -1)", extents[i]);
      check(!dimension.is_known() || dimension.value == extents[i], kWhere,
            "the shape of input '" + name + "' must agree with the model", extents[i]);
      if (is_named(dimension)) symbols.emplace(dimension.symbol, extents[i]);
      dimension.value = extents[i];
      dimension.symbol.clear();
    }
  }
  for (ValueInfo& input : graph.inputs) {
    if (shapes.contains(input.name) || !input.type.dimensions) continue;
    for (Dimension& dimension : *input.type.dimensions) {
      const auto found = symbols.find(dimension.symbol);
      if (!is_named(dimension) || found == symbols.end()) continue;
      dimension.value = found->second;
      dimension.symbol.clear();
    }
  }
}

void forget_shapes(Graph& graph) {
  for (ValueInfo& output : graph.outputs) output.type.dimensions.reset();
  for (ValueInfo& value : graph.values) value.type.dimensions.reset();
  for (Node& node : graph.nodes) {
    for_each_subgraph(node, [](Graph& body) { forget_shapes(body); });
  }
}

}  // namespace

void infer_types(Model& model, const InferOptions& options) {
  if (!options.inputs.empty()) {
    pin(model.graph, options.inputs);
    forget_shapes(model.graph);
  }
  if (!model.functions.empty()) {
    Model plain = model;
    inline_functions(plain);
    sort_nodes(plain.graph);
    Driver(plain.opsets).run(plain.graph, nullptr, nullptr, 0);
    copy_types(plain.graph, model.graph);
    return;
  }
  sort_nodes(model.graph);
  Driver(model.opsets).run(model.graph, nullptr, nullptr, 0);
}

Model specialise(const Model& model, const InputShapes& inputs) {
  Model result = model;
  infer_types(result, {inputs});
  return result;
}

}  // namespace moptcore::inline v0::graph

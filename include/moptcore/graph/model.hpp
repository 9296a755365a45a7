// SPDX-License-Identifier: Apache-2.0
// A model as ONNX describes it: nodes that name the values they read and write. Plain structs with
// value semantics: copying a graph copies its subgraphs, and shares the elements of its tensors.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <moptcore/core/export.hpp>
#include <moptcore/graph/tensor.hpp>

namespace moptcore::inline v0::graph {

struct Graph;

/// A Graph inside an attribute. Copies are deep; never null.
class MOPTCORE_API Subgraph {
 public:
  Subgraph();
  explicit Subgraph(Graph graph);
  Subgraph(const Subgraph& other);
  Subgraph(Subgraph&& other) noexcept;
  Subgraph& operator=(const Subgraph& other);
  Subgraph& operator=(Subgraph&& other) noexcept;
  ~Subgraph();

  [[nodiscard]] const Graph& operator*() const noexcept { return *graph_; }
  [[nodiscard]] Graph& operator*() noexcept { return *graph_; }
  [[nodiscard]] const Graph* operator->() const noexcept { return graph_.get(); }
  [[nodiscard]] Graph* operator->() noexcept { return graph_.get(); }

 private:
  std::unique_ptr<Graph> graph_;
};

/// An extent: known (value >= 0), named (a symbol: equal names are equal extents), or unknown.
struct Dimension {
  std::int64_t value = -1;
  std::string symbol;
  std::string denotation;

  [[nodiscard]] bool is_known() const noexcept { return value >= 0; }
  [[nodiscard]] bool is_unknown() const noexcept { return value < 0 && symbol.empty(); }
  friend bool operator==(const Dimension& a, const Dimension& b) noexcept {
    return a.value == b.value && a.symbol == b.symbol;
  }
};

/// The type of a value, as far as it is known.
struct ValueType {
  enum class Kind : std::uint8_t { unknown, tensor, sequence, optional, other };

  Kind kind = Kind::unknown;
  ElementType element = ElementType::undefined;      ///< of a tensor
  std::optional<std::vector<Dimension>> dimensions;  ///< of a tensor; none: rank unknown
  std::vector<ValueType> inner;                      ///< one: what a sequence or optional holds
  std::string encoded;  ///< the TypeProto of other kinds (maps, sparse tensors), as it was read
  std::string denotation;

  static ValueType tensor(ElementType element,
                          std::optional<std::vector<Dimension>> dimensions = std::nullopt) {
    ValueType type;
    type.kind = Kind::tensor;
    type.element = element;
    type.dimensions = std::move(dimensions);
    return type;
  }
};

using Metadata = std::vector<std::pair<std::string, std::string>>;

/// `unknown`, here and below: encoded fields that this version of moptcore does not know, kept for
/// writing.
struct ValueInfo {
  std::string name;
  ValueType type;
  std::string doc;
  Metadata metadata;
  std::string unknown;
};

using AttributeValue =
    std::variant<std::int64_t, float, std::string, Tensor, Subgraph, ValueType,
                 std::vector<std::int64_t>, std::vector<float>, std::vector<std::string>,
                 std::vector<Tensor>, std::vector<Subgraph>, std::vector<ValueType>>;

struct Attribute {
  std::string name;
  AttributeValue value;
  /// In a function's body: the attribute of the call whose value is meant. `value` then holds the
  /// kind only.
  std::string reference;
  std::string doc;
  std::string unknown;
};

struct Node {
  std::string op_type;
  std::string domain;  ///< "" is ONNX's own; "ai.onnx" is read as ""
  std::string name;
  std::string overload;
  std::vector<std::string> inputs;  ///< "" is an optional input that is left out
  std::vector<std::string> outputs;
  std::vector<Attribute> attributes;
  std::string doc;
  Metadata metadata;
  std::string unknown;

  [[nodiscard]] const Attribute* find(std::string_view attribute) const noexcept {
    for (const Attribute& candidate : attributes) {
      if (candidate.name == attribute) return &candidate;
    }
    return nullptr;
  }

  /// The value of an attribute of that kind, or `fallback` where it is absent. Throws FormatError
  /// for another kind.
  template <class T>
  [[nodiscard]] T get(std::string_view attribute, T fallback) const {
    const Attribute* found = find(attribute);
    if (found == nullptr) return fallback;
    const T* value = std::get_if<T>(&found->value);
    check<FormatError>(value != nullptr, "graph." + op_type,
                       "attribute must be of the kind that its operator has", attribute);
    return *value;
  }

  /// Sets or adds.
  void set(std::string_view attribute, AttributeValue value) {
    for (Attribute& candidate : attributes) {
      if (candidate.name == attribute) {
        candidate.value = std::move(value);
        return;
      }
    }
    attributes.push_back({std::string(attribute), std::move(value), {}, {}, {}});
  }
};

/// What a file says of an initializer beside its elements.
struct InitializerNote {
  std::string doc;
  Metadata metadata;
  std::string unknown;
};

struct Graph {
  std::string name;
  std::vector<Node> nodes;  ///< in an order in which they can run: `sort_nodes` makes one
  std::map<std::string, Tensor, std::less<>> initializers;
  std::map<std::string, InitializerNote, std::less<>> notes;  ///< of initializers that have one
  std::vector<ValueInfo> inputs;  ///< those that are initializers too have them as defaults
  std::vector<ValueInfo> outputs;
  std::vector<ValueInfo> values;  ///< types of values between
  std::string doc;
  Metadata metadata;
  std::string unknown;
};

/// A node of another domain, or of ONNX's own, written out in nodes.
struct Function {
  std::string name;
  std::string domain;
  std::string overload;
  std::vector<std::string> inputs;
  std::vector<std::string> outputs;
  std::vector<std::string> attributes;  ///< that a call must have
  std::vector<Attribute> defaults;      ///< of those that it may have
  std::vector<Node> nodes;
  std::map<std::string, std::int64_t> opsets;
  std::vector<ValueInfo> values;
  std::string doc;
  Metadata metadata;
  std::string unknown;
};

struct Model {
  std::int64_t ir_version = 10;
  std::map<std::string, std::int64_t> opsets{{"", 21}};  ///< domain to version; "" is ONNX's own
  std::string producer;
  std::string producer_version;
  std::string domain;
  std::int64_t version = 0;
  std::string doc;
  Metadata metadata;
  Graph graph;
  std::vector<Function> functions;
  std::string unknown;

  /// The version of a domain; throws FormatError where the model does not name it.
  [[nodiscard]] std::int64_t opset(std::string_view name) const {
    const auto found = opsets.find(std::string(name));
    check<FormatError>(found != opsets.end(), "graph.Model",
                       "opset_import must name the domain of every node", name);
    return found->second;
  }
};

/// Orders the nodes, of subgraphs too, so that each comes behind those whose values it reads; nodes
/// keep their order where they can. Throws FormatError, naming a node, for cycles, for values that
/// two nodes write and for values that nobody does.
MOPTCORE_API void sort_nodes(Graph& graph);

/// Replaces each call of a model's own functions, in functions and subgraphs too, by its nodes.
/// Throws FormatError for functions that call themselves, and where more than `max_nodes` would
/// result.
MOPTCORE_API void inline_functions(Model& model, std::int64_t max_nodes = 1'000'000);

}  // namespace moptcore::inline v0::graph

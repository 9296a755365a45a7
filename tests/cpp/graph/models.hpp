// SPDX-License-Identifier: Apache-2.0
// Models for tests, written in one expression each.
#pragma once

#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <moptcore/graph/model.hpp>

namespace moptcore::inline v0::graph::testing {

inline Node node(std::string op, std::vector<std::string> inputs, std::vector<std::string> outputs,
                 std::vector<std::pair<std::string, AttributeValue>> attributes = {}) {
  Node made;
  made.op_type = std::move(op);
  made.inputs = std::move(inputs);
  made.outputs = std::move(outputs);
  for (auto& [name, value] : attributes) made.set(name, std::move(value));
  return made;
}

using Ints = std::vector<std::int64_t>;

/// An extent of a declared shape: a number, or a symbol.
using Declared = std::variant<std::int64_t, const char*>;

inline ValueInfo value(std::string name, ElementType type, std::vector<Declared> dims) {
  std::vector<Dimension> dimensions;
  for (const Declared& declared : dims) {
    Dimension dimension;
    if (const auto* number = std::get_if<std::int64_t>(&declared)) dimension.value = *number;
    else dimension.symbol = std::get<const char*>(declared);
    dimensions.push_back(dimension);
  }
  return {std::move(name), ValueType::tensor(type, dimensions), {}, {}, {}};
}

inline ValueInfo untyped(std::string name) { return {std::move(name), {}, {}, {}, {}}; }

inline Tensor ints(std::vector<std::int64_t> values) {
  const Shape shape{static_cast<std::int64_t>(values.size())};
  return Tensor::of<std::int64_t>(shape, std::span<const std::int64_t>(values));
}

/// "float32 [B, 4]", as it is written in the model for a value or output.
inline std::string type_text(const Graph& graph, const std::string& name) {
  const ValueType* type = nullptr;
  for (const auto* list : {&graph.values, &graph.outputs, &graph.inputs}) {
    for (const ValueInfo& info : *list) {
      if (info.name == name) type = &info.type;
    }
  }
  if (type == nullptr || type->kind != ValueType::Kind::tensor) return "?";
  std::string text = std::string(moptcore::graph::name(type->element)) + " [";
  if (!type->dimensions) return text + "...]";
  bool first = true;
  for (const Dimension& dimension : *type->dimensions) {
    if (!first) text += ", ";
    first = false;
    text += dimension.is_known()     ? std::to_string(dimension.value)
            : dimension.is_unknown() ? "?"
                                     : dimension.symbol;
  }
  return text + "]";
}

}  // namespace moptcore::inline v0::graph::testing

// SPDX-License-Identifier: Apache-2.0
#include <moptcore/graph/passes/merge_duplicates.hpp>

#include <algorithm>
#include <cstring>
#include <set>

#include <moptcore/graph/operator.hpp>

#include "graph/passes/editor.hpp"
#include "graph/scope.hpp"

namespace moptcore::inline v0::graph {
namespace {

template <class T>
void append(std::string& key, const T& value) {
  key.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void append(std::string& key, const std::string& text) {
  append(key, text.size());
  key += text;
}

// False where the attribute is of a kind that is not compared.
bool append_attribute(std::string& key, const AttributeValue& value) {
  append(key, value.index());
  if (const auto* integer = std::get_if<std::int64_t>(&value)) {
    append(key, *integer);
  } else if (const auto* number = std::get_if<float>(&value)) {
    append(key, *number);
  } else if (const auto* text = std::get_if<std::string>(&value)) {
    append(key, *text);
  } else if (const auto* integers = std::get_if<std::vector<std::int64_t>>(&value)) {
    append(key, integers->size());
    for (const auto element : *integers) append(key, element);
  } else if (const auto* numbers = std::get_if<std::vector<float>>(&value)) {
    append(key, numbers->size());
    for (const auto element : *numbers) append(key, element);
  } else if (const auto* texts = std::get_if<std::vector<std::string>>(&value)) {
    append(key, texts->size());
    for (const auto& element : *texts) append(key, element);
  } else if (const auto* tensor = std::get_if<Tensor>(&value)) {
    if (tensor->type() == ElementType::string) return false;
    append(key, tensor->type());
    append(key, tensor->rank());
    for (const std::int64_t extent : tensor->shape()) append(key, extent);
    // Large ones are equal where they share their memory.
    if (tensor->bytes() > 4096) append(key, tensor->raw());
    else
      key.append(static_cast<const char*>(tensor->raw()),
                 static_cast<std::size_t>(tensor->bytes()));
  } else {
    return false;
  }
  return true;
}

bool commutes(const Node& node) {
  static const std::set<std::string_view> kNames = {
      "Add", "Mul", "And", "Or", "Xor", "Equal", "BitwiseAnd", "BitwiseOr", "BitwiseXor"};
  return node.domain.empty() && kNames.contains(node.op_type) && node.inputs.size() == 2;
}

std::optional<std::string> key_of(const GraphEditor& editor, const Node& node) {
  std::string key;
  append(key, node.domain);
  append(key, node.op_type);
  append(key, node.overload);
  std::vector<std::string> inputs;
  for (const std::string& name : node.inputs) inputs.push_back(editor.resolve(name));
  if (commutes(node)) std::ranges::sort(inputs);
  append(key, inputs.size());
  for (const std::string& name : inputs) append(key, name);
  append(key, node.outputs.size());
  for (const std::string& name : node.outputs) append(key, name.empty());
  std::vector<const Attribute*> attributes;
  for (const Attribute& attribute : node.attributes) attributes.push_back(&attribute);
  std::ranges::sort(attributes, {}, [](const Attribute* a) { return a->name; });
  for (const Attribute* attribute : attributes) {
    append(key, attribute->name);
    if (!attribute->reference.empty() || !append_attribute(key, attribute->value)) {
      return std::nullopt;
    }
  }
  return key;
}

}  // namespace

PassReport merge_duplicates(Model& model, const PassOptions& options) {
  return run_pass(model, "merge_duplicates", options, {}, [](GraphEditor& editor) {
    std::unordered_map<std::string, const Node*> seen;
    for (const Node& node : editor.nodes()) {
      const Operator* op = find_operator(node.domain, node.op_type, editor.opset(node.domain));
      if (op == nullptr || !op->deterministic || node.outputs.empty()) continue;
      const auto key = key_of(editor, node);
      if (!key) continue;
      const auto [found, added] = seen.emplace(*key, &node);
      if (added) continue;
      bool replaced = true;
      for (std::size_t i = 0; i < node.outputs.size(); ++i) {
        // Two outputs of the graph cannot be one value.
        replaced = replaced && (node.outputs[i].empty() || !editor.is_output(node.outputs[i]));
      }
      if (!replaced) continue;
      for (std::size_t i = 0; i < node.outputs.size(); ++i) {
        if (!node.outputs[i].empty()) {
          (void)editor.replace(node.outputs[i], found->second->outputs[i]);
        }
      }
      editor.remove(&node);
      editor.count();
    }
  });
}

}  // namespace moptcore::inline v0::graph

// SPDX-License-Identifier: Apache-2.0
// Operators that pass on what they are given or name.
#include <cstring>

#include <moptcore/graph/operator.hpp>

namespace moptcore::inline v0::graph {
namespace {

// An optional value without an element passes as well.
void identity(Call& call) {
  const auto& inputs = call.node().inputs;
  const bool is_empty = !call.has(0) && !inputs.empty() && !inputs[0].empty();
  call.set(0, is_empty ? Value() : call.value(0));
}

void constant(Call& call) {
  for (const Attribute& attribute : call.node().attributes) {
    const AttributeValue& value = attribute.value;
    if (attribute.name == "value") {
      if (const auto* tensor = std::get_if<Tensor>(&value)) return call.set(0, *tensor);
    } else if (attribute.name == "value_float") {
      return call.set(0, Tensor::scalar(call.required<float>("value_float")));
    } else if (attribute.name == "value_int") {
      return call.set(0, Tensor::scalar(call.required<std::int64_t>("value_int")));
    } else if (attribute.name == "value_string") {
      return call.set(0, Tensor::of_strings(Shape{}, {call.required<std::string>("value_string")}));
    } else if (attribute.name == "value_floats") {
      const auto& all = call.required<std::vector<float>>("value_floats");
      const Shape shape{static_cast<std::int64_t>(all.size())};
      return call.set(0, Tensor::of<float>(shape, std::span<const float>(all)));
    } else if (attribute.name == "value_ints") {
      const auto& all = call.required<std::vector<std::int64_t>>("value_ints");
      const Shape shape{static_cast<std::int64_t>(all.size())};
      return call.set(0, Tensor::of<std::int64_t>(shape, std::span<const std::int64_t>(all)));
    } else if (attribute.name == "value_strings") {
      const auto& all = call.required<std::vector<std::string>>("value_strings");
      return call.set(0, Tensor::of_strings(Shape{static_cast<std::int64_t>(all.size())}, all));
    }
  }
  check<FormatError>(false, call.where(), "one of the attributes value* must be given");
}

constexpr Operator kOperators[] = {
    {"", "Identity", 1, identity},
    {"", "Constant", 1, constant},
};

}  // namespace

std::span<const Operator> identity_operators() noexcept { return kOperators; }

}  // namespace moptcore::inline v0::graph

// SPDX-License-Identifier: Apache-2.0
#include <moptcore/graph/operator.hpp>

#include <algorithm>
#include <string>
#include <tuple>

#include "graph/operators/families.hpp"

namespace moptcore::inline v0::graph {
namespace {

std::string ordinal(int index) { return "input " + std::to_string(index); }

std::vector<Operator> sorted_operators() {
  std::vector<Operator> all;
  for (const auto family : operator_families()) {
    for (const Operator& entry : family) {
      all.push_back(entry);
    }
  }
  std::sort(all.begin(), all.end(), [](const Operator& a, const Operator& b) {
    return std::tie(a.domain, a.name, a.since) < std::tie(b.domain, b.name, b.since);
  });
  return all;
}

}  // namespace

Environment::~Environment() = default;

const Value& Call::value(int index) const {
  check<FormatError>(has(index), where(), ordinal(index) + " must be given");
  return *inputs_[index];
}

const Tensor& Call::input(int index) const {
  const Value& found = value(index);
  check<DTypeError>(found.is_tensor(), where(), ordinal(index) + " must be a tensor", "a sequence");
  return found.tensor();
}

const Tensor& Call::input(int index, ElementType type) const {
  const Tensor& tensor = input(index);
  check<DTypeError>(tensor.type() == type, where(),
                    ordinal(index) + " must be " + std::string(name(type)), name(tensor.type()));
  return tensor;
}

std::vector<std::int64_t> Call::integers(int index) const {
  const Tensor& tensor = input(index);
  if (tensor.type() == ElementType::int32) {
    const auto values = tensor.values<std::int32_t>();
    return {values.begin(), values.end()};
  }
  check<DTypeError>(tensor.type() == ElementType::int64, where(),
                    ordinal(index) + " must be int32 or int64", name(tensor.type()));
  const auto values = tensor.values<std::int64_t>();
  return {values.begin(), values.end()};
}

std::int64_t Call::integer(int index) const {
  const Tensor& tensor = input(index);
  check(tensor.size() == 1, where(), ordinal(index) + " must have one element, shape",
        tensor.shape());
  return integers(index).front();
}

Tensor& Call::output(int index, ElementType type, const Shape& shape) {
  check<FormatError>(index < output_count(), where(), "the node must have an output", index);
  outputs_[index] = environment_->allocate(type, shape);
  // The Value was made in the line above: nobody shares it, and it is no const object.
  return const_cast<Tensor&>(outputs_[index].tensor());
}

void Call::set(int index, Value value) {
  check<FormatError>(index < output_count(), where(), "the node must have an output", index);
  outputs_[index] = std::move(value);
}

std::span<const Operator> operators() noexcept {
  static const std::vector<Operator> all = sorted_operators();
  return all;
}

const Operator* find_operator(std::string_view domain, std::string_view name,
                              std::int64_t version) noexcept {
  const auto all = operators();
  const auto after =
      std::upper_bound(all.begin(), all.end(), std::tuple(domain, name, version),
                       [](const auto& key, const Operator& entry) {
                         return key < std::tuple(entry.domain, entry.name, entry.since);
                       });
  if (after == all.begin()) return nullptr;
  const Operator& found = *std::prev(after);
  return found.domain == domain && found.name == name ? &found : nullptr;
}

}  // namespace moptcore::inline v0::graph

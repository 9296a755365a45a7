// SPDX-License-Identifier: Apache-2.0
#include "graph/inference/rule.hpp"

#include <algorithm>
#include <cmath>
#include <map>

namespace moptcore::inline v0::graph {
namespace {

template <class T>
void append(const Tensor& tensor, std::vector<double>& out) {
  for (const T value : tensor.values<T>()) out.push_back(static_cast<double>(value));
}

template <class T>
void append(const Tensor& tensor, std::vector<std::int64_t>& out) {
  for (const T value : tensor.values<T>()) out.push_back(static_cast<std::int64_t>(value));
}

std::optional<std::vector<std::int64_t>> integers_of(const Tensor& tensor) {
  if (tensor.size() > static_cast<std::int64_t>(kMaxContent)) return std::nullopt;
  std::vector<std::int64_t> result;
  switch (tensor.type()) {
    case ElementType::int64: append<std::int64_t>(tensor, result); return result;
    case ElementType::int32: append<std::int32_t>(tensor, result); return result;
    case ElementType::boolean: append<bool>(tensor, result); return result;
    case ElementType::uint8: append<std::uint8_t>(tensor, result); return result;
    default: break;
  }
  std::vector<double> floats;
  if (tensor.type() == ElementType::float32) append<float>(tensor, floats);
  else if (tensor.type() == ElementType::float64) append<double>(tensor, floats);
  else return std::nullopt;
  for (const double value : floats) {
    if (!(std::abs(value) < 16777216.0) || value != std::trunc(value)) return std::nullopt;
    result.push_back(static_cast<std::int64_t>(value));
  }
  return result;
}

}  // namespace

const Fact& Inference::fact(int index) const noexcept {
  static const Fact nothing;
  return has(index) ? *inputs_[index] : nothing;
}

bool Inference::must_have_rank(int index, int wanted) const {
  const int found = rank(index);
  require(found < 0 || found == wanted,
          "input " + std::to_string(index) + " must have rank " + std::to_string(wanted), found);
  return found >= 0;
}

bool Inference::must_have_rank_from(int index, int wanted) const {
  const int found = rank(index);
  require(found < 0 || found >= wanted,
          "input " + std::to_string(index) + " must have at least rank " + std::to_string(wanted),
          found);
  return found >= 0;
}

std::optional<Extents> Inference::content(int index) const {
  const Fact& known = fact(index);
  if (known.content) return known.content;
  if (!known.constant) return std::nullopt;
  const auto values = integers_of(*known.constant);
  if (!values) return std::nullopt;
  Extents result;
  for (const std::int64_t value : *values) result.push_back(x.known(value));
  return result;
}

std::optional<std::vector<std::int64_t>> Inference::integers(int index) const {
  const Fact& known = fact(index);
  if (known.constant) return integers_of(*known.constant);
  if (!known.content) return std::nullopt;
  std::vector<std::int64_t> result;
  for (const Extent extent : *known.content) {
    const auto value = x.value(extent);
    if (!value) return std::nullopt;
    result.push_back(*value);
  }
  return result;
}

std::optional<std::int64_t> Inference::integer(int index) const {
  const auto all = integers(index);
  if (!all || all->size() != 1) return std::nullopt;
  return all->front();
}

std::optional<std::vector<double>> Inference::numbers(int index) const {
  const Fact& known = fact(index);
  if (!known.constant) return std::nullopt;
  const Tensor& tensor = *known.constant;
  if (tensor.size() > static_cast<std::int64_t>(kMaxContent)) return std::nullopt;
  std::vector<double> result;
  switch (tensor.type()) {
    case ElementType::float32: append<float>(tensor, result); return result;
    case ElementType::float64: append<double>(tensor, result); return result;
    case ElementType::int64: append<std::int64_t>(tensor, result); return result;
    case ElementType::int32: append<std::int32_t>(tensor, result); return result;
    default: return std::nullopt;
  }
}

Inference::List Inference::list(int index, std::string_view attribute) const {
  if (has(index)) {
    auto values = integers(index);
    if (!values) return {false, true, {}};
    return {true, true, std::move(*values)};
  }
  if (node_.find(attribute) == nullptr) return {};
  return {true, true, ints(attribute)};
}

ElementType Inference::type_attribute(std::string_view name, ElementType fallback) const {
  const auto number = attribute<std::int64_t>(name, static_cast<std::int64_t>(fallback));
  require(number >= 0 && number < kElementTypeCount, "must name an element type", number);
  return static_cast<ElementType>(number);
}

void Inference::set(int index, ElementType element, std::optional<Extents> dims) {
  if (index >= output_count()) return;
  // What has more dimensions than a tensor can have is left to whoever runs the node.
  if (dims && dims->size() > static_cast<std::size_t>(kMaxRank)) dims.reset();
  if (dims) {
    for (const Extent extent : *dims) {
      const auto value = x.value(extent);
      require(!value || *value >= 0, "must have outputs of extents >= 0", value.value_or(0));
    }
  }
  outputs_[index] = Fact::tensor(element, std::move(dims));
}

void Inference::set(int index, Fact fact) {
  if (index < output_count()) outputs_[index] = std::move(fact);
}

void Inference::set_content(Extents content) {
  if (output_count() == 0 || content.size() > kMaxContent) return;
  Fact& out = outputs_[0];
  if (out.dims) {
    const Extent count = x.product(*out.dims);
    if (!x.is(count, static_cast<std::int64_t>(content.size()))) return;
  }
  out.content = std::move(content);
}

std::string Inference::title() const {
  const std::string name =
      node_.name.empty() ? (node_.outputs.empty() ? "" : node_.outputs[0]) : node_.name;
  return node_.op_type + " '" + name + "'";
}

int Inference::axis(std::int64_t axis, int rank) const {
  require(axis >= -rank && axis < rank,
          "axis must be in [-" + std::to_string(rank) + ", " + std::to_string(rank) + ")", axis);
  return static_cast<int>(axis < 0 ? axis + rank : axis);
}

Extent Inference::equal(Extent a, Extent b, std::string_view rule) {
  const auto left = x.value(a);
  const auto right = x.value(b);
  if (left && right && *left != *right) {
    contradict(rule, std::to_string(*left) + " and " + std::to_string(*right));
  }
  if (left) return a;
  if (right) return b;
  return x.is_named(a) ? a : b;
}

Extents Inference::broadcast(const Extents& a, const Extents& b) {
  const Extents& longer = a.size() >= b.size() ? a : b;
  const Extents& shorter = a.size() >= b.size() ? b : a;
  Extents result = longer;
  const std::size_t offset = longer.size() - shorter.size();
  for (std::size_t i = 0; i < shorter.size(); ++i) {
    const auto left = x.value(longer[offset + i]);
    const auto right = x.value(shorter[i]);
    if (left && right && *left != *right && *left != 1 && *right != 1) {
      contradict("inputs must broadcast", std::to_string(*left) + " and " + std::to_string(*right));
    }
    result[offset + i] = x.broadcast(longer[offset + i], shorter[i]);
  }
  return result;
}

std::optional<Extents> Inference::broadcast_inputs(int first, int last) {
  Extents result;
  for (int i = first; i < last; ++i) {
    if (!dims(i)) return std::nullopt;
    result = broadcast(result, *dims(i));
  }
  return result;
}

Extents Inference::fresh(int rank) {
  Extents result;
  for (int i = 0; i < rank; ++i) result.push_back(x.fresh());
  return result;
}

RuleFunction find_rule(std::string_view domain, std::string_view name) noexcept {
  static const auto rules = [] {
    std::map<std::pair<std::string_view, std::string_view>, RuleFunction> all;
    for (const auto family :
         {elementwise_rules(), movement_rules(), reduction_rules(), neural_rules(),
          generation_rules(), quantization_rules(), control_rules(), classical_rules()}) {
      for (const Rule& rule : family) all.emplace(std::pair(rule.domain, rule.name), rule.infer);
    }
    return all;
  }();
  const auto found = rules.find({domain, name});
  return found == rules.end() ? nullptr : found->second;
}

Fact join(const Fact& a, const Fact& b, ExtentTable& table) {
  if (a.kind != b.kind) return {};
  Fact result;
  result.kind = a.kind;
  if (a.element == b.element) result.element = a.element;
  if (a.encoded == b.encoded) result.encoded = a.encoded;
  if (a.inner && b.inner) {
    result.inner = std::make_shared<const Fact>(join(*a.inner, *b.inner, table));
  }
  if (a.dims && b.dims && a.dims->size() == b.dims->size()) {
    result.dims = a.dims;
    for (std::size_t i = 0; i < a.dims->size(); ++i) {
      if ((*a.dims)[i] != (*b.dims)[i]) (*result.dims)[i] = table.fresh();
    }
  }
  if (a.content && b.content && *a.content == *b.content) result.content = a.content;
  return result;
}

}  // namespace moptcore::inline v0::graph

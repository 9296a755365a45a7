// SPDX-License-Identifier: Apache-2.0
// Operators that work element by element.
#include <algorithm>

#include "graph/inference/rule.hpp"

namespace moptcore::inline v0::graph {
namespace {

void same(Inference& call) { call.set(0, call.element(0), call.dims(0)); }

// Of whole numbers the same whole numbers.
void same_whole(Inference& call) {
  same(call);
  if (auto content = call.content(0)) call.set_content(std::move(*content));
}

void boolean(Inference& call) { call.set(0, ElementType::boolean, call.dims(0)); }

void identity(Inference& call) { call.set(0, call.fact(0)); }

void dropout(Inference& call) {
  same(call);
  call.set(1, call.version() >= 10 ? ElementType::boolean : call.element(0), call.dims(0));
}

void clip(Inference& call) {
  same(call);
  auto content = call.content(0);
  if (!content || call.version() < 11) return;
  const auto low = call.content(1);
  const auto high = call.content(2);
  if (call.has(1) && (!low || low->size() != 1)) return;
  if (call.has(2) && (!high || high->size() != 1)) return;
  for (Extent& extent : *content) {
    if (low) extent = call.x.maximum(extent, low->front());
    if (high) extent = call.x.minimum(extent, high->front());
  }
  call.set_content(std::move(*content));
}

bool holds_whole_numbers(ElementType type) {
  return type == ElementType::int64 || type == ElementType::int32 || type == ElementType::float32 ||
         type == ElementType::float64;
}

void cast(Inference& call) {
  const auto to = call.type_attribute("to", ElementType::undefined);
  call.require(to != ElementType::undefined, "must have the attribute", "to");
  call.set(0, to, call.dims(0));
  auto content = call.content(0);
  if (content && holds_whole_numbers(to)) call.set_content(std::move(*content));
}

void cast_like(Inference& call) {
  call.set(0, call.element(1), call.dims(0));
  auto content = call.content(0);
  if (content && holds_whole_numbers(call.element(1))) call.set_content(std::move(*content));
}

void bit_cast(Inference& call) {
  call.set(0, call.type_attribute("to", ElementType::undefined), call.dims(0));
}

// f of the elements of inputs 0 and 1, where they are few and their shapes are simple.
template <class F>
void combine(Inference& call, F&& f) {
  const auto a = call.content(0);
  const auto b = call.content(1);
  if (!a || !b || !call.dims(0) || !call.dims(1)) return;
  const bool simple = (call.rank(0) <= 1 && call.rank(1) <= 1) || a->size() == 1 ||
                      b->size() == 1 || *call.dims(0) == *call.dims(1);
  const std::size_t count = std::max(a->size(), b->size());
  if (!simple || a->empty() || b->empty()) return;
  if ((a->size() != count && a->size() != 1) || (b->size() != count && b->size() != 1)) return;
  Extents result;
  for (std::size_t i = 0; i < count; ++i) {
    const std::optional<Extent> extent =
        f((*a)[a->size() == 1 ? 0 : i], (*b)[b->size() == 1 ? 0 : i]);
    if (!extent) return;
    result.push_back(*extent);
  }
  call.set_content(std::move(result));
}

bool broadcast(Inference& call, ElementType element) {
  // Before opset 7 the second input was laid along an axis of the first.
  if (call.version() < 7) {
    call.set(0, element, call.dims(0));
    return false;
  }
  call.set(0, element, call.broadcast_inputs(0, call.input_count()));
  return true;
}

ElementType first_known(const Inference& call, int first) {
  for (int i = first; i < call.input_count(); ++i) {
    if (call.element(i) != ElementType::undefined) return call.element(i);
  }
  return ElementType::undefined;
}

void arithmetic(Inference& call) { broadcast(call, first_known(call, 0)); }

void add(Inference& call) {
  if (broadcast(call, first_known(call, 0))) {
    combine(call, [&](Extent a, Extent b) { return std::optional(call.x.add(a, b)); });
  }
}

void subtract(Inference& call) {
  if (broadcast(call, first_known(call, 0))) {
    combine(call, [&](Extent a, Extent b) { return std::optional(call.x.subtract(a, b)); });
  }
}

void multiply(Inference& call) {
  if (broadcast(call, first_known(call, 0))) {
    combine(call, [&](Extent a, Extent b) { return std::optional(call.x.multiply(a, b)); });
  }
}

void divide(Inference& call) {
  if (!broadcast(call, first_known(call, 0))) return;
  const bool whole = call.element(0) == ElementType::int64 || call.element(0) == ElementType::int32;
  combine(call, [&](Extent a, Extent b) -> std::optional<Extent> {
    if (call.x.is(b, 0)) return std::nullopt;
    if (whole) return call.x.truncated_divide(a, b);
    return call.x.divide_exactly(a, b);
  });
}

void modulo(Inference& call) {
  if (!broadcast(call, first_known(call, 0))) return;
  if (call.attribute<std::int64_t>("fmod", 0) != 0) return;
  combine(call, [&](Extent a, Extent b) -> std::optional<Extent> {
    if (call.x.is(b, 0)) return std::nullopt;
    return call.x.modulo(a, b);
  });
}

// Elements stay those of the first input: the exponent may have another type.
void power(Inference& call) { broadcast(call, call.element(0)); }

void prelu(Inference& call) { same(call); }

void maximum(Inference& call) {
  call.set(0, first_known(call, 0), call.broadcast_inputs(0, call.input_count()));
  if (call.input_count() == 1) {
    if (auto content = call.content(0)) call.set_content(std::move(*content));
  } else if (call.input_count() == 2) {
    combine(call, [&](Extent a, Extent b) { return std::optional(call.x.maximum(a, b)); });
  }
}

void minimum(Inference& call) {
  call.set(0, first_known(call, 0), call.broadcast_inputs(0, call.input_count()));
  if (call.input_count() == 1) {
    if (auto content = call.content(0)) call.set_content(std::move(*content));
  } else if (call.input_count() == 2) {
    combine(call, [&](Extent a, Extent b) { return std::optional(call.x.minimum(a, b)); });
  }
}

void variadic(Inference& call) {
  call.set(0, first_known(call, 0), call.broadcast_inputs(0, call.input_count()));
}

void compare(Inference& call) { broadcast(call, ElementType::boolean); }

void equal(Inference& call) {
  if (!broadcast(call, ElementType::boolean)) return;
  combine(call, [&](Extent a, Extent b) -> std::optional<Extent> {
    if (a == b) return call.k(1);
    if (call.x.differ(a, b)) return call.k(0);
    return call.x.fresh();
  });
}

// `strict`: a < b rather than a <= b.
void order(Inference& call, bool strict, bool swapped) {
  if (!broadcast(call, ElementType::boolean)) return;
  combine(call, [&](Extent a, Extent b) -> std::optional<Extent> {
    if (swapped) std::swap(a, b);
    if (call.x.lower_bound(call.x.subtract(b, a)).value_or(-1) >= (strict ? 1 : 0)) {
      return call.k(1);
    }
    if (call.x.lower_bound(call.x.subtract(a, b)).value_or(-1) >= (strict ? 0 : 1)) {
      return call.k(0);
    }
    return call.x.fresh();
  });
}

void less(Inference& call) { order(call, true, false); }
void less_or_equal(Inference& call) { order(call, false, false); }
void greater(Inference& call) { order(call, true, true); }
void greater_or_equal(Inference& call) { order(call, false, true); }

void logical_not(Inference& call) {
  boolean(call);
  auto content = call.content(0);
  if (!content) return;
  for (Extent& extent : *content) {
    const auto value = call.x.value(extent);
    extent = value ? call.k(*value == 0) : call.x.fresh();
  }
  call.set_content(std::move(*content));
}

void where(Inference& call) {
  call.set(0, first_known(call, 1), call.broadcast_inputs(0, 3));
  const auto condition = call.content(0);
  const auto yes = call.content(1);
  const auto no = call.content(2);
  if (!condition || !yes || !no) return;
  if (call.rank(0) > 1 || call.rank(1) > 1 || call.rank(2) > 1) return;
  const std::size_t count = std::max({condition->size(), yes->size(), no->size()});
  Extents result;
  for (std::size_t i = 0; i < count; ++i) {
    const auto at = [&](const Extents& all) -> std::optional<Extent> {
      if (all.size() == 1) return all[0];
      return i < all.size() ? std::optional(all[i]) : std::nullopt;
    };
    const auto chosen = at(*condition);
    const auto a = at(*yes);
    const auto b = at(*no);
    if (!chosen || !a || !b) return;
    const auto value = call.x.value(*chosen);
    if (!value && *a != *b) return;
    result.push_back(value && *value == 0 ? *b : *a);
  }
  call.set_content(std::move(result));
}

void negate(Inference& call) {
  same(call);
  auto content = call.content(0);
  if (!content) return;
  for (Extent& extent : *content) extent = call.x.subtract(call.k(0), extent);
  call.set_content(std::move(*content));
}

void absolute(Inference& call) {
  same(call);
  auto content = call.content(0);
  if (!content) return;
  for (const Extent extent : *content) {
    if (call.x.lower_bound(extent).value_or(-1) < 0) return;
  }
  call.set_content(std::move(*content));
}

void random_like(Inference& call) {
  call.set(0, call.type_attribute("dtype", call.element(0)), call.dims(0));
}

void bernoulli(Inference& call) { random_like(call); }

constexpr Rule kRules[] = {
    {"", "Abs", absolute},
    {"", "Acos", same},
    {"", "Acosh", same},
    {"", "Add", add},
    {"", "And", compare},
    {"", "Asin", same},
    {"", "Asinh", same},
    {"", "Atan", same},
    {"", "Atanh", same},
    {"", "Bernoulli", bernoulli},
    {"", "BitCast", bit_cast},
    {"", "BitShift", arithmetic},
    {"", "BitwiseAnd", arithmetic},
    {"", "BitwiseNot", same},
    {"", "BitwiseOr", arithmetic},
    {"", "BitwiseXor", arithmetic},
    {"", "Cast", cast},
    {"", "CastLike", cast_like},
    {"", "Ceil", same_whole},
    {"", "Celu", same},
    {"", "Clip", clip},
    {"", "Cos", same},
    {"", "Cosh", same},
    {"", "CumProd", same},
    {"", "CumSum", same},
    {"", "Div", divide},
    {"", "Dropout", dropout},
    {"", "Elu", same},
    {"", "Equal", equal},
    {"", "Erf", same},
    {"", "Exp", same},
    {"", "Floor", same_whole},
    {"", "Gelu", same},
    {"", "Greater", greater},
    {"", "GreaterOrEqual", greater_or_equal},
    {"", "HardSigmoid", same},
    {"", "HardSwish", same},
    {"", "Hardmax", same},
    {"", "Identity", identity},
    {"", "IsInf", boolean},
    {"", "IsNaN", boolean},
    {"", "LeakyRelu", same},
    {"", "Less", less},
    {"", "LessOrEqual", less_or_equal},
    {"", "Log", same},
    {"", "LogSoftmax", same},
    {"", "Max", maximum},
    {"", "Mean", variadic},
    {"", "Min", minimum},
    {"", "Mish", same},
    {"", "Mod", modulo},
    {"", "Mul", multiply},
    {"", "Neg", negate},
    {"", "Not", logical_not},
    {"", "Or", compare},
    {"", "PRelu", prelu},
    {"", "Pow", power},
    {"", "RandomNormalLike", random_like},
    {"", "RandomUniformLike", random_like},
    {"", "Reciprocal", same},
    {"", "Relu", same},
    {"", "Round", same_whole},
    {"", "Selu", same},
    {"", "Shrink", same},
    {"", "Sigmoid", same},
    {"", "Sign", same},
    {"", "Sin", same},
    {"", "Sinh", same},
    {"", "Softmax", same},
    {"", "Softplus", same},
    {"", "Softsign", same},
    {"", "Sqrt", same},
    {"", "StringConcat", arithmetic},
    {"", "Sub", subtract},
    {"", "Sum", variadic},
    {"", "SwiGLU", same},
    {"", "Swish", same},
    {"", "Tan", same},
    {"", "Tanh", same},
    {"", "ThresholdedRelu", same},
    {"", "Where", where},
    {"", "Xor", compare},
};

}  // namespace

std::span<const Rule> elementwise_rules() noexcept { return kRules; }

}  // namespace moptcore::inline v0::graph

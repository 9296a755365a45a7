// SPDX-License-Identifier: Apache-2.0
// Operators between floats and integers of few bits.
#include "graph/inference/rule.hpp"

namespace moptcore::inline v0::graph {
namespace {

void quantize(Inference& call) {
  ElementType element = call.type_attribute("output_dtype", ElementType::undefined);
  if (call.has(2)) element = call.element(2);
  else if (element == ElementType::undefined) element = ElementType::uint8;
  call.set(0, element, call.dims(0));
}

void dequantize(Inference& call) {
  ElementType element = call.type_attribute("output_dtype", ElementType::undefined);
  if (element == ElementType::undefined) {
    element = call.version() >= 19 ? call.element(1) : ElementType::float32;
  }
  call.set(0, element, call.dims(0));
}

void dynamic_quantize(Inference& call) {
  call.set(0, ElementType::uint8, call.dims(0));
  call.set(1, ElementType::float32, Extents{});
  call.set(2, ElementType::uint8, Extents{});
}

constexpr Rule kRules[] = {
    {"", "DequantizeLinear", dequantize},
    {"", "DynamicQuantizeLinear", dynamic_quantize},
    {"", "QuantizeLinear", quantize},
};

}  // namespace

std::span<const Rule> quantization_rules() noexcept { return kRules; }

}  // namespace moptcore::inline v0::graph

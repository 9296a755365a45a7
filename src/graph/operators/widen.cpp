// SPDX-License-Identifier: Apache-2.0
#include "graph/operators/widen.hpp"

#include "kernels/convert.hpp"

namespace moptcore::inline v0::graph {
namespace {

template <class From, class To>
void convert(const From* from, To* to, std::int64_t count) {
  parallel_for(count, kGrain, [&](std::int64_t first, std::int64_t last) {
    const std::int64_t n = last - first;
    if constexpr (std::is_same_v<From, float16> && std::is_same_v<To, float>) {
      return kernels::widen_f16(from + first, n, to + first);
    } else if constexpr (std::is_same_v<From, bfloat16> && std::is_same_v<To, float>) {
      return kernels::widen_bf16(from + first, n, to + first);
    } else if constexpr (std::is_same_v<From, float> && std::is_same_v<To, float16>) {
      return kernels::narrow_f16(from + first, n, to + first);
    } else if constexpr (std::is_same_v<From, float> && std::is_same_v<To, bfloat16>) {
      return kernels::narrow_bf16(from + first, n, to + first);
    }
    static_cast<void>(n);
    for (std::int64_t i = first; i < last; ++i) {
      to[i] = To(static_cast<Arithmetic<To>>(static_cast<Arithmetic<From>>(from[i])));
    }
  });
}

}  // namespace

Tensor widened(Call& call, const Tensor& tensor) {
  const ElementType type = tensor.type();
  if (type == ElementType::float32 || type == ElementType::float64) return tensor;
  if (!is_half(type)) {
    refuse_type(call, "elements must be float64, float32, float16 or bfloat16", type);
  }
  Tensor wide = call.environment().allocate(ElementType::float32, tensor.shape());
  visit_floats(call, type, [&]<class T> {
    convert(tensor.data<T>(), wide.mutable_data<float>(), tensor.size());
  });
  return wide;
}

std::optional<Tensor> widened_input(Call& call, int index) {
  if (!call.has(index)) return std::nullopt;
  return widened(call, call.input(index));
}

Tensor rounded(Call& call, const Tensor& computed, ElementType type) {
  if (computed.type() == type) return computed;
  Tensor result = call.environment().allocate(type, computed.shape());
  visit_wide(call, computed.type(), [&]<class From> {
    visit_floats(call, type, [&]<class To> {
      convert(computed.data<From>(), result.mutable_data<To>(), computed.size());
    });
  });
  return result;
}

void set_rounded(Call& call, int index, const Tensor& computed, ElementType type) {
  call.set(index, rounded(call, computed, type));
}

}  // namespace moptcore::inline v0::graph

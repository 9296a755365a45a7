// SPDX-License-Identifier: Apache-2.0
// Halves as float32 and back, for operators whose loops are written for float and double only.
#pragma once

#include <optional>
#include <utility>

#include <moptcore/core/parallel.hpp>

#include "graph/operators/chunk.hpp"
#include "graph/operators/types.hpp"

namespace moptcore::inline v0::graph {

/// Elements that a block of work converts or computes.
inline constexpr std::int64_t kGrain = 1 << 14;

/// float32 or float64: `tensor` itself, or its halves converted. DTypeError for other elements.
[[nodiscard]] Tensor widened(Call& call, const Tensor& tensor);

/// An optional input, widened.
[[nodiscard]] std::optional<Tensor> widened_input(Call& call, int index);

/// `computed` (float32 or float64) rounded to `type`, another float.
[[nodiscard]] Tensor rounded(Call& call, const Tensor& computed, ElementType type);

/// Sets output `index` to `computed` (float32 or float64), rounded to `type`, another float.
void set_rounded(Call& call, int index, const Tensor& computed, ElementType type);

/// float or double.
template <class F>
decltype(auto) visit_wide(const Call& call, ElementType type, F&& f) {
  switch (type) {
    case ElementType::float32: return std::forward<F>(f).template operator()<float>();
    case ElementType::float64: return std::forward<F>(f).template operator()<double>();
    default: refuse_type(call, "elements must be float64, float32, float16 or bfloat16", type);
  }
}

}  // namespace moptcore::inline v0::graph

// SPDX-License-Identifier: Apache-2.0
// Operators of one element: what runs the loop of each over a tensor.
#pragma once

#include <cstdint>

#include <moptcore/graph/operator.hpp>

namespace moptcore::inline v0::graph {

/// y[i] = op(x[i]) for `count` elements; `context` is the operator with its attributes, or null.
using UnaryLoop = void (*)(const void* x, void* y, std::int64_t count, const void* context);

template <class Op, class T, class R = T>
void unary_loop(const void* x, void* y, std::int64_t count, const void* context) {
  const Op op = context == nullptr ? Op() : *static_cast<const Op*>(context);
  const T* from = static_cast<const T*>(x);
  R* to = static_cast<R*>(y);
  for (std::int64_t i = 0; i < count; ++i) to[i] = op(from[i]);
}

/// Output 0 of the call, of x's shape. `loop` takes elements of arithmetic_type of x's type and
/// makes such elements, or bool where `out_type` is that.
Tensor& run_unary(Call& call, const Tensor& x, ElementType out_type, UnaryLoop loop,
                  const void* context = nullptr);

}  // namespace moptcore::inline v0::graph

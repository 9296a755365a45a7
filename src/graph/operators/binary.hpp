// SPDX-License-Identifier: Apache-2.0
// Operators of two operands that broadcast: what runs the inner loop of each over a Broadcast.
#pragma once

#include <cstdint>
#include <utility>

#include "graph/operators/broadcast.hpp"

namespace moptcore::inline v0::graph {

/// out[i] = op(a[i], b[i]) for `count` elements; an operand that does not move has one value.
/// `context` is the operator with its attributes, or null. `out` may be `a`.
using BinaryLoop = void (*)(const void* a, bool a_moves, const void* b, bool b_moves, void* out,
                            std::int64_t count, const void* context);

template <class Op, class T, class R = T>
void binary_loop(const void* a, bool a_moves, const void* b, bool b_moves, void* out,
                 std::int64_t count, const void* context) {
  const Op op = context == nullptr ? Op() : *static_cast<const Op*>(context);
  const T* x = static_cast<const T*>(a);
  const T* y = static_cast<const T*>(b);
  R* z = static_cast<R*>(out);
  if (a_moves && b_moves) {
    for (std::int64_t i = 0; i < count; ++i) z[i] = op(x[i], y[i]);
  } else if (a_moves) {
    const T right = *y;
    for (std::int64_t i = 0; i < count; ++i) z[i] = op(x[i], right);
  } else {  // where neither moves, `count` is 1
    const T left = *x;
    for (std::int64_t i = 0; i < count; ++i) z[i] = op(left, y[i]);
  }
}

/// Output 0 of the call from inputs `a` and `b`, which must have one type. `loop` takes elements of
/// arithmetic_type of that type and makes such elements, or bool where `out_type` is that.
Tensor& run_binary(Call& call, const Tensor& a, const Tensor& b, ElementType out_type,
                   BinaryLoop loop, const void* context = nullptr);

/// Output 0 as op(op(input 0, input 1), input 2) ...; halves are rounded once at the end. A
/// `divisor` other than 1 divides floats at the end.
void run_variadic(Call& call, BinaryLoop loop, std::int64_t divisor = 1);

/// Inputs 0 and 1; DTypeError unless they have the same type.
[[nodiscard]] std::pair<const Tensor&, const Tensor&> matching_inputs(const Call& call);

}  // namespace moptcore::inline v0::graph

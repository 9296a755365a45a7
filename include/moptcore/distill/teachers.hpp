// SPDX-License-Identifier: Apache-2.0
// Several teachers as one: with q_k = softmax(teacher_k / T) and weights w_k of sum 1,
//   z = T log(sum_k w_k q_k),   so that softmax(z / T) is the teachers' average.
#pragma once

#include <cstdint>
#include <span>

#include <moptcore/core/export.hpp>
#include <moptcore/core/tensor_view.hpp>

namespace moptcore::inline v0::distill {

/// Writes into `out` the logits of the average of the teachers' softened probabilities: any loss
/// against `out` at this temperature is one against the ensemble. All have one shape; `weights`
/// are one a teacher, >= 0, and are divided by their sum; none given: equal. A teacher of weight 0
/// is not read. Computed in double. -inf is a class of probability 0; NaN, +inf and rows of
/// nothing but -inf make their row NaN. `out` may be one of the teachers.
MOPTCORE_API void average_teachers(std::span<const AnyView> teachers,
                                   std::span<const double> weights, double temperature,
                                   std::int64_t axis, const MutableAnyView& out);

}  // namespace moptcore::inline v0::distill

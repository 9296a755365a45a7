// SPDX-License-Identifier: Apache-2.0
// Similarity-preserving distillation (Tung and Mori, "Similarity-preserving knowledge
// distillation", arXiv:1907.09682, section 3). With the samples as rows of X,
//   G = X X^T, every row divided by its norm,   loss = ||G_student - G_teacher||_F^2 / samples^2.
#pragma once

#include <optional>

#include <moptcore/core/export.hpp>
#include <moptcore/core/tensor_view.hpp>

namespace moptcore::inline v0::distill {

/// The loss of features [samples, ...] and its gradient by the student in `grad`, which may be the
/// student itself. Only the samples must agree: the teacher's other axes are free. `mask`, bool
/// [samples], tells the samples that count; the others are not read. A row of G that is all 0
/// stays so and has gradient 0. Computed in double with samples^2 values of memory; equal bits at
/// any number of threads. NaN and infinities make the loss NaN.
MOPTCORE_API double similarity_loss(const AnyView& student, const AnyView& teacher,
                                    const std::optional<AnyView>& mask, const MutableAnyView& grad);

}  // namespace moptcore::inline v0::distill

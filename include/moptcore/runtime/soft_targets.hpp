// SPDX-License-Identifier: Apache-2.0
// The losses of distill/soft_targets.hpp through oneDNN's softmax. Link moptcore::runtime.
#pragma once

#include <optional>

#include <moptcore/core/export.hpp>
#include <moptcore/core/tensor_view.hpp>
#include <moptcore/distill/soft_targets.hpp>

namespace moptcore::inline v0::runtime {

/// distill::soft_target_loss for contiguous float32 with the classes in the last axis, without
/// standardize. With u = 2^-24 and L the largest |logit| / temperature of a row, probabilities are
/// within a relative error of e = (10 L + classes + 32) u and their logarithms within e: dividing a
/// logit and the largest one costs 4 L u, subtracting them 2 L u, in the row and in its sum, the
/// last subtraction 2 L u, the sum of `classes` terms in float as many u, exponential, logarithm
/// and what is rounded to log(classes) the rest. Ours sums in double. Rows with NaN, infinities or
/// quotients beyond float are computed in double, as distill::soft_target_row says. Takes 5 blocks
/// of 16384 logits, or of one row, a thread; equal bits at any number of threads.
MOPTCORE_API double soft_target_loss(const AnyView& student, const AnyView& teacher,
                                     const std::optional<AnyView>& labels,
                                     const distill::SoftTargetOptions& options,
                                     const MutableAnyView& grad);

/// distill::soft_target_losses likewise; `losses` is contiguous float32 or float64.
MOPTCORE_API double soft_target_losses(const AnyView& student, const AnyView& teacher,
                                       const std::optional<AnyView>& labels,
                                       const distill::SoftTargetOptions& options,
                                       const MutableAnyView& losses, const MutableAnyView& grad);

}  // namespace moptcore::inline v0::runtime

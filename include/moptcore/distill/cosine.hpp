// SPDX-License-Identifier: Apache-2.0
// The angle between features: loss = mean over rows of 1 - s . t / (||s|| ||t||).
#pragma once

#include <cstdint>
#include <optional>

#include <moptcore/core/export.hpp>
#include <moptcore/core/tensor_view.hpp>

namespace moptcore::inline v0::distill {

/// The loss of two tensors of one shape along `axis`, and its gradient by the student in `grad`,
/// which may be the student itself. Rows are all other axes; `mask`, bool in their shape, tells
/// those that count: the others are not read and not in the divisor. A row of zeros, on either
/// side, has cosine 0 and gradient 0. Computed in double; equal bits at any number of threads.
/// NaN and infinities make the loss and their row's gradient NaN.
MOPTCORE_API double cosine_loss(const AnyView& student, const AnyView& teacher, std::int64_t axis,
                                const std::optional<AnyView>& mask, const MutableAnyView& grad);

}  // namespace moptcore::inline v0::distill

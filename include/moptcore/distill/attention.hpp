// SPDX-License-Identifier: Apache-2.0
// Attention transfer (Zagoruyko and Komodakis, "Paying more attention to attention",
// arXiv:1612.03928, section 3.1). A sample's attention map over positions x is
//   A(x) = sum_c |F_c(x)|^p,   Q = A / ||A||_2
// and loss = mean over samples and positions of (Q_student - Q_teacher)^2.
#pragma once

#include <cstdint>
#include <optional>

#include <moptcore/core/export.hpp>
#include <moptcore/core/tensor_view.hpp>

namespace moptcore::inline v0::distill {

struct AttentionOptions {
  double power = 2.0;     ///< p >= 1 and finite
  std::int64_t axis = 1;  ///< the axis of the channels; samples are the first axis
};

/// The loss of features [samples, ...], and its gradient by the student in `grad`, which may be
/// the student itself. The teacher has the student's shape but for the number of channels.
/// `mask`, bool in the student's shape without the channels, tells the positions that count: the
/// others are not read and not in the divisor. A map of zeros has Q = 0 and gradient 0. Computed
/// in double, a sample at a time; equal bits at any number of threads. NaN and infinities make
/// the loss and their sample's gradient NaN.
MOPTCORE_API double attention_loss(const AnyView& student, const AnyView& teacher,
                                   const AttentionOptions& options,
                                   const std::optional<AnyView>& mask, const MutableAnyView& grad);

}  // namespace moptcore::inline v0::distill

// SPDX-License-Identifier: Apache-2.0
// DIST (Huang, You, Wang, Qian and Xu, "Knowledge distillation from a stronger teacher",
// arXiv:2205.10536, section 4). With p = softmax(student / T), q = softmax(teacher / T) over
// rows of classes and Pearson's correlation r,
//   inter = mean over rows of 1 - r(p_row, q_row),  intra = mean over classes of 1 - r(p_c, q_c),
//   loss = T^2 (inter_weight inter + intra_weight intra).
#pragma once

#include <cstdint>
#include <optional>

#include <moptcore/core/export.hpp>
#include <moptcore/core/tensor_view.hpp>

namespace moptcore::inline v0::distill {

struct DistOptions {
  double inter = 1.0;        ///< weight >= 0 of the relation between the classes of a row
  double intra = 1.0;        ///< weight >= 0 of the relation between the rows in a class
  double temperature = 1.0;  ///< > 0 and finite
  std::int64_t axis = -1;    ///< the axis of the classes
};

/// The loss of logits and its gradient by the student in `grad`, which may be the student itself.
/// Rows are all axes but `axis`. `mask`, bool in the rows' shape, tells the rows that count; the
/// others are not read. Probabilities that do not vary (to rounding: a single class or row, equal
/// logits) correlate with nothing: r is 0 and so is its gradient. Computed in double; equal bits
/// at any number of threads. NaN and +inf make the loss NaN; -inf is a class of probability 0.
MOPTCORE_API double dist_loss(const AnyView& student, const AnyView& teacher,
                              const DistOptions& options, const std::optional<AnyView>& mask,
                              const MutableAnyView& grad);

}  // namespace moptcore::inline v0::distill

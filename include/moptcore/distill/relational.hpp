// SPDX-License-Identifier: Apache-2.0
// Relational distillation (Park, Kim, Lu and Cho, "Relational knowledge distillation",
// arXiv:1904.05068). With d_ij = ||x_i - x_j||, mu the mean of the distances that are not 0,
// e_ij = (x_j - x_i) / d_ij and h Huber's loss (x^2 / 2 for |x| < 1, |x| - 1/2 beyond),
//   loss = distance mean_ij h(d_ij / mu - the teacher's) + angle mean_ijk h(e_ij . e_ik - ...)
// with the means over all pairs and triples, equal samples included, as the authors' code has it.
#pragma once

#include <optional>

#include <moptcore/core/export.hpp>
#include <moptcore/core/tensor_view.hpp>

namespace moptcore::inline v0::distill {

struct RelationalOptions {
  double distance = 25.0;  ///< weight >= 0 of the distances; 0 leaves them out
  double angle = 50.0;     ///< weight >= 0 of the angles; 0 leaves them out
};

/// The loss of features [samples, ...] and its gradient by the student in `grad`, which may be the
/// student itself. Only the samples must agree: the teacher's other axes are free. `mask`, bool
/// [samples], tells the samples that count; the others are not read.
///
/// Two equal samples have distance 0, no direction (angles with it are 0) and gradient 0 to each
/// other; where all are equal, d / mu is 0. Computed in double from the squared distances, with
/// samples^2 values of memory and samples^3 angles by the law of cosines; equal bits at any
/// number of threads. NaN and infinities make the loss NaN.
MOPTCORE_API double relational_loss(const AnyView& student, const AnyView& teacher,
                                    const RelationalOptions& options,
                                    const std::optional<AnyView>& mask, const MutableAnyView& grad);

}  // namespace moptcore::inline v0::distill

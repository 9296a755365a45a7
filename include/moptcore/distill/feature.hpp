// SPDX-License-Identifier: Apache-2.0
// The distance between features of two networks. With the residual of element i
//   r_i = s_i - t_i,   or with an adaptor   r = s A^T + b - t   over the last axis,
//   loss = sum_i r_i^2 / n,   d loss / d r_i = 2 r_i / n = g_i,
// and for the adaptor   d loss / d s = g A,   d loss / d A = g^T s,   d loss / d b = sum_rows g.
#pragma once

#include <optional>

#include <moptcore/core/export.hpp>
#include <moptcore/core/tensor_view.hpp>

namespace moptcore::inline v0::distill {

/// A linear map from the student's features [..., in] to the teacher's [..., out].
template <class View>
struct FeatureAdaptor {
  View weight;               ///< [out, in]
  std::optional<View> bias;  ///< [out]
};

/// The mean squared difference of two tensors of one shape, and its gradient by the student in
/// `grad`, which has the student's dtype and may be the student itself. Computed in float and
/// summed in double (in double if either input is float64); equal bits at any number of threads.
/// NaN and infinities propagate. An empty tensor has loss 0. `mask`, bool in the shape without
/// the last axis, tells the rows that count: the others are not read and not in the divisor.
MOPTCORE_API double feature_loss(const AnyView& student, const AnyView& teacher,
                                 const MutableAnyView& grad,
                                 const std::optional<AnyView>& mask = std::nullopt);

/// The same after the adaptor: the hint of FitNets (Romero et al., arXiv:1412.6550). The adaptor
/// has gradients too: `adaptor_grad` has the shapes and dtypes of `adaptor` and a bias where it has
/// one. Takes memory for the teacher's features once, and for a copy of each input that is strided
/// or has another dtype than the computation.
MOPTCORE_API double feature_loss(const AnyView& student, const AnyView& teacher,
                                 const FeatureAdaptor<AnyView>& adaptor, const MutableAnyView& grad,
                                 const FeatureAdaptor<MutableAnyView>& adaptor_grad,
                                 const std::optional<AnyView>& mask = std::nullopt);

}  // namespace moptcore::inline v0::distill

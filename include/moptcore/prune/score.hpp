// SPDX-License-Identifier: Apache-2.0
// How much each weight matters: what masks take as `scores`. The lowest scores are pruned.
//
// Each score is stated for one element first, in double, and then for tensors of any floating
// dtype and strides. Those compute in double and round once, to the dtype of `out`, which may be
// an input of the same dtype. NaN gives NaN, which the mask's NonFinite then decides about.
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>

#include <moptcore/core/export.hpp>
#include <moptcore/core/tensor_view.hpp>

namespace moptcore::inline v0::prune {

/// |w|.
[[nodiscard]] inline double magnitude_score(double weight) noexcept { return std::fabs(weight); }

/// First-order change of the loss when the weight becomes zero: (w g)^2, or |w g|. Molchanov et
/// al., Importance Estimation for Neural Network Pruning, CVPR 2019, equation 8.
[[nodiscard]] inline double taylor_score(double weight, double grad, bool squared = true) noexcept {
  const double change = weight * grad;
  return squared ? change * change : std::fabs(change);
}

/// |w g| / total, with total the sum of |w g| over all weights compared; a total of zero or
/// infinity divides nothing. Lee et al., SNIP, ICLR 2019, equation 6.
[[nodiscard]] inline double snip_score(double weight, double grad, double total) noexcept {
  const double change = std::fabs(weight * grad);
  return total > 0.0 && std::isfinite(total) ? change / total : change;
}

/// The score after one more step: previous - w g. It grows while training moves the weight away
/// from zero. Sanh et al., Movement Pruning, NeurIPS 2020, section 3.
[[nodiscard]] inline double movement_score(double weight, double grad, double previous) noexcept {
  return previous - weight * grad;
}

/// |w| times the norm of the input that it multiplies. Sun et al., Wanda, ICLR 2024, equation 1.
[[nodiscard]] inline double wanda_score(double weight, double input_norm) noexcept {
  return std::fabs(weight) * input_norm;
}

/// w^2 / (2 [H^-1]_qq): what the loss rises by when the weight becomes zero and the others adapt.
/// Hassibi and Stork, Optimal Brain Surgeon, NIPS 1992, equation 5.
[[nodiscard]] inline double obs_score(double weight, double inverse_hessian) noexcept {
  return 0.5 * (weight * weight) / inverse_hessian;
}

/// w^2 h / 2: the same while the others stay. LeCun et al., Optimal Brain Damage, NIPS 1989.
[[nodiscard]] inline double obd_score(double weight, double hessian) noexcept {
  return 0.5 * (weight * weight) * hessian;
}

/// The dtype of scores where nobody chose one: float64 if an input is, else float32, which holds
/// the squares and products of 16-bit floats.
[[nodiscard]] constexpr DType score_dtype(DType a, DType b = DType::float32) noexcept {
  return a == DType::float64 || b == DType::float64 ? DType::float64 : DType::float32;
}

MOPTCORE_API void magnitude_score(const AnyView& weights, const MutableAnyView& out);

struct TaylorOptions {
  bool squared = true;
};

/// `grad` has the shape of `weights`; either may also be an activation and its gradient.
MOPTCORE_API void taylor_score(const AnyView& weights, const AnyView& grad,
                               const MutableAnyView& out, const TaylorOptions& options = {});

/// Sum of |w g| without the terms that are NaN, in an order that only the shape decides. Add those
/// of several tensors for the total of a network.
[[nodiscard]] MOPTCORE_API double snip_total(const AnyView& weights, const AnyView& grad);

struct SnipOptions {
  std::optional<double> total;  ///< >= 0; that of these weights alone by default
};

MOPTCORE_API void snip_score(const AnyView& weights, const AnyView& grad, const MutableAnyView& out,
                             const SnipOptions& options = {});

/// Adds -w g to `scores`, which is not an input of its own memory.
MOPTCORE_API void movement_score(const AnyView& weights, const AnyView& grad,
                                 const MutableAnyView& scores);

struct WandaOptions {
  std::int64_t axis = 1;  ///< the axis of the weights along which inputs are counted
};

/// `input_norm` has one number >= 0 for each input; InputNorm makes it. Wanda ranks the weights of
/// each output by themselves: row_mask() does.
MOPTCORE_API void wanda_score(const AnyView& weights, const AnyView& input_norm,
                              const MutableAnyView& out, const WandaOptions& options = {});

struct HessianScoreOptions {
  /// The diagonal is a vector along this axis; by default it has the shape of the weights.
  std::optional<std::int64_t> axis;
};

/// Entries of the inverse must be > 0.
MOPTCORE_API void obs_score(const AnyView& weights, const AnyView& inverse_hessian_diagonal,
                            const MutableAnyView& out, const HessianScoreOptions& options = {});

MOPTCORE_API void obd_score(const AnyView& weights, const AnyView& hessian_diagonal,
                            const MutableAnyView& out, const HessianScoreOptions& options = {});

/// w^2 divided by the sum of the squares of itself and of all that outrank it in this tensor; of
/// equal magnitudes the earlier one outranks the later, as in the masks. The largest scores 1, so
/// that global_mask() on such scores empties no layer before all are down to one weight. Zeros
/// score 0; next to infinite weights, which score 1, finite ones score 0. O(n log n), 16 n bytes.
/// Lee et al., Layer-Adaptive Sparsity for the Magnitude-based Pruning, ICLR 2021, equation 4.
MOPTCORE_API void lamp_score(const AnyView& weights, const MutableAnyView& out);

struct FpgmOptions {
  std::int64_t axis = 0;
};

/// One score for each slice along an axis: the sum of its Euclidean distances to all others. The
/// slices near the geometric median, which the others can replace, score least. O(slices^2 size).
/// He et al., Filter Pruning via Geometric Median, CVPR 2019, equation 4.
MOPTCORE_API void fpgm_score(const AnyView& weights, const MutableAnyView& out,
                             const FpgmOptions& options = {});

/// |gamma| of a batch normalization, one number for each channel. Liu et al., Network Slimming,
/// ICCV 2017.
MOPTCORE_API void batch_norm_score(const AnyView& gamma, const MutableAnyView& out);

}  // namespace moptcore::inline v0::prune

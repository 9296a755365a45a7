// SPDX-License-Identifier: Apache-2.0
// Factors that move the difficulty of quantization from one tensor to another without changing
// what a network computes: AWQ, SmoothQuant, cross-layer equalization.
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <span>

#include <moptcore/core/export.hpp>
#include <moptcore/core/tensor_view.hpp>
#include <moptcore/quant/reconstruct.hpp>

namespace moptcore::inline v0::quant {

/// The power of two whose logarithm is nearest to that of x > 0 (ties to the larger).
[[nodiscard]] inline double nearest_power_of_two(double x) noexcept {
  int exponent = 0;
  const double fraction = std::frexp(x, &exponent);
  return std::ldexp(1.0, fraction * fraction >= 0.5 ? exponent : exponent - 1);
}

/// AWQ (Lin et al. 2023, section 3.2): factors s for weights [out, in], to quantize w s and divide
/// the inputs by s. s_j = m_j^a / sqrt(max_j m_j^a min_j m_j^a), m the mean |x| of each input (m^a
/// counts as 1e-4 where it is smaller), with the exponent a of {0, 1/steps, ..., 1} whose error of
/// the outputs is least; a = 0 is no scaling. `hessian`: [in, in], or [in], its diagonal.
/// Writes `scales` [in], floating; returns a.
MOPTCORE_API double awq_scales(const AnyView& weights, const AnyView& activation_mean,
                               const AnyView& hessian, const MutableAnyView& scales,
                               const WeightGridOptions& grids, int steps = 20);

/// SmoothQuant (Xiao et al. 2022, equation 4): s_j = max|x_j|^alpha / max|w_j|^(1 - alpha), to
/// divide the inputs by s and multiply the columns of all the weights [out, in, ...] that read
/// them. s_j = 1 where an input or its weights are 0. power_of_two: the nearest one, so that both
/// operations are exact. alpha in [0, 1].
MOPTCORE_API void smoothquant_scales(const AnyView& activation_max,
                                     std::span<const AnyView> weights, const MutableAnyView& scales,
                                     double alpha = 0.5, bool power_of_two = false);

/// Cross-layer equalization (Nagel et al. 2019, section 4.1): s_i = sqrt(r1_i / r2_i), r1_i the
/// largest magnitude of output channel i of `first` [channels, ...], r2_i that of input channel i
/// of `second` [out, channels / groups, ...]; depthwise and grouped layers are told by the shape.
/// first_i / s_i and second_i s_i have equal ranges, and with a ReLU (or leaky ReLU) between them
/// the same outputs. s_i = 1 where a range is 0.
MOPTCORE_API void cross_layer_scales(const AnyView& first, const AnyView& second,
                                     const MutableAnyView& scales, bool power_of_two = false);

struct EqualizeOptions {
  bool power_of_two = false;  ///< factors that change no bit of the network's outputs
  int iterations = 100;       ///< sweeps over the pairs, at most
  double tolerance = 1e-3;    ///< until no factor is further from 1
};

/// Equalizes a chain of layers, pair by pair until nothing changes: `weights` [out, in / groups,
/// ...] into `results` of the same dtypes and shapes, `biases` [out] where there are some into
/// `bias_results`. The bias of the last layer stays. Computed in double and rounded once.
MOPTCORE_API void equalize(std::span<const AnyView> weights,
                           std::span<const std::optional<AnyView>> biases,
                           std::span<const MutableAnyView> results,
                           std::span<const std::optional<MutableAnyView>> bias_results,
                           const EqualizeOptions& options = {});

}  // namespace moptcore::inline v0::quant

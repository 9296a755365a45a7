// SPDX-License-Identifier: Apache-2.0
// Rounding of weights by the error that it makes in a layer's outputs: GPTQ, AdaRound, and the
// correction of the mean. Weights are [out, in], outputs x W^T; the hessian is the sum or mean of
// x^T x over samples, [in, in], times any positive factor.
#pragma once

#include <cstdint>
#include <string_view>

#include <moptcore/core/check.hpp>
#include <moptcore/core/export.hpp>
#include <moptcore/core/qparams.hpp>
#include <moptcore/core/tensor_view.hpp>

namespace moptcore::inline v0::quant {

/// sum over rows of (w - a) H (w - a)^T: the squared error of the outputs, with H = X^T X.
/// `hessian` may be a vector [in], the diagonal.
[[nodiscard]] MOPTCORE_API double reconstruction_error(const AnyView& weights,
                                                       const AnyView& approximation,
                                                       const AnyView& hessian);

/// The grids of weights: one a row, or one for each `group_size` neighbours of a row.
struct WeightGridOptions {
  GridType dtype = DType::int4;
  std::int64_t group_size = 0;  ///< 0: whole rows
  bool symmetric = true;
};

/// The order in which GPTQ rounds the columns.
enum class ColumnOrder : std::uint8_t {
  none,        ///< as they are
  activation,  ///< largest diagonal of the hessian first; grids are those of the given weights
};

[[nodiscard]] constexpr ColumnOrder column_order_from(std::string_view text,
                                                      std::string_view where) {
  if (text == "none") return ColumnOrder::none;
  check(text == "activation", where, "order must be \"none\" or \"activation\"", text);
  return ColumnOrder::activation;
}

struct GptqOptions {
  double damping = 0.01;          ///< times the mean diagonal, added to the diagonal; >= 0
  std::int64_t block_size = 128;  ///< columns whose updates are applied together; no result changes
  ColumnOrder order = ColumnOrder::none;
  bool preserve_zeros =
      false;  ///< weights that are 0 get the zero point; the others make up for it
};

/// GPTQ (Frantar et al. 2022, section 3, algorithm 1): rounds column after column to the nearest
/// integer and moves what is left of the row to make up for it. Writes the integers into `q` (the
/// dtype of the grids, int8 for int4, uint8 for uint4). A group's grid is that of its weights when
/// its first column is reached. Inputs that never occur are rounded to the nearest. Throws Error
/// where the damped hessian is not positive definite, NonFiniteError for NaN and infinities.
MOPTCORE_API QParams gptq(const AnyView& weights, const AnyView& hessian, const MutableAnyView& q,
                          const WeightGridOptions& grids, const GptqOptions& options = {});

/// The same on given grids.
MOPTCORE_API void gptq(const AnyView& weights, const AnyView& hessian, const MutableAnyView& q,
                       const QParams& grids, const GptqOptions& options = {});

struct AdaroundOptions {
  int iterations = 500;  ///< of Adam; 0: descent by coordinates alone
  double learning_rate = 0.02;
  double regularization = 0.02;  ///< weight of sum(1 - |2 h - 1|^beta), beside errors in steps
  bool preserve_zeros = false;   ///< weights that are 0 get the zero point and have no choice
};

/// AdaRound (Nagel et al. 2020, sections 3.2 and 4): each weight becomes the grid's integer below
/// or above it, chosen to lower the error of the outputs. The rectified sigmoid h in [0, 1] is
/// learned by Adam on the whole hessian, beta falling from 20 to 2 after the first fifth; then
/// single weights are turned over while that lowers the error. No row ends with a larger error
/// than rounding to the nearest gives. Deterministic: no random numbers.
MOPTCORE_API void adaround(const AnyView& weights, const AnyView& hessian, const MutableAnyView& q,
                           const QParams& grids, const AdaroundOptions& options = {});

/// (W - W') E[x] (Nagel et al. 2019, section 4.2): what to add to the bias, so that quantized
/// weights leave the mean of the outputs as it was. weights, approximation: [out, in / groups,
/// ...]; mean: [in], the mean of each input channel; correction: [out], floating.
MOPTCORE_API void bias_correction(const AnyView& weights, const AnyView& approximation,
                                  const AnyView& mean, const MutableAnyView& correction,
                                  std::int64_t groups = 1);

}  // namespace moptcore::inline v0::quant

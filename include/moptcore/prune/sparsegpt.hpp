// SPDX-License-Identifier: Apache-2.0
// Pruning that repairs the output: the weights that stay make up for those that go.
#pragma once

#include <cstdint>
#include <optional>

#include <moptcore/core/export.hpp>
#include <moptcore/core/tensor_view.hpp>

namespace moptcore::inline v0::prune {

/// Which weights go: exactly one of the first three.
struct SparseGptOptions {
  std::optional<double> sparsity;  ///< in [0, 1)
  /// Keep n of every m consecutive inputs, 1 <= n <= m; an incomplete last group is kept.
  struct Pattern {
    std::int64_t n = 2;
    std::int64_t m = 4;
  };
  std::optional<Pattern> pattern;
  std::optional<AnyView> mask;  ///< of the caller: boolean, or packed for the weights' shape

  /// Columns whose mask is chosen at once, and after which all later columns are repaired; rounded
  /// down to whole groups of m, but at least one. >= 1.
  std::int64_t block_size = 128;
  /// Share of the mean diagonal that is added to the diagonal of the Hessian. >= 0.
  double damping = 0.01;
};

/// Prunes the weights [outputs, inputs] of a linear layer and changes the others such that the
/// output stays close for inputs X with hessian = c X^T X, c > 0: goes through the columns, and for
/// each pruned weight adds -w / U_qq * U_q,: to the rest of its row, U^T U being the inverse of the
/// damped Hessian. The weights to prune are those of least w^2 / U_qq^2 when their block is
/// reached. Frantar and Alistarh, SparseGPT, ICML 2023, algorithm 1.
///
/// With `sparsity`, the blocks up to column c together get zero_count(rows * c, sparsity) zeros,
/// so the whole gets zero_count(size, sparsity); rows may differ. Of equal ones the first stay.
/// Inputs that are always zero (a zero on the Hessian's diagonal) are pruned first; their weights
/// that stay, stay as they are. Pruned weights are +0.
///
/// `hessian` is symmetric, [inputs, inputs], of any floating dtype. `out` has the dtype and shape
/// of `weights` and may be the same array; `out_mask` is boolean or packed. Throws NonFiniteError
/// for NaN and infinity, and Error where the damped Hessian is not positive definite. Computes in
/// double: 8 inputs^2 + 9 outputs * inputs bytes.
MOPTCORE_API void sparsegpt(const AnyView& weights, const AnyView& hessian,
                            const MutableAnyView& out, const MutableAnyView& out_mask,
                            const SparseGptOptions& options);

}  // namespace moptcore::inline v0::prune

// SPDX-License-Identifier: Apache-2.0
// Sparse training: weights that were pruned come back where the gradient asks for them.
#pragma once

#include <cstdint>

#include <moptcore/core/export.hpp>
#include <moptcore/core/tensor_view.hpp>
#include <moptcore/prune/mask.hpp>

namespace moptcore::inline v0::prune {

struct RegrowOptions {
  /// About NaN among the weights that are kept and the gradients of those that are not:
  /// `prune_first` drops such weights first and grows such gradients last, `keep` the reverse.
  NonFinite nonfinite = NonFinite::error;
};

/// Exchanges zero_count(kept weights, fraction) elements of a mask: drops the kept ones of smallest
/// magnitude, then grows as many of those that are not kept by now, the just dropped among them,
/// where |grad| is largest. As many are kept as before. Of equal ones the first stay, or grow.
/// `mask` and `out` are boolean or packed, each as it likes, and may be the same array; `weights`
/// and `grad` are those of the dense layer. Weights that grow start from zero, where apply_mask()
/// has put them. `fraction` in [0, 1]. O(n). Evci et al., Rigging the Lottery, ICML 2020.
MOPTCORE_API void regrow(const AnyView& mask, const AnyView& weights, const AnyView& grad,
                         double fraction, const MutableAnyView& out,
                         const RegrowOptions& options = {});

}  // namespace moptcore::inline v0::prune

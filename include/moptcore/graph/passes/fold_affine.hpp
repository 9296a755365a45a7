// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moptcore/graph/passes/pass.hpp>

namespace moptcore::inline v0::graph {

/// Multiplies products with constants, and adds sums with constants, into the weights and bias of
/// Conv, ConvTranspose, Gemm and MatMul before or behind them; sums before a convolution only where
/// nothing is padded; and into those of BatchNormalization before them. Joins products with
/// constants, and sums.
MOPTCORE_API PassReport fold_affine(Model& model, const PassOptions& options = {});

}  // namespace moptcore::inline v0::graph

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moptcore/graph/passes/pass.hpp>

namespace moptcore::inline v0::graph {

/// Multiplies BatchNormalization of inference into the weights before it (Conv, ConvTranspose,
/// Gemm, MatMul of matrices) or behind it (the same, where padding and bias allow it).
MOPTCORE_API PassReport fold_batch_norm(Model& model, const PassOptions& options = {});

}  // namespace moptcore::inline v0::graph

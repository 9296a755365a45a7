// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moptcore/graph/passes/pass.hpp>

namespace moptcore::inline v0::graph {

/// Makes LayerNormalization (opset 17) of the nodes that compute it from ReduceMean, Sub, Pow or
/// Mul, Sqrt and Div, over the last axes.
MOPTCORE_API PassReport fuse_layer_norm(Model& model, const PassOptions& options = {});

}  // namespace moptcore::inline v0::graph

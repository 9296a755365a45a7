// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moptcore/graph/passes/pass.hpp>

namespace moptcore::inline v0::graph {

/// Makes Gelu (opset 20; erf and tanh), HardSwish (14), HardSigmoid, Swish (24) and Mish (18) of
/// the nodes that compute them.
MOPTCORE_API PassReport fuse_activations(Model& model, const PassOptions& options = {});

}  // namespace moptcore::inline v0::graph

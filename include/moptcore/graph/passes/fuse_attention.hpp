// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moptcore/graph/passes/pass.hpp>

namespace moptcore::inline v0::graph {

/// Makes Attention (opset 23) of the MatMul, scale, mask, Softmax and MatMul over heads that
/// compute scaled dot products. Factors may be on the queries, the keys and the scores.
MOPTCORE_API PassReport fuse_attention(Model& model, const PassOptions& options = {});

}  // namespace moptcore::inline v0::graph

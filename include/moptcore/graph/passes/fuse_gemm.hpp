// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moptcore/graph/passes/pass.hpp>

namespace moptcore::inline v0::graph {

/// Makes Gemm of MatMul and Add where the operands are matrices and the sum adds a row.
MOPTCORE_API PassReport fuse_gemm(Model& model, const PassOptions& options = {});

}  // namespace moptcore::inline v0::graph

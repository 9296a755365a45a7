// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moptcore/graph/passes/pass.hpp>

namespace moptcore::inline v0::graph {

/// Computes nodes whose inputs are initializers, and the shapes of values whose shape is known, as
/// long as the budgets last; makes initializers of Constant nodes; writes the branch of an If out
/// whose condition is known. Never folds random numbers nor DequantizeLinear, whose weights are
/// smaller than what they stand for.
MOPTCORE_API PassReport fold_constants(Model& model, const PassOptions& options = {});

}  // namespace moptcore::inline v0::graph

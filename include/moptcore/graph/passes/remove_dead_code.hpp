// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moptcore/graph/passes/pass.hpp>

namespace moptcore::inline v0::graph {

/// Removes nodes that no output of the model depends on, and initializers that nobody reads.
MOPTCORE_API PassReport remove_dead_code(Model& model, const PassOptions& options = {});

}  // namespace moptcore::inline v0::graph

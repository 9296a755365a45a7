// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moptcore/graph/passes/pass.hpp>

namespace moptcore::inline v0::graph {

/// Computes what several nodes compute from the same inputs once.
MOPTCORE_API PassReport merge_duplicates(Model& model, const PassOptions& options = {});

}  // namespace moptcore::inline v0::graph

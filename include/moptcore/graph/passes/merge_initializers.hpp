// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moptcore/graph/passes/pass.hpp>

namespace moptcore::inline v0::graph {

/// Keeps one of initializers with equal bytes.
MOPTCORE_API PassReport merge_initializers(Model& model, const PassOptions& options = {});

}  // namespace moptcore::inline v0::graph

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moptcore/graph/passes/pass.hpp>

namespace moptcore::inline v0::graph {

/// Moves a Transpose behind the element by element operators that follow it where another Transpose
/// waits that undoes it.
MOPTCORE_API PassReport sink_transposes(Model& model, const PassOptions& options = {});

}  // namespace moptcore::inline v0::graph

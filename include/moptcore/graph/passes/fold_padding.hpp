// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moptcore/graph/passes/pass.hpp>

namespace moptcore::inline v0::graph {

/// Adds zero padding of the spatial axes to the pads of the Conv or AveragePool behind it, padding
/// with -inf to those of MaxPool.
MOPTCORE_API PassReport fold_padding(Model& model, const PassOptions& options = {});

}  // namespace moptcore::inline v0::graph

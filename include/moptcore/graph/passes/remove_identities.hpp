// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moptcore/graph/passes/pass.hpp>

namespace moptcore::inline v0::graph {

/// Removes nodes that pass on their input: Identity, Dropout in inference, casts to the same type,
/// reshapes, transposes, pads, slices and others that change nothing; merges a Reshape of a Reshape
/// and a Transpose of a Transpose; turns Squeeze, Unsqueeze and Flatten of a Reshape into one.
MOPTCORE_API PassReport remove_identities(Model& model, const PassOptions& options = {});

}  // namespace moptcore::inline v0::graph

// SPDX-License-Identifier: Apache-2.0
// Weights whose channels are 0, and nodes that keep them so.
#pragma once

#include "graph/channels/grouping.hpp"

namespace moptcore::inline v0::graph::channels {

/// The model of `all` in which what is removed is 0 wherever it is added up.
[[nodiscard]] Model masked(const Coupling& all, const Removed& removed);

}  // namespace moptcore::inline v0::graph::channels

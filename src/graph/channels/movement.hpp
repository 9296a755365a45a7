// SPDX-License-Identifier: Apache-2.0
// How channels go through operators that move elements or compute each by itself.
#pragma once

#include <span>

#include "graph/channels/layers.hpp"

namespace moptcore::inline v0::graph::channels {

[[nodiscard]] std::span<const NamedRule> movement_rules();

}  // namespace moptcore::inline v0::graph::channels

// SPDX-License-Identifier: Apache-2.0
// How channels go through operators with weights, normalizations, pools and reductions.
#pragma once

#include <span>
#include <string_view>

#include "graph/channels/coupling.hpp"

namespace moptcore::inline v0::graph::channels {

struct NamedRule {
  std::string_view op_type;
  Rule rule;
};

[[nodiscard]] std::span<const NamedRule> layer_rules();

}  // namespace moptcore::inline v0::graph::channels

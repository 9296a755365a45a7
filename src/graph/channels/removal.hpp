// SPDX-License-Identifier: Apache-2.0
// Weights without some of their channels, and nodes that fit them.
#pragma once

#include "graph/channels/grouping.hpp"

namespace moptcore::inline v0::graph::channels {

/// The tensor with those indices of an axis only, in their order. Elements have 8 bits or more.
[[nodiscard]] Tensor taken(const Tensor& tensor, int axis,
                           const std::vector<std::int64_t>& indices);

/// The model of `all` without what is removed.
[[nodiscard]] Model cut(const Coupling& all, const Removed& removed);

}  // namespace moptcore::inline v0::graph::channels

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moptcore/cluster/assign.hpp>

namespace moptcore::inline v0::cluster {

/// assign() of weights that are known to be finite.
void assign_finite(const AnyView& weights, const AnyView& centroids, const MutableAnyView& indices,
                   const AssignOptions& options);

}  // namespace moptcore::inline v0::cluster

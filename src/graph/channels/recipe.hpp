// SPDX-License-Identifier: Apache-2.0
// What tells architectures apart.
#pragma once

#include <string>

#include <moptcore/graph/model.hpp>

namespace moptcore::inline v0::graph::channels {

/// Of a prepared model.
[[nodiscard]] std::string fingerprint_of(const Model& model);

}  // namespace moptcore::inline v0::graph::channels

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moptcore/graph/passes/pass.hpp>

namespace moptcore::inline v0::graph {

/// Removes DequantizeLinear followed by QuantizeLinear with the same parameters, and moves nothing
/// that changes a rounding.
MOPTCORE_API PassReport clean_quantization(Model& model, const PassOptions& options = {});

}  // namespace moptcore::inline v0::graph

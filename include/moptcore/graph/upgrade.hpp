// SPDX-License-Identifier: Apache-2.0
// The same model in a newer version of ONNX's operators.
#pragma once

#include <cstdint>

#include <moptcore/core/export.hpp>
#include <moptcore/graph/model.hpp>

namespace moptcore::inline v0::graph {

inline constexpr std::int64_t kOldestWrittenOpset = 13;

/// Rewrites nodes, of subgraphs and functions too, to compute the same in `opset` of ONNX's own
/// domain: attributes become inputs, changed defaults are written out, Upsample becomes Resize.
/// Throws UnsupportedError for an opset below the model's or outside [13, 28], and for nodes that
/// have no equal there (training outputs, a Scan with batch), naming the node; `model` is then as
/// it was.
MOPTCORE_API void upgrade(Model& model, std::int64_t opset);

}  // namespace moptcore::inline v0::graph

// SPDX-License-Identifier: Apache-2.0
// Element types and shapes of the values of a model, from those of its inputs.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <moptcore/core/export.hpp>
#include <moptcore/graph/model.hpp>

namespace moptcore::inline v0::graph {

using InputShapes = std::map<std::string, std::vector<std::int64_t>, std::less<>>;

struct InferOptions {
  /// Extents that inputs have instead of those that the model says; -1 leaves one as it is. A
  /// symbol that gets an extent so has it in every input whose shape is not given.
  InputShapes inputs;
};

/// Fills `values` and the types of `outputs`, in subgraphs too. Extents are numbers or symbols:
/// those of the inputs, expressions of them such as "2*H+1", and made-up ones ("_d0") where
/// nothing is known; equal symbols are equal extents. Operators without a rule leave their outputs
/// as they are. Sorts the nodes. Time is linear in the number of nodes. Throws FormatError that
/// names the node where shapes contradict each other (not in branches that may never run), Error
/// for `inputs` that the model lacks or that do not have its rank.
MOPTCORE_API void infer_types(Model& model, const InferOptions& options = {});

/// A copy whose inputs have these shapes, all other types inferred anew from them.
[[nodiscard]] MOPTCORE_API Model specialise(const Model& model, const InputShapes& inputs);

}  // namespace moptcore::inline v0::graph

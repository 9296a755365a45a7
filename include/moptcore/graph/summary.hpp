// SPDX-License-Identifier: Apache-2.0
// What a model costs, node by node: parameters, multiplications, bytes of activations.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <moptcore/core/export.hpp>
#include <moptcore/graph/infer.hpp>
#include <moptcore/graph/model.hpp>

namespace moptcore::inline v0::graph {

struct NodeCost {
  std::string name;  ///< of the node, or its first output where it has none
  std::string op_type;
  std::vector<ValueInfo> outputs;
  std::int64_t parameters = 0;       ///< elements of weights that this node reads first
  std::int64_t parameter_bytes = 0;  ///< likewise
  std::int64_t macs = 0;             ///< multiplications with an addition; -1: unknown extents
  std::int64_t output_bytes = 0;     ///< -1: unknown extents
};

struct ModelCost {
  std::vector<NodeCost> nodes;        ///< of the main graph, those of subgraphs behind their node
  std::int64_t parameters = 0;        ///< initializers and Constant nodes once, not int64 ones
  std::int64_t parameter_bytes = 0;   ///< likewise
  std::int64_t macs = 0;              ///< of the nodes where they are known
  std::int64_t activation_bytes = 0;  ///< likewise; of all outputs together
  bool complete = true;               ///< false: some extents are unknown
};

/// Counts, with inputs of these shapes. Convolutions, Gemm, MatMul, Einsum of two operands,
/// recurrences and attention have multiplications; bodies of loops count once. Sums stop at
/// 2^63 - 1. Throws what infer_types throws.
[[nodiscard]] MOPTCORE_API ModelCost count(const Model& model, const InputShapes& inputs = {});

/// The costs as a table of text, a line for each node and one for all; sums that lack something
/// unknown end in "?".
[[nodiscard]] MOPTCORE_API std::string table(const ModelCost& cost);

}  // namespace moptcore::inline v0::graph

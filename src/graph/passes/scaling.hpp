// SPDX-License-Identifier: Apache-2.0
// Linear operators with constant weights, to which factors and sums of channels can be given.
#pragma once

#include <optional>
#include <vector>

#include "graph/passes/editor.hpp"

namespace moptcore::inline v0::graph {

/// y * scale[c] + shift[c] of each output channel, or of each input channel.
struct ChannelAffine {
  std::vector<double> scale;
  std::vector<double> shift;
};

/// Conv, ConvTranspose, Gemm, or MatMul by a matrix, whose weights and bias are constants.
struct LinearNode {
  Node* node = nullptr;
  const Tensor* weights = nullptr;
  std::int64_t inputs = 0;   // channels
  std::int64_t outputs = 0;  // channels
  int channel_axis = 1;      // of input and output, from the front; -1: the last
};

[[nodiscard]] std::optional<LinearNode> linear_node(const GraphEditor& editor, Node* node);

/// Makes the node compute affine(y), y what it computes now. MatMul takes no shift unless it can
/// become Gemm. False, and nothing changed, where that is not possible.
[[nodiscard]] bool scale_outputs(GraphEditor& editor, const LinearNode& linear,
                                 const ChannelAffine& affine);

/// Makes the node compute f(affine(x)) of x. A shift needs a convolution without padding.
[[nodiscard]] bool scale_inputs(GraphEditor& editor, const LinearNode& linear,
                                const ChannelAffine& affine);

/// The elements of a constant as one for each of `channels` on axis `axis` of a tensor of rank
/// `rank`; `axis` -1 is the last. Nothing where it varies along other axes, or would broadcast the
/// tensor to more dimensions.
[[nodiscard]] std::optional<std::vector<double>> per_channel(const Tensor& tensor, int rank,
                                                             int axis, std::int64_t channels);

}  // namespace moptcore::inline v0::graph

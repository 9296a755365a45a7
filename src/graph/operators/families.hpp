// SPDX-License-Identifier: Apache-2.0
// The families of operators, a file each: what `operators()` puts in order.
#pragma once

#include <span>
#include <vector>

#include <moptcore/graph/operator.hpp>

namespace moptcore::inline v0::graph {

[[nodiscard]] std::span<const Operator> attention_operators() noexcept;
[[nodiscard]] std::span<const Operator> cast_operators() noexcept;
[[nodiscard]] std::span<const Operator> classical_operators() noexcept;
[[nodiscard]] std::span<const Operator> control_operators() noexcept;
[[nodiscard]] std::span<const Operator> convolution_operators() noexcept;
[[nodiscard]] std::span<const Operator> einsum_operators() noexcept;
[[nodiscard]] std::span<const Operator> elementwise_operators() noexcept;
[[nodiscard]] std::span<const Operator> gather_operators() noexcept;
[[nodiscard]] std::span<const Operator> generate_operators() noexcept;
[[nodiscard]] std::span<const Operator> identity_operators() noexcept;
[[nodiscard]] std::span<const Operator> logic_operators() noexcept;
[[nodiscard]] std::span<const Operator> loss_operators() noexcept;
[[nodiscard]] std::span<const Operator> matmul_operators() noexcept;
[[nodiscard]] std::span<const Operator> movement_operators() noexcept;
[[nodiscard]] std::span<const Operator> normalization_operators() noexcept;
[[nodiscard]] std::span<const Operator> ordering_operators() noexcept;
[[nodiscard]] std::span<const Operator> pooling_operators() noexcept;
[[nodiscard]] std::span<const Operator> quantization_operators() noexcept;
[[nodiscard]] std::span<const Operator> random_operators() noexcept;
[[nodiscard]] std::span<const Operator> recurrent_operators() noexcept;
[[nodiscard]] std::span<const Operator> reduce_operators() noexcept;
[[nodiscard]] std::span<const Operator> resize_operators() noexcept;
[[nodiscard]] std::span<const Operator> sequence_operators() noexcept;
[[nodiscard]] std::span<const Operator> shape_operators() noexcept;
[[nodiscard]] std::span<const Operator> signal_operators() noexcept;
[[nodiscard]] std::span<const Operator> softmax_operators() noexcept;
[[nodiscard]] std::span<const Operator> spatial_operators() noexcept;
[[nodiscard]] std::span<const Operator> text_operators() noexcept;
[[nodiscard]] std::span<const Operator> trees_operators() noexcept;
[[nodiscard]] std::span<const Operator> unary_operators() noexcept;

/// A new family is declared above and named here.
[[nodiscard]] inline std::vector<std::span<const Operator>> operator_families() {
  // clang-format off
  return {
      attention_operators(),
      cast_operators(),
      classical_operators(),
      control_operators(),
      convolution_operators(),
      einsum_operators(),
      elementwise_operators(),
      gather_operators(),
      generate_operators(),
      identity_operators(),
      logic_operators(),
      loss_operators(),
      matmul_operators(),
      movement_operators(),
      normalization_operators(),
      ordering_operators(),
      pooling_operators(),
      quantization_operators(),
      random_operators(),
      recurrent_operators(),
      reduce_operators(),
      resize_operators(),
      sequence_operators(),
      shape_operators(),
      signal_operators(),
      softmax_operators(),
      spatial_operators(),
      text_operators(),
      trees_operators(),
      unary_operators(),
  };
  // clang-format on
}

}  // namespace moptcore::inline v0::graph

// SPDX-License-Identifier: Apache-2.0
// oneDNN's matrix product of floats. Throws std::runtime_error where oneDNN refuses or fails.
#pragma once

#include <cstdint>

namespace moptcore::inline v0::kernels::onednn {

/// A row-major matrix, or its transpose where asked for; `stride` elements from row to row.
struct Operand {
  const float* data;
  std::int64_t stride;
  bool transpose;
};

/// c = op(a) op(b) on the calling thread. c is m x n, contiguous rows `c_stride` elements apart,
/// and the products have `depth` terms. Equal bits for equal arguments on one machine.
void product_f32(std::int64_t m, std::int64_t n, std::int64_t depth, const Operand& a,
                 const Operand& b, float* c, std::int64_t c_stride);

}  // namespace moptcore::inline v0::kernels::onednn

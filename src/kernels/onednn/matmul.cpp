// SPDX-License-Identifier: Apache-2.0
#include "kernels/onednn/matmul.hpp"

#include <stdexcept>

#include <dnnl.hpp>

namespace moptcore::inline v0::kernels::onednn {

void product_f32(bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n,
                 std::int64_t depth, const float* a, const float* b, float* c) try {
  const dnnl::status status =
      dnnl::sgemm(transpose_a ? 'T' : 'N', transpose_b ? 'T' : 'N', m, n, depth, 1.0f, a,
                  transpose_a ? m : depth, b, transpose_b ? depth : n, 0.0f, c, n);
  if (status != dnnl::status::success) throw std::runtime_error("sgemm failed");
} catch (const dnnl::error& error) {
  throw std::runtime_error(error.what());
}

}  // namespace moptcore::inline v0::kernels::onednn

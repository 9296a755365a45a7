// SPDX-License-Identifier: Apache-2.0
#include "kernels/onednn/matmul.hpp"

#include <stdexcept>

#include <dnnl.hpp>

#include "kernels/onednn/primitive.hpp"

namespace moptcore::inline v0::kernels::onednn {

void product_f32(std::int64_t m, std::int64_t n, std::int64_t depth, const Operand& a,
                 const Operand& b, float* c, std::int64_t c_stride) try {
  // The caller divides the work: the number of oneDNN's own threads would be in the bits.
  const Threads serial(1);
  const dnnl::status status =
      dnnl::sgemm(a.transpose ? 'T' : 'N', b.transpose ? 'T' : 'N', m, n, depth, 1.0f, a.data,
                  a.stride, b.data, b.stride, 0.0f, c, c_stride);
  if (status != dnnl::status::success) throw std::runtime_error("sgemm failed");
} catch (const dnnl::error& error) {
  throw std::runtime_error(error.what());
}

}  // namespace moptcore::inline v0::kernels::onednn

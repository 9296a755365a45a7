// SPDX-License-Identifier: Apache-2.0
#include "kernels/onednn/matmul.hpp"

#include <stdexcept>

#include <dnnl.hpp>

#if DNNL_CPU_THREADING_RUNTIME == DNNL_RUNTIME_OMP
#include <omp.h>
#endif

namespace moptcore::inline v0::kernels::onednn {
namespace {

// Keeps oneDNN on the calling thread: the caller divides the work. Its own threads would be as many
// as OpenMP's default, whatever set_num_threads says, and their number would be in the bits.
class OneThread {
 public:
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;
#if DNNL_CPU_THREADING_RUNTIME == DNNL_RUNTIME_OMP
  OneThread() noexcept : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(before_); }

 private:
  int before_;
#else
  OneThread() = default;
#endif
};

}  // namespace

void product_f32(std::int64_t m, std::int64_t n, std::int64_t depth, const Operand& a,
                 const Operand& b, float* c, std::int64_t c_stride) try {
  const OneThread serial;
  const dnnl::status status =
      dnnl::sgemm(a.transpose ? 'T' : 'N', b.transpose ? 'T' : 'N', m, n, depth, 1.0f, a.data,
                  a.stride, b.data, b.stride, 0.0f, c, c_stride);
  if (status != dnnl::status::success) throw std::runtime_error("sgemm failed");
} catch (const dnnl::error& error) {
  throw std::runtime_error(error.what());
}

}  // namespace moptcore::inline v0::kernels::onednn

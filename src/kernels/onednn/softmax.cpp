// SPDX-License-Identifier: Apache-2.0
#include "kernels/onednn/softmax.hpp"

#include <stdexcept>

#include "kernels/onednn/engine.hpp"

namespace moptcore::inline v0::kernels::onednn {
namespace {

using dnnl::memory;

memory::desc matrix(std::int64_t rows, std::int64_t classes) {
  return {{rows, classes}, memory::data_type::f32, memory::format_tag::ab};
}

dnnl::softmax_forward::primitive_desc forward(const memory::desc& desc, dnnl::prop_kind kind,
                                              dnnl::algorithm algorithm) {
  return {cpu(), kind, algorithm, desc, desc, 1};
}

dnnl::softmax_backward::primitive_desc backward(const memory::desc& desc) {
  constexpr auto log = dnnl::algorithm::softmax_log;
  return {cpu(), log, desc, desc, desc, 1, forward(desc, dnnl::prop_kind::forward_training, log)};
}

// Plans and primitives come from oneDNN's own cache but for the first of their kind.
void run(std::int64_t rows, std::int64_t classes, dnnl::algorithm algorithm, const float* src,
         float* dst) try {
  const Threads serial(1);
  const memory::desc desc = matrix(rows, classes);
  dnnl::stream stream(cpu());
  dnnl::softmax_forward(forward(desc, dnnl::prop_kind::forward_inference, algorithm))
      .execute(stream, {{DNNL_ARG_SRC, memory(desc, cpu(), const_cast<float*>(src))},
                        {DNNL_ARG_DST, memory(desc, cpu(), dst)}});
  stream.wait();
} catch (const dnnl::error& error) {
  throw std::runtime_error(error.what());
}

}  // namespace

void softmax_f32(std::int64_t rows, std::int64_t classes, const float* src, float* dst) {
  run(rows, classes, dnnl::algorithm::softmax_accurate, src, dst);
}

void log_softmax_f32(std::int64_t rows, std::int64_t classes, const float* src, float* dst) {
  run(rows, classes, dnnl::algorithm::softmax_log, src, dst);
}

bool has_softmax_gradient_f32(std::int64_t rows, std::int64_t classes) try {
  const Threads serial(1);
  return !is_slow(backward(matrix(rows, classes)).impl_info_str());
} catch (const dnnl::error&) {
  return false;
}

void log_softmax_gradient_f32(std::int64_t rows, std::int64_t classes, const float* log_p,
                              float* grad) try {
  const Threads serial(1);
  const memory::desc desc = matrix(rows, classes);
  dnnl::stream stream(cpu());
  const memory by(desc, cpu(), grad);
  dnnl::softmax_backward(backward(desc))
      .execute(stream, {{DNNL_ARG_DST, memory(desc, cpu(), const_cast<float*>(log_p))},
                        {DNNL_ARG_DIFF_DST, by},
                        {DNNL_ARG_DIFF_SRC, by}});
  stream.wait();
} catch (const dnnl::error& error) {
  throw std::runtime_error(error.what());
}

}  // namespace moptcore::inline v0::kernels::onednn

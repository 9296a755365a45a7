// SPDX-License-Identifier: Apache-2.0
#include "kernels/onednn/integer.hpp"

#include <stdexcept>

#include "kernels/onednn/engine.hpp"

namespace moptcore::inline v0::kernels::onednn {

using dnnl::memory;

bool sums_bytes_exactly() noexcept {
  // What oneDNN uses, which its environment variables may limit below what the CPU has. Its flags
  // nest: every later one holds the bits of AVX512_VNNI.
  constexpr auto vnni = static_cast<unsigned>(dnnl::cpu_isa::avx512_core_vnni);
  return (static_cast<unsigned>(dnnl::get_effective_cpu_isa()) & vnni) == vnni;
}

struct ByteProduct::Plan {
  std::int64_t inputs;
  std::int64_t outputs;
  memory weight;

  // No zero point and no scale: with either, some of oneDNN's kernels bring the sums through float,
  // which has 24 bit.
  [[nodiscard]] dnnl::matmul::primitive_desc product(std::int64_t rows,
                                                     const memory::desc& layout) const {
    return {cpu(), memory::desc({rows, inputs}, memory::data_type::u8, memory::format_tag::ab),
            layout, memory::desc({rows, outputs}, memory::data_type::s32, memory::format_tag::ab)};
  }
};

ByteProduct::ByteProduct(std::int64_t rows, std::int64_t inputs, std::int64_t outputs,
                         const std::int8_t* weight) try
    : plan_(std::make_unique<Plan>(Plan{inputs, outputs, memory()})) {
  const Threads serial(1);
  const memory::dims dims = {inputs, outputs};
  const auto free =
      plan_->product(rows, memory::desc(dims, memory::data_type::s8, memory::format_tag::any));
  const memory::desc given(dims, memory::data_type::s8, memory::format_tag::ba);
  memory from(given, cpu(), const_cast<std::int8_t*>(weight));
  plan_->weight = memory(free.weights_desc(), cpu());
  dnnl::stream stream(cpu());
  dnnl::reorder(from, plan_->weight).execute(stream, from, plan_->weight);
  stream.wait();
} catch (const dnnl::error& error) {
  throw std::runtime_error(error.what());
}

ByteProduct::ByteProduct(ByteProduct&&) noexcept = default;
ByteProduct::~ByteProduct() = default;

void ByteProduct::multiply(std::int64_t rows, const std::uint8_t* x, std::int32_t* sums) const try {
  const Threads serial(1);
  const auto plan = plan_->product(rows, plan_->weight.get_desc());
  dnnl::stream stream(cpu());
  dnnl::matmul(plan).execute(
      stream, {{DNNL_ARG_SRC, memory(plan.src_desc(), cpu(), const_cast<std::uint8_t*>(x))},
               {DNNL_ARG_WEIGHTS, plan_->weight},
               {DNNL_ARG_DST, memory(plan.dst_desc(), cpu(), sums)}});
  stream.wait();
} catch (const dnnl::error& error) {
  throw std::runtime_error(error.what());
}

}  // namespace moptcore::inline v0::kernels::onednn

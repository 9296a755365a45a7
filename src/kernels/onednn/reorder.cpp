// SPDX-License-Identifier: Apache-2.0
#include "kernels/onednn/reorder.hpp"

#include <stdexcept>
#include <unordered_map>

#include "kernels/onednn/engine.hpp"

namespace moptcore::inline v0::kernels::onednn {
namespace {

using dnnl::memory;

// One reorder between two dense tensors of one shape; `argument` is the quantized side.
void reorder(void* src, memory::data_type src_type, void* dst, memory::data_type dst_type,
             const Grouped& shape, std::span<const float> scales, std::int32_t zero_point,
             int argument) try {
  const memory::dims dims = {shape.outer, shape.channels, shape.inner};
  const memory::desc src_desc(dims, src_type, memory::format_tag::abc);
  const memory::desc dst_desc(dims, dst_type, memory::format_tag::abc);
  dnnl::primitive_attr attributes;
  attributes.set_scales_mask(argument, shape.channels > 1 ? 1 << 1 : 0);
  if (zero_point != 0) attributes.set_zero_points_mask(argument, 0);

  const dnnl::reorder::primitive_desc plan(cpu(), src_desc, cpu(), dst_desc, attributes);
  std::unordered_map<int, memory> arguments;
  arguments.emplace(DNNL_ARG_SRC, memory(src_desc, cpu(), src));
  arguments.emplace(DNNL_ARG_DST, memory(dst_desc, cpu(), dst));
  const memory::desc scale_desc({static_cast<memory::dim>(scales.size())}, memory::data_type::f32,
                                memory::format_tag::a);
  const memory::desc zero_desc({1}, memory::data_type::s32, memory::format_tag::a);
  arguments.emplace(DNNL_ARG_ATTR_SCALES | argument,
                    memory(scale_desc, cpu(), const_cast<float*>(scales.data())));
  if (zero_point != 0) {
    arguments.emplace(DNNL_ARG_ATTR_ZERO_POINTS | argument, memory(zero_desc, cpu(), &zero_point));
  }
  dnnl::stream stream(cpu());
  dnnl::reorder(plan).execute(stream, arguments);
  stream.wait();
} catch (const dnnl::error& error) {
  throw std::runtime_error(error.what());
}

memory::data_type integer(bool is_signed) {
  return is_signed ? memory::data_type::s8 : memory::data_type::u8;
}

}  // namespace

std::string version() {
  const dnnl::version_t& found = *dnnl::version();
  return std::to_string(found.major) + '.' + std::to_string(found.minor) + '.' +
         std::to_string(found.patch);
}

void quantize_f32(const float* src, const Grouped& shape, std::span<const float> scales,
                  std::int32_t zero_point, bool is_signed, void* dst) {
  reorder(const_cast<float*>(src), memory::data_type::f32, dst, integer(is_signed), shape, scales,
          zero_point, DNNL_ARG_DST);
}

void dequantize_f32(const void* src, const Grouped& shape, std::span<const float> scales,
                    std::int32_t zero_point, bool is_signed, float* dst) {
  reorder(const_cast<void*>(src), integer(is_signed), dst, memory::data_type::f32, shape, scales,
          zero_point, DNNL_ARG_SRC);
}

}  // namespace moptcore::inline v0::kernels::onednn

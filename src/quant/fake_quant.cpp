// SPDX-License-Identifier: Apache-2.0
#include <moptcore/quant/fake_quant.hpp>

#include <moptcore/core/parallel.hpp>

#include "kernels/fake_quant.hpp"
#include "kernels/stream_copy.hpp"
#include "kernels/strided.hpp"
#include "quant/grids.hpp"
#include "quant/non_finite.hpp"
#include "quant/transform.hpp"

namespace moptcore::inline v0::quant {
namespace {

using kernels::GridRule;
using kernels::kScratch;

template <class... Args>
void run(const float* src, Args&&... args) noexcept {
  kernels::fake_quant_f32(src, args...);
}

template <class... Args>
void run(const float16* src, Args&&... args) noexcept {
  kernels::fake_quant_f16(src, args...);
}

template <class... Args>
void run(const bfloat16* src, Args&&... args) noexcept {
  kernels::fake_quant_bf16(src, args...);
}

template <class... Args>
void run(const double* src, Args&&... args) noexcept {
  kernels::fake_quant_f64(src, args...);
}

template <class T>
void fake_quantize_as(const AnyView& src, const GridView& grids, const MutableAnyView& dst,
                      std::span<std::uint8_t> bits, NonFinite nonfinite, Compat compat,
                      const char* where) {
  GridRule rule = grid_rule(nonfinite, compat);
  // Along an axis torch multiplies doubles in double.
  rule.float_product = rule.float_product && !grids.axis;
  const auto steps = GridSteps<T>::from(grids, src.shape(), rule.rounding, where);
  if (nonfinite == NonFinite::error) check_no_nan(src, where);
  transform(src, dst, bits, steps,
            [&rule]<class S>(const S* from, std::int64_t n, const auto& grid, S* to,
                             std::uint8_t* to_bits,
                             bool stream) { run(from, n, grid, rule, to, to_bits, stream); });
}

template <class Word, class Keep>
void keep_where(const AnyView& grad, const std::uint8_t* bits, const MutableAnyView& dst,
                Keep&& keep) {
  const bool plain = grad.is_contiguous() && dst.is_contiguous();
  const bool stream = is_streamed(grad, dst);
  parallel_for(grad.size(), kGrain, [&](std::int64_t first, std::int64_t last) {
    if (plain) {
      keep(static_cast<const Word*>(grad.data()) + first, bits + first / 8, last - first,
           static_cast<Word*>(dst.data()) + first, stream);
      if (stream) kernels::stream_fence();
      return;
    }
    alignas(64) Word in[kScratch];
    alignas(64) Word out[kScratch];
    for (std::int64_t at = first; at < last; at += kScratch) {
      const std::int64_t n = std::min(kScratch, last - at);
      kernels::gather(grad, at, n, in);
      keep(in, bits + at / 8, n, out, false);
      kernels::scatter(out, at, n, dst);
    }
  });
}

}  // namespace

void fake_quantize(const AnyView& src, const GridView& grids, const MutableAnyView& dst,
                   std::span<std::uint8_t> bits, NonFinite nonfinite, Compat compat,
                   const char* where) {
  check_same(src, dst, where, "x");
  check(compat != Compat::tf, where,
        "compat must be None, \"torch\" or \"tflite\" (for \"tf\" see fake_quantize_range)", "tf");
  if (!bits.empty()) {
    check_bits(bits, src, where);
    check_bits(bits, dst, where);
  }
  if (src.dtype() == DType::float64) {
    fake_quantize_as<double>(src, grids, dst, bits, nonfinite, compat, where);
  } else {
    fake_quantize_as<float>(src, grids, dst, bits, nonfinite, compat, where);
  }
}

void fake_quantize_backward(const AnyView& grad, std::span<const std::uint8_t> bits,
                            const MutableAnyView& dst) {
  constexpr auto where = "quant.fake_quantize_backward";
  check_same(grad, dst, where, "grad");
  check_bits(bits, grad, where);
  check_bits(bits, dst, where);
  switch (bit_width(grad.dtype())) {
    case 16: return keep_where<std::uint16_t>(grad, bits.data(), dst, kernels::keep_where_u16);
    case 32: return keep_where<std::uint32_t>(grad, bits.data(), dst, kernels::keep_where_u32);
    default: return keep_where<std::uint64_t>(grad, bits.data(), dst, kernels::keep_where_u64);
  }
}

}  // namespace moptcore::inline v0::quant

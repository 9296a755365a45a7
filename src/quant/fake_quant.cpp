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

template <class Grids>
void run(const float* src, std::int64_t n, const Grids& grids, const GridRule& rule, float* dst,
         std::uint8_t* bits) noexcept {
  kernels::fake_quant_f32(src, n, grids, rule, dst, bits);
}

template <class Grids>
void run(const double* src, std::int64_t n, const Grids& grids, const GridRule& rule, double* dst,
         std::uint8_t* bits) noexcept {
  kernels::fake_quant_f64(src, n, grids, rule, dst, bits);
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
            [&rule](const T* from, std::int64_t n, const auto& grid, T* to, std::uint8_t* to_bits) {
              run(from, n, grid, rule, to, to_bits);
            });
}

template <class Word, class Keep>
void keep_where(const AnyView& grad, const std::uint8_t* bits, const MutableAnyView& dst,
                Keep&& keep) {
  const bool plain = grad.is_contiguous() && dst.is_contiguous();
  const bool stream = plain && grad.data() != dst.data() &&
                      byte_count(dst.dtype(), dst.size()) >= kernels::kStreamBytes;
  parallel_for(grad.size(), kGrain, [&](std::int64_t first, std::int64_t last) {
    if (plain && !stream) {
      keep(static_cast<const Word*>(grad.data()) + first, bits + first / 8, last - first,
           static_cast<Word*>(dst.data()) + first);
      return;
    }
    alignas(64) Word in[kScratch];
    alignas(64) Word out[kScratch];
    for (std::int64_t at = first; at < last; at += kScratch) {
      const std::int64_t n = std::min(kScratch, last - at);
      const Word* from = in;
      if (plain) {
        from = static_cast<const Word*>(grad.data()) + at;
      } else {
        kernels::gather(grad, at, n, in);
      }
      keep(from, bits + at / 8, n, out);
      if (stream) {
        kernels::stream_copy(out, n * static_cast<std::int64_t>(sizeof(Word)),
                             static_cast<Word*>(dst.data()) + at);
      } else {
        kernels::scatter(out, at, n, dst);
      }
    }
    if (stream) kernels::stream_fence();
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

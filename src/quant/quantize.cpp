// SPDX-License-Identifier: Apache-2.0
#include <moptcore/quant/quantize.hpp>

#include <moptcore/core/parallel.hpp>

#include <string>

#include "kernels/float_mode.hpp"
#include "kernels/quantize.hpp"
#include "kernels/strided.hpp"
#include "quant/grids.hpp"
#include "quant/non_finite.hpp"
#include "quant/transform.hpp"

namespace moptcore::inline v0::quant {
namespace {

using kernels::GridRule;
using kernels::Integer;
using kernels::kScratch;

// The one-byte dtype that holds a 4-bit one unpacked; every other dtype itself.
constexpr DType unpacked(DType dtype) noexcept {
  if (dtype == DType::int4) return DType::int8;
  return dtype == DType::uint4 ? DType::uint8 : dtype;
}

constexpr Integer integer_of(DType dtype) noexcept {
  switch (unpacked(dtype)) {
    case DType::uint8: return Integer::uint8;
    case DType::int16: return Integer::int16;
    case DType::uint16: return Integer::uint16;
    default: return Integer::int8;
  }
}

// The quantized tensor and the float one; `argument` is the name of the quantized one.
void check_pair(const AnyView& quantized, const AnyView& floats, const QParams& params,
                const char* where, const char* argument, const char* float_argument) {
  if (!is_floating(floats.dtype())) [[unlikely]] {
    throw DTypeError(error_text(
        where, std::string(float_argument) + " must be float64, float32, float16 or bfloat16",
        name(floats.dtype())));
  }
  if (quantized.dtype() != params.dtype() && quantized.dtype() != unpacked(params.dtype()))
      [[unlikely]] {
    throw DTypeError(error_text(
        where, std::string(argument) + " must be " + std::string(name(unpacked(params.dtype()))),
        name(quantized.dtype())));
  }
  if (!(quantized.shape() == floats.shape())) [[unlikely]] {
    throw Error(error_text(where, "out must have the shape of the input", quantized.shape()));
  }
  const auto [first, last] = extent_of(quantized);
  const auto [float_first, float_last] = extent_of(floats);
  check(last <= float_first || float_last <= first || floats.empty(), where,
        "out must not overlap the input");
}

template <class Grids>
void run(const float* src, std::int64_t n, const Grids& grids, const GridRule& rule, Integer type,
         void* dst) noexcept {
  kernels::quantize_f32(src, n, grids, rule, type, dst);
}

template <class Grids>
void run(const double* src, std::int64_t n, const Grids& grids, const GridRule& rule, Integer type,
         void* dst) noexcept {
  kernels::quantize_f64(src, n, grids, rule, type, dst);
}

template <class Grids>
void run(const void* src, Integer type, std::int64_t n, const Grids& grids, float* dst) noexcept {
  kernels::dequantize_f32(src, type, n, grids, dst);
}

template <class Grids>
void run(const void* src, Integer type, std::int64_t n, const Grids& grids, double* dst) noexcept {
  kernels::dequantize_f64(src, type, n, grids, dst);
}

// Blocks of the quantized tensor are contiguous at `bytes` or in a scratch of 16-bit words.
struct QuantizedBlock {
  std::int64_t width;  // bytes of an element as the kernels see it
  bool direct;

  explicit QuantizedBlock(const AnyView& view)
      : width(bit_width(unpacked(view.dtype())) / 8),
        direct(!is_packed(view.dtype()) && view.is_contiguous()) {}
};

template <class T>
void quantize_as(const AnyView& src, const QParams& params, const MutableAnyView& dst,
                 NonFinite nonfinite, Compat compat) {
  constexpr auto where = "quant.quantize";
  GridRule rule = grid_rule(nonfinite, compat);
  if (compat == Compat::torch) {
    rule.zero_point = params.axis() ? kernels::ZeroPoint::before : kernels::ZeroPoint::fused;
  } else {
    rule.nan = kernels::NanPosition::zero;
  }
  const auto steps = GridSteps<T>::from(params.view(), src.shape(), rule.rounding, where);
  if (nonfinite == NonFinite::error) check_no_nan(src, where);
  const QuantizedBlock layout(dst);
  const Integer type = integer_of(dst.dtype());
  parallel_for(src.size(), kGrain, [&](std::int64_t first, std::int64_t last) {
    const kernels::FloatMode mode;
    alignas(64) T in[kScratch];
    alignas(64) std::uint8_t out[kScratch * 2];
    for (std::int64_t at = first; at < last; at += kScratch) {
      const std::int64_t n = std::min(kScratch, last - at);
      const T* from = kernels::block(src, at, n, in);
      std::uint8_t* to = out;
      if (layout.direct) to = static_cast<std::uint8_t*>(dst.data()) + at * layout.width;
      const auto piece = [&](std::int64_t position, std::int64_t count, const auto& grids) {
        const std::int64_t done = position - at;
        run(from + done, count, grids, rule, type, to + done * layout.width);
      };
      steps.for_each_run(at, n, piece, piece);
      if (layout.direct) continue;
      if (is_packed(dst.dtype())) {
        kernels::pack_nibbles(out, n, static_cast<std::uint8_t*>(dst.data()) + at / 2);
      } else {
        kernels::scatter(out, at, n, dst);
      }
    }
  });
}

template <class T>
void dequantize_as(const AnyView& src, const QParams& params, const MutableAnyView& dst) {
  const auto steps = GridSteps<T>::from(params.view(), src.shape(), kernels::Rounding::divide_even,
                                        "quant.dequantize");
  const QuantizedBlock layout(src);
  const Integer type = integer_of(src.dtype());
  parallel_for(src.size(), kGrain, [&](std::int64_t first, std::int64_t last) {
    const kernels::FloatMode mode;
    alignas(64) std::uint8_t in[kScratch * 2];
    alignas(64) T out[kScratch];
    for (std::int64_t at = first; at < last; at += kScratch) {
      const std::int64_t n = std::min(kScratch, last - at);
      const std::uint8_t* from = in;
      const auto* data = static_cast<const std::uint8_t*>(src.data());
      if (layout.direct) {
        from = data + at * layout.width;
      } else if (is_packed(src.dtype())) {
        kernels::unpack_nibbles(data + at / 2, n, src.dtype() == DType::int4, in);
      } else {
        kernels::gather(src, at, n, in);
      }
      T* to = kernels::writable_block(dst, at, out);
      const auto piece = [&](std::int64_t position, std::int64_t count, const auto& grids) {
        const std::int64_t done = position - at;
        run(from + done * layout.width, type, count, grids, to + done);
      };
      steps.for_each_run(at, n, piece, piece);
      if (to == out) kernels::store(out, at, n, dst);
    }
  });
}

}  // namespace

void quantize(const AnyView& src, const QParams& params, const MutableAnyView& dst,
              NonFinite nonfinite, Compat compat) {
  constexpr auto where = "quant.quantize";
  check_pair(dst, src, params, where, "out", "x");
  check(nonfinite != NonFinite::propagate, where,
        "nonfinite must be \"error\" or \"zero_point\": an integer cannot be NaN", "propagate");
  check(compat != Compat::tf, where, "compat must be None, \"torch\" or \"tflite\"", "tf");
  if (src.dtype() == DType::float64) {
    quantize_as<double>(src, params, dst, nonfinite, compat);
  } else {
    quantize_as<float>(src, params, dst, nonfinite, compat);
  }
}

void dequantize(const AnyView& src, const QParams& params, const MutableAnyView& dst) {
  check_pair(src, dst, params, "quant.dequantize", "q", "out");
  if (dst.dtype() == DType::float64) {
    dequantize_as<double>(src, params, dst);
  } else {
    dequantize_as<float>(src, params, dst);
  }
}

}  // namespace moptcore::inline v0::quant

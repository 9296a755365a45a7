// SPDX-License-Identifier: Apache-2.0
#include <moptcore/quant/fake_quant.hpp>

#include <moptcore/core/parallel.hpp>

#include <cstring>

#include "kernels/fake_quant.hpp"
#include "kernels/float_mode.hpp"
#include "kernels/stream_copy.hpp"
#include "kernels/strided.hpp"
#include "quant/grids.hpp"
#include "quant/non_finite.hpp"

namespace moptcore::inline v0::quant {
namespace {

using kernels::GridRule;
using kernels::kScratch;

constexpr std::int64_t kGrain = std::int64_t{1} << 16;
static_assert(kGrain % kScratch == 0 && kScratch % 8 == 0, "blocks must own whole bytes of bits");

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

// Puts `n` bits behind the `at` bits that `dst` already holds; the rest of the last byte is 0.
void append_bits(const std::uint8_t* src, std::int64_t n, std::uint8_t* dst,
                 std::int64_t at) noexcept {
  std::uint8_t* to = dst + at / 8;
  const int shift = static_cast<int>(at % 8);
  if (shift == 0) {
    std::memcpy(to, src, static_cast<std::size_t>(bit_bytes(n)));
    return;
  }
  for (std::int64_t done = 0; done < n; done += 8, ++src, ++to) {
    *to = static_cast<std::uint8_t>(*to | (*src << shift));
    // The bits of the next byte exist only where the source has that many.
    if (n - done > 8 - shift) to[1] = static_cast<std::uint8_t>(*src >> (8 - shift));
  }
}

// Elements [first, first + n) of the tensor, contiguous at src and dst; `bits` is the byte of
// the first one, which starts a byte.
template <class T>
void fake_quantize_block(const T* src, std::int64_t first, std::int64_t n,
                         const GridSteps<T>& steps, const GridRule& rule, T* dst,
                         std::uint8_t* bits) noexcept {
  const auto piece = [&](std::int64_t at, std::int64_t count, const auto& grids) {
    const std::int64_t done = at - first;
    if (bits == nullptr) {
      run(src + done, count, grids, rule, dst + done, nullptr);
    } else if (done % 8 == 0 && (count % 8 == 0 || done + count == n)) {
      run(src + done, count, grids, rule, dst + done, bits + done / 8);
    } else {
      std::uint8_t part[kScratch / 8];
      run(src + done, count, grids, rule, dst + done, part);
      append_bits(part, count, bits, done);
    }
  };
  steps.for_each_run(first, n, piece, piece);
}

template <class T>
void fake_quantize_as(const AnyView& src, const GridView& grids, const MutableAnyView& dst,
                      std::uint8_t* bits, const GridRule& rule, NonFinite nonfinite) {
  const GridSteps<T> steps(grids, src.shape(), rule.rounding, "quant.fake_quantize");
  if (nonfinite == NonFinite::error) check_no_nan(src, "quant.fake_quantize");
  const bool plain = src.dtype() == dtype_of<T>() && src.is_contiguous() && dst.is_contiguous();
  const bool stream = plain && src.data() != dst.data() &&
                      byte_count(dst.dtype(), dst.size()) >= kernels::kStreamBytes;
  const bool whole = plain && !stream && (bits == nullptr || steps.has_whole_bytes());
  parallel_for(src.size(), kGrain, [&](std::int64_t first, std::int64_t last) {
    const kernels::FloatMode mode;
    std::uint8_t* const to_bits = bits == nullptr ? nullptr : bits + first / 8;
    if (whole) {
      fake_quantize_block(static_cast<const T*>(src.data()) + first, first, last - first, steps,
                          rule, static_cast<T*>(dst.data()) + first, to_bits);
      return;
    }
    alignas(64) T in[kScratch];
    alignas(64) T out[kScratch];
    for (std::int64_t at = first; at < last; at += kScratch) {
      const std::int64_t n = std::min(kScratch, last - at);
      const T* from = kernels::block(src, at, n, in);
      T* to = stream ? out : kernels::writable_block(dst, at, out);
      fake_quantize_block(from, at, n, steps, rule, to,
                          bits == nullptr ? nullptr : bits + at / 8);
      if (stream) {
        kernels::stream_copy(out, n * static_cast<std::int64_t>(sizeof(T)),
                             static_cast<T*>(dst.data()) + at);
      } else if (to == out) {
        kernels::store(out, at, n, dst);
      }
    }
    if (stream) kernels::stream_fence();
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

void check_same(const AnyView& src, const MutableAnyView& dst, const char* where,
                const char* source) {
  if (!is_floating(src.dtype())) [[unlikely]] {
    throw DTypeError(error_text(
        where, std::string(source) + " must be float64, float32, float16 or bfloat16",
        name(src.dtype())));
  }
  check<DTypeError>(dst.dtype() == src.dtype(), where,
                    std::string("out must have the dtype of ") + source, name(dst.dtype()));
  check(dst.shape() == src.shape(), where, std::string("out must have the shape of ") + source,
        dst.shape());
  check_no_partial_overlap(src, dst, where, "out");
}

// `bits` is memory of its own with room for one bit an element.
void check_bits(std::span<const std::uint8_t> bits, const AnyView& x, const char* where) {
  if (static_cast<std::int64_t>(bits.size()) != bit_bytes(x.size())) [[unlikely]] {
    throw Error(error_text(
        where, "bits must have " + std::to_string(bit_bytes(x.size())) + " bytes, one bit an element",
        bits.size()));
  }
  const auto [first, last] = extent_of(x);
  const auto start = reinterpret_cast<std::uintptr_t>(bits.data());
  check(bits.empty() || start + bits.size() <= first || last <= start, where,
        "bits must not overlap another array");
}

}  // namespace

void fake_quantize(const AnyView& src, const GridView& grids, const MutableAnyView& dst,
                   std::span<std::uint8_t> bits, NonFinite nonfinite, Compat compat) {
  constexpr auto where = "quant.fake_quantize";
  check_same(src, dst, where, "x");
  check(compat != Compat::tf, where,
        "compat must be None, \"torch\" or \"tflite\" (for \"tf\" see fake_quantize_range)", "tf");
  if (!bits.empty()) {
    check_bits(bits, src, where);
    check_bits(bits, dst, where);
  }
  const GridRule rule = grid_rule(nonfinite, compat);
  std::uint8_t* const to_bits = bits.empty() ? nullptr : bits.data();
  if (src.dtype() == DType::float64) {
    fake_quantize_as<double>(src, grids, dst, to_bits, rule, nonfinite);
  } else {
    fake_quantize_as<float>(src, grids, dst, to_bits, rule, nonfinite);
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

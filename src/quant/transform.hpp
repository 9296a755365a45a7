// SPDX-License-Identifier: Apache-2.0
// Applies an elementwise kernel to tensors of any strides, on all threads, bits included.
#pragma once

#include <moptcore/core/parallel.hpp>
#include <moptcore/core/tensor_view.hpp>

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <type_traits>

#include "kernels/float_mode.hpp"
#include "kernels/stream_copy.hpp"
#include "kernels/strided.hpp"
#include "quant/grids.hpp"

namespace moptcore::inline v0::quant {

inline constexpr std::int64_t kGrain = std::int64_t{1} << 16;
static_assert(kGrain % kernels::kScratch == 0 && kernels::kScratch % 8 == 0,
              "blocks must own whole bytes of bits");

/// Throws unless `out` has the floating dtype and the shape of `x` and does not partly overlap it.
inline void check_same(const AnyView& x, const MutableAnyView& out, const char* where,
                       const char* argument) {
  if (!is_floating(x.dtype())) [[unlikely]] {
    throw DTypeError(
        error_text(where, std::string(argument) + " must be float64, float32, float16 or bfloat16",
                   name(x.dtype())));
  }
  if (out.dtype() != x.dtype()) [[unlikely]] {
    throw DTypeError(error_text(where, std::string("out must have the dtype of ") + argument,
                                name(out.dtype())));
  }
  if (!(out.shape() == x.shape())) [[unlikely]] {
    throw Error(
        error_text(where, std::string("out must have the shape of ") + argument, out.shape()));
  }
  check_no_partial_overlap(x, out, where, "out");
}

/// Throws unless `bits` is memory of its own with one bit for each element of x.
inline void check_bits(std::span<const std::uint8_t> bits, const AnyView& x, const char* where) {
  const std::int64_t bytes = (x.size() + 7) / 8;
  if (static_cast<std::int64_t>(bits.size()) != bytes) [[unlikely]] {
    throw Error(error_text(where,
                           "bits must have " + std::to_string(bytes) +
                               (bytes == 1 ? " byte" : " bytes") + " (one bit an element)",
                           bits.size()));
  }
  const auto [first, last] = extent_of(x);
  const auto start = reinterpret_cast<std::uintptr_t>(bits.data());
  check(bits.empty() || start + bits.size() <= first || last <= start, where,
        "bits must not overlap another array");
}

/// True where kernels may write the result past the caches: it is too large for them, and
/// nothing of it is read again.
inline bool is_streamed(const AnyView& src, const MutableAnyView& dst) noexcept {
  return src.is_contiguous() && dst.is_contiguous() && src.data() != dst.data() &&
         byte_count(dst.dtype(), dst.size()) >= kernels::kStreamBytes &&
         reinterpret_cast<std::uintptr_t>(dst.data()) % 16 == 0;
}

/// Puts `n` bits behind the `at` bits that `dst` already holds; the rest of the last byte is 0.
inline void append_bits(const std::uint8_t* src, std::int64_t n, std::uint8_t* dst,
                        std::int64_t at) noexcept {
  std::uint8_t* to = dst + at / 8;
  const int shift = static_cast<int>(at % 8);
  if (shift == 0) {
    std::memcpy(to, src, static_cast<std::size_t>((n + 7) / 8));
    return;
  }
  for (std::int64_t done = 0; done < n; done += 8, ++src, ++to) {
    *to = static_cast<std::uint8_t>(*to | (*src << shift));
    // The next byte belongs to the result only where the source has bits for it.
    if (n - done > 8 - shift) to[1] = static_cast<std::uint8_t>(*src >> (8 - shift));
  }
}

/// Calls run(src, n, grid or grids, dst, bits, stream) for the runs of elements
/// [first, first + n), which are contiguous at src and dst. `bits` is null or the byte of the first
/// element's bit, which starts a byte.
template <class T, class S, class Run>
void transform_block(const S* src, std::int64_t first, std::int64_t n, const GridSteps<T>& steps,
                     S* dst, std::uint8_t* bits, bool stream, Run&& run) {
  const auto piece = [&](std::int64_t at, std::int64_t count, const auto& grids) {
    const std::int64_t done = at - first;
    if (bits == nullptr) {
      run(src + done, count, grids, dst + done, static_cast<std::uint8_t*>(nullptr), stream);
    } else if (done % 8 == 0 && (count % 8 == 0 || done + count == n)) {
      run(src + done, count, grids, dst + done, bits + done / 8, stream);
    } else {
      std::uint8_t part[kernels::kScratch / 8];
      run(src + done, count, grids, dst + done, part, stream);
      append_bits(part, count, bits, done);
    }
  };
  steps.for_each_run(first, n, piece, piece);
}

/// The same for all elements of two contiguous tensors of S.
template <class S, class T, class Run>
void transform_contiguous(const AnyView& src, const MutableAnyView& dst,
                          std::span<std::uint8_t> bits, const GridSteps<T>& steps, Run&& run) {
  const bool whole = steps.has_whole_bytes();
  const bool stream = whole && is_streamed(src, dst);
  // Bits that do not fill bytes are put together in a scratch of bounded size.
  const std::int64_t most = bits.empty() || whole ? kGrain : kernels::kScratch;
  parallel_for(src.size(), kGrain, [&](std::int64_t first, std::int64_t last) {
    const kernels::FloatMode mode;
    for (std::int64_t at = first; at < last; at += most) {
      transform_block(static_cast<const S*>(src.data()) + at, at, std::min(most, last - at), steps,
                      static_cast<S*>(dst.data()) + at,
                      bits.empty() ? nullptr : bits.data() + at / 8, stream, run);
    }
    if (stream) kernels::stream_fence();
  });
}

/// Calls run as above for all elements of `src`. Contiguous memory is given to it as it is; run
/// takes 16-bit floats too, or they become values of T on the way. `bits` is empty or has a bit for
/// each element.
template <class T, class Run>
void transform(const AnyView& src, const MutableAnyView& dst, std::span<std::uint8_t> bits,
               const GridSteps<T>& steps, Run&& run) {
  using kernels::kScratch;
  if (src.is_contiguous() && dst.is_contiguous()) {
    if (src.dtype() == dtype_of<T>()) {
      return transform_contiguous<T>(src, dst, bits, steps, run);
    }
    if constexpr (std::is_same_v<T, float>) {
      if constexpr (std::is_invocable_v<Run, const float16*, std::int64_t,
                                        const kernels::GridStep<T>&, float16*, std::uint8_t*,
                                        bool>) {
        return src.dtype() == DType::float16
                   ? transform_contiguous<float16>(src, dst, bits, steps, run)
                   : transform_contiguous<bfloat16>(src, dst, bits, steps, run);
      }
    }
  }
  parallel_for(src.size(), kGrain, [&](std::int64_t first, std::int64_t last) {
    const kernels::FloatMode mode;
    alignas(64) T in[kScratch];
    alignas(64) T out[kScratch];
    for (std::int64_t at = first; at < last; at += kScratch) {
      const std::int64_t n = std::min(kScratch, last - at);
      const T* from = kernels::block(src, at, n, in);
      T* to = kernels::writable_block(dst, at, out);
      transform_block(from, at, n, steps, to, bits.empty() ? nullptr : bits.data() + at / 8, false,
                      run);
      if (to == out) kernels::store(out, at, n, dst);
    }
  });
}

}  // namespace moptcore::inline v0::quant

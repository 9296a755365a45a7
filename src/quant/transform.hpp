// SPDX-License-Identifier: Apache-2.0
// Applies an elementwise kernel to tensors of any strides, on all threads, bits included.
#pragma once

#include <moptcore/core/parallel.hpp>
#include <moptcore/core/tensor_view.hpp>

#include <cstdint>
#include <cstring>
#include <span>
#include <string>

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

/// True where the result is too large for the caches and is not written over its source.
inline bool is_streamed(const AnyView& src, const MutableAnyView& dst) noexcept {
  return src.is_contiguous() && dst.is_contiguous() && src.data() != dst.data() &&
         byte_count(dst.dtype(), dst.size()) >= kernels::kStreamBytes;
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

/// Calls run(src, n, grid or grids, dst, bits) for the runs of elements [first, first + n), which
/// are contiguous at src and dst. `bits` is null or the byte of the first element's bit, which
/// starts a byte.
template <class T, class Run>
void transform_block(const T* src, std::int64_t first, std::int64_t n, const GridSteps<T>& steps,
                     T* dst, std::uint8_t* bits, Run&& run) {
  const auto piece = [&](std::int64_t at, std::int64_t count, const auto& grids) {
    const std::int64_t done = at - first;
    if (bits == nullptr) {
      run(src + done, count, grids, dst + done, static_cast<std::uint8_t*>(nullptr));
    } else if (done % 8 == 0 && (count % 8 == 0 || done + count == n)) {
      run(src + done, count, grids, dst + done, bits + done / 8);
    } else {
      std::uint8_t part[kernels::kScratch / 8];
      run(src + done, count, grids, dst + done, part);
      append_bits(part, count, bits, done);
    }
  };
  steps.for_each_run(first, n, piece, piece);
}

/// Calls run as above for all elements of `src`, which become values of type T on the way to
/// `dst`. `bits` is empty or has a bit for each element.
template <class T, class Run>
void transform(const AnyView& src, const MutableAnyView& dst, std::span<std::uint8_t> bits,
               const GridSteps<T>& steps, Run&& run) {
  using kernels::kScratch;
  const bool plain = src.dtype() == dtype_of<T>() && src.is_contiguous() && dst.is_contiguous();
  const bool stream = plain && is_streamed(src, dst);
  const bool whole = plain && !stream && (bits.empty() || steps.has_whole_bytes());
  parallel_for(src.size(), kGrain, [&](std::int64_t first, std::int64_t last) {
    const kernels::FloatMode mode;
    const auto bits_at = [&](std::int64_t at) {
      return bits.empty() ? nullptr : bits.data() + at / 8;
    };
    if (whole) {
      transform_block(static_cast<const T*>(src.data()) + first, first, last - first, steps,
                      static_cast<T*>(dst.data()) + first, bits_at(first), run);
      return;
    }
    alignas(64) T in[kScratch];
    alignas(64) T out[kScratch];
    for (std::int64_t at = first; at < last; at += kScratch) {
      const std::int64_t n = std::min(kScratch, last - at);
      const T* from = kernels::block(src, at, n, in);
      T* to = stream ? out : kernels::writable_block(dst, at, out);
      transform_block(from, at, n, steps, to, bits_at(at), run);
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

}  // namespace moptcore::inline v0::quant

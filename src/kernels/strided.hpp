// SPDX-License-Identifier: Apache-2.0
// Blocks of any tensor as contiguous float or double, and back: how kernels that are written for
// contiguous floats serve every stride and floating dtype. Positions count in row-major order.
#pragma once

#include <moptcore/core/export.hpp>
#include <moptcore/core/tensor_view.hpp>

namespace moptcore::inline v0::kernels {

/// Copies elements [first, first + n) of `src` (any dtype but packed) into `dst`, converted.
/// float64 and 64-bit integers round when they go to float.
MOPTCORE_API void load(const AnyView& src, std::int64_t first, std::int64_t n, float* dst) noexcept;
MOPTCORE_API void load(const AnyView& src, std::int64_t first, std::int64_t n,
                       double* dst) noexcept;

/// Copies `n` values into elements [first, first + n) of `dst` (a floating dtype), rounded.
void store(const float* src, std::int64_t first, std::int64_t n,
           const MutableAnyView& dst) noexcept;
MOPTCORE_API void store(const double* src, std::int64_t first, std::int64_t n,
                        const MutableAnyView& dst) noexcept;

/// Copies elements [first, first + n) of the raw bytes of a strided tensor whose elements have
/// 1, 2, 4 or 8 bytes, unconverted, to or from a contiguous array.
void gather(const AnyView& src, std::int64_t first, std::int64_t n, void* dst) noexcept;
void scatter(const void* src, std::int64_t first, std::int64_t n,
             const MutableAnyView& dst) noexcept;

/// The elements themselves where they already are contiguous values of type T, else `scratch`,
/// filled. `scratch` has room for n values.
template <class T>
[[nodiscard]] const T* block(const AnyView& src, std::int64_t first, std::int64_t n,
                             T* scratch) noexcept {
  if (src.dtype() == dtype_of<T>() && src.is_contiguous()) {
    return static_cast<const T*>(src.data()) + first;
  }
  load(src, first, n, scratch);
  return scratch;
}

/// Where a kernel may write values of type T: into `dst` itself, or into `scratch` for `store`.
template <class T>
[[nodiscard]] T* writable_block(const MutableAnyView& dst, std::int64_t first,
                                T* scratch) noexcept {
  if (dst.dtype() == dtype_of<T>() && dst.is_contiguous())
    return static_cast<T*>(dst.data()) + first;
  return scratch;
}

/// Elements a block of scratch holds in the elementwise primitives: 16 KiB of floats.
inline constexpr std::int64_t kScratch = 4096;

}  // namespace moptcore::inline v0::kernels

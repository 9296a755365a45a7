// SPDX-License-Identifier: Apache-2.0
// Masks of either form as the bits that the kernels work on, and back.
#pragma once

#include <cstdint>

#include <moptcore/core/pool.hpp>
#include <moptcore/core/tensor_view.hpp>

namespace moptcore::inline v0::prune {

/// Elements that one block of parallel work covers: a multiple of 8, so that no two blocks share
/// a byte of a packed mask.
inline constexpr std::int64_t kMaskGrain = 65536;

/// Throws unless `mask` is boolean and of `shape`, or packed for it.
void check_mask(const AnyView& mask, const Shape& shape, const char* where, const char* argument);

/// Writes elements [first, first + n) of a mask; first is a multiple of 8.
void store_bits(const std::uint8_t* bits, std::int64_t first, std::int64_t n,
                const MutableAnyView& mask) noexcept;

/// The bits of elements [first, first + n), n <= 4096: a pointer into a packed mask or `scratch`.
[[nodiscard]] const std::uint8_t* load_bits(const AnyView& mask, std::int64_t first, std::int64_t n,
                                            std::uint8_t* scratch) noexcept;

/// A mask of one byte per element in memory of its own, for patterns that do not come in
/// row-major order. Nothing reaches the caller's mask before commit().
class ByteMask {
 public:
  explicit ByteMask(std::int64_t size);
  [[nodiscard]] std::uint8_t* data() const noexcept {
    return static_cast<std::uint8_t*>(buffer_.get());
  }
  void commit(const MutableAnyView& mask) const;

 private:
  std::int64_t size_;
  PoolBuffer buffer_;
};

}  // namespace moptcore::inline v0::prune

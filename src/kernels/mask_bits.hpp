// SPDX-License-Identifier: Apache-2.0
// Masks of one bit and of one byte per element, and what they do to tensors. Bit i of a packed
// mask is bit i % 8 of byte i / 8; unused bits of the last byte are zero.
#pragma once

#include <cstdint>

namespace moptcore::inline v0::kernels {

/// Writes 0 or 1 for each bit. `stream` writes around the caches, for results larger than they.
void unpack_bits(const std::uint8_t* bits, std::int64_t n, std::uint8_t* bytes,
                 bool stream) noexcept;

/// Sets bit i where byte i is not zero.
void pack_bytes(const std::uint8_t* bytes, std::int64_t n, std::uint8_t* bits) noexcept;

/// dst[i] = bit i ? src[i] : 0. dst may be src.
void keep(const std::uint8_t* src, const std::uint8_t* bits, std::int64_t n,
          std::uint8_t* dst) noexcept;
void keep(const std::uint16_t* src, const std::uint8_t* bits, std::int64_t n,
          std::uint16_t* dst) noexcept;
void keep(const std::uint32_t* src, const std::uint8_t* bits, std::int64_t n,
          std::uint32_t* dst) noexcept;
void keep(const std::uint64_t* src, const std::uint8_t* bits, std::int64_t n,
          std::uint64_t* dst) noexcept;

/// How many of n words are zero once anded with `mask`.
std::int64_t count_zeros(const std::uint8_t* src, std::int64_t n, std::uint8_t mask) noexcept;
std::int64_t count_zeros(const std::uint16_t* src, std::int64_t n, std::uint16_t mask) noexcept;
std::int64_t count_zeros(const std::uint32_t* src, std::int64_t n, std::uint32_t mask) noexcept;
std::int64_t count_zeros(const std::uint64_t* src, std::int64_t n, std::uint64_t mask) noexcept;

}  // namespace moptcore::inline v0::kernels

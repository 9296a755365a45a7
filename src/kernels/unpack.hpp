// SPDX-License-Identifier: Apache-2.0
// Inner loops of packing: the coder's rounds, putting stored elements where a mask has bits, and
// checksums.
#pragma once

#include <cstdint>

namespace moptcore::inline v0::kernels {

/// Lanes of the coder whose rounds are vectors.
inline constexpr int kRansLanes = 32;

/// Of the coder rans: states, and the words that they have not taken yet.
struct RansReader {
  std::uint32_t states[kRansLanes];
  const std::uint8_t* word;
  const std::uint8_t* end;
};

/// Decodes rounds of kRansLanes symbols while `n` has room for one and the reader holds as many
/// words as one may take; returns the symbols. `table` has 4096 entries: frequency - 1 in the
/// upper 12 bits, then 12 bits of the place within the symbol's range, then the symbol.
std::int64_t rans_rounds(const std::uint32_t* table, RansReader& reader, std::uint8_t* symbols,
                         std::int64_t n) noexcept;

[[nodiscard]] std::int64_t count_bits(const std::uint8_t* bits, std::int64_t bytes) noexcept;

/// Folds a multiple of 64 bytes, 64 at least, into 16 that have the same CRC-32 from 0 on as those
/// have from `crc` on (both as in the middle of a run, not inverted). False, with nothing done, on
/// targets without a product of polynomials.
[[nodiscard]] bool crc32_fold(const std::uint8_t* bytes, std::int64_t count, std::uint32_t crc,
                              std::uint8_t* folded) noexcept;

/// Bytes behind `stored` that expand may read.
inline constexpr std::int64_t kExpandSlack = 32;

/// dst[i] is the next stored word where bit i is set, else `zero`; returns the words taken.
std::int64_t expand(const std::uint8_t* bits, const std::uint8_t* stored, std::uint8_t zero,
                    std::int64_t n, std::uint8_t* dst) noexcept;
std::int64_t expand(const std::uint8_t* bits, const std::uint16_t* stored, std::uint16_t zero,
                    std::int64_t n, std::uint16_t* dst) noexcept;
std::int64_t expand(const std::uint8_t* bits, const std::uint32_t* stored, std::uint32_t zero,
                    std::int64_t n, std::uint32_t* dst) noexcept;
std::int64_t expand(const std::uint8_t* bits, const std::uint64_t* stored, std::uint64_t zero,
                    std::int64_t n, std::uint64_t* dst) noexcept;

/// Bit i is set where src[i] is not zero.
void mark(const std::uint8_t* src, std::uint8_t zero, std::int64_t n, std::uint8_t* bits) noexcept;
void mark(const std::uint16_t* src, std::uint16_t zero, std::int64_t n,
          std::uint8_t* bits) noexcept;
void mark(const std::uint32_t* src, std::uint32_t zero, std::int64_t n,
          std::uint8_t* bits) noexcept;
void mark(const std::uint64_t* src, std::uint64_t zero, std::int64_t n,
          std::uint8_t* bits) noexcept;

}  // namespace moptcore::inline v0::kernels

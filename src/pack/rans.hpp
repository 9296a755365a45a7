// SPDX-License-Identifier: Apache-2.0
// Static order-0 rANS over bytes: 32-bit states, 16-bit words, probabilities of 2^-12.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "bytes.hpp"

namespace moptcore::inline v0::pack {

using Histogram = std::array<std::int64_t, 256>;

[[nodiscard]] Histogram histogram_of(ByteSpan symbols);

/// Bytes that order-0 coding with exact probabilities takes; a lower bound of rans_encode's.
[[nodiscard]] double entropy_bytes(const Histogram& histogram);

/// The symbols, of at least two kinds, coded:
///   u8 log2 of the lanes (1, 2, 4, 8 or 32), u8 first and u8 last symbol, for each from first to
///   last 4 bits of the length of its frequency and the bits below the leading one; for each block
///   of kBlock symbols varint length, the lanes' states, words. Symbol i of a block belongs to lane
///   i % lanes.
[[nodiscard]] Bytes rans_encode(ByteSpan symbols, const Histogram& histogram);

/// Bytes that rans_encode makes of symbols with this histogram, but for two or three a block.
[[nodiscard]] std::size_t rans_bytes(const Histogram& histogram);

/// Fills `symbols`; throws FormatError where `coded` does not hold exactly that many.
void rans_decode(ByteSpan coded, std::span<std::uint8_t> symbols);

}  // namespace moptcore::inline v0::pack

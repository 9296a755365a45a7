// SPDX-License-Identifier: Apache-2.0
#include "kernels/unpack.hpp"

#include <array>
#include <bit>
#include <cstring>

#ifndef MOPTCORE_UNPACK_RANKS
#define MOPTCORE_UNPACK_RANKS
namespace moptcore::inline v0::kernels {

// For each byte of a mask, and each of its bits: how many lower bits are set, or kUnset. As indices
// of bytes, which those of words are made from, kUnset stays one that gives zero.
inline constexpr std::uint8_t kUnset = 0xC0;

inline constexpr auto kRanks = [] {
  std::array<std::array<std::uint8_t, 8>, 256> ranks{};
  for (unsigned byte = 0; byte < 256; ++byte) {
    std::uint8_t rank = 0;
    for (unsigned bit = 0; bit < 8; ++bit) {
      ranks[byte][bit] = (byte >> bit & 1u) != 0 ? rank++ : kUnset;
    }
  }
  return ranks;
}();

inline constexpr auto kCounts = [] {
  std::array<std::uint8_t, 256> counts{};
  for (unsigned byte = 0; byte < 256; ++byte) {
    counts[byte] = static_cast<std::uint8_t>(std::popcount(byte));
  }
  return counts;
}();

// x^n modulo the polynomial of CRC-32, reflected, in the upper 33 of 64 bits reflected: what a
// product of reflected polynomials, which comes out one bit short, is to be multiplied by.
constexpr std::uint64_t crc32_power(int n) {
  std::uint32_t power = 0x80000000u;  // 1
  for (int i = 0; i < n; ++i) power = (power >> 1) ^ ((power & 1u) != 0 ? 0xEDB88320u : 0u);
  return std::uint64_t{power} << 1;
}

template <class Word>
std::int64_t expand_by_word(const std::uint8_t* bits, const Word* stored, Word zero,
                            std::int64_t first, std::int64_t n, std::int64_t at, Word* dst) {
  for (std::int64_t i = first; i < n; ++i) {
    const unsigned set = bits[i / 8] >> (i % 8) & 1u;
    // Read only where a bit says that there is one.
    dst[i] = set != 0 ? stored[at] : zero;
    at += set;
  }
  return at;
}

template <class Word>
std::int64_t expand_by_byte(const std::uint8_t* bits, const Word* stored, Word zero, std::int64_t n,
                            Word* dst) {
  std::int64_t at = 0;
  std::int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (int lane = 0; lane < 8; ++lane) dst[i + lane] = zero;
    for (unsigned left = bits[i / 8]; left != 0; left &= left - 1) {
      dst[i + std::countr_zero(left)] = stored[at++];
    }
  }
  return expand_by_word(bits, stored, zero, i, n, at, dst);
}

inline std::uint32_t next_word(const std::uint8_t* word) {
  return word[0] | static_cast<std::uint32_t>(word[1]) << 8;
}

}  // namespace moptcore::inline v0::kernels
#endif

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/unpack.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/bits-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace moptcore::inline v0::kernels {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128

bool Crc32Fold(const std::uint8_t*, std::int64_t, std::uint32_t, std::uint8_t*) { return false; }

std::int64_t RansRounds(const std::uint32_t* HWY_RESTRICT table, RansReader& reader,
                        std::uint8_t* HWY_RESTRICT symbols, std::int64_t n) {
  const std::uint8_t* word = reader.word;
  std::int64_t i = 0;
  for (; i + kRansLanes <= n && reader.end - word >= 2 * kRansLanes; i += kRansLanes) {
    for (int lane = 0; lane < kRansLanes; ++lane) {
      const std::uint32_t x = reader.states[lane];
      const std::uint32_t entry = table[x & 4095u];
      symbols[i + lane] = static_cast<std::uint8_t>(entry);
      const std::uint32_t y = ((entry >> 20) + 1) * (x >> 12) + (entry >> 8 & 4095u);
      // A branch here would be wrong every other time.
      const std::uint32_t low = y < 65536u ? 1u : 0u;
      const std::uint32_t mask = 0u - low;
      reader.states[lane] = (y << (16u & mask)) | (next_word(word) & mask);
      word += 2 * low;
    }
  }
  reader.word = word;
  return i;
}

std::int64_t Expand_u8(const std::uint8_t* bits, const std::uint8_t* stored, std::uint8_t zero,
                       std::int64_t n, std::uint8_t* dst) {
  return expand_by_byte(bits, stored, zero, n, dst);
}
std::int64_t Expand_u16(const std::uint8_t* bits, const std::uint16_t* stored, std::uint16_t zero,
                        std::int64_t n, std::uint16_t* dst) {
  return expand_by_byte(bits, stored, zero, n, dst);
}
std::int64_t Expand_u32(const std::uint8_t* bits, const std::uint32_t* stored, std::uint32_t zero,
                        std::int64_t n, std::uint32_t* dst) {
  return expand_by_byte(bits, stored, zero, n, dst);
}

#else

// Gopal et al., Fast CRC Computation for Generic Polynomials Using PCLMULQDQ, Intel, 2009: 16 bytes
// move forward by 8 n bits when their halves are multiplied by powers of x. The first half lies 64
// bits further from there than the second.
bool Crc32Fold(const std::uint8_t* HWY_RESTRICT bytes, std::int64_t count, std::uint32_t crc,
               std::uint8_t* HWY_RESTRICT folded) {
  const hn::FixedTag<std::uint64_t, 2> d;
  const hn::FixedTag<std::uint8_t, 16> d8;
  using V = hn::Vec<std::remove_const_t<decltype(d)>>;
  const auto load = [&](std::int64_t at)
                        HWY_ATTR { return hn::BitCast(d, hn::LoadU(d8, bytes + at)); };
  const auto forward = [&](V x, V powers) HWY_ATTR {
    return hn::Xor(hn::CLMulLower(x, powers), hn::CLMulUpper(x, powers));
  };
  HWY_ALIGN constexpr std::uint64_t kBy64[2] = {crc32_power(512 + 32), crc32_power(512 - 32)};
  HWY_ALIGN constexpr std::uint64_t kBy16[2] = {crc32_power(128 + 32), crc32_power(128 - 32)};
  const V by64 = hn::Load(d, kBy64);
  const V by16 = hn::Load(d, kBy16);
  HWY_ALIGN const std::uint64_t start[2] = {crc, 0};
  V x0 = hn::Xor(load(0), hn::Load(d, start));
  V x1 = load(16);
  V x2 = load(32);
  V x3 = load(48);
  for (std::int64_t i = 64; i < count; i += 64) {
    x0 = hn::Xor(forward(x0, by64), load(i));
    x1 = hn::Xor(forward(x1, by64), load(i + 16));
    x2 = hn::Xor(forward(x2, by64), load(i + 32));
    x3 = hn::Xor(forward(x3, by64), load(i + 48));
  }
  x1 = hn::Xor(forward(x0, by16), x1);
  x2 = hn::Xor(forward(x1, by16), x2);
  x3 = hn::Xor(forward(x2, by16), x3);
  hn::StoreU(hn::BitCast(d8, x3), d8, folded);
  return true;
}

std::int64_t RansRounds(const std::uint32_t* HWY_RESTRICT table, RansReader& reader,
                        std::uint8_t* HWY_RESTRICT symbols, std::int64_t n) {
  const hn::CappedTag<std::uint32_t, 8> d;
  const hn::RebindToSigned<decltype(d)> di;
  const hn::Rebind<std::uint8_t, decltype(d)> d8;
  const hn::Rebind<std::uint16_t, decltype(d)> d16;
  const hn::Repartition<std::uint8_t, decltype(d16)> d16_bytes;
  constexpr int kLanes = static_cast<int>(hn::MaxLanes(d));
  constexpr int kVectors = kRansLanes / kLanes;
  using V = hn::Vec<std::remove_const_t<decltype(d)>>;
  const V slots = hn::Set(d, 4095u);
  const V one = hn::Set(d, 1u);
  const std::uint8_t* word = reader.word;
  const auto round = [&](V x, std::uint8_t* to) HWY_ATTR {
    const V entry = hn::BitCast(d, hn::GatherIndex(di, reinterpret_cast<const std::int32_t*>(table),
                                                   hn::BitCast(di, hn::And(x, slots))));
    hn::StoreU(hn::U8FromU32(hn::And(entry, hn::Set(d, 255u))), d8, to);
    const V y = hn::Add(hn::Mul(hn::Add(hn::ShiftRight<20>(entry), one), hn::ShiftRight<12>(x)),
                        hn::And(hn::ShiftRight<8>(entry), slots));
    const auto low =
        hn::RebindMask(d, hn::Eq(hn::BitCast(di, hn::ShiftRight<16>(y)), hn::Zero(di)));
    std::uint8_t bits[8] = {};
    hn::StoreMaskBits(d, low, bits);
    // The lanes below 2^16 take the next words in their order.
    const V words = hn::PromoteTo(d, hn::BitCast(d16, hn::LoadU(d16_bytes, word)));
    const V ranks = hn::And(hn::PromoteTo(d, hn::LoadU(d8, kRanks[bits[0]].data())),
                            hn::Set(d, static_cast<std::uint32_t>(kLanes - 1)));
    const V taken = hn::TableLookupLanes(words, hn::IndicesFromVec(d, ranks));
    word += 2 * kCounts[bits[0]];
    return hn::IfThenElse(low, hn::Or(hn::ShiftLeft<16>(y), taken), y);
  };
  std::int64_t i = 0;
  if constexpr (kVectors == 4) {
    V x0 = hn::LoadU(d, reader.states);
    V x1 = hn::LoadU(d, reader.states + kLanes);
    V x2 = hn::LoadU(d, reader.states + 2 * kLanes);
    V x3 = hn::LoadU(d, reader.states + 3 * kLanes);
    for (; i + kRansLanes <= n && reader.end - word >= 2 * kRansLanes; i += kRansLanes) {
      x0 = round(x0, symbols + i);
      x1 = round(x1, symbols + i + kLanes);
      x2 = round(x2, symbols + i + 2 * kLanes);
      x3 = round(x3, symbols + i + 3 * kLanes);
    }
    hn::StoreU(x0, d, reader.states);
    hn::StoreU(x1, d, reader.states + kLanes);
    hn::StoreU(x2, d, reader.states + 2 * kLanes);
    hn::StoreU(x3, d, reader.states + 3 * kLanes);
  } else {
    for (; i + kRansLanes <= n && reader.end - word >= 2 * kRansLanes; i += kRansLanes) {
      for (int v = 0; v < kVectors; ++v) {
        std::uint32_t* states = reader.states + v * kLanes;
        hn::StoreU(round(hn::LoadU(d, states), symbols + i + v * kLanes), d, states);
      }
    }
  }
  reader.word = word;
  return i;
}

// Words that are zero in the vector become `zero` by flipping its bits before and after.
std::int64_t Expand_u8(const std::uint8_t* HWY_RESTRICT bits,
                       const std::uint8_t* HWY_RESTRICT stored, std::uint8_t zero, std::int64_t n,
                       std::uint8_t* HWY_RESTRICT dst) {
  const hn::CappedTag<std::uint8_t, 8> d;
  const auto flip = hn::Set(d, zero);
  std::int64_t at = 0;
  std::int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const unsigned byte = bits[i / 8];
    const auto words = hn::Xor(hn::LoadU(d, stored + at), flip);
    const auto ranks = hn::LoadU(d, kRanks[byte].data());
    hn::StoreU(hn::Xor(hn::TableLookupBytesOr0(words, ranks), flip), d, dst + i);
    at += kCounts[byte];
  }
  return expand_by_word(bits, stored, zero, i, n, at, dst);
}

std::int64_t Expand_u16(const std::uint8_t* HWY_RESTRICT bits,
                        const std::uint16_t* HWY_RESTRICT stored, std::uint16_t zero,
                        std::int64_t n, std::uint16_t* HWY_RESTRICT dst) {
  const hn::CappedTag<std::uint16_t, 8> d;
  const hn::CappedTag<std::uint8_t, 8> d8;
  const hn::Repartition<std::uint8_t, decltype(d)> dbytes;
  const auto flip = hn::Set(d, zero);
  // Rank r becomes the bytes 2 r and 2 r + 1.
  const auto twice = hn::Set(d, std::uint16_t{0x0202});
  const auto upper = hn::Set(d, std::uint16_t{0x0100});
  std::int64_t at = 0;
  std::int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const unsigned byte = bits[i / 8];
    const auto words = hn::Xor(hn::LoadU(d, stored + at), flip);
    const auto ranks = hn::PromoteTo(d, hn::LoadU(d8, kRanks[byte].data()));
    const auto places = hn::BitCast(dbytes, hn::Add(hn::Mul(ranks, twice), upper));
    const auto spread = hn::BitCast(d, hn::TableLookupBytesOr0(hn::BitCast(dbytes, words), places));
    hn::StoreU(hn::Xor(spread, flip), d, dst + i);
    at += kCounts[byte];
  }
  return expand_by_word(bits, stored, zero, i, n, at, dst);
}

std::int64_t Expand_u32(const std::uint8_t* HWY_RESTRICT bits,
                        const std::uint32_t* HWY_RESTRICT stored, std::uint32_t zero,
                        std::int64_t n, std::uint32_t* HWY_RESTRICT dst) {
  const hn::CappedTag<std::uint32_t, 8> d;
  const hn::Rebind<std::uint8_t, decltype(d)> d8;
  constexpr int kLanes = static_cast<int>(hn::MaxLanes(d));
  const auto zeros = hn::Set(d, zero);
  const auto lanes = hn::Set(d, static_cast<std::uint32_t>(kLanes - 1));
  const auto unset = hn::Set(d, 128u);
  std::int64_t at = 0;
  std::int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (int part = 0; part < 8; part += kLanes) {
      const unsigned byte = bits[i / 8] >> part & ((1u << kLanes) - 1u);
      const auto words = hn::LoadU(d, stored + at);
      const auto ranks = hn::PromoteTo(d, hn::LoadU(d8, kRanks[byte].data()));
      const auto spread = hn::TableLookupLanes(words, hn::IndicesFromVec(d, hn::And(ranks, lanes)));
      const auto none = hn::TestBit(ranks, unset);
      hn::StoreU(hn::IfThenElse(none, zeros, spread), d, dst + i + part);
      at += kCounts[byte];
    }
  }
  return expand_by_word(bits, stored, zero, i, n, at, dst);
}

#endif

// A vector holds too few for ranks to pay.
std::int64_t Expand_u64(const std::uint8_t* bits, const std::uint64_t* stored, std::uint64_t zero,
                        std::int64_t n, std::uint64_t* dst) {
  return expand_by_byte(bits, stored, zero, n, dst);
}

template <class Word>
HWY_INLINE void Mark(const Word* HWY_RESTRICT src, Word zero, std::int64_t n,
                     std::uint8_t* HWY_RESTRICT bits) {
  const hn::ScalableTag<Word> d;
  constexpr std::int64_t kLanes = static_cast<std::int64_t>(hn::MaxLanes(d));
  const auto zeros = hn::Set(d, zero);
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    StoreBits(d, hn::Ne(zeros, hn::LoadU(d, src + i)), bits, i);
  }
  for (; i < n; ++i) {
    if (i % 8 == 0) bits[i / 8] = 0;
    bits[i / 8] = static_cast<std::uint8_t>(bits[i / 8] | (unsigned{src[i] != zero} << (i % 8)));
  }
}

std::int64_t CountBits(const std::uint8_t* HWY_RESTRICT bits, std::int64_t bytes) {
  const hn::ScalableTag<std::uint8_t> d;
  const hn::Repartition<std::uint64_t, decltype(d)> d64;
  constexpr std::int64_t kLanes = static_cast<std::int64_t>(hn::MaxLanes(d));
  auto sums = hn::Zero(d64);
  std::int64_t i = 0;
  for (; i + kLanes <= bytes; i += kLanes) {
    sums = hn::Add(sums, hn::SumsOf8(hn::PopulationCount(hn::LoadU(d, bits + i))));
  }
  std::int64_t count = static_cast<std::int64_t>(hn::GetLane(hn::SumOfLanes(d64, sums)));
  for (; i < bytes; ++i) count += kCounts[bits[i]];
  return count;
}

#define MOPTCORE_WIDTH(width)                                                                    \
  void Mark_u##width(const std::uint##width##_t* src, std::uint##width##_t zero, std::int64_t n, \
                     std::uint8_t* bits) {                                                       \
    Mark(src, zero, n, bits);                                                                    \
  }
MOPTCORE_WIDTH(8)
MOPTCORE_WIDTH(16)
MOPTCORE_WIDTH(32)
MOPTCORE_WIDTH(64)
#undef MOPTCORE_WIDTH

}  // namespace HWY_NAMESPACE
}  // namespace moptcore::inline v0::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moptcore::inline v0::kernels {

HWY_EXPORT(RansRounds);
HWY_EXPORT(CountBits);
HWY_EXPORT(Crc32Fold);

std::int64_t rans_rounds(const std::uint32_t* table, RansReader& reader, std::uint8_t* symbols,
                         std::int64_t n) noexcept {
  return HWY_DYNAMIC_DISPATCH(RansRounds)(table, reader, symbols, n);
}

bool crc32_fold(const std::uint8_t* bytes, std::int64_t count, std::uint32_t crc,
                std::uint8_t* folded) noexcept {
  return HWY_DYNAMIC_DISPATCH(Crc32Fold)(bytes, count, crc, folded);
}

std::int64_t count_bits(const std::uint8_t* bits, std::int64_t bytes) noexcept {
  return HWY_DYNAMIC_DISPATCH(CountBits)(bits, bytes);
}

#define MOPTCORE_WIDTH(width)                                                           \
  HWY_EXPORT(Expand_u##width);                                                          \
  HWY_EXPORT(Mark_u##width);                                                            \
  std::int64_t expand(const std::uint8_t* bits, const std::uint##width##_t* stored,     \
                      std::uint##width##_t zero, std::int64_t n,                        \
                      std::uint##width##_t* dst) noexcept {                             \
    return HWY_DYNAMIC_DISPATCH(Expand_u##width)(bits, stored, zero, n, dst);           \
  }                                                                                     \
  void mark(const std::uint##width##_t* src, std::uint##width##_t zero, std::int64_t n, \
            std::uint8_t* bits) noexcept {                                              \
    HWY_DYNAMIC_DISPATCH(Mark_u##width)(src, zero, n, bits);                            \
  }
MOPTCORE_WIDTH(8)
MOPTCORE_WIDTH(16)
MOPTCORE_WIDTH(32)
MOPTCORE_WIDTH(64)
#undef MOPTCORE_WIDTH

}  // namespace moptcore::inline v0::kernels
#endif

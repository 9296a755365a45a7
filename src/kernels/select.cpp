// SPDX-License-Identifier: Apache-2.0
#include "kernels/select.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/select.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/bits-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace moptcore::inline v0::kernels {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <class D, class V>
HWY_INLINE std::int64_t SumLanes(D d, V v) {
  using Key = hn::TFromD<D>;
  HWY_ALIGN Key lanes[hn::MaxLanes(d)];
  hn::Store(v, d, lanes);
  std::int64_t sum = 0;
  for (std::size_t i = 0; i < hn::MaxLanes(d); ++i) sum += lanes[i];
  return sum;
}

// How far ahead of the reads memory is asked for: what the hardware fetches on its own stops at
// every page.
constexpr std::int64_t kAheadBytes = 2048;

template <class Key>
HWY_INLINE void Ahead(const Key* src) {
  hwy::Prefetch(reinterpret_cast<const std::uint8_t*>(src) + kAheadBytes);
}

template <bool kCountLow, class Key>
HWY_INLINE Bracket<Key> BracketOf(const Key* HWY_RESTRICT src, std::int64_t n, Key mask, Key low,
                                  Key high, std::uint8_t* HWY_RESTRICT bits,
                                  std::uint16_t* HWY_RESTRICT positions) {
  const hn::ScalableTag<Key> d;
  constexpr std::int64_t kLanes = static_cast<std::int64_t>(hn::MaxLanes(d));
  constexpr std::int64_t kLine = 64 / static_cast<std::int64_t>(sizeof(Key));
  const auto mask_v = hn::Set(d, mask);
  const auto low_v = hn::Set(d, low);
  const auto last_v = hn::Set(d, static_cast<Key>(high - 1));
  // A chunk is so short that even 16-bit lanes cannot overflow.
  auto at_low = hn::Zero(d);
  auto largest = hn::Set(d, hwy::LowestValue<Key>());
  Bracket<Key> result;
  std::uint16_t* next = positions;
  // Keys inside are few, at places that no branch predicts: four positions are written whether or
  // not a word has as many.
  const auto collect = [&](std::uint64_t above_low, std::uint64_t above_all, std::int64_t first) {
    result.above += static_cast<std::int64_t>(hwy::PopCount(above_low));
    std::uint64_t set = above_low ^ above_all;
    const auto inside = hwy::PopCount(set);
    const auto put = [&](std::size_t i) {
      constexpr std::uint64_t kStop = std::uint64_t{1} << 63;
      next[i] = static_cast<std::uint16_t>(static_cast<std::uint64_t>(first) +
                                           hwy::Num0BitsBelowLS1Bit_Nonzero64(set | kStop));
      set &= set - 1;
    };
    put(0);
    put(1);
    put(2);
    put(3);
    for (std::size_t i = 4; i < inside; ++i) put(i);
    next += inside;
  };
  std::int64_t first = 0;
  for (; first + 64 <= n; first += 64) {
    const Key* HWY_RESTRICT from = src + first;
    for (std::int64_t at = 0; at < 64; at += kLine) Ahead(from + at);
    std::uint64_t above_low = 0;
    std::uint64_t above_all = 0;
    for (std::int64_t at = 0; at < 64; at += kLanes) {
      const auto keys = hn::And(mask_v, hn::LoadU(d, from + at));
      if constexpr (kCountLow) {
        at_low = hn::Sub(at_low, hn::VecFromMask(d, hn::Eq(keys, low_v)));
      }
      largest = hn::Max(largest, keys);
      above_low |= WordOfBits(d, hn::Gt(keys, low_v)) << at;
      above_all |= WordOfBits(d, hn::Gt(keys, last_v)) << at;
    }
    __builtin_memcpy(bits + first / 8, &above_all, 8);
    collect(above_low, above_all, first);
  }
  if constexpr (kCountLow) result.at_low = SumLanes(d, at_low);
  result.largest = hn::GetLane(hn::MaxOfLanes(d, largest));
  if (first < n) {
    std::uint64_t above_low = 0;
    std::uint64_t above_all = 0;
    for (std::int64_t i = 0; first + i < n; ++i) {
      const Key key = static_cast<Key>(src[first + i] & mask);
      if (key > result.largest) result.largest = key;
      if (kCountLow && key == low) ++result.at_low;
      above_low |= std::uint64_t{key > low} << i;
      above_all |= std::uint64_t{key >= high} << i;
    }
    __builtin_memcpy(bits + first / 8, &above_all, static_cast<std::size_t>((n - first + 7) / 8));
    collect(above_low, above_all, first);
  }
  result.inside = next - positions;
  return result;
}

template <class Key>
HWY_INLINE Key LargestOf(const Key* HWY_RESTRICT src, std::int64_t n, Key mask) {
  const hn::ScalableTag<Key> d;
  constexpr std::int64_t kLanes = static_cast<std::int64_t>(hn::MaxLanes(d));
  const auto mask_v = hn::Set(d, mask);
  auto a = hn::And(mask_v, hn::Set(d, src[0]));
  auto b = a;
  std::int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    a = hn::Max(a, hn::And(mask_v, hn::LoadU(d, src + i)));
    b = hn::Max(b, hn::And(mask_v, hn::LoadU(d, src + i + kLanes)));
  }
  Key largest = hn::GetLane(hn::MaxOfLanes(d, hn::Max(a, b)));
  for (; i < n; ++i) {
    const Key key = static_cast<Key>(src[i] & mask);
    if (key > largest) largest = key;
  }
  return largest;
}

template <class Key>
HWY_INLINE void AboveOf(const Key* HWY_RESTRICT src, std::int64_t n, Key mask, Key threshold,
                        std::uint8_t* HWY_RESTRICT bits) {
  const hn::ScalableTag<Key> d;
  constexpr std::int64_t kLanes = static_cast<std::int64_t>(hn::MaxLanes(d));
  const auto mask_v = hn::Set(d, mask);
  const auto threshold_v = hn::Set(d, threshold);
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    StoreBits(d, hn::Gt(hn::And(mask_v, hn::LoadU(d, src + i)), threshold_v), bits, i);
  }
  for (; i < n; ++i) {
    if (i % 8 == 0) bits[i / 8] = 0;
    const bool above = static_cast<Key>(src[i] & mask) > threshold;
    bits[i / 8] = static_cast<std::uint8_t>(bits[i / 8] | (unsigned{above} << (i % 8)));
  }
}

#define MOPTCORE_SELECT(name, Key)                                                                 \
  Bracket<Key> Bracket_##name(const Key* src, std::int64_t n, Key mask, Key low, Key high,         \
                              bool count_low, std::uint8_t* bits, std::uint16_t* positions) {      \
    return count_low ? BracketOf<true, Key>(src, n, mask, low, high, bits, positions)              \
                     : BracketOf<false, Key>(src, n, mask, low, high, bits, positions);            \
  }                                                                                                \
  Key Largest_##name(const Key* src, std::int64_t n, Key mask) {                                   \
    return LargestOf<Key>(src, n, mask);                                                           \
  }                                                                                                \
  void Above_##name(const Key* src, std::int64_t n, Key mask, Key threshold, std::uint8_t* bits) { \
    AboveOf<Key>(src, n, mask, threshold, bits);                                                   \
  }
MOPTCORE_SELECT(s16, std::int16_t)
MOPTCORE_SELECT(s32, std::int32_t)
MOPTCORE_SELECT(s64, std::int64_t)
#undef MOPTCORE_SELECT

}  // namespace HWY_NAMESPACE
}  // namespace moptcore::inline v0::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moptcore::inline v0::kernels {

#define MOPTCORE_SELECT(name, Key)                                                              \
  HWY_EXPORT(Bracket_##name);                                                                   \
  HWY_EXPORT(Largest_##name);                                                                   \
  HWY_EXPORT(Above_##name);                                                                     \
  Bracket<Key> bracket(const Key* src, std::int64_t n, Key mask, Key low, Key high,             \
                       bool count_low, std::uint8_t* bits, std::uint16_t* positions) noexcept { \
    return HWY_DYNAMIC_DISPATCH(Bracket_##name)(src, n, mask, low, high, count_low, bits,       \
                                                positions);                                     \
  }                                                                                             \
  Key largest(const Key* src, std::int64_t n, Key mask) noexcept {                              \
    return HWY_DYNAMIC_DISPATCH(Largest_##name)(src, n, mask);                                  \
  }                                                                                             \
  void above(const Key* src, std::int64_t n, Key mask, Key threshold,                           \
             std::uint8_t* bits) noexcept {                                                     \
    HWY_DYNAMIC_DISPATCH(Above_##name)(src, n, mask, threshold, bits);                          \
  }
MOPTCORE_SELECT(s16, std::int16_t)
MOPTCORE_SELECT(s32, std::int32_t)
MOPTCORE_SELECT(s64, std::int64_t)
#undef MOPTCORE_SELECT

}  // namespace moptcore::inline v0::kernels
#endif

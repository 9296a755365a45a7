// SPDX-License-Identifier: Apache-2.0
#include "kernels/select.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/select.cpp"
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

template <class Key>
HWY_INLINE Bracket<Key> BracketOf(const Key* HWY_RESTRICT src, std::int64_t n, Key mask, Key low,
                                  Key high, std::uint8_t* HWY_RESTRICT bits,
                                  Key* HWY_RESTRICT inside, Key* HWY_RESTRICT positions) {
  const hn::ScalableTag<Key> d;
  constexpr std::int64_t kLanes = static_cast<std::int64_t>(hn::MaxLanes(d));
  const auto mask_v = hn::Set(d, mask);
  const auto low_v = hn::Set(d, low);
  const auto last_v = hn::Set(d, static_cast<Key>(high - 1));
  // A chunk is so short that even 16-bit lanes cannot overflow.
  auto at_low = hn::Zero(d);
  auto largest = hn::Set(d, hwy::LowestValue<Key>());
  Bracket<Key> result;
  // Which keys are above low, and which of those above the whole interval.
  std::uint64_t above_low[kBracketKeys / 64 + 1];
  std::uint64_t above_all[kBracketKeys / 64 + 1];
  auto* const low_bits = reinterpret_cast<std::uint8_t*>(above_low);
  auto* const all_bits = reinterpret_cast<std::uint8_t*>(above_all);
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const auto keys = hn::And(mask_v, hn::LoadU(d, src + i));
    at_low = hn::Sub(at_low, hn::VecFromMask(d, hn::Eq(keys, low_v)));
    largest = hn::Max(largest, keys);
    StoreBits(d, hn::Gt(keys, low_v), low_bits, i);
    StoreBits(d, hn::Gt(keys, last_v), all_bits, i);
  }
  result.at_low = SumLanes(d, at_low);
  result.largest = hn::GetLane(hn::MaxOfLanes(d, largest));
  for (; i < n; ++i) {
    const Key key = static_cast<Key>(src[i] & mask);
    if (i % 8 == 0) all_bits[i / 8] = low_bits[i / 8] = 0;
    if (key > result.largest) result.largest = key;
    if (key == low) ++result.at_low;
    const unsigned bit = 1u << (i % 8);
    if (key > low) low_bits[i / 8] = static_cast<std::uint8_t>(low_bits[i / 8] | bit);
    if (key >= high) all_bits[i / 8] = static_cast<std::uint8_t>(all_bits[i / 8] | bit);
  }
  // Keys inside are few: walking the set bits of whole words mispredicts once a word at most.
  const std::int64_t bytes = (n + 7) / 8;
  __builtin_memcpy(bits, all_bits, static_cast<std::size_t>(bytes));
  for (std::int64_t at = bytes; at % 8 != 0; ++at) low_bits[at] = all_bits[at] = 0;
  std::int64_t up = 0;
  for (std::int64_t word = 0; word * 64 < n; ++word) {
    up += static_cast<std::int64_t>(hwy::PopCount(above_low[word]));
    for (std::uint64_t set = above_low[word] ^ above_all[word]; set != 0; set &= set - 1) {
      const auto at =
          word * 64 + static_cast<std::int64_t>(hwy::Num0BitsBelowLS1Bit_Nonzero64(set));
      inside[result.inside] = static_cast<Key>(src[at] & mask);
      positions[result.inside] = static_cast<Key>(at);
      ++result.inside;
    }
  }
  result.below = n - up - result.at_low;
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
                              std::uint8_t* bits, Key* inside, Key* positions) {                   \
    return BracketOf<Key>(src, n, mask, low, high, bits, inside, positions);                       \
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

#define MOPTCORE_SELECT(name, Key)                                                                 \
  HWY_EXPORT(Bracket_##name);                                                                      \
  HWY_EXPORT(Largest_##name);                                                                      \
  HWY_EXPORT(Above_##name);                                                                        \
  Bracket<Key> bracket(const Key* src, std::int64_t n, Key mask, Key low, Key high,                \
                       std::uint8_t* bits, Key* inside, Key* positions) noexcept {                 \
    return HWY_DYNAMIC_DISPATCH(Bracket_##name)(src, n, mask, low, high, bits, inside, positions); \
  }                                                                                                \
  Key largest(const Key* src, std::int64_t n, Key mask) noexcept {                                 \
    return HWY_DYNAMIC_DISPATCH(Largest_##name)(src, n, mask);                                     \
  }                                                                                                \
  void above(const Key* src, std::int64_t n, Key mask, Key threshold,                              \
             std::uint8_t* bits) noexcept {                                                        \
    HWY_DYNAMIC_DISPATCH(Above_##name)(src, n, mask, threshold, bits);                             \
  }
MOPTCORE_SELECT(s16, std::int16_t)
MOPTCORE_SELECT(s32, std::int32_t)
MOPTCORE_SELECT(s64, std::int64_t)
#undef MOPTCORE_SELECT

}  // namespace moptcore::inline v0::kernels
#endif

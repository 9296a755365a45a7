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

template <class D, class V>
HWY_INLINE hn::TFromD<D> LargestLane(D d, V v) {
  using Key = hn::TFromD<D>;
  HWY_ALIGN Key lanes[hn::MaxLanes(d)];
  hn::Store(v, d, lanes);
  Key largest = lanes[0];
  for (std::size_t i = 1; i < hn::MaxLanes(d); ++i) {
    if (lanes[i] > largest) largest = lanes[i];
  }
  return largest;
}

template <class Key>
HWY_INLINE Bracket<Key> BracketOf(const Key* HWY_RESTRICT src, std::int64_t n, Key mask, Key low,
                                  Key high, std::uint8_t* HWY_RESTRICT bits,
                                  Key* HWY_RESTRICT inside, Key* HWY_RESTRICT positions) {
  const hn::ScalableTag<Key> d;
  constexpr std::int64_t kLanes = static_cast<std::int64_t>(hn::MaxLanes(d));
  constexpr std::int64_t kStep = StepOf(d);
  const auto mask_v = hn::Set(d, mask);
  const auto low_v = hn::Set(d, low);
  const auto high_v = hn::Set(d, high);
  // A chunk is so short that even 16-bit lanes cannot overflow.
  auto below = hn::Zero(d);
  auto at_low = hn::Zero(d);
  auto largest = hn::And(mask_v, hn::Set(d, src[0]));
  Bracket<Key> result;
  std::int64_t i = 0;
  for (; i + kStep <= n; i += kStep) {
    StoreBits(d, bits + i / 8, [&](std::size_t at) HWY_ATTR {
      const std::int64_t first = i + static_cast<std::int64_t>(at);
      const auto keys = hn::And(mask_v, hn::LoadU(d, src + first));
      const auto under = hn::Lt(keys, low_v);
      const auto equal = hn::Eq(keys, low_v);
      const auto over = hn::Not(hn::Lt(keys, high_v));
      below = hn::Sub(below, hn::VecFromMask(d, under));
      at_low = hn::Sub(at_low, hn::VecFromMask(d, equal));
      largest = hn::Max(largest, keys);
      const auto between = hn::And(hn::Lt(low_v, keys), hn::Lt(keys, high_v));
      if (HWY_UNLIKELY(!hn::AllFalse(d, between))) {
        const auto here = hn::Iota(d, static_cast<Key>(first));
        hn::CompressStore(keys, between, d, inside + result.inside);
        result.inside += static_cast<std::int64_t>(
            hn::CompressStore(here, between, d, positions + result.inside));
      }
      return over;
    });
  }
  static_assert(kLanes <= 32, "kBracketSlack");
  result.below = SumLanes(d, below);
  result.at_low = SumLanes(d, at_low);
  result.largest = LargestLane(d, largest);
  for (; i < n; ++i) {
    const Key key = static_cast<Key>(src[i] & mask);
    if (i % 8 == 0) bits[i / 8] = 0;
    if (key > result.largest) result.largest = key;
    if (key < low) {
      ++result.below;
    } else if (key == low) {
      ++result.at_low;
    } else if (key < high) {
      inside[result.inside] = key;
      positions[result.inside] = static_cast<Key>(i);
      ++result.inside;
    } else {
      bits[i / 8] = static_cast<std::uint8_t>(bits[i / 8] | (1u << (i % 8)));
    }
  }
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
  Key largest = LargestLane(d, hn::Max(a, b));
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
  constexpr std::int64_t kStep = StepOf(d);
  const auto mask_v = hn::Set(d, mask);
  const auto threshold_v = hn::Set(d, threshold);
  std::int64_t i = 0;
  for (; i + kStep <= n; i += kStep) {
    StoreBits(d, bits + i / 8, [&](std::size_t at) HWY_ATTR {
      const auto words = hn::LoadU(d, src + i + static_cast<std::int64_t>(at));
      return hn::Lt(threshold_v, hn::And(mask_v, words));
    });
  }
  for (; i < n; ++i) {
    if (i % 8 == 0) bits[i / 8] = 0;
    const bool above = static_cast<Key>(src[i] & mask) > threshold;
    bits[i / 8] = static_cast<std::uint8_t>(bits[i / 8] | (unsigned{above} << (i % 8)));
  }
}

#define MOPTCORE_SELECT(name, Key)                                                             \
  Bracket<Key> Bracket_##name(const Key* src, std::int64_t n, Key mask, Key low, Key high,     \
                              std::uint8_t* bits, Key* inside, Key* positions) {               \
    return BracketOf<Key>(src, n, mask, low, high, bits, inside, positions);                   \
  }                                                                                            \
  Key Largest_##name(const Key* src, std::int64_t n, Key mask) {                               \
    return LargestOf<Key>(src, n, mask);                                                       \
  }                                                                                            \
  void Above_##name(const Key* src, std::int64_t n, Key mask, Key threshold,                   \
                    std::uint8_t* bits) {                                                      \
    AboveOf<Key>(src, n, mask, threshold, bits);                                               \
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

#define MOPTCORE_SELECT(name, Key)                                                             \
  HWY_EXPORT(Bracket_##name);                                                                  \
  HWY_EXPORT(Largest_##name);                                                                  \
  HWY_EXPORT(Above_##name);                                                                    \
  Bracket<Key> bracket_##name(const Key* src, std::int64_t n, Key mask, Key low, Key high,     \
                              std::uint8_t* bits, Key* inside, Key* positions) noexcept {      \
    return HWY_DYNAMIC_DISPATCH(Bracket_##name)(src, n, mask, low, high, bits, inside,         \
                                                positions);                                    \
  }                                                                                            \
  Key largest_##name(const Key* src, std::int64_t n, Key mask) noexcept {                      \
    return HWY_DYNAMIC_DISPATCH(Largest_##name)(src, n, mask);                                 \
  }                                                                                            \
  void above_##name(const Key* src, std::int64_t n, Key mask, Key threshold,                   \
                    std::uint8_t* bits) noexcept {                                             \
    HWY_DYNAMIC_DISPATCH(Above_##name)(src, n, mask, threshold, bits);                         \
  }
MOPTCORE_SELECT(s16, std::int16_t)
MOPTCORE_SELECT(s32, std::int32_t)
MOPTCORE_SELECT(s64, std::int64_t)
#undef MOPTCORE_SELECT

}  // namespace moptcore::inline v0::kernels
#endif

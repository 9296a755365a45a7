// SPDX-License-Identifier: Apache-2.0
#include "kernels/nm_mask.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/nm_mask.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/bits-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace moptcore::inline v0::kernels {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR

// One lane cannot be rotated within its group.
std::int32_t Nm4S32(const std::int32_t* HWY_RESTRICT src, std::int64_t n, std::int32_t mask,
                    int keep, std::uint8_t* HWY_RESTRICT bits) {
  std::int32_t largest = src[0] & mask;
  for (std::int64_t i = 0; i < n; i += 4) {
    unsigned kept = 0;
    for (int a = 0; a < 4; ++a) {
      const std::int32_t key = src[i + a] & mask;
      int rank = 0;
      for (int b = 0; b < 4; ++b) {
        const std::int32_t other = src[i + b] & mask;
        rank += other > key || (other == key && b < a) ? 1 : 0;
      }
      kept |= (rank < keep ? 1u : 0u) << a;
      if (key > largest) largest = key;
    }
    const unsigned before = i % 8 == 0 ? 0u : bits[i / 8];
    bits[i / 8] = static_cast<std::uint8_t>(before | (kept << (i % 8)));
  }
  return largest;
}

#else

// Memory is asked for this far ahead: what the hardware fetches on its own stops at every page.
constexpr std::int64_t kAheadBytes = 2048;

std::int32_t Nm4S32(const std::int32_t* HWY_RESTRICT src, std::int64_t n, std::int32_t mask,
                    int keep, std::uint8_t* HWY_RESTRICT bits) {
  const hn::ScalableTag<std::int32_t> d;
  constexpr std::int64_t kLanes = static_cast<std::int64_t>(hn::MaxLanes(d));
  const auto mask_v = hn::Set(d, mask);
  const auto above_v = hn::Set(d, 1 - keep);
  // An element outranks a later one that equals it: where the rotation by r brings an earlier
  // element, 1 is added to its key, so that `greater` means `greater or equal`.
  HWY_ALIGN std::int32_t earlier[2][hn::MaxLanes(d)];
  for (int r = 1; r < 3; ++r) {
    for (std::size_t lane = 0; lane < hn::MaxLanes(d); ++lane) {
      earlier[r - 1][lane] = static_cast<int>(lane % 4) + r >= 4 ? 1 : 0;
    }
  }
  const auto earlier1 = hn::Load(d, earlier[0]);
  const auto earlier2 = hn::Load(d, earlier[1]);
  auto largest = hn::And(mask_v, hn::Set(d, src[0]));
  const auto kept = [&](hn::Vec<decltype(d)> keys) HWY_ATTR {
    const auto over1 = hn::VecFromMask(d, hn::Gt(hn::Add(hn::Shuffle0321(keys), earlier1), keys));
    const auto over2 = hn::VecFromMask(d, hn::Gt(hn::Add(hn::Shuffle1032(keys), earlier2), keys));
    // The element three places on comes before this one where this one does not come before it,
    // which is one place on from there. Of minus the rank, over1 + over2 - 1 - over3, at least
    // 1 - keep stay.
    return hn::Gt(hn::Add(over1, over2), hn::Add(hn::Shuffle2103(over1), above_v));
  };
  std::int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    for (int line = 0; line < 4; ++line) {
      hwy::Prefetch(reinterpret_cast<const std::uint8_t*>(src + i + 16 * line) + kAheadBytes);
    }
    std::uint64_t word = 0;
    for (std::int64_t at = 0; at < 64; at += kLanes) {
      const auto keys = hn::And(mask_v, hn::LoadU(d, src + i + at));
      largest = hn::Max(largest, keys);
      word |= WordOfBits(d, kept(keys)) << at;
    }
    __builtin_memcpy(bits + i / 8, &word, 8);
  }
  for (; i + kLanes <= n; i += kLanes) {
    const auto keys = hn::And(mask_v, hn::LoadU(d, src + i));
    largest = hn::Max(largest, keys);
    StoreBits(d, kept(keys), bits, i);
  }
  if (i < n) {
    HWY_ALIGN std::int32_t rest[hn::MaxLanes(d)] = {};
    std::uint8_t rest_bits[8] = {};
    for (std::int64_t j = 0; j < n - i; ++j) rest[j] = src[i + j];
    const auto keys = hn::And(mask_v, hn::Load(d, rest));
    largest = hn::Max(largest, keys);
    StoreBits(d, kept(keys), rest_bits, 0);
    for (std::int64_t j = 0; j < n - i; j += 8) {
      const std::int64_t left = n - i - j;
      const unsigned valid = left >= 8 ? 255u : (1u << left) - 1u;
      bits[(i + j) / 8] = static_cast<std::uint8_t>(rest_bits[j / 8] & valid);
    }
  }
  HWY_ALIGN std::int32_t lanes[hn::MaxLanes(d)];
  hn::Store(largest, d, lanes);
  std::int32_t result = lanes[0];
  for (std::size_t lane = 1; lane < hn::MaxLanes(d); ++lane) {
    if (lanes[lane] > result) result = lanes[lane];
  }
  return result;
}

#endif

void NmS64(const std::int64_t* HWY_RESTRICT keys, std::int64_t m, std::int64_t count,
           std::int64_t keep, std::uint8_t* HWY_RESTRICT kept) {
  const hn::ScalableTag<std::int64_t> d;
  constexpr std::int64_t kLanes = static_cast<std::int64_t>(hn::MaxLanes(d));
  for (std::int64_t i = 0; i < m; ++i) {
    std::int64_t g = 0;
    for (; g + kLanes <= count; g += kLanes) {
      const auto key = hn::LoadU(d, keys + i * count + g);
      auto minus_rank = hn::Zero(d);
      for (std::int64_t j = 0; j < i; ++j) {
        const auto other = hn::LoadU(d, keys + j * count + g);
        minus_rank = hn::Add(minus_rank, hn::VecFromMask(d, hn::Not(hn::Lt(other, key))));
      }
      for (std::int64_t j = i + 1; j < m; ++j) {
        const auto other = hn::LoadU(d, keys + j * count + g);
        minus_rank = hn::Add(minus_rank, hn::VecFromMask(d, hn::Lt(key, other)));
      }
      HWY_ALIGN std::int64_t lanes[kLanes];
      hn::Store(minus_rank, d, lanes);
      for (std::int64_t lane = 0; lane < kLanes; ++lane) {
        kept[i * count + g + lane] = -lanes[lane] < keep ? 1 : 0;
      }
    }
    for (; g < count; ++g) {
      const std::int64_t key = keys[i * count + g];
      std::int64_t rank = 0;
      for (std::int64_t j = 0; j < i; ++j) rank += keys[j * count + g] >= key ? 1 : 0;
      for (std::int64_t j = i + 1; j < m; ++j) rank += keys[j * count + g] > key ? 1 : 0;
      kept[i * count + g] = rank < keep ? 1 : 0;
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace moptcore::inline v0::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moptcore::inline v0::kernels {

HWY_EXPORT(Nm4S32);
HWY_EXPORT(NmS64);

std::int32_t nm4_s32(const std::int32_t* src, std::int64_t n, std::int32_t mask, int keep,
                     std::uint8_t* bits) noexcept {
  return HWY_DYNAMIC_DISPATCH(Nm4S32)(src, n, mask, keep, bits);
}

void nm_s64(const std::int64_t* keys, std::int64_t m, std::int64_t count, std::int64_t keep,
            std::uint8_t* kept) noexcept {
  HWY_DYNAMIC_DISPATCH(NmS64)(keys, m, count, keep, kept);
}

}  // namespace moptcore::inline v0::kernels
#endif

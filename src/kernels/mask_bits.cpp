// SPDX-License-Identifier: Apache-2.0
#include "kernels/mask_bits.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/mask_bits.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/bits-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace moptcore::inline v0::kernels {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

void UnpackBits(const std::uint8_t* HWY_RESTRICT bits, std::int64_t n,
                std::uint8_t* HWY_RESTRICT bytes, bool stream) {
  const hn::ScalableTag<std::uint8_t> d;
  constexpr std::int64_t kLanes = static_cast<std::int64_t>(hn::MaxLanes(d));
  const auto one = hn::Set(d, std::uint8_t{1});
  const auto next = [&](std::int64_t i)
                        HWY_ATTR { return hn::And(one, hn::VecFromMask(d, LoadBits(d, bits, i))); };
  std::int64_t i = 0;
  if (stream &&
      reinterpret_cast<std::uintptr_t>(bytes) % static_cast<std::uintptr_t>(kLanes) == 0) {
    for (; i + kLanes <= n; i += kLanes) hn::Stream(next(i), d, bytes + i);
    hwy::FlushStream();
  } else {
    for (; i + kLanes <= n; i += kLanes) hn::StoreU(next(i), d, bytes + i);
  }
  for (; i < n; ++i) bytes[i] = static_cast<std::uint8_t>((bits[i / 8] >> (i % 8)) & 1u);
}

void PackBytes(const std::uint8_t* HWY_RESTRICT bytes, std::int64_t n,
               std::uint8_t* HWY_RESTRICT bits) {
  const hn::ScalableTag<std::uint8_t> d;
  constexpr std::int64_t kLanes = static_cast<std::int64_t>(hn::MaxLanes(d));
  const auto zero = hn::Zero(d);
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    StoreBits(d, hn::Ne(zero, hn::LoadU(d, bytes + i)), bits, i);
  }
  for (; i < n; ++i) {
    if (i % 8 == 0) bits[i / 8] = 0;
    bits[i / 8] = static_cast<std::uint8_t>(bits[i / 8] | (unsigned{bytes[i] != 0} << (i % 8)));
  }
}

template <class Word>
HWY_INLINE void Keep(const Word* src, const std::uint8_t* HWY_RESTRICT bits, std::int64_t n,
                     Word* dst) {
  const hn::ScalableTag<Word> d;
  constexpr std::int64_t kLanes = static_cast<std::int64_t>(hn::MaxLanes(d));
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    hn::StoreU(hn::IfThenElseZero(LoadBits(d, bits, i), hn::LoadU(d, src + i)), d, dst + i);
  }
  for (; i < n; ++i) dst[i] = ((bits[i / 8] >> (i % 8)) & 1u) != 0 ? src[i] : Word{0};
}

template <class Word>
HWY_INLINE std::int64_t CountZeros(const Word* HWY_RESTRICT src, std::int64_t n, Word mask) {
  const hn::ScalableTag<Word> d;
  constexpr std::int64_t kLanes = static_cast<std::int64_t>(hn::MaxLanes(d));
  // Lanes count in their own width, so they are emptied before 8 bits can overflow.
  constexpr std::int64_t kRun = 255 * kLanes;
  const auto mask_v = hn::Set(d, mask);
  const auto zero = hn::Zero(d);
  std::int64_t count = 0;
  std::int64_t i = 0;
  while (i + kLanes <= n) {
    const std::int64_t last = n - i > kRun ? i + kRun : n;
    auto counts = hn::Zero(d);
    for (; i + kLanes <= last; i += kLanes) {
      const auto words = hn::And(mask_v, hn::LoadU(d, src + i));
      counts = hn::Sub(counts, hn::VecFromMask(d, hn::Eq(words, zero)));
    }
    HWY_ALIGN Word lanes[hn::MaxLanes(d)];
    hn::Store(counts, d, lanes);
    for (std::size_t lane = 0; lane < hn::MaxLanes(d); ++lane) {
      count += static_cast<std::int64_t>(lanes[lane]);
    }
  }
  for (; i < n; ++i) count += (src[i] & mask) == 0 ? 1 : 0;
  return count;
}

#define MOPTCORE_WIDTH(width)                                                                   \
  void Keep_u##width(const std::uint##width##_t* src, const std::uint8_t* bits, std::int64_t n, \
                     std::uint##width##_t* dst) {                                               \
    Keep(src, bits, n, dst);                                                                    \
  }                                                                                             \
  std::int64_t CountZeros_u##width(const std::uint##width##_t* src, std::int64_t n,             \
                                   std::uint##width##_t mask) {                                 \
    return CountZeros(src, n, mask);                                                            \
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

HWY_EXPORT(UnpackBits);
HWY_EXPORT(PackBytes);

void unpack_bits(const std::uint8_t* bits, std::int64_t n, std::uint8_t* bytes,
                 bool stream) noexcept {
  HWY_DYNAMIC_DISPATCH(UnpackBits)(bits, n, bytes, stream);
}

void pack_bytes(const std::uint8_t* bytes, std::int64_t n, std::uint8_t* bits) noexcept {
  HWY_DYNAMIC_DISPATCH(PackBytes)(bytes, n, bits);
}

#define MOPTCORE_WIDTH(width)                                                          \
  HWY_EXPORT(Keep_u##width);                                                           \
  HWY_EXPORT(CountZeros_u##width);                                                     \
  void keep(const std::uint##width##_t* src, const std::uint8_t* bits, std::int64_t n, \
            std::uint##width##_t* dst) noexcept {                                      \
    HWY_DYNAMIC_DISPATCH(Keep_u##width)(src, bits, n, dst);                            \
  }                                                                                    \
  std::int64_t count_zeros(const std::uint##width##_t* src, std::int64_t n,            \
                           std::uint##width##_t mask) noexcept {                       \
    return HWY_DYNAMIC_DISPATCH(CountZeros_u##width)(src, n, mask);                    \
  }
MOPTCORE_WIDTH(8)
MOPTCORE_WIDTH(16)
MOPTCORE_WIDTH(32)
MOPTCORE_WIDTH(64)
#undef MOPTCORE_WIDTH

}  // namespace moptcore::inline v0::kernels
#endif

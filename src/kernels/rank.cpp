// SPDX-License-Identifier: Apache-2.0
#include "kernels/rank.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/rank.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <limits>

HWY_BEFORE_NAMESPACE();
namespace moptcore::inline v0::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// A binary search whose levels are small enough for registers: level l has 2^l thresholds, among
// which the rank so far chooses.
template <int kLevels>
HWY_INLINE void Search(const float* src, std::int64_t n, const float* thresholds,
                       std::int64_t count, std::uint8_t* dst) {
  const hn::ScalableTag<float> d;
  const hn::RebindToSigned<decltype(d)> di;
  const hn::Rebind<std::uint8_t, decltype(di)> du;
  constexpr auto kLanes = static_cast<std::int64_t>(hn::MaxLanes(d));
  constexpr std::int64_t kPlaces = kLanes > 16 ? kLanes : 16;
  HWY_ALIGN float levels[kLevels][kPlaces];
  for (int level = 0; level < kLevels; ++level) {
    for (std::int64_t i = 0; i < kPlaces; ++i) {
      const std::int64_t at = ((2 * i + 1) << (kLevels - 1 - level)) - 1;
      levels[level][i] = at < count ? thresholds[at] : std::numeric_limits<float>::infinity();
    }
  }
  const auto seven = hn::Set(di, 7);
  // Locals, which a store of bytes cannot alias.
  const auto t0 = hn::Set(d, levels[0][0]);
  const auto t1 = hn::Load(d, levels[kLevels > 1 ? 1 : 0]);
  const auto t2 = hn::Load(d, levels[kLevels > 2 ? 2 : 0]);
  const auto t3 = hn::Load(d, levels[kLevels > 3 ? 3 : 0]);
  const auto t4 = hn::Load(d, levels[kLevels > 4 ? 4 : 0]);
  const auto t5 = hn::Load(d, levels[kLevels > 4 ? 4 : 0] + (kLanes > 8 ? 0 : 8));
  const auto below = [&](auto threshold, auto x) HWY_ATTR {
    return hn::BitCast(di, hn::VecFromMask(d, hn::Lt(threshold, x)));
  };
  const auto next = [&](auto rank, auto threshold, auto x)
                        HWY_ATTR { return hn::Sub(hn::Add(rank, rank), below(threshold, x)); };
  const auto chosen = [&](auto table, auto rank) HWY_ATTR {
    return hn::TableLookupLanes(table, hn::IndicesFromVec(d, rank));
  };
  const auto search = [&](auto x) HWY_ATTR {
    auto rank = hn::Sub(hn::Zero(di), below(t0, x));
    if constexpr (kLevels > 1) rank = next(rank, chosen(t1, rank), x);
    if constexpr (kLevels > 2) rank = next(rank, chosen(t2, rank), x);
    if constexpr (kLevels > 3) rank = next(rank, chosen(t3, rank), x);
    if constexpr (kLevels > 4 && kLanes >= 16) {
      rank = next(rank, chosen(t4, rank), x);
    } else if constexpr (kLevels > 4) {
      const auto low = hn::And(rank, seven);
      const auto upper = hn::RebindMask(d, hn::Gt(rank, seven));
      rank = next(rank, hn::IfThenElse(upper, chosen(t5, low), chosen(t4, low)), x);
    }
    return rank;
  };
  std::int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    const auto a = search(hn::LoadU(d, src + i));
    const auto b = search(hn::LoadU(d, src + i + kLanes));
    hn::StoreU(hn::DemoteTo(du, a), du, dst + i);
    hn::StoreU(hn::DemoteTo(du, b), du, dst + i + kLanes);
  }
  for (; i < n; ++i) {
    std::int64_t rank = 0;
    for (std::int64_t t = 0; t < count; ++t) rank += thresholds[t] < src[i] ? 1 : 0;
    dst[i] = static_cast<std::uint8_t>(rank);
  }
}

void RankF32(const float* src, std::int64_t n, const float* thresholds, std::int64_t count,
             std::uint8_t* dst) {
  const hn::ScalableTag<float> d;
  if constexpr (hn::MaxLanes(d) >= 8) {
    if (count <= 3) return Search<2>(src, n, thresholds, count, dst);
    if (count <= 7) return Search<3>(src, n, thresholds, count, dst);
    if (count <= 15) return Search<4>(src, n, thresholds, count, dst);
    if (count <= 31) return Search<5>(src, n, thresholds, count, dst);
  }
  const hn::RebindToSigned<decltype(d)> di;
  const hn::Rebind<std::uint8_t, decltype(di)> du;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  // A true comparison is -1, so ranks are counted downwards.
  const auto below = [&](auto threshold, auto x) {
    return hn::BitCast(di, hn::VecFromMask(d, hn::Lt(threshold, x)));
  };
  std::int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    const auto x0 = hn::LoadU(d, src + i);
    const auto x1 = hn::LoadU(d, src + i + lanes);
    const auto x2 = hn::LoadU(d, src + i + 2 * lanes);
    const auto x3 = hn::LoadU(d, src + i + 3 * lanes);
    auto r0 = hn::Zero(di);
    auto r1 = hn::Zero(di);
    auto r2 = hn::Zero(di);
    auto r3 = hn::Zero(di);
    for (std::int64_t t = 0; t < count; ++t) {
      const auto threshold = hn::Set(d, thresholds[t]);
      r0 = hn::Sub(r0, below(threshold, x0));
      r1 = hn::Sub(r1, below(threshold, x1));
      r2 = hn::Sub(r2, below(threshold, x2));
      r3 = hn::Sub(r3, below(threshold, x3));
    }
    hn::StoreU(hn::DemoteTo(du, r0), du, dst + i);
    hn::StoreU(hn::DemoteTo(du, r1), du, dst + i + lanes);
    hn::StoreU(hn::DemoteTo(du, r2), du, dst + i + 2 * lanes);
    hn::StoreU(hn::DemoteTo(du, r3), du, dst + i + 3 * lanes);
  }
  for (; i < n; ++i) {
    std::int64_t rank = 0;
    for (std::int64_t t = 0; t < count; ++t) rank += thresholds[t] < src[i] ? 1 : 0;
    dst[i] = static_cast<std::uint8_t>(rank);
  }
}

}  // namespace moptcore::inline v0::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moptcore::inline v0::kernels {

HWY_EXPORT(RankF32);

void rank_f32(const float* src, std::int64_t n, const float* thresholds, std::int64_t count,
              std::uint8_t* dst) noexcept {
  HWY_DYNAMIC_DISPATCH(RankF32)(src, n, thresholds, count, dst);
}

}  // namespace moptcore::inline v0::kernels
#endif

// SPDX-License-Identifier: Apache-2.0
#include "kernels/rank.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/rank.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace moptcore::inline v0::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

void RankF32(const float* src, std::int64_t n, const float* thresholds, std::int64_t count,
             std::uint8_t* dst) {
  const hn::ScalableTag<float> d;
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

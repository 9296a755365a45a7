// SPDX-License-Identifier: Apache-2.0
#include "kernels/histogram.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/histogram.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <limits>

#include "kernels/grid-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace moptcore::inline v0::kernels::HWY_NAMESPACE {

template <class D, class V>
HWY_INLINE hn::Vec<hn::RebindToSigned<D>> BinOf(D d, V x, V factor1, V factor2, V first,
                                                hn::Vec<hn::RebindToSigned<D>> outside) {
  const hn::RebindToSigned<D> di;
  const V zero = hn::Zero(d);
  const V top = hn::Set(d, std::numeric_limits<float>::max());
  const V v = hn::Mul(hn::Mul(x, factor1), factor2);
  // A small negative value may have become -0, which lies in another bin.
  const auto lost = hn::And(hn::Lt(x, zero), hn::Eq(v, zero));
  const V whole = hn::IfThenElse(lost, hn::Set(d, -1.0f), hn::Floor(v));
  const auto finite = hn::Le(hn::Abs(x), top);
  const V bin = hn::IfThenElseZero(finite, hn::Sub(whole, first));
  return hn::IfThenElse(hn::RebindMask(di, finite), hn::ConvertTo(di, bin), outside);
}

void BinF32(const float* src, std::int64_t n, const BinGrid& grid, std::int32_t* dst) {
  const hn::ScalableTag<float> d;
  const hn::ScalableTag<std::int32_t> di;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto factor1 = hn::Set(d, grid.factor1);
  const auto factor2 = hn::Set(d, grid.factor2);
  const auto first = hn::Set(d, grid.first);
  const auto outside = hn::Set(di, grid.bins);
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto x = hn::LoadU(d, src + i);
    hn::StoreU(BinOf(d, x, factor1, factor2, first, outside), di, dst + i);
  }
  if (i < n) {
    const auto x = LoadPart(d, src + i, n - i);
    StorePart(di, BinOf(d, x, factor1, factor2, first, outside), dst + i, n - i);
  }
}

}  // namespace moptcore::inline v0::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moptcore::inline v0::kernels {

HWY_EXPORT(BinF32);

void bin_f32(const float* src, std::int64_t n, const BinGrid& grid, std::int32_t* dst) noexcept {
  HWY_DYNAMIC_DISPATCH(BinF32)(src, n, grid, dst);
}

}  // namespace moptcore::inline v0::kernels
#endif  // HWY_ONCE

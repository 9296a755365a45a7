// SPDX-License-Identifier: Apache-2.0
#include "kernels/fake_quant_range.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/fake_quant_range.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/grid-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace moptcore::inline v0::kernels::HWY_NAMESPACE {

template <bool kMultiply, class D, class V>
HWY_INLINE V RangeValue(D d, V x, const Lane<V>& grid) {
  const V zero = hn::Zero(d);
  const V shifted = hn::Sub(hn::Max(hn::Min(x, grid.high), grid.low), grid.low);
  const V steps = kMultiply ? hn::Mul(shifted, grid.factor) : hn::Div(shifted, grid.factor);
  const V v = hn::Add(hn::Sub(steps, grid.zero), hn::Set(d, 0.5f));
  const V near = NearestEven(d, v);
  const V floor = hn::Sub(near, hn::IfThenElseZero(hn::Gt(near, v), hn::Set(d, 1.0f)));
  const V nan = hn::Set(d, std::numeric_limits<float>::quiet_NaN());
  const V y = hn::IfThenElse(hn::Eq(x, x), hn::Mul(floor, grid.scale), nan);
  return hn::IfThenElse(hn::Eq(grid.scale, zero), zero, y);
}

template <bool kMultiply, class Grids>
HWY_INLINE void FakeQuantRangeBy(const float* src, std::int64_t n, const Grids& grids, float* dst,
                                 std::uint8_t* bits) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<std::remove_const_t<decltype(d)>>;
  using M = hn::Mask<std::remove_const_t<decltype(d)>>;
  if (bits == nullptr) {
    ForEachLane<false>(d, src, n, grids, dst, bits, [d](V x, const Lane<V>& grid, M&) HWY_ATTR {
      return RangeValue<kMultiply>(d, x, grid);
    });
  } else {
    ForEachLane<true>(d, src, n, grids, dst, bits,
                      [d](V x, const Lane<V>& grid, M& inside) HWY_ATTR {
                        inside = hn::Or(hn::And(hn::Ge(x, grid.low), hn::Le(x, grid.high)),
                                        hn::Eq(grid.scale, hn::Zero(d)));
                        return RangeValue<kMultiply>(d, x, grid);
                      });
  }
}

template <class Grids>
HWY_INLINE void FakeQuantRange(const float* src, std::int64_t n, const Grids& grids, bool multiply,
                               float* dst, std::uint8_t* bits) {
  if (multiply) {
    FakeQuantRangeBy<true>(src, n, grids, dst, bits);
  } else {
    FakeQuantRangeBy<false>(src, n, grids, dst, bits);
  }
}

void FakeQuantRangeOne(const float* src, std::int64_t n, const GridStep<float>& grid, bool multiply,
                       float* dst, std::uint8_t* bits) {
  const hn::ScalableTag<float> d;
  FakeQuantRange(src, n, OneGrid<std::remove_const_t<decltype(d)>>(d, grid), multiply, dst, bits);
}

void FakeQuantRangeMany(const float* src, std::int64_t n, const GridTable<float>& grids,
                        bool multiply, float* dst, std::uint8_t* bits) {
  const hn::ScalableTag<float> d;
  FakeQuantRange(src, n, ManyGrids<std::remove_const_t<decltype(d)>>(d, grids), multiply, dst,
                 bits);
}

}  // namespace moptcore::inline v0::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moptcore::inline v0::kernels {

HWY_EXPORT(FakeQuantRangeOne);
HWY_EXPORT(FakeQuantRangeMany);

void fake_quant_range_f32(const float* src, std::int64_t n, const GridStep<float>& grid,
                          bool multiply, float* dst, std::uint8_t* bits) noexcept {
  HWY_DYNAMIC_DISPATCH(FakeQuantRangeOne)(src, n, grid, multiply, dst, bits);
}

void fake_quant_range_f32(const float* src, std::int64_t n, const GridTable<float>& grids,
                          bool multiply, float* dst, std::uint8_t* bits) noexcept {
  HWY_DYNAMIC_DISPATCH(FakeQuantRangeMany)(src, n, grids, multiply, dst, bits);
}

}  // namespace moptcore::inline v0::kernels
#endif  // HWY_ONCE

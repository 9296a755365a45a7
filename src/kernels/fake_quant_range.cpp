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

template <bool kMultiply, class S, class Grids>
HWY_INLINE void FakeQuantRangeBy(const S* src, std::int64_t n, const Grids& grids, S* dst,
                                 std::uint8_t* bits, bool stream) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<std::remove_const_t<decltype(d)>>;
  using M = hn::Mask<std::remove_const_t<decltype(d)>>;
  if (bits == nullptr) {
    ForEachLane<false>(d, src, n, grids, dst, bits, stream,
                       [d](V x, const Lane<V>& grid, M&)
                           HWY_ATTR { return RangeValue<kMultiply>(d, x, grid); });
  } else {
    ForEachLane<true>(d, src, n, grids, dst, bits, stream,
                      [d](V x, const Lane<V>& grid, M& inside) HWY_ATTR {
                        inside = hn::Or(hn::And(hn::Ge(x, grid.low), hn::Le(x, grid.high)),
                                        hn::Eq(grid.scale, hn::Zero(d)));
                        return RangeValue<kMultiply>(d, x, grid);
                      });
  }
}

template <template <class> class Grids, class S, class Source>
HWY_INLINE void FakeQuantRange(const S* src, std::int64_t n, const Source& source, bool multiply,
                               S* dst, std::uint8_t* bits, bool stream) {
  const hn::ScalableTag<float> d;
  const Grids<std::remove_const_t<decltype(d)>> grids(d, source);
  if (multiply) {
    FakeQuantRangeBy<true>(src, n, grids, dst, bits, stream);
  } else {
    FakeQuantRangeBy<false>(src, n, grids, dst, bits, stream);
  }
}

void FakeQuantRangeOneF32(const float* src, std::int64_t n, const GridStep<float>& grid,
                          bool multiply, float* dst, std::uint8_t* bits, bool stream) {
  FakeQuantRange<OneGrid>(src, n, grid, multiply, dst, bits, stream);
}

void FakeQuantRangeManyF32(const float* src, std::int64_t n, const GridTable<float>& grids,
                           bool multiply, float* dst, std::uint8_t* bits, bool stream) {
  FakeQuantRange<ManyGrids>(src, n, grids, multiply, dst, bits, stream);
}

void FakeQuantRangeOneF16(const float16* src, std::int64_t n, const GridStep<float>& grid,
                          bool multiply, float16* dst, std::uint8_t* bits, bool stream) {
  FakeQuantRange<OneGrid>(src, n, grid, multiply, dst, bits, stream);
}

void FakeQuantRangeManyF16(const float16* src, std::int64_t n, const GridTable<float>& grids,
                           bool multiply, float16* dst, std::uint8_t* bits, bool stream) {
  FakeQuantRange<ManyGrids>(src, n, grids, multiply, dst, bits, stream);
}

void FakeQuantRangeOneBF16(const bfloat16* src, std::int64_t n, const GridStep<float>& grid,
                           bool multiply, bfloat16* dst, std::uint8_t* bits, bool stream) {
  FakeQuantRange<OneGrid>(src, n, grid, multiply, dst, bits, stream);
}

void FakeQuantRangeManyBF16(const bfloat16* src, std::int64_t n, const GridTable<float>& grids,
                            bool multiply, bfloat16* dst, std::uint8_t* bits, bool stream) {
  FakeQuantRange<ManyGrids>(src, n, grids, multiply, dst, bits, stream);
}

}  // namespace moptcore::inline v0::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moptcore::inline v0::kernels {

HWY_EXPORT(FakeQuantRangeOneF32);
HWY_EXPORT(FakeQuantRangeManyF32);
HWY_EXPORT(FakeQuantRangeOneF16);
HWY_EXPORT(FakeQuantRangeManyF16);
HWY_EXPORT(FakeQuantRangeOneBF16);
HWY_EXPORT(FakeQuantRangeManyBF16);

void fake_quant_range_f32(const float* src, std::int64_t n, const GridStep<float>& grid,
                          bool multiply, float* dst, std::uint8_t* bits, bool stream) noexcept {
  HWY_DYNAMIC_DISPATCH(FakeQuantRangeOneF32)(src, n, grid, multiply, dst, bits, stream);
}

void fake_quant_range_f32(const float* src, std::int64_t n, const GridTable<float>& grids,
                          bool multiply, float* dst, std::uint8_t* bits, bool stream) noexcept {
  HWY_DYNAMIC_DISPATCH(FakeQuantRangeManyF32)(src, n, grids, multiply, dst, bits, stream);
}

void fake_quant_range_f16(const float16* src, std::int64_t n, const GridStep<float>& grid,
                          bool multiply, float16* dst, std::uint8_t* bits, bool stream) noexcept {
  HWY_DYNAMIC_DISPATCH(FakeQuantRangeOneF16)(src, n, grid, multiply, dst, bits, stream);
}

void fake_quant_range_f16(const float16* src, std::int64_t n, const GridTable<float>& grids,
                          bool multiply, float16* dst, std::uint8_t* bits, bool stream) noexcept {
  HWY_DYNAMIC_DISPATCH(FakeQuantRangeManyF16)(src, n, grids, multiply, dst, bits, stream);
}

void fake_quant_range_bf16(const bfloat16* src, std::int64_t n, const GridStep<float>& grid,
                           bool multiply, bfloat16* dst, std::uint8_t* bits, bool stream) noexcept {
  HWY_DYNAMIC_DISPATCH(FakeQuantRangeOneBF16)(src, n, grid, multiply, dst, bits, stream);
}

void fake_quant_range_bf16(const bfloat16* src, std::int64_t n, const GridTable<float>& grids,
                           bool multiply, bfloat16* dst, std::uint8_t* bits, bool stream) noexcept {
  HWY_DYNAMIC_DISPATCH(FakeQuantRangeManyBF16)(src, n, grids, multiply, dst, bits, stream);
}

}  // namespace moptcore::inline v0::kernels
#endif  // HWY_ONCE

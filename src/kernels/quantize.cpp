// SPDX-License-Identifier: Apache-2.0
#include "kernels/quantize.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/quantize.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <moptcore/core/int4.hpp>

#include <cmath>

#include "kernels/grid-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace moptcore::inline v0::kernels::HWY_NAMESPACE {

// Whole numbers as 32-bit integers in as many lanes.
template <class D>
HWY_INLINE auto ToInt32(D d, hn::Vec<D> v) {
  const hn::Rebind<std::int32_t, D> di;
  if constexpr (sizeof(hn::TFromD<D>) == sizeof(double)) {
    return hn::DemoteTo(di, v);
  } else {
    (void)d;
    return hn::ConvertTo(di, v);
  }
}

template <class D, class VI>
HWY_INLINE hn::Vec<D> FromInt32(D d, VI v) {
  if constexpr (sizeof(hn::TFromD<D>) == sizeof(double)) {
    return hn::PromoteTo(d, v);
  } else {
    return hn::ConvertTo(d, v);
  }
}

// Calls f(q) with a value of the type that `type` names.
template <class F>
HWY_INLINE void WithInteger(Integer type, F&& f) {
  switch (type) {
    case Integer::int8: return f(std::int8_t{});
    case Integer::uint8: return f(std::uint8_t{});
    case Integer::int16: return f(std::int16_t{});
    case Integer::uint16: return f(std::uint16_t{});
  }
}

// x * y + z with one rounding on every target.
template <class D, class V>
HWY_INLINE V FusedMulAdd(D d, V x, V y, V z) {
#if HWY_NATIVE_FMA
  (void)d;
  return hn::MulAdd(x, y, z);
#else
  using T = hn::TFromD<D>;
  HWY_ALIGN T lanes[3][HWY_MAX_BYTES / sizeof(T)];
  hn::Store(x, d, lanes[0]);
  hn::Store(y, d, lanes[1]);
  hn::Store(z, d, lanes[2]);
  for (std::size_t i = 0; i < hn::Lanes(d); ++i) {
    lanes[0][i] = std::fma(lanes[0][i], lanes[1][i], lanes[2][i]);
  }
  return hn::Load(d, lanes[0]);
#endif
}

// The saturated integer of x, still a float.
template <Rounding kRounding, ZeroPoint kZeroPoint, class D, class V>
HWY_INLINE V WholeNumber(D d, V x, const Lane<V>& grid, const NanLanes<D>& nan) {
  if constexpr (kZeroPoint == ZeroPoint::after) {
    return hn::Add(Position<kRounding>(d, x, grid, nan), grid.zero);
  } else {
    V v;
    if constexpr (kZeroPoint == ZeroPoint::fused) {
      v = FusedMulAdd(d, x, grid.factor, grid.zero);
    } else {
      v = hn::Add(hn::Mul(x, grid.factor), grid.zero);
    }
    const V low = hn::Add(grid.low, grid.zero);
    const V high = hn::Add(grid.high, grid.zero);
    const V r = NearestEven(d, hn::Min(hn::Max(v, low), high));
    return hn::IfThenElse(hn::Eq(v, v), r, hn::Add(nan.At(grid.low), grid.zero));
  }
}

template <Rounding kRounding, ZeroPoint kZeroPoint, class Q, class D, class Grids>
HWY_INLINE void QuantizeTo(D d, const hn::TFromD<D>* src, std::int64_t n, const Grids& grids,
                           NanPosition where, Q* dst) {
  const NanLanes<D> nan(d, where);
  const hn::Rebind<Q, D> dq;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto grid = grids.Load(d, i);
    const auto q = WholeNumber<kRounding, kZeroPoint>(d, hn::LoadU(d, src + i), grid, nan);
    hn::StoreU(hn::DemoteTo(dq, ToInt32(d, q)), dq, dst + i);
  }
  if (i < n) {
    const auto grid = grids.LoadN(d, i, n - i);
    const auto part = LoadPart(d, src + i, n - i);
    const auto q = WholeNumber<kRounding, kZeroPoint>(d, part, grid, nan);
    StorePart(dq, hn::DemoteTo(dq, ToInt32(d, q)), dst + i, n - i);
  }
}

template <class T, class Grids>
HWY_INLINE void Quantize(const T* src, std::int64_t n, const Grids& grids, const GridRule& rule,
                         Integer type, void* dst) {
  const hn::ScalableTag<T> d;
  const auto run = [&]<Rounding kRounding, ZeroPoint kZeroPoint>() HWY_ATTR {
    WithInteger(type, [&](auto q) HWY_ATTR {
      QuantizeTo<kRounding, kZeroPoint>(d, src, n, grids, rule.nan, static_cast<decltype(q)*>(dst));
    });
  };
  switch (rule.zero_point) {
    case ZeroPoint::before:
      return run.template operator()<Rounding::multiply_even, ZeroPoint::before>();
    case ZeroPoint::fused:
      return run.template operator()<Rounding::multiply_even, ZeroPoint::fused>();
    case ZeroPoint::after:
      WithRounding(rule.rounding, [&]<Rounding kRounding>() HWY_ATTR {
        run.template operator()<kRounding, ZeroPoint::after>();
      });
  }
}

template <class Q, class D, class Grids>
HWY_INLINE void DequantizeFrom(D d, const Q* src, std::int64_t n, const Grids& grids,
                               hn::TFromD<D>* dst) {
  const hn::Rebind<Q, D> dq;
  const hn::Rebind<std::int32_t, D> di;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto grid = grids.Load(d, i);
    const auto q = FromInt32(d, hn::PromoteTo(di, hn::LoadU(dq, src + i)));
    hn::StoreU(hn::Mul(hn::Sub(q, grid.zero), grid.scale), d, dst + i);
  }
  if (i < n) {
    const auto grid = grids.LoadN(d, i, n - i);
    const auto q = FromInt32(d, hn::PromoteTo(di, LoadPart(dq, src + i, n - i)));
    StorePart(d, hn::Mul(hn::Sub(q, grid.zero), grid.scale), dst + i, n - i);
  }
}

template <class T, class Grids>
HWY_INLINE void Dequantize(const void* src, Integer type, std::int64_t n, const Grids& grids,
                           T* dst) {
  const hn::ScalableTag<T> d;
  WithInteger(type, [&](auto q) HWY_ATTR {
    DequantizeFrom(d, static_cast<const decltype(q)*>(src), n, grids, dst);
  });
}

template <class T>
using Tag = hn::ScalableTag<T>;

void QuantizeOneF32(const float* src, std::int64_t n, const GridStep<float>& grid,
                    const GridRule& rule, Integer type, void* dst) {
  Quantize(src, n, OneGrid<Tag<float>>(Tag<float>(), grid), rule, type, dst);
}
void QuantizeManyF32(const float* src, std::int64_t n, const GridTable<float>& grids,
                     const GridRule& rule, Integer type, void* dst) {
  Quantize(src, n, ManyGrids<Tag<float>>(Tag<float>(), grids), rule, type, dst);
}
void QuantizeOneF64(const double* src, std::int64_t n, const GridStep<double>& grid,
                    const GridRule& rule, Integer type, void* dst) {
  Quantize(src, n, OneGrid<Tag<double>>(Tag<double>(), grid), rule, type, dst);
}
void QuantizeManyF64(const double* src, std::int64_t n, const GridTable<double>& grids,
                     const GridRule& rule, Integer type, void* dst) {
  Quantize(src, n, ManyGrids<Tag<double>>(Tag<double>(), grids), rule, type, dst);
}
void DequantizeOneF32(const void* src, Integer type, std::int64_t n, const GridStep<float>& grid,
                      float* dst) {
  Dequantize(src, type, n, OneGrid<Tag<float>>(Tag<float>(), grid), dst);
}
void DequantizeManyF32(const void* src, Integer type, std::int64_t n, const GridTable<float>& grids,
                       float* dst) {
  Dequantize(src, type, n, ManyGrids<Tag<float>>(Tag<float>(), grids), dst);
}
void DequantizeOneF64(const void* src, Integer type, std::int64_t n, const GridStep<double>& grid,
                      double* dst) {
  Dequantize(src, type, n, OneGrid<Tag<double>>(Tag<double>(), grid), dst);
}
void DequantizeManyF64(const void* src, Integer type, std::int64_t n,
                       const GridTable<double>& grids, double* dst) {
  Dequantize(src, type, n, ManyGrids<Tag<double>>(Tag<double>(), grids), dst);
}

}  // namespace moptcore::inline v0::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moptcore::inline v0::kernels {

HWY_EXPORT(QuantizeOneF32);
HWY_EXPORT(QuantizeManyF32);
HWY_EXPORT(QuantizeOneF64);
HWY_EXPORT(QuantizeManyF64);
HWY_EXPORT(DequantizeOneF32);
HWY_EXPORT(DequantizeManyF32);
HWY_EXPORT(DequantizeOneF64);
HWY_EXPORT(DequantizeManyF64);

void quantize_f32(const float* src, std::int64_t n, const GridStep<float>& grid,
                  const GridRule& rule, Integer type, void* dst) noexcept {
  HWY_DYNAMIC_DISPATCH(QuantizeOneF32)(src, n, grid, rule, type, dst);
}

void quantize_f32(const float* src, std::int64_t n, const GridTable<float>& grids,
                  const GridRule& rule, Integer type, void* dst) noexcept {
  HWY_DYNAMIC_DISPATCH(QuantizeManyF32)(src, n, grids, rule, type, dst);
}

void quantize_f64(const double* src, std::int64_t n, const GridStep<double>& grid,
                  const GridRule& rule, Integer type, void* dst) noexcept {
  HWY_DYNAMIC_DISPATCH(QuantizeOneF64)(src, n, grid, rule, type, dst);
}

void quantize_f64(const double* src, std::int64_t n, const GridTable<double>& grids,
                  const GridRule& rule, Integer type, void* dst) noexcept {
  HWY_DYNAMIC_DISPATCH(QuantizeManyF64)(src, n, grids, rule, type, dst);
}

void dequantize_f32(const void* src, Integer type, std::int64_t n, const GridStep<float>& grid,
                    float* dst) noexcept {
  HWY_DYNAMIC_DISPATCH(DequantizeOneF32)(src, type, n, grid, dst);
}

void dequantize_f32(const void* src, Integer type, std::int64_t n, const GridTable<float>& grids,
                    float* dst) noexcept {
  HWY_DYNAMIC_DISPATCH(DequantizeManyF32)(src, type, n, grids, dst);
}

void dequantize_f64(const void* src, Integer type, std::int64_t n, const GridStep<double>& grid,
                    double* dst) noexcept {
  HWY_DYNAMIC_DISPATCH(DequantizeOneF64)(src, type, n, grid, dst);
}

void dequantize_f64(const void* src, Integer type, std::int64_t n, const GridTable<double>& grids,
                    double* dst) noexcept {
  HWY_DYNAMIC_DISPATCH(DequantizeManyF64)(src, type, n, grids, dst);
}

void pack_nibbles(const std::uint8_t* src, std::int64_t n, std::uint8_t* dst) noexcept {
  for (std::int64_t i = 0; i < n / 2; ++i) {
    dst[i] = static_cast<std::uint8_t>((src[2 * i] & 15) | (src[2 * i + 1] << 4));
  }
  if (n % 2 != 0) dst[n / 2] = src[n - 1] & 15;
}

void unpack_nibbles(const std::uint8_t* src, std::int64_t n, bool is_signed,
                    std::uint8_t* dst) noexcept {
  if (is_signed) {
    for (std::int64_t i = 0; i < n; ++i) dst[i] = static_cast<std::uint8_t>(load_int4(src, i));
  } else {
    for (std::int64_t i = 0; i < n; ++i) dst[i] = load_uint4(src, i);
  }
}

}  // namespace moptcore::inline v0::kernels
#endif  // HWY_ONCE

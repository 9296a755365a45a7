// SPDX-License-Identifier: Apache-2.0
#include "kernels/fake_quant.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/fake_quant.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/grid-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace moptcore::inline v0::kernels::HWY_NAMESPACE {

// The value of a position. torch rounds the product to float; an exact product in double that is
// then rounded once is the same.
template <class D>
HWY_INLINE hn::Vec<D> Value(D d, hn::Vec<D> position, hn::Vec<D> scale, bool float_product) {
  const auto product = hn::Mul(position, scale);
  if constexpr (sizeof(hn::TFromD<D>) == sizeof(double)) {
    if (float_product) {
      const hn::Rebind<float, D> df;
      return hn::PromoteTo(d, hn::DemoteTo(df, product));
    }
  }
  return product;
}

template <class T, class Grids>
HWY_INLINE void FakeQuant(const T* src, std::int64_t n, const Grids& grids, const GridRule& rule,
                          T* dst, std::uint8_t* bits) {
  const hn::ScalableTag<T> d;
  const NanPosition nan = rule.nan;
  const bool float_product = rule.float_product;
  WithRounding(rule.rounding, [&]<Rounding kRounding>() HWY_ATTR {
    using V = hn::Vec<std::remove_const_t<decltype(d)>>;
    using M = hn::Mask<std::remove_const_t<decltype(d)>>;
    if (bits == nullptr) {
      ForEachLane<false>(d, src, n, grids, dst, bits, [=](V x, const Lane<V>& grid, M&) HWY_ATTR {
        return Value(d, Position<kRounding>(d, x, grid, nan), grid.scale, float_product);
      });
    } else {
      ForEachLane<true>(d, src, n, grids, dst, bits,
                        [=](V x, const Lane<V>& grid, M& inside) HWY_ATTR {
                          const V r = Position<kRounding>(d, x, grid, nan, inside);
                          return Value(d, r, grid.scale, float_product);
                        });
    }
  });
}

void FakeQuantOneF32(const float* src, std::int64_t n, const GridStep<float>& grid,
                     const GridRule& rule, float* dst, std::uint8_t* bits) {
  const hn::ScalableTag<float> d;
  FakeQuant(src, n, OneGrid<decltype(d)>(d, grid), rule, dst, bits);
}

void FakeQuantManyF32(const float* src, std::int64_t n, const GridTable<float>& grids,
                      const GridRule& rule, float* dst, std::uint8_t* bits) {
  const hn::ScalableTag<float> d;
  FakeQuant(src, n, ManyGrids<decltype(d)>(d, grids), rule, dst, bits);
}

void FakeQuantOneF64(const double* src, std::int64_t n, const GridStep<double>& grid,
                     const GridRule& rule, double* dst, std::uint8_t* bits) {
  const hn::ScalableTag<double> d;
  FakeQuant(src, n, OneGrid<decltype(d)>(d, grid), rule, dst, bits);
}

void FakeQuantManyF64(const double* src, std::int64_t n, const GridTable<double>& grids,
                      const GridRule& rule, double* dst, std::uint8_t* bits) {
  const hn::ScalableTag<double> d;
  FakeQuant(src, n, ManyGrids<decltype(d)>(d, grids), rule, dst, bits);
}

template <class T>
HWY_INLINE void KeepWhere(const T* src, const std::uint8_t* bits, std::int64_t n, T* dst) {
  const hn::ScalableTag<T> d;
  constexpr std::int64_t kLanes = hn::MaxLanes(decltype(d)());
  constexpr std::int64_t kUnit = kLanes < 8 ? 8 : kLanes;
  std::int64_t i = 0;
  for (; i + kUnit <= n; i += kUnit) {
    // LoadMaskBits may read 8 bytes, more than are left of `bits`.
    std::uint8_t part[8] = {};
    for (std::int64_t k = 0; k < kUnit / 8; ++k) part[k] = bits[i / 8 + k];
    const unsigned byte = part[0];
    for (std::int64_t k = 0; k < kUnit; k += kLanes) {
      if constexpr (kLanes < 8) part[0] = static_cast<std::uint8_t>(byte >> k);
      const auto kept = hn::LoadMaskBits(d, part);
      hn::StoreU(hn::IfThenElseZero(kept, hn::LoadU(d, src + i + k)), d, dst + i + k);
    }
  }
  for (; i < n; ++i) dst[i] = ((bits[i / 8] >> (i % 8)) & 1) != 0 ? src[i] : T{0};
}

void KeepWhereU16(const std::uint16_t* src, const std::uint8_t* bits, std::int64_t n,
                  std::uint16_t* dst) {
  KeepWhere(src, bits, n, dst);
}

void KeepWhereU32(const std::uint32_t* src, const std::uint8_t* bits, std::int64_t n,
                  std::uint32_t* dst) {
  KeepWhere(src, bits, n, dst);
}

void KeepWhereU64(const std::uint64_t* src, const std::uint8_t* bits, std::int64_t n,
                  std::uint64_t* dst) {
  KeepWhere(src, bits, n, dst);
}

}  // namespace moptcore::inline v0::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moptcore::inline v0::kernels {

HWY_EXPORT(FakeQuantOneF32);
HWY_EXPORT(FakeQuantManyF32);
HWY_EXPORT(FakeQuantOneF64);
HWY_EXPORT(FakeQuantManyF64);
HWY_EXPORT(KeepWhereU16);
HWY_EXPORT(KeepWhereU32);
HWY_EXPORT(KeepWhereU64);

void fake_quant_f32(const float* src, std::int64_t n, const GridStep<float>& grid,
                    const GridRule& rule, float* dst, std::uint8_t* bits) noexcept {
  HWY_DYNAMIC_DISPATCH(FakeQuantOneF32)(src, n, grid, rule, dst, bits);
}

void fake_quant_f32(const float* src, std::int64_t n, const GridTable<float>& grids,
                    const GridRule& rule, float* dst, std::uint8_t* bits) noexcept {
  HWY_DYNAMIC_DISPATCH(FakeQuantManyF32)(src, n, grids, rule, dst, bits);
}

void fake_quant_f64(const double* src, std::int64_t n, const GridStep<double>& grid,
                    const GridRule& rule, double* dst, std::uint8_t* bits) noexcept {
  HWY_DYNAMIC_DISPATCH(FakeQuantOneF64)(src, n, grid, rule, dst, bits);
}

void fake_quant_f64(const double* src, std::int64_t n, const GridTable<double>& grids,
                    const GridRule& rule, double* dst, std::uint8_t* bits) noexcept {
  HWY_DYNAMIC_DISPATCH(FakeQuantManyF64)(src, n, grids, rule, dst, bits);
}

void keep_where_u16(const std::uint16_t* src, const std::uint8_t* bits, std::int64_t n,
                    std::uint16_t* dst) noexcept {
  HWY_DYNAMIC_DISPATCH(KeepWhereU16)(src, bits, n, dst);
}

void keep_where_u32(const std::uint32_t* src, const std::uint8_t* bits, std::int64_t n,
                    std::uint32_t* dst) noexcept {
  HWY_DYNAMIC_DISPATCH(KeepWhereU32)(src, bits, n, dst);
}

void keep_where_u64(const std::uint64_t* src, const std::uint8_t* bits, std::int64_t n,
                    std::uint64_t* dst) noexcept {
  HWY_DYNAMIC_DISPATCH(KeepWhereU64)(src, bits, n, dst);
}

}  // namespace moptcore::inline v0::kernels
#endif  // HWY_ONCE

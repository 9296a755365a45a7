// SPDX-License-Identifier: Apache-2.0
#include "kernels/fake_quant.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/fake_quant.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <type_traits>

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

// The numbers that memory of S is computed with.
template <class S>
using Wide = std::conditional_t<std::is_same_v<S, double>, double, float>;

template <template <class> class Grids, class S, class Source>
HWY_INLINE void FakeQuant(const S* src, std::int64_t n, const Source& source, const GridRule& rule,
                          S* dst, std::uint8_t* bits, bool stream) {
  const hn::ScalableTag<Wide<S>> d;
  using D = std::remove_const_t<decltype(d)>;
  using V = hn::Vec<D>;
  using M = hn::Mask<D>;
  const Grids<D> grids(d, source);
  const NanLanes<D> nan(d, rule.nan);
  const bool float_product = rule.float_product;
  WithRounding(rule.rounding, [&]<Rounding kRounding>() HWY_ATTR {
    if (bits == nullptr) {
      ForEachLane<false>(
          d, src, n, grids, dst, bits, stream, [=](V x, const Lane<V>& grid, M&) HWY_ATTR {
            return Value(d, Position<kRounding>(d, x, grid, nan), grid.scale, float_product);
          });
    } else {
      ForEachLane<true>(d, src, n, grids, dst, bits, stream,
                        [=](V x, const Lane<V>& grid, M& inside) HWY_ATTR {
                          const V r = Position<kRounding>(d, x, grid, nan, inside);
                          return Value(d, r, grid.scale, float_product);
                        });
    }
  });
}

void FakeQuantOneF32(const float* src, std::int64_t n, const GridStep<float>& grid,
                     const GridRule& rule, float* dst, std::uint8_t* bits, bool stream) {
  FakeQuant<OneGrid>(src, n, grid, rule, dst, bits, stream);
}

void FakeQuantManyF32(const float* src, std::int64_t n, const GridTable<float>& grids,
                      const GridRule& rule, float* dst, std::uint8_t* bits, bool stream) {
  FakeQuant<ManyGrids>(src, n, grids, rule, dst, bits, stream);
}

void FakeQuantOneF16(const float16* src, std::int64_t n, const GridStep<float>& grid,
                     const GridRule& rule, float16* dst, std::uint8_t* bits, bool stream) {
  FakeQuant<OneGrid>(src, n, grid, rule, dst, bits, stream);
}

void FakeQuantManyF16(const float16* src, std::int64_t n, const GridTable<float>& grids,
                      const GridRule& rule, float16* dst, std::uint8_t* bits, bool stream) {
  FakeQuant<ManyGrids>(src, n, grids, rule, dst, bits, stream);
}

void FakeQuantOneBF16(const bfloat16* src, std::int64_t n, const GridStep<float>& grid,
                      const GridRule& rule, bfloat16* dst, std::uint8_t* bits, bool stream) {
  FakeQuant<OneGrid>(src, n, grid, rule, dst, bits, stream);
}

void FakeQuantManyBF16(const bfloat16* src, std::int64_t n, const GridTable<float>& grids,
                       const GridRule& rule, bfloat16* dst, std::uint8_t* bits, bool stream) {
  FakeQuant<ManyGrids>(src, n, grids, rule, dst, bits, stream);
}

void FakeQuantOneF64(const double* src, std::int64_t n, const GridStep<double>& grid,
                     const GridRule& rule, double* dst, std::uint8_t* bits, bool stream) {
  FakeQuant<OneGrid>(src, n, grid, rule, dst, bits, stream);
}

void FakeQuantManyF64(const double* src, std::int64_t n, const GridTable<double>& grids,
                      const GridRule& rule, double* dst, std::uint8_t* bits, bool stream) {
  FakeQuant<ManyGrids>(src, n, grids, rule, dst, bits, stream);
}

template <bool kStream, class T>
HWY_INLINE void KeepWhereBy(const T* src, const std::uint8_t* bits, std::int64_t n, T* dst) {
  const hn::ScalableTag<T> d;
  constexpr std::int64_t kLanes = hn::MaxLanes(decltype(d)());
  constexpr std::int64_t kUnit = kLanes < 8 ? 8 : kLanes;
  std::int64_t i = 0;
  for (; i + kUnit <= n; i += kUnit) {
    if constexpr (kStream) {
      hwy::Prefetch(reinterpret_cast<const char*>(src + i) + kAheadBytes);
    }
    // LoadMaskBits may read 8 bytes, more than are left of `bits`.
    std::uint8_t part[8] = {};
    for (std::int64_t k = 0; k < kUnit / 8; ++k) part[k] = bits[i / 8 + k];
    const unsigned byte = part[0];
    for (std::int64_t k = 0; k < kUnit; k += kLanes) {
      if constexpr (kLanes < 8) part[0] = static_cast<std::uint8_t>(byte >> k);
      const auto kept = hn::LoadMaskBits(d, part);
      StoreAs<kStream>(d, hn::IfThenElseZero(kept, hn::LoadU(d, src + i + k)), dst + i + k);
    }
  }
  for (; i < n; ++i) dst[i] = ((bits[i / 8] >> (i % 8)) & 1) != 0 ? src[i] : T{0};
}

template <class T>
HWY_INLINE void KeepWhere(const T* src, const std::uint8_t* bits, std::int64_t n, T* dst,
                          bool stream) {
  if (stream) KeepWhereBy<true>(src, bits, n, dst);
  else KeepWhereBy<false>(src, bits, n, dst);
}

void KeepWhereU16(const std::uint16_t* src, const std::uint8_t* bits, std::int64_t n,
                  std::uint16_t* dst, bool stream) {
  KeepWhere(src, bits, n, dst, stream);
}

void KeepWhereU32(const std::uint32_t* src, const std::uint8_t* bits, std::int64_t n,
                  std::uint32_t* dst, bool stream) {
  KeepWhere(src, bits, n, dst, stream);
}

void KeepWhereU64(const std::uint64_t* src, const std::uint8_t* bits, std::int64_t n,
                  std::uint64_t* dst, bool stream) {
  KeepWhere(src, bits, n, dst, stream);
}

}  // namespace moptcore::inline v0::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moptcore::inline v0::kernels {

HWY_EXPORT(FakeQuantOneF32);
HWY_EXPORT(FakeQuantManyF32);
HWY_EXPORT(FakeQuantOneF16);
HWY_EXPORT(FakeQuantManyF16);
HWY_EXPORT(FakeQuantOneBF16);
HWY_EXPORT(FakeQuantManyBF16);
HWY_EXPORT(FakeQuantOneF64);
HWY_EXPORT(FakeQuantManyF64);
HWY_EXPORT(KeepWhereU16);
HWY_EXPORT(KeepWhereU32);
HWY_EXPORT(KeepWhereU64);

void fake_quant_f32(const float* src, std::int64_t n, const GridStep<float>& grid,
                    const GridRule& rule, float* dst, std::uint8_t* bits, bool stream) noexcept {
  HWY_DYNAMIC_DISPATCH(FakeQuantOneF32)(src, n, grid, rule, dst, bits, stream);
}

void fake_quant_f32(const float* src, std::int64_t n, const GridTable<float>& grids,
                    const GridRule& rule, float* dst, std::uint8_t* bits, bool stream) noexcept {
  HWY_DYNAMIC_DISPATCH(FakeQuantManyF32)(src, n, grids, rule, dst, bits, stream);
}

void fake_quant_f16(const float16* src, std::int64_t n, const GridStep<float>& grid,
                    const GridRule& rule, float16* dst, std::uint8_t* bits, bool stream) noexcept {
  HWY_DYNAMIC_DISPATCH(FakeQuantOneF16)(src, n, grid, rule, dst, bits, stream);
}

void fake_quant_f16(const float16* src, std::int64_t n, const GridTable<float>& grids,
                    const GridRule& rule, float16* dst, std::uint8_t* bits, bool stream) noexcept {
  HWY_DYNAMIC_DISPATCH(FakeQuantManyF16)(src, n, grids, rule, dst, bits, stream);
}

void fake_quant_bf16(const bfloat16* src, std::int64_t n, const GridStep<float>& grid,
                     const GridRule& rule, bfloat16* dst, std::uint8_t* bits,
                     bool stream) noexcept {
  HWY_DYNAMIC_DISPATCH(FakeQuantOneBF16)(src, n, grid, rule, dst, bits, stream);
}

void fake_quant_bf16(const bfloat16* src, std::int64_t n, const GridTable<float>& grids,
                     const GridRule& rule, bfloat16* dst, std::uint8_t* bits,
                     bool stream) noexcept {
  HWY_DYNAMIC_DISPATCH(FakeQuantManyBF16)(src, n, grids, rule, dst, bits, stream);
}

void fake_quant_f64(const double* src, std::int64_t n, const GridStep<double>& grid,
                    const GridRule& rule, double* dst, std::uint8_t* bits, bool stream) noexcept {
  HWY_DYNAMIC_DISPATCH(FakeQuantOneF64)(src, n, grid, rule, dst, bits, stream);
}

void fake_quant_f64(const double* src, std::int64_t n, const GridTable<double>& grids,
                    const GridRule& rule, double* dst, std::uint8_t* bits, bool stream) noexcept {
  HWY_DYNAMIC_DISPATCH(FakeQuantManyF64)(src, n, grids, rule, dst, bits, stream);
}

void keep_where_u16(const std::uint16_t* src, const std::uint8_t* bits, std::int64_t n,
                    std::uint16_t* dst, bool stream) noexcept {
  HWY_DYNAMIC_DISPATCH(KeepWhereU16)(src, bits, n, dst, stream);
}

void keep_where_u32(const std::uint32_t* src, const std::uint8_t* bits, std::int64_t n,
                    std::uint32_t* dst, bool stream) noexcept {
  HWY_DYNAMIC_DISPATCH(KeepWhereU32)(src, bits, n, dst, stream);
}

void keep_where_u64(const std::uint64_t* src, const std::uint8_t* bits, std::int64_t n,
                    std::uint64_t* dst, bool stream) noexcept {
  HWY_DYNAMIC_DISPATCH(KeepWhereU64)(src, bits, n, dst, stream);
}

}  // namespace moptcore::inline v0::kernels
#endif  // HWY_ONCE

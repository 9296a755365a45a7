// SPDX-License-Identifier: Apache-2.0
#include "kernels/learned.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/learned.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <type_traits>

#include "kernels/grid-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace moptcore::inline v0::kernels {
namespace HWY_NAMESPACE {
namespace {

constexpr std::int64_t kLanes = 16;
constexpr std::int64_t kChunk = 1024;  // elements until the lanes go to a sum in double

// The numbers that memory of S is computed with.
template <class S>
using Wide = std::conditional_t<std::is_same_v<S, double>, double, float>;

template <template <class> class Grids, class S, class Source>
HWY_INLINE void Forward(const S* src, std::int64_t n, const Source& source, S* dst, bool stream) {
  const hn::ScalableTag<Wide<S>> d;
  using D = std::remove_const_t<decltype(d)>;
  using V = hn::Vec<D>;
  using M = hn::Mask<D>;
  const NanLanes<D> nan(d, NanPosition::nan);
  ForEachLane<false>(d, src, n, Grids<D>(d, source), dst, static_cast<std::uint8_t*>(nullptr),
                     stream, [=](V x, const Lane<V>& grid, M&) HWY_ATTR {
                       const V r =
                           Position<Rounding::divide_even>(d, hn::Sub(x, grid.zero), grid, nan);
                       return hn::Add(hn::Mul(r, grid.scale), grid.zero);
                     });
}

template <class V>
struct Gradient {
  V x, scale, offset;
};

template <Learned kWhat, class D, class V>
HWY_INLINE Gradient<V> GradientOf(D d, V grad, V x, const Lane<V>& grid) {
  const V zero = hn::Zero(d);
  if constexpr (kWhat == Learned::clip) {
    const auto inside = hn::And(hn::Ge(x, zero), hn::Lt(x, grid.high));
    return {hn::IfThenElseZero(inside, grad), hn::IfThenElseZero(hn::Ge(x, grid.high), grad), zero};
  } else {
    const V one = hn::Set(d, 1);
    const V v = hn::Div(hn::Sub(x, grid.zero), grid.factor);
    const auto number = hn::Eq(v, v);
    const V wide = hn::Min(hn::Max(v, hn::Sub(grid.low, one)), hn::Add(grid.high, one));
    const V r = NearestEven(d, wide);
    const V saturated = hn::Min(hn::Max(r, grid.low), grid.high);
    const auto kept = hn::Eq(r, saturated);
    const V slope = hn::IfThenElse(kept, hn::Sub(r, v), saturated);
    const V passed = hn::IfThenElseZero(number, grad);
    return {hn::IfThenElseZero(kept, passed), hn::IfThenElseZero(number, hn::Mul(grad, slope)),
            hn::IfThenZeroElse(kept, passed)};
  }
}

template <Learned kWhat, bool kStream, class S, class T>
HWY_INLINE LearnedSums BackwardOne(const S* grad, const S* src, std::int64_t n,
                                   const GridStep<T>& step, S* dst) {
  const hn::CappedTag<T, static_cast<std::size_t>(kLanes)> d;
  using D = std::remove_const_t<decltype(d)>;
  using V = hn::Vec<D>;
  constexpr auto kWidth = static_cast<std::int64_t>(hn::MaxLanes(D()));
  constexpr int kVectors = static_cast<int>(kLanes / kWidth);
  const Lane<V> grid = OneGrid<D>(d, step).Load(d, 0);
  LearnedSums total;
  for (std::int64_t first = 0; first < n; first += kChunk) {
    const std::int64_t last = first + kChunk < n ? first + kChunk : n;
    V scale[kVectors];
    V offset[kVectors];
    for (int v = 0; v < kVectors; ++v) scale[v] = offset[v] = hn::Zero(d);
    const auto block = [&]<bool kPast>(const S* g, const S* x, S* to) HWY_ATTR {
      for (int v = 0; v < kVectors; ++v) {
        const std::int64_t at = v * kWidth;
        const auto part = GradientOf<kWhat>(d, LoadAs<S>(d, g + at), LoadAs<S>(d, x + at), grid);
        StoreAs<kPast>(d, part.x, to + at);
        scale[v] = hn::Add(scale[v], part.scale);
        offset[v] = hn::Add(offset[v], part.offset);
      }
    };
    std::int64_t i = first;
    for (; i + kLanes <= last; i += kLanes) {
      if constexpr (kStream) {
        hwy::Prefetch(reinterpret_cast<const char*>(grad + i) + kAheadBytes);
        hwy::Prefetch(reinterpret_cast<const char*>(src + i) + kAheadBytes);
      }
      block.template operator()<kStream>(grad + i, src + i, dst + i);
    }
    if (i < last) {
      S rest[3][kLanes] = {};
      for (std::int64_t j = i; j < last; ++j) {
        rest[0][j - i] = grad[j];
        rest[1][j - i] = src[j];
      }
      block.template operator()<false>(rest[0], rest[1], rest[2]);
      for (std::int64_t j = i; j < last; ++j) dst[j] = rest[2][j - i];
    }
    T flat[2][kLanes];
    for (int v = 0; v < kVectors; ++v) {
      hn::StoreU(scale[v], d, flat[0] + v * kWidth);
      hn::StoreU(offset[v], d, flat[1] + v * kWidth);
    }
    for (std::int64_t k = 0; k < kLanes; ++k) {
      total.scale += static_cast<double>(flat[0][k]);
      total.offset += static_cast<double>(flat[1][k]);
    }
  }
  return total;
}

template <Learned kWhat, class T>
HWY_INLINE void BackwardMany(const T* grad, const T* src, std::int64_t n, const GridTable<T>& table,
                             T* dst, double* scale, double* offset) {
  const hn::ScalableTag<T> d;
  using D = std::remove_const_t<decltype(d)>;
  constexpr auto kWidth = static_cast<std::int64_t>(hn::MaxLanes(D()));
  const ManyGrids<D> grids(d, table);
  T terms[2][kWidth];
  for (std::int64_t i = 0; i < n; i += kWidth) {
    const std::int64_t count = n - i < kWidth ? n - i : kWidth;
    const bool whole = count == kWidth;
    const auto g = whole ? hn::LoadU(d, grad + i) : LoadPart(d, grad + i, count);
    const auto x = whole ? hn::LoadU(d, src + i) : LoadPart(d, src + i, count);
    const auto grid = whole ? grids.Load(d, i) : grids.LoadN(d, i, count);
    const auto part = GradientOf<kWhat>(d, g, x, grid);
    if (whole) hn::StoreU(part.x, d, dst + i);
    else StorePart(d, part.x, dst + i, count);
    hn::StoreU(part.scale, d, terms[0]);
    hn::StoreU(part.offset, d, terms[1]);
    for (std::int64_t k = 0; k < count; ++k) {
      scale[i + k] += static_cast<double>(terms[0][k]);
      offset[i + k] += static_cast<double>(terms[1][k]);
    }
  }
}

void ForwardOneF32(const float* src, std::int64_t n, const GridStep<float>& grid, float* dst,
                   bool stream) {
  Forward<OneGrid>(src, n, grid, dst, stream);
}

void ForwardManyF32(const float* src, std::int64_t n, const GridTable<float>& grids, float* dst,
                    bool stream) {
  Forward<ManyGrids>(src, n, grids, dst, stream);
}

void ForwardOneF16(const float16* src, std::int64_t n, const GridStep<float>& grid, float16* dst,
                   bool stream) {
  Forward<OneGrid>(src, n, grid, dst, stream);
}

void ForwardManyF16(const float16* src, std::int64_t n, const GridTable<float>& grids, float16* dst,
                    bool stream) {
  Forward<ManyGrids>(src, n, grids, dst, stream);
}

void ForwardOneBF16(const bfloat16* src, std::int64_t n, const GridStep<float>& grid, bfloat16* dst,
                    bool stream) {
  Forward<OneGrid>(src, n, grid, dst, stream);
}

void ForwardManyBF16(const bfloat16* src, std::int64_t n, const GridTable<float>& grids,
                     bfloat16* dst, bool stream) {
  Forward<ManyGrids>(src, n, grids, dst, stream);
}

void ForwardOneF64(const double* src, std::int64_t n, const GridStep<double>& grid, double* dst,
                   bool stream) {
  Forward<OneGrid>(src, n, grid, dst, stream);
}

void ForwardManyF64(const double* src, std::int64_t n, const GridTable<double>& grids, double* dst,
                    bool stream) {
  Forward<ManyGrids>(src, n, grids, dst, stream);
}

template <class S, class T>
HWY_INLINE LearnedSums Backward(const S* grad, const S* src, std::int64_t n,
                                const GridStep<T>& grid, Learned what, S* dst, bool stream) {
  if (what == Learned::clip) {
    return stream ? BackwardOne<Learned::clip, true>(grad, src, n, grid, dst)
                  : BackwardOne<Learned::clip, false>(grad, src, n, grid, dst);
  }
  return stream ? BackwardOne<Learned::step, true>(grad, src, n, grid, dst)
                : BackwardOne<Learned::step, false>(grad, src, n, grid, dst);
}

LearnedSums BackwardOneF32(const float* grad, const float* src, std::int64_t n,
                           const GridStep<float>& grid, Learned what, float* dst, bool stream) {
  return Backward(grad, src, n, grid, what, dst, stream);
}

LearnedSums BackwardOneF16(const float16* grad, const float16* src, std::int64_t n,
                           const GridStep<float>& grid, Learned what, float16* dst, bool stream) {
  return Backward(grad, src, n, grid, what, dst, stream);
}

LearnedSums BackwardOneBF16(const bfloat16* grad, const bfloat16* src, std::int64_t n,
                            const GridStep<float>& grid, Learned what, bfloat16* dst, bool stream) {
  return Backward(grad, src, n, grid, what, dst, stream);
}

LearnedSums BackwardOneF64(const double* grad, const double* src, std::int64_t n,
                           const GridStep<double>& grid, Learned what, double* dst, bool stream) {
  return Backward(grad, src, n, grid, what, dst, stream);
}

void BackwardManyF32(const float* grad, const float* src, std::int64_t n,
                     const GridTable<float>& grids, Learned what, float* dst, double* scale,
                     double* offset) {
  if (what == Learned::clip) {
    BackwardMany<Learned::clip>(grad, src, n, grids, dst, scale, offset);
  } else {
    BackwardMany<Learned::step>(grad, src, n, grids, dst, scale, offset);
  }
}

void BackwardManyF64(const double* grad, const double* src, std::int64_t n,
                     const GridTable<double>& grids, Learned what, double* dst, double* scale,
                     double* offset) {
  if (what == Learned::clip) {
    BackwardMany<Learned::clip>(grad, src, n, grids, dst, scale, offset);
  } else {
    BackwardMany<Learned::step>(grad, src, n, grids, dst, scale, offset);
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace moptcore::inline v0::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moptcore::inline v0::kernels {

HWY_EXPORT(ForwardOneF32);
HWY_EXPORT(ForwardManyF32);
HWY_EXPORT(BackwardOneF32);
HWY_EXPORT(ForwardOneF16);
HWY_EXPORT(ForwardManyF16);
HWY_EXPORT(BackwardOneF16);
HWY_EXPORT(ForwardOneBF16);
HWY_EXPORT(ForwardManyBF16);
HWY_EXPORT(BackwardOneBF16);
HWY_EXPORT(ForwardOneF64);
HWY_EXPORT(ForwardManyF64);
HWY_EXPORT(BackwardOneF64);
HWY_EXPORT(BackwardManyF32);
HWY_EXPORT(BackwardManyF64);

void learned_f32(const float* src, std::int64_t n, const GridStep<float>& grid, float* dst,
                 bool stream) noexcept {
  HWY_DYNAMIC_DISPATCH(ForwardOneF32)(src, n, grid, dst, stream);
}

void learned_f32(const float* src, std::int64_t n, const GridTable<float>& grids, float* dst,
                 bool stream) noexcept {
  HWY_DYNAMIC_DISPATCH(ForwardManyF32)(src, n, grids, dst, stream);
}

void learned_f16(const float16* src, std::int64_t n, const GridStep<float>& grid, float16* dst,
                 bool stream) noexcept {
  HWY_DYNAMIC_DISPATCH(ForwardOneF16)(src, n, grid, dst, stream);
}

void learned_f16(const float16* src, std::int64_t n, const GridTable<float>& grids, float16* dst,
                 bool stream) noexcept {
  HWY_DYNAMIC_DISPATCH(ForwardManyF16)(src, n, grids, dst, stream);
}

void learned_bf16(const bfloat16* src, std::int64_t n, const GridStep<float>& grid, bfloat16* dst,
                  bool stream) noexcept {
  HWY_DYNAMIC_DISPATCH(ForwardOneBF16)(src, n, grid, dst, stream);
}

void learned_bf16(const bfloat16* src, std::int64_t n, const GridTable<float>& grids, bfloat16* dst,
                  bool stream) noexcept {
  HWY_DYNAMIC_DISPATCH(ForwardManyBF16)(src, n, grids, dst, stream);
}

void learned_f64(const double* src, std::int64_t n, const GridStep<double>& grid, double* dst,
                 bool stream) noexcept {
  HWY_DYNAMIC_DISPATCH(ForwardOneF64)(src, n, grid, dst, stream);
}

void learned_f64(const double* src, std::int64_t n, const GridTable<double>& grids, double* dst,
                 bool stream) noexcept {
  HWY_DYNAMIC_DISPATCH(ForwardManyF64)(src, n, grids, dst, stream);
}

LearnedSums learned_backward_f32(const float* grad, const float* src, std::int64_t n,
                                 const GridStep<float>& grid, Learned what, float* dst,
                                 bool stream) noexcept {
  return HWY_DYNAMIC_DISPATCH(BackwardOneF32)(grad, src, n, grid, what, dst, stream);
}

LearnedSums learned_backward_f16(const float16* grad, const float16* src, std::int64_t n,
                                 const GridStep<float>& grid, Learned what, float16* dst,
                                 bool stream) noexcept {
  return HWY_DYNAMIC_DISPATCH(BackwardOneF16)(grad, src, n, grid, what, dst, stream);
}

LearnedSums learned_backward_bf16(const bfloat16* grad, const bfloat16* src, std::int64_t n,
                                  const GridStep<float>& grid, Learned what, bfloat16* dst,
                                  bool stream) noexcept {
  return HWY_DYNAMIC_DISPATCH(BackwardOneBF16)(grad, src, n, grid, what, dst, stream);
}

LearnedSums learned_backward_f64(const double* grad, const double* src, std::int64_t n,
                                 const GridStep<double>& grid, Learned what, double* dst,
                                 bool stream) noexcept {
  return HWY_DYNAMIC_DISPATCH(BackwardOneF64)(grad, src, n, grid, what, dst, stream);
}

void learned_backward_f32(const float* grad, const float* src, std::int64_t n,
                          const GridTable<float>& grids, Learned what, float* dst, double* scale,
                          double* offset) noexcept {
  HWY_DYNAMIC_DISPATCH(BackwardManyF32)(grad, src, n, grids, what, dst, scale, offset);
}

void learned_backward_f64(const double* grad, const double* src, std::int64_t n,
                          const GridTable<double>& grids, Learned what, double* dst, double* scale,
                          double* offset) noexcept {
  HWY_DYNAMIC_DISPATCH(BackwardManyF64)(grad, src, n, grids, what, dst, scale, offset);
}

}  // namespace moptcore::inline v0::kernels
#endif  // HWY_ONCE

// SPDX-License-Identifier: Apache-2.0
#include "kernels/fold.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/fold.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace moptcore::inline v0::kernels {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

using DD = hn::CappedTag<double, 8>;
using DF = hn::Rebind<float, DD>;
using VD = hn::Vec<DD>;
constexpr auto kWidth = static_cast<std::int64_t>(hn::MaxLanes(DD()));
constexpr int kVectors = static_cast<int>(kFoldLanes / kWidth);

using DW = hn::CappedTag<float, 16>;
using VW = hn::Vec<DW>;
constexpr auto kWide = static_cast<std::int64_t>(hn::MaxLanes(DW()));
constexpr int kWides = static_cast<int>(kFoldLanes / kWide);

// The first `count` elements, behind them zeros.
template <class D, class T = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> load_first(D d, const T* src, std::int64_t count) {
  constexpr auto kLanes = static_cast<std::int64_t>(hn::MaxLanes(D()));
  if (count >= kLanes) return hn::LoadU(d, src);
  T lanes[kLanes] = {};
  for (std::int64_t i = 0; i < count; ++i) lanes[i] = src[i];
  return hn::LoadU(d, lanes);
}

template <class D, class T = hn::TFromD<D>>
HWY_INLINE void store_first(D d, hn::Vec<D> v, T* dst, std::int64_t count) {
  constexpr auto kLanes = static_cast<std::int64_t>(hn::MaxLanes(D()));
  if (count >= kLanes) return hn::StoreU(v, d, dst);
  T lanes[kLanes];
  hn::StoreU(v, d, lanes);
  for (std::int64_t i = 0; i < count; ++i) dst[i] = lanes[i];
}

template <Sum kSum>
HWY_INLINE VD add(VD sum, VD x) {
  if constexpr (kSum == Sum::squares) return hn::Add(sum, hn::Mul(x, x));
  else if constexpr (kSum == Sum::magnitudes) return hn::Add(sum, hn::Abs(x));
  else return hn::Add(sum, x);
}

// What is missing behind the last element counts as 0.
template <Sum kSum>
HWY_INLINE void sum_lanes(const float* HWY_RESTRICT x, std::int64_t n, VD* HWY_RESTRICT sums) {
  const DD d;
  const DF df;
  std::int64_t i = 0;
  for (; i + kFoldLanes <= n; i += kFoldLanes) {
    for (int v = 0; v < kVectors; ++v) {
      sums[v] = add<kSum>(sums[v], hn::PromoteTo(d, hn::LoadU(df, x + i + v * kWidth)));
    }
  }
  for (int v = 0; v < kVectors && i + v * kWidth < n; ++v) {
    const std::int64_t at = i + v * kWidth;
    sums[v] = add<kSum>(sums[v], hn::PromoteTo(d, load_first(df, x + at, n - at)));
  }
}

template <class F>
HWY_INLINE void with_sum(Sum sum, F&& f) {
  switch (sum) {
    case Sum::values: return f.template operator()<Sum::values>();
    case Sum::squares: return f.template operator()<Sum::squares>();
    case Sum::magnitudes: return f.template operator()<Sum::magnitudes>();
  }
}

void sum_lanes_f32(Sum sum, const float* x, std::int64_t n, double* lanes) {
  const DD d;
  with_sum(sum, [&]<Sum kSum>() HWY_ATTR {
    VD sums[kVectors];
    for (int v = 0; v < kVectors; ++v) sums[v] = hn::LoadU(d, lanes + v * kWidth);
    sum_lanes<kSum>(x, n, sums);
    for (int v = 0; v < kVectors; ++v) hn::StoreU(sums[v], d, lanes + v * kWidth);
  });
}

void sum_rows_f32(Sum sum, const float* x, std::int64_t rows, std::int64_t n, double* to) {
  const DD d;
  with_sum(sum, [&]<Sum kSum>() HWY_ATTR {
    for (std::int64_t row = 0; row < rows; ++row) {
      VD sums[kVectors];
      for (int v = 0; v < kVectors; ++v) sums[v] = hn::Zero(d);
      sum_lanes<kSum>(x + row * n, n, sums);
      int count = kVectors;
      for (; count > 1; count /= 2) {
        for (int v = 0; v < count / 2; ++v) sums[v] = hn::Add(sums[v], sums[v + count / 2]);
      }
      HWY_ALIGN double lanes[kWidth];
      hn::Store(sums[0], d, lanes);
      for (std::int64_t width = kWidth / 2; width > 0; width /= 2) {
        for (std::int64_t lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
      }
      to[row] = lanes[0];
    }
  });
}

void sum_columns_f32(Sum sum, const float* x, std::int64_t rows, std::int64_t stride,
                     std::int64_t n, double* to) {
  const DD d;
  const DF df;
  constexpr int kBlock = 4;
  with_sum(sum, [&]<Sum kSum>() HWY_ATTR {
    std::int64_t j = 0;
    for (; j + kBlock * kWidth <= n; j += kBlock * kWidth) {
      VD sums[kBlock];
      for (int v = 0; v < kBlock; ++v) sums[v] = hn::LoadU(d, to + j + v * kWidth);
      for (std::int64_t row = 0; row < rows; ++row) {
        const float* from = x + row * stride + j;
        for (int v = 0; v < kBlock; ++v) {
          sums[v] = add<kSum>(sums[v], hn::PromoteTo(d, hn::LoadU(df, from + v * kWidth)));
        }
      }
      for (int v = 0; v < kBlock; ++v) hn::StoreU(sums[v], d, to + j + v * kWidth);
    }
    for (; j < n; j += kWidth) {
      VD sums = load_first(d, to + j, n - j);
      for (std::int64_t row = 0; row < rows; ++row) {
        sums = add<kSum>(sums, hn::PromoteTo(d, load_first(df, x + row * stride + j, n - j)));
      }
      store_first(d, sums, to + j, n - j);
    }
  });
}

// Of equal ones the first, which decides between 0 and -0.
template <Extreme kExtreme>
HWY_INLINE VW farther(VW best, VW x) {
  const auto beats = kExtreme == Extreme::greatest ? hn::Gt(x, best) : hn::Lt(x, best);
  // By Eq: not every version of Highway finds NaN unequal to itself.
  return hn::IfThenElse(hn::Eq(x, x), hn::IfThenElse(beats, x, best), x);
}

template <Extreme kExtreme>
HWY_INLINE float farther_one(float best, float x) {
  const bool beats = kExtreme == Extreme::greatest ? x > best : x < best;
  return beats || x != x ? x : best;
}

template <class F>
HWY_INLINE void with_extreme(Extreme extreme, F&& f) {
  if (extreme == Extreme::greatest) f.template operator()<Extreme::greatest>();
  else f.template operator()<Extreme::least>();
}

void extreme_rows_f32(Extreme extreme, const float* x, std::int64_t rows, std::int64_t n,
                      float* to) {
  const DW d;
  with_extreme(extreme, [&]<Extreme kExtreme>() HWY_ATTR {
    for (std::int64_t row = 0; row < rows; ++row, x += n) {
      if (n < kFoldLanes) {
        float best = x[0];
        for (std::int64_t i = 1; i < n; ++i) best = farther_one<kExtreme>(best, x[i]);
        to[row] = best;
        continue;
      }
      VW best[kWides];
      for (int v = 0; v < kWides; ++v) best[v] = hn::LoadU(d, x + v * kWide);
      std::int64_t i = kFoldLanes;
      for (; i + kFoldLanes <= n; i += kFoldLanes) {
        for (int v = 0; v < kWides; ++v) {
          best[v] = farther<kExtreme>(best[v], hn::LoadU(d, x + i + v * kWide));
        }
      }
      if (i < n) {  // some twice, which changes no extreme
        for (int v = 0; v < kWides; ++v) {
          best[v] = farther<kExtreme>(best[v], hn::LoadU(d, x + n - kFoldLanes + v * kWide));
        }
      }
      for (int count = kWides; count > 1; count /= 2) {
        for (int v = 0; v < count / 2; ++v) {
          best[v] = farther<kExtreme>(best[v], best[v + count / 2]);
        }
      }
      HWY_ALIGN float lanes[kWide];
      hn::Store(best[0], d, lanes);
      for (std::int64_t width = kWide / 2; width > 0; width /= 2) {
        for (std::int64_t lane = 0; lane < width; ++lane) {
          lanes[lane] = farther_one<kExtreme>(lanes[lane], lanes[lane + width]);
        }
      }
      to[row] = lanes[0];
    }
  });
}

void extreme_columns_f32(Extreme extreme, const float* x, std::int64_t rows, std::int64_t stride,
                         std::int64_t n, float* to) {
  const DW d;
  constexpr int kBlock = 4;
  with_extreme(extreme, [&]<Extreme kExtreme>() HWY_ATTR {
    std::int64_t j = 0;
    for (; j + kBlock * kWide <= n; j += kBlock * kWide) {
      VW best[kBlock];
      for (int v = 0; v < kBlock; ++v) best[v] = hn::LoadU(d, to + j + v * kWide);
      for (std::int64_t row = 0; row < rows; ++row) {
        const float* from = x + row * stride + j;
        for (int v = 0; v < kBlock; ++v) {
          best[v] = farther<kExtreme>(best[v], hn::LoadU(d, from + v * kWide));
        }
      }
      for (int v = 0; v < kBlock; ++v) hn::StoreU(best[v], d, to + j + v * kWide);
    }
    for (; j < n; j += kWide) {
      VW best = load_first(d, to + j, n - j);
      for (std::int64_t row = 0; row < rows; ++row) {
        best = farther<kExtreme>(best, load_first(d, x + row * stride + j, n - j));
      }
      store_first(d, best, to + j, n - j);
    }
  });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace moptcore::inline v0::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moptcore::inline v0::kernels {

HWY_EXPORT(sum_lanes_f32);
HWY_EXPORT(sum_rows_f32);
HWY_EXPORT(sum_columns_f32);
HWY_EXPORT(extreme_rows_f32);
HWY_EXPORT(extreme_columns_f32);

void sum_lanes_f32(Sum sum, const float* x, std::int64_t n, double* lanes) noexcept {
  HWY_DYNAMIC_DISPATCH(sum_lanes_f32)(sum, x, n, lanes);
}

void sum_rows_f32(Sum sum, const float* x, std::int64_t rows, std::int64_t n,
                  double* sums) noexcept {
  HWY_DYNAMIC_DISPATCH(sum_rows_f32)(sum, x, rows, n, sums);
}

void sum_columns_f32(Sum sum, const float* x, std::int64_t rows, std::int64_t stride,
                     std::int64_t n, double* sums) noexcept {
  HWY_DYNAMIC_DISPATCH(sum_columns_f32)(sum, x, rows, stride, n, sums);
}

void extreme_rows_f32(Extreme extreme, const float* x, std::int64_t rows, std::int64_t n,
                      float* extremes) noexcept {
  HWY_DYNAMIC_DISPATCH(extreme_rows_f32)(extreme, x, rows, n, extremes);
}

void extreme_columns_f32(Extreme extreme, const float* x, std::int64_t rows, std::int64_t stride,
                         std::int64_t n, float* extremes) noexcept {
  HWY_DYNAMIC_DISPATCH(extreme_columns_f32)(extreme, x, rows, stride, n, extremes);
}

}  // namespace moptcore::inline v0::kernels
#endif

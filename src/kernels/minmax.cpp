// SPDX-License-Identifier: Apache-2.0
#include "kernels/minmax.hpp"

#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/minmax.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace moptcore::inline v0::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <class T>
constexpr T kInfinity = std::numeric_limits<T>::infinity();

// Elements between two tests of whether all were finite.
constexpr std::int64_t kBlock = 4096;

// One vector of running results; several of them hide the latency of min and max. `odd` becomes
// NaN with the first NaN or infinity, and then min and max mean nothing.
template <class D>
struct Running {
  using T = hn::TFromD<D>;
  using V = hn::Vec<D>;

  V min, max, odd;

  explicit Running(D d)
      : min(hn::Set(d, kInfinity<T>)), max(hn::Set(d, -kInfinity<T>)), odd(hn::Zero(d)) {}

  HWY_INLINE void Add(D d, V x) {
    min = hn::Min(min, x);
    max = hn::Max(max, x);
    odd = hn::MulAdd(x, hn::Zero(d), odd);
  }

  HWY_INLINE void Merge(const Running& other) {
    min = hn::Min(min, other.min);
    max = hn::Max(max, other.max);
    odd = hn::Add(odd, other.odd);
  }
};

template <class T>
HWY_INLINE bool IsFinite(T x) {
  return x <= std::numeric_limits<T>::max() && x >= -std::numeric_limits<T>::max();
}

template <class T>
HWY_INLINE void AddFinite(const T* src, std::int64_t n, MinMax<T>& result) {
  for (std::int64_t i = 0; i < n; ++i) {
    const bool finite = IsFinite(src[i]);
    if (finite && src[i] < result.min) result.min = src[i];
    if (finite && src[i] > result.max) result.max = src[i];
    result.finite = result.finite && finite;
  }
}

// Whole vectors; false, and `result` as it was, where not all are finite.
template <class D, class T = hn::TFromD<D>>
HWY_INLINE bool AddBlock(D d, const T* src, std::int64_t n, MinMax<T>& result) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  Running<D> a(d), b(d), c(d), e(d);
  std::int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    a.Add(d, hn::LoadU(d, src + i));
    b.Add(d, hn::LoadU(d, src + i + lanes));
    c.Add(d, hn::LoadU(d, src + i + 2 * lanes));
    e.Add(d, hn::LoadU(d, src + i + 3 * lanes));
  }
  for (; i < n; i += lanes) a.Add(d, hn::LoadU(d, src + i));
  a.Merge(b);
  c.Merge(e);
  a.Merge(c);
  if (!hn::AllTrue(d, hn::Eq(a.odd, hn::Zero(d)))) return false;
  const T min = hn::GetLane(hn::MinOfLanes(d, a.min));
  const T max = hn::GetLane(hn::MaxOfLanes(d, a.max));
  if (min < result.min) result.min = min;
  if (max > result.max) result.max = max;
  return true;
}

template <class T>
HWY_INLINE MinMax<T> MinMaxOf(const T* src, std::int64_t n) {
  const hn::ScalableTag<T> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  MinMax<T> result;
  const std::int64_t whole = n - n % lanes;
  for (std::int64_t at = 0; at < whole; at += kBlock) {
    const std::int64_t count = whole - at < kBlock ? whole - at : kBlock;
    if (!AddBlock(d, src + at, count, result)) AddFinite(src + at, count, result);
  }
  AddFinite(src + whole, n - whole, result);
  result.min += T{0};
  result.max += T{0};
  return result;
}

template <class T>
HWY_INLINE bool UpdateFinite(const T* src, std::int64_t n, T* mins, T* maxs) {
  bool ok = true;
  for (std::int64_t i = 0; i < n; ++i) {
    const bool finite = IsFinite(src[i]);
    if (finite && src[i] < mins[i]) mins[i] = src[i];
    if (finite && src[i] > maxs[i]) maxs[i] = src[i];
    ok = ok && finite;
  }
  return ok;
}

// Rows that one load and store of the running results serves.
constexpr std::int64_t kRows = 8;

template <class T>
HWY_INLINE bool Update(const T* src, std::int64_t rows, std::int64_t n, T* mins, T* maxs) {
  const hn::ScalableTag<T> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  bool ok = true;
  for (std::int64_t row = 0; row < rows; row += kRows) {
    const std::int64_t count = rows - row < kRows ? rows - row : kRows;
    const T* const from = src + row * n;
    std::int64_t i = 0;
    for (; i + lanes <= n; i += lanes) {
      auto low = hn::LoadU(d, mins + i);
      auto high = hn::LoadU(d, maxs + i);
      auto odd = hn::Zero(d);
      const auto add = [&](std::int64_t r) HWY_ATTR {
        const auto x = hn::LoadU(d, from + r * n + i);
        low = hn::Min(low, x);
        high = hn::Max(high, x);
        odd = hn::MulAdd(x, hn::Zero(d), odd);
      };
      if (count == kRows) {
        for (std::int64_t r = 0; r < kRows; ++r) add(r);
      } else {
        for (std::int64_t r = 0; r < count; ++r) add(r);
      }
      if (hn::AllTrue(d, hn::Eq(odd, hn::Zero(d)))) {
        hn::StoreU(low, d, mins + i);
        hn::StoreU(high, d, maxs + i);
      } else {
        for (std::int64_t r = 0; r < count; ++r) {
          UpdateFinite(from + r * n + i, lanes, mins + i, maxs + i);
        }
        ok = false;
      }
    }
    for (std::int64_t r = 0; r < count; ++r) {
      ok = UpdateFinite(from + r * n + i, n - i, mins + i, maxs + i) && ok;
    }
  }
  return ok;
}

template <class T>
HWY_INLINE bool HasNan(const T* src, std::int64_t n) {
  const hn::ScalableTag<T> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  auto a = hn::Eq(hn::Zero(d), hn::Zero(d));
  auto b = a;
  std::int64_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    const auto x = hn::LoadU(d, src + i);
    const auto y = hn::LoadU(d, src + i + lanes);
    a = hn::And(a, hn::Eq(x, x));
    b = hn::And(b, hn::Eq(y, y));
  }
  bool found = !hn::AllTrue(d, hn::And(a, b));
  for (; i < n; ++i) found = found || std::isnan(src[i]);
  return found;
}

MinMax<float> MinMaxF32(const float* src, std::int64_t n) { return MinMaxOf(src, n); }
MinMax<double> MinMaxF64(const double* src, std::int64_t n) { return MinMaxOf(src, n); }

bool UpdateF32(const float* src, std::int64_t rows, std::int64_t n, float* mins, float* maxs) {
  return Update(src, rows, n, mins, maxs);
}
bool UpdateF64(const double* src, std::int64_t rows, std::int64_t n, double* mins, double* maxs) {
  return Update(src, rows, n, mins, maxs);
}

bool HasNanF32(const float* src, std::int64_t n) { return HasNan(src, n); }
bool HasNanF64(const double* src, std::int64_t n) { return HasNan(src, n); }

}  // namespace moptcore::inline v0::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moptcore::inline v0::kernels {

HWY_EXPORT(MinMaxF32);
HWY_EXPORT(MinMaxF64);
HWY_EXPORT(UpdateF32);
HWY_EXPORT(UpdateF64);
HWY_EXPORT(HasNanF32);
HWY_EXPORT(HasNanF64);

MinMax<float> min_max_f32(const float* src, std::int64_t n) noexcept {
  return HWY_DYNAMIC_DISPATCH(MinMaxF32)(src, n);
}

MinMax<double> min_max_f64(const double* src, std::int64_t n) noexcept {
  return HWY_DYNAMIC_DISPATCH(MinMaxF64)(src, n);
}

bool min_max_update_f32(const float* src, std::int64_t rows, std::int64_t n, float* mins,
                        float* maxs) noexcept {
  return HWY_DYNAMIC_DISPATCH(UpdateF32)(src, rows, n, mins, maxs);
}

bool min_max_update_f64(const double* src, std::int64_t rows, std::int64_t n, double* mins,
                        double* maxs) noexcept {
  return HWY_DYNAMIC_DISPATCH(UpdateF64)(src, rows, n, mins, maxs);
}

bool has_nan_f32(const float* src, std::int64_t n) noexcept {
  return HWY_DYNAMIC_DISPATCH(HasNanF32)(src, n);
}

bool has_nan_f64(const double* src, std::int64_t n) noexcept {
  return HWY_DYNAMIC_DISPATCH(HasNanF64)(src, n);
}

}  // namespace moptcore::inline v0::kernels
#endif  // HWY_ONCE

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

// One vector of running results; several of them hide the latency of min and max.
template <class D>
struct Running {
  using T = hn::TFromD<D>;
  using V = hn::Vec<D>;

  V min, max, worst;

  explicit Running(D d)
      : min(hn::Set(d, kInfinity<T>)), max(hn::Set(d, -kInfinity<T>)), worst(hn::Zero(d)) {}

  HWY_INLINE void Add(D d, V x) {
    const V top = hn::Set(d, std::numeric_limits<T>::max());
    const auto finite = hn::Le(hn::Abs(x), top);
    min = hn::Min(min, hn::IfThenElse(finite, x, hn::Set(d, kInfinity<T>)));
    max = hn::Max(max, hn::IfThenElse(finite, x, hn::Set(d, -kInfinity<T>)));
    worst = hn::IfThenElse(finite, worst, hn::Set(d, 1));
  }

  HWY_INLINE void Merge(const Running& other) {
    min = hn::Min(min, other.min);
    max = hn::Max(max, other.max);
    worst = hn::Max(worst, other.worst);
  }
};

template <class T>
HWY_INLINE MinMax<T> MinMaxOf(const T* src, std::int64_t n) {
  const hn::ScalableTag<T> d;
  using D = decltype(d);
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  Running<std::remove_const_t<D>> a(d), b(d), c(d), e(d);
  std::int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    a.Add(d, hn::LoadU(d, src + i));
    b.Add(d, hn::LoadU(d, src + i + lanes));
    c.Add(d, hn::LoadU(d, src + i + 2 * lanes));
    e.Add(d, hn::LoadU(d, src + i + 3 * lanes));
  }
  for (; i + lanes <= n; i += lanes) a.Add(d, hn::LoadU(d, src + i));
  a.Merge(b);
  c.Merge(e);
  a.Merge(c);
  HWY_ALIGN T mins[HWY_MAX_BYTES / sizeof(T)];
  HWY_ALIGN T maxs[HWY_MAX_BYTES / sizeof(T)];
  HWY_ALIGN T worst[HWY_MAX_BYTES / sizeof(T)];
  hn::Store(a.min, d, mins);
  hn::Store(a.max, d, maxs);
  hn::Store(a.worst, d, worst);
  MinMax<T> result;
  const auto add = [&result](T x) HWY_ATTR {
    if (x < result.min) result.min = x;
    if (x > result.max) result.max = x;
  };
  for (std::int64_t k = 0; k < lanes; ++k) {
    // Untouched lanes hold the infinities that the result starts with.
    if (mins[k] < result.min) result.min = mins[k];
    if (maxs[k] > result.max) result.max = maxs[k];
    if (worst[k] != 0) result.finite = false;
  }
  for (; i < n; ++i) {
    const bool finite =
        src[i] <= std::numeric_limits<T>::max() && src[i] >= -std::numeric_limits<T>::max();
    if (finite) add(src[i]);
    result.finite = result.finite && finite;
  }
  result.min += T{0};
  result.max += T{0};
  return result;
}

template <class T>
HWY_INLINE bool Update(const T* src, std::int64_t n, T* mins, T* maxs) {
  const hn::ScalableTag<T> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto top = hn::Set(d, std::numeric_limits<T>::max());
  auto all = hn::Eq(hn::Zero(d), hn::Zero(d));
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto x = hn::LoadU(d, src + i);
    const auto finite = hn::Le(hn::Abs(x), top);
    all = hn::And(all, finite);
    const auto low = hn::IfThenElse(finite, x, hn::Set(d, kInfinity<T>));
    const auto high = hn::IfThenElse(finite, x, hn::Set(d, -kInfinity<T>));
    hn::StoreU(hn::Min(hn::LoadU(d, mins + i), low), d, mins + i);
    hn::StoreU(hn::Max(hn::LoadU(d, maxs + i), high), d, maxs + i);
  }
  bool ok = hn::AllTrue(d, all);
  for (; i < n; ++i) {
    const bool finite =
        src[i] <= std::numeric_limits<T>::max() && src[i] >= -std::numeric_limits<T>::max();
    if (finite && src[i] < mins[i]) mins[i] = src[i];
    if (finite && src[i] > maxs[i]) maxs[i] = src[i];
    ok = ok && finite;
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

bool UpdateF32(const float* src, std::int64_t n, float* mins, float* maxs) {
  return Update(src, n, mins, maxs);
}
bool UpdateF64(const double* src, std::int64_t n, double* mins, double* maxs) {
  return Update(src, n, mins, maxs);
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

bool min_max_update_f32(const float* src, std::int64_t n, float* mins, float* maxs) noexcept {
  return HWY_DYNAMIC_DISPATCH(UpdateF32)(src, n, mins, maxs);
}

bool min_max_update_f64(const double* src, std::int64_t n, double* mins, double* maxs) noexcept {
  return HWY_DYNAMIC_DISPATCH(UpdateF64)(src, n, mins, maxs);
}

bool has_nan_f32(const float* src, std::int64_t n) noexcept {
  return HWY_DYNAMIC_DISPATCH(HasNanF32)(src, n);
}

bool has_nan_f64(const double* src, std::int64_t n) noexcept {
  return HWY_DYNAMIC_DISPATCH(HasNanF64)(src, n);
}

}  // namespace moptcore::inline v0::kernels
#endif  // HWY_ONCE

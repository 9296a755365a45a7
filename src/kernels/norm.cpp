// SPDX-License-Identifier: Apache-2.0
#include "kernels/norm.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/norm.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace moptcore::inline v0::kernels {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

constexpr std::size_t kVirtualLanes = 16;

struct Magnitude {
  template <class T, class D, class V>
  static HWY_INLINE V Step(D, V sum, V x) {
    return hn::Add(sum, hn::Abs(x));
  }
  static HWY_INLINE double Step(double sum, double x) { return sum + (x < 0 ? -x : x); }
  static HWY_INLINE double Join(double a, double b) { return a + b; }
};

struct Square {
  // Squares of floats are exact in double, so fusing them with the sum changes no bit; those of
  // doubles are not.
  template <class T, class D, class V>
  static HWY_INLINE V Step(D, V sum, V x) {
    if constexpr (sizeof(T) == 4) return hn::MulAdd(x, x, sum);
    else return hn::Add(sum, hn::Mul(x, x));
  }
  static HWY_INLINE double Step(double sum, double x) { return sum + x * x; }
  static HWY_INLINE double Join(double a, double b) { return a + b; }
};

// A NaN replaces what it meets and is replaced by nothing.
struct Largest {
  template <class T, class D, class V>
  static HWY_INLINE V Step(D, V best, V x) {
    const auto magnitude = hn::Abs(x);
    const auto better = hn::Or(hn::Gt(magnitude, best), hn::IsNaN(magnitude));
    return hn::IfThenElse(better, magnitude, best);
  }
  static HWY_INLINE double Step(double best, double x) { return Join(best, x < 0 ? -x : x); }
  static HWY_INLINE double Join(double a, double b) { return b > a || b != b ? b : a; }
};

template <class D>
HWY_INLINE hn::Vec<D> LoadDoubles(D d, const double* src) {
  return hn::LoadU(d, src);
}

template <class D>
HWY_INLINE hn::Vec<D> LoadDoubles(D d, const float* src) {
  const hn::Rebind<float, D> df;
  return hn::PromoteTo(d, hn::LoadU(df, src));
}

template <class Op, class T>
HWY_INLINE double Reduce(const T* HWY_RESTRICT src, std::int64_t n) {
  const hn::CappedTag<double, 8> d;
  constexpr std::size_t kLanes = hn::MaxLanes(d);
  constexpr std::size_t kVectors = kVirtualLanes / kLanes;
  hn::Vec<decltype(d)> sums[kVectors];
  for (auto& sum : sums) sum = hn::Zero(d);
  std::int64_t i = 0;
  for (; i + static_cast<std::int64_t>(kVirtualLanes) <= n;
       i += static_cast<std::int64_t>(kVirtualLanes)) {
    for (std::size_t v = 0; v < kVectors; ++v) {
      sums[v] = Op::template Step<T>(d, sums[v], LoadDoubles(d, src + i + v * kLanes));
    }
  }
  HWY_ALIGN double lanes[kVirtualLanes];
  for (std::size_t v = 0; v < kVectors; ++v) hn::Store(sums[v], d, lanes + v * kLanes);
  for (std::size_t lane = 0; i < n; ++i, ++lane) {
    lanes[lane] = Op::Step(lanes[lane], static_cast<double>(src[i]));
  }
  for (std::size_t half = kVirtualLanes / 2; half != 0; half /= 2) {
    for (std::size_t lane = 0; lane < half; ++lane) {
      lanes[lane] = Op::Join(lanes[lane], lanes[lane + half]);
    }
  }
  return lanes[0];
}

double SumMagnitudesF32(const float* src, std::int64_t n) { return Reduce<Magnitude>(src, n); }
double SumMagnitudesF64(const double* src, std::int64_t n) { return Reduce<Magnitude>(src, n); }
double SumSquaresF32(const float* src, std::int64_t n) { return Reduce<Square>(src, n); }
double SumSquaresF64(const double* src, std::int64_t n) { return Reduce<Square>(src, n); }
double MaxMagnitudeF64(const double* src, std::int64_t n) { return Reduce<Largest>(src, n); }

// Bits without the sign are ordered as magnitudes are, and those of NaN are the largest.
double MaxMagnitudeF32(const float* HWY_RESTRICT src, std::int64_t n) {
  const hn::ScalableTag<std::int32_t> d;
  constexpr std::int64_t kLanes = static_cast<std::int64_t>(hn::MaxLanes(d));
  constexpr std::int32_t kMagnitude = 0x7fffffff;
  const auto* HWY_RESTRICT words = reinterpret_cast<const std::int32_t*>(src);
  const auto magnitude = hn::Set(d, kMagnitude);
  auto a = hn::Zero(d);
  auto b = hn::Zero(d);
  std::int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    a = hn::Max(a, hn::And(magnitude, hn::LoadU(d, words + i)));
    b = hn::Max(b, hn::And(magnitude, hn::LoadU(d, words + i + kLanes)));
  }
  std::int32_t largest = hn::GetLane(hn::MaxOfLanes(d, hn::Max(a, b)));
  for (; i < n; ++i) {
    std::int32_t word;
    __builtin_memcpy(&word, src + i, sizeof(word));
    word &= kMagnitude;
    if (word > largest) largest = word;
  }
  float result;
  __builtin_memcpy(&result, &largest, sizeof(result));
  return result;
}

}  // namespace HWY_NAMESPACE
}  // namespace moptcore::inline v0::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moptcore::inline v0::kernels {

HWY_EXPORT(SumMagnitudesF32);
HWY_EXPORT(SumMagnitudesF64);
HWY_EXPORT(SumSquaresF32);
HWY_EXPORT(SumSquaresF64);
HWY_EXPORT(MaxMagnitudeF32);
HWY_EXPORT(MaxMagnitudeF64);

double sum_magnitudes_f32(const float* src, std::int64_t n) noexcept {
  return HWY_DYNAMIC_DISPATCH(SumMagnitudesF32)(src, n);
}
double sum_magnitudes_f64(const double* src, std::int64_t n) noexcept {
  return HWY_DYNAMIC_DISPATCH(SumMagnitudesF64)(src, n);
}
double sum_squares_f32(const float* src, std::int64_t n) noexcept {
  return HWY_DYNAMIC_DISPATCH(SumSquaresF32)(src, n);
}
double sum_squares_f64(const double* src, std::int64_t n) noexcept {
  return HWY_DYNAMIC_DISPATCH(SumSquaresF64)(src, n);
}
double max_magnitude_f32(const float* src, std::int64_t n) noexcept {
  return HWY_DYNAMIC_DISPATCH(MaxMagnitudeF32)(src, n);
}
double max_magnitude_f64(const double* src, std::int64_t n) noexcept {
  return HWY_DYNAMIC_DISPATCH(MaxMagnitudeF64)(src, n);
}

}  // namespace moptcore::inline v0::kernels
#endif

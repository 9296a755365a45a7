// SPDX-License-Identifier: Apache-2.0
#include "kernels/squared_error.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/squared_error.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace moptcore::inline v0::kernels {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

constexpr std::int64_t kLanes = 16;
constexpr std::int64_t kChunk = 1024;  // elements until the lanes go to a sum in double

template <class T>
double squared_error(const T* a, const T* b, std::int64_t n, T scale, T* grad) {
  const hn::CappedTag<T, kLanes> d;
  using V = hn::Vec<std::remove_const_t<decltype(d)>>;
  constexpr auto kWidth = static_cast<std::int64_t>(hn::MaxLanes(d));
  constexpr int kVectors = static_cast<int>(kLanes / kWidth);
  const V factor = hn::Set(d, scale);
  V sums[kVectors];
  const auto block = [&](const T* from_a, const T* from_b, T* to) HWY_ATTR {
    for (int v = 0; v < kVectors; ++v) {
      const std::int64_t at = v * kWidth;
      const V residual = hn::Sub(hn::LoadU(d, from_a + at), hn::LoadU(d, from_b + at));
      sums[v] = hn::MulAdd(residual, residual, sums[v]);
      hn::StoreU(hn::Mul(residual, factor), d, to + at);
    }
  };
  double total = 0.0;
  for (std::int64_t first = 0; first < n; first += kChunk) {
    const std::int64_t last = first + kChunk < n ? first + kChunk : n;
    for (int v = 0; v < kVectors; ++v) sums[v] = hn::Zero(d);
    std::int64_t i = first;
    for (; i + kLanes <= last; i += kLanes) block(a + i, b + i, grad + i);
    if (i < last) {
      T rest[3][kLanes] = {};
      for (std::int64_t j = i; j < last; ++j) {
        rest[0][j - i] = a[j];
        rest[1][j - i] = b[j];
      }
      block(rest[0], rest[1], rest[2]);
      for (std::int64_t j = i; j < last; ++j) grad[j] = rest[2][j - i];
    }
    T flat[kLanes];
    for (int v = 0; v < kVectors; ++v) hn::StoreU(sums[v], d, flat + v * kWidth);
    for (const T lane : flat) total += static_cast<double>(lane);
  }
  return total;
}

double squared_error_f32(const float* a, const float* b, std::int64_t n, float scale, float* grad) {
  return squared_error(a, b, n, scale, grad);
}

double squared_error_f64(const double* a, const double* b, std::int64_t n, double scale,
                         double* grad) {
  return squared_error(a, b, n, scale, grad);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace moptcore::inline v0::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moptcore::inline v0::kernels {

HWY_EXPORT(squared_error_f32);
HWY_EXPORT(squared_error_f64);

double squared_error_f32(const float* a, const float* b, std::int64_t n, float scale,
                         float* grad) noexcept {
  return HWY_DYNAMIC_DISPATCH(squared_error_f32)(a, b, n, scale, grad);
}

double squared_error_f64(const double* a, const double* b, std::int64_t n, double scale,
                         double* grad) noexcept {
  return HWY_DYNAMIC_DISPATCH(squared_error_f64)(a, b, n, scale, grad);
}

}  // namespace moptcore::inline v0::kernels
#endif

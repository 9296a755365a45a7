// SPDX-License-Identifier: Apache-2.0
#include "kernels/place.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/place.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>

HWY_BEFORE_NAMESPACE();
namespace moptcore::inline v0::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

constexpr double kTop = 2147483647.0;

template <class T>
HWY_INLINE void Place(const T* src, std::int64_t n, double low, double scale, std::uint32_t* dst) {
  const hn::ScalableTag<double> d;
  const hn::Rebind<T, decltype(d)> dt;
  const hn::Rebind<std::int32_t, decltype(d)> di;
  const hn::RebindToUnsigned<decltype(di)> du;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto start = hn::Set(d, low);
  const auto factor = hn::Set(d, scale);
  const auto zero = hn::Zero(d);
  const auto top = hn::Set(d, kTop);
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    auto x = zero;
    if constexpr (sizeof(T) == sizeof(double)) {
      x = hn::LoadU(d, src + i);
    } else {
      x = hn::PromoteTo(d, hn::LoadU(dt, src + i));
    }
    const auto place = hn::Mul(hn::Sub(x, start), factor);
    const auto whole = hn::DemoteTo(di, hn::Min(hn::Max(place, zero), top));
    hn::StoreU(hn::BitCast(du, whole), du, dst + i);
  }
  for (; i < n; ++i) {
    const double place = (static_cast<double>(src[i]) - low) * scale;
    dst[i] = static_cast<std::uint32_t>(std::min(std::max(place, 0.0), kTop));
  }
}

void PlaceF32(const float* src, std::int64_t n, double low, double scale, std::uint32_t* dst) {
  Place(src, n, low, scale, dst);
}
void PlaceF64(const double* src, std::int64_t n, double low, double scale, std::uint32_t* dst) {
  Place(src, n, low, scale, dst);
}

}  // namespace moptcore::inline v0::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moptcore::inline v0::kernels {

HWY_EXPORT(PlaceF32);
HWY_EXPORT(PlaceF64);

void place_f32(const float* src, std::int64_t n, double low, double scale,
               std::uint32_t* dst) noexcept {
  HWY_DYNAMIC_DISPATCH(PlaceF32)(src, n, low, scale, dst);
}

void place_f64(const double* src, std::int64_t n, double low, double scale,
               std::uint32_t* dst) noexcept {
  HWY_DYNAMIC_DISPATCH(PlaceF64)(src, n, low, scale, dst);
}

}  // namespace moptcore::inline v0::kernels
#endif  // HWY_ONCE

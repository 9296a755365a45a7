// SPDX-License-Identifier: Apache-2.0
#include "kernels/nearest.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/nearest.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>

HWY_BEFORE_NAMESPACE();
namespace moptcore::inline v0::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <class T>
HWY_INLINE void Bin(const T* src, std::int64_t n, const Bins<T>& bins, std::int32_t* dst) {
  const hn::ScalableTag<T> d;
  const hn::Rebind<std::int32_t, decltype(d)> di;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto last = static_cast<T>(bins.last);
  const auto low = hn::Set(d, bins.low);
  const auto scale = hn::Set(d, bins.scale);
  const auto zero = hn::Zero(d);
  const auto top = hn::Set(d, last);
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto at = hn::Mul(hn::Sub(hn::LoadU(d, src + i), low), scale);
    const auto inside = hn::Min(hn::Max(at, zero), top);
    if constexpr (sizeof(T) == sizeof(std::int32_t)) {
      hn::StoreU(hn::ConvertTo(di, inside), di, dst + i);
    } else {
      hn::StoreU(hn::DemoteTo(di, inside), di, dst + i);
    }
  }
  for (; i < n; ++i) {
    const T at = (src[i] - bins.low) * bins.scale;
    dst[i] = static_cast<std::int32_t>(std::min(std::max(at, T{0}), last));
  }
}

void BinF32(const float* src, std::int64_t n, const Bins<float>& bins, std::int32_t* dst) {
  Bin(src, n, bins, dst);
}
void BinF64(const double* src, std::int64_t n, const Bins<double>& bins, std::int32_t* dst) {
  Bin(src, n, bins, dst);
}

}  // namespace moptcore::inline v0::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moptcore::inline v0::kernels {

HWY_EXPORT(BinF32);
HWY_EXPORT(BinF64);

void bin_in_range(const float* src, std::int64_t n, const Bins<float>& bins,
                  std::int32_t* dst) noexcept {
  HWY_DYNAMIC_DISPATCH(BinF32)(src, n, bins, dst);
}

void bin_in_range(const double* src, std::int64_t n, const Bins<double>& bins,
                  std::int32_t* dst) noexcept {
  HWY_DYNAMIC_DISPATCH(BinF64)(src, n, bins, dst);
}

}  // namespace moptcore::inline v0::kernels
#endif  // HWY_ONCE

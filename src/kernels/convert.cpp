// SPDX-License-Identifier: Apache-2.0
#include "kernels/convert.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/convert.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/halves-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace moptcore::inline v0::kernels {
namespace HWY_NAMESPACE {
namespace {

using D = hn::ScalableTag<float>;
constexpr auto kLanes = static_cast<std::int64_t>(hn::MaxLanes(D()));

template <class From, class To>
HWY_INLINE void run(const From* src, std::int64_t n, To* dst) {
  const D d;
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    StoreAs<false>(d, LoadAs<From>(d, src + i), dst + i);
  }
  if (i == n) return;
  From from[kLanes] = {};
  To to[kLanes];
  for (std::int64_t k = i; k < n; ++k) from[k - i] = src[k];
  StoreAs<false>(d, LoadAs<From>(d, from), to);
  for (std::int64_t k = i; k < n; ++k) dst[k] = to[k - i];
}

void widen_f16(const float16* src, std::int64_t n, float* dst) { run(src, n, dst); }
void widen_bf16(const bfloat16* src, std::int64_t n, float* dst) { run(src, n, dst); }
void narrow_f16(const float* src, std::int64_t n, float16* dst) { run(src, n, dst); }
void narrow_bf16(const float* src, std::int64_t n, bfloat16* dst) { run(src, n, dst); }

HWY_INLINE hn::Vec<hn::RebindToSigned<D>> truncated(hn::Vec<D> x) {
  const D d;
  const hn::RebindToSigned<D> di;
  const auto least = hn::Set(d, -0x1p31f);
  const auto last = hn::Set(d, 0x1.fffffep30f);  // the greatest float below 2^31
  const auto number = hn::IfThenElseZero(hn::Eq(x, x), x);
  const auto inside = hn::Min(hn::Max(number, least), last);
  const auto above = hn::RebindMask(di, hn::Gt(number, last));
  return hn::IfThenElse(above, hn::Set(di, 0x7fffffff), hn::ConvertTo(di, inside));
}

void truncate_f32(const float* src, std::int64_t n, std::int32_t* dst) {
  const D d;
  const hn::RebindToSigned<D> di;
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    hn::StoreU(truncated(hn::LoadU(d, src + i)), di, dst + i);
  }
  if (i < n) StorePart(di, truncated(LoadPart(d, src + i, n - i)), dst + i, n - i);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace moptcore::inline v0::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moptcore::inline v0::kernels {

HWY_EXPORT(widen_f16);
HWY_EXPORT(widen_bf16);
HWY_EXPORT(narrow_f16);
HWY_EXPORT(narrow_bf16);
HWY_EXPORT(truncate_f32);

void widen_f16(const float16* src, std::int64_t n, float* dst) noexcept {
  HWY_DYNAMIC_DISPATCH(widen_f16)(src, n, dst);
}

void widen_bf16(const bfloat16* src, std::int64_t n, float* dst) noexcept {
  HWY_DYNAMIC_DISPATCH(widen_bf16)(src, n, dst);
}

void narrow_f16(const float* src, std::int64_t n, float16* dst) noexcept {
  HWY_DYNAMIC_DISPATCH(narrow_f16)(src, n, dst);
}

void narrow_bf16(const float* src, std::int64_t n, bfloat16* dst) noexcept {
  HWY_DYNAMIC_DISPATCH(narrow_bf16)(src, n, dst);
}

void truncate_f32(const float* src, std::int64_t n, std::int32_t* dst) noexcept {
  HWY_DYNAMIC_DISPATCH(truncate_f32)(src, n, dst);
}

}  // namespace moptcore::inline v0::kernels
#endif

// SPDX-License-Identifier: Apache-2.0
#include "kernels/histogram.hpp"

#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/histogram.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <limits>

#include "kernels/grid-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace moptcore::inline v0::kernels::HWY_NAMESPACE {

template <class D, class V>
HWY_INLINE hn::Vec<hn::RebindToSigned<D>> BinOf(D d, V x, V factor1, V factor2, V first,
                                                hn::Vec<hn::RebindToSigned<D>> outside) {
  const hn::RebindToSigned<D> di;
  const V zero = hn::Zero(d);
  const V top = hn::Set(d, std::numeric_limits<float>::max());
  const V v = hn::Mul(hn::Mul(x, factor1), factor2);
  // A small negative value may have become -0, which lies in another bin.
  const auto lost = hn::And(hn::Lt(x, zero), hn::Eq(v, zero));
  const V whole = hn::IfThenElse(lost, hn::Set(d, -1.0f), hn::Floor(v));
  const auto finite = hn::Le(hn::Abs(x), top);
  const V bin = hn::IfThenElseZero(finite, hn::Sub(whole, first));
  return hn::IfThenElse(hn::RebindMask(di, finite), hn::ConvertTo(di, bin), outside);
}

// Elements whose bins are known before they are counted.
constexpr std::int64_t kBatch = 1024;

template <class Bin>
HWY_INLINE void CountBatches(const float* src, std::int64_t n, std::int64_t size,
                             std::uint32_t* HWY_RESTRICT tables, Bin&& bin_of) {
  const hn::ScalableTag<float> d;
  const hn::ScalableTag<std::int32_t> di;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  HWY_ALIGN std::int32_t bin[kBatch];
  std::uint32_t* const a = tables;
  std::uint32_t* const b = a + size;
  std::uint32_t* const c = b + size;
  std::uint32_t* const e = c + size;
  for (std::int64_t at = 0; at < n; at += kBatch) {
    const std::int64_t count = n - at < kBatch ? n - at : kBatch;
    const float* const from = src + at;
    std::int64_t i = 0;
    for (; i + lanes <= count; i += lanes) hn::Store(bin_of(hn::LoadU(d, from + i)), di, bin + i);
    if (i < count) hn::Store(bin_of(LoadPart(d, from + i, count - i)), di, bin + i);
    for (i = 0; i + 4 <= count; i += 4) {
      // Two indices a load.
      std::uint64_t low = 0;
      std::uint64_t high = 0;
      std::memcpy(&low, bin + i, 8);
      std::memcpy(&high, bin + i + 2, 8);
      ++a[static_cast<std::uint32_t>(low)];
      ++b[low >> 32];
      ++c[static_cast<std::uint32_t>(high)];
      ++e[high >> 32];
    }
    for (; i < count; ++i) ++a[bin[i]];
  }
}

void CountF32(const float* src, std::int64_t n, const BinGrid& grid, bool finite,
              std::uint32_t* tables) {
  const hn::ScalableTag<float> d;
  const hn::ScalableTag<std::int32_t> di;
  const std::int64_t size = std::int64_t{grid.bins} + 1;
  const auto factor1 = hn::Set(d, grid.factor1);
  if (finite && grid.is_exact) {
    const auto first = hn::Set(di, static_cast<std::int32_t>(grid.first));
    CountBatches(src, n, size, tables, [&](auto x) HWY_ATTR {
      return hn::Sub(hn::ConvertTo(di, hn::Floor(hn::Mul(x, factor1))), first);
    });
    return;
  }
  const auto factor2 = hn::Set(d, grid.factor2);
  const auto first = hn::Set(d, grid.first);
  const auto outside = hn::Set(di, grid.bins);
  CountBatches(src, n, size, tables,
               [&](auto x) HWY_ATTR { return BinOf(d, x, factor1, factor2, first, outside); });
}

}  // namespace moptcore::inline v0::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moptcore::inline v0::kernels {

HWY_EXPORT(CountF32);

void count_f32(const float* src, std::int64_t n, const BinGrid& grid, bool finite,
               std::uint32_t* tables) noexcept {
  HWY_DYNAMIC_DISPATCH(CountF32)(src, n, grid, finite, tables);
}

}  // namespace moptcore::inline v0::kernels
#endif  // HWY_ONCE

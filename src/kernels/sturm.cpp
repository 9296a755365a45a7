// SPDX-License-Identifier: Apache-2.0
#include "kernels/sturm.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/sturm.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace moptcore::inline v0::kernels {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

// Divisions that are under way at the same time.
constexpr int kChains = 8;

// Signs of the pivots of T - value (Givens, 1954). A pivot of zero divides to infinity, after which
// the next is the diagonal again.
template <int kVectors>
void count_below(const double* HWY_RESTRICT diagonal, const double* HWY_RESTRICT squares,
                 std::int64_t n, const double* HWY_RESTRICT values,
                 std::int64_t* HWY_RESTRICT counts) {
  const hn::CappedTag<double, 8> d;
  const hn::RebindToSigned<decltype(d)> di;
  using V = hn::Vec<decltype(d)>;
  using VI = hn::Vec<decltype(di)>;
  constexpr auto kWidth = static_cast<std::int64_t>(hn::MaxLanes(d));
  V pivot[kVectors];
  V value[kVectors];
  VI below[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    value[v] = hn::LoadU(d, values + v * kWidth);
    pivot[v] = hn::Sub(hn::Set(d, diagonal[0]), value[v]);
    below[v] = hn::BroadcastSignBit(hn::BitCast(di, pivot[v]));
  }
  for (std::int64_t i = 1; i < n; ++i) {
    const V here = hn::Set(d, diagonal[i]);
    const V square = hn::Set(d, squares[i]);
    for (int v = 0; v < kVectors; ++v) {
      pivot[v] = hn::Sub(hn::Sub(here, value[v]), hn::Div(square, pivot[v]));
      below[v] = hn::Add(below[v], hn::BroadcastSignBit(hn::BitCast(di, pivot[v])));
    }
  }
  for (int v = 0; v < kVectors; ++v) hn::StoreU(hn::Neg(below[v]), di, counts + v * kWidth);
}

void sturm_counts(const double* diagonal, const double* squares, std::int64_t n,
                  const double* values, std::int64_t count, std::int64_t* counts) {
  constexpr auto kWidth = static_cast<std::int64_t>(hn::MaxLanes(hn::CappedTag<double, 8>()));
  std::int64_t k = 0;
  for (; k + kChains * kWidth <= count; k += kChains * kWidth) {
    count_below<kChains>(diagonal, squares, n, values + k, counts + k);
  }
  for (; k < count; k += kWidth) {
    double some[kWidth];
    std::int64_t found[kWidth];
    for (std::int64_t i = 0; i < kWidth; ++i) some[i] = values[k + i < count ? k + i : k];
    count_below<1>(diagonal, squares, n, some, found);
    for (std::int64_t i = 0; i < kWidth && k + i < count; ++i) counts[k + i] = found[i];
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace moptcore::inline v0::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moptcore::inline v0::kernels {

HWY_EXPORT(sturm_counts);

void sturm_counts_f64(const double* diagonal, const double* squares, std::int64_t n,
                      const double* values, std::int64_t count, std::int64_t* counts) noexcept {
  HWY_DYNAMIC_DISPATCH(sturm_counts)(diagonal, squares, n, values, count, counts);
}

}  // namespace moptcore::inline v0::kernels
#endif

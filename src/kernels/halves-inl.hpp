// SPDX-License-Identifier: Apache-2.0
// Vectors of 16-bit floats in memory as vectors of floats, for one target: bit for bit what the
// conversions of core/dtype.hpp give. Included by kernel files after <hwy/highway.h>.
#if defined(MOPTCORE_KERNELS_HALVES_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef MOPTCORE_KERNELS_HALVES_INL
#undef MOPTCORE_KERNELS_HALVES_INL
#else
#define MOPTCORE_KERNELS_HALVES_INL
#endif

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <moptcore/core/dtype.hpp>

// Where Highway converts binary16 by an instruction, which rounds as IEEE 754 says; its portable
// code does not.
#undef MOPTCORE_NATIVE_FLOAT16
#if (HWY_ARCH_X86 && HWY_TARGET != HWY_EMU128 && HWY_TARGET != HWY_SCALAR) || \
    (HWY_ARCH_ARM_A64 && HWY_TARGET == HWY_NEON)
#define MOPTCORE_NATIVE_FLOAT16 1
#else
#define MOPTCORE_NATIVE_FLOAT16 0
#endif

HWY_BEFORE_NAMESPACE();
namespace moptcore::inline v0::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <class T>
inline constexpr bool kIsHalf = std::is_same_v<T, float16> || std::is_same_v<T, bfloat16>;

/// The elements that D computes with (for 16-bit floats: float) from memory that holds S.
template <class S, class D>
HWY_INLINE hn::Vec<D> LoadAs(D d, const S* src) {
  if constexpr (std::is_same_v<S, bfloat16>) {
    const hn::Rebind<std::uint16_t, D> dh;
    const hn::Rebind<std::uint32_t, D> du;
    const auto words = hn::LoadU(dh, reinterpret_cast<const std::uint16_t*>(src));
    return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du, words)));
  } else if constexpr (std::is_same_v<S, float16>) {
#if MOPTCORE_NATIVE_FLOAT16
    const hn::Rebind<std::uint16_t, D> dh;
    const hn::Rebind<std::uint32_t, D> du;
    const hn::Rebind<hwy::float16_t, D> df16;
    const auto words = hn::LoadU(dh, reinterpret_cast<const std::uint16_t*>(src));
    const auto value = hn::PromoteTo(d, hn::BitCast(df16, words));
    // The instruction makes a signaling NaN quiet.
    const auto wide = hn::PromoteTo(du, words);
    const auto sign = hn::ShiftLeft<16>(hn::And(wide, hn::Set(du, 0x8000u)));
    const auto rest = hn::ShiftLeft<13>(hn::And(wide, hn::Set(du, 0x3FFu)));
    const auto nan = hn::Or(hn::Or(sign, rest), hn::Set(du, 0x7F800000u));
    return hn::IfThenElse(hn::Eq(value, value), value, hn::BitCast(d, nan));
#else
    HWY_ALIGN float lanes[HWY_MAX_BYTES / sizeof(float)];
    for (std::size_t i = 0; i < hn::Lanes(d); ++i) lanes[i] = static_cast<float>(src[i]);
    return hn::Load(d, lanes);
#endif
  } else {
    return hn::LoadU(d, src);
  }
}

// bfloat16's bits of every lane. Where every NaN is the default one, rounding it up by the bits
// below keeps it what it is.
template <bool kAnyNan, class D>
HWY_INLINE auto UpperHalves(D d, hn::Vec<D> v) {
  const hn::Rebind<std::uint16_t, D> dh;
  const hn::Rebind<std::int32_t, D> di;
  const hn::Rebind<std::uint32_t, D> du;
  const auto word = hn::BitCast(du, v);
  const auto upper = hn::ShiftRight<16>(word);
  const auto odd = hn::And(upper, hn::Set(du, 1u));
  const auto rounded = hn::ShiftRight<16>(hn::Add(word, hn::Add(odd, hn::Set(du, 0x7FFFu))));
  (void)d;
  if constexpr (kAnyNan) {
    const auto number = hn::RebindMask(du, hn::Eq(v, v));
    const auto quiet = hn::Or(upper, hn::Set(du, 0x40u));
    return hn::DemoteTo(dh, hn::BitCast(di, hn::IfThenElse(number, rounded, quiet)));
  } else {
    return hn::DemoteTo(dh, hn::BitCast(di, rounded));
  }
}

/// Writes past the caches. `dst` is a multiple of 16 bytes.
template <class D, class V>
HWY_INLINE void StreamVector(V v, D d, hn::TFromD<D>* dst) {
#if HWY_TARGET != HWY_SCALAR  // which has no halves
  if constexpr (hn::MaxLanes(D()) * sizeof(hn::TFromD<D>) > 16) {
    const hn::Half<D> half;
    StreamVector(hn::LowerHalf(half, v), half, dst);
    StreamVector(hn::UpperHalf(half, v), half, dst + hn::MaxLanes(half));
    return;
  }
#endif
  if constexpr (hn::MaxLanes(D()) * sizeof(hn::TFromD<D>) <= 16) hn::Stream(v, d, dst);
}

/// Rounds to S. With kStream, `dst` is a multiple of 16 bytes and written past the caches. Without
/// kAnyNan, every NaN of v is the one that arithmetic makes.
template <bool kStream, bool kAnyNan = true, class S, class D>
HWY_INLINE void StoreAs(D d, hn::Vec<D> v, S* dst) {
  if constexpr (std::is_same_v<S, bfloat16>) {
    const hn::Rebind<std::uint16_t, D> dh;
    auto* to = reinterpret_cast<std::uint16_t*>(dst);
    if constexpr (kStream && hn::MaxLanes(dh) >= 8)
      StreamVector(UpperHalves<kAnyNan>(d, v), dh, to);
    else hn::StoreU(UpperHalves<kAnyNan>(d, v), dh, to);
  } else if constexpr (std::is_same_v<S, float16>) {
#if MOPTCORE_NATIVE_FLOAT16
    const hn::Rebind<std::uint16_t, D> dh;
    const hn::Rebind<hwy::float16_t, D> df16;
    const auto halves = hn::BitCast(dh, hn::DemoteTo(df16, v));
    auto* to = reinterpret_cast<std::uint16_t*>(dst);
    if constexpr (kStream && hn::MaxLanes(dh) >= 8) StreamVector(halves, dh, to);
    else hn::StoreU(halves, dh, to);
#else
    HWY_ALIGN float lanes[HWY_MAX_BYTES / sizeof(float)];
    hn::Store(v, d, lanes);
    for (std::size_t i = 0; i < hn::Lanes(d); ++i) dst[i] = float16(lanes[i]);
#endif
  } else if constexpr (kStream) {
    StreamVector(v, d, dst);
  } else {
    hn::StoreU(v, d, dst);
  }
}

/// Loads n < Lanes(d) elements; the others are 1, a value that every formula takes.
template <class D, class S>
HWY_INLINE hn::Vec<D> LoadPart(D d, const S* src, std::int64_t n) {
  using T = hn::TFromD<D>;
  HWY_ALIGN T lanes[HWY_MAX_BYTES / sizeof(T)];
  for (std::size_t i = 0; i < hn::Lanes(d); ++i) {
    lanes[i] = static_cast<std::int64_t>(i) < n ? static_cast<T>(src[i]) : T{1};
  }
  return hn::Load(d, lanes);
}

template <class D, class S>
HWY_INLINE void StorePart(D d, hn::Vec<D> v, S* dst, std::int64_t n) {
  using T = hn::TFromD<D>;
  HWY_ALIGN T lanes[HWY_MAX_BYTES / sizeof(T)];
  hn::Store(v, d, lanes);
  for (std::int64_t i = 0; i < n; ++i) dst[i] = static_cast<S>(lanes[i]);
}

}  // namespace moptcore::inline v0::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // MOPTCORE_KERNELS_HALVES_INL

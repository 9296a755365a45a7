// SPDX-License-Identifier: Apache-2.0
// Vector masks as little-endian bits of memory, for any number of lanes. Included once per target.
#if defined(MOPTCORE_KERNELS_BITS_INL_HPP) == defined(HWY_TARGET_TOGGLE)
#ifdef MOPTCORE_KERNELS_BITS_INL_HPP
#undef MOPTCORE_KERNELS_BITS_INL_HPP
#else
#define MOPTCORE_KERNELS_BITS_INL_HPP
#endif

#include <hwy/highway.h>

#include <cstdint>

HWY_BEFORE_NAMESPACE();
namespace moptcore::inline v0::kernels {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Elements that fill whole bytes of a bit mask: the lanes of a vector, or 8 where it has fewer.
template <class D>
HWY_INLINE constexpr std::int64_t StepOf(D d) {
  return hn::MaxLanes(d) < 8 ? 8 : static_cast<std::int64_t>(hn::MaxLanes(d));
}

// Stores StepOf(d) bits to `bits`, made from predicate(offset) -> mask of Lanes(d) lanes.
template <class D, class Predicate>
HWY_INLINE void StoreBits(D d, std::uint8_t* bits, const Predicate& predicate) {
  constexpr std::size_t kLanes = hn::MaxLanes(d);
  if constexpr (kLanes >= 8) {
    hn::StoreMaskBits(d, predicate(0), bits);
  } else {
    unsigned byte = 0;
    for (std::size_t at = 0; at < 8; at += kLanes) {
      std::uint8_t part[8];
      hn::StoreMaskBits(d, predicate(at), part);
      byte |= static_cast<unsigned>(part[0]) << at;
    }
    *bits = static_cast<std::uint8_t>(byte);
  }
}

// The mask of the Lanes(d) elements from element `at` on, a multiple of Lanes(d).
template <class D>
HWY_INLINE hn::Mask<D> LoadBits(D d, const std::uint8_t* bits, std::int64_t at) {
  constexpr std::size_t kLanes = hn::MaxLanes(d);
  if constexpr (kLanes >= 8) {
    return hn::LoadMaskBits(d, bits + at / 8);
  } else {
    // Some targets read whole registers.
    const std::uint8_t part[8] = {static_cast<std::uint8_t>(
        (bits[at / 8] >> (at % 8)) & ((1u << kLanes) - 1u))};
    return hn::LoadMaskBits(d, part);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace moptcore::inline v0::kernels
HWY_AFTER_NAMESPACE();

#endif

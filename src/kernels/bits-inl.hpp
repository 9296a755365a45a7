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

// Stores the mask of the Lanes(d) elements from element `at` on, a multiple of Lanes(d). Where a
// vector has fewer than 8 lanes, elements must come in ascending order from a multiple of 8 on.
template <class D>
HWY_INLINE void StoreBits(D d, hn::Mask<D> mask, std::uint8_t* bits, std::int64_t at) {
  constexpr std::size_t kLanes = hn::MaxLanes(d);
  if constexpr (kLanes >= 8) {
    hn::StoreMaskBits(d, mask, bits + at / 8);
  } else {
    std::uint8_t part[8];
    hn::StoreMaskBits(d, mask, part);
    const unsigned before = at % 8 == 0 ? 0u : bits[at / 8];
    bits[at / 8] = static_cast<std::uint8_t>(before | (unsigned{part[0]} << (at % 8)));
  }
}

// The mask of Lanes(d) elements, at most 64, as the lowest bits of a word.
template <class D>
HWY_INLINE std::uint64_t WordOfBits(D d, hn::Mask<D> mask) {
  std::uint8_t part[8] = {};
  hn::StoreMaskBits(d, mask, part);
  if constexpr (hn::MaxLanes(d) <= 8) return part[0];
  std::uint64_t word;
  __builtin_memcpy(&word, part, 8);
  return word;
}

// The mask of the Lanes(d) elements from element `at` on, a multiple of Lanes(d).
template <class D>
HWY_INLINE hn::Mask<D> LoadBits(D d, const std::uint8_t* bits, std::int64_t at) {
  constexpr std::size_t kLanes = hn::MaxLanes(d);
  if constexpr (kLanes >= 8) {
    return hn::LoadMaskBits(d, bits + at / 8);
  } else {
    // Some targets read whole registers.
    const std::uint8_t part[8] = {
        static_cast<std::uint8_t>((bits[at / 8] >> (at % 8)) & ((1u << kLanes) - 1u))};
    return hn::LoadMaskBits(d, part);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace moptcore::inline v0::kernels
HWY_AFTER_NAMESPACE();

#endif

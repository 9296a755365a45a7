// SPDX-License-Identifier: Apache-2.0
// N of every M: the elements of a group that fewer than N others outrank.
#pragma once

#include <cstdint>

namespace moptcore::inline v0::kernels {

/// Groups of 4 consecutive keys; n is a multiple of 4. Sets the bits of the `keep` largest of each
/// group, the first ones among equals. Keys are src[i] & mask and must be < 2^31 - 1. Returns the
/// largest key. n > 0.
std::int32_t nm4_s32(const std::int32_t* src, std::int64_t n, std::int32_t mask, int keep,
                     std::uint8_t* bits) noexcept;

/// `count` groups of m keys, element j of group g at keys[j * count + g]. Writes to the byte of
/// the same place 1 for the `keep` largest of each group, the first ones among equals, else 0.
void nm_s64(const std::int64_t* keys, std::int64_t m, std::int64_t count, std::int64_t keep,
            std::uint8_t* kept) noexcept;

}  // namespace moptcore::inline v0::kernels

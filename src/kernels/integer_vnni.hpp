// SPDX-License-Identifier: Apache-2.0
// The sums of kernels/integer on CPUs whose AVX-512 has VNNI: one instruction (vpdpwssd) multiplies
// the two pairs of a word and adds both, without saturation.
#pragma once

#include <cstdint>

namespace moptcore::inline v0::kernels::vnni {

constexpr int kRows = 8;
constexpr int kCols = 32;

/// Whether this CPU has the instructions.
[[nodiscard]] bool available() noexcept;

/// sums[i][0 .. kCols) = sum over k of the products of left[i * distance + k] and of the words at
/// first and second + offset[k] (null: + k * kCols), added to what is there where `more`. `count`
/// in [1, kRows] rows.
void tile(int count, std::int64_t depth, const std::int32_t* left, std::int64_t distance,
          const std::int32_t* first, const std::int32_t* second, const std::int64_t* offset,
          bool more, std::int32_t* sums) noexcept;

}  // namespace moptcore::inline v0::kernels::vnni

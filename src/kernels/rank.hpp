// SPDX-License-Identifier: Apache-2.0
// Where values lie among few thresholds.
#pragma once

#include <cstdint>

namespace moptcore::inline v0::kernels {

/// Most thresholds that rank_f32 takes.
inline constexpr std::int64_t kMaxRanks = 32;

/// dst[i] = how many of `count` <= kMaxRanks thresholds lie below src[i].
void rank_f32(const float* src, std::int64_t n, const float* thresholds, std::int64_t count,
              std::uint8_t* dst) noexcept;

}  // namespace moptcore::inline v0::kernels

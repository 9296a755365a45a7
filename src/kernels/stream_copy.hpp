// SPDX-License-Identifier: Apache-2.0
// Copies that bypass the caches.
#pragma once

#include <cstdint>

namespace moptcore::inline v0::kernels {

/// Copies `bytes` bytes to memory that is not read again soon: full cache lines are written
/// without being fetched first. Visible to other threads after stream_fence().
void stream_copy(const void* src, std::int64_t bytes, void* dst) noexcept;
void stream_fence() noexcept;

/// Results from this size on go past the caches: they would not fit anyway.
inline constexpr std::int64_t kStreamBytes = std::int64_t{16} << 20;

}  // namespace moptcore::inline v0::kernels

// SPDX-License-Identifier: Apache-2.0
// Memory for results: large blocks are kept and used again, because a fresh 64 MB array costs
// several times the computation that fills it in page faults.
#pragma once

#include <cstdint>
#include <memory>

#include <moptcore/core/export.hpp>

namespace moptcore::inline v0 {

struct MOPTCORE_API PoolDeleter {
  void operator()(void* pointer) const noexcept;
};

/// Bytes aligned to 64; from 1 MiB on in 2 MiB pages where the system offers them.
using PoolBuffer = std::unique_ptr<void, PoolDeleter>;

/// Uninitialized memory, at least `bytes` long. Throws std::bad_alloc.
[[nodiscard]] MOPTCORE_API PoolBuffer pool_allocate(std::int64_t bytes);

/// Gives every unused block back to the system.
MOPTCORE_API void trim() noexcept;

struct PoolStatistics {
  std::int64_t bytes_in_use = 0;
  std::int64_t bytes_cached = 0;  ///< at most MOPTCORE_POOL_MB (1024 unless set)
  std::int64_t reused = 0;        ///< allocations answered from the cache
};

[[nodiscard]] MOPTCORE_API PoolStatistics pool_statistics() noexcept;

}  // namespace moptcore::inline v0

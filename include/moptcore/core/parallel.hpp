// SPDX-License-Identifier: Apache-2.0
// The one pool of threads. Work is cut into blocks that depend on its size alone, so results do
// not depend on the number of threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <type_traits>

#include <moptcore/core/export.hpp>

namespace moptcore::inline v0 {

/// Threads that parallel_for may use, the calling one included. Starts as MOPTCORE_NUM_THREADS or
/// the processors that this process may run on.
[[nodiscard]] MOPTCORE_API int num_threads() noexcept;

/// Throws unless count >= 1.
MOPTCORE_API void set_num_threads(int count);

/// "openmp" or "std": what the library was built to use.
[[nodiscard]] MOPTCORE_API const char* thread_backend() noexcept;

/// Blocks that n items make at `grain` items a block.
[[nodiscard]] constexpr std::int64_t block_count(std::int64_t n, std::int64_t grain) noexcept {
  return n <= 0 ? 0 : (n - 1) / grain + 1;
}

namespace detail {
MOPTCORE_API void run_blocks(std::int64_t blocks, void (*call)(void*, std::int64_t), void* context);
}

/// Calls f(block, first, last) once for each block of `grain` items of [0, n), on several threads
/// where that is possible: nested and concurrent calls, and a forked child, run serially. The
/// first exception of a block is thrown again here after all threads have stopped.
template <class F>
void parallel_blocks(std::int64_t n, std::int64_t grain, F&& f) {
  using Function = std::remove_reference_t<F>;
  struct Context {
    Function* f;
    std::int64_t n;
    std::int64_t grain;
  } context{std::addressof(f), n, grain};
  detail::run_blocks(
      block_count(n, grain),
      [](void* opaque, std::int64_t block) {
        const auto& c = *static_cast<Context*>(opaque);
        const std::int64_t first = block * c.grain;
        (*c.f)(block, first, std::min(first + c.grain, c.n));
      },
      &context);
}

/// Calls f(first, last) for each block of `grain` items of [0, n). See parallel_blocks.
template <class F>
void parallel_for(std::int64_t n, std::int64_t grain, F&& f) {
  parallel_blocks(n, grain,
                  [&f](std::int64_t, std::int64_t first, std::int64_t last) { f(first, last); });
}

}  // namespace moptcore::inline v0

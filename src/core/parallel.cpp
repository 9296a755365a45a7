// SPDX-License-Identifier: Apache-2.0
#include <moptcore/core/parallel.hpp>

#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include <pthread.h>
#include <sched.h>

#include <moptcore/core/check.hpp>
#include <moptcore/core/thread_scope.hpp>

#include "core/environment.hpp"

#if MOPTCORE_THREADS_OPENMP
#include <omp.h>
#endif

namespace moptcore::inline v0 {
namespace {

constexpr int kMaxThreads = 1024;

int initial_threads() noexcept {
  if (const auto asked = detail::environment_number("MOPTCORE_NUM_THREADS", 1, kMaxThreads)) {
    return static_cast<int>(*asked);
  }
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0) {
    return std::max(1, CPU_COUNT(&allowed));
  }
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

std::atomic<int>& thread_limit() noexcept {
  static std::atomic<int> limit{initial_threads()};
  return limit;
}

// Of a ThreadScope; 0: there is none.
thread_local int scoped_threads = 0;

// Set while one caller owns the threads; others run their blocks themselves.
std::atomic<bool> busy{false};

// OpenMP's threads do not survive fork(), and waiting for them would hang the child.
std::atomic<bool> forked{false};

void mark_forked() noexcept {
  forked.store(true, std::memory_order_relaxed);
  busy.store(false, std::memory_order_relaxed);
}

[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, mark_forked);

// Hands out block numbers and keeps the first exception.
class Blocks {
 public:
  Blocks(std::int64_t count, void (*call)(void*, std::int64_t), void* context)
      : count_(count), call_(call), context_(context) {}

  void work() noexcept {
    for (;;) {
      const std::int64_t block = next_.fetch_add(1, std::memory_order_relaxed);
      if (block >= count_) return;
      try {
        call_(context_, block);
      } catch (...) {
        const std::lock_guard lock(mutex_);
        if (!error_) error_ = std::current_exception();
        next_.store(count_, std::memory_order_relaxed);
      }
    }
  }

  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::int64_t count_;
  void (*call_)(void*, std::int64_t);
  void* context_;
  std::atomic<std::int64_t> next_{0};
  std::mutex mutex_;
  std::exception_ptr error_;
};

#if MOPTCORE_THREADS_OPENMP
void work_on_threads(Blocks& blocks, int threads) {
#pragma omp parallel num_threads(threads)
  blocks.work();
}
#else
void work_on_threads(Blocks& blocks, int threads) {
  std::vector<std::thread> others;
  others.reserve(static_cast<std::size_t>(threads - 1));
  for (int i = 1; i < threads; ++i) others.emplace_back([&blocks] { blocks.work(); });
  blocks.work();
  for (auto& other : others) other.join();
}
#endif

bool inside_foreign_region() noexcept {
#if MOPTCORE_THREADS_OPENMP
  return omp_in_parallel() != 0;
#else
  return false;
#endif
}

}  // namespace

int num_threads() noexcept {
  return scoped_threads > 0 ? scoped_threads : thread_limit().load(std::memory_order_relaxed);
}

ThreadScope::ThreadScope(int count) noexcept : before_(scoped_threads) {
  if (count > 0) scoped_threads = count;
}

ThreadScope::~ThreadScope() { scoped_threads = before_; }

bool is_forked() noexcept { return forked.load(std::memory_order_relaxed); }

void set_num_threads(int count) {
  check(count >= 1 && count <= kMaxThreads, "core.set_num_threads", "count must be in [1, 1024]",
        count);
  thread_limit().store(count, std::memory_order_relaxed);
}

const char* thread_backend() noexcept { return MOPTCORE_THREADS_OPENMP ? "openmp" : "std"; }

void detail::run_blocks(std::int64_t blocks, void (*call)(void*, std::int64_t), void* context) {
  const int threads = static_cast<int>(std::min<std::int64_t>(num_threads(), blocks));
  bool expected = false;
  const bool alone = threads <= 1 || forked.load(std::memory_order_relaxed) ||
                     inside_foreign_region() ||
                     !busy.compare_exchange_strong(expected, true, std::memory_order_acquire);
  if (alone) {
    for (std::int64_t block = 0; block < blocks; ++block) call(context, block);
    return;
  }
  Blocks shared(blocks, call, context);
  try {
    work_on_threads(shared, threads);
  } catch (...) {
    busy.store(false, std::memory_order_release);
    throw;
  }
  busy.store(false, std::memory_order_release);
  shared.rethrow();
}

}  // namespace moptcore::inline v0

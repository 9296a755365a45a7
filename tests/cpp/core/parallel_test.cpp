// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/core/check.hpp>
#include <moptcore/core/parallel.hpp>

#include <atomic>
#include <mutex>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

using namespace moptcore;

namespace {

class Threads {
 public:
  explicit Threads(int count) { set_num_threads(count); }
  ~Threads() { set_num_threads(before_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_ = num_threads();
};

// Sum of [0, n), in blocks.
std::int64_t sum_to(std::int64_t n) {
  std::vector<std::int64_t> sums(static_cast<std::size_t>(block_count(n, 10)));
  parallel_blocks(n, 10, [&](std::int64_t block, std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) sums[static_cast<std::size_t>(block)] += i;
  });
  return std::accumulate(sums.begin(), sums.end(), std::int64_t{0});
}

}  // namespace

TEST_CASE("blocks cover everything once and do not depend on the threads", "[core]") {
  const auto n = GENERATE(values<std::int64_t>({0, 1, 9, 10, 11, 999, 1000, 1001}));
  for (const int threads : {1, 2, 7}) {
    const Threads limit(threads);
    CAPTURE(n, threads);
    std::vector<std::atomic<int>> seen(static_cast<std::size_t>(n));
    std::mutex mutex;
    std::vector<std::pair<std::int64_t, std::int64_t>> blocks(
        static_cast<std::size_t>(block_count(n, 10)));
    parallel_blocks(n, 10, [&](std::int64_t block, std::int64_t first, std::int64_t last) {
      const std::lock_guard lock(mutex);
      blocks.at(static_cast<std::size_t>(block)) = {first, last};
      for (std::int64_t i = first; i < last; ++i) ++seen.at(static_cast<std::size_t>(i));
    });
    for (const auto& count : seen) REQUIRE(count == 1);
    for (std::size_t block = 0; block < blocks.size(); ++block) {
      const auto first = static_cast<std::int64_t>(block) * 10;
      CHECK(blocks[block] == std::pair{first, std::min(first + 10, n)});
    }
  }
}

TEST_CASE("an exception of a block reaches the caller, and the threads live on", "[core]") {
  for (const int threads : {1, 4}) {
    const Threads limit(threads);
    CHECK_THROWS_WITH(parallel_for(1000, 1,
                                   [](std::int64_t first, std::int64_t) {
                                     if (first == 500) throw std::runtime_error("block 500");
                                   }),
                      "block 500");
    CHECK(sum_to(1000) == 499500);
  }
}

TEST_CASE("nested and concurrent callers get their own results", "[core]") {
  const Threads limit(4);
  std::vector<std::int64_t> sums(20);
  parallel_for(20, 1, [&](std::int64_t i, std::int64_t) {
    sums[static_cast<std::size_t>(i)] = sum_to(100 + i);
  });
  for (std::int64_t i = 0; i < 20; ++i) {
    CHECK(sums[static_cast<std::size_t>(i)] == (100 + i) * (99 + i) / 2);
  }
  std::vector<int> wrong(4);
  std::vector<std::thread> callers;
  for (std::size_t caller = 0; caller < wrong.size(); ++caller) {
    callers.emplace_back([caller, &wrong] {
      for (int i = 0; i < 50; ++i) wrong[caller] += sum_to(1000) != 499500;
    });
  }
  for (auto& caller : callers) caller.join();
  CHECK(wrong == std::vector<int>(4, 0));
}

TEST_CASE("set_num_threads refuses numbers that make no sense", "[core]") {
  CHECK_THROWS_WITH(set_num_threads(0), "[core.set_num_threads] count must be in [1, 1024], got 0");
  CHECK_THROWS_AS(set_num_threads(1025), Error);
  CHECK(num_threads() >= 1);
}

// ThreadSanitizer forbids threads in a child of a process that had some.
#if !defined(__SANITIZE_THREAD__)
TEST_CASE("a forked child computes instead of hanging", "[core]") {
  const Threads limit(4);
  REQUIRE(sum_to(1000) == 499500);  // the threads exist now
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    alarm(20);  // a child that hangs dies by a signal
    _exit(sum_to(1000) == 499500 ? 0 : 1);
  }
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
  CHECK(sum_to(1000) == 499500);
}
#endif

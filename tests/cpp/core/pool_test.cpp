// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/core/pool.hpp>

#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

using namespace moptcore;

TEST_CASE("the pool aligns to 64 bytes whatever the size", "[core]") {
  for (const std::int64_t bytes : {0, 1, 63, 64, 65, 4096, (1 << 20) - 1, 1 << 20, 5 << 20}) {
    const PoolBuffer buffer = pool_allocate(bytes);
    REQUIRE(buffer);
    CHECK(reinterpret_cast<std::uintptr_t>(buffer.get()) % 64 == 0);
    std::memset(buffer.get(), 0xAB, static_cast<std::size_t>(bytes));
  }
}

TEST_CASE("the pool keeps large blocks for the next caller until it is trimmed", "[core]") {
  trim();
  CHECK(pool_statistics().bytes_cached == 0);
  const std::int64_t in_use = pool_statistics().bytes_in_use;
  constexpr std::int64_t kBytes = 3 << 20;
  PoolBuffer first = pool_allocate(kBytes);
  void* const address = first.get();
  CHECK(pool_statistics().bytes_in_use >= in_use + kBytes);
  first.reset();
  CHECK(pool_statistics().bytes_in_use == in_use);
  CHECK(pool_statistics().bytes_cached >= kBytes);
  const std::int64_t reused = pool_statistics().reused;
  const PoolBuffer second = pool_allocate(kBytes);
  CHECK(second.get() == address);
  CHECK(pool_statistics().reused == reused + 1);
  trim();
  CHECK(pool_statistics().bytes_cached == 0);
}

TEST_CASE("the pool refuses what no machine has", "[core]") {
  CHECK_THROWS_AS(pool_allocate(INT64_MAX / 2), std::bad_alloc);
}

TEST_CASE("threads share the pool", "[core]") {
  std::vector<std::thread> threads;
  std::vector<int> wrong(4);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t, &wrong] {
      for (int i = 0; i < 20; ++i) {
        const PoolBuffer buffer = pool_allocate(1 << 20);
        auto* bytes = static_cast<volatile unsigned char*>(buffer.get());
        bytes[0] = static_cast<unsigned char>(t);
        bytes[(1 << 20) - 1] = static_cast<unsigned char>(i);
        wrong[static_cast<std::size_t>(t)] += bytes[0] != t || bytes[(1 << 20) - 1] != i;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(wrong == std::vector<int>(4, 0));
  trim();
}

// SPDX-License-Identifier: Apache-2.0
#include <moptcore/core/pool.hpp>

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdlib>
#include <map>
#include <mutex>
#include <new>
#include <vector>

#include "core/environment.hpp"

namespace moptcore::inline v0 {
namespace {

constexpr std::int64_t kHugePage = std::int64_t{2} << 20;
constexpr std::int64_t kPooledFrom = std::int64_t{1} << 20;

// Every block starts with its header, so that a pointer alone can be given back.
struct alignas(64) Header {
  std::int64_t bytes;     // of the mapping or allocation, header included
  std::int64_t reserved;  // distance from the start of the mapping to the header
};
static_assert(sizeof(Header) == 64);

Header* header_of(void* pointer) noexcept { return static_cast<Header*>(pointer) - 1; }

// Sizes are rounded so that a cached block fits again: to an eighth of a power of two.
std::int64_t size_class(std::int64_t bytes) noexcept {
  const int width = static_cast<int>(std::bit_width(static_cast<std::uint64_t>(bytes - 1)));
  const std::int64_t step = std::max<std::int64_t>(std::int64_t{1} << std::max(width - 4, 0), 4096);
  return (bytes + step - 1) / step * step;
}

class Pool {
 public:
  void* allocate(std::int64_t bytes) {
    if (bytes < kPooledFrom) return allocate_small(bytes);
    const std::int64_t needed = size_class(bytes + static_cast<std::int64_t>(sizeof(Header)));
    {
      const std::lock_guard lock(mutex_);
      if (auto found = free_.find(needed); found != free_.end() && !found->second.empty()) {
        Header* header = found->second.back();
        found->second.pop_back();
        cached_ -= needed;
        in_use_ += needed;
        ++reused_;
        return header + 1;
      }
    }
    Header* header = map(needed);
    const std::lock_guard lock(mutex_);
    in_use_ += needed;
    return header + 1;
  }

  void release(void* pointer) noexcept {
    Header* header = header_of(pointer);
    if (header->reserved < 0) {
      std::free(header);
      return;
    }
    {
      const std::lock_guard lock(mutex_);
      in_use_ -= header->bytes;
      if (cached_ + header->bytes <= limit_ && keep(header)) return;
    }
    unmap(header);
  }

  void trim() noexcept {
    std::map<std::int64_t, std::vector<Header*>> unused;
    {
      const std::lock_guard lock(mutex_);
      unused.swap(free_);
      cached_ = 0;
    }
    for (auto& [size, headers] : unused) {
      for (Header* header : headers) unmap(header);
    }
  }

  PoolStatistics statistics() noexcept {
    const std::lock_guard lock(mutex_);
    return {in_use_, cached_, reused_};
  }

 private:
  static void* allocate_small(std::int64_t bytes) {
    const auto rounded = (static_cast<std::size_t>(bytes) + sizeof(Header) + 63) / 64 * 64;
    auto* header = static_cast<Header*>(std::aligned_alloc(64, rounded));
    if (header == nullptr) throw std::bad_alloc();
    *header = {static_cast<std::int64_t>(rounded), -1};
    return header + 1;
  }

  static Header* map(std::int64_t bytes) {
    // One huge page more than needed leaves room to start at a huge page's border; the header
    // sits at that border, the data 64 bytes after it.
    const auto length = static_cast<std::size_t>(bytes + kHugePage);
    void* start = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) throw std::bad_alloc();
    const auto address = reinterpret_cast<std::uintptr_t>(start);
    const auto border = (address + kHugePage - 1) / kHugePage * kHugePage;
    void* aligned = static_cast<std::byte*>(start) + (border - address);
    madvise(aligned, static_cast<std::size_t>(bytes), MADV_HUGEPAGE);
    auto* header = static_cast<Header*>(aligned);
    *header = {bytes, static_cast<std::int64_t>(border - address)};
    return header;
  }

  static void unmap(Header* header) noexcept {
    const auto length = static_cast<std::size_t>(header->bytes + kHugePage);
    munmap(reinterpret_cast<char*>(header) - header->reserved, length);
  }

  bool keep(Header* header) noexcept {
    try {
      free_[header->bytes].push_back(header);
    } catch (const std::bad_alloc&) {
      return false;
    }
    cached_ += header->bytes;
    return true;
  }

  std::mutex mutex_;
  std::map<std::int64_t, std::vector<Header*>> free_;
  std::int64_t limit_ = detail::environment_number("MOPTCORE_POOL_MB", 0, 1 << 30).value_or(1024)
                        << 20;
  std::int64_t in_use_ = 0;
  std::int64_t cached_ = 0;
  std::int64_t reused_ = 0;
};

// Never destroyed: arrays handed to callers may outlive every static object.
Pool& pool() {
  static Pool& instance = *new Pool;
  return instance;
}

}  // namespace

PoolBuffer pool_allocate(std::int64_t bytes) { return PoolBuffer(pool().allocate(bytes)); }

void PoolDeleter::operator()(void* pointer) const noexcept { pool().release(pointer); }

void trim() noexcept { pool().trim(); }

PoolStatistics pool_statistics() noexcept { return pool().statistics(); }

}  // namespace moptcore::inline v0

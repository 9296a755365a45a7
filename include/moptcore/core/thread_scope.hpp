// SPDX-License-Identifier: Apache-2.0
// Another number of threads for what one thread is about to call.
#pragma once

#include <moptcore/core/export.hpp>

namespace moptcore::inline v0 {

/// While it lives, num_threads() is `count` on the calling thread; 0 changes nothing.
class MOPTCORE_API ThreadScope {
 public:
  explicit ThreadScope(int count) noexcept;
  ~ThreadScope();
  ThreadScope(const ThreadScope&) = delete;
  ThreadScope& operator=(const ThreadScope&) = delete;

 private:
  int before_;
};

/// True in a child that fork() made: it has one thread, whatever num_threads() says.
[[nodiscard]] MOPTCORE_API bool is_forked() noexcept;

}  // namespace moptcore::inline v0

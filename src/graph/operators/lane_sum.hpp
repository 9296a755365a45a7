// SPDX-License-Identifier: Apache-2.0
// Sums whose bits depend on nothing but the terms.
#pragma once

#include <cstdint>

namespace moptcore::inline v0::graph {

/// The sum of f(value) of `count` values, in double and in four lanes, each in its order.
template <class T, class F>
[[nodiscard]] double lane_sum(const T* values, std::int64_t count, F&& f) {
  double sums[4] = {};
  std::int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    for (int lane = 0; lane < 4; ++lane) sums[lane] += f(static_cast<double>(values[i + lane]));
  }
  for (; i < count; ++i) sums[0] += f(static_cast<double>(values[i]));
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

}  // namespace moptcore::inline v0::graph

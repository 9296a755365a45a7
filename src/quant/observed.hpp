// SPDX-License-Identifier: Apache-2.0
// What observers see of a tensor.
#pragma once

#include <moptcore/core/tensor_view.hpp>
#include <moptcore/quant/range.hpp>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "kernels/strided.hpp"

namespace moptcore::inline v0::quant {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// Smallest and largest finite values, one of each channel; min > max where there is none.
struct Ranges {
  std::vector<float> min;
  std::vector<float> max;
  bool finite = true;  ///< no NaN or infinity was met
};

constexpr bool is_seen(float min, float max) noexcept { return min <= max; }

/// Of all elements, or for each index of an axis. Doubles beyond the largest float become it.
Ranges observed_range(const AnyView& x, std::optional<int> axis);

/// The range of contiguous values as observed_range gives it.
struct PieceRange {
  float min;
  float max;
  bool finite;
};
PieceRange piece_range(const float* src, std::int64_t n) noexcept;
PieceRange piece_range(const double* src, std::int64_t n) noexcept;

inline constexpr auto kUpdate = "quant.Observer.update";

/// Throws for values that are not finite unless they are skipped.
void check_observed(bool finite, OnNonFinite nonfinite);

/// `axis` counted from the front. Throws unless x is floating, not empty and has the axis.
std::optional<int> observed_axis(const AnyView& x, std::optional<std::int64_t> axis,
                                 const char* where);

/// observed_axis and observed_range. Throws where the observer has seen another number of channels
/// (`known` > 0) and, unless they are skipped, for values that are not finite.
std::pair<std::optional<int>, Ranges> observe(const AnyView& x, std::optional<std::int64_t> axis,
                                              std::size_t known, OnNonFinite nonfinite);

/// Calls f(pointer, position, count) for pieces of elements [first, last) as contiguous values.
template <class T, class F>
void for_each_piece(const AnyView& x, std::int64_t first, std::int64_t last, F&& f) {
  if (x.dtype() == dtype_of<T>() && x.is_contiguous()) {
    f(static_cast<const T*>(x.data()) + first, first, last - first);
    return;
  }
  alignas(64) T scratch[kernels::kScratch];
  for (std::int64_t at = first; at < last; at += kernels::kScratch) {
    const std::int64_t n = std::min(kernels::kScratch, last - at);
    f(kernels::block(x, at, n, scratch), at, n);
  }
}

}  // namespace moptcore::inline v0::quant

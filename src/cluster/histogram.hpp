// SPDX-License-Identifier: Apache-2.0
// Very many values as few: counts and means in equal bins.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <moptcore/core/tensor_view.hpp>

namespace moptcore::inline v0::cluster {

struct Histogram {
  std::vector<double> means;  // of the bins that hold values, ascending
  std::vector<std::int64_t> counts;
  bool has_zero = false;  // zeros were met; with without_zeros they are in no bin
};

/// Bins of a histogram.
inline constexpr std::int64_t kBins = 65536;

/// Elements [first, first + n) of a tensor in kBins bins from its smallest to its largest value.
/// The counts are exact, the means to 2^-32 of the range. Nothing where a
/// value is not finite or the range is too small to be divided.
[[nodiscard]] std::optional<Histogram> histogram(const AnyView& tensor, std::int64_t first,
                                                 std::int64_t n, bool without_zeros);

}  // namespace moptcore::inline v0::cluster

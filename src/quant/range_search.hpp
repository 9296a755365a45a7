// SPDX-License-Identifier: Apache-2.0
// The rules that pick a range from counts.
#pragma once

#include <moptcore/quant/histogram.hpp>

#include <utility>

namespace moptcore::inline v0::quant {

/// What makes a grid of a range; see grid_from_range.
struct GridChoice {
  GridType type;
  bool symmetric;
  Compat compat;
};

using FloatRange = std::pair<float, float>;

FloatRange percentile_range(const BinCounts& bins, double percentile, Tails tails);
FloatRange entropy_range(const BinCounts& bins, const GridChoice& choice);
FloatRange error_range(const BinCounts& bins, const GridChoice& choice);
FloatRange path_range(const BinCounts& bins, const GridChoice& choice);

}  // namespace moptcore::inline v0::quant

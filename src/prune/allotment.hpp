// SPDX-License-Identifier: Apache-2.0
// How many zeros each of several tensors gets when they are ranked together within bounds.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include <moptcore/core/tensor_view.hpp>

#include "prune/keys.hpp"

namespace moptcore::inline v0::prune {

/// Least and greatest number of zeros of one tensor.
struct ZeroBounds {
  std::int64_t least;
  std::int64_t greatest;
};

struct Allotment {
  std::vector<std::int64_t> zeros;  ///< of each tensor
  std::optional<std::size_t> nan;   ///< the first tensor with a NaN where that is an error
};

/// Zeros that add up to `zeros`, which the bounds allow, such that no element is pruned while a
/// lower one stays, unless a bound of its tensor says so. Of equal ones earlier tensors keep
/// theirs. Reads everything once for each 11 bits of the keys.
[[nodiscard]] Allotment allot_zeros(std::span<const AnyView> ranked, Order order,
                                    NonFinite nonfinite, std::int64_t zeros,
                                    std::span<const ZeroBounds> bounds);

}  // namespace moptcore::inline v0::prune

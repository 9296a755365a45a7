// SPDX-License-Identifier: Apache-2.0
// The equal bins of values, from which a table tells how many of some sorted thresholds lie below:
// those before the bin do, and the few within are compared.
#pragma once

#include <cstdint>

namespace moptcore::inline v0::kernels {

template <class T>
struct Bins {
  T low = 0;
  T scale = 0;
  std::int32_t last = 0;  ///< bins but one; what lies outside belongs to the first or last
};

/// dst[i] = (src[i] - low) * scale within [0, last], without its fraction. A value that is not
/// below another one has no lower bin.
void bin_in_range(const float* src, std::int64_t n, const Bins<float>& bins,
                  std::int32_t* dst) noexcept;
void bin_in_range(const double* src, std::int64_t n, const Bins<double>& bins,
                  std::int32_t* dst) noexcept;

}  // namespace moptcore::inline v0::kernels

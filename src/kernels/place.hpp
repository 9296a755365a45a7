// SPDX-License-Identifier: Apache-2.0
// Where values lie in a range, as whole numbers.
#pragma once

#include <cstdint>

namespace moptcore::inline v0::kernels {

/// dst[i] = (src[i] - low) * scale in double, without its fraction, within [0, 2^31 - 1].
void place_f32(const float* src, std::int64_t n, double low, double scale,
               std::uint32_t* dst) noexcept;
void place_f64(const double* src, std::int64_t n, double low, double scale,
               std::uint32_t* dst) noexcept;

}  // namespace moptcore::inline v0::kernels

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace moptcore::inline v0::kernels {

/// Returns the sum of (a[i] - b[i])^2 and writes grad[i] = scale (a[i] - b[i]). `grad` may be `a`
/// or `b`. Element i belongs to virtual lane i % 16 on every instruction set.
[[nodiscard]] double squared_error_f32(const float* a, const float* b, std::int64_t n, float scale,
                                       float* grad) noexcept;
[[nodiscard]] double squared_error_f64(const double* a, const double* b, std::int64_t n,
                                       double scale, double* grad) noexcept;

}  // namespace moptcore::inline v0::kernels

// SPDX-License-Identifier: Apache-2.0
// Functions of one float, in contiguous runs. NaN stays NaN; dst may be src.
#pragma once

#include <cstdint>

namespace moptcore::inline v0::kernels {

/// dst[i] = tanh(src[i]), within 1.5 ulp where the CPU has FMA, else within 2.
void tanh_f32(const float* src, std::int64_t n, float* dst) noexcept;

/// dst[i] = 1 / (1 + exp(-src[i])), within 2.5 ulp; 0 where it is below the smallest normal number.
void sigmoid_f32(const float* src, std::int64_t n, float* dst) noexcept;

/// dst[i] = erf(src[i]), within 1 ulp where the CPU has FMA, else within 2.
void erf_f32(const float* src, std::int64_t n, float* dst) noexcept;

/// dst[i] = the whole number nearest to src[i] (half to even), at or below it, at or above it.
void round_f32(const float* src, std::int64_t n, float* dst) noexcept;
void floor_f32(const float* src, std::int64_t n, float* dst) noexcept;
void ceil_f32(const float* src, std::int64_t n, float* dst) noexcept;

}  // namespace moptcore::inline v0::kernels

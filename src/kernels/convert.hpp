// SPDX-License-Identifier: Apache-2.0
// Floats to other elements and back, in contiguous runs.
#pragma once

#include <cstdint>

#include <moptcore/core/dtype.hpp>

namespace moptcore::inline v0::kernels {

/// dst[i] = src[i] as core/dtype.hpp converts it, bit for bit.
void widen_f16(const float16* src, std::int64_t n, float* dst) noexcept;
void widen_bf16(const bfloat16* src, std::int64_t n, float* dst) noexcept;
void narrow_f16(const float* src, std::int64_t n, float16* dst) noexcept;
void narrow_bf16(const float* src, std::int64_t n, bfloat16* dst) noexcept;

/// dst[i] = src[i] without its fraction; what does not fit saturates, NaN is 0.
void truncate_f32(const float* src, std::int64_t n, std::int32_t* dst) noexcept;

}  // namespace moptcore::inline v0::kernels

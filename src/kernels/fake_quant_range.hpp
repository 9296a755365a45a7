// SPDX-License-Identifier: Apache-2.0
// Fake quantization by TensorFlow's rules, of contiguous runs.
#pragma once

#include <cstdint>

#include <moptcore/core/dtype.hpp>

#include "kernels/grid.hpp"

namespace moptcore::inline v0::kernels {

/// dst[i] = floor((clamp(src[i], low, high) - low) / factor - zero + 0.5) * scale, times factor
/// where `multiply`; 0 where scale is 0. Here low and high are real numbers. `bits`, where not
/// null, receives (n + 7) / 8 bytes: low <= src[i] <= high. dst may be src. With
/// `stream`, dst is a multiple of 16 bytes and written past the caches: see stream_fence.
void fake_quant_range_f32(const float* src, std::int64_t n, const GridStep<float>& grid,
                          bool multiply, float* dst, std::uint8_t* bits,
                          bool stream = false) noexcept;
void fake_quant_range_f32(const float* src, std::int64_t n, const GridTable<float>& grids,
                          bool multiply, float* dst, std::uint8_t* bits,
                          bool stream = false) noexcept;
void fake_quant_range_f16(const float16* src, std::int64_t n, const GridStep<float>& grid,
                          bool multiply, float16* dst, std::uint8_t* bits,
                          bool stream = false) noexcept;
void fake_quant_range_f16(const float16* src, std::int64_t n, const GridTable<float>& grids,
                          bool multiply, float16* dst, std::uint8_t* bits,
                          bool stream = false) noexcept;
void fake_quant_range_bf16(const bfloat16* src, std::int64_t n, const GridStep<float>& grid,
                           bool multiply, bfloat16* dst, std::uint8_t* bits,
                           bool stream = false) noexcept;
void fake_quant_range_bf16(const bfloat16* src, std::int64_t n, const GridTable<float>& grids,
                           bool multiply, bfloat16* dst, std::uint8_t* bits,
                           bool stream = false) noexcept;

}  // namespace moptcore::inline v0::kernels

// SPDX-License-Identifier: Apache-2.0
// Fake quantization of contiguous runs, and its gradient.
#pragma once

#include <cstdint>

#include <moptcore/core/dtype.hpp>

#include "kernels/grid.hpp"

namespace moptcore::inline v0::kernels {

/// dst[i] = position(src[i]) * scale. `bits`, where not null, receives (n + 7) / 8 bytes of
/// pass-through bits; unused bits are 0. dst may be src. With `stream`, dst is a multiple of 16
/// bytes and written past the caches: see stream_fence.
void fake_quant_f32(const float* src, std::int64_t n, const GridStep<float>& grid,
                    const GridRule& rule, float* dst, std::uint8_t* bits,
                    bool stream = false) noexcept;
void fake_quant_f32(const float* src, std::int64_t n, const GridTable<float>& grids,
                    const GridRule& rule, float* dst, std::uint8_t* bits,
                    bool stream = false) noexcept;
void fake_quant_f16(const float16* src, std::int64_t n, const GridStep<float>& grid,
                    const GridRule& rule, float16* dst, std::uint8_t* bits,
                    bool stream = false) noexcept;
void fake_quant_f16(const float16* src, std::int64_t n, const GridTable<float>& grids,
                    const GridRule& rule, float16* dst, std::uint8_t* bits,
                    bool stream = false) noexcept;
void fake_quant_bf16(const bfloat16* src, std::int64_t n, const GridStep<float>& grid,
                     const GridRule& rule, bfloat16* dst, std::uint8_t* bits,
                     bool stream = false) noexcept;
void fake_quant_bf16(const bfloat16* src, std::int64_t n, const GridTable<float>& grids,
                     const GridRule& rule, bfloat16* dst, std::uint8_t* bits,
                     bool stream = false) noexcept;
void fake_quant_f64(const double* src, std::int64_t n, const GridStep<double>& grid,
                    const GridRule& rule, double* dst, std::uint8_t* bits,
                    bool stream = false) noexcept;
void fake_quant_f64(const double* src, std::int64_t n, const GridTable<double>& grids,
                    const GridRule& rule, double* dst, std::uint8_t* bits,
                    bool stream = false) noexcept;

/// dst[i] = src[i] where bit i of `bits` is set, else all bits zero. dst may be src. `stream`: see
/// above.
void keep_where_u16(const std::uint16_t* src, const std::uint8_t* bits, std::int64_t n,
                    std::uint16_t* dst, bool stream = false) noexcept;
void keep_where_u32(const std::uint32_t* src, const std::uint8_t* bits, std::int64_t n,
                    std::uint32_t* dst, bool stream = false) noexcept;
void keep_where_u64(const std::uint64_t* src, const std::uint8_t* bits, std::int64_t n,
                    std::uint64_t* dst, bool stream = false) noexcept;

}  // namespace moptcore::inline v0::kernels

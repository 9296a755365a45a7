// SPDX-License-Identifier: Apache-2.0
// Floats to integers and back, in contiguous runs.
#pragma once

#include <cstdint>

#include "kernels/grid.hpp"

namespace moptcore::inline v0::kernels {

/// The type of the elements behind a void pointer.
enum class Integer : std::uint8_t { int8, uint8, int16, uint16 };

/// dst[i] = position(src[i]) + zero, or as rule.zero_point says. rule.nan must not be
/// NanPosition::nan.
void quantize_f32(const float* src, std::int64_t n, const GridStep<float>& grid,
                  const GridRule& rule, Integer type, void* dst) noexcept;
void quantize_f32(const float* src, std::int64_t n, const GridTable<float>& grids,
                  const GridRule& rule, Integer type, void* dst) noexcept;
void quantize_f64(const double* src, std::int64_t n, const GridStep<double>& grid,
                  const GridRule& rule, Integer type, void* dst) noexcept;
void quantize_f64(const double* src, std::int64_t n, const GridTable<double>& grids,
                  const GridRule& rule, Integer type, void* dst) noexcept;

/// dst[i] = (src[i] - zero) * scale.
void dequantize_f32(const void* src, Integer type, std::int64_t n, const GridStep<float>& grid,
                    float* dst) noexcept;
void dequantize_f32(const void* src, Integer type, std::int64_t n, const GridTable<float>& grids,
                    float* dst) noexcept;
void dequantize_f64(const void* src, Integer type, std::int64_t n, const GridStep<double>& grid,
                    double* dst) noexcept;
void dequantize_f64(const void* src, Integer type, std::int64_t n, const GridTable<double>& grids,
                    double* dst) noexcept;

/// Two 4-bit integers in a byte, the first in the low nibble; the high one of a last byte is 0.
void pack_nibbles(const std::uint8_t* src, std::int64_t n, std::uint8_t* dst) noexcept;

/// The inverse of pack_nibbles, sign-extended where `is_signed`.
void unpack_nibbles(const std::uint8_t* src, std::int64_t n, bool is_signed,
                    std::uint8_t* dst) noexcept;

}  // namespace moptcore::inline v0::kernels

// SPDX-License-Identifier: Apache-2.0
// Products of a matrix that is read many times with blocks of few columns. The matrix lies in
// panels of rows, so that both products, with it and with its transpose, read memory in order.
#pragma once

#include <cstdint>

namespace moptcore::inline v0::kernels {

/// Rows of a panel: element [i][j] of an n wide panel is at j * kPanelRows + i.
inline constexpr std::int64_t kPanelRows = 12;

/// panel[i][j] = scale * src[i * row_stride + j * col_stride] for `rows` <= kPanelRows rows, zero
/// in those beyond.
void pack_panel_f32(const float* src, std::int64_t row_stride, std::int64_t col_stride,
                    std::int64_t rows, std::int64_t n, float scale, float* panel) noexcept;

/// y [kPanelRows, block] = panel x, of x [n, block]. block is 8 or 16.
void panel_times_f32(const float* panel, std::int64_t n, const float* x, std::int64_t block,
                     float* y) noexcept;

/// x [n, block] += panel^T y or -= it, for `count` panels that are `stride` elements apart and as
/// many y [kPanelRows, block] that follow each other. block is 8 or 16.
void add_transposed_f32(const float* panels, std::int64_t stride, std::int64_t count,
                        std::int64_t n, const float* y, std::int64_t block, bool subtract,
                        float* x) noexcept;

/// Rows a and b of `count` elements become a * cosine - b * sine and a * sine + b * cosine.
void rotate_rows_f32(float cosine, float sine, std::int64_t count, float* a, float* b) noexcept;

}  // namespace moptcore::inline v0::kernels

// SPDX-License-Identifier: Apache-2.0
// Products with a matrix that is packed once and used often, and what is done to them on the way
// to memory. Serial: the caller divides rows and panels.
#pragma once

#include <cstdint>

namespace moptcore::inline v0::kernels {

/// Columns of a packed panel.
inline constexpr std::int64_t kPanel = 16;

[[nodiscard]] constexpr std::int64_t panels_of(std::int64_t columns) noexcept {
  return (columns + kPanel - 1) / kPanel;
}

/// Floats that a packed matrix [depth, columns] takes.
[[nodiscard]] constexpr std::int64_t packed_floats(std::int64_t depth,
                                                   std::int64_t columns) noexcept {
  return panels_of(columns) * kPanel * depth;
}

/// packed = the matrix whose element (k, j) is b[k * row_stride + j * column_stride], panel by
/// panel, zero where the last one has no columns; panels [first, last) of it.
void pack_panels(std::int64_t depth, std::int64_t columns, const float* b, std::int64_t row_stride,
                 std::int64_t column_stride, std::int64_t first, std::int64_t last,
                 float* packed) noexcept;

/// The matrix of all panels again, at the places that pack_panels read.
void unpack_panels(std::int64_t depth, std::int64_t columns, const float* packed,
                   std::int64_t row_stride, std::int64_t column_stride, float* b) noexcept;

/// The end of a product: min(max(sum + bias[column] + addend[row][column], low), high), then
/// the curve.
struct Ending {
  const float* bias = nullptr;  ///< null: 0
  const float* addend = nullptr;
  std::int64_t addend_stride = 0;
  float low = 0;
  float high = 0;
  bool clamps = false;
  enum class Curve : std::uint8_t {
    none,
    gelu,       // x (1 + erf(x / sqrt(2))) / 2, to 3e-7 of |x|
    tanh_gelu,  // x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2, likewise
  };
  Curve curve = Curve::none;
};

/// c[i][j] = end(sum_k a[i][k] b[k][j]) for `rows` rows and the columns of panels
/// [first_panel, last_panel). Rows of a, c and the addend are strides apart. Every element adds
/// its products in order of k, whatever the rows and panels of the call.
void multiply_panels(std::int64_t rows, std::int64_t columns, std::int64_t depth, const float* a,
                     std::int64_t a_stride, const float* packed, std::int64_t first_panel,
                     std::int64_t last_panel, const Ending& end, float* c,
                     std::int64_t c_stride) noexcept;

}  // namespace moptcore::inline v0::kernels

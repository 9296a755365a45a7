// SPDX-License-Identifier: Apache-2.0
// A small matrix product whose bits depend on nothing but its operands. Large products are
// oneDNN's; this one serves the losses of the core library, which must not need it.
#pragma once

#include <cstdint>

#include <moptcore/core/export.hpp>

namespace moptcore::inline v0::kernels {

/// A matrix of any strides, in elements.
template <class T>
struct Matrix {
  T* data;
  std::int64_t row_stride;
  std::int64_t col_stride;
};

/// c[i][j] += sum_k a[i][k] b[k][j] for an m x n block of c, whose columns are contiguous. Every
/// element adds its products in order of k, in runs of 256. Exported to the runtime library: oneDNN
/// has none for double, and its own promise no bits.
MOPTCORE_API void product_f32(std::int64_t m, std::int64_t n, std::int64_t depth,
                              const Matrix<const float>& a, const Matrix<const float>& b,
                              const Matrix<float>& c) noexcept;
MOPTCORE_API void product_f64(std::int64_t m, std::int64_t n, std::int64_t depth,
                              const Matrix<const double>& a, const Matrix<const double>& b,
                              const Matrix<double>& c) noexcept;

/// Elements of a depth x n matrix as product_packed takes it.
[[nodiscard]] constexpr std::int64_t packed_size(std::int64_t n, std::int64_t depth) noexcept {
  return (n + 15) / 16 * 16 * depth;
}

/// Packs b for products of few rows each, which are many.
void pack_f32(std::int64_t n, std::int64_t depth, const Matrix<const float>& b,
              float* packed) noexcept;
void pack_f64(std::int64_t n, std::int64_t depth, const Matrix<const double>& b,
              double* packed) noexcept;

/// What product_f32 and product_f64 give, bit for bit, of b packed.
void product_packed_f32(std::int64_t m, std::int64_t n, std::int64_t depth,
                        const Matrix<const float>& a, const float* packed,
                        const Matrix<float>& c) noexcept;
void product_packed_f64(std::int64_t m, std::int64_t n, std::int64_t depth,
                        const Matrix<const double>& a, const double* packed,
                        const Matrix<double>& c) noexcept;

}  // namespace moptcore::inline v0::kernels

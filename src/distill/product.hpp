// SPDX-License-Identifier: Apache-2.0
// Matrix products on several threads, equal bits at any number of them.
#pragma once

#include <algorithm>

#include <moptcore/core/parallel.hpp>

#include "kernels/product.hpp"

namespace moptcore::inline v0::distill {

using kernels::Matrix;

inline void block_product(std::int64_t m, std::int64_t n, std::int64_t depth,
                          const Matrix<const float>& a, const Matrix<const float>& b,
                          const Matrix<float>& c) {
  kernels::product_f32(m, n, depth, a, b, c);
}

inline void block_product(std::int64_t m, std::int64_t n, std::int64_t depth,
                          const Matrix<const double>& a, const Matrix<const double>& b,
                          const Matrix<double>& c) {
  kernels::product_f64(m, n, depth, a, b, c);
}

inline constexpr std::int64_t kTile = 64;  // rows and columns that one block computes

/// c += a b; the columns of c are contiguous.
template <class T>
void product(std::int64_t m, std::int64_t n, std::int64_t depth, const Matrix<const T>& a,
             const Matrix<const T>& b, const Matrix<T>& c) {
  const std::int64_t across = block_count(n, kTile);
  parallel_for(block_count(m, kTile) * across, 1, [&](std::int64_t tile, std::int64_t) {
    const std::int64_t row = tile / across * kTile;
    const std::int64_t col = tile % across * kTile;
    block_product(std::min(kTile, m - row), std::min(kTile, n - col), depth,
                  {a.data + row * a.row_stride, a.row_stride, a.col_stride},
                  {b.data + col * b.col_stride, b.row_stride, b.col_stride},
                  {c.data + row * c.row_stride + col, c.row_stride, 1});
  });
}

/// c = a a^T of n rows of `depth` values, c n x n of zeros. Tiles below the diagonal are mirrored,
/// which has the same terms in the same order.
template <class T>
void gram(std::int64_t n, std::int64_t depth, const T* a, T* c) {
  const std::int64_t across = block_count(n, kTile);
  parallel_for(across * across, 1, [&](std::int64_t tile, std::int64_t) {
    const std::int64_t row = tile / across * kTile;
    const std::int64_t col = tile % across * kTile;
    if (col < row) return;
    block_product(std::min(kTile, n - row), std::min(kTile, n - col), depth,
                  {a + row * depth, depth, 1}, {a + col * depth, 1, depth},
                  {c + row * n + col, n, 1});
  });
  for (std::int64_t i = kTile; i < n; ++i) {
    for (std::int64_t j = 0; j < i / kTile * kTile; ++j) c[i * n + j] = c[j * n + i];
  }
}

}  // namespace moptcore::inline v0::distill

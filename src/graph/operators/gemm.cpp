// SPDX-License-Identifier: Apache-2.0
#include "graph/operators/gemm.hpp"

#include <algorithm>
#include <vector>

#include "kernels/integer_product.hpp"

namespace moptcore::inline v0::graph {
namespace {

constexpr std::int64_t kTileRows = 128;
constexpr std::int64_t kTileCols = 64;
constexpr std::int64_t kFewRows = 4;  // below: packing b would cost more than it saves
constexpr std::int64_t kStrip = 512;  // columns of a strip, whose sums stay in the first cache
constexpr std::int64_t kLanes = 16;   // partial sums of one dot product

void block(std::int64_t m, std::int64_t n, std::int64_t depth, const Matrix<const float>& a,
           const Matrix<const float>& b, const Matrix<float>& c) {
  kernels::product_f32(m, n, depth, a, b, c);
}

void block(std::int64_t m, std::int64_t n, std::int64_t depth, const Matrix<const std::int16_t>& a,
           const Matrix<const std::int16_t>& b, const Matrix<std::int32_t>& c) {
  kernels::product_i16(m, n, depth, a, b, c);
}

void block(std::int64_t m, std::int64_t n, std::int64_t depth, const Matrix<const double>& a,
           const Matrix<const double>& b, const Matrix<double>& c) {
  kernels::product_f64(m, n, depth, a, b, c);
}

template <class T>
T dot(const T* a, const T* b, std::int64_t count) {
  T lanes[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (std::int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += a[i + lane] * b[i + lane];
  }
  T rest = 0;
  for (; i < count; ++i) rest += a[i] * b[i];
  for (std::int64_t width = kLanes / 2; width > 0; width /= 2) {
    for (std::int64_t lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  }
  return lanes[0] + rest;
}

// to += row b, where b's rows or columns are contiguous: each element of b is read once, in order.
template <class T>
void row_product(std::int64_t n, std::int64_t depth, const T* row, const Matrix<const T>& b,
                 T* to) {
  if (b.col_stride == 1) {
    parallel_for(n, kStrip, [&](std::int64_t first, std::int64_t last) {
      const T* from = b.data;
      std::int64_t k = 0;
      for (; k + 4 <= depth; k += 4, from += 4 * b.row_stride) {
        const T* r0 = from;
        const T* r1 = from + b.row_stride;
        const T* r2 = from + 2 * b.row_stride;
        const T* r3 = from + 3 * b.row_stride;
        for (std::int64_t j = first; j < last; ++j) {
          to[j] +=
              (row[k] * r0[j] + row[k + 1] * r1[j]) + (row[k + 2] * r2[j] + row[k + 3] * r3[j]);
        }
      }
      for (; k < depth; ++k, from += b.row_stride) {
        for (std::int64_t j = first; j < last; ++j) to[j] += row[k] * from[j];
      }
    });
  } else {
    const std::int64_t grain =
        std::max<std::int64_t>(1, (1 << 14) / std::max<std::int64_t>(1, depth));
    parallel_for(n, grain, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t j = first; j < last; ++j) {
        to[j] += dot(row, b.data + j * b.col_stride, depth);
      }
    });
  }
}

template <class T, class Sum>
void tiled_product(std::int64_t m, std::int64_t n, std::int64_t depth, const Matrix<const T>& a,
                   const Matrix<const T>& b, const Matrix<Sum>& c) {
  const std::int64_t across = block_count(n, kTileCols);
  parallel_for(block_count(m, kTileRows) * across, 1, [&](std::int64_t tile, std::int64_t) {
    const std::int64_t row = tile / across * kTileRows;
    const std::int64_t col = tile % across * kTileCols;
    block(std::min(kTileRows, m - row), std::min(kTileCols, n - col), depth,
          {a.data + row * a.row_stride, a.row_stride, a.col_stride},
          {b.data + col * b.col_stride, b.row_stride, b.col_stride},
          {c.data + row * c.row_stride + col, c.row_stride, 1});
  });
}

template <class T>
void product(std::int64_t m, std::int64_t n, std::int64_t depth, const Matrix<const T>& a,
             const Matrix<const T>& b, const Matrix<T>& c) {
  if (m <= 0 || n <= 0 || depth <= 0) return;
  if (n == 1 && m > 1 && c.row_stride == 1) {
    // A column: its transpose is a row.
    return product<T>(1, m, depth, {b.data, b.col_stride, b.row_stride},
                      {a.data, a.col_stride, a.row_stride}, {c.data, m, 1});
  }
  if (m < kFewRows && (b.col_stride == 1 || b.row_stride == 1)) {
    std::vector<T> row(depth);
    for (std::int64_t i = 0; i < m; ++i) {
      for (std::int64_t k = 0; k < depth; ++k) {
        row[k] = a.data[i * a.row_stride + k * a.col_stride];
      }
      row_product(n, depth, row.data(), b, c.data + i * c.row_stride);
    }
    return;
  }
  tiled_product(m, n, depth, a, b, c);
}

}  // namespace

void gemm(std::int64_t m, std::int64_t n, std::int64_t depth, const Matrix<const float>& a,
          const Matrix<const float>& b, const Matrix<float>& c) {
  product(m, n, depth, a, b, c);
}

void gemm(std::int64_t m, std::int64_t n, std::int64_t depth, const Matrix<const double>& a,
          const Matrix<const double>& b, const Matrix<double>& c) {
  product(m, n, depth, a, b, c);
}

void gemm(std::int64_t m, std::int64_t n, std::int64_t depth, const Matrix<const std::int16_t>& a,
          const Matrix<const std::int16_t>& b, const Matrix<std::int32_t>& c) {
  if (m > 0 && n > 0 && depth > 0) tiled_product(m, n, depth, a, b, c);
}

}  // namespace moptcore::inline v0::graph

// SPDX-License-Identifier: Apache-2.0
// Matrix products of plain tensors: on several threads, with equal bits at any number of them.
#pragma once

#include <cstdint>
#include <type_traits>

#include <moptcore/core/parallel.hpp>

#include "kernels/product.hpp"

namespace moptcore::inline v0::graph {

using kernels::Matrix;

/// c += a b of an m x depth and a depth x n matrix of any strides; the columns of c are contiguous,
/// and c overlaps neither.
void gemm(std::int64_t m, std::int64_t n, std::int64_t depth, const Matrix<const float>& a,
          const Matrix<const float>& b, const Matrix<float>& c);
void gemm(std::int64_t m, std::int64_t n, std::int64_t depth, const Matrix<const double>& a,
          const Matrix<const double>& b, const Matrix<double>& c);

/// The same of 16-bit integers other than -2^15; sums wrap around.
void gemm(std::int64_t m, std::int64_t n, std::int64_t depth, const Matrix<const std::int16_t>& a,
          const Matrix<const std::int16_t>& b, const Matrix<std::int32_t>& c);

/// The same of integers, which wrap around.
template <class T>
  requires std::is_integral_v<T>
void gemm(std::int64_t m, std::int64_t n, std::int64_t depth, const Matrix<const T>& a,
          const Matrix<const T>& b, const Matrix<T>& c) {
  using Word = std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>;
  const std::int64_t rows = std::max<std::int64_t>(1, (1 << 14) / std::max<std::int64_t>(1, n));
  parallel_for(m, rows, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      T* const to = c.data + i * c.row_stride;
      for (std::int64_t k = 0; k < depth; ++k) {
        const auto factor = static_cast<Word>(a.data[i * a.row_stride + k * a.col_stride]);
        const T* const row = b.data + k * b.row_stride;
        if (b.col_stride == 1) {
          for (std::int64_t j = 0; j < n; ++j) {
            to[j] = static_cast<T>(to[j] + factor * static_cast<Word>(row[j]));
          }
        } else {
          for (std::int64_t j = 0; j < n; ++j) {
            to[j] = static_cast<T>(to[j] + factor * static_cast<Word>(row[j * b.col_stride]));
          }
        }
      }
    }
  });
}

/// c += a b for `batches` pairs: matrix number i of each lies at offset i of its list, in elements.
template <class T, class Sum = T>
void batched_gemm(std::int64_t batches, std::int64_t m, std::int64_t n, std::int64_t depth,
                  const Matrix<const T>& a, const std::int64_t* a_offsets, const Matrix<const T>& b,
                  const std::int64_t* b_offsets, const Matrix<Sum>& c, std::int64_t c_step) {
  const auto one = [&](std::int64_t i) {
    gemm(m, n, depth, {a.data + a_offsets[i], a.row_stride, a.col_stride},
         {b.data + b_offsets[i], b.row_stride, b.col_stride},
         Matrix<Sum>{c.data + i * c_step, c.row_stride, c.col_stride});
  };
  // Threads share the batches where each is small, else each product.
  const double work = static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(depth);
  if (work < 0x1p21) {
    const auto grain = static_cast<std::int64_t>(0x1p17 / (work + 1)) + 1;
    parallel_for(batches, grain, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t i = first; i < last; ++i) one(i);
    });
  } else {
    for (std::int64_t i = 0; i < batches; ++i) one(i);
  }
}

}  // namespace moptcore::inline v0::graph

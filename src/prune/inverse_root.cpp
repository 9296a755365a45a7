// SPDX-License-Identifier: Apache-2.0
#include "prune/inverse_root.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include <moptcore/core/parallel.hpp>

#include "kernels/float_mode.hpp"
#include "kernels/product.hpp"

namespace moptcore::inline v0::prune {
namespace {

constexpr std::int64_t kBlock = 64;

// Factors the matrix as R R^T with R upper triangular, in its upper triangle: from the last
// columns to the first, so that R and its inverse are upper triangular alike.
std::int64_t factor(double* matrix, std::int64_t n) {
  std::vector<double> panel(static_cast<std::size_t>(n * kBlock));
  const std::int64_t blocks = block_count(n, kBlock);
  for (std::int64_t block = blocks - 1; block >= 0; --block) {
    const std::int64_t first = block * kBlock;
    const std::int64_t last = std::min(n, first + kBlock);
    const std::int64_t width = last - first;
    const kernels::FloatMode float_mode;
    for (std::int64_t j = last - 1; j >= first; --j) {
      const double pivot = matrix[j * n + j];
      if (!(pivot > 0.0) || !std::isfinite(pivot)) return j;
      const double root = std::sqrt(pivot);
      matrix[j * n + j] = root;
      for (std::int64_t i = first; i < j; ++i) matrix[i * n + j] /= root;
      for (std::int64_t i = first; i < j; ++i) {
        for (std::int64_t k = i; k < j; ++k) {
          matrix[i * n + k] -= matrix[i * n + j] * matrix[k * n + j];
        }
      }
    }
    // Rows above: x R^T = row, and minus x for the product that follows.
    parallel_for(first, kBlock, [&](std::int64_t begin, std::int64_t end) {
      const kernels::FloatMode mode;
      for (std::int64_t i = begin; i < end; ++i) {
        double* row = matrix + i * n;
        for (std::int64_t j = last - 1; j >= first; --j) {
          double rest = row[j];
          for (std::int64_t k = j + 1; k < last; ++k) rest -= row[k] * matrix[j * n + k];
          row[j] = rest / matrix[j * n + j];
          panel[static_cast<std::size_t>(i * width + j - first)] = -row[j];
        }
      }
    });
    parallel_for(first, kBlock, [&](std::int64_t begin, std::int64_t end) {
      const kernels::FloatMode mode;
      kernels::product_f64(end - begin, first - begin, width,
                           {panel.data() + begin * width, width, 1},
                           {matrix + begin * n + first, 1, n}, {matrix + begin * n + begin, n, 1});
    });
  }
  return -1;
}

}  // namespace

std::int64_t inverse_root(double* matrix, std::int64_t n) {
  const std::int64_t pivot = factor(matrix, n);
  if (pivot >= 0) return pivot;
  // R U = 1 by rows from the last: rows of a block of R are not needed after those of U are known.
  const std::int64_t blocks = block_count(n, kBlock);
  std::vector<double> minus(static_cast<std::size_t>(n * kBlock));
  for (std::int64_t block = blocks - 1; block >= 0; --block) {
    const std::int64_t first = block * kBlock;
    const std::int64_t last = std::min(n, first + kBlock);
    for (std::int64_t i = first; i < last; ++i) {
      for (std::int64_t j = i; j < n; ++j) {
        minus[static_cast<std::size_t>((i - first) * n + j)] = -matrix[i * n + j];
      }
      std::fill(matrix + i * n, matrix + (i + 1) * n, 0.0);
      matrix[i * n + i] = 1.0;
    }
    parallel_for(n - first, kBlock, [&](std::int64_t begin, std::int64_t end) {
      const kernels::FloatMode mode;
      const std::int64_t left = first + begin;
      const std::int64_t right = first + end;
      // Columns [left, right) of U have nothing below row right.
      if (right > last) {
        kernels::product_f64(last - first, right - left, right - last, {minus.data() + last, n, 1},
                             {matrix + last * n + left, n, 1}, {matrix + first * n + left, n, 1});
      }
      for (std::int64_t i = last - 1; i >= first; --i) {
        const double* row = minus.data() + (i - first) * n;
        double* to = matrix + i * n;
        for (std::int64_t k = i + 1; k < last; ++k) {
          const double* from = matrix + k * n;
          for (std::int64_t j = left; j < right; ++j) to[j] += row[k] * from[j];
        }
        for (std::int64_t j = left; j < right; ++j) to[j] /= -row[i];
      }
    });
  }
  return -1;
}

}  // namespace moptcore::inline v0::prune

// SPDX-License-Identifier: Apache-2.0
#include "quant/cholesky.hpp"

#include <moptcore/core/parallel.hpp>

#include <algorithm>
#include <cmath>

#include "kernels/product.hpp"

namespace moptcore::inline v0::quant {
namespace {

constexpr std::int64_t kBlock = 64;

using kernels::Matrix;

// Unblocked factor of the diagonal block [k, last).
bool factor_block(double* a, std::int64_t n, std::int64_t k, std::int64_t last) {
  for (std::int64_t j = k; j < last; ++j) {
    double pivot = a[j * n + j];
    for (std::int64_t t = k; t < j; ++t) pivot -= a[j * n + t] * a[j * n + t];
    if (!(pivot > 0.0) || !std::isfinite(pivot)) return false;
    const double root = std::sqrt(pivot);
    a[j * n + j] = root;
    for (std::int64_t i = j + 1; i < last; ++i) {
      double sum = a[i * n + j];
      for (std::int64_t t = k; t < j; ++t) sum -= a[i * n + t] * a[j * n + t];
      a[i * n + j] = sum / root;
    }
  }
  return true;
}

}  // namespace

bool cholesky(std::vector<double>& matrix, std::int64_t n) {
  double* const a = matrix.data();
  std::vector<double> negative(static_cast<std::size_t>(n * kBlock));
  for (std::int64_t k = 0; k < n; k += kBlock) {
    const std::int64_t last = std::min(k + kBlock, n);
    const std::int64_t width = last - k;
    if (!factor_block(a, n, k, last)) return false;
    parallel_for(n - last, kBlock, [&](std::int64_t first, std::int64_t end) {
      for (std::int64_t i = last + first; i < last + end; ++i) {
        double* row = a + i * n;
        for (std::int64_t j = k; j < last; ++j) {
          double sum = row[j];
          for (std::int64_t t = k; t < j; ++t) sum -= row[t] * a[j * n + t];
          row[j] = sum / a[j * n + j];
          negative[static_cast<std::size_t>(i * kBlock + j - k)] = -row[j];
        }
      }
    });
    const std::int64_t tiles = block_count(n - last, kBlock);
    parallel_for(tiles * (tiles + 1) / 2, 1, [&](std::int64_t task, std::int64_t) {
      std::int64_t down = 0;
      while ((down + 1) * (down + 2) / 2 <= task) ++down;
      const std::int64_t row = last + down * kBlock;
      const std::int64_t col = last + (task - down * (down + 1) / 2) * kBlock;
      kernels::product_f64(std::min(kBlock, n - row), std::min(kBlock, n - col), width,
                           {negative.data() + row * kBlock, kBlock, 1}, {a + col * n + k, 1, n},
                           {a + row * n + col, n, 1});
    });
  }
  return true;
}

std::vector<double> invert_lower(const std::vector<double>& l, std::int64_t n) {
  std::vector<double> inverse(static_cast<std::size_t>(n * n));
  double* const x = inverse.data();
  parallel_for(n, kBlock, [&](std::int64_t first, std::int64_t last) {
    const std::int64_t width = last - first;
    std::vector<double> right(static_cast<std::size_t>(kBlock * width));
    for (std::int64_t k = first; k < n; k += kBlock) {
      const std::int64_t end = std::min(k + kBlock, n);
      // The columns of the identity less what the rows above contribute, then forward again.
      std::fill(right.begin(), right.end(), 0.0);
      kernels::product_f64(end - k, width, k - first, {l.data() + k * n + first, n, 1},
                           {x + first * n + first, n, 1}, {right.data(), width, 1});
      for (std::int64_t i = k; i < end; ++i) {
        for (std::int64_t c = 0; c < width; ++c) {
          double sum =
              (i == first + c ? 1.0 : 0.0) - right[static_cast<std::size_t>((i - k) * width + c)];
          for (std::int64_t t = k; t < i; ++t) {
            sum -= l[static_cast<std::size_t>(i * n + t)] * x[t * n + first + c];
          }
          x[i * n + first + c] = sum / l[static_cast<std::size_t>(i * n + i)];
        }
      }
    }
  });
  return inverse;
}

}  // namespace moptcore::inline v0::quant

// SPDX-License-Identifier: Apache-2.0
#include "lowrank/band.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include <moptcore/core/parallel.hpp>

#include "kernels/panel.hpp"
#include "kernels/sturm.hpp"

namespace moptcore::inline v0::lowrank {

Band Band::leading(std::int64_t count) const {
  Band result(count, width_);
  for (std::int64_t j = 0; j < count; ++j) {
    for (std::int64_t i = j; i < std::min(j + width_ + 1, count); ++i) result.at(i, j) = at(i, j);
  }
  return result;
}

BandSpectrum::BandSpectrum(Band band, std::int64_t count, bool with_vectors) {
  const std::int64_t n = band.size();
  const std::int64_t width = band.width();
  const auto size = static_cast<std::size_t>(n);
  // Turns rows and columns p and p + 1 so that element [p + 1, column] vanishes. What lies left of
  // `column` in both rows is zero.
  const auto rotate = [&](std::int64_t p, std::int64_t column) {
    const double x = band.at(p, column);
    const double y = band.at(p + 1, column);
    // The square of less would vanish. It is nothing beside eigenvalues of single precision.
    constexpr double kNothing = 1e-150;
    if (std::abs(y) < kNothing) {
      band.at(p + 1, column) = 0.0;
      return false;
    }
    const double norm = std::sqrt(x * x + y * y);
    const double c = x / norm;
    const double s = y / norm;
    band.at(p, column) = norm;
    band.at(p + 1, column) = 0.0;
    for (std::int64_t k = column + 1; k < p; ++k) {
      const double u = band.at(p, k);
      const double v = band.at(p + 1, k);
      band.at(p, k) = c * u + s * v;
      band.at(p + 1, k) = c * v - s * u;
    }
    const double a = band.at(p, p);
    const double b = band.at(p + 1, p);
    const double d = band.at(p + 1, p + 1);
    const double cross = 2.0 * c * s * b;
    band.at(p, p) = c * c * a + cross + s * s * d;
    band.at(p + 1, p + 1) = s * s * a - cross + c * c * d;
    band.at(p + 1, p) = c * s * (d - a) + (c * c - s * s) * b;
    double* first = &band.at(p, p) + 2;
    double* second = &band.at(p + 1, p + 1) + 1;
    const std::int64_t below = std::min(n - 1, p + 1 + width) - (p + 1);
    for (std::int64_t k = 0; k < below; ++k) {
      const double u = first[k];
      const double v = second[k];
      first[k] = c * u + s * v;
      second[k] = c * v - s * u;
    }
    if (with_vectors) {
      rotations_.push_back(
          {static_cast<std::int32_t>(p), static_cast<float>(c), static_cast<float>(s)});
    }
    return true;
  };
  for (std::int64_t j = 0; j + 2 < n; ++j) {
    for (std::int64_t i = std::min(j + width, n - 1); i > j + 1; --i) {
      // Each rotation leaves one element beyond the band, `width` further down.
      std::int64_t column = j;
      for (std::int64_t row = i; row < n; row += width) {
        if (!rotate(row - 1, column)) break;
        column = row - 1;
      }
    }
  }
  diagonal_.resize(size);
  beside_.resize(n > 0 ? size - 1 : 0);
  for (std::int64_t i = 0; i < n; ++i) {
    diagonal_[static_cast<std::size_t>(i)] = band.at(i, i);
    if (i + 1 < n) beside_[static_cast<std::size_t>(i)] = band.at(i + 1, i);
  }
  find_values(count);
}

// Bisection of all at once: each step halves every interval.
void BandSpectrum::find_values(std::int64_t count) {
  const auto n = static_cast<std::int64_t>(diagonal_.size());
  std::vector<double> squares(diagonal_.size(), 0.0);
  double least = std::numeric_limits<double>::infinity();
  double most = -least;
  for (std::size_t i = 0; i < diagonal_.size(); ++i) {
    const double before = i > 0 ? std::abs(beside_[i - 1]) : 0.0;
    const double after = i + 1 < diagonal_.size() ? std::abs(beside_[i]) : 0.0;
    // Discs of Gershgorin.
    least = std::min(least, diagonal_[i] - before - after);
    most = std::max(most, diagonal_[i] + before + after);
    squares[i] = std::max(before * before, std::numeric_limits<double>::min());
  }
  scale_ = std::max(std::abs(least), std::abs(most));
  constexpr int kSteps = 42;
  std::vector<double> low(static_cast<std::size_t>(count), least);
  std::vector<double> high(static_cast<std::size_t>(count), most);
  std::vector<double> middle(static_cast<std::size_t>(count));
  std::vector<std::int64_t> below(static_cast<std::size_t>(count));
  for (int step = 0; step < kSteps; ++step) {
    for (std::size_t k = 0; k < middle.size(); ++k) middle[k] = 0.5 * (low[k] + high[k]);
    kernels::sturm_counts_f64(diagonal_.data(), squares.data(), n, middle.data(), count,
                              below.data());
    for (std::size_t k = 0; k < middle.size(); ++k) {
      (below[k] < n - static_cast<std::int64_t>(k) ? low : high)[k] = middle[k];
    }
  }
  values_ = std::move(low);
}

double BandSpectrum::sum() const noexcept {
  double sum = 0.0;
  for (const double value : values_) sum += value;
  return sum;
}

Matrix<float> BandSpectrum::vectors(const Matrix<double>& start) const {
  const auto count = static_cast<std::int64_t>(values_.size());
  const auto n = static_cast<std::int64_t>(diagonal_.size());
  Matrix<float> found(n, count);
  constexpr std::int64_t kGroup = 16;
  parallel_for(count, kGroup, [&](std::int64_t first, std::int64_t last) {
    std::vector<double> x(static_cast<std::size_t>(n));
    std::vector<double> scratch(static_cast<std::size_t>(3 * n));
    for (std::int64_t k = first; k < last; ++k) {
      std::copy_n(start.row(k), n, x.begin());
      const double value = values_[static_cast<std::size_t>(k)];
      for (int pass = 0; pass < 2; ++pass) solve(value, x.data(), scratch);
      for (std::int64_t i = 0; i < n; ++i) {
        found.row(i)[k] = static_cast<float>(x[static_cast<std::size_t>(i)]);
      }
    }
    for (auto each = rotations_.rbegin(); each != rotations_.rend(); ++each) {
      float* row = found.row(each->row) + first;
      kernels::rotate_rows_f32(each->cosine, each->sine, last - first, row, row + count);
    }
  });
  return found;
}

// x becomes a solution of (T - value) x' = x of norm 1, by elimination with row exchanges.
void BandSpectrum::solve(double value, double* x, std::vector<double>& scratch) const {
  const auto n = static_cast<std::int64_t>(diagonal_.size());
  const double tiny =
      std::numeric_limits<double>::epsilon() * scale_ + std::numeric_limits<double>::min();
  double* pivot = scratch.data();
  double* second = pivot + n;
  double* third = second + n;
  std::fill(second, third + n, 0.0);
  const double* beside = beside_.data();
  double here = diagonal_[0] - value;
  double next = n > 1 ? beside[0] : 0.0;
  for (std::int64_t i = 0; i < n; ++i) {
    if (i + 1 == n) {
      pivot[i] = std::abs(here) < tiny ? tiny : here;
      break;
    }
    const double below = beside[i];
    const double under = diagonal_[static_cast<std::size_t>(i + 1)] - value;
    const double beyond = i + 2 < n ? beside[i + 1] : 0.0;
    if (std::abs(here) >= std::abs(below)) {
      pivot[i] = std::abs(here) < tiny ? tiny : here;
      second[i] = next;
      const double factor = below / pivot[i];
      x[i + 1] -= factor * x[i];
      here = under - factor * next;
      next = beyond;
    } else {
      pivot[i] = below;
      second[i] = under;
      third[i] = beyond;
      const double factor = here / below;
      std::swap(x[i], x[i + 1]);
      x[i + 1] -= factor * x[i];
      here = next - factor * under;
      next = -factor * beyond;
    }
  }
  for (std::int64_t i = n - 1; i >= 0; --i) {
    if (i + 1 < n) x[i] -= second[i] * x[i + 1];
    if (i + 2 < n) x[i] -= third[i] * x[i + 2];
    x[i] /= pivot[i];
    // Solutions grow by up to 1 / epsilon each time.
    if (std::abs(x[i]) > 1e100) {
      for (std::int64_t k = 0; k < n; ++k) x[k] *= 1e-100;
    }
  }
  double sum = 0.0;
  for (std::int64_t i = 0; i < n; ++i) sum += x[i] * x[i];
  const double scale = 1.0 / std::sqrt(sum);
  for (std::int64_t i = 0; i < n; ++i) x[i] *= scale;
}

}  // namespace moptcore::inline v0::lowrank

// SPDX-License-Identifier: Apache-2.0
#include "kernels/every_isa.hpp"

#include "kernels/sturm.hpp"
#include "lowrank/band.hpp"
#include "lowrank/krylov.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numbers>
#include <vector>

using namespace moptcore;
using lowrank::Band;
using lowrank::BandSpectrum;
using lowrank::Matrix;

namespace {

// The matrix with eigenvectors sin((i + 1) theta_k) and eigenvalues t_0 + 2 sum_d t_d cos(d
// theta_k), theta_k = pi k / (n + 1): the sine transform of a band, of at most n beside the
// diagonal.
Band sines(std::int64_t n, const std::vector<double>& t) {
  const auto width = static_cast<std::int64_t>(t.size()) - 1;
  const auto at = [&](std::int64_t d) { return d <= width ? t[static_cast<std::size_t>(d)] : 0.0; };
  Band band(n, width);
  for (std::int64_t j = 0; j < n; ++j) {
    for (std::int64_t i = j; i < std::min(n, j + width + 1); ++i) {
      band.at(i, j) = at(i - j) - at(i + j + 2) - at(2 * (n + 1) - (i + j + 2));
    }
  }
  return band;
}

std::vector<double> eigenvalues(std::int64_t n, const std::vector<double>& t) {
  std::vector<double> values;
  for (std::int64_t k = 1; k <= n; ++k) {
    const double theta = std::numbers::pi * static_cast<double>(k) / static_cast<double>(n + 1);
    double value = t[0];
    for (std::size_t d = 1; d < t.size(); ++d) {
      value += 2.0 * t[d] * std::cos(static_cast<double>(d) * theta);
    }
    values.push_back(value);
  }
  std::ranges::sort(values, std::greater());
  return values;
}

const std::vector<std::vector<double>> kBands = {
    {2.0, -1.0}, {1.0, 0.5, -0.25, 0.125}, {3.0, 1.0, 0.7, 0.5, 0.3, -0.2, 0.1, 0.4, 0.6}};

}  // namespace

TEST_CASE("The largest eigenvalues of a band are those of its closed form", "[lowrank]") {
  tests::with_every_isa([] {
    for (const auto& t : kBands) {
      const auto width = static_cast<std::int64_t>(t.size()) - 1;
      for (const std::int64_t n : {width, width + 1, std::int64_t{40}, std::int64_t{131}}) {
        const auto expected = eigenvalues(n, t);
        const std::int64_t count = std::max<std::int64_t>(1, n / 3);
        const BandSpectrum spectrum(sines(n, t), count, false);
        double sum = 0.0;
        for (std::int64_t k = 0; k < count; ++k) {
          const auto at = static_cast<std::size_t>(k);
          // Bisection to 2^-42 of discs that are at most some 20 wide.
          REQUIRE(std::abs(spectrum.values()[at] - expected[at]) <= 1e-10);
          sum += expected[at];
        }
        REQUIRE(std::abs(spectrum.sum() - sum) <= 1e-10 * static_cast<double>(count));
      }
    }
  });
}

TEST_CASE("The vectors of a band are its eigenvectors", "[lowrank]") {
  for (const auto& t : kBands) {
    const std::int64_t n = 90;
    const std::int64_t count = 20;
    const Band band = sines(n, t);
    const BandSpectrum spectrum(band, count, true);
    const Matrix<float> vectors = spectrum.vectors(lowrank::gaussian(count, n, 1));
    for (std::int64_t k = 0; k < count; ++k) {
      double norm = 0.0;
      double residual = 0.0;
      for (std::int64_t i = 0; i < n; ++i) {
        const double x = vectors.row(i)[k];
        double image = -spectrum.values()[static_cast<std::size_t>(k)] * x;
        for (std::int64_t j = std::max<std::int64_t>(0, i - band.width());
             j < std::min(n, i + band.width() + 1); ++j) {
          image += band.at(std::max(i, j), std::min(i, j)) * vectors.row(j)[k];
        }
        norm += x * x;
        residual += image * image;
      }
      // Each element passes some n rotations in single precision.
      REQUIRE(std::abs(std::sqrt(norm) - 1.0) <= 1e-5);
      REQUIRE(std::sqrt(residual) <= 1e-4);
    }
  }
}

TEST_CASE("A band whose elements nearly vanish keeps its eigenvalues", "[lowrank]") {
  // Diagonal 1 ... 40, beside it numbers whose squares are below what double holds.
  constexpr std::int64_t kSize = 40;
  Band band(kSize, 3);
  for (std::int64_t j = 0; j < kSize; ++j) {
    band.at(j, j) = static_cast<double>(j + 1);
    if (j + 3 < kSize) band.at(j + 3, j) = 1e-200;
  }
  const BandSpectrum spectrum(band, kSize, true);
  const Matrix<float> vectors = spectrum.vectors(lowrank::gaussian(kSize, kSize, 1));
  for (std::int64_t k = 0; k < kSize; ++k) {
    REQUIRE(std::abs(spectrum.values()[static_cast<std::size_t>(k)] -
                     static_cast<double>(kSize - k)) <= 1e-10);
    REQUIRE(std::abs(std::abs(vectors.row(kSize - 1 - k)[k]) - 1.0) <= 1e-6);
  }
}

TEST_CASE("Sturm's counts tell the eigenvalues below any number of values", "[lowrank]") {
  tests::with_every_isa([] {
    constexpr std::int64_t kSize = 50;
    const auto expected = eigenvalues(kSize, kBands[0]);
    const std::vector<double> diagonal(kSize, 2.0);
    const std::vector<double> squares(kSize, 1.0);
    for (const std::int64_t count : {0, 1, 3, 8, 65}) {
      std::vector<double> values;
      for (std::int64_t k = 0; k < count; ++k) {
        values.push_back(-0.5 + 5.0 * static_cast<double>(k) / static_cast<double>(count));
      }
      std::vector<std::int64_t> found(values.size(), -1);
      kernels::sturm_counts_f64(diagonal.data(), squares.data(), kSize, values.data(), count,
                                found.data());
      for (std::size_t k = 0; k < values.size(); ++k) {
        REQUIRE(found[k] ==
                std::ranges::count_if(expected, [&](double value) { return value < values[k]; }));
      }
    }
  });
}

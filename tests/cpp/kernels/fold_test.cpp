// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/core/random.hpp>

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "cpp/kernels/every_isa.hpp"
#include "kernels/fold.hpp"

using namespace moptcore;
using tests::with_every_isa;

namespace {

constexpr std::int64_t kLengths[] = {1, 3, 15, 16, 17, 31, 32, 33, 56, 130};

double term(kernels::Sum sum, double x) {
  switch (sum) {
    case kernels::Sum::values: return x;
    case kernels::Sum::squares: return x * x;
    case kernels::Sum::magnitudes: return std::fabs(x);
  }
  return 0;
}

// The definition: 16 lanes, then a tree.
double in_lanes(kernels::Sum sum, const float* x, std::int64_t n) {
  std::array<double, 16> lanes{};
  for (std::int64_t i = 0; i < n; ++i) lanes[i % 16] += term(sum, static_cast<double>(x[i]));
  for (int half = 8; half != 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  return lanes[0];
}

std::vector<float> numbers(std::int64_t count) {
  const Philox philox(8);
  std::vector<float> made(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < made.size(); ++i) {
    made[i] = static_cast<float>(static_cast<std::int32_t>(philox.word(i))) / 3e7f;
  }
  return made;
}

}  // namespace

TEST_CASE("Sums of rows and columns have the bits of their definition on every target",
          "[kernels]") {
  with_every_isa([&] {
    for (const auto sum : {kernels::Sum::values, kernels::Sum::squares, kernels::Sum::magnitudes}) {
      for (const std::int64_t n : kLengths) {
        constexpr std::int64_t kRows = 5;
        CAPTURE(n, static_cast<int>(sum));
        const std::vector<float> all = numbers(kRows * n + 1);
        const float* x = all.data() + 1;
        std::vector<double> rows(kRows + 1, -3.0);
        kernels::sum_rows_f32(sum, x, kRows, n, rows.data());
        for (std::int64_t i = 0; i < kRows; ++i) CHECK(rows[i] == in_lanes(sum, x + i * n, n));
        CHECK(rows[kRows] == -3.0);
        std::array<double, 16> lanes{};
        lanes[2] = 0.5;
        kernels::sum_lanes_f32(sum, x, n, lanes.data());
        double expected = 0.5;
        for (std::int64_t i = 2; i < n; i += 16) expected += term(sum, static_cast<double>(x[i]));
        CHECK(lanes[2] == expected);
        std::vector<double> columns(static_cast<std::size_t>(n + 1), 0.25);
        kernels::sum_columns_f32(sum, x, kRows, n, n, columns.data());
        for (std::int64_t j = 0; j < n; ++j) {
          double total = 0.25;
          for (std::int64_t i = 0; i < kRows; ++i) {
            total += term(sum, static_cast<double>(x[i * n + j]));
          }
          CHECK(columns[j] == total);
        }
        CHECK(columns[n] == 0.25);
      }
    }
  });
}

TEST_CASE("Extremes of rows and columns are those of comparing, and NaN wherever it lies",
          "[kernels]") {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  with_every_isa([&] {
    for (const bool greatest : {true, false}) {
      const auto extreme = greatest ? kernels::Extreme::greatest : kernels::Extreme::least;
      for (const std::int64_t n : kLengths) {
        for (std::int64_t odd = -1; odd < n; ++odd) {
          for (const float planted : {kNan, kInfinity, -kInfinity}) {
            CAPTURE(n, greatest, odd, planted);
            std::vector<float> x = numbers(2 * n);
            if (odd >= 0) x[n + odd] = planted;
            float rows[3] = {0, 0, -9};
            kernels::extreme_rows_f32(extreme, x.data(), 2, n, rows);
            std::vector<float> columns(x.begin(), x.begin() + n);
            columns.push_back(-9);
            kernels::extreme_columns_f32(extreme, x.data() + n, 1, n, n, columns.data());
            bool equal = rows[2] == -9 && columns[n] == -9;
            for (int row = 0; row < 2; ++row) {
              float best = x[row * n];
              for (std::int64_t j = 0; j < n; ++j) {
                const float value = x[row * n + j];
                if (std::isnan(value) || (greatest ? value > best : value < best)) best = value;
              }
              equal = equal && (std::isnan(best) ? std::isnan(rows[row]) : rows[row] == best);
            }
            for (std::int64_t j = 0; j < n; ++j) {
              const float a = x[j];
              const float b = x[n + j];
              const float best = std::isnan(b) || (greatest ? b > a : b < a) ? b : a;
              equal = equal && (std::isnan(best) ? std::isnan(columns[j]) : columns[j] == best);
            }
            CHECK(equal);
          }
        }
      }
    }
  });
}

// SPDX-License-Identifier: Apache-2.0
#include "kernels/every_isa.hpp"

#include "kernels/panel.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

using namespace moptcore;
using kernels::kPanelRows;

namespace {

// Numbers in (-1, 1) that repeat nowhere soon.
std::vector<float> numbers(std::int64_t count, double step) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>(std::sin(step * static_cast<double>(i + 1)));
  }
  return values;
}

}  // namespace

TEST_CASE("A panel holds scaled rows of either order side by side and zeros below", "[lowrank]") {
  tests::with_every_isa([] {
    for (const std::int64_t n : {1, 15, 16, 37}) {
      for (const std::int64_t rows : {1, 5, 12}) {
        const auto w = numbers(kPanelRows * n, 0.7);
        for (const bool by_rows : {true, false}) {
          std::vector<float> panel(w.size(), 9.0F);
          kernels::pack_panel_f32(w.data(), by_rows ? n : 1, by_rows ? 1 : kPanelRows, rows, n,
                                  0.5F, panel.data());
          for (std::int64_t i = 0; i < kPanelRows; ++i) {
            for (std::int64_t j = 0; j < n; ++j) {
              const auto at = static_cast<std::size_t>(by_rows ? i * n + j : j * kPanelRows + i);
              REQUIRE(panel[static_cast<std::size_t>(j * kPanelRows + i)] ==
                      (i < rows ? 0.5F * w[at] : 0.0F));
            }
          }
        }
      }
    }
  });
}

TEST_CASE("Products with panels are the sums of their terms", "[lowrank]") {
  tests::with_every_isa([] {
    constexpr std::int64_t kPanels = 3;
    for (const std::int64_t block : {8, 16}) {
      for (const std::int64_t n : {1, 3, 11, 12, 13, 511, 1030}) {
        const auto panels = numbers(kPanels * kPanelRows * n, 0.7);
        const auto x = numbers(n * block, 1.3);
        const auto given = numbers(kPanels * kPanelRows * block, 0.9);
        const auto entry = [&](std::int64_t p, std::int64_t i, std::int64_t j) {
          return static_cast<double>(
              panels[static_cast<std::size_t>((p * n + j) * kPanelRows + i)]);
        };
        // Each of the terms, below 1 in magnitude, may be off by 2^-24 of a sum that is at most
        // their number.
        const double count = static_cast<double>(std::max(n, kPanels * kPanelRows) + 1);
        const double tolerance = count * count * 0x1p-24;

        std::vector<float> y(static_cast<std::size_t>(kPanelRows * block), 9.0F);
        kernels::panel_times_f32(panels.data(), n, x.data(), block, y.data());
        for (std::int64_t i = 0; i < kPanelRows; ++i) {
          for (std::int64_t k = 0; k < block; ++k) {
            double sum = 0.0;
            for (std::int64_t j = 0; j < n; ++j) {
              sum += entry(0, i, j) * x[static_cast<std::size_t>(j * block + k)];
            }
            REQUIRE(std::abs(y[static_cast<std::size_t>(i * block + k)] - sum) <= tolerance);
          }
        }

        for (const bool subtract : {false, true}) {
          auto sums = x;
          kernels::add_transposed_f32(panels.data(), kPanelRows * n, kPanels, n, given.data(),
                                      block, subtract, sums.data());
          for (std::int64_t j = 0; j < n; ++j) {
            for (std::int64_t k = 0; k < block; ++k) {
              double sum = 0.0;
              for (std::int64_t r = 0; r < kPanels * kPanelRows; ++r) {
                sum += entry(r / kPanelRows, r % kPanelRows, j) *
                       given[static_cast<std::size_t>(r * block + k)];
              }
              const auto at = static_cast<std::size_t>(j * block + k);
              REQUIRE(std::abs(sums[at] - (x[at] + (subtract ? -sum : sum))) <= tolerance);
            }
          }
        }
      }
    }
  });
}

TEST_CASE("Rotating two rows turns each pair of elements", "[lowrank]") {
  tests::with_every_isa([] {
    for (const std::int64_t n : {0, 1, 7, 8, 21}) {
      const auto a = numbers(n, 0.3);
      const auto b = numbers(n, 1.1);
      auto first = a;
      auto second = b;
      kernels::rotate_rows_f32(0.6F, 0.8F, n, first.data(), second.data());
      for (std::size_t i = 0; i < a.size(); ++i) {
        // Two products and a sum, each below 2 in magnitude and rounded once.
        REQUIRE(std::abs(first[i] - (0.6 * a[i] - 0.8 * b[i])) <= 0x1p-21);
        REQUIRE(std::abs(second[i] - (0.8 * a[i] + 0.6 * b[i])) <= 0x1p-21);
      }
    }
  });
}

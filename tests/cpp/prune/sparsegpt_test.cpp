// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/core/isa.hpp>
#include <moptcore/core/parallel.hpp>
#include <moptcore/core/random.hpp>
#include <moptcore/prune/prune.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

#include "prune/inverse_root.hpp"

using namespace moptcore;
using namespace moptcore::prune;

namespace {

std::vector<double> numbers(std::int64_t n, std::uint64_t seed) {
  const Philox philox(seed);
  std::vector<double> values(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<double>(static_cast<std::int32_t>(philox.word(i))) * 0x1p-31;
  }
  return values;
}

AnyView matrix(const std::vector<double>& values, std::int64_t rows, std::int64_t cols) {
  return {values.data(), DType::float64, Shape{rows, cols}};
}

MutableAnyView matrix(std::vector<double>& values, std::int64_t rows, std::int64_t cols) {
  return {values.data(), DType::float64, Shape{rows, cols}};
}

std::vector<double> hessian_of(std::int64_t features, std::uint64_t seed) {
  InputHessian statistic(features);
  statistic.update(matrix(numbers(4 * features * features, seed), 4 * features, features));
  std::vector<double> hessian(static_cast<std::size_t>(features * features));
  statistic.hessian(matrix(hessian, features, features));
  return hessian;
}

}  // namespace

TEST_CASE("The root of an inverse multiplies to the inverse", "[prune]") {
  // One block, its edges, and several blocks.
  for (const std::int64_t n : {1, 2, 63, 64, 65, 128, 150}) {
    CAPTURE(n);
    const auto hessian = hessian_of(n, 5);
    auto root = hessian;
    REQUIRE(inverse_root(root.data(), n) == -1);
    const auto at = [n](const std::vector<double>& m, std::int64_t i, std::int64_t j) {
      return m[static_cast<std::size_t>(i * n + j)];
    };
    for (std::int64_t i = 0; i < n; ++i) {
      CHECK(at(root, i, i) > 0.0);
      for (std::int64_t j = 0; j < i; ++j) REQUIRE(at(root, i, j) == 0.0);
    }
    // U H U^T = 1; sums of n products in double, the condition of H being about 10.
    double worst = 0.0;
    for (std::int64_t i = 0; i < n; ++i) {
      std::vector<double> row(static_cast<std::size_t>(n));
      for (std::int64_t j = 0; j < n; ++j) {
        for (std::int64_t k = i; k < n; ++k)
          row[static_cast<std::size_t>(j)] += at(root, i, k) * at(hessian, k, j);
      }
      for (std::int64_t j = 0; j < n; ++j) {
        double sum = i == j ? -1.0 : 0.0;
        for (std::int64_t k = j; k < n; ++k)
          sum += row[static_cast<std::size_t>(k)] * at(root, j, k);
        worst = std::max(worst, std::fabs(sum));
      }
    }
    CHECK(worst < 1e-12);
  }
  std::vector<double> negative = {1.0, 2.0, 2.0, 1.0};
  CHECK(inverse_root(negative.data(), 2) == 0);
}

TEST_CASE("Reconstruction has the same bits on every target and any threads", "[prune]") {
  const std::int64_t rows = 40;
  const std::int64_t cols = 100;
  const auto weights = numbers(rows * cols, 1);
  const auto all = [&] {
    const auto hessian = hessian_of(cols, 2);
    std::vector<double> out(weights.size());
    std::vector<std::uint8_t> mask(static_cast<std::size_t>(packed_size(rows * cols)));
    SparseGptOptions options;
    options.sparsity = 0.5;
    options.block_size = 32;
    sparsegpt(matrix(weights, rows, cols), matrix(hessian, cols, cols), matrix(out, rows, cols),
              mask, options);
    CHECK(count_zeros(out) == rows * cols / 2);
    InputNorm norm(cols);
    norm.update(matrix(weights, rows, cols));
    const auto norms = norm.norm();
    out.insert(out.end(), norms.begin(), norms.end());
    return out;
  };
  const auto expected = all();
  const int threads = num_threads();
  for (const int count : {1, 3}) {
    set_num_threads(count);
    for (const auto& isa : available_isas()) {
      set_max_isa(isa);
      CHECK(all() == expected);
    }
  }
  set_max_isa("");
  set_num_threads(threads);
}

TEST_CASE("Statistics add up in any parts", "[prune]") {
  const std::int64_t features = 7;
  const auto x = numbers(50 * features, 9);
  const AnyView samples = matrix(x, 50, features);
  InputNorm norm(features);
  InputNorm first(features);
  norm.update(samples);
  first.update(AnyView(x.data(), DType::float64, Shape{20, features}));
  InputNorm second(features);
  second.update(AnyView(x.data() + 20 * features, DType::float64, Shape{30, features}));
  first.merge(second);
  CHECK(first.count() == 50);
  for (std::size_t i = 0; i < static_cast<std::size_t>(features); ++i) {
    // 50 roundings of sums of positive terms.
    CHECK(std::fabs(first.norm()[i] - norm.norm()[i]) <= 50 * 0x1p-53 * norm.norm()[i]);
  }
  CHECK(InputNorm::restore(norm.sums(), norm.count()).norm() == norm.norm());
  CHECK_THROWS_AS(norm.merge(InputNorm(3)), Error);
  CHECK_THROWS_AS(InputHessian(0), Error);
}

// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/core/parallel.hpp>
#include <moptcore/core/random.hpp>
#include <moptcore/lowrank/svd.hpp>

#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

using namespace moptcore;
using lowrank::factorize;
using lowrank::FactorizeOptions;
using lowrank::Method;

namespace {

FactorizeOptions of_rank(std::int64_t rank, Method method = Method::svd) {
  FactorizeOptions options;
  options.budget.rank = rank;
  options.method = method;
  return options;
}

// Cosines: column k of an n x n matrix, orthonormal (the type II transform).
double cosine(std::int64_t i, std::int64_t k, std::int64_t n) {
  const double size = static_cast<double>(n);
  const double angle = std::numbers::pi * (static_cast<double>(i) + 0.5) * static_cast<double>(k);
  return std::cos(angle / size) * std::sqrt((k == 0 ? 1.0 : 2.0) / size);
}

// A matrix whose singular values are those given.
template <class T>
std::vector<T> matrix(std::int64_t m, std::int64_t n, const std::vector<double>& values) {
  std::vector<T> w;
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      double sum = 0.0;
      for (std::size_t k = 0; k < values.size(); ++k) {
        const auto column = static_cast<std::int64_t>(k);
        sum += values[k] * cosine(i, column, m) * cosine(j, column, n);
      }
      w.push_back(static_cast<T>(sum));
    }
  }
  return w;
}

template <class T>
double distance(const std::vector<T>& w, const lowrank::Factorization& factors) {
  const std::int64_t m = factors.rows();
  const std::int64_t n = factors.cols();
  const std::int64_t r = factors.rank();
  std::vector<double> u(static_cast<std::size_t>(m * r));
  std::vector<double> v(static_cast<std::size_t>(r * n));
  factors.write(TensorView<double>(u.data(), {m, r}), TensorView<double>(v.data(), {r, n}));
  double sum = 0.0;
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      double rest = static_cast<double>(w[static_cast<std::size_t>(i * n + j)]);
      for (std::int64_t k = 0; k < r; ++k) {
        rest -= u[static_cast<std::size_t>(i * r + k)] * v[static_cast<std::size_t>(k * n + j)];
      }
      sum += rest * rest;
    }
  }
  return std::sqrt(sum);
}

}  // namespace

TEMPLATE_TEST_CASE("factors leave out the smallest singular values and no more", "[lowrank]",
                   double, float) {
  const std::vector<double> values = {8.0, 4.0, 2.0, 1.0, 0.5, 0.25};
  for (const std::int64_t m : {20, 30}) {
    const std::int64_t n = 50 - m;
    const std::vector<TestType> w = matrix<TestType>(m, n, values);
    const TensorView<const TestType> view(w.data(), {m, n});
    // Elements, factors and products are rounded a few times each, relative to a norm of 9.
    const double rounding = static_cast<double>(std::numeric_limits<TestType>::epsilon()) * 90.0;
    const auto found = lowrank::singular_values(view);
    REQUIRE(found.size() == 20);
    for (std::size_t k = 0; k < values.size(); ++k) {
      CHECK(std::abs(found[k] - values[k]) < rounding);
    }
    for (const Method method : {Method::svd, Method::randomized}) {
      double squares = 0.0;
      for (std::int64_t rank = 6; rank >= 1; --rank) {
        const auto factors = factorize(view, of_rank(rank, method));
        CHECK(std::abs(distance(w, factors) - std::sqrt(squares)) < rounding);
        const double value = values[static_cast<std::size_t>(rank - 1)];
        squares += value * value;
      }
    }
  }
}

TEST_CASE("the exact decomposition has the same bits on any number of threads", "[lowrank]") {
  std::vector<float> w(300 * 150);
  const Philox random(3);
  for (std::size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(random.word(i)) - 0x1p31f;
  const TensorView<const float> view(w.data(), {300, 150});
  const auto bits = [&] {
    const auto factors = factorize(view, of_rank(20));
    std::vector<double> u(300 * 20);
    std::vector<double> v(20 * 150);
    factors.write(TensorView<double>(u.data(), {300, 20}), TensorView<double>(v.data(), {20, 150}));
    u.insert(u.end(), v.begin(), v.end());
    return u;
  };
  const int threads = num_threads();
  set_num_threads(1);
  const auto alone = bits();
  set_num_threads(4);
  const auto together = bits();
  set_num_threads(threads);
  CHECK(alone == together);
}

TEST_CASE("factorize checks everything before it computes", "[lowrank]") {
  std::vector<float> w(100, 1.0f);
  const TensorView<const float> view(w.data(), {10, 10});
  CHECK_THROWS_AS(factorize(view, {}), Error);
  CHECK_THROWS_AS(factorize(view, of_rank(5)), Error);
  CHECK_THROWS_AS(factorize(w, of_rank(1)), Error);
  FactorizeOptions whitened = of_rank(1);
  whitened.whiten = AnyView(w);
  CHECK_THROWS_AS(factorize(view, whitened), Error);
  const auto factors = factorize(view, of_rank(2));
  std::vector<float> small(10);
  CHECK_THROWS_AS(factors.write(small, small), Error);
  w[7] = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS_AS(factorize(view, of_rank(1)), NonFiniteError);
}

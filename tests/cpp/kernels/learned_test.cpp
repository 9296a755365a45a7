// SPDX-License-Identifier: Apache-2.0
#include "kernels/every_isa.hpp"

#include <moptcore/core/random.hpp>
#include <moptcore/quant/learned.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/learned.hpp"

using namespace moptcore;
using kernels::GridStep;
using kernels::GridTable;
using kernels::Learned;

namespace {

void learned(const float* src, std::int64_t n, const auto& grid, float* dst) {
  kernels::learned_f32(src, n, grid, dst);
}
void learned(const double* src, std::int64_t n, const auto& grid, double* dst) {
  kernels::learned_f64(src, n, grid, dst);
}

auto backward(const float* grad, auto... args) {
  return kernels::learned_backward_f32(grad, args...);
}
auto backward(const double* grad, auto... args) {
  return kernels::learned_backward_f64(grad, args...);
}

// Multiples of 1/8, so that with steps of 1/4 every term and sum is exact.
template <class T>
std::vector<T> eighths(std::int64_t n, std::uint64_t seed) {
  const Philox random(seed);
  std::vector<T> values(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = (static_cast<T>(random.word(i) % 65) - T(32)) / T(8);
  }
  return values;
}

template <class T>
bool same(T a, T b) {
  return std::isnan(a) ? std::isnan(b) : a == b;
}

}  // namespace

TEMPLATE_TEST_CASE("learned kernels follow the formula of one element", "[quant][kernels]", float,
                   double) {
  using T = TestType;
  const auto n = GENERATE(values<std::int64_t>({0, 1, 3, 7, 8, 15, 16, 17, 130, 1024, 2051}));
  const quant::LearnedGrid<T> grid{T(0.25), T(-5), T(4), T(0.5)};
  const GridStep<T> step{grid.scale, grid.scale, grid.low, grid.high, grid.offset};
  std::vector<T> x = eighths<T>(n, 1);
  const std::vector<T> grad = eighths<T>(n, 2);
  if (n > 7) {
    x[0] = std::numeric_limits<T>::quiet_NaN();
    x[1] = std::numeric_limits<T>::infinity();
    x[2] = -std::numeric_limits<T>::infinity();
  }
  double scale = 0.0;
  double offset = 0.0;
  std::vector<T> y;
  std::vector<T> dx;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto slope = quant::lsq_gradient(x[i], grid);
    y.push_back(quant::lsq(x[i], grid));
    dx.push_back(grad[i] * slope.x);
    scale += static_cast<double>(grad[i] * slope.scale);
    offset += static_cast<double>(grad[i] * slope.offset);
  }
  const auto size = static_cast<std::size_t>(n);
  const std::vector<T> factors(size, step.factor), lows(size, step.low), highs(size, step.high),
      zeros(size, step.zero);
  const GridTable<T> table{factors.data(), factors.data(), lows.data(), highs.data(), zeros.data()};
  tests::with_every_isa([&] {
    std::vector<T> got(size), many(size), dgot(size), dmany(size);
    std::vector<double> scales(size), offsets(size);
    learned(x.data(), n, step, got.data());
    learned(x.data(), n, table, many.data());
    const auto sums = backward(grad.data(), x.data(), n, step, Learned::step, dgot.data());
    backward(grad.data(), x.data(), n, table, Learned::step, dmany.data(), scales.data(),
             offsets.data());
    bool equal = true;
    double scale_sum = 0.0;
    double offset_sum = 0.0;
    for (std::size_t i = 0; i < size; ++i) {
      equal = equal && same(got[i], y[i]) && same(many[i], y[i]);
      equal = equal && dgot[i] == dx[i] && dmany[i] == dx[i];
      scale_sum += scales[i];
      offset_sum += offsets[i];
    }
    CHECK(equal);
    CHECK(sums.scale == scale);
    CHECK(sums.offset == offset);
    CHECK(scale_sum == scale);
    CHECK(offset_sum == offset);
  });
}

TEST_CASE("gradients of random numbers have the same bits under every ISA", "[quant][kernels]") {
  const std::int64_t n = 5000;
  const Philox random(3);
  std::vector<float> x, grad;
  for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(n); ++i) {
    x.push_back(static_cast<float>(random.word(2 * i)) * 0x1p-30f - 2.0f);
    grad.push_back(static_cast<float>(random.word(2 * i + 1)) * 0x1p-31f - 1.0f);
  }
  const auto what = GENERATE(Learned::step, Learned::clip);
  const GridStep<float> step{0.1f, 0.1f, -7.0f, 1.3f, 0.01f};
  std::vector<double> seen;
  tests::with_every_isa([&] {
    std::vector<float> dx(x.size());
    const auto sums =
        kernels::learned_backward_f32(grad.data(), x.data(), n, step, what, dx.data());
    seen.push_back(sums.scale);
    seen.push_back(sums.offset);
  });
  for (std::size_t i = 2; i < seen.size(); ++i) CHECK(seen[i] == seen[i % 2]);
}

namespace {

// Values and gradients of Half in memory are those of its values as floats, rounded once, wherever
// they are stored.
template <class Half>
void check_halves(std::int64_t n, auto forward, auto differentiate) {
  const auto size = static_cast<std::size_t>(n);
  const GridStep<float> step{0.25f, 0.25f, -5.0f, 4.0f, 0.5f};
  std::vector<Half> x, grad;
  std::vector<float> wide_x, wide_grad;
  for (const float value : eighths<float>(n, 1)) x.push_back(Half(value * 0.7f));
  for (const float value : eighths<float>(n, 2)) grad.push_back(Half(value * 1.1f));
  for (const Half value : x) wide_x.push_back(static_cast<float>(value));
  for (const Half value : grad) wide_grad.push_back(static_cast<float>(value));
  std::vector<float> y(size), dx(size);
  kernels::learned_f32(wide_x.data(), n, step, y.data());
  for (const Learned what : {Learned::step, Learned::clip}) {
    const auto expected =
        kernels::learned_backward_f32(wide_grad.data(), wide_x.data(), n, step, what, dx.data());
    for (const bool stream : {false, true}) {
      alignas(64) Half got[2][2056];
      forward(x.data(), n, step, got[0], stream);
      const auto sums = differentiate(grad.data(), x.data(), n, step, what, got[1], stream);
      bool equal = true;
      for (std::size_t i = 0; i < size; ++i) {
        equal = equal && got[0][i].bits == Half(y[i]).bits && got[1][i].bits == Half(dx[i]).bits;
      }
      CHECK(equal);
      CHECK(sums.scale == expected.scale);
      CHECK(sums.offset == expected.offset);
    }
  }
}

}  // namespace

TEST_CASE("learned kernels round 16-bit floats once", "[quant][kernels]") {
  tests::with_every_isa([] {
    for (const std::int64_t n : {0, 1, 7, 8, 17, 130, 1024, 2051}) {
      check_halves<float16>(
          n, [](auto... all) { kernels::learned_f16(all...); },
          [](auto... all) { return kernels::learned_backward_f16(all...); });
      check_halves<bfloat16>(
          n, [](auto... all) { kernels::learned_bf16(all...); },
          [](auto... all) { return kernels::learned_backward_bf16(all...); });
    }
  });
}

TEST_CASE("lsq_backward names what does not fit before it writes", "[quant]") {
  std::vector<float> x(6, 1.0f);
  std::vector<float> grad(6, 1.0f);
  std::vector<float> dst(6, 7.0f);
  std::vector<float> scale(1, 0.5f);
  std::vector<float> scale_grad(1, 7.0f);
  std::vector<float> two(2, 7.0f);
  CHECK_THROWS_WITH(quant::lsq_backward(grad, x, scale, std::nullopt, dst, two, std::nullopt),
                    "[quant.lsq_backward] the gradient of scale must have its shape (1,), "
                    "got (2,)");
  CHECK_THROWS_WITH(
      quant::lsq_backward(grad, x, scale, AnyView(scale), dst, scale_grad, std::nullopt),
      "[quant.lsq_backward] a shift and its gradient must be given together");
  CHECK(dst == std::vector<float>(6, 7.0f));
  quant::lsq_backward(grad, x, scale, std::nullopt, dst, scale_grad, std::nullopt,
                      {.grad_scale = 1.0});
  CHECK(dst == grad);
  CHECK(scale_grad.front() == 0.0f);
}

// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "cpp/kernels/every_isa.hpp"
#include "kernels/curves.hpp"

using namespace moptcore;
using tests::with_every_isa;

namespace {

using Curve = void (*)(const float*, std::int64_t, float*) noexcept;

// Every 487th float, of both signs, and the ones at which the formulas change.
std::vector<float> dense() {
  std::vector<float> all;
  for (std::uint32_t bits = 0; bits < 0x7f800000u; bits += 487) {
    const auto x = std::bit_cast<float>(bits);
    all.push_back(x);
    all.push_back(-x);
  }
  for (const float edge : {0.625f, 1.0f, 3.92f, 87.3f, 88.7f, 0.5f, 1.5f, 8388608.0f}) {
    for (const float x : {std::nextafter(edge, 0.0f), edge, std::nextafter(edge, 1e30f)}) {
      all.push_back(x);
      all.push_back(-x);
    }
  }
  return all;
}

// The distance in units of the last place of the float nearest to `exact`.
double ulps(float value, double exact) {
  const float size = std::fabs(static_cast<float>(exact));
  const double unit = static_cast<double>(std::nextafter(size, 1e38f)) - size;
  return std::fabs(static_cast<double>(value) - exact) / unit;
}

template <class Exact>
void check(Curve curve, Exact&& exact, double with_fma, double without, double least = 0.0) {
  const std::vector<float> x = dense();
  std::vector<float> y(x.size());
  with_every_isa([&] {
    const double bound = current_isa() == "baseline" ? without : with_fma;
    curve(x.data(), static_cast<std::int64_t>(x.size()), y.data());
    double worst = 0;
    float at = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double truth = exact(static_cast<double>(x[i]));
      if (std::fabs(truth) < least) {
        if (!(std::fabs(y[i]) <= least)) FAIL("not small: " << x[i] << " gives " << y[i]);
        continue;
      }
      const double distance = ulps(y[i], truth);
      if (!(distance <= worst)) {
        worst = distance;
        at = x[i];
      }
    }
    CAPTURE(at);
    CHECK(worst <= bound);
  });
}

// What holds at the ends, for any length and alignment.
void check_ends(Curve curve, float at_infinity, float at_minus_infinity, float at_zero) {
  with_every_isa([&] {
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    const float nan = std::numeric_limits<float>::quiet_NaN();
    const float given[] = {kInfinity, -kInfinity, nan, 0.0f, 3e38f, -3e38f, 1e-45f};
    for (const std::size_t n : {0u, 1u, 3u, 15u, 16u, 17u, 31u, 33u, 65u, 130u}) {
      std::vector<float> x(n + 1, 0.25f);
      for (std::size_t i = 0; i < n; ++i) x[i + 1] = given[i % std::size(given)];
      std::vector<float> y(n + 2, -7.0f);
      curve(x.data() + 1, static_cast<std::int64_t>(n), y.data() + 1);
      CHECK(y[0] == -7.0f);
      CHECK(y[n + 1] == -7.0f);
      for (std::size_t i = 0; i < n; ++i) {
        CAPTURE(n, i, x[i + 1], y[i + 1]);
        switch (i % std::size(given)) {
          case 0:
          case 4: CHECK(y[i + 1] == at_infinity); break;
          case 1:
          case 5: CHECK(y[i + 1] == at_minus_infinity); break;
          case 2: CHECK(std::isnan(y[i + 1])); break;
          case 3: CHECK(y[i + 1] == at_zero); break;
          default: CHECK(std::fabs(y[i + 1] - at_zero) < 1e-44f);
        }
      }
      curve(x.data() + 1, static_cast<std::int64_t>(n), x.data() + 1);
      for (std::size_t i = 0; i < n; ++i) {
        CHECK(std::bit_cast<std::uint32_t>(x[i + 1]) == std::bit_cast<std::uint32_t>(y[i + 1]));
      }
    }
  });
}

void check_same_bits(Curve curve, float (*exact)(float)) {
  std::vector<float> x = dense();
  for (float v = -130.0f; v < 130.0f; v += 0.25f) x.push_back(v);
  x.push_back(std::numeric_limits<float>::infinity());
  std::vector<float> y(x.size());
  with_every_isa([&] {
    curve(x.data(), static_cast<std::int64_t>(x.size()), y.data());
    for (std::size_t i = 0; i < x.size(); ++i) {
      if (std::bit_cast<std::uint32_t>(y[i]) != std::bit_cast<std::uint32_t>(exact(x[i]))) {
        FAIL("of " << x[i] << " came " << y[i]);
      }
    }
    const float nan = std::numeric_limits<float>::quiet_NaN();
    curve(&nan, 1, y.data());
    CHECK(std::isnan(y[0]));
  });
}

}  // namespace

// The bounds are those of the header: a rounding of the result (0.5 ulp), and what the roundings
// of the polynomial, of exp and of a quotient leave of it.
TEST_CASE("The kernel of tanh is within its bound on a dense range", "[kernels]") {
  check(kernels::tanh_f32, [](double x) { return std::tanh(x); }, 1.5, 2.0);
  check_ends(kernels::tanh_f32, 1.0f, -1.0f, 0.0f);
}

TEST_CASE("The kernel of sigmoid is within its bound on a dense range", "[kernels]") {
  check(
      kernels::sigmoid_f32, [](double x) { return 1.0 / (1.0 + std::exp(-x)); }, 2.5, 2.5,
      2 * static_cast<double>(std::numeric_limits<float>::min()));
  check_ends(kernels::sigmoid_f32, 1.0f, 0.0f, 0.5f);
}

TEST_CASE("The kernel of erf is within its bound on a dense range", "[kernels]") {
  check(kernels::erf_f32, [](double x) { return std::erf(x); }, 1.0, 2.0);
  check_ends(kernels::erf_f32, 1.0f, -1.0f, 0.0f);
}

TEST_CASE("Kernels that round to whole numbers have the bits of the standard library",
          "[kernels]") {
  check_same_bits(kernels::round_f32, [](float x) { return std::nearbyint(x); });
  check_same_bits(kernels::floor_f32, [](float x) { return std::floor(x); });
  check_same_bits(kernels::ceil_f32, [](float x) { return std::ceil(x); });
}

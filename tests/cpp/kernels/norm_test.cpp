// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/core/isa.hpp>
#include <moptcore/core/random.hpp>

#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/norm.hpp"

using namespace moptcore;

namespace {

// The definition: 16 lanes, then a tree.
template <class T, class Step>
double in_lanes(const T* src, std::size_t n, Step step) {
  std::array<double, 16> lanes{};
  for (std::size_t i = 0; i < n; ++i) lanes[i % 16] += step(static_cast<double>(src[i]));
  for (std::size_t half = 8; half != 0; half /= 2) {
    for (std::size_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  return lanes[0];
}

bool same_bits(double a, double b) {
  return std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b);
}

}  // namespace

TEST_CASE("Norms have the bits of their definition on every target", "[kernels][prune]") {
  const Philox philox(21);
  const auto magnitude = [](double x) { return std::fabs(x); };
  const auto square = [](double x) { return x * x; };
  for (const auto& isa : available_isas()) {
    set_max_isa(isa);
    REQUIRE(current_isa() == isa);
    for (const std::size_t n : {0u, 1u, 3u, 15u, 16u, 17u, 33u, 4096u}) {
      for (const std::size_t offset : {0u, 1u}) {
        CAPTURE(isa, n, offset);
        std::vector<float> floats(n + offset);
        std::vector<double> doubles(n + offset);
        double largest_float = 0.0;
        double largest_double = 0.0;
        for (std::size_t i = 0; i < floats.size(); ++i) {
          const auto word = static_cast<std::int32_t>(philox.word(i));
          floats[i] = static_cast<float>(word) * 1e-41f;  // denormals too
          doubles[i] = static_cast<double>(word) / 3.0;
          if (i < offset) continue;
          largest_float = std::max(largest_float, std::fabs(static_cast<double>(floats[i])));
          largest_double = std::max(largest_double, std::fabs(doubles[i]));
        }
        const float* f = floats.data() + offset;
        const double* d = doubles.data() + offset;
        const auto size = static_cast<std::int64_t>(n);
        CHECK(same_bits(kernels::sum_magnitudes_f32(f, size), in_lanes(f, n, magnitude)));
        CHECK(same_bits(kernels::sum_magnitudes_f64(d, size), in_lanes(d, n, magnitude)));
        CHECK(same_bits(kernels::sum_squares_f32(f, size), in_lanes(f, n, square)));
        CHECK(same_bits(kernels::sum_squares_f64(d, size), in_lanes(d, n, square)));
        CHECK(kernels::max_magnitude_f32(f, size) == largest_float);
        CHECK(kernels::max_magnitude_f64(d, size) == largest_double);
      }
    }
    std::vector<double> values(100, -1.0);
    for (const std::size_t at : {0u, 17u, 96u, 99u}) {
      auto broken = values;
      broken[at] = std::nan("");
      CAPTURE(isa, at);
      CHECK(std::isnan(kernels::max_magnitude_f64(broken.data(), 100)));
      CHECK(std::isnan(kernels::sum_squares_f64(broken.data(), 100)));
      broken[at] = -std::numeric_limits<double>::infinity();
      CHECK(std::isinf(kernels::max_magnitude_f64(broken.data(), 100)));
    }
  }
  set_max_isa("");
}

// SPDX-License-Identifier: Apache-2.0
#include "kernels/place.hpp"

#include "catch.hpp"

#include <moptcore/core/random.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

#include "every_isa.hpp"

using namespace moptcore;

namespace {

template <class T>
std::vector<T> numbers(std::size_t n) {
  const Philox philox(4);
  std::vector<T> values(n);
  for (std::size_t i = 0; i < n; ++i) {
    values[i] = static_cast<T>(philox.word(i) * 0x1p-31 - 1.0);
  }
  return values;
}

std::uint32_t place(double x, double low, double scale) {
  const double at = std::floor((x - low) * scale);
  return static_cast<std::uint32_t>(std::clamp(at, 0.0, 2147483647.0));
}

}  // namespace

TEST_CASE("places are whole numbers within 31 bits", "[cluster][kernels]") {
  const auto floats = numbers<float>(1003);
  const auto doubles = numbers<double>(1003);
  tests::with_every_isa([&] {
    for (const double scale : {1e3, 0x1p30, 1e12}) {
      std::vector<std::uint32_t> places(1003);
      kernels::place_f32(floats.data(), 1003, -0.5, scale, places.data());
      for (std::size_t i = 0; i < places.size(); ++i) {
        REQUIRE(places[i] == place(static_cast<double>(floats[i]), -0.5, scale));
      }
      kernels::place_f64(doubles.data(), 1003, -0.5, scale, places.data());
      for (std::size_t i = 0; i < places.size(); ++i) {
        REQUIRE(places[i] == place(doubles[i], -0.5, scale));
      }
    }
  });
}

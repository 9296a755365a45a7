// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <complex>
#include <numbers>

#include "catch.hpp"
#include "single_node.hpp"

using namespace moptcore;
using namespace moptcore::graph;
using moptcore::test::random_tensor;
using moptcore::test::SingleNode;

namespace {

Tensor integer(std::int64_t value) { return Tensor::scalar(value); }

}  // namespace

TEST_CASE("DFT is the sum of its definition for any length", "[graph][signal]") {
  std::mt19937 random(1);
  for (const std::int64_t length : {1, 2, 3, 8, 15, 31, 64, 100}) {
    const Tensor x = random_tensor<double>(random, Shape{2, length, 3, 2});
    SingleNode node("DFT");
    const Tensor y = node.run({x, Value(), integer(1)}, 20)[0];
    REQUIRE(y.shape() == x.shape());
    for (std::int64_t b = 0; b < 2; ++b) {
      for (std::int64_t k = 0; k < length; ++k) {
        std::complex<double> sum;
        for (std::int64_t n = 0; n < length; ++n) {
          const double* from = x.data<double>() + ((b * length + n) * 3 + 1) * 2;
          const double angle = -2 * std::numbers::pi * static_cast<double>(k * n % length) /
                               static_cast<double>(length);
          sum += std::complex<double>(from[0], from[1]) * std::polar(1.0, angle);
        }
        const double* to = y.data<double>() + ((b * length + k) * 3 + 1) * 2;
        REQUIRE(std::abs(sum - std::complex<double>(to[0], to[1])) < 1e-12);
      }
    }
    const Tensor back = node.with("inverse", std::int64_t{1}).run({y, Value(), integer(1)}, 20)[0];
    for (std::int64_t i = 0; i < x.size(); ++i) {
      REQUIRE(std::abs(back.data<double>()[i] - x.data<double>()[i]) < 1e-13);
    }
  }
}

TEST_CASE("STFT transforms windowed frames", "[graph][signal]") {
  std::mt19937 random(2);
  const Tensor x = random_tensor<double>(random, Shape{1, 11, 1});
  const Tensor window = random_tensor<double>(random, Shape{4});
  const Tensor y = SingleNode("STFT").run({x, integer(3), window}, 17)[0];
  REQUIRE(y.shape() == Shape{1, 3, 3, 2});
  for (std::int64_t frame = 0; frame < 3; ++frame) {
    Tensor part(ElementType::float64, Shape{1, 4, 1});
    for (std::int64_t i = 0; i < 4; ++i) {
      part.mutable_data<double>()[i] = x.data<double>()[3 * frame + i] * window.data<double>()[i];
    }
    const Tensor wanted = SingleNode("DFT").with("onesided", std::int64_t{1}).run({part}, 20)[0];
    for (std::int64_t i = 0; i < 6; ++i) {
      REQUIRE(y.data<double>()[frame * 6 + i] == wanted.data<double>()[i]);
    }
  }
  CHECK_THROWS_AS(SingleNode("STFT").run({x, integer(0), window}, 17), Error);
  CHECK_THROWS_AS(SingleNode("STFT").run({x, integer(3), window, integer(5)}, 17), Error);
  CHECK_THROWS_AS(SingleNode("STFT").run({x, integer(3), Value(), integer(12)}, 17), Error);
}

TEST_CASE("DFT names what does not fit", "[graph][signal]") {
  const Tensor x = Tensor::of<float>(Shape{2, 2}, {1, 2, 3, 4});
  CHECK_THROWS_AS(SingleNode("DFT").run({x, Value(), integer(-1)}, 20), Error);
  CHECK_THROWS_AS(SingleNode("DFT").run({x, integer(0)}, 20), Error);
  CHECK_THROWS_AS(SingleNode("DFT").run({x, integer(INT64_MAX)}, 20), Error);
  CHECK_THROWS_AS(SingleNode("DFT").with("onesided", std::int64_t{1}).run({x}, 20), Error);
  CHECK_THROWS_AS(SingleNode("DFT").run({Tensor::scalar(1.0f)}, 20), Error);
}

TEST_CASE("mel weights are triangles with their tip at 1", "[graph][signal]") {
  const Tensor y = SingleNode("MelWeightMatrix")
                       .run({integer(5), integer(256), integer(8000), Tensor::scalar(100.0f),
                             Tensor::scalar(3500.0f)},
                            17)[0];
  REQUIRE(y.shape() == Shape{129, 5});
  for (std::int64_t band = 0; band < 5; ++band) {
    float most = 0;
    int turns = 0;
    float before = 0;
    bool rising = true;
    for (std::int64_t bin = 0; bin < 129; ++bin) {
      const float weight = y.data<float>()[bin * 5 + band];
      most = std::max(most, weight);
      if (rising && weight < before) {
        rising = false;
        ++turns;
      } else if (!rising && weight > before) {
        ++turns;
      }
      before = weight;
    }
    CHECK(most == 1.0f);
    CHECK(turns == 1);
  }
  const auto run = [](std::int64_t bands, float low, float high) {
    return SingleNode("MelWeightMatrix")
        .run(
            {integer(bands), integer(16), integer(8000), Tensor::scalar(low), Tensor::scalar(high)},
            17);
  };
  CHECK_THROWS_AS(run(-1, 0, 1), Error);
  CHECK_THROWS_AS(run(INT64_MAX, 0, 1), Error);
  CHECK_THROWS_AS(run(3, std::nanf(""), 1), Error);
  CHECK_NOTHROW(run(3, 1e6f, 1e30f));
}

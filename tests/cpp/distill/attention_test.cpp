// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/distill/attention.hpp>

#include <cmath>
#include <vector>

using namespace moptcore;

TEST_CASE("attention_loss compares normalised sums over channels", "[distill]") {
  // One sample, two positions, channels last. Maps (9, 16) / sqrt(337) and (1, 0).
  std::vector<double> student = {3.0, 0.0, 0.0, -4.0};
  const std::vector<double> teacher = {5.0, 0.0};
  std::vector<double> grad(4);
  const double norm = std::sqrt(337.0);
  const double first = 9.0 / norm - 1.0;
  const double second = 16.0 / norm;
  const double loss = distill::attention_loss(TensorView<double>(student.data(), {1, 2, 2}),
                                              TensorView<const double>(teacher.data(), {1, 2, 1}),
                                              {.power = 2.0, .axis = 2}, std::nullopt,
                                              TensorView<double>(grad.data(), {1, 2, 2}));
  CHECK(loss == Approx((first * first + second * second) / 2.0).epsilon(1e-14));
  const double along = (first * 9.0 + second * 16.0) / norm;
  CHECK(grad[0] == Approx((first - along * 9.0 / norm) / norm * 6.0).epsilon(1e-13));
  CHECK(grad[1] == 0.0);
  CHECK(grad[2] == 0.0);
  CHECK(grad[3] == Approx((second - along * 16.0 / norm) / norm * -8.0).epsilon(1e-13));
}

TEST_CASE("attention_loss refuses powers without a slope at zero", "[distill]") {
  std::vector<float> x(4);
  const TensorView<float> view(x.data(), {2, 2});
  CHECK_THROWS_AS(distill::attention_loss(view, view, {.power = 0.5}, std::nullopt, view), Error);
  CHECK_THROWS_AS(distill::attention_loss(view, view, {.axis = -2}, std::nullopt, view), Error);
}

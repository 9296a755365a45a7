// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/distill/teachers.hpp>

#include <cmath>
#include <vector>

using namespace moptcore;

TEST_CASE("average_teachers averages softened probabilities", "[distill]") {
  // Probabilities (1/4, 3/4) and (3/4, 1/4) at temperature 2.
  const std::vector<double> one = {0.0, 2.0 * std::log(3.0)};
  const std::vector<double> other = {2.0 * std::log(3.0), 0.0};
  const std::vector<AnyView> teachers = {one, other};
  const std::vector<double> weights = {3.0, 1.0};
  std::vector<double> average(2);
  distill::average_teachers(teachers, weights, 2.0, -1, average);
  CHECK(average[0] == Approx(2.0 * std::log(0.375)).epsilon(1e-14));
  CHECK(average[1] == Approx(2.0 * std::log(0.625)).epsilon(1e-14));
  distill::average_teachers(teachers, {}, 2.0, -1, average);
  CHECK(average[0] == Approx(2.0 * std::log(0.5)).epsilon(1e-14));
}

// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/distill/similarity.hpp>

#include <cmath>
#include <vector>

using namespace moptcore;

TEST_CASE("similarity_loss compares normalised rows of the samples' products", "[distill]") {
  // G of the student is [[1, 1], [1, 2]], the teacher's the identity.
  std::vector<float> student = {1.0f, 0.0f, 1.0f, 1.0f};
  std::vector<float> teacher = {2.0f, 0.0f, 0.0f, 3.0f};
  std::vector<float> grad(4);
  const double loss = distill::similarity_loss(
      TensorView<float>(student.data(), {2, 2}), TensorView<float>(teacher.data(), {2, 2}),
      std::nullopt, TensorView<float>(grad.data(), {2, 2}));
  const double half = std::sqrt(0.5);
  const double fifth = std::sqrt(0.2);
  const double expected = (1.0 - half) * (1.0 - half) + half * half + fifth * fifth +
                          (1.0 - 2.0 * fifth) * (1.0 - 2.0 * fifth);
  CHECK(loss == Approx(expected / 4.0).epsilon(1e-14));
}

TEST_CASE("similarity_loss does not change with the scale of the teacher", "[distill]") {
  std::vector<double> student = {1.0, 2.0, -3.0, 4.0, 0.5, 6.0};
  std::vector<double> teacher(student);
  for (double& x : teacher) x *= -0x1p600;
  std::vector<double> grad(student.size(), 9.0);
  CHECK(distill::similarity_loss(TensorView<double>(student.data(), {3, 2}),
                                 TensorView<double>(teacher.data(), {3, 2}), std::nullopt,
                                 TensorView<double>(grad.data(), {3, 2})) == 0.0);
  for (const double g : grad) CHECK(g == 0.0);
}

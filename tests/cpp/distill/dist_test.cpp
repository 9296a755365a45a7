// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/distill/dist.hpp>

#include <vector>

using namespace moptcore;

TEST_CASE("dist_loss counts what is ordered the other way round twice", "[distill]") {
  // Two classes: a row's correlation is 1 or -1.
  std::vector<double> student = {1.0, 0.0, 0.0, 2.0};
  std::vector<double> teacher = {0.0, 5.0, 0.0, 1.0};
  std::vector<double> grad(4);
  const TensorView<double> s(student.data(), {2, 2});
  const TensorView<double> t(teacher.data(), {2, 2});
  const TensorView<double> g(grad.data(), {2, 2});
  CHECK(distill::dist_loss(s, t, {.intra = 0.0}, std::nullopt, g) == Approx(1.0).epsilon(1e-14));
  // From the first row to the second the student's class 1 grows and the teacher's falls.
  CHECK(distill::dist_loss(s, t, {.inter = 0.0, .temperature = 3.0}, std::nullopt, g) ==
        Approx(18.0).epsilon(1e-13));
}

TEST_CASE("dist_loss of equal logits has no slope", "[distill]") {
  std::vector<float> student(6, 0.1f);
  std::vector<float> teacher = {1.0f, 2.0f, 3.0f, 6.0f, 5.0f, 3.0f};
  std::vector<float> grad(6, 9.0f);
  CHECK(distill::dist_loss(TensorView<float>(student.data(), {2, 3}),
                           TensorView<float>(teacher.data(), {2, 3}), {}, std::nullopt,
                           TensorView<float>(grad.data(), {2, 3})) == 2.0);
  for (const float g : grad) CHECK(g == 0.0f);
}

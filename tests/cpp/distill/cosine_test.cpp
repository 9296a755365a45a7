// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/distill/cosine.hpp>

#include <vector>

using namespace moptcore;

TEST_CASE("cosine_loss is the mean of one minus the cosine", "[distill]") {
  // Cosines 24 / 25, 0 (a row of zeros) and -1.
  std::vector<double> student = {3.0, 4.0, 0.0, 0.0, -1.0, 2.0};
  std::vector<double> teacher = {4.0, 3.0, 1.0, 1.0, 2.0, -4.0};
  std::vector<double> grad(6, 9.0);
  const double loss = distill::cosine_loss(TensorView<double>(student.data(), {3, 2}),
                                           TensorView<double>(teacher.data(), {3, 2}), -1,
                                           std::nullopt, TensorView<double>(grad.data(), {3, 2}));
  CHECK(loss == Approx((0.04 + 1.0 + 2.0) / 3.0).epsilon(1e-14));
  CHECK(grad[0] == Approx((0.96 * 0.6 - 0.8) / 15.0).epsilon(1e-13));
  CHECK(grad[1] == Approx((0.96 * 0.8 - 0.6) / 15.0).epsilon(1e-13));
  CHECK(grad[2] == 0.0);
  CHECK(grad[3] == 0.0);
  CHECK(grad[4] == Approx(0.0).margin(1e-15));
}

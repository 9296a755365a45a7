// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/distill/relational.hpp>

#include <memory>
#include <vector>

using namespace moptcore;

TEST_CASE("relational_loss is zero for turned, shifted and scaled samples", "[distill]") {
  std::vector<double> student = {0.0, 0.0, 3.0, 4.0, -2.0, 1.0, 7.0, 7.0};
  std::vector<double> teacher(student.size());
  for (std::size_t i = 0; i < student.size(); i += 2) {
    teacher[i] = 5.0 - 2.0 * student[i + 1];
    teacher[i + 1] = 2.0 * student[i] - 1.0;
  }
  std::vector<double> grad(student.size(), 9.0);
  const double loss = distill::relational_loss(
      TensorView<double>(student.data(), {4, 2}), TensorView<double>(teacher.data(), {4, 2}), {},
      std::nullopt, TensorView<double>(grad.data(), {4, 2}));
  CHECK(loss == Approx(0.0).margin(1e-28));
  for (const double g : grad) CHECK(g == Approx(0.0).margin(1e-13));
}

TEST_CASE("relational_loss adds Huber's loss of angles and relative distances", "[distill]") {
  // On a line at 0, 1, 3: distances 1, 2, 3 of mean 2; the teacher's at 0, 2, 3.
  std::vector<double> student = {0.0, 1.0, 3.0};
  std::vector<double> teacher = {0.0, 2.0, 3.0};
  std::vector<double> grad(3);
  const TensorView<double> s(student.data(), {3, 1});
  const TensorView<double> t(teacher.data(), {3, 1});
  const TensorView<double> g(grad.data(), {3, 1});
  // Differences -1/2 and 1/2, each twice of nine, at weight 9.
  CHECK(distill::relational_loss(s, t, {.distance = 9.0, .angle = 0.0}, std::nullopt, g) ==
        Approx(4 * 0.125).epsilon(1e-14));
  // All on one line in the same order: no angle differs.
  CHECK(distill::relational_loss(s, t, {.distance = 0.0, .angle = 1.0}, std::nullopt, g) ==
        Approx(0.0).margin(1e-15));
}

TEST_CASE("relational_loss leaves out the samples that a mask does not keep", "[distill]") {
  std::vector<float> student = {0.0f, 1.0f, 100.0f, 3.0f};
  std::vector<float> teacher = {0.0f, 2.0f, -7.0f, 3.0f};
  std::vector<float> grad(4, 9.0f);
  auto kept = std::make_unique<bool[]>(4);
  for (const int i : {0, 1, 3}) kept[static_cast<std::size_t>(i)] = true;
  const double loss = distill::relational_loss(
      TensorView<float>(student.data(), {4, 1}), TensorView<float>(teacher.data(), {4, 1}),
      {.distance = 9.0, .angle = 0.0}, AnyView(kept.get(), DType::boolean, Shape{4}),
      TensorView<float>(grad.data(), {4, 1}));
  CHECK(loss == Approx(0.5).epsilon(1e-14));
  CHECK(grad[2] == 0.0f);
}

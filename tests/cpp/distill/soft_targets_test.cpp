// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/core/random.hpp>
#include <moptcore/distill/soft_targets.hpp>

#include <array>
#include <cmath>
#include <limits>
#include <vector>

using namespace moptcore;
using distill::Reduction;
using distill::SoftTargetOptions;

namespace {

std::vector<float> draw(std::int64_t n, std::uint64_t seed, float spread = 4.0f) {
  std::vector<float> values(static_cast<std::size_t>(n));
  const Philox random(seed);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = spread * (static_cast<float>(random.word(i)) * 0x1p-31f - 1.0f);
  }
  return values;
}

}  // namespace

TEST_CASE("soft_target_loss of two classes follows its closed form", "[distill]") {
  // softmax of (0, log 3) is (1/4, 3/4), of (0, 0) a half each.
  const std::vector<double> student = {0.0, 0.0};
  const std::vector<double> teacher = {0.0, std::log(3.0)};
  const std::vector<std::int64_t> labels = {1};
  std::vector<double> grad(2);
  const TensorView<const double> s(student.data(), Shape{1, 2});
  const TensorView<const double> t(teacher.data(), Shape{1, 2});
  const TensorView<double> g(grad.data(), Shape{1, 2});
  const SoftTargetOptions options{.temperature = 1.0, .alpha = 0.25};
  const double loss = distill::soft_target_loss(s, t, labels, options, g);
  const double divergence = 0.25 * std::log(0.5) + 0.75 * std::log(1.5);
  // Exponentials and logarithms are within 1.5 ulp of values near 1.
  CHECK(std::abs(loss - (0.25 * divergence + 0.75 * std::log(2.0))) < 8 * 0x1p-53);
  CHECK(std::abs(grad[0] - (0.25 * 0.25 + 0.75 * 0.5)) < 8 * 0x1p-53);
  CHECK(std::abs(grad[1] - (0.25 * -0.25 + 0.75 * -0.5)) < 8 * 0x1p-53);
}

TEST_CASE("soft_target_loss divides by the rows that are not ignored", "[distill]") {
  const std::vector<float> student = draw(4 * 5, 1);
  const std::vector<float> teacher = draw(4 * 5, 2);
  const std::vector<std::int32_t> labels = {0, 255, 4, 255};
  std::vector<float> grad(20, 9.0f);
  std::vector<double> losses(4);
  const TensorView<const float> s(student.data(), Shape{4, 5});
  const TensorView<const float> t(teacher.data(), Shape{4, 5});
  const TensorView<float> g(grad.data(), Shape{4, 5});
  SoftTargetOptions options{.ignore_index = 255};
  const double mean = distill::soft_target_loss(s, t, labels, options, g);
  CHECK(grad[5] == 0.0f);
  CHECK(grad[19] == 0.0f);
  const double sum = distill::soft_target_losses(s, t, labels, options, losses, g);
  CHECK(losses[1] == 0.0);
  CHECK(losses[3] == 0.0);
  CHECK(sum == losses[0] + losses[2]);
  CHECK(mean == sum / 2);
  options.reduction = Reduction::sum;
  CHECK(distill::soft_target_loss(s, t, labels, options, g) == sum);
}

TEST_CASE("soft_target_loss works without labels and in place", "[distill]") {
  std::vector<float> student = draw(3 * 40, 3);
  const std::vector<float> teacher = draw(3 * 40, 4);
  std::vector<float> grad(120);
  const TensorView<float> s(student.data(), Shape{3, 40});
  const TensorView<const float> t(teacher.data(), Shape{3, 40});
  const double loss = distill::soft_target_loss(s, t, std::nullopt, {},
                                                TensorView<float>(grad.data(), Shape{3, 40}));
  CHECK(distill::soft_target_loss(s, t, std::nullopt, {}, s) == loss);
  CHECK(student == grad);
}

TEST_CASE("soft_target_loss names what is wrong and writes nothing", "[distill]") {
  const std::vector<float> student(6);
  const std::vector<float> teacher(6);
  const std::vector<std::int64_t> labels = {0, 3};
  std::vector<float> grad(6, 7.0f);
  const TensorView<const float> s(student.data(), Shape{2, 3});
  const TensorView<const float> t(teacher.data(), Shape{2, 3});
  const TensorView<float> g(grad.data(), Shape{2, 3});
  CHECK_THROWS_WITH(distill::soft_target_loss(s, t, labels, {}, g),
                    "[distill.soft_target_loss] labels must be in [0, 3) or ignore_index (-100), "
                    "got 3 at row 1");
  CHECK_THROWS_WITH(distill::soft_target_loss(s, t, std::nullopt, {.temperature = -1.0}, g),
                    "[distill.soft_target_loss] temperature must be > 0 and finite, got -1");
  CHECK_THROWS_WITH(distill::soft_target_loss(s, t, std::nullopt, {.alpha = 1.5}, g),
                    "[distill.soft_target_loss] alpha must be in [0, 1], got 1.5");
  CHECK_THROWS_AS(distill::soft_target_loss(s, t, std::nullopt, {.axis = 2}, g), std::out_of_range);
  std::vector<double> wide(6);
  CHECK_THROWS_AS(distill::soft_target_loss(s, t, std::nullopt, {},
                                            TensorView<double>(wide.data(), Shape{2, 3})),
                  DTypeError);
  CHECK(grad == std::vector<float>(6, 7.0f));
}

TEST_CASE("soft_target_loss of z-scores knows no shift and scale of either network", "[distill]") {
  const std::vector<double> student = {1.0, 2.0, 4.0, -3.0};
  std::vector<double> teacher;
  for (const double x : student) teacher.push_back(8.0 * x - 5.0);
  std::vector<double> grad(student.size(), 9.0);
  const distill::SoftTargetOptions options{.temperature = 2.0, .standardize = true};
  // The scores differ by rounding alone, and the divergence by its square.
  CHECK(distill::soft_target_loss(student, teacher, std::nullopt, options, grad) ==
        Approx(0.0).margin(1e-15));
  for (const double g : grad) CHECK(g == Approx(0.0).margin(1e-15));
}

TEST_CASE("soft_target_loss does not read the rows that a mask leaves out", "[distill]") {
  constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
  const std::vector<double> student = {1.0, 2.0, kNaN, kNaN, 0.0, -1.0};
  const std::vector<double> teacher = {2.0, 0.0, kNaN, kNaN, 3.0, 1.0};
  const std::vector<std::int32_t> labels = {1, 77, 0};
  const std::array<bool, 3> kept = {true, false, true};
  const std::vector<double> whole = {1.0, 2.0, 0.0, -1.0};
  const std::vector<double> other = {2.0, 0.0, 3.0, 1.0};
  const std::vector<std::int32_t> classes = {1, 0};
  std::vector<double> grad(6, 9.0);
  std::vector<double> expected(4);
  const double loss = distill::soft_target_loss(
      TensorView<const double>(student.data(), {3, 2}),
      TensorView<const double>(teacher.data(), {3, 2}), AnyView(labels), {},
      TensorView<double>(grad.data(), {3, 2}), AnyView(kept.data(), DType::boolean, Shape{3}));
  CHECK(loss == distill::soft_target_loss(TensorView<const double>(whole.data(), {2, 2}),
                                          TensorView<const double>(other.data(), {2, 2}),
                                          AnyView(classes), {},
                                          TensorView<double>(expected.data(), {2, 2})));
  CHECK(grad == std::vector<double>{expected[0], expected[1], 0.0, 0.0, expected[2], expected[3]});
}

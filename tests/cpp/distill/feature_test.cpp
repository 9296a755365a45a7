// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/core/isa.hpp>
#include <moptcore/core/random.hpp>
#include <moptcore/distill/feature.hpp>

#include <cmath>
#include <vector>

using namespace moptcore;
using distill::FeatureAdaptor;

namespace {

// Small integers: every product and sum is exact, so there is one right answer.
std::vector<float> integers(std::int64_t n, std::uint64_t seed) {
  std::vector<float> values(static_cast<std::size_t>(n));
  const Philox random(seed);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>(random.word(i) % 9) - 4.0f;
  }
  return values;
}

}  // namespace

TEST_CASE("feature_loss is the mean squared difference and its slope", "[distill]") {
  const auto n = GENERATE(values<std::int64_t>({1, 2, 15, 16, 17, 4096, 40000}));
  const std::vector<float> student = integers(n, 1);
  const std::vector<float> teacher = integers(n, 2);
  std::vector<float> grad(student.size());
  double sum = 0.0;
  for (std::size_t i = 0; i < student.size(); ++i) {
    sum += static_cast<double>((student[i] - teacher[i]) * (student[i] - teacher[i]));
  }
  for (const std::string& isa : available_isas()) {
    set_max_isa(isa);
    CAPTURE(isa, n);
    const double loss = distill::feature_loss(student, teacher, grad);
    set_max_isa("");
    CHECK(loss == sum / static_cast<double>(n));
    const auto step = static_cast<float>(2.0 / static_cast<double>(n));
    bool equal = true;
    for (std::size_t i = 0; i < student.size(); ++i) {
      equal = equal && grad[i] == step * (student[i] - teacher[i]);
    }
    CHECK(equal);
  }
}

TEST_CASE("feature_loss with an adaptor follows the matrix formulas", "[distill]") {
  const auto [rows, in, out] = GENERATE(table<std::int64_t, std::int64_t, std::int64_t>(
      {{1, 1, 1}, {2, 4, 8}, {8, 16, 32}, {64, 32, 16}, {16, 257, 64}, {256, 3, 128}}));
  // The element count is a power of two and the data small integers: everything is exact.
  const std::vector<float> student = integers(rows * in, 3);
  const std::vector<float> weight = integers(out * in, 4);
  const std::vector<float> bias = integers(out, 5);
  const std::vector<float> teacher = integers(rows * out, 6);
  std::vector<float> grad(student.size());
  std::vector<float> weight_grad(weight.size());
  std::vector<float> bias_grad(bias.size());

  const auto at = [](const std::vector<float>& m, std::int64_t cols, std::int64_t r,
                     std::int64_t c) {
    return static_cast<double>(m[static_cast<std::size_t>(r * cols + c)]);
  };
  const double n = static_cast<double>(rows * out);
  double loss = 0.0;
  std::vector<double> s_grad(grad.size());
  std::vector<double> w_grad(weight.size());
  std::vector<double> b_grad(bias.size());
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t o = 0; o < out; ++o) {
      double mapped = at(bias, 1, o, 0) - at(teacher, out, r, o);
      for (std::int64_t i = 0; i < in; ++i) mapped += at(student, in, r, i) * at(weight, in, o, i);
      loss += mapped * mapped / n;
      const double step = 2 * mapped / n;
      b_grad[static_cast<std::size_t>(o)] += step;
      for (std::int64_t i = 0; i < in; ++i) {
        s_grad[static_cast<std::size_t>(r * in + i)] += step * at(weight, in, o, i);
        w_grad[static_cast<std::size_t>(o * in + i)] += step * at(student, in, r, i);
      }
    }
  }
  for (const std::string& isa : available_isas()) {
    set_max_isa(isa);
    CAPTURE(isa, rows, in, out);
    const double got = distill::feature_loss(
        TensorView<const float>(student.data(), Shape{rows, in}),
        TensorView<const float>(teacher.data(), Shape{rows, out}),
        FeatureAdaptor<AnyView>{TensorView<const float>(weight.data(), Shape{out, in}), bias},
        TensorView<float>(grad.data(), Shape{rows, in}),
        FeatureAdaptor<MutableAnyView>{TensorView<float>(weight_grad.data(), Shape{out, in}),
                                       bias_grad});
    set_max_isa("");
    // Squares of up to 4112^2 exceed 24 bits: 2^-24 each, sums of them in float runs of 64.
    CHECK(std::abs(got - loss) <= 0x1p-17 * loss);
    CHECK(std::vector<double>(grad.begin(), grad.end()) == s_grad);
    CHECK(std::vector<double>(weight_grad.begin(), weight_grad.end()) == w_grad);
    CHECK(std::vector<double>(bias_grad.begin(), bias_grad.end()) == b_grad);
  }
}

TEST_CASE("feature_loss refuses shapes that do not fit and overlapping gradients", "[distill]") {
  std::vector<float> student(6);
  std::vector<float> teacher(4);
  std::vector<float> weight(6);
  std::vector<float> grad(6, 7.0f);
  std::vector<float> weight_grad(6);
  const TensorView<float> s(student.data(), Shape{2, 3});
  const TensorView<float> t(teacher.data(), Shape{2, 2});
  const TensorView<float> w(weight.data(), Shape{2, 3});
  const TensorView<float> g(grad.data(), Shape{2, 3});
  const FeatureAdaptor<MutableAnyView> wg{TensorView<float>(weight_grad.data(), Shape{2, 3}), {}};
  CHECK_THROWS_WITH(distill::feature_loss(s, t, g),
                    "[distill.feature_loss] teacher must have the student's shape (2, 3), "
                    "got (2, 2)");
  CHECK_THROWS_WITH(
      distill::feature_loss(s, t, {TensorView<float>(weight.data(), Shape{3, 2}), {}}, g, wg),
      "[distill.feature_loss] student must have the adaptor's 2 inputs in its last axis, "
      "got (2, 3)");
  CHECK_THROWS_AS(distill::feature_loss(s, t, {w, {}}, g, {w, {}}), Error);
  CHECK_THROWS_AS(distill::feature_loss(s, t, {w, {}}, g, {g, {}}), Error);
  CHECK_THROWS_AS(distill::feature_loss(s, std::vector<int>(6), g), DTypeError);
  CHECK(grad == std::vector<float>(6, 7.0f));
}

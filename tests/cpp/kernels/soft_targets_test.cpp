// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/core/isa.hpp>
#include <moptcore/core/random.hpp>
#include <moptcore/distill/soft_targets.hpp>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "kernels/soft_targets.hpp"

using namespace moptcore;

namespace {

bool run(const kernels::SoftTargetRow<float>& row, double& loss) {
  return kernels::soft_target_row_f32(row, loss);
}

bool run(const kernels::SoftTargetRow<double>& row, double& loss) {
  return kernels::soft_target_row_f64(row, loss);
}

template <class T>
struct Result {
  bool done = false;
  double loss = 0.0;
  std::vector<T> grad;
};

template <class T>
Result<T> compute(const std::vector<T>& student, const std::vector<T>& teacher, std::int64_t label,
                  const distill::SoftTargetOptions& options, std::size_t misaligned) {
  const std::size_t n = student.size();
  std::vector<T> s(n + misaligned);
  std::vector<T> t(n + misaligned);
  std::vector<T> g(n + misaligned + 1, T(77));
  std::copy(student.begin(), student.end(), s.begin() + static_cast<std::ptrdiff_t>(misaligned));
  std::copy(teacher.begin(), teacher.end(), t.begin() + static_cast<std::ptrdiff_t>(misaligned));
  std::vector<T> scratch(
      static_cast<std::size_t>(kernels::soft_target_scratch(static_cast<std::int64_t>(n))));
  const double temperature = options.temperature;
  Result<T> result;
  result.done = run({.student = s.data() + misaligned,
                     .teacher = t.data() + misaligned,
                     .grad = g.data() + misaligned,
                     .scratch = scratch.data(),
                     .classes = static_cast<std::int64_t>(n),
                     .label = label,
                     .temperature = temperature,
                     .smoothing = options.label_smoothing,
                     .soft_loss = options.alpha * temperature * temperature,
                     .hard_loss = 1.0 - options.alpha,
                     .soft_grad = options.alpha * temperature,
                     .hard_grad = 1.0 - options.alpha},
                    result.loss);
  CHECK(g.back() == T(77));  // nothing past the end
  result.grad.assign(g.begin() + static_cast<std::ptrdiff_t>(misaligned), g.end() - 1);
  return result;
}

template <class T>
std::vector<T> draw(std::size_t n, std::uint64_t seed) {
  std::vector<T> values(n);
  const Philox random(seed);
  for (std::size_t i = 0; i < n; ++i) {
    values[i] = static_cast<T>(random.word(i)) * T(0x1p-29) - T(4);
  }
  return values;
}

}  // namespace

TEMPLATE_TEST_CASE("the kernel of a soft-target row is the header's formula on every ISA",
                   "[kernels][distill]", float, double) {
  using T = TestType;
  const auto n =
      GENERATE(values<std::size_t>({1, 3, 7, 8, 9, 15, 16, 17, 31, 67, 1023, 1025, 3000}));
  const std::vector<T> student = draw<T>(n, 2 * n);
  const std::vector<T> teacher = draw<T>(n, 2 * n + 1);
  const std::vector<double> s(student.begin(), student.end());
  const std::vector<double> t(teacher.begin(), teacher.end());
  const auto label = static_cast<std::int64_t>(n / 2);
  // Rounding, as tests/reference derives it for spans of 16: 28 u a probability.
  const double u = sizeof(T) == 4 ? 0x1p-24 : 0x1p-53;
  for (const double temperature : {0.7, 1.0, 2.0, 4.0}) {
    for (const double alpha : {0.0, 0.6, 1.0}) {
      const distill::SoftTargetOptions options{
          .temperature = temperature, .alpha = alpha, .label_smoothing = 0.1};
      std::vector<double> grad(n);
      const double loss = distill::soft_target_row(s, t, label, options, 1.0, grad);
      const double grad_bound = 28 * u * 2 * (alpha * temperature + 1 - alpha);
      const double loss_bound =
          28 * u * (alpha * temperature * temperature * (2 + 16 / temperature) + 17 * (1 - alpha));
      std::vector<Result<T>> fused;
      for (const std::string& isa : available_isas()) {
        set_max_isa(isa);
        const auto result = compute(student, teacher, label, options, 0);
        const auto moved = compute(student, teacher, label, options, 1);
        set_max_isa("");
        CAPTURE(isa, n, temperature, alpha);
        REQUIRE(result.done);
        CHECK(std::abs(result.loss - loss) <= loss_bound);
        double worst = 0.0;
        for (std::size_t j = 0; j < n; ++j) {
          worst = std::max(worst, std::abs(static_cast<double>(result.grad[j]) - grad[j]));
        }
        CHECK(worst <= grad_bound);
        CHECK(moved.loss == result.loss);
        CHECK(moved.grad == result.grad);
        if (isa != "baseline") fused.push_back(result);
      }
      for (const auto& other : fused) {
        CHECK(other.loss == fused.front().loss);
        CHECK(other.grad == fused.front().grad);
      }
    }
  }
}

TEST_CASE("the kernel of a soft-target row leaves odd rows to the formula", "[kernels][distill]") {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const std::string& isa : available_isas()) {
    set_max_isa(isa);
    for (const float odd :
         {std::numeric_limits<float>::quiet_NaN(), kInfinity, -kInfinity, 3e38f}) {
      for (const std::size_t at : {0u, 5u, 17u, 18u}) {
        CAPTURE(isa, odd, at);
        std::vector<float> clean = draw<float>(19, 1);
        std::vector<float> dirty = clean;
        dirty[at] = odd;
        for (const bool in_student : {false, true}) {
          const auto result =
              compute(in_student ? dirty : clean, in_student ? clean : dirty, 0, {}, 0);
          CHECK_FALSE(result.done);
          CHECK(result.grad == std::vector<float>(19, 77.0f));
        }
      }
    }
    set_max_isa("");
  }
}

TEMPLATE_TEST_CASE(
    "the kernel of a soft-target row follows maxima that move, and logits far from 0",
    "[kernels][distill]", float, double) {
  using T = TestType;
  const std::size_t n = 5000;
  const double u = sizeof(T) == 4 ? 0x1p-24 : 0x1p-53;
  enum class Kind { rising, falling, far, masked };
  const auto kind = GENERATE(Kind::rising, Kind::falling, Kind::far, Kind::masked);
  std::vector<T> student = draw<T>(n, 3);
  std::vector<T> teacher = draw<T>(n, 4);
  for (std::size_t j = 0; j < n; ++j) {
    const auto at = static_cast<T>(j);
    if (kind == Kind::rising) student[j] += at / T(40), teacher[j] += at / T(90);
    if (kind == Kind::falling) student[j] -= at / T(40), teacher[j] += at / T(90);
    if (kind == Kind::far) student[j] += T(512), teacher[j] -= T(512);
    if (kind == Kind::masked && j % 3 != 1) student[j] = teacher[j] = T(-1e20);
  }
  const std::vector<double> s(student.begin(), student.end());
  const std::vector<double> t(teacher.begin(), teacher.end());
  for (const double temperature : {0.7, 1.0, 2.0, 4.0}) {
    for (const double alpha : {0.0, 0.6, 1.0}) {
      const distill::SoftTargetOptions options{.temperature = temperature, .alpha = alpha};
      std::vector<double> grad(n);
      const double loss = distill::soft_target_row(s, t, 4999, options, 1.0, grad);
      std::vector<Result<T>> fused;
      for (const std::string& isa : available_isas()) {
        set_max_isa(isa);
        const auto result = compute(student, teacher, 4999, options, 0);
        set_max_isa("");
        CAPTURE(isa, temperature, alpha);
        REQUIRE(result.done);
        // Arguments of powers stay below 250 wherever the power is above 2^-127, and each has three
        // roundings (the factor, the offset, the difference); masked logits have none.
        const double each = 3 * 250 * u;
        CHECK(result.loss == Approx(loss).epsilon(each).margin(each));
        double worst = 0.0;
        double equal = 0.0;
        for (std::size_t j = 0; j < n; ++j) {
          const double miss = std::abs(static_cast<double>(result.grad[j]) - grad[j]);
          worst = std::max(worst, miss);
          if (kind == Kind::masked && j % 3 != 1) equal = std::max(equal, miss);
        }
        // A probability p = 2^y is off by |y| roundings of p, at most 0.54 of them.
        CHECK(worst <= 28 * u * 2 * (alpha * temperature + 1 - alpha));
        CHECK(equal == 0.0);
        if (isa != "baseline") fused.push_back(result);
      }
      for (const auto& other : fused) {
        CHECK(other.loss == fused.front().loss);
        CHECK(other.grad == fused.front().grad);
      }
    }
  }
}

TEST_CASE("the kernel of a soft-target row gives equal logits gradient 0 in every chunk",
          "[kernels][distill]") {
  std::vector<float> logits = draw<float>(4000, 9);
  for (std::size_t j = 0; j < logits.size(); ++j) logits[j] += static_cast<float>(j) / 100.0f;
  for (const std::string& isa : available_isas()) {
    set_max_isa(isa);
    const auto result = compute(logits, logits, 0, {.temperature = 3.0, .alpha = 1.0}, 0);
    set_max_isa("");
    CHECK(result.done);
    CHECK(result.grad == std::vector<float>(logits.size(), 0.0f));
  }
}

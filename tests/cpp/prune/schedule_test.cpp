// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/prune/schedule.hpp>

#include <cmath>
#include <limits>
#include <vector>

using namespace moptcore;
using namespace moptcore::prune;

namespace {

template <class Schedule>
std::vector<Step> updates(const Schedule& schedule, Step last) {
  std::vector<Step> steps;
  for (Step step = 0; step <= last; ++step) {
    if (schedule.should_prune(step)) steps.push_back(step);
  }
  return steps;
}

}  // namespace

TEST_CASE("PolynomialDecay follows its formula and is flat outside its window", "[prune]") {
  const PolynomialDecay decay({.final_sparsity = 0.8, .begin_step = 0, .end_step = 1000});
  // 0.8 - 0.8 (1 - t)^3, written out for t = 1/4 and 1/2. A product, a cube and a difference of
  // numbers below 1 round by at most 2^-53 each.
  CHECK(decay.sparsity(-7) == 0.0);
  CHECK(decay.sparsity(0) == 0.0);
  CHECK(std::fabs(decay.sparsity(250) - 0.4625) < 4 * 0x1p-53);
  CHECK(std::fabs(decay.sparsity(500) - 0.7) < 4 * 0x1p-53);
  CHECK(decay.sparsity(1000) == 0.8);
  CHECK(decay.sparsity(std::numeric_limits<Step>::max()) == 0.8);
}

TEST_CASE("Decays start and end exactly where they are told to", "[prune]") {
  const detail::DecayOptions options{0.1, 0.7, 3, 17, 5};
  const auto both = [](const auto& decay) {
    CHECK(decay.sparsity(3) == 0.1);
    CHECK(decay.sparsity(17) == 0.7);
    // The middle of a linear and of a cosine decay is the mean, and an early one is beyond it.
    CHECK(decay.sparsity(10) > 0.4 - 1e-12);
    CHECK(updates(decay, 30) == std::vector<Step>{3, 8, 13, 17});
  };
  both(LinearDecay(options));
  both(CosineDecay(options));
  both(ExponentialDecay(options));
  both(PolynomialDecay({0.1, 0.7, 3, 17, 3.0, 5}));
}

TEST_CASE("A sparsity may also fall", "[prune]") {
  const LinearDecay decay({0.75, 0.25, 0, 4, 1});
  CHECK(decay.sparsity(1) == 0.625);
  CHECK(decay.sparsity(3) == 0.375);
}

TEST_CASE("ConstantSparsity runs for ever, or until its end", "[prune]") {
  CHECK(updates(ConstantSparsity({.target_sparsity = 0.5, .frequency = 7}), 21) ==
        std::vector<Step>{0, 7, 14, 21});
  CHECK(updates(ConstantSparsity({0.5, 2, 12, 7}), 40) == std::vector<Step>{2, 9, 12});
  CHECK(updates(ConstantSparsity({0.5, 4, 4, 7}), 40) == std::vector<Step>{4});
  CHECK(ConstantSparsity({0.5, 2, 12, 7}).sparsity(-1) == 0.5);
}

TEST_CASE("Schedules compare by their options", "[prune]") {
  const LinearDecay decay({0.0, 0.5, 0, 9, 2});
  CHECK(decay == LinearDecay(decay.options()));
  CHECK_FALSE(decay == LinearDecay({0.0, 0.5, 0, 9, 3}));
}

TEST_CASE("Schedules refuse options out of range", "[prune]") {
  // TFMOT divides by zero here.
  CHECK_THROWS_WITH(PolynomialDecay({.begin_step = 5, .end_step = 5}),
                    "[prune.PolynomialDecay] end_step must be > begin_step (5), got 5");
  CHECK_THROWS_WITH(PolynomialDecay({.power = -1.0}),
                    "[prune.PolynomialDecay] power must be finite and > 0, got -1");
  CHECK_THROWS_WITH(LinearDecay({.final_sparsity = 1.0}),
                    "[prune.LinearDecay] final_sparsity must be in [0, 1), got 1");
  CHECK_THROWS_WITH(CosineDecay({.frequency = 0}),
                    "[prune.CosineDecay] frequency must be >= 1, got 0");
  CHECK_THROWS_WITH(ExponentialDecay({.begin_step = -2}),
                    "[prune.ExponentialDecay] begin_step must be >= 0, got -2");
  CHECK_THROWS_WITH(ConstantSparsity({.target_sparsity = std::nan("")}),
                    "[prune.ConstantSparsity] target_sparsity must be in [0, 1), got nan");
  CHECK_THROWS_AS(ConstantSparsity({.begin_step = 5, .end_step = 4}), Error);
}

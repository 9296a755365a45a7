// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/core/random.hpp>

#include <cmath>
#include <vector>

#include "kernels/onednn/softmax.hpp"
#include "runtime/soft_targets.hpp"

using namespace moptcore;

TEST_CASE("a gradient by logarithms of probabilities becomes one by logits, either way",
          "[runtime][softmax]") {
  constexpr std::int64_t kRows = 5;
  constexpr std::int64_t kClasses = 37;
  const Philox random(7);
  std::vector<float> x;
  std::vector<float> by;
  for (std::uint64_t i = 0; i < kRows * kClasses; ++i) {
    x.push_back(static_cast<float>(random.word(2 * i)) * 0x1p-29f - 4.0f);
    by.push_back(static_cast<float>(random.word(2 * i + 1)) * 0x1p-31f - 1.0f);
  }
  std::vector<float> log_p(x.size());
  kernels::onednn::log_softmax_f32(kRows, kClasses, x.data(), log_p.data());
  for (const auto how : {runtime::Gradient::primitive, runtime::Gradient::plain}) {
    std::vector<float> logits = x;
    std::vector<float> grad = by;
    runtime::to_logits(how, kRows, kClasses, log_p.data(), logits.data(), grad.data());
    for (std::size_t r = 0; r < kRows; ++r) {
      double sum = 0.0;
      double total = 0.0;
      double magnitude = 0.0;
      for (std::size_t i = r * kClasses; i < (r + 1) * kClasses; ++i) {
        sum += std::exp(static_cast<double>(x[i]));
        total += by[i];
        magnitude += std::abs(by[i]);
      }
      for (std::size_t i = r * kClasses; i < (r + 1) * kClasses; ++i) {
        const double p = std::exp(static_cast<double>(x[i])) / sum;
        // runtime/soft_targets.hpp's e with L = 4 for p, and a rounding a term of the sum.
        const double bound =
            (p * magnitude * (10 * 4 + 2 * kClasses + 33) + std::abs(by[i]) + 1) * 0x1p-24;
        CHECK(std::abs(grad[i] - (by[i] - p * total)) <= bound);
      }
    }
  }
}

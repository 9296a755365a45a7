// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/core/random.hpp>
#include <moptcore/lowrank/convolution.hpp>

#include <cmath>
#include <vector>

using namespace moptcore;

namespace {

std::vector<double> draw(std::size_t n, std::uint64_t seed) {
  std::vector<double> values(n);
  const Philox random(seed);
  for (std::size_t i = 0; i < n; ++i) values[i] = random.word(i) * 0x1p-31 - 1.0;
  return values;
}

double distance(const AnyView& w, const lowrank::Sequence& factors) {
  std::vector<std::vector<double>> memory;
  std::vector<AnyView> views;
  for (std::size_t i = 0; i < factors.size(); ++i) {
    const Shape& shape = factors.shape(i);
    memory.emplace_back(static_cast<std::size_t>(element_count(shape)));
    factors.write(i, TensorView<double>(memory.back().data(), shape));
    views.emplace_back(TensorView<const double>(memory.back().data(), shape));
  }
  const lowrank::Sequence whole = lowrank::reconstruct(views);
  REQUIRE(whole.shape(0) == w.shape());
  std::vector<double> back(static_cast<std::size_t>(w.size()));
  whole.write(0, TensorView<double>(back.data(), w.shape()));
  double sum = 0.0;
  double norm = 0.0;
  for (std::size_t i = 0; i < back.size(); ++i) {
    const double value = static_cast<const double*>(w.data())[i];
    sum += (back[i] - value) * (back[i] - value);
    norm += value * value;
  }
  return std::sqrt(sum / norm);
}

}  // namespace

TEST_CASE("the error that a sequence of convolutions states is the one it has", "[lowrank]") {
  const std::vector<double> memory = draw(12 * 10 * 9, 1);
  const AnyView w = TensorView<const double>(memory.data(), {12, 10, 3, 3});
  for (const double params : {0.2, 0.5, 0.8}) {
    lowrank::FactorizeOptions options;
    options.budget.params = params;
    lowrank::TuckerOptions tucker_options;
    tucker_options.budget.params = params;
    const auto tucker = lowrank::tucker2(w, tucker_options);
    const auto channel = lowrank::channel_svd(w, options);
    const auto spatial = lowrank::spatial_svd(w, options);
    for (const auto* sequence : {&tucker, &channel, &spatial}) {
      // Errors are roots of differences of squares, which are exact to some 1e-15.
      CHECK(std::abs(distance(w, *sequence) - sequence->relative_error()) < 1e-7);
      std::int64_t held = 0;
      for (std::size_t i = 0; i < sequence->size(); ++i) held += element_count(sequence->shape(i));
      CHECK(static_cast<double>(held) <= params * static_cast<double>(w.size()));
    }
  }
}

TEST_CASE("a convolution that is a sequence already is found again", "[lowrank]") {
  const std::vector<double> first = draw(2 * 10, 1);
  const std::vector<double> core = draw(3 * 2 * 9, 2);
  const std::vector<double> last = draw(12 * 3, 3);
  const auto whole = lowrank::reconstruct({TensorView<const double>(first.data(), {2, 10, 1, 1}),
                                           TensorView<const double>(core.data(), {3, 2, 3, 3}),
                                           TensorView<const double>(last.data(), {12, 3, 1, 1})});
  std::vector<double> memory(12 * 10 * 9);
  whole.write(0, TensorView<double>(memory.data(), {12, 10, 3, 3}));
  const AnyView w = TensorView<const double>(memory.data(), {12, 10, 3, 3});
  lowrank::TuckerOptions ranks;
  ranks.ranks = {3, 2};
  CHECK(distance(w, lowrank::tucker2(w, ranks)) < 1e-13);
  lowrank::TuckerOptions error;
  error.budget.error = 1e-4;
  CHECK(lowrank::tucker2(w, error).shape(1) == Shape{3, 2, 3, 3});
  lowrank::FactorizeOptions small;
  small.budget.error = 1e-6;
  CHECK(lowrank::channel_svd(w, small).shape(0) == Shape{3, 10, 3, 3});
}

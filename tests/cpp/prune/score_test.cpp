// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/core/isa.hpp>
#include <moptcore/core/parallel.hpp>
#include <moptcore/core/random.hpp>
#include <moptcore/prune/prune.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include <xtensor/xarray.hpp>

using namespace moptcore;
using namespace moptcore::prune;

namespace {

std::vector<double> numbers(std::size_t n, std::uint64_t seed) {
  const Philox philox(seed);
  std::vector<double> values(n);
  for (std::size_t i = 0; i < n; ++i) {
    values[i] = static_cast<double>(static_cast<std::int32_t>(philox.word(i))) * 0x1p-31;
  }
  return values;
}

}  // namespace

TEST_CASE("Scores of tensors are those of their elements", "[prune]") {
  const std::size_t n = 70'001;
  const auto weights = numbers(n, 1);
  const auto grad = numbers(n, 2);
  std::vector<double> positive(n);
  for (std::size_t i = 0; i < n; ++i) positive[i] = std::fabs(grad[i]) + 0.25;
  const double total = snip_total(weights, grad);
  std::vector<double> sum(n, 0.5);
  movement_score(weights, grad, sum);
  const auto check_each = [&](auto&& fill, auto&& element) {
    std::vector<double> doubles(n);
    std::vector<float> floats(n);
    fill(doubles);
    fill(floats);
    for (std::size_t i = 0; i < n; ++i) {
      REQUIRE(doubles[i] == element(i));
      REQUIRE(floats[i] == static_cast<float>(element(i)));
    }
  };
  check_each([&](auto& out) { magnitude_score(weights, out); },
             [&](std::size_t i) { return magnitude_score(weights[i]); });
  check_each([&](auto& out) { taylor_score(weights, grad, out); },
             [&](std::size_t i) { return taylor_score(weights[i], grad[i]); });
  check_each([&](auto& out) { taylor_score(weights, grad, out, {.squared = false}); },
             [&](std::size_t i) { return taylor_score(weights[i], grad[i], false); });
  check_each([&](auto& out) { snip_score(weights, grad, out); },
             [&](std::size_t i) { return snip_score(weights[i], grad[i], total); });
  check_each([&](auto& out) { obs_score(weights, positive, out); },
             [&](std::size_t i) { return obs_score(weights[i], positive[i]); });
  check_each([&](auto& out) { obd_score(weights, grad, out); },
             [&](std::size_t i) { return obd_score(weights[i], grad[i]); });
  check_each([&](auto& out) { wanda_score(weights, positive, out, {.axis = 0}); },
             [&](std::size_t i) { return wanda_score(weights[i], positive[i]); });
  for (std::size_t i = 0; i < n; ++i) {
    REQUIRE(sum[i] == movement_score(weights[i], grad[i], 0.5));
  }
}

TEST_CASE("Scores do not depend on threads or instruction sets", "[prune]") {
  const auto weights = numbers(std::size_t{300} * 400, 3);
  const auto grad = numbers(std::size_t{300} * 400, 4);
  const AnyView matrix(weights.data(), DType::float64, Shape{300, 400});
  const auto all = [&] {
    std::vector<double> result(weights.size());
    std::vector<double> lamp(weights.size());
    std::vector<double> fpgm(400);
    snip_score(weights, grad, result);
    lamp_score(weights, lamp);
    fpgm_score(matrix, fpgm, {.axis = 1});
    result.insert(result.end(), lamp.begin(), lamp.end());
    result.insert(result.end(), fpgm.begin(), fpgm.end());
    return result;
  };
  const auto expected = all();
  const int threads = num_threads();
  for (const int count : {1, 3}) {
    set_num_threads(count);
    for (const auto& isa : available_isas()) {
      set_max_isa(isa);
      CHECK(all() == expected);
    }
  }
  set_max_isa("");
  set_num_threads(threads);
}

TEST_CASE("A score divides by nothing that is zero or infinite", "[prune]") {
  CHECK(snip_score(2.0, 3.0, 0.0) == 6.0);
  CHECK(snip_score(2.0, 3.0, std::numeric_limits<double>::infinity()) == 6.0);
  std::vector<double> scores(3);
  lamp_score(std::vector<double>(3), scores);
  CHECK(scores == std::vector<double>(3));
  CHECK_THROWS_AS(obs_score(scores, scores, scores), Error);
  std::vector<float> half(3);
  CHECK_THROWS_AS(magnitude_score(std::vector<int>(3), half), DTypeError);
  CHECK_THROWS_AS(magnitude_score(std::vector<double>(2), half), Error);
}

TEST_CASE("Rows are pruned each by itself, along any axis", "[prune]") {
  const xt::xarray<float> weights = {{4.F, 1.F, 3.F, 2.F}, {40.F, 10.F, 30.F, 20.F}};
  auto mask = xt::xarray<bool>::from_shape({2, 4});
  row_mask(weights, 0.5, mask);
  CHECK((mask == xt::xarray<bool>{{true, false, true, false}, {true, false, true, false}}));
  RowOptions columns;
  columns.axis = 1;
  row_mask(weights, 0.5, mask, columns);
  CHECK((mask == xt::xarray<bool>{{false, false, false, false}, {true, true, true, true}}));
}

TEST_CASE("Bounds move zeros between tensors and keep their number", "[prune]") {
  const std::vector<float> small = {1.F, 2.F, 3.F, 4.F};
  const std::vector<float> large = {10.F, 20.F, 30.F, 40.F};
  const std::vector<AnyView> weights = {small, large};
  xt::xarray<bool> a = xt::xarray<bool>::from_shape({4});
  xt::xarray<bool> b = xt::xarray<bool>::from_shape({4});
  const std::vector<MutableAnyView> masks = {a, b};
  GlobalOptions options;
  const std::vector<double> maximum = {0.75};
  options.maximum = maximum;
  global_mask(weights, 0.5, masks, options);
  CHECK((a == xt::xarray<bool>{false, false, false, true}));
  CHECK((b == xt::xarray<bool>{false, true, true, true}));
  const std::vector<double> minimum = {0.0, 0.5};
  options.minimum = minimum;
  global_mask(weights, 0.5, masks, options);
  CHECK((a == xt::xarray<bool>{false, false, true, true}));
  CHECK((b == xt::xarray<bool>{false, false, true, true}));
  const std::vector<double> greater = {0.9};
  options.minimum = greater;
  CHECK_THROWS_AS(global_mask(weights, 0.5, masks, options), Error);
}

TEST_CASE("Regrowth keeps the number of weights, in masks of bits and of bytes", "[prune]") {
  const std::vector<float> weights = {3.F, 1.F, 1.F, 0.F, 0.F, 0.F};
  const std::vector<float> grad = {9.F, 9.F, 0.F, 2.F, 5.F, 5.F};
  const xt::xarray<bool> mask = {true, true, true, false, false, false};
  auto out = xt::xarray<bool>::from_shape({6});
  // Of the two equal weights the later is dropped, of the equal gradients the earlier grows.
  regrow(mask, weights, grad, 1.0 / 3.0, out);
  CHECK((out == xt::xarray<bool>{true, true, false, false, true, false}));
  std::vector<std::uint8_t> packed(1);
  regrow(mask, weights, grad, 1.0 / 3.0, packed);
  CHECK(packed[0] == 0b010011);
  regrow(packed, weights, grad, 0.0, out);
  CHECK((out == xt::xarray<bool>{true, true, false, false, true, false}));
}

TEST_CASE("Functions, patterns and fractions have schedules", "[prune]") {
  const FunctionSchedule function(
      {[](Step step) { return 0.01 * static_cast<double>(step); }, 10, 50, 20});
  CHECK(function.sparsity(0) == 0.1);
  CHECK(function.sparsity(30) == 0.01 * 30.0);
  CHECK(function.sparsity(99) == 0.5);
  CHECK(function.should_prune(30));
  CHECK(function.should_prune(50));
  CHECK_FALSE(function.should_prune(70));
  CHECK_THROWS_AS(FunctionSchedule({[](Step) { return 1.0; }}).sparsity(0), Error);
  CHECK_THROWS_AS(FunctionSchedule({}), Error);

  const GradualNM gradual({.n = 1, .m = 4, .begin_step = 0, .end_step = 30, .power = 1.0});
  CHECK(gradual.kept(0) == 4);
  CHECK(gradual.kept(10) == 3);
  CHECK(gradual.kept(20) == 2);
  CHECK(gradual.kept(30) == 1);
  CHECK(gradual.sparsity(20) == 0.5);

  const CosineRegrowth regrowth({.initial_fraction = 0.4, .begin_step = 0, .end_step = 100});
  CHECK(regrowth.fraction(0) == 0.4);
  CHECK(regrowth.fraction(50) == Approx(0.2));
  CHECK(regrowth.fraction(100) == 0.0);
  CHECK_FALSE(regrowth.should_regrow(100));
}

// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <numeric>

#include <moptcore/graph/operator.hpp>

#include "catch.hpp"
#include "graph/run_node.hpp"

using namespace moptcore;
using namespace moptcore::graph;
using run_node::run;
using run_node::values;

namespace {

constexpr std::int64_t kCount = 100'000;

double mean_of(const std::vector<float>& all) {
  return std::accumulate(all.begin(), all.end(), 0.0) / static_cast<double>(all.size());
}

double variance_of(const std::vector<float>& all) {
  const double mean = mean_of(all);
  double sum = 0;
  for (const float value : all) sum += (value - mean) * (value - mean);
  return sum / static_cast<double>(all.size());
}

}  // namespace

TEST_CASE("random numbers have the moments that they are asked for", "[graph]") {
  const std::vector<std::int64_t> shape{kCount};
  const auto normal =
      values<float>(run("RandomNormal", {}, {{{"shape", shape}, {"mean", 3.0f}, {"scale", 2.0f}}}));
  // Five standard errors: 2 / sqrt(n) of the mean, 4 sqrt(2 / n) of the variance.
  CHECK(std::abs(mean_of(normal) - 3) < 5 * 2 / std::sqrt(double{kCount}));
  CHECK(std::abs(variance_of(normal) - 4) < 5 * 4 * std::sqrt(2.0 / kCount));
  const auto uniform =
      values<float>(run("RandomUniform", {}, {{{"shape", shape}, {"low", -1.0f}, {"high", 3.0f}}}));
  CHECK(*std::ranges::min_element(uniform) >= -1);
  CHECK(*std::ranges::max_element(uniform) <= 3);
  // Variance 16 / 12, its standard error from the fourth moment 16^2 / 80.
  CHECK(std::abs(mean_of(uniform) - 1) < 5 * std::sqrt(16.0 / 12 / kCount));
  CHECK(std::abs(variance_of(uniform) - 16.0 / 12) <
        5 * std::sqrt((256.0 / 80 - 256.0 / 144) / kCount));
}

TEST_CASE("a seed fixes random numbers, and calls of one run differ", "[graph]") {
  const std::vector<std::int64_t> shape{8};
  const auto draw = [&](std::uint64_t environment, float seed, bool given) {
    run_node::Options how{{{"shape", shape}}};
    how.seed = environment;
    if (given) how.attributes.emplace_back("seed", seed);
    return values<float>(run("RandomNormal", {}, how));
  };
  CHECK(draw(1, 0, false) == draw(1, 0, false));
  CHECK(draw(1, 0, false) != draw(2, 0, false));
  CHECK(draw(1, 5, true) == draw(2, 5, true));
  CHECK(draw(1, 5, true) != draw(1, 6, true));
  for (const char* name : {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike",
                           "Bernoulli", "Multinomial", "Dropout"}) {
    CHECK_FALSE(find_operator("", name, 22)->deterministic);
  }
  CHECK(find_operator("", "Dropout", 7)->deterministic);
}

TEST_CASE("Bernoulli and Multinomial draw as often as they are told", "[graph]") {
  Tensor odds(ElementType::float32, Shape{kCount});
  std::fill_n(odds.mutable_data<float>(), kCount, 0.25f);
  const auto draws = values<float>(run("Bernoulli", {odds}));
  CHECK(std::abs(mean_of(draws) - 0.25) < 5 * std::sqrt(0.25 * 0.75 / kCount));
  CHECK(std::ranges::all_of(draws, [](float x) { return x == 0 || x == 1; }));
  const auto log = [](double p) { return static_cast<float>(std::log(p)); };
  const Tensor logits =
      Tensor::of<float>(Shape{1, 3}, {log(0.5), -std::numeric_limits<float>::infinity(), log(0.5)});
  const auto picks =
      values<std::int32_t>(run("Multinomial", {logits}, {{{"sample_size", kCount}}}));
  CHECK(std::ranges::count(picks, 1) == 0);
  CHECK(std::abs(static_cast<double>(std::ranges::count(picks, 2)) / kCount - 0.5) <
        5 * std::sqrt(0.25 / kCount));
  CHECK_THROWS_AS(run("Multinomial", {logits}, {{{"sample_size", std::int64_t{0}}}}), Error);
  CHECK_THROWS_AS(run("Multinomial", {Tensor(ElementType::float32, Shape{2, 0})}), Error);
}

TEST_CASE("Dropout passes on its input unless it trains", "[graph]") {
  Tensor x(ElementType::float32, Shape{kCount});
  std::fill_n(x.mutable_data<float>(), kCount, 3.0f);
  const auto still = run_node::run_all("Dropout", {x}, {{}, 13, 2});
  CHECK(values<float>(still[0].tensor()) == values<float>(x));
  CHECK(std::ranges::all_of(still[1].tensor().values<bool>(), [](bool kept) { return kept; }));
  const auto trained =
      run_node::run_all("Dropout", {x, Tensor::scalar(0.25f), Tensor::scalar(true)}, {{}, 13, 2});
  const auto y = trained[0].tensor().values<float>();
  const auto mask = trained[1].tensor().values<bool>();
  std::int64_t kept = 0;
  for (std::int64_t i = 0; i < kCount; ++i) {
    kept += mask[i] ? 1 : 0;
    REQUIRE(y[i] == (mask[i] ? 4.0f : 0.0f));
  }
  CHECK(std::abs(static_cast<double>(kept) / kCount - 0.75) < 5 * std::sqrt(0.25 * 0.75 / kCount));
  CHECK_THROWS_AS(run("Dropout", {x, Tensor::scalar(1.0f), Tensor::scalar(true)}), Error);
  CHECK(values<float>(run("Dropout", {x}, {{{"ratio", 0.5f}}, 7})) == values<float>(x));
}

TEST_CASE("Range counts up and down without overflow", "[graph]") {
  const auto range = [](std::int64_t start, std::int64_t limit, std::int64_t delta) {
    return values<std::int64_t>(
        run("Range", {Tensor::scalar(start), Tensor::scalar(limit), Tensor::scalar(delta)}));
  };
  using Longs = std::vector<std::int64_t>;
  constexpr std::int64_t kMin = std::numeric_limits<std::int64_t>::min();
  constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();
  CHECK(range(3, 9, 3) == Longs{3, 6});
  CHECK(range(10, 4, -2) == Longs{10, 8, 6});
  CHECK(range(1, 1, 1).empty());
  CHECK(range(1, 5, -1).empty());
  CHECK(range(kMin, kMax, kMax) == Longs{kMin, -1, kMax - 1});
  CHECK(range(kMax, kMin, kMin) == Longs{kMax, -1});
  CHECK_THROWS_AS(range(0, 1, 0), Error);
  CHECK_THROWS_AS(range(kMin, kMax, 1), Error);
  const auto floats = [](float start, float limit, float delta) {
    return values<float>(
        run("Range", {Tensor::scalar(start), Tensor::scalar(limit), Tensor::scalar(delta)}));
  };
  CHECK(floats(0, 1, 0.25f) == std::vector<float>{0, 0.25f, 0.5f, 0.75f});
  CHECK_THROWS_AS(floats(0, 1, 0), Error);
  CHECK_THROWS_AS(floats(0, std::numeric_limits<float>::quiet_NaN(), 1), Error);
  CHECK_THROWS_AS(floats(0, 3e38f, 1e-30f), Error);
}

TEST_CASE("windows are periodic or symmetric", "[graph]") {
  const std::int64_t zero = 0;
  const Tensor five = Tensor::scalar<std::int64_t>(5);
  const auto hann = values<float>(run("HannWindow", {five}, {{{"periodic", zero}}}));
  // sin^2(pi i / 4), in double.
  for (int i = 0; i < 5; ++i) {
    const double sine = std::sin(std::numbers::pi * i / 4);
    CHECK(std::abs(hann[i] - sine * sine) < 1e-7);
  }
  const auto hamming = values<double>(run("HammingWindow", {Tensor::scalar<std::int32_t>(4)},
                                          {{{"output_datatype", std::int64_t{11}}}}));
  CHECK(std::abs(hamming[0] - 4.0 / 46) < 1e-15);
  CHECK(std::abs(hamming[2] - 1) < 1e-15);
  const auto blackman = values<float>(run("BlackmanWindow", {five}, {{{"periodic", zero}}}));
  CHECK(std::abs(blackman[0]) < 1e-7);
  CHECK(blackman[2] == 1);
  CHECK(values<float>(run("HannWindow", {Tensor::scalar<std::int64_t>(1)},
                          {{{"periodic", zero}}})) == std::vector<float>{1});
  CHECK_THROWS_AS(run("HannWindow", {Tensor::scalar<std::int64_t>(-1)}), Error);
}

TEST_CASE("optimizers take the step that their formulas say", "[graph]") {
  const Tensor rate = Tensor::scalar(0.5f);
  const Tensor first = Tensor::scalar<std::int64_t>(0);
  const Tensor x = Tensor::of<float>(Shape{2}, {1, 2});
  const Tensor gradient = Tensor::of<float>(Shape{2}, {2, -4});
  const Tensor state = Tensor::of<float>(Shape{2}, {5, 9});
  run_node::Options how{{}, 1, 2, "ai.onnx.preview.training"};
  how.attributes = {{"epsilon", 0.0f}};
  const auto stepped = run_node::run_all("Adagrad", {rate, first, x, gradient, state}, how);
  CHECK(values<float>(stepped[1].tensor()) == std::vector<float>{9, 25});
  // x - 0.5 g / sqrt(h), rounded once.
  CHECK(
      values<float>(stepped[0].tensor()) ==
      std::vector<float>{static_cast<float>(1 - 0.5 * 2 / 3), static_cast<float>(2 + 0.5 * 4 / 5)});
  how.attributes = {{"alpha", 0.5f},
                    {"beta", 0.25f},
                    {"norm_coefficient", 0.0f},
                    {"mode", std::string("nesterov")}};
  const auto moved = run_node::run_all(
      "Momentum", {rate, Tensor::scalar<std::int64_t>(3), x, gradient, state}, how);
  CHECK(values<float>(moved[1].tensor()) == std::vector<float>{3, 3.5f});
  CHECK(values<float>(moved[0].tensor()) == std::vector<float>{-0.75f, 3.125f});
  CHECK_THROWS_AS(run_node::run_all("Momentum", {rate, first, x, gradient}, how), FormatError);
  how.attributes = {{"mode", std::string("other")}};
  CHECK_THROWS_AS(run_node::run_all("Momentum", {rate, first, x, gradient, state}, how), Error);
}

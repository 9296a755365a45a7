// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/lowrank/rank.hpp>

#include <optional>
#include <vector>

using namespace moptcore;
using lowrank::allocate_ranks;
using lowrank::AllocateOptions;

TEST_CASE("the largest useful rank is the last that makes a matrix smaller", "[lowrank]") {
  for (std::int64_t m = 1; m < 20; ++m) {
    for (std::int64_t n = 1; n < 20; ++n) {
      const std::int64_t r = lowrank::largest_useful_rank(m, n);
      CHECK((r == 0 || r * (m + n) < m * n));
      CHECK((r + 1) * (m + n) >= m * n);
    }
  }
}

TEST_CASE("ranks go where they buy most energy for a parameter", "[lowrank]") {
  // Steps of 12 parameters each, of 64: the largest of all values come first.
  const std::vector<std::vector<double>> values = {{3.0, 0.1, 0.0, 0.0}, {2.0, 1.0, 0.0, 0.0}};
  const std::vector<std::pair<std::int64_t, std::int64_t>> shapes = {{4, 8}, {4, 8}};
  using Ranks = std::vector<std::optional<std::int64_t>>;
  AllocateOptions options;
  options.importance = {1.0, 1.0};
  options.params = 36.0 / 64;
  CHECK(allocate_ranks(values, shapes, options) == Ranks{1, 2});
  options.params = 24.0 / 64;
  CHECK(allocate_ranks(values, shapes, options) == Ranks{1, 1});
  options.params = 1.0;
  // Nothing is lost by rank 2 everywhere: no reason to keep a matrix whole.
  CHECK(allocate_ranks(values, shapes, options) == Ranks{2, 2});
  options.params.reset();
  options.error = 0.0;
  CHECK(allocate_ranks(values, shapes, options) == Ranks{2, 2});
}

TEST_CASE("choices of any kind share a budget, and none grows its tensor", "[lowrank]") {
  using Choices = std::vector<std::vector<lowrank::Choice>>;
  using Taken = std::vector<std::optional<std::size_t>>;
  // The second of the first tensor loses more than a cheaper one, and its third is no smaller.
  const Choices choices = {{{10, 0.5}, {20, 0.6}, {100, 0.0}, {40, 0.1}}, {{30, 0.4}, {10, 0.45}}};
  AllocateOptions options;
  options.params = 20.0 / 150;
  CHECK(lowrank::allocate_choices(choices, {100, 50}, options) == Taken{0, 1});
  options.params = 50.0 / 150;
  CHECK(lowrank::allocate_choices(choices, {100, 50}, options) == Taken{3, 1});
  options.params = 1.0;
  CHECK(lowrank::allocate_choices(choices, {100, 50}, options) ==
        Taken{std::nullopt, std::nullopt});
  options.params = 0.1;
  CHECK_THROWS_AS(lowrank::allocate_choices(choices, {100, 50}, options), Error);
  CHECK_THROWS_AS(lowrank::allocate_choices(choices, {100}, options), Error);
}

TEST_CASE("a budget below rank 1 everywhere is refused", "[lowrank]") {
  const std::vector<std::vector<double>> values = {{1.0, 1.0}};
  AllocateOptions options;
  CHECK_THROWS_AS(allocate_ranks(values, {{2, 10}}, options), Error);
  options.params = 0.5;
  CHECK_THROWS_AS(allocate_ranks(values, {{2, 10}}, options), Error);
  CHECK_THROWS_AS(allocate_ranks(values, {{3, 10}}, options), Error);
  CHECK_THROWS_AS(allocate_ranks({}, {}, options), Error);
}

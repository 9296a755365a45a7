// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/core/shape.hpp>

#include <cstdint>
#include <sstream>
#include <vector>

using namespace moptcore;

TEST_CASE("a shape counts its elements and refuses what does not fit", "[core]") {
  CHECK(element_count(Shape{}) == 1);
  CHECK(element_count(Shape{2, 3, 4}) == 24);
  CHECK(element_count(Shape{1 << 30, 0, 1 << 30, 1 << 30}) == 0);
  CHECK(element_count(Shape{std::int64_t{1} << 62}) == std::int64_t{1} << 62);
  CHECK(element_count(Shape{7, INT64_MAX / 7}) == INT64_MAX / 7 * 7);
  CHECK_THROWS_AS(element_count(Shape{8, INT64_MAX / 7}), Error);
  CHECK_THROWS_AS(element_count(Shape{std::int64_t{1} << 32, std::int64_t{1} << 31}), Error);
  CHECK_THROWS_WITH(element_count(Shape{2, -1}), "[core.Shape] extents must be >= 0, got (2, -1)");
  CHECK_THROWS_AS(element_count(Shape{0, -1}), Error);
}

TEST_CASE("a shape holds at most 16 dimensions", "[core]") {
  CHECK(Shape(std::vector<std::int64_t>(16, 1)).rank() == 16);
  CHECK_THROWS_AS(Shape(std::vector<std::int64_t>(17, 1)), UnsupportedError);
  CHECK_THROWS_AS(Shape(std::vector<int>(17, 1)), UnsupportedError);
  Shape full(std::vector<std::int64_t>(16, 1));
  CHECK_THROWS_AS(full.push_back(1), UnsupportedError);
}

TEST_CASE("strides are row-major and shapes print as in Python", "[core]") {
  CHECK(contiguous_strides(Shape{2, 3, 4}) == Shape{12, 4, 1});
  CHECK(contiguous_strides(Shape{2, 0, 4}) == Shape{4, 4, 1});
  CHECK(contiguous_strides(Shape{}) == Shape{});
  std::ostringstream text;
  text << Shape{} << Shape{5} << Shape{2, 3};
  CHECK(text.str() == "()(5,)(2, 3)");
}

TEST_CASE("an axis counts from the front or the back", "[core]") {
  CHECK(normalize_axis(0, 3, "test") == 0);
  CHECK(normalize_axis(-1, 3, "test") == 2);
  CHECK(normalize_axis(-3, 3, "test") == 0);
  CHECK_THROWS_AS(normalize_axis(3, 3, "test"), std::out_of_range);
  CHECK_THROWS_AS(normalize_axis(0, 0, "test"), std::out_of_range);
  CHECK_THROWS_WITH(normalize_axis(-4, 3, "test"), "[test] axis must be in [-3, 3), got -4");
}

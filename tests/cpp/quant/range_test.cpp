// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/quant/quant.hpp>

#include <cmath>
#include <limits>
#include <vector>

using namespace moptcore;
using namespace moptcore::quant;

TEST_CASE("Symmetric int8 grids divide the largest magnitude by 127", "[quant]") {
  const Grid grid = grid_from_range(-0.5f, 1.27f, DType::int8, true);
  CHECK(grid.scale == static_cast<float>(static_cast<double>(1.27f) / 127.0));
  CHECK(grid.zero_point == 0);
  CHECK(grid.qmin == -127);
  CHECK(grid.qmax == 127);
  CHECK(grid_from_range(-0.5f, 1.27f, DType::int8, true, Compat::torch).scale == 1.27f / 127.5f);
  CHECK(grid_from_range(-2.0f, 1.0f, DType::uint8, true).zero_point == 128);
}

TEST_CASE("Affine grids hold zero exactly, wherever the range lies", "[quant]") {
  const auto [low, high] =
      GENERATE(table<float, float>({{-1.0f, 3.0f}, {0.5f, 2.0f}, {-2.0f, -0.5f}, {0.0f, 1e-44f}}));
  CAPTURE(low, high);
  for (const DType dtype : {DType::int8, DType::uint8, DType::int4, DType::int16}) {
    const Grid grid = grid_from_range(low, high, dtype, false);
    CHECK(grid.zero_point >= grid.qmin);
    CHECK(grid.zero_point <= grid.qmax);
    CHECK(grid.scale >= kMinScale);
    CHECK(fake_quantize(0.0f, grid) == 0.0f);
  }
}

TEST_CASE("A range of nothing but zero gives scale 1", "[quant]") {
  for (const bool symmetric : {true, false}) {
    CHECK(grid_from_range(0.0f, 0.0f, DType::int8, symmetric).scale == 1.0f);
    CHECK(grid_from_range(-0.0f, 0.0f, DType::uint8, symmetric).scale == 1.0f);
  }
}

TEST_CASE("Observers widen, average, merge and stay unchanged on bad input", "[quant]") {
  const std::vector<float> a = {-1, 2, 0.5f, 4};
  const std::vector<float> b = {-3, 1, 0, 5};
  MinMaxObserver all;
  all.update(a);
  all.update(b);
  CHECK(all.min() == std::vector<float>{-3});
  CHECK(all.max() == std::vector<float>{5});
  const std::vector<float> bad = {1, std::numeric_limits<float>::quiet_NaN()};
  CHECK_THROWS_AS(all.update(bad), NonFiniteError);
  CHECK(all.max() == std::vector<float>{5});

  MinMaxObserver columns(-1);
  columns.update(TensorView<const float>(a.data(), Shape{2, 2}));
  MinMaxObserver other(-1);
  other.update(TensorView<const float>(b.data(), Shape{2, 2}));
  columns.merge(other);
  CHECK(columns.min() == std::vector<float>{-3, 1});
  CHECK(columns.max() == std::vector<float>{0.5f, 5});
  CHECK(columns.qparams().size() == 2);
  CHECK_THROWS_AS(columns.merge(all), Error);

  MovingAverageObserver moving(0.5);
  moving.update(a);
  moving.update(b);
  CHECK(moving.min() == std::vector<float>{-2});
  CHECK(moving.max() == std::vector<float>{4.5f});
  MovingAverageObserver late(0.5);
  late.update(std::vector<float>{-8, 1.5f});
  moving.merge(late);  // (2 * -2 + -8) / 3 and (2 * 4.5 + 1.5) / 3
  CHECK(moving.min() == std::vector<float>{-4});
  CHECK(moving.max() == std::vector<float>{3.5f});
  CHECK(moving.count() == std::vector<std::int64_t>{3});
  CHECK_THROWS_AS(moving.merge(MovingAverageObserver(0.25)), Error);
  CHECK_THROWS_AS(moving.restore({1}, {2}, {0}), FormatError);
  CHECK_THROWS_AS(MovingAverageObserver(1.5), Error);
  CHECK_THROWS_AS(MinMaxObserver().qparams(), Error);
}

TEST_CASE("A range beside zero is moved to touch it, as TensorFlow does", "[quant]") {
  const NudgedRange range = nudge_range(0.2f, 1.0f, 8, false);
  CHECK(range.min == 0.0f);
  CHECK(range.max == Approx(0.8f).epsilon(1e-6));  // 255 roundings of at most 2^-24
  CHECK(fake_quantize(5.0f, range) == Approx(0.8f).epsilon(1e-6));
  CHECK(fake_quantize(5.0f, nudge_range(0.0f, 0.0f, 8, false)) == 0.0f);
}

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

TEST_CASE("Grids of few integers have their own width and a byte to store each", "[quant]") {
  struct Row {
    GridType type;
    const char* text;
    DType storage;
    int least, greatest, narrow, middle;
  };
  const auto row = GENERATE(Row{FewLevels::int3, "int3", DType::int8, -4, 3, -3, 0},
                            Row{FewLevels::uint3, "uint3", DType::uint8, 0, 7, 1, 4},
                            Row{FewLevels::int2, "int2", DType::int8, -2, 1, -1, 0},
                            Row{FewLevels::uint2, "uint2", DType::uint8, 0, 3, 1, 2},
                            Row{FewLevels::ternary, "ternary", DType::int8, -1, 1, -1, 0},
                            Row{DType::int4, "int4", DType::int4, -8, 7, -7, 0});
  CAPTURE(row.text);
  CHECK(name(row.type) == row.text);
  CHECK(few_levels_from(row.text) == row.type.levels());
  CHECK(row.type.storage() == row.storage);
  CHECK(is_quantized(row.type));
  CHECK(integer_range(row.type) == std::pair{row.least, row.greatest});
  CHECK(grid_range(row.type, false) == std::pair{row.least, row.greatest});
  CHECK(grid_range(row.type, true, Compat::torch) == std::pair{row.least, row.greatest});
  // The largest magnitude is the last of the steps on its side.
  const Grid grid = grid_from_range(-1.5f, 0.5f, row.type, true);
  CHECK(grid == Grid{1.5f / static_cast<float>(row.greatest - row.middle), row.middle, row.narrow,
                     row.greatest});

  const QParams whole(0.5f, 1, {row.type});
  CHECK(whole.type() == row.type);
  CHECK(whole.dtype() == row.storage);
  CHECK(whole.qmin() == row.least);
  CHECK(whole.qmax() == row.greatest);
  CHECK_THROWS_AS(QParams(0.5f, 0, {row.type, row.least - 1}), Error);
  CHECK_THROWS_AS(QParams(0.5f, 0, {row.type, std::nullopt, row.greatest + 1}), Error);
}

TEST_CASE("Grids of few integers saturate at their ends, not at those of the byte", "[quant]") {
  const std::vector<float> x = {-9.0f, -1.6f, -0.4f, 0.6f, 9.0f};
  const QParams three(0.5f, 0, {FewLevels::int3});
  std::vector<std::int8_t> q(x.size());
  quantize(x, three, q);
  CHECK(q == std::vector<std::int8_t>{-4, -3, -1, 1, 3});
  std::vector<float> back(x.size());
  std::vector<float> fake(x.size());
  dequantize(q, three, back);
  fake_quantize(x, three.view(), fake);
  CHECK(back == fake);
  CHECK(back == std::vector<float>{-2.0f, -1.5f, -0.5f, 0.5f, 1.5f});
  std::vector<std::uint8_t> unsigned_bytes(x.size());
  CHECK_THROWS_AS(quantize(x, three, unsigned_bytes), DTypeError);
  quantize(x, QParams(0.5f, 2, {FewLevels::uint2}), unsigned_bytes);
  CHECK(unsigned_bytes == std::vector<std::uint8_t>{0, 0, 1, 3, 3});
  CHECK(QParams(0.5f, 0, {FewLevels::int2, -1}) != QParams(0.5f, 0, {FewLevels::ternary}));
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

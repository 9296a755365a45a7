// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/core/parallel.hpp>
#include <moptcore/quant/quant.hpp>

#include <cmath>
#include <limits>
#include <vector>

using namespace moptcore;
using namespace moptcore::quant;

TEST_CASE("Halves round to even, saturation happens before the cast", "[quant]") {
  const Grid grid{1.0f, 0, -128, 127};
  const auto [x, expected] = GENERATE(table<float, int>({{0.5f, 0},
                                                         {1.5f, 2},
                                                         {2.5f, 2},
                                                         {-0.5f, 0},
                                                         {-1.5f, -2},
                                                         {126.5f, 126},
                                                         {127.5f, 127},
                                                         {-128.5f, -128},
                                                         {1e30f, 127},
                                                         {-1e30f, -128},
                                                         {0x1p31f, 127},
                                                         {0x1p63f, 127}}));
  CAPTURE(x);
  CHECK(quantize(x, grid) == expected);
  CHECK(quantize(static_cast<double>(x), grid) == expected);
  CHECK(fake_quantize(x, grid) == static_cast<float>(expected));
}

TEST_CASE("TFLite rounds halves away from zero", "[quant]") {
  const Grid grid{1.0f, 0, -128, 127};
  CHECK(quantize(0.5f, grid, Compat::tflite) == 1);
  CHECK(quantize(-2.5f, grid, Compat::tflite) == -3);
  CHECK(quantize(0.49999997f, grid, Compat::tflite) == 0);
}

TEST_CASE("Dividing and multiplying by the reciprocal differ at ties, as ours and torch do",
          "[quant]") {
  // x / s is the tie 3.5 exactly; 1 / s rounded up or down moves x * (1 / s) off it for some s.
  int differing = 0;
  for (int i = 1; i < 1000; ++i) {
    const Grid grid{1.0f / static_cast<float>(2 * i + 1), 0, -128, 127};
    const float x = 3.5f * grid.scale;
    if (static_cast<double>(x) != 3.5 * static_cast<double>(grid.scale)) continue;  // no tie
    CHECK(quantize(x, grid) == 4);
    differing += quantize(x, grid, Compat::torch) != 4;
  }
  CHECK(differing > 0);
}

TEST_CASE("The gradient passes where rounding stays in range", "[quant]") {
  const Grid grid{1.0f, 0, -128, 127};
  CHECK(passes_gradient(127.49f, grid));
  CHECK_FALSE(passes_gradient(127.5f, grid));  // rounds to 128
  CHECK(passes_gradient(-128.5f, grid));       // rounds to -128
  CHECK_FALSE(passes_gradient(-128.6f, grid));
  CHECK_FALSE(passes_gradient(std::numeric_limits<float>::infinity(), grid));
  CHECK_FALSE(passes_gradient(std::numeric_limits<float>::quiet_NaN(), grid));
}

TEST_CASE("Any container of floats quantizes into any container of integers", "[quant]") {
  const std::vector<float> x = {-1.0f, -0.26f, 0.0f, 0.24f, 1.0f};
  const QParams params(0.5f, 1);
  std::vector<std::int8_t> q(x.size());
  quantize(x, params, q);
  CHECK(q == std::vector<std::int8_t>{-1, 0, 1, 1, 3});
  std::vector<float> back(x.size());
  dequantize(q, params, back);
  CHECK(back == std::vector<float>{-1.0f, -0.5f, 0.0f, 0.0f, 1.0f});
  std::vector<float> fake(x.size());
  std::vector<std::uint8_t> bits(1);
  fake_quantize(x, params.view(), fake, bits);
  CHECK(fake == back);
  CHECK(bits[0] == 0b11111);
  fake_quantize_backward(x, bits, fake);
  CHECK(fake == x);
}

TEST_CASE("Packed 4-bit integers go two in a byte, the first one low", "[quant]") {
  const std::vector<float> x = {-8.0f, 7.0f, 1.0f, -1.0f, 3.0f};
  const QParams params(1.0f, 0, {DType::int4});
  std::vector<std::uint8_t> bytes(3, 0xFF);
  quantize(x, params, MutableAnyView(bytes.data(), DType::int4, Shape{5}));
  CHECK(bytes == std::vector<std::uint8_t>{0x78, 0xF1, 0x03});
  std::vector<float> back(5);
  dequantize(AnyView(bytes.data(), DType::int4, Shape{5}), params, back);
  CHECK(back == x);
}

TEST_CASE("A grid for each channel is used along its axis", "[quant]") {
  const std::vector<float> x = {1, 1, 1, 1, 1, 1};
  const TensorView<const float> view(x.data(), Shape{2, 3});
  std::vector<float> y(6);
  const QParams rows({2.0f, 0.4f}, {0, 0}, 0, {});
  fake_quantize(view, rows.view(), TensorView<float>(y.data(), Shape{2, 3}));
  CHECK(y == std::vector<float>{0, 0, 0, 2 * 0.4f, 2 * 0.4f, 2 * 0.4f});
  const QParams columns({2.0f, 1.0f, 0.4f}, {0, 0, 0}, -1, {});
  fake_quantize(view, columns.view(), TensorView<float>(y.data(), Shape{2, 3}));
  CHECK(y == std::vector<float>{0, 1, 2 * 0.4f, 0, 1, 2 * 0.4f});
}

TEST_CASE("Groups of neighbours share a scale along any axis", "[quant]") {
  const std::vector<float> x = {0.4f, 1.4f, 2.6f, 0.4f, 1.4f, 2.6f};
  const TensorView<const float> view(x.data(), Shape{2, 3});
  std::vector<float> y(6);
  const TensorView<float> out(y.data(), Shape{2, 3});
  const QParams rows({1, 2, 3, 4}, {0, 0, 0, 0}, 1,
                     {DType::int8, std::nullopt, std::nullopt, 2, Shape{2, 2}});
  CHECK(rows.group_size() == 2);
  CHECK(rows.scale_shape() == Shape{2, 2});
  fake_quantize(view, rows.view(), out);
  CHECK(y == std::vector<float>{0, 1, 2, 0, 0, 4});
  const QParams columns({1, 2, 3}, {0, 0, 0}, 0,
                        {DType::int8, std::nullopt, std::nullopt, 2, Shape{1, 3}});
  fake_quantize(view, columns.view(), out);
  CHECK(y == std::vector<float>{0, 2, 3, 0, 2, 3});
  CHECK_THROWS_WITH(fake_quantize(TensorView<const float>(x.data(), Shape{3, 2}), columns.view(),
                                  TensorView<float>(y.data(), Shape{3, 2})),
                    Catch::Matchers::Contains("scale must have shape (2, 2), one for each 2"));
  const GroupRange range = group_range(view, 2, -1);
  CHECK(range.shape == Shape{2, 2});
  CHECK(range.min == std::vector<float>{0.4f, 2.6f, 0.4f, 2.6f});
  CHECK(range.max == std::vector<float>{1.4f, 2.6f, 1.4f, 2.6f});
}

TEST_CASE("Errors of quant name the argument, the value and what is allowed", "[quant]") {
  using Catch::Matchers::Contains;
  const std::vector<float> x(4, 1.0f);
  std::vector<float> y(4, 7.0f);
  std::vector<std::uint8_t> bits(2, 7);
  const QParams good(0.5f);
  CHECK_THROWS_WITH(QParams(0.0f), "[quant.QParams] scale must be finite and > 0, got 0");
  CHECK_THROWS_WITH(QParams(1.0f, 200),
                    "[quant.QParams] zero_point must be in [-128, 127], got 200");
  CHECK_THROWS_AS(QParams(1.0f, 0, {DType::float32}), DTypeError);
  CHECK_THROWS_WITH(fake_quantize(x, good.view(), y, bits),
                    Contains("bits must have 1 byte (one bit an element), got 2"));
  CHECK_THROWS_WITH(fake_quantize(x, good.view(), TensorView<float>(y.data(), Shape{2, 2})),
                    Contains("out must have the shape of x, got (2, 2)"));
  CHECK_THROWS_AS(fake_quantize(x, QParams({1, 1}, {0, 0}, 1, {}).view(), y), std::out_of_range);
  const std::vector<float> nan(4, std::numeric_limits<float>::quiet_NaN());
  CHECK_THROWS_AS(fake_quantize(nan, good.view(), y, {}, NonFinite::error), NonFiniteError);
  std::vector<std::int8_t> q(4, 7);
  CHECK_THROWS_AS(quantize(nan, good, q), NonFiniteError);
  CHECK(y == std::vector<float>(4, 7.0f));
  CHECK(q == std::vector<std::int8_t>(4, 7));
  CHECK(bits == std::vector<std::uint8_t>(2, 7));
}

TEST_CASE("Fake quantization may overwrite its source but not half of it", "[quant]") {
  std::vector<float> x(100, 0.3f);
  const QParams params(0.5f);
  CHECK_THROWS_AS(fake_quantize(TensorView<const float>(x.data(), Shape{50}), params.view(),
                                TensorView<float>(x.data() + 1, Shape{50})),
                  Error);
  CHECK(x == std::vector<float>(100, 0.3f));
  fake_quantize(x, params.view(), x);
  CHECK(x == std::vector<float>(100, 0.5f));
}

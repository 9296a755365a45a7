// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/core/random.hpp>
#include <moptcore/runtime/integer.hpp>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "kernels/every_isa.hpp"

using namespace moptcore;

namespace {

QParams bytes(float scale, std::int32_t zero_point) {
  QParams::Options options;
  options.dtype = DType::uint8;
  return QParams(scale, zero_point, options);
}

// Everything a layer takes: random integers, or the ends of their ranges only.
struct Operands {
  std::vector<float> x;
  std::vector<std::int32_t> whole;  // x's integers less the zero point
  std::vector<std::int8_t> weight;
  std::vector<float> scale;
  std::vector<std::int32_t> bias;
};

constexpr float kScale = 0.25f;
constexpr std::int32_t kZero = 131;

Operands draw(std::int64_t inputs, std::int64_t weights, std::int64_t outputs, bool extreme) {
  const Philox random(5);
  std::uint64_t at = 0;
  const auto word = [&] { return random.word(at++); };
  Operands all;
  for (std::int64_t i = 0; i < inputs; ++i) {
    const auto q = static_cast<std::int32_t>(extreme ? word() % 2 * 255 : word() % 256);
    all.whole.push_back(q - kZero);
    all.x.push_back(static_cast<float>(q - kZero) * kScale);
  }
  for (std::int64_t i = 0; i < weights; ++i) {
    const auto q = static_cast<std::int32_t>(extreme ? word() % 2 * 255 : word() % 256);
    all.weight.push_back(static_cast<std::int8_t>(q - 128));
  }
  for (std::int64_t i = 0; i < outputs; ++i) {
    all.scale.push_back(static_cast<float>(word() % 1000 + 1) * 0.001f);
    const auto sign = static_cast<std::int32_t>(word());
    all.bias.push_back(extreme ? sign : sign / 1000);
  }
  return all;
}

float expected(std::int64_t sum, const Operands& all, std::int64_t output) {
  const auto o = static_cast<std::size_t>(output);
  return static_cast<float>(sum + all.bias[o]) * (kScale * all.scale[o]);
}

}  // namespace

TEST_CASE("an integer linear layer is its sums, exactly, under every instruction set",
          "[runtime][integer]") {
  tests::with_every_isa([] {
    for (const bool extreme : {false, true}) {
      for (const Shape& sizes : {Shape{1, 1, 1}, Shape{5, 7, 3}, Shape{99, 65, 40},
                                 Shape{3, 1031, 17}, Shape{8, 32, 64}}) {
        const std::int64_t rows = sizes[0];
        const std::int64_t inputs = sizes[1];
        const std::int64_t outputs = sizes[2];
        CAPTURE(extreme, rows, inputs, outputs);
        const Operands all = draw(rows * inputs, outputs * inputs, outputs, extreme);
        std::vector<float> y(static_cast<std::size_t>(rows * outputs));
        runtime::integer_linear(
            TensorView<const float>(all.x.data(), {rows, inputs}), bytes(kScale, kZero),
            TensorView<const std::int8_t>(all.weight.data(), {outputs, inputs}), all.scale,
            AnyView(all.bias), TensorView<float>(y.data(), Shape{rows, outputs}));
        for (std::int64_t r = 0; r < rows; ++r) {
          for (std::int64_t o = 0; o < outputs; ++o) {
            std::int64_t sum = 0;
            for (std::int64_t k = 0; k < inputs; ++k) {
              sum += std::int64_t{all.whole[static_cast<std::size_t>(r * inputs + k)]} *
                     all.weight[static_cast<std::size_t>(o * inputs + k)];
            }
            REQUIRE(y[static_cast<std::size_t>(r * outputs + o)] == expected(sum, all, o));
          }
        }
      }
    }
  });
}

TEST_CASE("an integer convolution is its sums, exactly, under every instruction set",
          "[runtime][integer]") {
  struct Case {
    Shape x, weight;
    runtime::ConvolutionOptions options;
  };
  const std::vector<Case> cases = {
      {{2, 3, 9, 7}, {5, 3, 3, 3}, {}},
      {{1, 4, 8, 32}, {6, 4, 3, 3}, {.before = {1, 1}, .after = {1, 1}}},
      {{1, 4, 9, 34},
       {10, 2, 2, 3},
       {.stride = {2, 2}, .before = {0, 1}, .after = {2, 0}, .dilation = {3, 1}, .groups = 2}},
      {{2, 5, 6, 11}, {5, 1, 3, 2}, {.stride = {1, 3}, .dilation = {1, 2}, .groups = 5}},
      {{3, 8, 16, 16}, {13, 8, 1, 1}, {}},
      {{2, 3, 7, 45}, {3, 1, 3, 3}, {.before = {1, 1}, .after = {1, 1}, .groups = 3}},
      {{1, 4, 5, 40}, {2, 2, 3, 1}, {.stride = {2, 1}, .groups = 2}},
      {{1, 2, 3, 67}, {2, 1, 2, 5}, {.stride = {1, 2}, .after = {0, 3}, .groups = 2}},
  };
  tests::with_every_isa([&] {
    for (const bool extreme : {false, true}) {
      for (const Case& c : cases) {
        CAPTURE(extreme, c.x, c.weight);
        const Shape shape = runtime::convolution_shape(c.x, c.weight, c.options);
        const std::int64_t outputs = c.weight[0];
        const Operands all = draw(element_count(c.x), element_count(c.weight), outputs, extreme);
        std::vector<float> y(static_cast<std::size_t>(element_count(shape)));
        runtime::integer_convolution(
            TensorView<const float>(all.x.data(), c.x), bytes(kScale, kZero),
            TensorView<const std::int8_t>(all.weight.data(), c.weight), all.scale,
            AnyView(all.bias), c.options, TensorView<float>(y.data(), shape));
        std::size_t at = 0;
        for (std::int64_t n = 0; n < shape[0]; ++n) {
          for (std::int64_t o = 0; o < outputs; ++o) {
            const std::int64_t first = o / (outputs / c.options.groups) * c.weight[1];
            for (std::int64_t i = 0; i < shape[2]; ++i) {
              for (std::int64_t j = 0; j < shape[3]; ++j) {
                std::int64_t sum = 0;
                for (std::int64_t channel = 0; channel < c.weight[1]; ++channel) {
                  for (std::int64_t a = 0; a < c.weight[2]; ++a) {
                    for (std::int64_t b = 0; b < c.weight[3]; ++b) {
                      const std::int64_t h =
                          i * c.options.stride[0] + a * c.options.dilation[0] - c.options.before[0];
                      const std::int64_t w =
                          j * c.options.stride[1] + b * c.options.dilation[1] - c.options.before[1];
                      if (h < 0 || h >= c.x[2] || w < 0 || w >= c.x[3]) continue;
                      const std::int64_t from =
                          ((n * c.x[1] + first + channel) * c.x[2] + h) * c.x[3] + w;
                      const std::int64_t tap =
                          ((o * c.weight[1] + channel) * c.weight[2] + a) * c.weight[3] + b;
                      sum += std::int64_t{all.whole[static_cast<std::size_t>(from)]} *
                             all.weight[static_cast<std::size_t>(tap)];
                    }
                  }
                }
                REQUIRE(y[at++] == expected(sum, all, o));
              }
            }
          }
        }
      }
    }
  });
}

TEST_CASE("integer layers name what they do not take", "[runtime][integer]") {
  const std::vector<float> scale = {1.0f, 1.0f};
  const std::vector<std::int8_t> weight = {1, 2, 3, 4};
  const TensorView<const std::int8_t> matrix(weight.data(), Shape{2, 2});
  std::vector<float> x = {1.0f, std::numeric_limits<float>::quiet_NaN()};
  std::vector<float> y(2);
  const TensorView<const float> row(x.data(), Shape{1, 2});
  const TensorView<float> out(y.data(), Shape{1, 2});
  CHECK_THROWS_AS(runtime::integer_linear(row, bytes(1.0f, 0), matrix, scale, std::nullopt, out),
                  NonFiniteError);
  x[1] = 2.0f;
  CHECK_THROWS_AS(runtime::integer_linear(row, QParams({1.0f, 1.0f}, {0, 0}, 1, {}), matrix, scale,
                                          std::nullopt, out),
                  UnsupportedError);
  CHECK_THROWS_AS(
      runtime::integer_linear(row, bytes(1.0f, 0), matrix, std::span<const float>(scale).first(1),
                              std::nullopt, out),
      Error);
  CHECK_THROWS_AS(runtime::integer_linear(out, bytes(1.0f, 0), matrix, scale, std::nullopt, out),
                  Error);
  runtime::integer_linear(row, bytes(1.0f, 0), matrix, scale, std::nullopt, out);
  CHECK(y == std::vector<float>{5.0f, 11.0f});
}

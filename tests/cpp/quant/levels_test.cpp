// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/core/parallel.hpp>
#include <moptcore/core/random.hpp>
#include <moptcore/quant/quant.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

using namespace moptcore;
using namespace moptcore::quant;

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

// Every level is measured; of equally near ones the larger magnitude wins.
int nearest_code(double x, double scale, int powers) {
  int best = 0;
  double least = std::abs(x);
  for (int k = powers - 1; k >= 0; --k) {
    const double distance = std::abs(std::abs(x) - std::ldexp(scale, -k));
    if (distance <= least) {
      least = distance;
      best = k + 1;
    }
  }
  return x < 0 ? -best : best;
}

std::vector<float> around_levels(float scale, int powers) {
  std::vector<float> values = {0.0f, -0.0f, 100.0f * scale};
  for (int k = 0; k <= powers; ++k) {
    const float level = std::ldexp(scale, -k);
    for (const float factor : {1.0f, 0.75f, 1.5f, 0.5f, 1.1f, 1.9f}) {
      const float x = level * factor;
      for (const float near : {x, std::nextafter(x, kInf), std::nextafter(x, 0.0f)}) {
        values.push_back(near);
        values.push_back(-near);
      }
    }
  }
  return values;
}

}  // namespace

TEST_CASE("Binary levels are the sign times the scale, zero counts as positive",
          "[quant][levels]") {
  CHECK(binarize(0.2f, 3.0f) == 3.0f);
  CHECK(binarize(-1e-30f, 3.0f) == -3.0f);
  CHECK(binarize(-0.0f, 3.0f) == 3.0f);
  CHECK(binarize(-kInf, 3.0f) == -3.0f);
  CHECK(std::isnan(binarize(kNan, 3.0f)));
  CHECK(binary_code(-0.0f) == 1);
  CHECK(binary_code(-2.0) == -1);
  CHECK(binary_code(kNan) == 0);
}

TEST_CASE("Powers of two are the nearest on the line of numbers", "[quant][levels]") {
  const auto scale = GENERATE(1.0f, 0.3f, 7.0f, 0x1p-20f);
  const auto powers = GENERATE(1, 2, 3, 7, 15);
  CAPTURE(scale, powers);
  for (const float x : around_levels(scale, powers)) {
    CAPTURE(x);
    const int code = nearest_code(static_cast<double>(x), static_cast<double>(scale), powers);
    CHECK(power_of_two_code(x, scale, powers) == code);
    CHECK(power_of_two_code(static_cast<double>(x), scale, powers) == code);
    const float level = code == 0 ? 0.0f : std::copysign(std::ldexp(scale, 1 - std::abs(code)), x);
    CHECK(nearest_power_of_two(x, scale, powers) == level);
    CHECK(level_of<float>(code, scale) == level);
  }
  CHECK(power_of_two_code(-kInf, scale, powers) == -1);
  CHECK(power_of_two_code(kNan, scale, powers) == 0);
  CHECK(std::isnan(nearest_power_of_two(kNan, scale, powers)));
}

TEST_CASE("Levels below the least float are zero without a sign", "[quant][levels]") {
  const float least = std::numeric_limits<float>::denorm_min();
  CHECK(std::bit_cast<std::uint32_t>(level_of<float>(-60, least)) == 0);
  CHECK(level_of<double>(-60, least) == -std::ldexp(static_cast<double>(least), -59));
  CHECK(std::bit_cast<std::uint32_t>(level_of<float>(0, 1.0f)) == 0);
}

TEST_CASE("Codes of a tensor come back as fake quantization has them, at any thread count",
          "[quant][levels]") {
  const auto powers = GENERATE(0, 1, 5, 100);
  const auto inner = GENERATE(std::int64_t{3}, std::int64_t{50});
  CAPTURE(powers, inner);
  const Shape shape{400, 5, inner};
  std::vector<float> x(static_cast<std::size_t>(element_count(shape)));
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = std::sin(static_cast<float>(i)) * std::exp2(-static_cast<float>(i % 37));
  }
  const std::vector<float> scales = {0.25f, 1.0f, 0.7f, 3.0f, 0x1p-30f};
  const TensorView<const float> src(x.data(), shape);
  std::vector<std::int8_t> codes(x.size());
  std::vector<float> levels(x.size());
  std::vector<float> fake(x.size());
  std::vector<std::uint8_t> bits((x.size() + 7) / 8);
  const int before = num_threads();
  for (const int threads : {1, 3}) {
    set_num_threads(threads);
    quantize_levels(src, scales, 1, {powers}, TensorView<std::int8_t>(codes.data(), shape));
    dequantize_levels(TensorView<const std::int8_t>(codes.data(), shape), scales, 1,
                      TensorView<float>(levels.data(), shape));
    fake_quantize_levels(src, scales, 1, {powers}, TensorView<float>(fake.data(), shape), bits);
    bool same = true;
    bool right = true;
    bool passing = true;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const float scale = scales[i / static_cast<std::size_t>(inner) % 5];
      same =
          same && std::bit_cast<std::uint32_t>(levels[i]) == std::bit_cast<std::uint32_t>(fake[i]);
      right = right && codes[i] == (powers == 0 ? (x[i] < 0.0f ? -1 : 1)
                                                : nearest_code(x[i], scale, powers));
      const bool inside = std::abs(static_cast<double>(x[i])) <=
                          (powers == 0 ? 2.0 : 1.5) * static_cast<double>(scale);
      passing = passing && inside == ((bits[i / 8] >> (i % 8) & 1) != 0);
    }
    CHECK(same);
    CHECK(right);
    CHECK(passing);
  }
  set_num_threads(before);
}

TEST_CASE("Nothing is written where levels or codes are refused", "[quant][levels]") {
  const std::vector<float> scale = {1.0f};
  std::vector<float> x = {1.0f, kNan};
  std::vector<std::int8_t> codes = {7, 7};
  CHECK_THROWS_AS(quantize_levels(x, scale, std::nullopt, {4}, codes), NonFiniteError);
  CHECK(codes == std::vector<std::int8_t>{7, 7});
  std::vector<float> out = {5.0f, 5.0f};
  CHECK_THROWS_AS(fake_quantize_levels(x, scale, std::nullopt, {4}, out), NonFiniteError);
  CHECK_THROWS_AS(fake_quantize_levels(out, scale, std::nullopt, {101}, out), Error);
  for (const int bad : {101, -101, -128}) {
    codes[1] = static_cast<std::int8_t>(bad);
    CHECK_THROWS_AS(dequantize_levels(codes, scale, std::nullopt, out), Error);
  }
  CHECK(out == std::vector<float>{5.0f, 5.0f});
  std::vector<std::uint8_t> bytes(2);
  CHECK_THROWS_AS(quantize_levels(out, scale, std::nullopt, {4}, bytes), DTypeError);
  CHECK_THROWS_AS(dequantize_levels(bytes, scale, std::nullopt, out), DTypeError);
  CHECK_THROWS_AS(quantize_levels(out, std::vector<float>{1.0f, 1.0f}, std::nullopt, {4}, codes),
                  Error);
  CHECK_THROWS_AS(quantize_levels(out, std::vector<float>{0.0f}, std::nullopt, {4}, codes), Error);
}

TEST_CASE("Scales of levels follow from the magnitudes", "[quant][levels]") {
  const std::vector<float> x = {1.0f, -2.0f, 0.5f, 8.0f, -8.0f, 0.5f};
  CHECK(level_scale(x, ScaleRule::binary, std::nullopt).front() == 20.0f / 6.0f);
  // Gains (sum of the k largest)^2 / k: 64, 128, 108, 90.25, 76.05, 66.67.
  CHECK(level_scale(x, ScaleRule::ternary, std::nullopt).front() == 8.0f);
  // 0.7 * 20 / 6 = 2.33.
  CHECK(level_scale(x, ScaleRule::twn, std::nullopt).front() == 8.0f);
  const TensorView<const float> rows(x.data(), Shape{2, 3});
  CHECK(level_scale(rows, ScaleRule::binary, 0) == std::vector<float>{3.5f / 3.0f, 16.5f / 3.0f});
  CHECK(level_scale(std::vector<float>{0.0f, 0.0f}, ScaleRule::ternary, std::nullopt).front() ==
        1.0f);
  CHECK_THROWS_AS(level_scale(std::vector<float>{1.0f, kInf}, ScaleRule::binary, std::nullopt),
                  NonFiniteError);
}

TEST_CASE("Casting to 16 bits rounds once and obeys the policy for overflow", "[quant][levels]") {
  // Just above the tie of 1 and 1 + 2^-10, which it is in float.
  const std::vector<double> x = {1.0 + 0x1p-11 + 0x1p-40, 1.0 + 0x1p-11, -65519.0};
  std::vector<float16> y(x.size());
  cast(x, y);
  CHECK(static_cast<float>(y[0]) == 1.0f + 0x1p-10f);
  CHECK(static_cast<float>(y[1]) == 1.0f);
  CHECK(static_cast<float>(y[2]) == -65504.0f);
  const std::vector<double> beyond = {1.0, -65520.0, 1e300};
  CHECK_THROWS_AS(cast(beyond, y), NonFiniteError);
  CHECK(static_cast<float>(y[2]) == -65504.0f);
  cast(beyond, y, Overflow::saturate);
  CHECK(static_cast<float>(y[1]) == -65504.0f);
  CHECK(static_cast<float>(y[2]) == 65504.0f);
  cast(beyond, y, Overflow::infinity);
  CHECK(static_cast<float>(y[1]) == -kInf);
}

TEST_CASE("The ternary scale is the best of all, found without sorting all", "[quant]") {
  for (const int kind : {0, 1, 2, 3}) {
    std::vector<float> x(3000);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const auto word = static_cast<double>(Philox(11).word(i)) * 0x1p-32 - 0.5;
      if (kind == 0) x[i] = static_cast<float>(word);
      if (kind == 1) x[i] = static_cast<float>(std::ldexp(word, static_cast<int>(i % 60)));
      if (kind == 2) x[i] = i % 5 == 0 ? 3.0f : -0.25f;
      if (kind == 3) x[i] = 1.0f + static_cast<float>(word) * 1e-4f;  // all in few bins
    }
    std::vector<double> sorted(x.begin(), x.end());
    for (double& m : sorted) m = std::abs(m);
    std::ranges::sort(sorted, std::greater<>());
    double best = 0.0;
    double scale = 0.0;
    double sum = 0.0;
    for (std::size_t k = 0; k < sorted.size(); ++k) {
      sum += sorted[k];
      const auto count = static_cast<double>(k + 1);
      if (sum * sum / count <= best) continue;
      best = sum * sum / count;
      scale = sum / count;
    }
    CAPTURE(kind);
    // Both sum in double, in different orders; the scale is a float.
    CHECK(level_scale(x, ScaleRule::ternary, std::nullopt).front() == Approx(scale).epsilon(1e-6));
  }
}

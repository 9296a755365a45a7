// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/core/random.hpp>
#include <moptcore/quant/quantize.hpp>
#include <moptcore/runtime/runtime.hpp>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

using namespace moptcore;

namespace {

std::vector<float> draw(std::int64_t n, float spread) {
  std::vector<float> values(static_cast<std::size_t>(n));
  const Philox random(11);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = spread * (static_cast<float>(random.word(i)) * 0x1p-31f - 1.0f);
  }
  return values;
}

template <class Q>
void compare(const Shape& shape, const QParams& params) {
  const std::vector<float> memory = draw(element_count(shape), 200.0f);
  const TensorView<const float> x(memory.data(), shape);
  std::vector<Q> ours(memory.size());
  std::vector<Q> theirs(memory.size());
  quant::quantize(x, params, TensorView<Q>(ours.data(), shape));
  runtime::quantize(x, params, TensorView<Q>(theirs.data(), shape));
  CHECK(ours == theirs);
  std::vector<float> back(memory.size());
  std::vector<float> other(memory.size());
  quant::dequantize(TensorView<Q>(ours.data(), shape), params,
                    TensorView<float>(back.data(), shape));
  runtime::dequantize(TensorView<Q>(ours.data(), shape), params,
                      TensorView<float>(other.data(), shape));
  CHECK(back == other);
}

}  // namespace

TEST_CASE("oneDNN quantizes and dequantizes to our bits where the scale is a power of two",
          "[runtime]") {
  CHECK(runtime::onednn_version().starts_with("3."));
  const auto n = GENERATE(values<std::int64_t>({1, 7, 16, 1000}));
  QParams::Options bytes;
  bytes.dtype = DType::uint8;
  for (const std::int32_t zero_point : {0, 3, 100}) {
    CAPTURE(n, zero_point);
    compare<std::int8_t>({n}, QParams(0.5f, zero_point));
    compare<std::uint8_t>({3, n}, QParams(2.0f, zero_point, bytes));
    const QParams::Options narrow{.dtype = DType::int8, .qmin = -127, .qmax = 126};
    compare<std::int8_t>({n, 2}, QParams(0.25f, zero_point, narrow));
    const std::vector<float> scales = {0.5f, 1.0f, 4.0f};
    const std::vector<std::int32_t> zeros(3, zero_point);
    for (const std::int64_t axis : {0, 1, 2}) {
      Shape shape{2, 2, n};
      shape[static_cast<int>(axis)] = 3;
      compare<std::int8_t>(shape, QParams(scales, zeros, axis, {}));
    }
  }
}

TEST_CASE("oneDNN is one step away at most for any other scale", "[runtime]") {
  const std::vector<float> x = draw(100'000, 5.0f);
  const QParams params(5.0f / 127.0f);
  std::vector<std::int8_t> ours(x.size());
  std::vector<std::int8_t> theirs(x.size());
  quant::quantize(x, params, ours);
  runtime::quantize(x, params, theirs);
  int differing = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (ours[i] == theirs[i]) continue;
    ++differing;
    // Only where x / scale lies at a tie but for the rounding of 1 / scale and of the product.
    const double steps = static_cast<double>(x[i]) / static_cast<double>(params.scale()[0]);
    const double to_tie = std::abs(steps - std::floor(steps) - 0.5);
    CHECK(to_tie <= std::abs(steps) * 0x1p-23);
    CHECK(std::abs(ours[i] - theirs[i]) == 1);
  }
  CHECK(differing < 10);
}

TEST_CASE("the oneDNN backend saturates, refuses NaN and names what it does not take",
          "[runtime]") {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const std::vector<float> x = {kInfinity, -kInfinity, 1e30f, -1e30f};
  std::vector<std::int8_t> q(4);
  runtime::quantize(x, QParams(1.0f), q);
  CHECK(q == std::vector<std::int8_t>{127, -128, 127, -128});
  const std::vector<float> nan(4, std::numeric_limits<float>::quiet_NaN());
  CHECK_THROWS_AS(runtime::quantize(nan, QParams(1.0f), q), NonFiniteError);
  CHECK(q == std::vector<std::int8_t>{127, -128, 127, -128});
  CHECK_THROWS_AS(runtime::quantize(std::vector<double>(4), QParams(1.0f), q), UnsupportedError);
  CHECK_THROWS_AS(runtime::quantize(TensorView<const float>(x.data(), {2}, {2}), QParams(1.0f),
                                    TensorView<std::int8_t>(q.data(), Shape{2})),
                  UnsupportedError);
  const QParams mixed({1.0f, 1.0f}, {0, 1}, 0, {});
  CHECK_THROWS_AS(runtime::quantize(TensorView<const float>(x.data(), Shape{2, 2}), mixed,
                                    TensorView<std::int8_t>(q.data(), Shape{2, 2})),
                  UnsupportedError);
  CHECK_THROWS_AS(runtime::quantize(x, QParams(1.0f), std::vector<std::int8_t>(3)), Error);
}

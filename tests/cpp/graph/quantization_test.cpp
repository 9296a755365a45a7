// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <limits>

#include <moptcore/quant/quantize.hpp>

#include "catch.hpp"
#include "single_node.hpp"

using namespace moptcore;
using namespace moptcore::graph;
using moptcore::test::pick;
using moptcore::test::random_tensor;
using moptcore::test::SingleNode;

namespace {

Tensor packed(ElementType type, const Shape& shape, std::vector<std::uint8_t> bytes) {
  Tensor tensor(type, shape);
  std::copy(bytes.begin(), bytes.end(), static_cast<std::uint8_t*>(tensor.mutable_raw()));
  return tensor;
}

}  // namespace

TEST_CASE("QuantizeLinear rounds half to even, adds the zero point and saturates",
          "[graph][quantization]") {
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const Tensor x = Tensor::of<float>(Shape{8}, {1, 3, 5, -1, 1e30f, -inf, nan, 251});
  const Tensor y = SingleNode("QuantizeLinear")
                       .run({x, Tensor::scalar(2.0f), Tensor::scalar<std::uint8_t>(130)}, 10)[0];
  const std::uint8_t expected[] = {130, 132, 132, 130, 255, 0, 130, 255};
  for (int i = 0; i < 8; ++i) CHECK(y.data<std::uint8_t>()[i] == expected[i]);
}

TEST_CASE("QuantizeLinear and DequantizeLinear have the bits of the primitives",
          "[graph][quantization]") {
  std::mt19937 random(1);
  for (int round = 0; round < 20; ++round) {
    const Tensor x = random_tensor<float>(random, Shape{200});
    const float scale = static_cast<float>(pick(random, 1, 4000)) / 100000;
    const auto zero = static_cast<std::int8_t>(pick(random, -128, 127));
    const Grid grid{scale, zero, -128, 127};
    const Tensor y =
        SingleNode("QuantizeLinear").run({x, Tensor::scalar(scale), Tensor::scalar(zero)}, 21)[0];
    const Tensor back =
        SingleNode("DequantizeLinear").run({y, Tensor::scalar(scale), Tensor::scalar(zero)}, 21)[0];
    for (std::int64_t i = 0; i < x.size(); ++i) {
      const std::int32_t code = quant::quantize(x.data<float>()[i], grid);
      REQUIRE(y.data<std::int8_t>()[i] == code);
      REQUIRE(back.data<float>()[i] == quant::dequantize<float>(code, grid));
    }
  }
}

TEST_CASE("scales of an axis and of blocks reach the elements that they name",
          "[graph][quantization]") {
  Tensor x(ElementType::int16, Shape{2, 5, 3});
  for (std::int64_t i = 0; i < x.size(); ++i) {
    x.mutable_data<std::int16_t>()[i] = static_cast<std::int16_t>(100 + i);
  }
  for (int axis = 0; axis < 3; ++axis) {
    const std::int64_t extent = x.shape()[axis];
    const std::int64_t inner = axis == 0 ? 15 : axis == 1 ? 3 : 1;
    Tensor scale(ElementType::float32, Shape{extent});
    Tensor zero(ElementType::int16, Shape{extent});
    for (std::int64_t i = 0; i < extent; ++i) {
      scale.mutable_data<float>()[i] = static_cast<float>(i + 1);
      zero.mutable_data<std::int16_t>()[i] = static_cast<std::int16_t>(7 * i);
    }
    SingleNode node("DequantizeLinear");
    node.with("axis", std::int64_t{axis - 3});
    const Tensor y = node.run({x, scale, zero}, 21)[0];
    for (std::int64_t i = 0; i < x.size(); ++i) {
      const std::int64_t at = i / inner % extent;
      REQUIRE(y.data<float>()[i] == static_cast<float>((100 + i - 7 * at) * (at + 1)));
    }
    Shape blocks = x.shape();
    blocks[axis] = (extent + 1) / 2;
    Tensor each(ElementType::float32, blocks);
    for (std::int64_t i = 0; i < each.size(); ++i) each.mutable_data<float>()[i] = 0.5f * (i + 1);
    node.with("block_size", std::int64_t{2});
    const Tensor z = node.run({x, each}, 21)[0];
    const Tensor codes = SingleNode("QuantizeLinear")
                             .with("axis", std::int64_t{axis})
                             .with("block_size", std::int64_t{2})
                             .with("output_dtype", std::int64_t{5})
                             .run({z, each}, 21)[0];
    for (std::int64_t i = 0; i < x.size(); ++i) {
      const std::int64_t outer = i / (inner * extent);
      const std::int64_t at = (outer * blocks[axis] + i / inner % extent / 2) * inner + i % inner;
      REQUIRE(z.data<float>()[i] == static_cast<float>(100 + i) * 0.5f * (at + 1));
      REQUIRE(codes.data<std::int16_t>()[i] == 100 + i);
    }
  }
}

TEST_CASE("packed types hold their elements from the low bits up", "[graph][quantization]") {
  const Tensor x = Tensor::of<float>(Shape{5}, {-9, 1, -1, 7, 3});
  const auto codes = [&](ElementType type) {
    const Tensor y = SingleNode("QuantizeLinear")
                         .with("output_dtype", static_cast<std::int64_t>(type))
                         .run({x, Tensor::scalar(1.0f)}, 25)[0];
    REQUIRE(y.type() == type);
    const auto* bytes = static_cast<const std::uint8_t*>(y.raw());
    return std::vector<std::uint8_t>(bytes, bytes + y.bytes());
  };
  CHECK(codes(ElementType::int4) == std::vector<std::uint8_t>{0x18, 0x7f, 0x03});
  CHECK(codes(ElementType::uint4) == std::vector<std::uint8_t>{0x10, 0x70, 0x03});
  // int2: -2 1 -1 1 1 are 10 01 11 01 01.
  CHECK(codes(ElementType::int2) == std::vector<std::uint8_t>{0x76, 0x01});
  CHECK(codes(ElementType::uint2) == std::vector<std::uint8_t>{0xc4, 0x03});
  // float4 has 0, .5, 1, 1.5, 2, 3, 4, 6: -6 1 -1 6 3.
  CHECK(codes(ElementType::float4e2m1) == std::vector<std::uint8_t>{0x2f, 0x7a, 0x05});
  const Tensor back = SingleNode("DequantizeLinear")
                          .run({packed(ElementType::int4, Shape{3}, {0x18, 0x0f}),
                                Tensor::scalar(2.0f), packed(ElementType::int4, Shape{}, {0x0e})},
                               21)[0];
  CHECK(back.data<float>()[0] == -12.0f);
  CHECK(back.data<float>()[1] == 6.0f);
  CHECK(back.data<float>()[2] == 2.0f);
}

TEST_CASE("float8 saturates or overflows as asked", "[graph][quantization]") {
  const Tensor x = Tensor::of<float>(Shape{3}, {448, 1000, -0.0f});
  SingleNode node("QuantizeLinear");
  node.with("output_dtype", static_cast<std::int64_t>(ElementType::float8e4m3fn));
  const Tensor y = node.run({x, Tensor::scalar(1.0f)}, 23)[0];
  const auto* bytes = static_cast<const std::uint8_t*>(y.raw());
  CHECK(bytes[0] == 0x7e);
  CHECK(bytes[1] == 0x7e);
  CHECK(bytes[2] == 0x80);
  node.with("saturate", std::int64_t{0});
  const Tensor z = node.run({x, Tensor::scalar(1.0f)}, 23)[0];
  CHECK(static_cast<const std::uint8_t*>(z.raw())[1] == 0x7f);
}

TEST_CASE("the precision of the division decides ties", "[graph][quantization]") {
  // 1.0009766 / 2 is above 0.5 in float, and 0.5 once rounded to bfloat16.
  const Tensor x = Tensor::of<float>(Shape{1}, {1.0009766f});
  const Tensor scale = Tensor::scalar(2.0f);
  CHECK(SingleNode("QuantizeLinear").run({x, scale}, 23)[0].data<std::uint8_t>()[0] == 1);
  CHECK(SingleNode("QuantizeLinear")
            .with("precision", std::int64_t{16})
            .run({x, scale}, 23)[0]
            .data<std::uint8_t>()[0] == 0);
}

TEST_CASE("DynamicQuantizeLinear covers zero and all of the input", "[graph][quantization]") {
  const Tensor x = Tensor::of<float>(Shape{3}, {-1, 0, 4});
  const auto y = SingleNode("DynamicQuantizeLinear").run({x}, 11, 3);
  CHECK(y[1].data<float>()[0] == 5.0f / 255.0f);
  CHECK(y[2].data<std::uint8_t>()[0] == 51);
  CHECK(y[0].data<std::uint8_t>()[0] == 0);
  CHECK(y[0].data<std::uint8_t>()[1] == 51);
  CHECK(y[0].data<std::uint8_t>()[2] == 255);
  const auto zeros =
      SingleNode("DynamicQuantizeLinear").run({Tensor::of<float>(Shape{1}, {0})}, 11, 3);
  CHECK(zeros[1].data<float>()[0] == 1.0f);
  CHECK(zeros[0].data<std::uint8_t>()[0] == 0);
}

TEST_CASE("QLinearMatMul is exact, by row and by column", "[graph][quantization]") {
  std::mt19937 random(2);
  Tensor a(ElementType::uint8, Shape{2, 3, 4});
  Tensor b(ElementType::int8, Shape{4, 5});
  for (std::int64_t i = 0; i < a.size(); ++i) {
    a.mutable_data<std::uint8_t>()[i] = static_cast<std::uint8_t>(pick(random, 0, 255));
  }
  for (std::int64_t i = 0; i < b.size(); ++i) {
    b.mutable_data<std::int8_t>()[i] = static_cast<std::int8_t>(pick(random, -128, 127));
  }
  const Tensor a_scale = Tensor::of<float>(Shape{3}, {0.5f, 1, 2});
  const Tensor a_zero = Tensor::of<std::uint8_t>(Shape{3}, {100, 128, 7});
  const Tensor b_scale = Tensor::of<float>(Shape{1, 5}, {1, 2, 4, 0.5f, 1});
  const Tensor b_zero = Tensor::of<std::int8_t>(Shape{1, 5}, {0, 1, 2, -3, -4});
  const Tensor y = SingleNode("QLinearMatMul")
                       .run({a, a_scale, a_zero, b, b_scale, b_zero, Tensor::scalar(256.0f),
                             Tensor::scalar<std::int8_t>(5)},
                            21)[0];
  REQUIRE(y.shape() == Shape{2, 3, 5});
  for (std::int64_t i = 0; i < y.size(); ++i) {
    const std::int64_t row = i / 5 % 3;
    const std::int64_t column = i % 5;
    std::int64_t sum = 0;
    for (std::int64_t k = 0; k < 4; ++k) {
      sum += (a.data<std::uint8_t>()[i / 5 * 4 + k] - a_zero.data<std::uint8_t>()[row]) *
             (b.data<std::int8_t>()[k * 5 + column] - b_zero.data<std::int8_t>()[column]);
    }
    const double steps =
        static_cast<double>(sum) * a_scale.data<float>()[row] * b_scale.data<float>()[column] / 256;
    REQUIRE(y.data<std::int8_t>()[i] == std::clamp(std::nearbyint(steps) + 5, -128.0, 127.0));
  }
}

TEST_CASE("quantization names what does not fit", "[graph][quantization]") {
  const Tensor x = Tensor::of<float>(Shape{2, 3}, {1, 2, 3, 4, 5, 6});
  const Tensor two = Tensor::of<float>(Shape{2}, {1, 2});
  const Tensor one = Tensor::scalar(1.0f);
  const auto quantize = [&](SingleNode node, std::vector<Value> inputs) {
    return node.run(inputs, 21);
  };
  SingleNode node("QuantizeLinear");
  CHECK_THROWS_WITH(quantize(node, {x, two}),
                    "[graph.QuantizeLinear] scales must be one, or one for each index of the axis, "
                    "shape, got (2,)");
  CHECK_THROWS_AS(quantize(SingleNode(node).with("axis", std::int64_t{2}), {x, two}), Error);
  CHECK_THROWS_AS(quantize(SingleNode(node).with("block_size", std::int64_t{-1}), {x, one}), Error);
  CHECK_THROWS_AS(quantize(SingleNode(node).with("block_size", std::int64_t{2}), {x, two}), Error);
  CHECK_THROWS_AS(quantize(SingleNode(node).with("output_dtype", std::int64_t{1}), {x, one}),
                  DTypeError);
  CHECK_THROWS_AS(quantize(SingleNode(node).with("output_dtype", std::int64_t{99}), {x, one}),
                  DTypeError);
  CHECK_THROWS_AS(quantize(SingleNode(node).with("output_dtype", std::int64_t{3}),
                           {x, one, Tensor::scalar<std::uint8_t>(0)}),
                  DTypeError);
  CHECK_THROWS_AS(quantize(node, {x, one, Tensor::of<std::uint8_t>(Shape{2}, {0, 0})}), Error);
  CHECK_THROWS_AS(quantize(SingleNode("DequantizeLinear"), {x, one}), DTypeError);
  CHECK_THROWS_AS(quantize(SingleNode("DequantizeLinear"),
                           {Tensor::scalar<std::int8_t>(1), one, Tensor::scalar<std::uint8_t>(1)}),
                  DTypeError);
  CHECK_THROWS_AS(SingleNode("DynamicQuantizeLinear").run({Tensor::scalar(1.0)}, 11, 3),
                  DTypeError);
}

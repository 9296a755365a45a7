// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <limits>

#include "catch.hpp"
#include "single_node.hpp"

using namespace moptcore;
using namespace moptcore::graph;
using moptcore::test::pick;
using moptcore::test::random_tensor;
using moptcore::test::SingleNode;

namespace {

using List = std::vector<std::int64_t>;

// A convolution of random geometry, small enough to be summed term by term.
struct Case {
  int rank = 2;
  std::int64_t batch = 1;
  std::int64_t group = 1;
  std::int64_t inner = 1;  // channels of a group
  std::int64_t outer = 1;
  List input;
  List kernel;
  List strides;
  List dilations;
  List pads;

  [[nodiscard]] Shape x() const { return with(batch, group * inner, input); }
  [[nodiscard]] Shape w() const { return with(group * outer, inner, kernel); }
  [[nodiscard]] std::int64_t extent(int axis) const {
    return dilations[axis] * (kernel[axis] - 1) + 1;
  }
  static Shape with(std::int64_t a, std::int64_t b, const List& rest) {
    Shape shape{a, b};
    for (const std::int64_t extent : rest) shape.push_back(extent);
    return shape;
  }
  SingleNode node(const std::string& op) const {
    SingleNode node(op);
    node.with("group", group).ints("strides", strides).ints("dilations", dilations);
    node.ints("pads", pads);
    return node;
  }
};

Case random_case(std::mt19937& random, std::int64_t most_channels) {
  Case made;
  made.rank = static_cast<int>(pick(random, 1, 3));
  made.batch = pick(random, 1, 2);
  made.group = pick(random, 1, 3);
  made.inner = pick(random, 1, most_channels);
  made.outer = pick(random, 1, most_channels);
  for (int axis = 0; axis < made.rank; ++axis) {
    made.kernel.push_back(pick(random, 1, 3));
    made.strides.push_back(pick(random, 1, 3));
    made.dilations.push_back(pick(random, 1, 2));
    made.input.push_back(pick(random, made.extent(axis), made.extent(axis) + 6));
  }
  for (int axis = 0; axis < 2 * made.rank; ++axis) made.pads.push_back(pick(random, 0, 3));
  return made;
}

// The elements of a box one after the other.
template <class F>
void for_each_index(const List& extents, F&& f) {
  List at(extents.size(), 0);
  std::int64_t count = 1;
  for (const std::int64_t extent : extents) count *= extent;
  for (std::int64_t i = 0; i < count; ++i) {
    f(i, at);
    for (std::size_t axis = extents.size(); axis-- > 0;) {
      if (++at[axis] < extents[axis]) break;
      at[axis] = 0;
    }
  }
}

std::int64_t product_of(const List& extents) {
  std::int64_t count = 1;
  for (const std::int64_t extent : extents) count *= extent;
  return count;
}

// sum += f(offset of x, offset of w) for each pair of (output, term), in the definition's words.
template <class F>
void for_each_term(const Case& c, const List& output, F&& f) {
  const std::int64_t out_plane = product_of(output);
  const std::int64_t in_plane = product_of(c.input);
  const std::int64_t taps = product_of(c.kernel);
  for (std::int64_t n = 0; n < c.batch; ++n) {
    for (std::int64_t m = 0; m < c.group * c.outer; ++m) {
      for (std::int64_t i = 0; i < c.inner; ++i) {
        const std::int64_t channel = m / c.outer * c.inner + i;
        for_each_index(output, [&](std::int64_t o, const List& where) {
          for_each_index(c.kernel, [&](std::int64_t k, const List& tap) {
            std::int64_t offset = 0;
            for (int axis = 0; axis < c.rank; ++axis) {
              const std::int64_t at =
                  where[axis] * c.strides[axis] + tap[axis] * c.dilations[axis] - c.pads[axis];
              if (at < 0 || at >= c.input[axis]) return;
              offset = offset * c.input[axis] + at;
            }
            f((n * c.group * c.outer + m) * out_plane + o,
              (n * c.group * c.inner + channel) * in_plane + offset, (m * c.inner + i) * taps + k);
          });
        });
      }
    }
  }
}

List output_of(const Case& c) {
  List output;
  for (int axis = 0; axis < c.rank; ++axis) {
    output.push_back((c.input[axis] + c.pads[axis] + c.pads[c.rank + axis] - c.extent(axis)) /
                         c.strides[axis] +
                     1);
  }
  return output;
}

}  // namespace

TEST_CASE("Conv is the sum of its definition for any geometry", "[graph][convolution]") {
  std::mt19937 random(1);
  for (int round = 0; round < 60; ++round) {
    const Case c = random_case(random, round % 2 == 0 ? 3 : 9);
    const Tensor x = random_tensor<double>(random, c.x());
    const Tensor w = random_tensor<double>(random, c.w());
    const Tensor bias = random_tensor<double>(random, Shape{c.group * c.outer});
    const List output = output_of(c);
    const std::int64_t plane = product_of(output);
    std::vector<double> expected(static_cast<std::size_t>(c.batch * bias.size() * plane));
    for (std::size_t i = 0; i < expected.size(); ++i) {
      expected[i] = bias.data<double>()[static_cast<std::int64_t>(i) / plane % bias.size()];
    }
    for_each_term(c, output, [&](std::int64_t y, std::int64_t a, std::int64_t b) {
      expected[y] += x.data<double>()[a] * w.data<double>()[b];
    });
    const Tensor y = c.node("Conv").run({x, w, bias}, 22)[0];
    REQUIRE(y.shape() == Case::with(c.batch, c.group * c.outer, output));
    for (std::int64_t i = 0; i < y.size(); ++i) {
      // At most 9 * 27 terms below 1, each rounded once and summed in another order.
      REQUIRE(std::abs(y.data<double>()[i] - expected[i]) < 1e-12);
    }
  }
}

TEST_CASE("Conv in float and in halves is that in double, rounded", "[graph][convolution]") {
  std::mt19937 random(2);
  for (int round = 0; round < 20; ++round) {
    const Case c = random_case(random, 6);
    const Tensor x = random_tensor<float>(random, c.x());
    const Tensor w = random_tensor<float>(random, c.w());
    const auto cast = [](const Tensor& from, auto zero) {
      using T = decltype(zero);
      Tensor to(type_of<T>(), from.shape());
      for (std::int64_t i = 0; i < from.size(); ++i) {
        to.mutable_data<T>()[i] = static_cast<T>(from.data<float>()[i]);
      }
      return to;
    };
    const Tensor exact = c.node("Conv").run({cast(x, 0.0), cast(w, 0.0)}, 22)[0];
    const Tensor y = c.node("Conv").run({x, w}, 22)[0];
    const Tensor half = c.node("Conv").run({cast(x, float16()), cast(w, float16())}, 22)[0];
    const Tensor brain = c.node("Conv").run({cast(x, bfloat16()), cast(w, bfloat16())}, 22)[0];
    REQUIRE(half.type() == ElementType::float16);
    REQUIRE(brain.type() == ElementType::bfloat16);
    for (std::int64_t i = 0; i < y.size(); ++i) {
      const double truth = exact.data<double>()[i];
      // 162 terms below 1, each with a rounding error of 2^-24 and a sum of as many.
      REQUIRE(std::abs(y.data<float>()[i] - truth) < 162 * 162 * 0x1p-24);
      // Inputs rounded to 2^-12 and 2^-9 of their size, twice a term.
      REQUIRE(std::abs(static_cast<float>(half.data<float16>()[i]) - truth) < 162 * 0x1p-10);
      REQUIRE(std::abs(static_cast<float>(brain.data<bfloat16>()[i]) - truth) < 162 * 0x1p-7);
    }
  }
}

TEST_CASE("ConvTranspose is the transpose of Conv", "[graph][convolution]") {
  // <conv(u), v> = <u, conv_transpose(v)> for all u and v.
  std::mt19937 random(3);
  for (int round = 0; round < 60; ++round) {
    Case c = random_case(random, round % 2 == 0 ? 3 : 10);
    const List output = output_of(c);
    List padding;
    for (int axis = 0; axis < c.rank; ++axis) {
      // What the division of Conv's extent threw away.
      padding.push_back((c.input[axis] + c.pads[axis] + c.pads[c.rank + axis] - c.extent(axis)) %
                        c.strides[axis]);
    }
    const Tensor u = random_tensor<double>(random, c.x());
    const Tensor v = random_tensor<double>(random, Case::with(c.batch, c.group * c.outer, output));
    const Tensor w = random_tensor<double>(random, c.w());
    const Tensor forward = c.node("Conv").run({u, w}, 22)[0];
    const Tensor back = c.node("ConvTranspose").ints("output_padding", padding).run({v, w}, 22)[0];
    REQUIRE(back.shape() == u.shape());
    double left = 0;
    double right = 0;
    for (std::int64_t i = 0; i < v.size(); ++i)
      left += forward.data<double>()[i] * v.data<double>()[i];
    for (std::int64_t i = 0; i < u.size(); ++i)
      right += back.data<double>()[i] * u.data<double>()[i];
    // Sums of at most 10^5 terms below 1, each rounded to 2^-53.
    REQUIRE(std::abs(left - right) < 1e-8);
  }
}

TEST_CASE("ConvInteger and QLinearConv are exact", "[graph][convolution]") {
  std::mt19937 random(4);
  for (int round = 0; round < 20; ++round) {
    const Case c = random_case(random, 5);
    const std::int64_t channels = c.group * c.outer;
    Tensor x(ElementType::uint8, c.x());
    Tensor w(ElementType::int8, c.w());
    Tensor w_zero(ElementType::int8, Shape{channels});
    Tensor bias(ElementType::int32, Shape{channels});
    Tensor w_scale(ElementType::float32, Shape{channels});
    for (std::int64_t i = 0; i < x.size(); ++i) {
      x.mutable_data<std::uint8_t>()[i] = static_cast<std::uint8_t>(pick(random, 0, 255));
    }
    for (std::int64_t i = 0; i < w.size(); ++i) {
      w.mutable_data<std::int8_t>()[i] = static_cast<std::int8_t>(pick(random, -128, 127));
    }
    for (std::int64_t i = 0; i < channels; ++i) {
      w_zero.mutable_data<std::int8_t>()[i] = static_cast<std::int8_t>(pick(random, -9, 9));
      bias.mutable_data<std::int32_t>()[i] = static_cast<std::int32_t>(pick(random, -5000, 5000));
      w_scale.mutable_data<float>()[i] = static_cast<float>(pick(random, 1, 9)) / 64;
    }
    const std::uint8_t x_zero = 117;
    const List output = output_of(c);
    const std::int64_t plane = product_of(output);
    std::vector<std::int64_t> sums(static_cast<std::size_t>(c.batch * channels * plane), 0);
    for_each_term(c, output, [&](std::int64_t y, std::int64_t a, std::int64_t b) {
      const std::int64_t channel = b / (w.size() / channels);
      sums[y] += (x.data<std::uint8_t>()[a] - x_zero) *
                 (w.data<std::int8_t>()[b] - w_zero.data<std::int8_t>()[channel]);
    });
    const Tensor y = c.node("ConvInteger").run({x, w, Tensor::scalar(x_zero), w_zero}, 10)[0];
    REQUIRE(y.type() == ElementType::int32);
    for (std::int64_t i = 0; i < y.size(); ++i) REQUIRE(y.data<std::int32_t>()[i] == sums[i]);
    const Tensor q = c.node("QLinearConv")
                         .run({x, Tensor::scalar(0.5f), Tensor::scalar(x_zero), w, w_scale, w_zero,
                               Tensor::scalar(64.0f), Tensor::scalar<std::int8_t>(-3), bias},
                              10)[0];
    for (std::int64_t i = 0; i < q.size(); ++i) {
      const std::int64_t channel = i / plane % channels;
      // Scales are few bits of powers of two: the product is exact.
      const double steps = static_cast<double>(sums[i] + bias.data<std::int32_t>()[channel]) *
                           static_cast<double>(w_scale.data<float>()[channel]) * 0.5 / 64;
      const double expected = std::clamp(std::nearbyint(steps) - 3, -128.0, 127.0);
      REQUIRE(q.data<std::int8_t>()[i] == expected);
    }
  }
}

TEST_CASE("CausalConvWithState run in two pieces is that of the whole", "[graph][convolution]") {
  std::mt19937 random(5);
  const Tensor x = random_tensor<float>(random, Shape{2, 3, 9});
  const Tensor w = random_tensor<float>(random, Shape{3, 1, 4});
  const Tensor bias = random_tensor<float>(random, Shape{3});
  const auto whole = SingleNode("CausalConvWithState").run({x, w, bias}, 27, 2);
  const auto piece = [&](std::int64_t first, std::int64_t last) {
    Tensor part(ElementType::float32, Shape{2, 3, last - first});
    float* to = part.mutable_data<float>();
    for (std::int64_t row = 0; row < 6; ++row) {
      for (std::int64_t i = first; i < last; ++i) *to++ = x.data<float>()[row * 9 + i];
    }
    return part;
  };
  const auto front = SingleNode("CausalConvWithState").run({piece(0, 2), w, bias}, 27, 2);
  const auto back = SingleNode("CausalConvWithState").run({piece(2, 9), w, bias, front[1]}, 27, 2);
  for (std::int64_t row = 0; row < 6; ++row) {
    for (std::int64_t i = 0; i < 9; ++i) {
      const float part =
          i < 2 ? front[0].data<float>()[row * 2 + i] : back[0].data<float>()[row * 7 + i - 2];
      REQUIRE(part == whole[0].data<float>()[row * 9 + i]);
    }
  }
  for (std::int64_t i = 0; i < 18; ++i) {
    REQUIRE(back[1].data<float>()[i] == whole[1].data<float>()[i]);
  }
}

TEST_CASE("convolutions name what does not fit", "[graph][convolution]") {
  std::mt19937 random(6);
  const Tensor x = random_tensor<float>(random, Shape{1, 4, 5, 5});
  const Tensor w = random_tensor<float>(random, Shape{2, 4, 3, 3});
  const auto conv = [](SingleNode node, std::vector<Value> inputs) {
    return node.run(std::move(inputs), 22);
  };
  CHECK_THROWS_WITH(conv(SingleNode("Conv"), {Tensor::scalar(1.0f), w}),
                    "[graph.Conv] the input must have 3 or more dimensions, shape, got ()");
  CHECK_THROWS_WITH(conv(SingleNode("Conv").with("group", std::int64_t{2}), {x, w}),
                    "[graph.Conv] weights must have the input's channels / group in axis 1, "
                    "shape, got (2, 4, 3, 3)");
  CHECK_THROWS_WITH(conv(SingleNode("Conv").with("group", std::int64_t{0}), {x, w}),
                    "[graph.Conv] group must be >= 1, got 0");
  CHECK_THROWS_AS(conv(SingleNode("Conv").ints("strides", {0, 1}), {x, w}), Error);
  CHECK_THROWS_AS(conv(SingleNode("Conv").ints("dilations", {3, 3}), {x, w}), Error);
  CHECK_THROWS_AS(conv(SingleNode("Conv"), {x, w, random_tensor<float>(random, Shape{3})}), Error);
  CHECK_THROWS_AS(conv(SingleNode("Conv"), {x, random_tensor<double>(random, w.shape())}),
                  DTypeError);
  CHECK_THROWS_AS(conv(SingleNode("Conv"), {Tensor::of<std::int32_t>(Shape{1, 1, 1}, {1}),
                                            Tensor::of<std::int32_t>(Shape{1, 1, 1}, {1})}),
                  DTypeError);
  CHECK_THROWS_AS(conv(SingleNode("Conv").with("strides", 1.5f), {x, w}), FormatError);
  CHECK_THROWS_AS(conv(SingleNode("Conv").ints("pads", {0, 0, 2000000000, 2000000000}), {x, w}),
                  Error);
  CHECK_THROWS_AS(conv(SingleNode("ConvTranspose").ints("strides", {2000000000, 2000000000}),
                       {x, random_tensor<float>(random, Shape{4, 2, 3, 3})}),
                  Error);
  CHECK_THROWS_AS(conv(SingleNode("ConvTranspose").ints("pads", {9, 9, 9, 9}),
                       {x, random_tensor<float>(random, Shape{4, 2, 3, 3})}),
                  Error);
  CHECK_THROWS_AS(conv(SingleNode("ConvTranspose"), {x, w}), Error);
  CHECK_THROWS_AS(conv(SingleNode("ConvInteger"), {x, w}), DTypeError);
}

TEST_CASE("convolutions of nothing are the bias or nothing", "[graph][convolution]") {
  const Tensor none(ElementType::float32, Shape{2, 0, 5});
  const Tensor w(ElementType::float32, Shape{3, 0, 2});
  const Tensor bias = Tensor::of<float>(Shape{3}, {1.0f, 2.0f, 3.0f});
  const Tensor y = SingleNode("Conv").run({none, w, bias}, 22)[0];
  REQUIRE(y.shape() == Shape{2, 3, 4});
  for (std::int64_t i = 0; i < y.size(); ++i) {
    CHECK(y.data<float>()[i] == static_cast<float>(i / 4 % 3 + 1));
  }
  const Tensor empty(ElementType::float32, Shape{0, 1, 5});
  const Tensor one = Tensor::of<float>(Shape{1, 1, 1}, {1.0f});
  CHECK(SingleNode("Conv").run({empty, one}, 22)[0].shape() == Shape{0, 1, 5});
  CHECK(SingleNode("ConvTranspose").run({empty, one}, 22)[0].shape() == Shape{0, 1, 5});
}

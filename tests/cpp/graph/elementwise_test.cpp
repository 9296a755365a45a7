// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <limits>
#include <numeric>

#include "catch.hpp"
#include "graph/run_node.hpp"

using namespace moptcore;
using namespace moptcore::graph;
using run_node::run;
using run_node::values;

namespace {

template <class T>
Tensor iota(const Shape& shape) {
  Tensor tensor(type_of<T>(), shape);
  std::iota(tensor.mutable_data<T>(), tensor.mutable_data<T>() + tensor.size(), T(0));
  return tensor;
}

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

}  // namespace

TEST_CASE("Add broadcasts every axis that one of its operands lacks", "[graph]") {
  // Every way in which two shapes of rank 3 with extents 1 and n can meet, and ranks 0 to 3.
  const std::int64_t extents[] = {3, 4, 5};
  for (int left = 0; left < 8; ++left) {
    for (int right = 0; right < 8; ++right) {
      for (int rank = 0; rank <= 3; ++rank) {
        Shape a;
        Shape b;
        for (int axis = 0; axis < 3; ++axis) {
          a.push_back((left >> axis & 1) != 0 ? extents[axis] : 1);
          if (axis >= 3 - rank) b.push_back((right >> axis & 1) != 0 ? extents[axis] : 1);
        }
        const Tensor x = iota<std::int32_t>(a);
        const Tensor y = iota<std::int32_t>(b);
        const Tensor z = run("Sub", {x, y});
        REQUIRE(z.rank() == 3);
        const Shape out = z.shape();
        std::int64_t at = 0;
        for (std::int64_t i = 0; i < out[0]; ++i) {
          for (std::int64_t j = 0; j < out[1]; ++j) {
            for (std::int64_t k = 0; k < out[2]; ++k, ++at) {
              const std::int64_t index[] = {i, j, k};
              std::int64_t from_a = 0;
              std::int64_t from_b = 0;
              for (int axis = 0; axis < 3; ++axis) {
                from_a = from_a * a[axis] + (a[axis] == 1 ? 0 : index[axis]);
                const int own = axis - (3 - rank);
                if (own >= 0) from_b = from_b * b[own] + (b[own] == 1 ? 0 : index[axis]);
              }
              REQUIRE(z.values<std::int32_t>()[at] == from_a - from_b);
            }
          }
        }
      }
    }
  }
}

TEST_CASE("large operands broadcast the same on every block of threads", "[graph]") {
  const Tensor x = iota<std::int64_t>(Shape{7, 1, 9001});
  const Tensor y = iota<std::int64_t>(Shape{5, 1});
  const Tensor z = run("Mul", {x, y});
  REQUIRE(z.shape() == Shape{7, 5, 9001});
  for (std::int64_t at = 0; at < z.size(); ++at) {
    const std::int64_t expected = (at / 45005 * 9001 + at % 9001) * (at / 9001 % 5);
    if (z.values<std::int64_t>()[at] != expected) FAIL("element " << at);
  }
}

TEST_CASE("shapes that do not broadcast are named", "[graph]") {
  CHECK_THROWS_WITH(run("Add", {iota<float>(Shape{2, 3}), iota<float>(Shape{4})}),
                    "[graph.Add] shapes must broadcast to each other, so far to (2, 3), got (4,)");
  CHECK_THROWS_WITH(run("Add", {iota<float>(Shape{2}), iota<double>(Shape{2})}),
                    "[graph.Add] input 1 must have the type of input 0, float32, got float64");
  CHECK(run("Add", {iota<float>(Shape{0, 1}), iota<float>(Shape{1, 3})}).shape() == Shape{0, 3});
}

TEST_CASE("a shape of huge extents beside a 0 makes no overflow", "[graph]") {
  const std::int64_t huge = std::int64_t{1} << 62;
  const Tensor x(ElementType::float32, Shape{huge, huge, 0});
  CHECK(run("Add", {x, Tensor::scalar(1.0f)}).shape() == Shape{huge, huge, 0});
}

TEST_CASE("integers wrap around and division has no undefined case", "[graph]") {
  using Limits = std::numeric_limits<std::int32_t>;
  const auto one = [](std::int32_t value) { return Tensor::scalar(value); };
  const auto result = [](const Tensor& tensor) { return *tensor.data<std::int32_t>(); };
  CHECK(result(run("Add", {one(Limits::max()), one(1)})) == Limits::min());
  CHECK(result(run("Mul", {one(65536), one(65536)})) == 0);
  CHECK(result(run("Div", {one(Limits::min()), one(-1)})) == Limits::min());
  CHECK(result(run("Div", {one(-7), one(2)})) == -3);
  CHECK(result(run("Mod", {one(Limits::min()), one(-1)})) == 0);
  CHECK(result(run("Mod", {one(-7), one(2)})) == 1);
  CHECK(result(run("Mod", {one(7), one(-2)})) == -1);
  CHECK(result(run("Mod", {one(-7), one(2)}, {{{"fmod", std::int64_t{1}}}})) == -1);
  const auto product =
      run("Mul", {Tensor::scalar<std::uint16_t>(65535), Tensor::scalar<std::uint16_t>(65535)});
  CHECK(*product.data<std::uint16_t>() == 1);
  CHECK_THROWS_WITH(run("Div", {one(1), one(0)}),
                    "[graph.Div] an integer divisor must not be 0, got 0");
  CHECK_THROWS_WITH(run("Mod", {one(1), one(0)}),
                    "[graph.Mod] an integer divisor must not be 0, got 0");
}

TEST_CASE("Mod of floats has the sign that fmod asks for", "[graph]") {
  const Tensor a = Tensor::of<float>(Shape{6}, {-4.3f, 7.2f, 5.0f, 4.3f, -7.2f, 8.0f});
  const Tensor b = Tensor::of<float>(Shape{6}, {2.1f, -3.4f, 8.0f, -2.1f, 3.4f, 5.0f});
  const auto truncated = values<float>(run("Mod", {a, b}, {{{"fmod", std::int64_t{1}}}}));
  const auto floored = values<float>(run("Mod", {a, b}, {{}, 28}));
  for (int i = 0; i < 6; ++i) {
    const double x = a.values<float>()[i];
    const double y = b.values<float>()[i];
    // fmod is exact; the quotients here are far from integers.
    CHECK(truncated[i] == static_cast<float>(x - std::trunc(x / y) * y));
    // One more addition in float: 2^-24 of at most 3.4.
    CHECK(std::abs(floored[i] - (x - std::floor(x / y) * y)) < 4e-7);
  }
}

TEST_CASE("Pow takes exponents of another type and keeps the type of the base", "[graph]") {
  const Tensor base = Tensor::of<std::int64_t>(Shape{4}, {3, -2, 1, 10});
  const Tensor power = Tensor::of<std::int32_t>(Shape{4}, {4, 3, -5, 18});
  CHECK(values<std::int64_t>(run("Pow", {base, power})) ==
        std::vector<std::int64_t>{81, -8, 1, 1'000'000'000'000'000'000});
  const Tensor root = Tensor::scalar(0.5f);
  CHECK(values<std::int32_t>(run("Pow", {Tensor::of<std::int32_t>(Shape{2}, {16, 2}), root})) ==
        std::vector<std::int32_t>{4, 1});
  CHECK(values<float>(run("Pow", {Tensor::of<float>(Shape{2}, {-2.0f, 0.0f}),
                                  Tensor::of<std::int64_t>(Shape{2}, {3, -1})})) ==
        std::vector<float>{-8.0f, kInfinity});
  CHECK_THROWS_WITH(run("Pow", {Tensor::scalar<std::int32_t>(0), Tensor::scalar<std::int32_t>(-1)}),
                    "[graph.Pow] the exponent of an integer 0 must be >= 0, got -1");
}

TEST_CASE("Min and Max pass on a NaN of either operand", "[graph]") {
  const Tensor a = Tensor::of<float>(Shape{4}, {1.0f, kNaN, 3.0f, -0.5f});
  const Tensor b = Tensor::of<float>(Shape{4}, {2.0f, 1.0f, kNaN, -1.5f});
  const auto least = values<float>(run("Min", {a, b}));
  const auto greatest = values<float>(run("Max", {a, b, Tensor::scalar(0.0f)}));
  CHECK(least[0] == 1.0f);
  CHECK(std::isnan(least[1]));
  CHECK(std::isnan(least[2]));
  CHECK(least[3] == -1.5f);
  CHECK(greatest[0] == 2.0f);
  CHECK(std::isnan(greatest[1]));
  CHECK(std::isnan(greatest[2]));
  CHECK(greatest[3] == 0.0f);
}

TEST_CASE("Sum and Mean of halves are rounded once", "[graph]") {
  // 2048 + 1 has no float16, but 2048 + 1 + 1 has: adding in float16 would stay at 2048.
  const auto half = [](float value) { return Tensor::scalar(float16(value)); };
  const Tensor sum = run("Sum", {half(2048), half(1), half(1)});
  CHECK(static_cast<float>(*sum.data<float16>()) == 2050.0f);
  const Tensor mean = run("Mean", {half(60000), half(60000)});
  CHECK(static_cast<float>(*mean.data<float16>()) == static_cast<float>(float16(60000.0f)));
  const Tensor mixed = run("Sum", {iota<float>(Shape{3}), iota<float>(Shape{2, 1})});
  CHECK(values<float>(mixed) == std::vector<float>{0, 1, 2, 1, 2, 3});
}

TEST_CASE("PRelu refuses a slope that would widen its input", "[graph]") {
  const Tensor x = Tensor::of<float>(Shape{2, 2}, {-1.0f, 2.0f, -3.0f, 4.0f});
  CHECK(values<float>(run("PRelu", {x, Tensor::of<float>(Shape{2, 1}, {0.5f, 2.0f})})) ==
        std::vector<float>{-0.5f, 2.0f, -6.0f, 4.0f});
  CHECK_THROWS_WITH(
      run("PRelu", {x, iota<float>(Shape{3, 2, 2})}),
      "[graph.PRelu] the slope must broadcast to the shape of the input, got (3, 2, 2)");
}

TEST_CASE("comparisons are false for NaN and take strings and truth values", "[graph]") {
  const Tensor a = Tensor::of<float>(Shape{3}, {1.0f, kNaN, 2.0f});
  const Tensor b = Tensor::of<float>(Shape{3}, {1.0f, kNaN, 1.0f});
  CHECK(values<bool>(run("Equal", {a, b})) == std::vector<bool>{true, false, false});
  CHECK(values<bool>(run("Less", {b, a})) == std::vector<bool>{false, false, true});
  CHECK(values<bool>(run("GreaterOrEqual", {a, b})) == std::vector<bool>{true, false, true});
  CHECK(values<bool>(run("LessOrEqual", {a, b})) == std::vector<bool>{true, false, false});
  CHECK(values<bool>(run("Greater", {a, b})) == std::vector<bool>{false, false, true});
  const Tensor words = Tensor::of_strings(Shape{2, 1}, {"one", "two"});
  CHECK(values<bool>(run("Equal", {words, Tensor::of_strings(Shape{2}, {"two", "one"})})) ==
        std::vector<bool>{false, true, true, false});
  const Tensor yes = Tensor::of<bool>(Shape{4}, {true, true, false, false});
  const Tensor no = Tensor::of<bool>(Shape{4}, {true, false, true, false});
  CHECK(values<bool>(run("Equal", {yes, no})) == std::vector<bool>{true, false, false, true});
  CHECK(values<bool>(run("Xor", {yes, no})) == std::vector<bool>{false, true, true, false});
  CHECK(values<bool>(run("And", {yes, no})) == std::vector<bool>{true, false, false, false});
  CHECK(values<bool>(run("Or", {yes, no})) == std::vector<bool>{true, true, true, false});
  CHECK_THROWS_AS(run("And", {a, b}), DTypeError);
}

TEST_CASE("truth values of a file may be any byte", "[graph]") {
  Tensor two(ElementType::boolean, Shape{2});
  static_cast<std::uint8_t*>(two.mutable_raw())[0] = 2;
  static_cast<std::uint8_t*>(two.mutable_raw())[1] = 0;
  const Tensor yes = Tensor::of<bool>(Shape{2}, {true, true});
  CHECK(values<bool>(run("Equal", {two, yes})) == std::vector<bool>{true, false});
  CHECK(values<bool>(run("Not", {two})) == std::vector<bool>{false, true});
  CHECK(values<bool>(run("And", {two, yes})) == std::vector<bool>{true, false});
}

TEST_CASE("BitShift leaves the sign's bits where it shifts by all bits or less than none",
          "[graph]") {
  const auto shift = [](std::int8_t x, std::int8_t by, const char* direction) {
    const Tensor result = run("BitShift", {Tensor::scalar(x), Tensor::scalar(by)},
                              {{{"direction", std::string(direction)}}, 28});
    return static_cast<int>(*result.data<std::int8_t>());
  };
  CHECK(shift(-128, 7, "RIGHT") == -1);
  CHECK(shift(-128, 8, "RIGHT") == -1);
  CHECK(shift(127, 8, "RIGHT") == 0);
  CHECK(shift(-1, -1, "RIGHT") == -1);
  CHECK(shift(-1, -1, "LEFT") == 0);
  CHECK(shift(3, 7, "LEFT") == -128);
  CHECK(shift(3, 8, "LEFT") == 0);
  CHECK_THROWS_WITH(shift(1, 1, "UP"), "[graph.BitShift] direction must be LEFT or RIGHT, got UP");
}

TEST_CASE("Where chooses among every type and broadcasts all three inputs", "[graph]") {
  const Tensor condition = Tensor::of<bool>(Shape{2, 1}, {true, false});
  CHECK(values<float>(run("Where", {condition, iota<float>(Shape{3}), Tensor::scalar(-1.0f)})) ==
        std::vector<float>{0, 1, 2, -1, -1, -1});
  const Tensor words = run("Where", {condition, Tensor::of_strings(Shape{}, {"yes"}),
                                     Tensor::of_strings(Shape{2}, {"no", "never"})});
  CHECK(std::vector<std::string>(words.strings().begin(), words.strings().end()) ==
        std::vector<std::string>{"yes", "yes", "no", "never"});
  using Complex = std::complex<double>;
  const Tensor numbers =
      run("Where", {condition, Tensor::scalar(Complex(1, 2)), Tensor::scalar(Complex(3, 4))});
  CHECK(values<Complex>(numbers) == std::vector<Complex>{{1, 2}, {3, 4}});
}

TEST_CASE("Clip takes bounds as attributes before opset 11 and as inputs since", "[graph]") {
  const Tensor x = Tensor::of<float>(Shape{4}, {-2.0f, 0.5f, 7.0f, kNaN});
  const auto old = values<float>(run("Clip", {x}, {{{"min", -1.0f}, {"max", 1.0f}}, 7}));
  CHECK(std::vector<float>(old.begin(), old.begin() + 3) == std::vector<float>{-1, 0.5f, 1});
  CHECK(std::isnan(old[3]));
  const auto open = values<float>(run("Clip", {x, Value(), Tensor::scalar(1.0f)}));
  CHECK(std::vector<float>(open.begin(), open.begin() + 3) == std::vector<float>{-2, 0.5f, 1});
  const Tensor bytes = Tensor::of<std::int8_t>(Shape{2}, {-128, 5});
  CHECK(values<std::int8_t>(run("Clip", {bytes, Tensor::scalar<std::int8_t>(-3)})) ==
        std::vector<std::int8_t>{-3, 5});
  CHECK_THROWS_WITH(run("Clip", {x, iota<float>(Shape{2})}),
                    "[graph.Clip] min and max must have one element, shape, got (2,)");
}

TEST_CASE("functions of one element keep NaN and know infinity", "[graph]") {
  const Tensor x = Tensor::of<float>(Shape{3}, {-kInfinity, kInfinity, kNaN});
  struct Ends {
    const char* op;
    float low;
    float high;
  };
  for (const Ends& ends : {Ends{"Relu", 0, kInfinity}, Ends{"Sigmoid", 0, 1}, Ends{"Tanh", -1, 1},
                           Ends{"Elu", -1, kInfinity}, Ends{"Softplus", 0, kInfinity},
                           Ends{"Erf", -1, 1}, Ends{"HardSigmoid", 0, 1}, Ends{"Sign", -1, 1},
                           Ends{"Abs", kInfinity, kInfinity}, Ends{"Celu", -1, kInfinity}}) {
    const auto y = values<float>(run(ends.op, {x}));
    INFO(ends.op);
    CHECK(y[0] == ends.low);
    CHECK(y[1] == ends.high);
    CHECK(std::isnan(y[2]));
  }
}

TEST_CASE("functions of one element agree with closed forms in every float type", "[graph]") {
  const double points[] = {-3.0, -0.75, -0.5, 0.0, 0.25, 0.5, 2.5};
  const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
  struct Form {
    const char* op;
    std::function<double(double)> f;
  };
  const Form forms[] = {
      {"Floor", [](double x) { return std::floor(x); }},
      {"Ceil", [](double x) { return std::ceil(x); }},
      {"Round", [](double x) { return x == 2.5     ? 2.0
                                      : x == -0.75 ? -1.0
                                                   : std::trunc(x); }},
      {"Exp", [](double x) { return std::exp(x); }},
      {"Neg", [](double x) { return -x; }},
      {"Sigmoid", sigmoid},
      {"Swish", [&](double x) { return x * sigmoid(x); }},
      {"Softsign", [](double x) { return x / (1 + std::abs(x)); }},
      {"Mish", [](double x) { return x * std::tanh(std::log1p(std::exp(x))); }},
      {"Gelu", [](double x) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); }},
      {"HardSwish", [](double x) { return x * std::max(0.0, std::min(1.0, x / 6 + 0.5)); }},
      {"LeakyRelu", [](double x) { return x < 0 ? 0.01f * x : x; }},
      {"ThresholdedRelu", [](double x) { return x > 1 ? x : 0; }},
      {"Shrink", [](double x) { return std::abs(x) > 0.5 ? x : 0; }},
      {"Asinh", [](double x) { return std::log(x + std::sqrt(x * x + 1)); }},
      {"Selu",
       [](double x) {
         return 1.05070102214813232421875 *
                (x > 0 ? x : 1.67326319217681884765625 * (std::exp(x) - 1));
       }},
  };
  for (const Form& form : forms) {
    for (const ElementType type : {ElementType::float32, ElementType::float64, ElementType::float16,
                                   ElementType::bfloat16}) {
      INFO(form.op << " of " << name(type));
      const Tensor x = Tensor::of<double>(Shape{7}, std::span<const double>(points));
      const auto to = static_cast<std::int64_t>(type);
      const Tensor narrow = run("Cast", {x}, {{{"to", to}}});
      const Tensor y = run(form.op, {narrow}, {{}, 24});
      CHECK(y.type() == type);
      const auto got = values<double>(run("Cast", {y}, {{{"to", std::int64_t{11}}}}));
      // The points are exact in all types; the result is rounded once, at most 2^-8 of it, after a
      // few operations in float or double.
      const double unit = type == ElementType::bfloat16  ? 0x1p-8
                          : type == ElementType::float16 ? 0x1p-11
                          : type == ElementType::float32 ? 0x1p-21
                                                         : 0x1p-48;
      for (int i = 0; i < 7; ++i) {
        const double expected = form.f(points[i]);
        CHECK(std::abs(got[i] - expected) <= unit * std::abs(expected) + unit * 0x1p-6);
      }
    }
  }
}

TEST_CASE("Abs and Neg of the least integer wrap around", "[graph]") {
  const Tensor x = Tensor::of<std::int8_t>(Shape{2}, {-128, 5});
  CHECK(values<std::int8_t>(run("Abs", {x})) == std::vector<std::int8_t>{-128, 5});
  CHECK(values<std::int8_t>(run("Neg", {x})) == std::vector<std::int8_t>{-128, -5});
  CHECK_THROWS_AS(run("Exp", {x}), DTypeError);
}

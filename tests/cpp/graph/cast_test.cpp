// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <limits>

#include <moptcore/graph/small_float.hpp>

#include "catch.hpp"
#include "graph/run_node.hpp"

using namespace moptcore;
using namespace moptcore::graph;
using run_node::run;
using run_node::values;

namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

Tensor cast(const Tensor& from, ElementType to, std::int64_t saturate = 1) {
  return run("Cast", {from}, {{{"to", static_cast<std::int64_t>(to)}, {"saturate", saturate}}, 25});
}

const SmallFloat kFormats[] = {kFloat8E4M3FN, kFloat8E4M3FNUZ, kFloat8E5M2, kFloat8E5M2FNUZ,
                               kFloat4E2M1};

}  // namespace

TEST_CASE("every code of a small float is what its number becomes", "[graph]") {
  for (const SmallFloat& format : kFormats) {
    for (int code = 0; code < 1 << format.width; ++code) {
      const float value = decode(format, static_cast<std::uint8_t>(code));
      if (std::isnan(value)) {
        CHECK(std::isnan(decode(format, encode(format, value, true))));
        continue;
      }
      const bool kept = !std::isinf(value);  // saturating, infinity becomes a number
      CHECK((encode(format, value, !kept ? false : true) == code));
      CHECK((encode(format, value, false) == code));
    }
  }
  for (int code = 0; code < 255; ++code) {
    const float value = decode_e8m0(static_cast<std::uint8_t>(code));
    CHECK(value == std::ldexp(1.0, code - 127));
    for (const auto rounding : {ScaleRounding::up, ScaleRounding::down, ScaleRounding::nearest}) {
      CHECK(encode_e8m0(value, rounding, false) == code);
    }
  }
}

TEST_CASE("a float becomes the nearest small float, of two the even one", "[graph]") {
  // Between neighbours of every finite code: the middle goes to the even code, a float to either
  // side of it to the nearer.
  for (const SmallFloat& format : kFormats) {
    for (int code = 0; code < format.greatest; ++code) {
      const float low = decode(format, static_cast<std::uint8_t>(code));
      const float high = decode(format, static_cast<std::uint8_t>(code + 1));
      const float middle = (low + high) / 2;
      const int even = code % 2 == 0 ? code : code + 1;
      CHECK((encode(format, middle, false) == even));
      CHECK((encode(format, std::nextafter(middle, low), false) == code));
      CHECK((encode(format, std::nextafter(middle, high), false) == code + 1));
      const int sign = 1 << (format.width - 1);
      const int negative = even == 0 && !format.signed_zero ? 0 : even | sign;
      CHECK((encode(format, -middle, false) == negative));
    }
  }
}

TEST_CASE("small floats beyond their range saturate or are infinite or NaN", "[graph]") {
  struct Row {
    SmallFloat format;
    int saturated;
    int infinite;  // of infinity and of more than the greatest number, without saturating
    int nan;
  };
  for (const Row& row : {Row{kFloat8E4M3FN, 0x7e, 0x7f, 0x7f},
                         Row{kFloat8E4M3FNUZ, 0x7f, 0x80, 0x80}, Row{kFloat8E5M2, 0x7b, 0x7c, 0x7e},
                         Row{kFloat8E5M2FNUZ, 0x7f, 0x80, 0x80}, Row{kFloat4E2M1, 0x7, 0x7, 0x8}}) {
    for (const float large : {kInfinity, 1e6f, std::numeric_limits<float>::max()}) {
      CHECK(encode(row.format, large, true) == row.saturated);
      CHECK(encode(row.format, large, false) == row.infinite);
    }
    CHECK(encode(row.format, kNaN, true) == row.nan);
    const float greatest = decode(row.format, static_cast<std::uint8_t>(row.format.greatest));
    const float below = decode(row.format, static_cast<std::uint8_t>(row.format.greatest - 1));
    const float limit = greatest + (greatest - below) / 2;  // from here on it would round up
    CHECK(encode(row.format, std::nextafter(limit, 0.0f), false) == row.format.greatest);
    CHECK(encode(row.format, std::numeric_limits<float>::denorm_min(), true) == 0);
  }
}

TEST_CASE("float8e8m0 rounds as it is told", "[graph]") {
  const auto all = [](float value) {
    return std::vector<int>{encode_e8m0(value, ScaleRounding::up, true),
                            encode_e8m0(value, ScaleRounding::down, true),
                            encode_e8m0(value, ScaleRounding::nearest, true)};
  };
  CHECK(all(1.0f) == std::vector<int>{127, 127, 127});
  CHECK(all(1.25f) == std::vector<int>{128, 127, 127});
  CHECK(all(1.5f) == std::vector<int>{128, 127, 128});
  CHECK(all(0x1.8p-127f) == std::vector<int>{1, 0, 1});
  CHECK(all(0x1.4p-127f) == std::vector<int>{1, 0, 0});
  CHECK(all(0.0f) == std::vector<int>{0, 0, 0});
  CHECK(all(0x1.8p127f) == std::vector<int>{254, 254, 254});
  CHECK(all(kInfinity) == std::vector<int>{254, 254, 254});
  CHECK(all(kNaN) == std::vector<int>{255, 255, 255});
  CHECK(all(-1.0f) == std::vector<int>{255, 255, 255});
  CHECK(encode_e8m0(0.0f, ScaleRounding::nearest, false) == 255);
  CHECK(encode_e8m0(kInfinity, ScaleRounding::nearest, false) == 255);
  CHECK(encode_e8m0(0x1.8p127f, ScaleRounding::nearest, false) == 255);
  CHECK(encode_e8m0(0x1.8p127f, ScaleRounding::down, false) == 254);
}

TEST_CASE("doubles and long integers are rounded to halves once", "[graph]") {
  // A little above the middle of two float16: rounding to float first would make it the middle,
  // which goes to the even one below.
  const double above = 1 + 0x1p-11 + 0x1p-40;
  CHECK(cast(Tensor::scalar(above), ElementType::float16).data<float16>()->bits == 0x3c01);
  CHECK(cast(Tensor::scalar(1 + 0x1p-11), ElementType::float16).data<float16>()->bits == 0x3c00);
  const double coarse = 1 + 0x1p-8 + 0x1p-40;
  CHECK(cast(Tensor::scalar(coarse), ElementType::bfloat16).data<bfloat16>()->bits == 0x3f81);
  const std::int64_t large = (std::int64_t{1} << 62) + (std::int64_t{1} << 54) + 1;
  // 2^62 (1 + 2^-8 + 2^-62): above the middle of two bfloat16.
  CHECK(cast(Tensor::scalar(large), ElementType::bfloat16).data<bfloat16>()->bits == 0x5e81);
  CHECK(cast(Tensor::scalar(-large), ElementType::bfloat16).data<bfloat16>()->bits == 0xde81);
  CHECK(cast(Tensor::scalar(large - 1), ElementType::bfloat16).data<bfloat16>()->bits == 0x5e80);
  CHECK(cast(Tensor::scalar(1e300), ElementType::float16).data<float16>()->bits == 0x7c00);
  CHECK(cast(Tensor::scalar(-1e300), ElementType::bfloat16).data<bfloat16>()->bits == 0xff80);
}

TEST_CASE("Cast of integers drops higher bits and of floats never is undefined", "[graph]") {
  const Tensor integers = Tensor::of<std::int16_t>(Shape{3}, {200, -1, 300});
  CHECK(values<std::int8_t>(cast(integers, ElementType::int8)) ==
        std::vector<std::int8_t>{-56, -1, 44});
  const Tensor floats =
      Tensor::of<float>(Shape{6}, {-1.9f, kNaN, kInfinity, -kInfinity, 3e9f, 1e30f});
  using Limits = std::numeric_limits<std::int32_t>;
  CHECK(
      values<std::int32_t>(cast(floats, ElementType::int32)) ==
      std::vector<std::int32_t>{-1, 0, Limits::max(), Limits::min(), Limits::max(), Limits::max()});
  CHECK(values<std::int64_t>(cast(floats, ElementType::int64))[2] ==
        std::numeric_limits<std::int64_t>::max());
  CHECK(values<std::uint64_t>(cast(floats, ElementType::uint64))[5] ==
        std::numeric_limits<std::uint64_t>::max());
  CHECK(values<std::uint32_t>(cast(floats, ElementType::uint32))[4] == 3'000'000'000u);
  CHECK(values<bool>(cast(floats, ElementType::boolean)) == std::vector<bool>(6, true));
  CHECK(values<bool>(cast(Tensor::of<float>(Shape{2}, {-0.0f, 0.25f}), ElementType::boolean)) ==
        std::vector<bool>{false, true});
}

TEST_CASE("packed integers survive the way through every wider type", "[graph]") {
  for (const ElementType type :
       {ElementType::int4, ElementType::uint4, ElementType::int2, ElementType::uint2}) {
    const bool is_signed = type == ElementType::int4 || type == ElementType::int2;
    const int bits = bit_width(type);
    const int low = is_signed ? -(1 << (bits - 1)) : 0;
    std::vector<std::int32_t> numbers;
    for (int i = 0; i < 1031; ++i) numbers.push_back(low + i * 7 % (1 << bits));
    const Tensor wide =
        Tensor::of<std::int32_t>(Shape{1031}, std::span<const std::int32_t>(numbers));
    const Tensor packed = cast(wide, type);
    CHECK(packed.bytes() == (1031 * bits + 7) / 8);
    CHECK(static_cast<const std::uint8_t*>(packed.raw())[0] % (1 << bits) ==
          (numbers[0] & ((1 << bits) - 1)));
    for (const ElementType through : {ElementType::float32, ElementType::int8, ElementType::float16,
                                      ElementType::float64, ElementType::string}) {
      INFO(name(type) << " through " << name(through));
      const Tensor back = cast(cast(cast(packed, through), type), ElementType::int32);
      CHECK(values<std::int32_t>(back) == numbers);
    }
  }
}

TEST_CASE("numbers become the shortest text and text becomes numbers", "[graph]") {
  const auto text = [](const Tensor& from) {
    const Tensor made = cast(from, ElementType::string);
    return std::vector<std::string>(made.strings().begin(), made.strings().end());
  };
  CHECK(text(Tensor::of<float>(Shape{7},
                               {0.47892547f, 100.0f, -0.0f, 1e20f, 1e-5f, kNaN, -kInfinity})) ==
        std::vector<std::string>{"0.47892547", "100.0", "-0.0", "1e+20", "1e-05", "nan", "-inf"});
  CHECK(text(Tensor::of<double>(Shape{2}, {0.1, 1e15})) ==
        std::vector<std::string>{"0.1", "1000000000000000.0"});
  CHECK(text(Tensor::of<float16>(Shape{2}, {float16(0.1f), float16(65504.0f)})) ==
        std::vector<std::string>{"0.1", "65500.0"});
  CHECK(text(Tensor::of<std::int64_t>(Shape{1}, {-12})) == std::vector<std::string>{"-12"});
  CHECK(text(Tensor::of<bool>(Shape{2}, {true, false})) ==
        std::vector<std::string>{"True", "False"});
  const Tensor words = Tensor::of_strings(
      Shape{8}, {"0.47892547", "+INF", "-inf", " 1e-5 ", "NaN", "1e999", "-1e-999", "1000"});
  const auto numbers = values<float>(cast(words, ElementType::float32));
  CHECK(numbers[0] == 0.47892547f);
  CHECK(numbers[1] == kInfinity);
  CHECK(numbers[2] == -kInfinity);
  CHECK(numbers[3] == 1e-5f);
  CHECK(std::isnan(numbers[4]));
  CHECK(numbers[5] == kInfinity);
  CHECK(numbers[6] == 0.0f);
  CHECK(numbers[7] == 1000.0f);
  const Tensor mixed = Tensor::of_strings(Shape{2}, {"9223372036854775807", "100.5"});
  CHECK(values<std::int64_t>(cast(mixed, ElementType::int64)) ==
        std::vector<std::int64_t>{std::numeric_limits<std::int64_t>::max(), 100});
  CHECK_THROWS_WITH(cast(Tensor::of_strings(Shape{1}, {"Hello World!"}), ElementType::float32),
                    "[graph.Cast] strings must be numbers to be cast, got Hello World!");
  CHECK_THROWS_AS(cast(Tensor::of_strings(Shape{1}, {""}), ElementType::int8), Error);
}

TEST_CASE("Cast refuses what has no meaning", "[graph]") {
  const Tensor x = Tensor::scalar(1.0f);
  CHECK_THROWS_AS(run("Cast", {x}, {{{"to", std::int64_t{99}}}}), FormatError);
  CHECK_THROWS_AS(run("Cast", {x}), FormatError);
  CHECK_THROWS_AS(cast(x, ElementType::complex64), DTypeError);
  CHECK_THROWS_AS(cast(Tensor::scalar(std::complex<float>(1, 2)), ElementType::float32),
                  DTypeError);
  CHECK_THROWS_AS(
      run("Cast", {x}, {{{"to", std::int64_t{24}}, {"round_mode", std::string("odd")}}}), Error);
}

TEST_CASE("BitCast keeps every bit and refuses another width", "[graph]") {
  const Tensor x = Tensor::of<float>(Shape{2}, {1.0f, -2.5f});
  const Tensor bits = run("BitCast", {x}, {{{"to", std::int64_t{6}}}, 26});
  CHECK(values<std::int32_t>(bits) ==
        std::vector<std::int32_t>{0x3f800000, static_cast<std::int32_t>(0xc0200000)});
  CHECK_THROWS_AS(run("BitCast", {x}, {{{"to", std::int64_t{7}}}, 26}), DTypeError);
  CHECK_THROWS_AS(run("BitCast", {x}, {{{"to", std::int64_t{8}}}, 26}), DTypeError);
}

TEST_CASE("IsInf and IsNaN read small floats too", "[graph]") {
  const Tensor x = Tensor::of<float>(Shape{4}, {1.0f, kNaN, kInfinity, -kInfinity});
  const Tensor small = cast(x, ElementType::float8e5m2, 0);
  CHECK(values<bool>(run("IsNaN", {small})) == std::vector<bool>{false, true, false, false});
  CHECK(values<bool>(run("IsInf", {small})) == std::vector<bool>{false, false, true, true});
  CHECK(values<bool>(run("IsInf", {x}, {{{"detect_negative", std::int64_t{0}}}})) ==
        std::vector<bool>{false, false, true, false});
}

TEST_CASE("an int64 becomes the nearest float, whatever its size and that of others", "[graph]") {
  constexpr auto kMost = std::numeric_limits<std::int64_t>::max();
  std::vector<std::int64_t> near = {0, 1, -1, 16777217, -16777219, 33554435};
  for (int bit = 24; bit < 51; ++bit) {
    for (const std::int64_t offset : {-1, 0, 1}) {
      near.push_back((std::int64_t{1} << bit) + offset);
      near.push_back(-(std::int64_t{3} << (bit - 1)) + offset);
    }
  }
  near.push_back((std::int64_t{1} << 51) - 1);
  near.push_back(-(std::int64_t{1} << 51));
  std::vector<std::int64_t> far = near;
  far.insert(far.end(), {std::int64_t{1} << 51, -(std::int64_t{1} << 51) - 1, kMost, -kMost - 1,
                         (std::int64_t{1} << 53) + 1, 0x4000004000000001});
  for (const auto& numbers : {near, far}) {
    const auto count = static_cast<std::int64_t>(numbers.size());
    const Tensor x = Tensor::of<std::int64_t>(Shape{count}, numbers);
    const auto given = values<float>(cast(x, ElementType::float32));
    for (std::int64_t i = 0; i < count; ++i) {
      CAPTURE(numbers[i]);
      CHECK(given[i] == static_cast<float>(numbers[i]));
    }
  }
}

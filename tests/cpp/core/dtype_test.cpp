// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/core/dtype.hpp>
#include <moptcore/core/random.hpp>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

using namespace moptcore;

namespace {

// The value of a 16-bit float by definition: (-1)^sign 2^(e - bias) (1 + f / 2^fraction_bits).
double value_of(std::uint16_t half, int fraction_bits) {
  const int exponent_bits = 15 - fraction_bits;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = (half >> fraction_bits) & ((1 << exponent_bits) - 1);
  const int fraction = half & ((1 << fraction_bits) - 1);
  const double sign = (half & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == (1 << exponent_bits) - 1) {
    return fraction == 0 ? sign * std::numeric_limits<double>::infinity()
                         : std::numeric_limits<double>::quiet_NaN();
  }
  const double significand = std::ldexp(fraction, -fraction_bits) + (exponent == 0 ? 0.0 : 1.0);
  return sign * std::ldexp(significand, (exponent == 0 ? 1 : exponent) - bias);
}

template <class Half>
bool is_nan(Half half) {
  return std::isnan(static_cast<float>(half));
}

}  // namespace

TEMPLATE_TEST_CASE_SIG("every 16-bit float converts to its value and back", "[core]",
                       ((class Half, int kFraction), Half, kFraction), (float16, 10),
                       (bfloat16, 7)) {
  std::int64_t wrong = 0;
  for (int bits = 0; bits < 65536; ++bits) {
    const auto half = std::bit_cast<Half>(static_cast<std::uint16_t>(bits));
    const float value = static_cast<float>(half);
    const double expected = value_of(half.bits, kFraction);
    if (std::isnan(expected)) {
      wrong += !(std::isnan(value) && is_nan(Half(value)) &&
                 std::signbit(value) == ((bits & 0x8000) != 0));
    } else {
      wrong += !(static_cast<double>(value) == expected &&
                 std::signbit(value) == std::signbit(expected) && Half(value).bits == half.bits);
    }
  }
  CHECK(wrong == 0);
}

TEMPLATE_TEST_CASE_SIG("a float rounds to the nearest 16-bit float, ties to even", "[core]",
                       ((class Half, int kFraction), Half, kFraction), (float16, 10),
                       (bfloat16, 7)) {
  // Between neighbours the middle goes to the even one, its own neighbours to the nearer one.
  const int infinity = ((1 << (15 - kFraction)) - 1) << kFraction;
  std::int64_t wrong = 0;
  for (int bits = 0; bits + 1 < infinity; ++bits) {
    const double low = value_of(static_cast<std::uint16_t>(bits), kFraction);
    const double high = value_of(static_cast<std::uint16_t>(bits + 1), kFraction);
    const auto middle = static_cast<float>((low + high) / 2);
    wrong += Half(middle).bits != (bits % 2 == 0 ? bits : bits + 1);
    wrong += Half(std::nextafter(middle, 0.0f)).bits != bits;
    wrong += Half(std::nextafter(middle, std::numeric_limits<float>::infinity())).bits != bits + 1;
    wrong += Half(-middle).bits != ((bits % 2 == 0 ? bits : bits + 1) | 0x8000);
  }
  CHECK(wrong == 0);
  // What is half a step above the largest becomes infinity.
  const double largest = value_of(static_cast<std::uint16_t>(infinity - 1), kFraction);
  const double step = largest - value_of(static_cast<std::uint16_t>(infinity - 2), kFraction);
  const auto limit = static_cast<float>(largest + step / 2);
  CHECK(Half(limit).bits == infinity);
  CHECK(Half(std::nextafter(limit, 0.0f)).bits == infinity - 1);
  CHECK(Half(-std::numeric_limits<float>::infinity()).bits == (infinity | 0x8000));
}

#if defined(__FLT16_MAX__) && !defined(__clang__)
TEST_CASE("float16 rounds random floats as the compiler's own type does", "[core]") {
  const Philox random(1);
  std::int64_t wrong = 0;
  for (std::uint64_t i = 0; i < 1'000'000; ++i) {
    const auto value = std::bit_cast<float>(random.word(i));
    if (std::isnan(value)) continue;
    wrong += float16(value).bits != std::bit_cast<std::uint16_t>(static_cast<_Float16>(value));
  }
  CHECK(wrong == 0);
}
#endif

TEST_CASE("dtypes know their names and sizes", "[core]") {
  STATIC_REQUIRE(dtype_of<float>() == DType::float32);
  STATIC_REQUIRE(dtype_of<long>() == dtype_of<long long>());
  STATIC_REQUIRE(dtype_of<unsigned char>() == DType::uint8);
  STATIC_REQUIRE(dtype_of<bool>() == DType::boolean);
  STATIC_REQUIRE(byte_count(DType::int4, 5) == 3);
  STATIC_REQUIRE(byte_count(DType::uint4, 0) == 0);
  STATIC_REQUIRE(byte_count(DType::float64, 5) == 40);
  CHECK(name(DType::bfloat16) == "bfloat16");
  CHECK(name(DType::boolean) == "bool");
  CHECK(name(DType::uint4) == "uint4");
  CHECK(is_floating(DType::bfloat16));
  CHECK_FALSE(is_floating(DType::int64));
}

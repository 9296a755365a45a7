// SPDX-License-Identifier: Apache-2.0
// The kernels against the header's formula for one element.
#include "catch.hpp"

#include <moptcore/core/random.hpp>
#include <moptcore/quant/quant.hpp>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "cpp/kernels/every_isa.hpp"
#include "kernels/fake_quant.hpp"
#include "kernels/fake_quant_range.hpp"
#include "kernels/quantize.hpp"

using namespace moptcore;
using kernels::GridRule;
using kernels::GridStep;
using kernels::GridTable;
using kernels::Integer;
using kernels::NanPosition;
using kernels::Rounding;
using kernels::ZeroPoint;
using quant::Compat;

namespace {

constexpr Compat kCompats[] = {Compat::none, Compat::torch, Compat::tflite};

GridRule rule_of(Compat compat) {
  if (compat == Compat::torch) return {Rounding::multiply_even, NanPosition::low, true};
  return {compat == Compat::tflite ? Rounding::divide_away : Rounding::divide_even,
          NanPosition::nan, false};
}

// The same for quantize, which cannot give NaN.
GridRule whole_rule_of(Compat compat, bool along_axis = false) {
  GridRule rule = rule_of(compat);
  if (rule.nan == NanPosition::nan) rule.nan = NanPosition::zero;
  if (compat == Compat::torch) rule.zero_point = along_axis ? ZeroPoint::before : ZeroPoint::fused;
  return rule;
}

template <class T>
GridStep<T> step_of(const Grid& grid, Compat compat) {
  const float factor = compat == Compat::torch ? 1.0f / grid.scale : grid.scale;
  return {static_cast<T>(factor), static_cast<T>(grid.scale),
          static_cast<T>(grid.qmin - grid.zero_point), static_cast<T>(grid.qmax - grid.zero_point),
          static_cast<T>(grid.zero_point)};
}

void fake_quant(const float* src, std::int64_t n, const auto& grid, const GridRule& rule,
                float* dst, std::uint8_t* bits) {
  kernels::fake_quant_f32(src, n, grid, rule, dst, bits);
}
void fake_quant(const double* src, std::int64_t n, const auto& grid, const GridRule& rule,
                double* dst, std::uint8_t* bits) {
  kernels::fake_quant_f64(src, n, grid, rule, dst, bits);
}
void fake_quant_of(const float* src, auto... others) { kernels::fake_quant_f32(src, others...); }
void fake_quant_of(const float16* src, auto... others) { kernels::fake_quant_f16(src, others...); }
void fake_quant_of(const bfloat16* src, auto... others) {
  kernels::fake_quant_bf16(src, others...);
}
void fake_quant_of(const double* src, auto... others) { kernels::fake_quant_f64(src, others...); }

void quantize(const float* src, std::int64_t n, const auto& grid, const GridRule& rule,
              Integer type, void* dst) {
  kernels::quantize_f32(src, n, grid, rule, type, dst);
}
void quantize(const double* src, std::int64_t n, const auto& grid, const GridRule& rule,
              Integer type, void* dst) {
  kernels::quantize_f64(src, n, grid, rule, type, dst);
}
void dequantize(const void* src, Integer type, std::int64_t n, const auto& grid, float* dst) {
  kernels::dequantize_f32(src, type, n, grid, dst);
}
void dequantize(const void* src, Integer type, std::int64_t n, const auto& grid, double* dst) {
  kernels::dequantize_f64(src, type, n, grid, dst);
}

// Equal bits, one NaN being as good as another.
template <class T>
bool same(T a, T b) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
  return std::memcmp(&a, &b, sizeof(T)) == 0;
}

bool bit(const std::vector<std::uint8_t>& bits, std::size_t i) {
  return ((bits[i / 8] >> (i % 8)) & 1) != 0;
}

// Ties, their neighbours and what is special, then noise.
template <class T>
std::vector<T> values(std::int64_t n, T scale) {
  const T infinity = std::numeric_limits<T>::infinity();
  std::vector<T> special = {T(0),
                            -T(0),
                            infinity,
                            -infinity,
                            std::numeric_limits<T>::quiet_NaN(),
                            std::numeric_limits<T>::denorm_min(),
                            -std::numeric_limits<T>::min(),
                            std::numeric_limits<T>::max(),
                            std::numeric_limits<T>::lowest(),
                            T(16777217),
                            T(0x1p31),
                            T(-0x1p63)};
  std::vector<T> result;
  const Philox random(3);
  for (std::int64_t i = 0; i < n; ++i) {
    const auto at = static_cast<std::size_t>(i);
    const T tie = (T(i % 300) - T(149.5)) * scale;
    switch (i % 5) {
      case 0: result.push_back(special[at / 5 % special.size()]); break;
      case 1: result.push_back(tie); break;
      case 2: result.push_back(std::nextafter(tie, infinity)); break;
      case 3: result.push_back(std::nextafter(tie, -infinity)); break;
      default:
        result.push_back(T(static_cast<std::int32_t>(random(static_cast<std::uint64_t>(i))[0])) *
                         T(0x1p-24) * scale);
    }
  }
  return result;
}

const std::vector<std::int64_t>& lengths() {
  static const std::vector<std::int64_t> all = {0,  1,  2,  3,  4,  5,  7,   8,   9,   15,  16,
                                                17, 31, 33, 63, 64, 65, 130, 131, 258, 1000};
  return all;
}

const Grid kGrids[] = {{0.1f, 0, -128, 127},   {0.013f, -17, -127, 127},  {0.5f, 200, 0, 255},
                       {2.0f, 7, -8, 7},       {1e-38f, 3, -128, 127},    {3e-45f, 0, -128, 127},
                       {1e30f, -5, -128, 127}, {1e-4f, 11, -32768, 32767}};

template <class T>
void check_one_grid(std::int64_t n, std::size_t misaligned, const Grid& grid, Compat compat) {
  const auto x = values<T>(n + static_cast<std::int64_t>(misaligned), static_cast<T>(grid.scale));
  const T* src = x.data() + misaligned;
  std::vector<T> plain(static_cast<std::size_t>(n) + 1, T(77));
  std::vector<T> marked = plain;
  std::vector<std::uint8_t> bits(static_cast<std::size_t>(quant::bit_bytes(n)) + 1, 0xAB);
  const auto step = step_of<T>(grid, compat);
  fake_quant(src, n, step, rule_of(compat), plain.data(), nullptr);
  fake_quant(src, n, step, rule_of(compat), marked.data(), bits.data());
  bool all = true;
  for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) {
    const T expected = quant::fake_quantize(src[i], grid, compat);
    all = all && same(plain[i], expected) && same(marked[i], expected) &&
          bit(bits, i) == quant::passes_gradient(src[i], grid, compat);
  }
  CHECK(all);
  CHECK(plain.back() == T(77));
  CHECK(marked.back() == T(77));
  CHECK(bits.back() == 0xAB);
  for (std::size_t i = static_cast<std::size_t>(n); i < 8 * (bits.size() - 1); ++i) {
    CHECK_FALSE(bit(bits, i));
  }
}

template <class T>
void check_many_grids(std::int64_t n, Compat compat) {
  const auto count = static_cast<std::size_t>(n);
  std::vector<T> factor(count), scale(count), low(count), high(count), zero(count);
  std::vector<Grid> grids(count);
  for (std::size_t i = 0; i < count; ++i) {
    grids[i] = {0.01f * static_cast<float>(i + 1), static_cast<std::int32_t>(i % 200) - 100, -128,
                127};
    const auto step = step_of<T>(grids[i], compat);
    factor[i] = step.factor;
    scale[i] = step.scale;
    low[i] = step.low;
    high[i] = step.high;
    zero[i] = step.zero;
  }
  const GridTable<T> table{factor.data(), scale.data(), low.data(), high.data(), zero.data()};
  const auto x = values<T>(n, T(1));
  std::vector<T> y(count + 1, T(77));
  std::vector<T> back(count + 1, T(77));
  std::vector<std::uint8_t> bits(static_cast<std::size_t>(quant::bit_bytes(n)) + 1, 0xAB);
  std::vector<std::int8_t> q(count + 1, 77);
  fake_quant(x.data(), n, table, rule_of(compat), y.data(), bits.data());
  quantize(x.data(), n, table, whole_rule_of(compat, true), Integer::int8, q.data());
  dequantize(q.data(), Integer::int8, n, table, back.data());
  bool all = true;
  for (std::size_t i = 0; i < count; ++i) {
    const std::int32_t expected = quant::quantize(x[i], grids[i], compat, true);
    all = all && same(y[i], quant::fake_quantize(x[i], grids[i], compat)) && q[i] == expected &&
          bit(bits, i) == quant::passes_gradient(x[i], grids[i], compat) &&
          same(back[i], quant::dequantize<T>(expected, grids[i]));
  }
  CHECK(all);
  CHECK(y.back() == T(77));
  CHECK(back.back() == T(77));
  CHECK(q.back() == 77);
  CHECK(bits.back() == 0xAB);
}

template <class T, class Q>
void check_integers(Integer type) {
  const Grid grid{0.07f, std::is_signed_v<Q> ? -3 : 3, std::numeric_limits<Q>::min(),
                  std::numeric_limits<Q>::max()};
  for (const Compat compat : kCompats) {
    const GridRule rule = whole_rule_of(compat);
    for (const std::int64_t n : lengths()) {
      const auto x = values<T>(n, static_cast<T>(grid.scale));
      std::vector<Q> q(x.size() + 1, Q(77));
      std::vector<T> back(x.size() + 1, T(77));
      quantize(x.data(), n, step_of<T>(grid, compat), rule, type, q.data());
      dequantize(q.data(), type, n, step_of<T>(grid, compat), back.data());
      bool all = true;
      for (std::size_t i = 0; i < x.size(); ++i) {
        const std::int32_t expected = quant::quantize(x[i], grid, compat);
        all = all && q[i] == expected && same(back[i], quant::dequantize<T>(expected, grid));
      }
      CHECK(all);
      CHECK(q.back() == Q(77));
      CHECK(back.back() == T(77));
    }
  }
}

// Whether the elements are written past the caches does not change them.
template <class T, class Step>
void check_streamed(std::int64_t n, const std::vector<T>& x, const Step& step, Compat compat) {
  const auto size = static_cast<std::size_t>(n);
  const auto bytes = static_cast<std::size_t>(quant::bit_bytes(n));
  for (const std::size_t offset : {std::size_t{0}, 16 / sizeof(T)}) {
    alignas(64) T y[2][1024];
    std::vector<std::uint8_t> bits[2] = {std::vector<std::uint8_t>(bytes),
                                         std::vector<std::uint8_t>(bytes)};
    for (const bool stream : {false, true}) {
      T* to = y[stream] + offset;
      to[size] = T(77);
      fake_quant_of(x.data(), n, step, rule_of(compat), to, bits[stream].data(), stream);
      const T untouched(77);
      CHECK(std::memcmp(to + size, &untouched, sizeof(T)) == 0);
    }
    CHECK(std::memcmp(y[0] + offset, y[1] + offset, size * sizeof(T)) == 0);
    CHECK(bits[0] == bits[1]);
  }
}

// 16-bit floats: the formula in float, then rounded.
template <class Half>
void check_halves(std::int64_t n, const Grid& grid, Compat compat) {
  std::vector<Half> x;
  for (const float value : values<float>(n, grid.scale)) x.push_back(Half(value));
  const auto step = step_of<float>(grid, compat);
  std::vector<Half> y(x.size() + 1, Half(77.0f));
  std::vector<std::uint8_t> bits(static_cast<std::size_t>(quant::bit_bytes(n)) + 1, 0xAB);
  fake_quant_of(x.data(), n, step, rule_of(compat), y.data(), bits.data(), false);
  bool all = true;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto value = static_cast<float>(x[i]);
    all = all && y[i].bits == Half(quant::fake_quantize(value, grid, compat)).bits &&
          bit(bits, i) == quant::passes_gradient(value, grid, compat);
  }
  CHECK(all);
  CHECK(y.back().bits == Half(77.0f).bits);
  CHECK(bits.back() == 0xAB);
  check_streamed(n, x, step, compat);
}

// Every `stride`-th of the 2^32 floats.
void check_patterns(std::uint64_t stride) {
  constexpr std::size_t kBlock = 4096;
  std::vector<float> x(kBlock);
  std::vector<float> y(kBlock);
  std::vector<std::int8_t> q(kBlock);
  std::vector<std::int8_t> along(kBlock);
  std::vector<std::uint8_t> bits(kBlock / 8);
  for (const Grid& grid : {Grid{0.02f, 3, -127, 127}, Grid{2e-38f, -128, -128, 127}}) {
    for (const Compat compat : kCompats) {
      const auto step = step_of<float>(grid, compat);
      const GridRule rule = rule_of(compat);
      const GridRule whole = whole_rule_of(compat);
      const GridRule beside = whole_rule_of(compat, true);
      for (std::uint64_t first = 0; first < (std::uint64_t{1} << 32); first += stride * kBlock) {
        for (std::size_t i = 0; i < kBlock; ++i) {
          x[i] = std::bit_cast<float>(static_cast<std::uint32_t>(first + i * stride));
        }
        kernels::fake_quant_f32(x.data(), kBlock, step, rule, y.data(), bits.data());
        kernels::quantize_f32(x.data(), kBlock, step, whole, Integer::int8, q.data());
        kernels::quantize_f32(x.data(), kBlock, step, beside, Integer::int8, along.data());
        bool all = true;
        for (std::size_t i = 0; i < kBlock; ++i) {
          all = all && same(y[i], quant::fake_quantize(x[i], grid, compat)) &&
                q[i] == quant::quantize(x[i], grid, compat) &&
                along[i] == quant::quantize(x[i], grid, compat, true) &&
                bit(bits, i) == quant::passes_gradient(x[i], grid, compat);
        }
        if (!all) FAIL("a float from pattern " << first << " on differs");
      }
    }
  }
  SUCCEED("all patterns are equal");
}

}  // namespace

TEST_CASE("Fake-quantizing a run equals the formula at every length and start",
          "[kernels][quant]") {
  tests::with_every_isa([] {
    for (const Compat compat : kCompats) {
      for (const Grid& grid : kGrids) {
        for (const std::int64_t n : lengths()) {
          for (const std::size_t misaligned : {0, 1, 3}) {
            check_one_grid<float>(n, misaligned, grid, compat);
            check_one_grid<double>(n, misaligned, grid, compat);
          }
        }
      }
    }
  });
}

TEST_CASE("16-bit floats are rounded once, from the float that the formula gives",
          "[kernels][quant]") {
  tests::with_every_isa([] {
    for (const Compat compat : kCompats) {
      for (const Grid& grid : kGrids) {
        for (const std::int64_t n : lengths()) {
          check_halves<float16>(n, grid, compat);
          check_halves<bfloat16>(n, grid, compat);
        }
      }
    }
  });
}

TEST_CASE("Fake quantization past the caches gives the same bits", "[kernels][quant]") {
  tests::with_every_isa([] {
    for (const Compat compat : kCompats) {
      for (const std::int64_t n : lengths()) {
        const auto x = values<float>(n, kGrids[0].scale);
        check_streamed(n, x, step_of<float>(kGrids[0], compat), compat);
        const auto wide = values<double>(n, static_cast<double>(kGrids[0].scale));
        check_streamed(n, wide, step_of<double>(kGrids[0], compat), compat);
      }
    }
  });
}

TEST_CASE("A grid for each element gives what each grid alone gives", "[kernels][quant]") {
  tests::with_every_isa([] {
    for (const Compat compat : {Compat::none, Compat::tflite}) {
      for (const std::int64_t n : lengths()) {
        check_many_grids<float>(n, compat);
        check_many_grids<double>(n, compat);
      }
    }
    for (const std::int64_t n : lengths()) check_many_grids<float>(n, Compat::torch);
  });
}

TEST_CASE("Integers of every width equal the formula, and so do their values", "[kernels][quant]") {
  tests::with_every_isa([] {
    check_integers<float, std::int8_t>(Integer::int8);
    check_integers<float, std::uint8_t>(Integer::uint8);
    check_integers<float, std::int16_t>(Integer::int16);
    check_integers<float, std::uint16_t>(Integer::uint16);
    check_integers<double, std::int8_t>(Integer::int8);
    check_integers<double, std::uint8_t>(Integer::uint8);
    check_integers<double, std::int16_t>(Integer::int16);
    check_integers<double, std::uint16_t>(Integer::uint16);
  });
}

TEST_CASE("Quantization kernels equal the formula on a sample of all floats", "[kernels][quant]") {
  // An odd stride visits all exponents, signs and low bits.
  tests::with_every_isa([] { check_patterns(8191); });
}

TEST_CASE("Quantization kernels equal the formula on all 2^32 floats", "[.exhaustive]") {
  tests::with_every_isa([] { check_patterns(1); });
}

TEST_CASE("Keeping by bits copies exactly the marked elements", "[kernels][quant]") {
  tests::with_every_isa([] {
    for (const std::int64_t n : lengths()) {
      const auto count = static_cast<std::size_t>(n);
      std::vector<std::uint8_t> bits(static_cast<std::size_t>(quant::bit_bytes(n)));
      for (std::size_t i = 0; i < bits.size(); ++i) {
        bits[i] = static_cast<std::uint8_t>(Philox(1)(i)[0]);
      }
      const auto check_as = [&]<class Word>(auto keep) {
        std::vector<Word> src(count);
        for (std::size_t i = 0; i < count; ++i) src[i] = static_cast<Word>(~i);
        std::vector<Word> dst(count + 1, Word(77));
        keep(src.data(), bits.data(), n, dst.data(), false);
        alignas(64) Word streamed[1024];
        keep(src.data(), bits.data(), n, streamed, true);
        bool all = count == 0 || std::memcmp(streamed, dst.data(), count * sizeof(Word)) == 0;
        for (std::size_t i = 0; i < count; ++i) {
          all = all && dst[i] == (bit(bits, i) ? src[i] : Word(0));
        }
        CHECK(all);
        CHECK(dst.back() == Word(77));
      };
      check_as.operator()<std::uint16_t>(kernels::keep_where_u16);
      check_as.operator()<std::uint32_t>(kernels::keep_where_u32);
      check_as.operator()<std::uint64_t>(kernels::keep_where_u64);
    }
  });
}

TEST_CASE("TensorFlow's ranges equal the formula, with and without the inverse",
          "[kernels][quant]") {
  tests::with_every_isa([] {
    for (const auto& [low, high] : {std::pair{-1.0f, 1.0f}, std::pair{-1.3f, 2.7f},
                                    std::pair{0.2f, 1.0f}, std::pair{0.0f, 0.0f}}) {
      const auto range = quant::nudge_range(low, high, 8, false);
      for (const bool multiply : {false, true}) {
        const float factor = range.scale == 0.0f ? 1.0f : multiply ? range.inverse : range.scale;
        const GridStep<float> step{factor, range.scale, range.min, range.max, range.zero};
        for (const std::int64_t n : lengths()) {
          const auto x = values<float>(n, range.scale == 0.0f ? 0.01f : range.scale);
          std::vector<float> y(x.size() + 1, 77.0f);
          std::vector<std::uint8_t> bits(static_cast<std::size_t>(quant::bit_bytes(n)) + 1, 0xAB);
          kernels::fake_quant_range_f32(x.data(), n, step, multiply, y.data(), bits.data());
          bool all = true;
          for (std::size_t i = 0; i < x.size(); ++i) {
            all = all && same(y[i] + 0.0f, quant::fake_quantize(x[i], range, multiply) + 0.0f) &&
                  bit(bits, i) == quant::passes_gradient(x[i], range);
          }
          CHECK(all);
          CHECK(y.back() == 77.0f);
          CHECK(bits.back() == 0xAB);
          const auto check_half = [&]<class Half>(auto kernel) {
            std::vector<Half> halves;
            for (const float value : x) halves.push_back(Half(value));
            alignas(64) Half rounded[2][1024];
            kernel(halves.data(), n, step, multiply, rounded[0], nullptr, false);
            kernel(halves.data(), n, step, multiply, rounded[1], bits.data(), true);
            bool same_halves = true;
            for (std::size_t i = 0; i < x.size(); ++i) {
              const auto value = static_cast<float>(halves[i]);
              const float expected = quant::fake_quantize(value, range, multiply);
              for (const auto& row : rounded) {
                const auto got = static_cast<float>(row[i]);
                same_halves =
                    same_halves && same(got + 0.0f, static_cast<float>(Half(expected)) + 0.0f);
              }
              same_halves = same_halves && bit(bits, i) == quant::passes_gradient(value, range);
            }
            CHECK(same_halves);
          };
          check_half.operator()<float16>(
              [](auto... all) { kernels::fake_quant_range_f16(all...); });
          check_half.operator()<bfloat16>(
              [](auto... all) { kernels::fake_quant_range_bf16(all...); });
        }
      }
    }
  });
}

TEST_CASE("Packed nibbles come back, signed and unsigned", "[kernels][quant]") {
  for (const std::int64_t n : lengths()) {
    std::vector<std::uint8_t> src(static_cast<std::size_t>(n));
    for (std::size_t i = 0; i < src.size(); ++i) src[i] = static_cast<std::uint8_t>(i * 7 % 16);
    std::vector<std::uint8_t> packed(static_cast<std::size_t>((n + 1) / 2) + 1, 0xAB);
    std::vector<std::uint8_t> back(src.size());
    std::vector<std::uint8_t> extended(src.size());
    kernels::pack_nibbles(src.data(), n, packed.data());
    kernels::unpack_nibbles(packed.data(), n, false, back.data());
    kernels::unpack_nibbles(packed.data(), n, true, extended.data());
    CHECK(back == src);
    bool all = true;
    for (std::size_t i = 0; i < src.size(); ++i) {
      const int value = static_cast<std::int8_t>(extended[i]);
      all = all && value == (src[i] < 8 ? src[i] : src[i] - 16);
    }
    CHECK(all);
    CHECK(packed.back() == 0xAB);
    if (n % 2 != 0) CHECK((packed[static_cast<std::size_t>(n / 2)] >> 4) == 0);
  }
}

// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/core/random.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include "cpp/kernels/every_isa.hpp"
#include "kernels/minmax.hpp"
#include "kernels/stream_copy.hpp"

using namespace moptcore;

namespace {

kernels::MinMax<float> min_max(const std::vector<float>& x, std::size_t from) {
  return kernels::min_max_f32(x.data() + from, static_cast<std::int64_t>(x.size() - from));
}
kernels::MinMax<double> min_max(const std::vector<double>& x, std::size_t from) {
  return kernels::min_max_f64(x.data() + from, static_cast<std::int64_t>(x.size() - from));
}
bool has_nan(const std::vector<float>& x) {
  return kernels::has_nan_f32(x.data(), static_cast<std::int64_t>(x.size()));
}
bool has_nan(const std::vector<double>& x) {
  return kernels::has_nan_f64(x.data(), static_cast<std::int64_t>(x.size()));
}
template <class T>
std::int64_t row_count(const std::vector<T>& x, const std::vector<T>& low) {
  return low.empty() ? 0 : static_cast<std::int64_t>(x.size() / low.size());
}
bool update(const std::vector<float>& x, std::vector<float>& low, std::vector<float>& high) {
  return kernels::min_max_update_f32(
      x.data(), row_count(x, low), static_cast<std::int64_t>(low.size()), low.data(), high.data());
}
bool update(const std::vector<double>& x, std::vector<double>& low, std::vector<double>& high) {
  return kernels::min_max_update_f64(
      x.data(), row_count(x, low), static_cast<std::int64_t>(low.size()), low.data(), high.data());
}

template <class T>
std::vector<T> noise(std::size_t n) {
  std::vector<T> x(n);
  for (std::size_t i = 0; i < n; ++i) x[i] = T(static_cast<std::int32_t>(Philox(5)(i)[0]));
  return x;
}

template <class T>
void check_type() {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  constexpr T kNan = std::numeric_limits<T>::quiet_NaN();
  for (const std::size_t n : {0u, 1u, 3u, 4u, 7u, 8u, 9u, 31u, 32u, 33u, 66u, 130u, 1001u}) {
    const auto x = noise<T>(n);
    for (std::size_t from = 0; from < std::min<std::size_t>(n, 3); ++from) {
      const auto result = min_max(x, from);
      const auto begin = x.begin() + static_cast<std::ptrdiff_t>(from);
      CHECK(result.min == *std::min_element(begin, x.end()));
      CHECK(result.max == *std::max_element(begin, x.end()));
      CHECK(result.finite);
    }
    CHECK_FALSE(has_nan(x));
    std::vector<T> low(n, T(0));
    std::vector<T> high(n, T(0));
    CHECK(update(x, low, high));
    for (std::size_t i = 0; i < n; ++i) {
      CHECK(low[i] == std::min(x[i], T(0)));
      CHECK(high[i] == std::max(x[i], T(0)));
    }
    // Rows that follow each other, one of them with a value that is not finite.
    constexpr std::size_t kRows = 19;
    for (const bool clean : {true, false}) {
      auto rows = noise<T>(kRows * n);
      if (!clean && n > 0) rows[11 * n + n / 2] = kNan;
      std::vector<T> lows(n, kInfinity);
      std::vector<T> highs(n, -kInfinity);
      CHECK(update(rows, lows, highs) == (clean || n == 0));
      for (std::size_t i = 0; i < n; ++i) {
        T low = kInfinity;
        T high = -kInfinity;
        for (std::size_t row = 0; row < kRows; ++row) {
          const T x = rows[row * n + i];
          if (std::isnan(x)) continue;
          low = std::min(low, x);
          high = std::max(high, x);
        }
        CHECK(lows[i] == low);
        CHECK(highs[i] == high);
      }
    }
    // Wherever it stands, what is not finite is seen and left out.
    for (std::size_t at = 0; at < n; at += n / 7 + 1) {
      for (const T bad : {kNan, kInfinity, -kInfinity}) {
        auto y = x;
        y[at] = bad;
        auto rest = x;
        rest.erase(rest.begin() + static_cast<std::ptrdiff_t>(at));
        const auto result = min_max(y, 0);
        const auto expected = min_max(rest, 0);
        CHECK_FALSE(result.finite);
        CHECK(result.min == expected.min);
        CHECK(result.max == expected.max);
        CHECK(has_nan(y) == std::isnan(bad));
        std::vector<T> lows(n, kInfinity);
        std::vector<T> highs(n, -kInfinity);
        CHECK_FALSE(update(y, lows, highs));
        CHECK(lows[at] == kInfinity);
        CHECK(highs[at] == -kInfinity);
      }
    }
  }
  const auto zero = min_max(std::vector<T>{-T(0)}, 0);
  CHECK_FALSE(std::signbit(zero.min));
  CHECK_FALSE(std::signbit(zero.max));
}

}  // namespace

TEST_CASE("Minimum and maximum are those of the finite values", "[kernels][quant]") {
  tests::with_every_isa([] {
    check_type<float>();
    check_type<double>();
  });
}

TEST_CASE("A streaming copy copies every byte and none more", "[kernels][quant]") {
  tests::with_every_isa([] {
    std::vector<std::uint8_t> src(700);
    for (std::size_t i = 0; i < src.size(); ++i) src[i] = static_cast<std::uint8_t>(i * 31 + 1);
    for (const std::size_t bytes : {0u, 1u, 63u, 64u, 65u, 127u, 128u, 200u, 512u, 513u}) {
      for (std::size_t start = 0; start < 70; start += 3) {
        std::vector<std::uint8_t> dst(800, 0);
        kernels::stream_copy(src.data() + start % 5, static_cast<std::int64_t>(bytes),
                             dst.data() + start);
        kernels::stream_fence();
        std::vector<std::uint8_t> expected(800, 0);
        for (std::size_t i = 0; i < bytes; ++i) expected[start + i] = src[start % 5 + i];
        CHECK(dst == expected);
      }
    }
  });
}

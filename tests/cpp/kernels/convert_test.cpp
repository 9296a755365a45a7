// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "cpp/kernels/every_isa.hpp"
#include "kernels/convert.hpp"

using namespace moptcore;
using tests::with_every_isa;

namespace {

// Every 509th pattern of bits of a float, with what follows it: a length of no whole vectors.
std::vector<float> patterns() {
  std::vector<float> all;
  for (std::uint64_t bits = 0; bits <= 0xffffffffu; bits += 509) {
    all.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(bits)));
  }
  for (const float edge :
       {0x1p31f, -0x1p31f, 0x1.fffffep30f, 0.999f, -0.999f, 65504.0f, 65520.0f}) {
    for (const float x : {std::nextafter(edge, -1e38f), edge, std::nextafter(edge, 1e38f)}) {
      all.push_back(x);
    }
  }
  while (all.size() % 16 != 7) all.push_back(1.0f);
  return all;
}

template <class Half>
void check_half(void (*widen)(const Half*, std::int64_t, float*) noexcept,
                void (*narrow)(const float*, std::int64_t, Half*) noexcept) {
  const std::vector<float> x = patterns();
  const auto n = static_cast<std::int64_t>(x.size());
  std::vector<Half> all(65536 - 3);
  for (std::size_t i = 0; i < all.size(); ++i) {
    all[i] = std::bit_cast<Half>(static_cast<std::uint16_t>(i));
  }
  with_every_isa([&] {
    std::vector<Half> halves(x.size());
    narrow(x.data(), n, halves.data());
    std::int64_t wrong = 0;
    for (std::size_t i = 0; i < x.size(); ++i) wrong += halves[i].bits != Half(x[i]).bits;
    CHECK(wrong == 0);
    std::vector<float> wide(all.size());
    widen(all.data(), static_cast<std::int64_t>(all.size()), wide.data());
    for (std::size_t i = 0; i < all.size(); ++i) {
      wrong += std::bit_cast<std::uint32_t>(wide[i]) !=
               std::bit_cast<std::uint32_t>(static_cast<float>(all[i]));
    }
    CHECK(wrong == 0);
  });
}

}  // namespace

TEST_CASE("Kernels convert 16-bit floats as their classes do, bit for bit", "[kernels]") {
  check_half<float16>(kernels::widen_f16, kernels::narrow_f16);
  check_half<bfloat16>(kernels::widen_bf16, kernels::narrow_bf16);
}

TEST_CASE("Floats lose their fraction, saturate, and NaN becomes 0", "[kernels]") {
  const std::vector<float> x = patterns();
  with_every_isa([&] {
    std::vector<std::int32_t> y(x.size());
    kernels::truncate_f32(x.data(), static_cast<std::int64_t>(x.size()), y.data());
    std::int64_t wrong = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      double exact = std::isnan(x[i]) ? 0.0 : std::trunc(static_cast<double>(x[i]));
      exact = std::fmin(std::fmax(exact, -2147483648.0), 2147483647.0);
      wrong += static_cast<double>(y[i]) != exact;
    }
    CHECK(wrong == 0);
  });
}

// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/core/isa.hpp>
#include <moptcore/core/parallel.hpp>
#include <moptcore/core/random.hpp>
#include <moptcore/prune/mask.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <vector>

#include <xtensor/xarray.hpp>

using namespace moptcore;
using namespace moptcore::prune;

namespace {

// std::vector<bool> has no elements to point to.
using Mask = xt::xarray<bool>;

Mask mask_like(std::size_t n) { return Mask::from_shape({n}); }

std::vector<float> random_floats(std::size_t n, std::uint64_t seed) {
  const Philox philox(seed);
  std::vector<float> values(n);
  for (std::size_t i = 0; i < n; ++i) {
    values[i] = static_cast<float>(static_cast<std::int32_t>(philox.word(i))) * 0x1p-31f;
  }
  return values;
}

template <class T>
std::vector<bool> expected_mask(const std::vector<T>& weights, double sparsity) {
  std::vector<std::size_t> order(weights.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    const double x = std::fabs(static_cast<double>(static_cast<float>(weights[a])));
    const double y = std::fabs(static_cast<double>(static_cast<float>(weights[b])));
    return x != y ? x < y : a > b;
  });
  std::vector<bool> mask(weights.size(), true);
  const auto zeros =
      static_cast<std::size_t>(zero_count(static_cast<std::int64_t>(weights.size()), sparsity));
  for (std::size_t i = 0; i < zeros; ++i) mask[order[i]] = false;
  return mask;
}

bool same(const Mask& mask, const std::vector<bool>& expected) {
  return mask.size() == expected.size() &&
         std::equal(expected.begin(), expected.end(), mask.begin());
}

struct EveryIsa {
  template <class F>
  static void run(F&& f) {
    for (const auto& isa : available_isas()) {
      set_max_isa(isa);
      CAPTURE(isa);
      f();
    }
    set_max_isa("");
  }
};

}  // namespace

TEST_CASE("magnitude_mask prunes exactly the lowest under every instruction set", "[prune]") {
  for (const std::size_t n : {std::size_t{1}, std::size_t{63}, std::size_t{4097},
                              std::size_t{16384}, std::size_t{16385}, std::size_t{200'003}}) {
    auto weights = random_floats(n, n);
    // Coarse values give thousands of ties.
    const bool ties = n % 2 == 0;
    if (ties) {
      for (float& w : weights) w = std::round(w * 8) / 8;
    }
    for (const double sparsity : {0.0, 0.3, 0.8, 0.9999}) {
      CAPTURE(n, sparsity);
      const auto expected = expected_mask(weights, sparsity);
      EveryIsa::run([&] {
        Mask mask = mask_like(n);
        magnitude_mask(weights, sparsity, mask);
        CHECK(same(mask, expected));
      });
    }
  }
}

TEST_CASE("magnitude_mask takes 16-bit floats and doubles", "[prune]") {
  const auto floats = random_floats(50'000, 1);
  const auto check_type = [&]<class T>(T) {
    std::vector<T> weights;
    for (const float value : floats) weights.push_back(T(value));
    Mask mask = mask_like(weights.size());
    magnitude_mask(weights, 0.77, mask);
    CHECK(same(mask, expected_mask(weights, 0.77)));
  };
  check_type(float16());
  check_type(bfloat16());
  check_type(double());
}

TEST_CASE("The mask does not depend on the number of threads", "[prune]") {
  const auto weights = random_floats(1'000'000, 2);
  const int threads = num_threads();
  Mask first = mask_like(weights.size());
  set_num_threads(1);
  magnitude_mask(weights, 0.8, first);
  CHECK(count_zeros(first) == 800'000);
  for (const int count : {2, 3, 16}) {
    set_num_threads(count);
    Mask mask = mask_like(weights.size());
    magnitude_mask(weights, 0.8, mask);
    CHECK((mask == first));
  }
  set_num_threads(threads);
}

TEST_CASE("A packed mask has the bits of the mask", "[prune]") {
  const auto weights = random_floats(70'001, 3);
  Mask mask = mask_like(weights.size());
  std::vector<std::uint8_t> packed(static_cast<std::size_t>(packed_size(70'001)), 0xff);
  magnitude_mask(weights, 0.5, mask);
  magnitude_mask(weights, 0.5, packed);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    REQUIRE(((packed[i / 8] >> (i % 8)) & 1) == (mask(i) ? 1 : 0));
  }
  CHECK(packed.back() >> (70'001 % 8) == 0);
  Mask back = mask_like(weights.size());
  unpack_mask(packed, back);
  CHECK((back == mask));
  std::vector<std::uint8_t> again(packed.size());
  pack_mask(mask, again);
  CHECK(again == packed);
}

TEST_CASE("Of equal weights the first are kept", "[prune]") {
  const std::vector<float> equal(40'000, -0.5f);
  Mask mask = mask_like(equal.size());
  magnitude_mask(equal, 0.25, mask);
  CHECK(std::all_of(mask.begin(), mask.begin() + 30'000, [](bool kept) { return kept; }));
  CHECK(std::none_of(mask.begin() + 30'000, mask.end(), [](bool kept) { return kept; }));
}

TEST_CASE("Scores rank by value, and extreme integers are ordinary", "[prune]") {
  const std::vector<float> weights(5, 1.0f);
  Mask mask = mask_like(5);
  const std::vector<std::int64_t> scores = {0, std::numeric_limits<std::int64_t>::min(), -1,
                                            std::numeric_limits<std::int64_t>::max(), 7};
  MaskOptions options;
  options.scores = scores;
  magnitude_mask(weights, 0.4, mask, options);
  CHECK(same(mask, {true, false, false, true, true}));
  magnitude_mask(weights, 0.8, mask, options);
  CHECK(same(mask, {false, false, false, true, false}));
  const std::vector<std::int64_t> largest(5, std::numeric_limits<std::int64_t>::max());
  options.scores = largest;
  magnitude_mask(weights, 0.4, mask, options);
  CHECK(same(mask, {true, true, true, false, false}));
  const std::vector<std::int64_t> smallest(5, std::numeric_limits<std::int64_t>::min());
  options.scores = smallest;
  magnitude_mask(weights, 0.4, mask, options);
  CHECK(same(mask, {true, true, true, false, false}));
}

TEST_CASE("NaN is refused before anything is written, or ranks as asked", "[prune]") {
  std::vector<double> weights = {1.0, std::nan(""), 3.0, 4.0};
  Mask mask = mask_like(4);
  mask.fill(true);
  CHECK_THROWS_WITH(magnitude_mask(weights, 0.5, mask),
                    "[prune.magnitude_mask] weights must not contain NaN unless nonfinite is "
                    "prune_first or keep, got NaN at flat index 1");
  CHECK_THROWS_AS(magnitude_mask(weights, 0.5, mask), NonFiniteError);
  CHECK(same(mask, {true, true, true, true}));
  MaskOptions options;
  options.nonfinite = NonFinite::prune_first;
  magnitude_mask(weights, 0.25, mask, options);
  CHECK(same(mask, {true, false, true, true}));
  options.nonfinite = NonFinite::keep;
  magnitude_mask(weights, 0.75, mask, options);
  CHECK(same(mask, {false, true, false, false}));
}

TEST_CASE("global_mask ranks tensors of several dtypes together", "[prune]") {
  const std::vector<float> a = {0.5f, 3.0f, 1.0f};
  const std::vector<double> b = {0.25, 1.0};
  Mask mask_a = mask_like(3);
  Mask mask_b = mask_like(2);
  const std::vector<AnyView> weights = {a, b};
  const std::vector<MutableAnyView> masks = {mask_a, mask_b};
  global_mask(weights, 0.6, masks);
  // Of the two ones, the one of the first tensor stays.
  CHECK(same(mask_a, {false, true, true}));
  CHECK(same(mask_b, {false, false}));
}

TEST_CASE("random_mask draws an exact count from its seed", "[prune]") {
  Mask a = mask_like(100'000);
  Mask b = mask_like(100'000);
  random_mask(Shape{100'000}, 0.3, 1, a);
  random_mask(Shape{100'000}, 0.3, 2, b);
  CHECK(count_zeros(a) == 30'000);
  CHECK(count_zeros(b) == 30'000);
  CHECK_FALSE((a == b));
  const double overlap =
      static_cast<double>(std::inner_product(a.begin(), a.end(), b.begin(), std::int64_t{0}));
  // Independent draws: 49 % of the places in both, standard deviation 66 places.
  CHECK(std::fabs(overlap - 49'000) < 6 * 66);
}

TEST_CASE("apply_mask writes plus zero where the mask is false", "[prune]") {
  EveryIsa::run([] {
    const std::vector<float> weights = {std::nanf(""), -1.0f, 2.0f, -3.0f, 4.0f};
    std::vector<float> out(5, 9.0f);
    const std::vector<std::uint8_t> packed = {0b10100};
    apply_mask(weights, packed, out);
    CHECK(out == std::vector<float>{0.0f, 0.0f, 2.0f, 0.0f, 4.0f});
    CHECK_FALSE(std::signbit(out[0]));
    CHECK_FALSE(std::signbit(out[1]));
  });
}

TEST_CASE("sparsity counts both zeros", "[prune]") {
  const std::vector<float> weights = {0.0f, -0.0f, 1.0f, std::nanf("")};
  CHECK(sparsity(weights) == 0.5);
  CHECK_THROWS_WITH(sparsity(std::vector<float>{}),
                    "[prune.sparsity] tensor must have at least one element, got (0,)");
}

TEST_CASE("tfmot's rule keeps all ties and at least one weight", "[prune]") {
  MaskOptions options;
  options.compat = Compat::tfmot;
  Mask mask = mask_like(4);
  magnitude_mask(std::vector<float>{1, 1, 1, 1}, 0.5, mask, options);
  CHECK(same(mask, {true, true, true, true}));
  magnitude_mask(std::vector<float>{1, 2, 3, 4}, 0.999, mask, options);
  CHECK(same(mask, {false, false, false, true}));
}

TEST_CASE("Masks refuse what does not fit", "[prune]") {
  const std::vector<float> weights(10, 1.0f);
  Mask mask = mask_like(10);
  CHECK_THROWS_WITH(magnitude_mask(weights, 1.0, mask),
                    "[prune.magnitude_mask] sparsity must be in [0, 1), got 1");
  Mask wrong = mask_like(9);
  CHECK_THROWS_WITH(magnitude_mask(weights, 0.5, wrong),
                    "[prune.magnitude_mask] mask must have the shape (10,), got (9,)");
  std::vector<std::uint8_t> packed(3);
  CHECK_THROWS_WITH(
      magnitude_mask(weights, 0.5, packed),
      "[prune.magnitude_mask] mask must be bool (10,) or packed uint8 (2,), got (3,)");
  std::vector<float> floats(10);
  CHECK_THROWS_AS(magnitude_mask(weights, 0.5, floats), DTypeError);
  CHECK_THROWS_AS(magnitude_mask(std::vector<int>(10), 0.5, mask), DTypeError);
}

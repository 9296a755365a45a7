// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/core/isa.hpp>
#include <moptcore/core/parallel.hpp>
#include <moptcore/core/random.hpp>
#include <moptcore/prune/pattern.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include <xtensor/xarray.hpp>

using namespace moptcore;
using namespace moptcore::prune;

namespace {

using Mask = xt::xarray<bool>;
using Weights = xt::xarray<float>;

Weights random_weights(std::vector<std::size_t> shape, std::uint64_t seed) {
  Weights weights = Weights::from_shape(shape);
  const Philox philox(seed);
  std::uint64_t i = 0;
  for (float& w : weights) w = static_cast<float>(static_cast<std::int32_t>(philox.word(i++)));
  return weights;
}

}  // namespace

TEST_CASE("structured_mask prunes the slices of smallest norm", "[prune]") {
  // Norms of rows: 1, 2, inf orders disagree about which is smallest.
  const Weights weights = {{3, 3, 3, 3}, {0, 0, 0, 7}, {4, 4, 4, 0}};
  Mask mask = Mask::from_shape({3});
  StructuredOptions options;
  options.ord = 1.0;  // 12, 7, 12
  structured_mask(weights, 0.34, mask, options);
  CHECK((mask == Mask({true, false, true})));
  options.ord = 2.0;  // 36, 49, 48
  structured_mask(weights, 0.34, mask, options);
  CHECK((mask == Mask({false, true, true})));
  options.ord = std::numeric_limits<double>::infinity();  // 3, 7, 4
  structured_mask(weights, 0.67, mask, options);
  CHECK((mask == Mask({false, true, false})));
  options.axis = -1;
  Mask full = Mask::from_shape({3, 4});
  structured_mask(weights, 0.5, full, options);  // 4, 4, 4, 7
  CHECK(
      (full ==
       Mask({{true, false, false, true}, {true, false, false, true}, {true, false, false, true}})));
}

TEST_CASE("structured_mask is the same at any thread count and instruction set", "[prune]") {
  const Weights weights = random_weights({64, 3000}, 4);
  const int threads = num_threads();
  for (const std::int64_t axis : {0, 1}) {
    const std::size_t extent = weights.shape()[static_cast<std::size_t>(axis)];
    StructuredOptions options;
    options.axis = axis;
    Mask expected = Mask::from_shape({extent});
    set_num_threads(1);
    structured_mask(weights, 0.5, expected, options);
    for (const auto& isa : available_isas()) {
      for (const int count : {1, 4}) {
        set_max_isa(isa);
        set_num_threads(count);
        CAPTURE(isa, count, axis);
        Mask mask = Mask::from_shape({extent});
        structured_mask(weights, 0.5, mask, options);
        CHECK((mask == expected));
      }
    }
    set_max_isa("");
  }
  set_num_threads(threads);
}

TEST_CASE("block_mask prunes whole blocks, also smaller ones at the ends", "[prune]") {
  const Weights weights = {{1, 1, 9}, {1, 1, 0}, {2, 2, 4}};
  Mask mask = Mask::from_shape({3, 3});
  BlockOptions options;
  options.rows = 2;
  options.cols = 2;
  block_mask(weights, 0.5, mask, options);  // means 1, 4.5, 2, 4
  CHECK((mask == Mask({{false, false, true}, {false, false, true}, {false, false, true}})));
  options.pooling = Pooling::max;
  block_mask(weights, 0.25, mask, options);  // maxima 1, 9, 2, 4
  CHECK((mask == Mask({{false, false, true}, {false, false, true}, {true, true, true}})));
}

TEST_CASE("nm_mask keeps n of every m under every instruction set", "[prune]") {
  const Weights weights = random_weights({5, 4096 * 2 + 20}, 6);
  for (const std::int64_t m : {2, 4, 8, 100}) {
    for (const auto& isa : available_isas()) {
      set_max_isa(isa);
      CAPTURE(m, isa);
      Mask mask = Mask::from_shape(weights.shape());
      nm_mask(weights, m / 2, m, mask);
      const auto extent = static_cast<std::int64_t>(weights.shape()[1]);
      bool exact = true;
      for (std::size_t row = 0; row < 5; ++row) {
        for (std::int64_t start = 0; start < extent; start += m) {
          const std::int64_t end = std::min(start + m, extent);
          std::int64_t kept = 0;
          float least_kept = std::numeric_limits<float>::infinity();
          float most_pruned = 0.0f;
          for (std::int64_t i = start; i < end; ++i) {
            const float w = std::fabs(weights(row, i));
            if (mask(row, i)) {
              ++kept;
              least_kept = std::min(least_kept, w);
            } else {
              most_pruned = std::max(most_pruned, w);
            }
          }
          const std::int64_t wanted = end - start == m ? m / 2 : end - start;
          exact = exact && kept == wanted && least_kept >= most_pruned;
        }
      }
      CHECK(exact);
    }
  }
  set_max_isa("");
}

TEST_CASE("nm_mask goes along any axis and keeps the first of equals", "[prune]") {
  const Weights weights = {{1, 5}, {1, 5}, {2, 5}, {1, 5}, {9, 9}};
  Mask mask = Mask::from_shape({5, 2});
  NmOptions options;
  options.axis = 0;
  nm_mask(weights, 2, 4, mask, options);
  CHECK((mask == Mask({{true, true}, {false, true}, {true, false}, {false, false}, {true, true}})));
}

TEST_CASE("Patterns refuse what does not fit", "[prune]") {
  const Weights weights = random_weights({4, 4}, 1);
  Mask mask = Mask::from_shape({4, 4});
  CHECK_THROWS_WITH(nm_mask(weights, 5, 4, mask), "[prune.nm_mask] n must be in [1, m], got 5");
  StructuredOptions options;
  options.ord = -1.0;
  CHECK_THROWS_WITH(structured_mask(weights, 0.5, mask, options),
                    "[prune.structured_mask] ord must be > 0, got -1");
  options = {};
  options.axis = 2;
  CHECK_THROWS_AS(structured_mask(weights, 0.5, mask, options), std::out_of_range);
  BlockOptions block;
  block.rows = 0;
  CHECK_THROWS_WITH(block_mask(weights, 0.5, mask, block),
                    "[prune.block_mask] block rows must be >= 1, got 0");
}

// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/core/isa.hpp>
#include <moptcore/core/random.hpp>

#include <algorithm>
#include <limits>
#include <vector>

#include "kernels/select.hpp"

using namespace moptcore;

namespace {

// Few distinct values, the extremes among them, so that every branch is met.
template <class Key>
std::vector<Key> keys_of(std::size_t n, std::uint64_t seed) {
  const Philox philox(seed);
  std::vector<Key> keys(n);
  for (std::size_t i = 0; i < n; ++i) {
    const std::uint32_t word = philox.word(i);
    keys[i] = static_cast<Key>(word % 23) - 11;
    if (word % 41 == 0) keys[i] = std::numeric_limits<Key>::max();
    if (word % 43 == 0) keys[i] = std::numeric_limits<Key>::min();
  }
  return keys;
}

template <class Key>
void sweep() {
  const Key min = std::numeric_limits<Key>::min();
  const Key max = std::numeric_limits<Key>::max();
  for (const std::size_t n :
       {1u, 3u, 7u, 8u, 9u, 15u, 16u, 17u, 31u, 33u, 63u, 64u, 65u, 130u, 4096u}) {
    for (const std::size_t offset : {0u, 1u, 5u}) {
      const auto all = keys_of<Key>(n + offset, n);
      const Key* src = all.data() + offset;
      for (const Key mask : {static_cast<Key>(-1), max}) {
        for (const auto& [low, high] : std::vector<std::pair<Key, Key>>{
                 {min, max}, {-4, 5}, {0, 1}, {min, 3}, {3, max}, {max - 1, max}}) {
          CAPTURE(sizeof(Key), n, offset, mask, low, high);
          std::vector<std::uint16_t> positions;
          std::vector<std::uint8_t> bits((n + 7) / 8);
          kernels::Bracket<Key> expected;
          expected.largest = min;
          for (std::size_t i = 0; i < n; ++i) {
            const Key key = static_cast<Key>(src[i] & mask);
            expected.largest = std::max(expected.largest, key);
            if (key == low) ++expected.at_low;
            if (key <= low) continue;
            ++expected.above;
            if (key < high) positions.push_back(static_cast<std::uint16_t>(i));
            else bits[i / 8] = static_cast<std::uint8_t>(bits[i / 8] | (1u << (i % 8)));
          }
          std::vector<std::uint8_t> got_bits(bits.size() + 1);
          for (const bool count_low : {false, true}) {
            CAPTURE(count_low);
            std::fill(got_bits.begin(), got_bits.end(), std::uint8_t{0xa5});
            std::vector<std::uint16_t> got(n + kernels::kBracketSlack);
            const auto found = kernels::bracket(src, static_cast<std::int64_t>(n), mask, low, high,
                                                count_low, got_bits.data(), got.data());
            CHECK(found.above == expected.above);
            CHECK(found.at_low == (count_low ? expected.at_low : 0));
            CHECK(found.largest == expected.largest);
            REQUIRE(found.inside == static_cast<std::int64_t>(positions.size()));
            CHECK(std::equal(positions.begin(), positions.end(), got.begin()));
            CHECK(std::equal(bits.begin(), bits.end(), got_bits.begin()));
            CHECK(got_bits.back() == 0xa5);
          }
          CHECK(kernels::largest(src, static_cast<std::int64_t>(n), mask) == expected.largest);

          std::fill(got_bits.begin(), got_bits.end(), std::uint8_t{0xa5});
          kernels::above(src, static_cast<std::int64_t>(n), mask, static_cast<Key>(high - 1),
                         got_bits.data());
          CHECK(std::equal(bits.begin(), bits.end(), got_bits.begin()));
          CHECK(got_bits.back() == 0xa5);
        }
      }
    }
  }
}

}  // namespace

TEST_CASE("Brackets count, mark and collect alike on every target", "[kernels][prune]") {
  REQUIRE_FALSE(available_isas().empty());
  for (const auto& isa : available_isas()) {
    set_max_isa(isa);
    REQUIRE(current_isa() == isa);
    CAPTURE(isa);
    sweep<std::int16_t>();
    sweep<std::int32_t>();
    sweep<std::int64_t>();
  }
  set_max_isa("");
}

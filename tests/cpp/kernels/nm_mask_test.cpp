// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/core/isa.hpp>
#include <moptcore/core/random.hpp>

#include <algorithm>
#include <vector>

#include "kernels/nm_mask.hpp"

using namespace moptcore;

namespace {

// Rank of element i of a group: how many come before it in descending order.
std::int64_t rank_of(const std::vector<std::int64_t>& group, std::size_t i) {
  std::int64_t rank = 0;
  for (std::size_t j = 0; j < group.size(); ++j) {
    rank += group[j] > group[i] || (group[j] == group[i] && j < i) ? 1 : 0;
  }
  return rank;
}

}  // namespace

TEST_CASE("N of 4 is exact on every target", "[kernels][prune]") {
  const Philox philox(8);
  for (const auto& isa : available_isas()) {
    set_max_isa(isa);
    REQUIRE(current_isa() == isa);
    for (const std::size_t n : {4u, 8u, 12u, 16u, 20u, 36u, 4096u}) {
      for (const std::size_t offset : {0u, 1u, 3u}) {
        for (const int keep : {1, 2, 3, 4}) {
          CAPTURE(isa, n, offset, keep);
          std::vector<std::int32_t> words(n + offset);
          for (std::size_t i = 0; i < words.size(); ++i) {
            // Four magnitudes and a sign bit that the mask takes off: many ties.
            const std::uint32_t word = philox.word(i);
            words[i] = static_cast<std::int32_t>((word & 3u) * 0x20000000u % 0x7f800001u |
                                                 (word & 0x80000000u));
          }
          const std::int32_t mask = 0x7fffffff;
          std::vector<std::uint8_t> expected((n + 7) / 8);
          std::int32_t largest = 0;
          for (std::size_t i = 0; i < n; ++i) {
            std::vector<std::int64_t> group;
            for (std::size_t j = 0; j < 4; ++j) {
              group.push_back(words[offset + i / 4 * 4 + j] & mask);
            }
            largest = std::max(largest, words[offset + i] & mask);
            if (rank_of(group, i % 4) < keep) {
              expected[i / 8] = static_cast<std::uint8_t>(expected[i / 8] | (1u << (i % 8)));
            }
          }
          std::vector<std::uint8_t> bits(expected.size() + 1, 0x5a);
          CHECK(kernels::nm4_s32(words.data() + offset, static_cast<std::int64_t>(n), mask, keep,
                                 bits.data()) == largest);
          CHECK(std::equal(expected.begin(), expected.end(), bits.begin()));
          CHECK(bits.back() == 0x5a);
        }
      }
    }
  }
  set_max_isa("");
}

TEST_CASE("N of any M is exact on every target", "[kernels][prune]") {
  const Philox philox(9);
  for (const auto& isa : available_isas()) {
    set_max_isa(isa);
    for (const std::size_t m : {1u, 2u, 5u, 16u}) {
      for (const std::size_t count : {1u, 2u, 3u, 7u, 8u, 33u}) {
        for (std::int64_t keep = 1; keep <= static_cast<std::int64_t>(m); ++keep) {
          CAPTURE(isa, m, count, keep);
          std::vector<std::int64_t> keys(m * count);
          for (std::size_t i = 0; i < keys.size(); ++i) {
            keys[i] = static_cast<std::int64_t>(philox.word(i) % 5) - 2;
          }
          std::vector<std::uint8_t> kept(keys.size());
          kernels::nm_s64(keys.data(), static_cast<std::int64_t>(m),
                          static_cast<std::int64_t>(count), keep, kept.data());
          bool exact = true;
          for (std::size_t g = 0; g < count; ++g) {
            std::vector<std::int64_t> group;
            for (std::size_t j = 0; j < m; ++j) group.push_back(keys[j * count + g]);
            for (std::size_t j = 0; j < m; ++j) {
              exact = exact && (kept[j * count + g] == 1) == (rank_of(group, j) < keep);
            }
          }
          CHECK(exact);
        }
      }
    }
  }
  set_max_isa("");
}

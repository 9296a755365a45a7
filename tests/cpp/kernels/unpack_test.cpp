// SPDX-License-Identifier: Apache-2.0
#include "kernels/unpack.hpp"

#include <moptcore/core/random.hpp>

#include <algorithm>
#include <array>
#include <vector>

#include "every_isa.hpp"

using namespace moptcore;

namespace {

const std::vector<std::size_t> kSizes = {0, 1, 3, 7, 8, 9, 31, 32, 33, 64, 65, 255, 257, 20'000};

template <class Word>
void sweep_words() {
  const Philox philox(5);
  for (const std::size_t n : kSizes) {
    // Hardly any, half and all bits.
    for (const std::uint32_t share : {1u, 8u, 16u}) {
      CAPTURE(sizeof(Word), n, share);
      const auto zero = static_cast<Word>(philox.word(n) | 1u);
      std::vector<std::uint8_t> bits(n / 8 + 1);
      std::vector<Word> stored;
      std::vector<Word> expected(n + 1, Word{42});
      for (std::size_t i = 0; i < n; ++i) {
        expected[i] = zero;
        if (philox.word(3 * i) % 16 >= share) continue;
        bits[i / 8] = static_cast<std::uint8_t>(bits[i / 8] | 1u << (i % 8));
        stored.push_back(static_cast<Word>(philox.word(3 * i + 1) * 0x100000001u * 2));
        expected[i] = stored.back();
      }
      const auto count = static_cast<std::int64_t>(stored.size());
      stored.resize(stored.size() + kernels::kExpandSlack / sizeof(Word));
      std::vector<Word> words(n + 1, Word{42});
      CHECK(kernels::expand(bits.data(), stored.data(), zero, static_cast<std::int64_t>(n),
                            words.data()) == count);
      CHECK(words == expected);
      CHECK(kernels::count_bits(bits.data(), static_cast<std::int64_t>(bits.size())) == count);
      std::vector<std::uint8_t> marked((n + 7) / 8 + 1, 0x5a);
      kernels::mark(expected.data(), zero, static_cast<std::int64_t>(n), marked.data());
      CHECK(marked.back() == 0x5a);
      marked.back() = 0;
      bits.resize(marked.size());
      CHECK(marked == bits);  // no stored word is odd, and `zero` is
    }
  }
}

}  // namespace

TEST_CASE("Stored words are put where a mask has bits", "[kernels][pack]") {
  tests::with_every_isa([] {
    sweep_words<std::uint8_t>();
    sweep_words<std::uint16_t>();
    sweep_words<std::uint32_t>();
    sweep_words<std::uint64_t>();
  });
}

TEST_CASE("Rounds of rANS follow the formula one lane after the other", "[kernels][pack]") {
  // Frequencies 1, 15, 240, 3840 of symbols 9, 200, 0, 255.
  constexpr std::array<std::uint32_t, 4> kFrequencies = {1, 15, 240, 3840};
  constexpr std::array<std::uint32_t, 4> kSymbols = {9, 200, 0, 255};
  std::vector<std::uint32_t> table;
  for (std::size_t s = 0; s < 4; ++s) {
    for (std::uint32_t i = 0; i < kFrequencies[s]; ++i) {
      table.push_back((kFrequencies[s] - 1) << 20 | i << 8 | kSymbols[s]);
    }
  }
  REQUIRE(table.size() == 4096);
  const Philox philox(3);
  std::vector<std::uint8_t> words(5000);
  for (std::size_t i = 0; i < words.size(); ++i) {
    words[i] = static_cast<std::uint8_t>(philox.word(i) >> 9);
  }
  for (const std::int64_t n : {0, 31, 32, 95, 20'000}) {
    kernels::RansReader expected{};
    for (std::uint32_t lane = 0; lane < kernels::kRansLanes; ++lane) {
      expected.states[lane] = philox.word(100 + lane) | 65536u;
    }
    expected.word = words.data() + 1;  // no alignment is asked for
    expected.end = words.data() + words.size();
    const kernels::RansReader start = expected;
    std::vector<std::uint8_t> symbols;
    while (n - static_cast<std::int64_t>(symbols.size()) >= kernels::kRansLanes &&
           expected.end - expected.word >= 2 * kernels::kRansLanes) {
      for (std::uint32_t& x : expected.states) {
        const std::uint32_t entry = table[x % 4096];
        symbols.push_back(static_cast<std::uint8_t>(entry & 255u));
        x = (entry / 1048576 + 1) * (x / 4096) + entry / 256 % 4096;
        if (x >= 65536) continue;
        x = x * 65536 + expected.word[0] + 256u * expected.word[1];
        expected.word += 2;
      }
    }
    tests::with_every_isa([&] {
      CAPTURE(n);
      kernels::RansReader reader = start;
      std::vector<std::uint8_t> out(symbols.size() + 1, 77);
      CHECK(kernels::rans_rounds(table.data(), reader, out.data(), n) ==
            static_cast<std::int64_t>(symbols.size()));
      CHECK(out.back() == 77);
      out.pop_back();
      CHECK(out == symbols);
      CHECK(reader.word == expected.word);
      CHECK(std::equal(reader.states, reader.states + kernels::kRansLanes, expected.states));
    });
  }
}

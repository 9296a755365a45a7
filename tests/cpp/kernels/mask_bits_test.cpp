// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/core/isa.hpp>
#include <moptcore/core/random.hpp>

#include <vector>

#include "kernels/mask_bits.hpp"

using namespace moptcore;

namespace {

const std::vector<std::size_t> kSizes = {0, 1, 3, 7, 8, 9, 31, 32, 33, 64, 65, 255, 257, 20'000};

template <class Word>
void sweep_words() {
  const Philox philox(11);
  for (const std::size_t n : kSizes) {
    for (const std::size_t offset : {0u, 1u}) {
      CAPTURE(sizeof(Word), n, offset);
      std::vector<Word> words(n + offset);
      std::vector<std::uint8_t> bits(n / 8 + 1);
      for (std::size_t i = 0; i < bits.size(); ++i) {
        bits[i] = static_cast<std::uint8_t>(philox.word(i));
      }
      // The sign alone, zero, and others: with the sign masked off, two thirds are zero.
      const Word sign = static_cast<Word>(Word{1} << (8 * sizeof(Word) - 1));
      for (std::size_t i = 0; i < words.size(); ++i) {
        const auto kind = philox.word(i) % 3;
        words[i] = kind == 0 ? sign : kind == 1 ? Word{0} : static_cast<Word>(i | 1u);
      }
      const Word* src = words.data() + offset;
      std::vector<Word> expected(n + 1, Word{42});
      std::int64_t plain = 0;
      std::int64_t unsigned_zeros = 0;
      for (std::size_t i = 0; i < n; ++i) {
        expected[i] = ((bits[i / 8] >> (i % 8)) & 1) != 0 ? src[i] : Word{0};
        plain += src[i] == 0 ? 1 : 0;
        unsigned_zeros += static_cast<Word>(src[i] & ~sign) == 0 ? 1 : 0;
      }
      std::vector<Word> dst(n + 1, Word{42});
      kernels::keep(src, bits.data(), static_cast<std::int64_t>(n), dst.data());
      CHECK(dst == expected);
      CHECK(kernels::count_zeros(src, static_cast<std::int64_t>(n), static_cast<Word>(~Word{0})) ==
            plain);
      CHECK(kernels::count_zeros(src, static_cast<std::int64_t>(n), static_cast<Word>(~sign)) ==
            unsigned_zeros);
    }
  }
}

}  // namespace

TEST_CASE("Masks of bits and bytes turn into each other on every target", "[kernels][prune]") {
  const Philox philox(3);
  for (const auto& isa : available_isas()) {
    set_max_isa(isa);
    REQUIRE(current_isa() == isa);
    for (const std::size_t n : kSizes) {
      for (const std::size_t offset : {0u, 1u, 32u}) {
        for (const bool stream : {false, true}) {
          CAPTURE(isa, n, offset, stream);
          std::vector<std::uint8_t> bytes(n);
          for (std::size_t i = 0; i < n; ++i) bytes[i] = (philox.word(i) >> 7) & 1u;
          std::vector<std::uint8_t> expected((n + 7) / 8);
          for (std::size_t i = 0; i < n; ++i) {
            expected[i / 8] = static_cast<std::uint8_t>(expected[i / 8] | (bytes[i] << (i % 8)));
          }
          std::vector<std::uint8_t> bits(expected.size());
          // Any byte but 0 means true.
          std::vector<std::uint8_t> loud = bytes;
          for (auto& byte : loud) byte = static_cast<std::uint8_t>(byte * 0x80);
          kernels::pack_bytes(loud.data(), static_cast<std::int64_t>(n), bits.data());
          CHECK(bits == expected);
          std::vector<std::uint8_t> back(n + offset + 1, 7);
          kernels::unpack_bits(bits.data(), static_cast<std::int64_t>(n), back.data() + offset,
                               stream);
          CHECK(std::equal(bytes.begin(), bytes.end(),
                           back.begin() + static_cast<std::ptrdiff_t>(offset)));
          CHECK(back.back() == 7);
        }
      }
    }
  }
  set_max_isa("");
}

TEST_CASE("Words are kept by bits and zeros counted on every target", "[kernels][prune]") {
  for (const auto& isa : available_isas()) {
    set_max_isa(isa);
    CAPTURE(isa);
    sweep_words<std::uint8_t>();
    sweep_words<std::uint16_t>();
    sweep_words<std::uint32_t>();
    sweep_words<std::uint64_t>();
  }
  set_max_isa("");
}

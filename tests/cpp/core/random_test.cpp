// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/core/random.hpp>

using namespace moptcore;

TEST_CASE("Philox gives the known answers of Random123", "[core]") {
  // philox4x32-10 of kat_vectors: counter words are position and stream, key words the seed.
  CHECK(Philox(0)(0) == Philox::Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(Philox(0xffffffffffffffff, 0xffffffffffffffff)(0xffffffffffffffff) ==
        Philox::Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  // The digits of pi.
  CHECK(Philox(0x299f31d0a4093822, 0x0370734413198a2e)(0x85a308d3243f6a88) ==
        Philox::Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("a Philox word is its place in the blocks", "[core]") {
  const Philox random(7, 3);
  for (std::uint64_t index : {0u, 1u, 2u, 3u, 4u, 1001u}) {
    CHECK(random.word(index) == random(index / 4)[index % 4]);
  }
}

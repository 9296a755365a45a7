// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/core/int4.hpp>

#include <array>

using namespace moptcore;

TEST_CASE("the first of two nibbles is the low one", "[core]") {
  const std::array<std::uint8_t, 2> packed = {0x8F, 0x70};
  CHECK(load_uint4(packed.data(), 0) == 15);
  CHECK(load_uint4(packed.data(), 1) == 8);
  CHECK(load_int4(packed.data(), 0) == -1);
  CHECK(load_int4(packed.data(), 1) == -8);
  CHECK(load_int4(packed.data(), 2) == 0);
  CHECK(load_int4(packed.data(), 3) == 7);
}

TEST_CASE("storing a nibble keeps its neighbour, for every pair of values", "[core]") {
  int wrong = 0;
  for (int first = -8; first < 8; ++first) {
    for (int second = -8; second < 8; ++second) {
      std::uint8_t byte = 0xA5;
      store_nibble(&byte, 1, second);
      wrong += load_uint4(&byte, 0) != 5;
      store_nibble(&byte, 0, first);
      wrong += load_int4(&byte, 0) != first || load_int4(&byte, 1) != second;
    }
  }
  CHECK(wrong == 0);
}

// SPDX-License-Identifier: Apache-2.0
// Runs a test once for each instruction set of this CPU.
#pragma once

#include "catch.hpp"

#include <moptcore/core/isa.hpp>

#include <string>

namespace moptcore::tests {

/// Calls test() under each instruction set; fails where one was not really in use.
template <class Test>
void with_every_isa(Test&& test) {
  const auto isas = available_isas();
  REQUIRE(!isas.empty());
  for (const std::string& isa : isas) {
    set_max_isa(isa);
    REQUIRE(current_isa() == isa);
    INFO("instruction set " << isa);
    test();
  }
  set_max_isa("");
}

}  // namespace moptcore::tests

// SPDX-License-Identifier: Apache-2.0
// Which steps of a program are one computation.
#pragma once

#include "runtime/program.hpp"

namespace moptcore::inline v0::runtime {

/// Fills `singles`, and `groups` with every step in exactly one of them.
void form_groups(Program& program, bool fuse);

}  // namespace moptcore::inline v0::runtime

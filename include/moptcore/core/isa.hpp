// SPDX-License-Identifier: Apache-2.0
// Which vector instructions the kernels use.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <moptcore/core/export.hpp>

namespace moptcore::inline v0 {

/// Names of the instruction sets that this CPU has and the library was built for, best first,
/// such as {"avx2", "baseline"}. The first one that max_isa allows is used.
[[nodiscard]] MOPTCORE_API std::vector<std::string> available_isas();

/// The instruction set in use.
[[nodiscard]] MOPTCORE_API std::string current_isa();

/// Uses no instruction set better than `name`; "" lifts the limit. Throws for unknown names.
/// Starts as MOPTCORE_MAX_ISA. Not to be called while a kernel runs.
MOPTCORE_API void set_max_isa(std::string_view name);

}  // namespace moptcore::inline v0

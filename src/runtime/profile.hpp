// SPDX-License-Identifier: Apache-2.0
// How a profile is written.
#pragma once

#include <string>
#include <string_view>

namespace moptcore::inline v0::runtime {

/// In quotes, every byte that is no printable ASCII as an escape.
[[nodiscard]] std::string json_text(std::string_view text);

}  // namespace moptcore::inline v0::runtime

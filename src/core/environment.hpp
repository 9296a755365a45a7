// SPDX-License-Identifier: Apache-2.0
// The only reader of MOPTCORE_* environment variables.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>

namespace moptcore::inline v0::detail {

/// The text of an environment variable, or nothing where it is unset or empty.
[[nodiscard]] inline std::optional<std::string> environment_text(const char* variable) {
  const char* text = std::getenv(variable);
  if (text == nullptr || *text == '\0') return std::nullopt;
  return std::string(text);
}

/// The number in an environment variable, or nothing where it is unset or not a whole number in
/// [low, high].
[[nodiscard]] inline std::optional<std::int64_t> environment_number(const char* variable,
                                                                    std::int64_t low,
                                                                    std::int64_t high) {
  const auto text = environment_text(variable);
  if (!text) return std::nullopt;
  char* end = nullptr;
  const long long value = std::strtoll(text->c_str(), &end, 10);
  if (end == text->c_str() || *end != '\0' || value < low || value > high) return std::nullopt;
  return value;
}

}  // namespace moptcore::inline v0::detail

// SPDX-License-Identifier: Apache-2.0
// Errors that name the argument, the value and what is allowed:
//   [prune.magnitude_mask] sparsity must be in [0, 1), got 1.5
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

#include <moptcore/core/export.hpp>

namespace moptcore::inline v0 {

/// Every error that moptcore throws for a bad argument. ValueError in Python. Complete in the
/// header, so that schedules can be used without linking the library.
class MOPTCORE_API Error : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

/// A tensor of a dtype or memory layout that the function does not take. TypeError in Python.
class MOPTCORE_API DTypeError : public Error {
 public:
  using Error::Error;
};

/// NaN or infinity where the numeric contract forbids it.
class MOPTCORE_API NonFiniteError : public Error {
 public:
  using Error::Error;
};

/// Meaningful, but not offered: the text says what is.
class MOPTCORE_API UnsupportedError : public Error {
 public:
  using Error::Error;
};

/// A file, state or byte sequence that does not follow its format.
class MOPTCORE_API FormatError : public Error {
 public:
  using Error::Error;
};

/// `[where] rule, got value`.
template <class Got>
[[nodiscard]] std::string error_text(std::string_view where, std::string_view rule,
                                     const Got& got) {
  std::ostringstream text;
  text << '[' << where << "] " << rule << ", got ";
  if constexpr (std::is_same_v<Got, bool>) text << (got ? "true" : "false");
  else text << got;
  return text.str();
}

/// Throws E("[where] rule, got value") unless `ok`. The text is made only on failure.
template <class E = Error, class Got>
constexpr void check(bool ok, std::string_view where, std::string_view rule, const Got& got) {
  if (!ok) [[unlikely]]
    throw E(error_text(where, rule, got));
}

/// Throws E("[where] rule") unless `ok`, where there is no single value to show.
template <class E = Error>
constexpr void check(bool ok, std::string_view where, std::string_view rule) {
  if (!ok) [[unlikely]]
    throw E('[' + std::string(where) + "] " + std::string(rule));
}

}  // namespace moptcore::inline v0

// SPDX-License-Identifier: Apache-2.0
// What oneDNN refuses, as an error of ours.
#pragma once

#include <stdexcept>
#include <string>

#include <moptcore/core/check.hpp>
#include <moptcore/runtime/quantize.hpp>

namespace moptcore::inline v0::runtime {

/// Calls f; the std::runtime_error of a kernel of oneDNN becomes an UnsupportedError.
template <class F>
void or_refusal(const char* where, F&& f) {
  try {
    f();
  } catch (const std::runtime_error& error) {
    throw UnsupportedError('[' + std::string(where) + "] oneDNN " + onednn_version() +
                           " refused: " + error.what());
  }
}

}  // namespace moptcore::inline v0::runtime

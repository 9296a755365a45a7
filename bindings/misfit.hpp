// SPDX-License-Identifier: Apache-2.0
// Calls whose arguments fit no parameter, or hold an array that cannot be read, fail in pybind11 or
// in the caster of arrays, where neither the word nor the argument is known. Here such an error
// gets the text that all others have.
#pragma once

#include <pybind11/pybind11.h>

namespace moptcore::bindings {

/// Makes all functions, methods and constructors bound in `module`, and in its submodules and
/// classes, raise "[word.function] argument rule, got value" for arguments that do not fit. Calls
/// that succeed pay for one more jump.
void word_misfits(const pybind11::module_& module);

}  // namespace moptcore::bindings

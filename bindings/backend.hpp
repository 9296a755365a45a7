// SPDX-License-Identifier: Apache-2.0
// Other libraries' kernels beside ours: backend="onednn".
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include <moptcore/core/check.hpp>

namespace moptcore::bindings {

/// A function of _runtime, the module that needs oneDNN. Throws for other backends, and where the
/// module is missing.
inline pybind11::object onednn(const char* function, const std::string& backend,
                               const char* where) {
  check(backend == "onednn", where, "backend must be None or \"onednn\"", backend);
  try {
    return pybind11::module_::import("moptcore._runtime").attr(function);
  } catch (pybind11::error_already_set& error) {
    if (!error.matches(PyExc_ImportError)) throw;
    const std::string reason = pybind11::str(error.value());
    throw UnsupportedError(
        error_text(where,
                   "backend onednn needs the oneDNN library (pip install onednn-cpu-gomp) and a "
                   "moptcore built with it",
                   reason));
  }
}

}  // namespace moptcore::bindings

// SPDX-License-Identifier: Apache-2.0
#include "array.hpp"
#include "module.hpp"

namespace moptcore::bindings {

namespace py = pybind11;

void bind_prune(py::module_ m) { m.doc() = "prune"; }

}  // namespace moptcore::bindings

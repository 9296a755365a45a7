// SPDX-License-Identifier: Apache-2.0
#include "array.hpp"
#include "module.hpp"

namespace moptcore::bindings {

namespace py = pybind11;

void bind_distill(py::module_ m) { m.doc() = "distill"; }

}  // namespace moptcore::bindings

// SPDX-License-Identifier: Apache-2.0
#include "array.hpp"
#include "module.hpp"

namespace moptcore::bindings {

namespace py = pybind11;

void bind_quant(py::module_ m) { m.doc() = "quant"; }

}  // namespace moptcore::bindings

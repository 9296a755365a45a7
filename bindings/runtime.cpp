// SPDX-License-Identifier: Apache-2.0
// The second extension module: what needs oneDNN. Imported on first use, because loading libdnnl
// costs some milliseconds and megabytes.
#include <moptcore/core/parallel.hpp>
#include <moptcore/runtime/runtime.hpp>

#include "array.hpp"
#include "constructed.hpp"
#include "misfit.hpp"
#include "module.hpp"

namespace moptcore::bindings {

namespace py = pybind11;

void adopt_thread_limit() {
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<py::object> limit;
  limit.call_once_and_store_result(
      [] { return py::module_::import("moptcore._core").attr("get_num_threads"); });
  set_num_threads(limit.get_stored()().cast<int>());
}

namespace {

py::object quantize(const Array& x, const QParams& qp, const py::object& out) {
  adopt_thread_limit();
  Output result(x, qp.dtype(), x.shape(), out, "quant.quantize");
  {
    const py::gil_scoped_release release;
    runtime::quantize(x.view(), qp, result.view());
  }
  return result.take();
}

py::object dequantize(const Array& q, const QParams& qp, const py::object& out) {
  adopt_thread_limit();
  Output result(q, DType::float32, q.shape(), out, "quant.dequantize");
  {
    const py::gil_scoped_release release;
    runtime::dequantize(q.view(), qp, result.view());
  }
  return result.take();
}

}  // namespace
}  // namespace moptcore::bindings

PYBIND11_MODULE(_runtime, m) {
  using pybind11::literals::operator""_a;
  namespace bindings = moptcore::bindings;
  m.doc() = "What moptcore computes with oneDNN.";
  // QParams and the errors are _core's.
  pybind11::module_::import("moptcore._core");
  m.attr("onednn_version") = moptcore::runtime::onednn_version();
  m.def("quantize", &bindings::quantize, "x"_a, "qp"_a, "out"_a = pybind11::none(),
        "quant.quantize(x, qp, backend=\"onednn\").");
  m.def("dequantize", &bindings::dequantize, "q"_a, "qp"_a, "out"_a = pybind11::none(),
        "quant.dequantize(q, qp, backend=\"onednn\").");
  bindings::bind_lowrank(m.def_submodule("lowrank"));
  bindings::word_misfits(m);
}

// SPDX-License-Identifier: Apache-2.0
#include <moptcore/core/core.hpp>

#include <pybind11/stl.h>

#include "array.hpp"
#include "module.hpp"

namespace moptcore::bindings {

namespace py = pybind11;

namespace {

// Errors in Python: moptcore.Error is a ValueError, DTypeError a TypeError as well.
void bind_errors(py::module_& m) {
  static py::handle error = PyErr_NewExceptionWithDoc(
      "moptcore.Error", "A bad argument; the text names it, its value and what is allowed.",
      PyExc_ValueError, nullptr);
  m.attr("Error") = error;
  const auto derive = [&m](const char* name, const char* doc, const py::tuple& bases) {
    const std::string full = std::string("moptcore.") + name;
    const py::handle made = PyErr_NewExceptionWithDoc(full.c_str(), doc, bases.ptr(), nullptr);
    m.attr(name) = made;
    return made;
  };
  const py::tuple plain = py::make_tuple(error);
  static py::handle dtype =
      derive("DTypeError", "An array of a dtype or memory layout that the function does not take.",
             py::make_tuple(error, py::handle(PyExc_TypeError)));
  static py::handle non_finite =
      derive("NonFiniteError", "NaN or infinity where the function cannot take it.", plain);
  static py::handle unsupported =
      derive("UnsupportedError", "Meaningful, but not offered here; the text says what is.", plain);
  static py::handle format = derive(
      "FormatError", "A file, state or byte sequence that does not follow its format.", plain);
  derive("CoverageError", "With strict=True: something selected could not be done; all rows.",
         plain);
  py::register_exception_translator([](std::exception_ptr raised) {
    try {
      if (raised) std::rethrow_exception(raised);
    } catch (const DTypeError& e) {
      PyErr_SetString(dtype.ptr(), e.what());
    } catch (const NonFiniteError& e) {
      PyErr_SetString(non_finite.ptr(), e.what());
    } catch (const UnsupportedError& e) {
      PyErr_SetString(unsupported.ptr(), e.what());
    } catch (const FormatError& e) {
      PyErr_SetString(format.ptr(), e.what());
    } catch (const Error& e) {
      PyErr_SetString(error.ptr(), e.what());
    }
  });
}

// What the border makes of an array, for tests and bug reports.
py::dict describe(const Array& array) {
  using py::literals::operator""_a;
  const AnyView& view = array.view();
  const char* kinds[] = {"numpy", "torch", "jax", "tensorflow", "other"};
  py::list shape;
  py::list strides;
  for (int axis = 0; axis < view.rank(); ++axis) {
    shape.append(view.shape()[axis]);
    strides.append(view.strides()[axis]);
  }
  return py::dict(
      "dtype"_a = std::string(name(view.dtype())), "shape"_a = py::tuple(shape),
      "strides"_a = py::tuple(strides), "address"_a = reinterpret_cast<std::uintptr_t>(view.data()),
      "kind"_a = kinds[static_cast<int>(array.kind())], "writable"_a = array.is_writable());
}

py::object copy(const Array& src, const py::object& out) {
  constexpr const char* kWhere = "core.copy";
  Output result(src, src.dtype(), src.shape(), out, kWhere);
  result.check_overlap(src, kWhere);
  {
    const py::gil_scoped_release release;
    copy_elements(src.view(), result.view());
  }
  return result.take();
}

}  // namespace

void bind_core(py::module_ m) {
  using py::literals::operator""_a;
  bind_errors(m);
  m.attr("__version__") = MOPTCORE_VERSION;
  m.def("get_num_threads", &num_threads, "Threads that a call may use.");
  m.def("set_num_threads", &set_num_threads, "count"_a,
        "Lets calls use at most `count` threads. Results do not depend on it.");
  m.def("thread_backend", &thread_backend, "openmp or std.");
  m.def("available_isas", &available_isas, "Instruction sets of this CPU, best first.");
  m.def("current_isa", &current_isa, "The instruction set that the kernels use.");
  m.def(
      "set_max_isa", [](const std::string& name) { set_max_isa(name); }, "name"_a,
      "Uses no instruction set better than `name`; an empty name lifts the limit.");
  m.def("describe", &describe, "array"_a,
        "How moptcore sees an array: dtype, shape, strides in elements, address, kind, writable.");
  m.def("copy", &copy, "array"_a, py::kw_only(), "out"_a = py::none(),
        "The same elements, row-major, as the caller's kind of array or in `out`.");
  m.def("trim", &trim, "Gives the unused blocks of the memory pool back to the system.");
  m.def(
      "pool_statistics",
      [] {
        const PoolStatistics s = pool_statistics();
        return py::dict("bytes_in_use"_a = s.bytes_in_use, "bytes_cached"_a = s.bytes_cached,
                        "reused"_a = s.reused);
      },
      "Bytes in use, bytes cached and reused blocks of the memory pool.");
}

}  // namespace moptcore::bindings

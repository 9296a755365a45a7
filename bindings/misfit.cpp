// SPDX-License-Identifier: Apache-2.0
#include "misfit.hpp"

#include <string>
#include <string_view>

namespace moptcore::bindings {

namespace py = pybind11;

namespace {

using Entry = PyObject* (*)(PyObject*, PyObject* const*, std::size_t, PyObject*);

// pybind11's own entry, which is one and the same for every function that it binds.
Entry bound_entry = nullptr;

bool is_misfit(std::string_view text) {
  return text.find("(): incompatible ") != std::string_view::npos ||
         text.starts_with("[core.asarray] ");
}

// "prune.magnitude_mask", "quant.MSEObserver.merge", "core.copy".
std::string address_of(const py::detail::function_record& record) {
  const py::handle scope = record.scope;
  const bool in_class = PyType_Check(scope.ptr()) != 0;
  const char* home = in_class ? "__module__" : "__name__";
  auto module = py::str(scope.attr(home)).cast<std::string>();
  const auto dot = module.rfind('.');
  std::string word = dot == std::string::npos ? module : module.substr(dot + 1);
  if (word.starts_with('_')) word = "core";
  if (in_class) word += "." + py::str(scope.attr("__qualname__")).cast<std::string>();
  return record.is_constructor ? word : word + "." + record.name;
}

// Raises anew what was raised, in other words where moptcore.core.misfit has some.
void explain(PyObject* self, PyObject* const* args, std::size_t count, PyObject* names) {
  py::error_already_set raised;
  const py::detail::function_record* record = py::detail::function_record_ptr_from_PyObject(self);
  try {
    if (record != nullptr && record->next == nullptr &&
        is_misfit(py::str(raised.value()).cast<std::string>())) {
      py::list positional;
      for (std::size_t i = 0; i < count; ++i) positional.append(py::handle(args[i]));
      py::dict named;
      const Py_ssize_t named_count = names == nullptr ? 0 : PyTuple_GET_SIZE(names);
      for (Py_ssize_t i = 0; i < named_count; ++i) {
        named[py::handle(PyTuple_GET_ITEM(names, i))] =
            py::handle(args[count + static_cast<std::size_t>(i)]);
      }
      const py::object told = py::module_::import("moptcore.core.misfit")
                                  .attr("explain")(raised.value(), address_of(*record),
                                                   record->signature, positional, named);
      if (!told.is_none()) {
        PyErr_SetObject(py::type::handle_of(told).ptr(), told.ptr());
        return;
      }
    }
  } catch (py::error_already_set& error) {
    error.discard_as_unraisable("moptcore: an error about arguments");
  }
  raised.restore();
}

PyObject* entry(PyObject* self, PyObject* const* args, std::size_t count, PyObject* names) {
  PyObject* result = bound_entry(self, args, count, names);
  if (result == nullptr) [[unlikely]] {
    if (PyErr_ExceptionMatches(PyExc_TypeError) != 0 ||
        PyErr_ExceptionMatches(PyExc_ValueError) != 0) {
      explain(self, args, static_cast<std::size_t>(PyVectorcall_NARGS(count)), names);
    }
  }
  return result;
}

void redirect(py::handle function) {
  if (PyInstanceMethod_Check(function.ptr()))
    function = PyInstanceMethod_GET_FUNCTION(function.ptr());
  if (!PyCFunction_Check(function.ptr())) return;
  PyMethodDef* def = reinterpret_cast<PyCFunctionObject*>(function.ptr())->m_ml;
  if (def->ml_flags != (METH_FASTCALL | METH_KEYWORDS)) return;
  PyObject* self = PyCFunction_GET_SELF(function.ptr());
  if (self == nullptr || py::detail::function_record_ptr_from_PyObject(self) == nullptr) return;
  const auto found = reinterpret_cast<Entry>(reinterpret_cast<void (*)()>(def->ml_meth));
  if (found == &entry) return;
  bound_entry = found;
  def->ml_meth = reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&entry));
}

void word_scope(py::handle scope) {
  for (const auto& [key, value] : py::dict(scope.attr("__dict__"))) {
    if (py::isinstance<py::type>(value)) {
      if (value.attr("__module__").equal(scope.attr("__name__"))) word_scope(value);
    } else if (PyModule_Check(value.ptr())) {
      word_scope(value);
    } else if (PyObject_TypeCheck(value.ptr(), &PyStaticMethod_Type)) {
      redirect(value.attr("__func__"));
    } else {
      redirect(value);
    }
  }
}

}  // namespace

void word_misfits(const py::module_& module) { word_scope(module); }

}  // namespace moptcore::bindings

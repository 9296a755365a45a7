// SPDX-License-Identifier: Apache-2.0
#include <pybind11/stl.h>

#include <moptcore/runtime/session.hpp>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "graph.hpp"
#include "graph_value.hpp"
#include "module.hpp"

namespace moptcore::bindings {

namespace py = pybind11;
using graph::ValueInfo;
using py::literals::operator""_a;
using runtime::Profile;
using runtime::ProfileRow;
using runtime::Session;

namespace {

// A model, or what graph.load makes one of.
graph::Model model_from(const py::object& source, const py::object& external_directory) {
  constexpr auto kWhere = "runtime.Session";
  if (py::isinstance<GraphModel>(source)) return source.cast<const GraphModel&>().get();
  check<DTypeError>(!py::hasattr(source, "SerializeToString"), kWhere,
                    "model must be a path, bytes or a graph.Model, pass model.SerializeToString()",
                    py::str(py::type::of(source).attr("__name__")).cast<std::string>());
  if (PyObject_CheckBuffer(source.ptr()) == 0) {
    const py::object path = py::module_::import("os").attr("fspath")(source);
    if (py::isinstance<py::str>(path)) {
      const auto text = path.cast<std::string>();
      check<UnsupportedError>(!text.ends_with(".tflite") && !text.ends_with(".safetensors"), kWhere,
                              "model must be an ONNX file", text);
    }
  }
  const py::object loaded = py::module_::import("moptcore._core")
                                .attr("graph")
                                .attr("load")(source, "external_directory"_a = external_directory);
  return loaded.cast<const GraphModel&>().get();
}

std::unique_ptr<Session> make(const py::object& source, std::optional<int> threads,
                              const std::optional<std::string>& max_isa,
                              const py::object& external_directory, std::int64_t max_bytes,
                              std::int64_t max_steps) {
  check(!threads || (*threads >= 1 && *threads <= 1024), "runtime.Session",
        "threads must be in [1, 1024] or None", threads.value_or(1));
  adopt_thread_limit();
  graph::Model model = model_from(source, external_directory);
  runtime::SessionOptions options;
  options.threads = threads.value_or(0);
  options.max_isa = max_isa.value_or("");
  options.max_bytes = max_bytes;
  options.max_steps = max_steps;
  const py::gil_scoped_release free;
  return std::make_unique<Session>(std::move(model), options);
}

graph::Values values_from(const Session& session, const py::dict& inputs) {
  static const graph::ValueType anything;
  graph::Values values;
  for (const auto& [key, source] : inputs) {
    check<DTypeError>(py::isinstance<py::str>(key), "runtime.Session",
                      "names of inputs must be strings", py::repr(key).cast<std::string>());
    const auto name = key.cast<std::string>();
    const auto info = std::ranges::find(session.inputs(), name, &ValueInfo::name);
    const graph::ValueType& type = info == session.inputs().end() ? anything : info->type;
    values[name] = value_from(source, type, "runtime.Session", "input '" + name + "'");
  }
  return values;
}

py::dict run(const Session& session, const py::dict& inputs) {
  adopt_thread_limit();
  graph::Values values = values_from(session, inputs);
  graph::Values results;
  {
    const py::gil_scoped_release free;
    results = session.run(values);
  }
  values.clear();
  py::dict found;
  for (const ValueInfo& info : session.outputs()) {
    const py::str name(info.name);
    if (!found.contains(name)) found[name] = python_from(std::move(results.at(info.name)));
  }
  return found;
}

std::string description(const Session& session) {
  const auto list = [](const std::vector<ValueInfo>& infos) {
    std::string text;
    for (const ValueInfo& info : infos) {
      text += (text.empty() ? "" : ", ") + py::repr(py::cast(info)).cast<std::string>();
    }
    return text;
  };
  return "<moptcore.Session (" + list(session.inputs()) + ") -> (" + list(session.outputs()) + ")>";
}

Profile profile(const Session& session, const py::dict& inputs, int runs) {
  adopt_thread_limit();
  const graph::Values values = values_from(session, inputs);
  const py::gil_scoped_release free;
  return session.profile(values, runs);
}

}  // namespace

void bind_session(py::module_ m) {
  m.doc() = "Runs models: planned once for each set of input shapes, with oneDNN.";
  // ValueInfo and Model are _core's.
  py::module_::import("moptcore._core");

  py::class_<ProfileRow>(m, "ProfileRow", "One step of a run and its time.")
      .def_readonly("name", &ProfileRow::name, "The value that it computes.")
      .def_readonly("operation", &ProfileRow::operation, "Its nodes: 'Conv+Add+Relu'.")
      .def_readonly("implementation", &ProfileRow::implementation,
                    "oneDNN's name of the code that ran; 'graph' for a plain loop.")
      .def_readonly("shape", &ProfileRow::shape, "Of the value.")
      .def_readonly("milliseconds", &ProfileRow::milliseconds, "Median over the runs.");

  py::class_<Profile>(m, "Profile", "Where the time of a run goes; str() is a table.")
      .def_readonly("rows", &Profile::rows, "The steps in the order in which they run.")
      .def_readonly("milliseconds", &Profile::milliseconds, "Of a whole run, median.")
      .def("table", &Profile::table, "Sums by operation, then every step.")
      .def("chrome_trace", &Profile::chrome_trace,
           "JSON of the last run for chrome://tracing and ui.perfetto.dev.")
      .def("__str__", &Profile::table);

  py::class_<Session>(m, "Session", "Runs a model, from any number of threads at once.")
      .def(py::init(&make), "model"_a, "threads"_a = py::none(), "max_isa"_a = py::none(),
           "external_directory"_a = py::none(), "max_bytes"_a = runtime::SessionOptions().max_bytes,
           "max_steps"_a = runtime::SessionOptions().max_steps,
           R"(Of an ONNX file, the bytes of one, or a moptcore.graph.Model.

threads: of each run, the calling one included; None is get_num_threads() at that time.
max_isa: "avx512", "avx2" or "baseline", for the whole process; it must come before
anything else uses oneDNN.
external_directory: below which weights in files of their own are read; bytes need it.
max_bytes, max_steps: bytes that one tensor may have, and iterations that loops may take in a
run; beyond them a run ends in an Error. Operators that moptcore lacks are one UnsupportedError that
names them all.)")
      .def_property_readonly(
          "inputs", [](const Session& self) -> py::list { return py::cast(self.inputs()); },
          "The inputs that a run must be given, each with name, dtype and shape.")
      .def_property_readonly(
          "outputs", [](const Session& self) -> py::list { return py::cast(self.outputs()); },
          "What a run returns.")
      .def("run", &run, "inputs"_a,
           R"(The outputs by name, of arrays by name.

Contiguous arrays of any framework are read where they lie; NumPy arrays are returned.
The first run with new shapes plans, later ones take memory for the outputs alone.
NaN need not survive: oneDNN's Relu and Clip make 0 or a bound of it, where Model.evaluate
keeps it.)")
      .def("__repr__", &description)
      .def("profile", &profile, "inputs"_a, "runs"_a = 20,
           "Times each step of `runs` runs with these inputs.");
}

}  // namespace moptcore::bindings

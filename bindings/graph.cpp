// SPDX-License-Identifier: Apache-2.0
#include "graph.hpp"

#include <pybind11/stl.h>

#include <moptcore/graph/onnx.hpp>
#include <moptcore/graph/summary.hpp>
#include <moptcore/graph/upgrade.hpp>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "array.hpp"
#include "graph_value.hpp"
#include "module.hpp"

namespace moptcore::bindings {

namespace py = pybind11;
using graph::ValueInfo;
using graph::ValueType;
using py::literals::operator""_a;

namespace {

// What the system refuses is an OSError with its number and path, as of open().
template <class F>
auto with_os_errors(F&& f) {
  try {
    return f();
  } catch (const std::system_error& error) {
    const std::string text = error.what();
    errno = error.code().value();
    PyErr_SetFromErrnoWithFilename(PyExc_OSError, text.substr(0, text.rfind(": ")).c_str());
  }
  throw py::error_already_set();
}

std::string path_of(const py::object& path) {
  check<DTypeError>(!py::hasattr(path, "SerializeToString"), "graph.load",
                    "path_or_bytes must be a path or bytes, pass model.SerializeToString()",
                    py::str(py::type::of(path).attr("__name__")).cast<std::string>());
  return py::bytes(py::module_::import("os").attr("fsencode")(path));
}

std::string dtype_text(const ValueType& type) {
  const std::string inner = type.inner.empty() ? "unknown" : dtype_text(type.inner[0]);
  switch (type.kind) {
    case ValueType::Kind::tensor: return std::string(graph::name(type.element));
    case ValueType::Kind::sequence: return "sequence(" + inner + ")";
    case ValueType::Kind::optional: return "optional(" + inner + ")";
    case ValueType::Kind::other: return "other";
    case ValueType::Kind::unknown: break;
  }
  return "unknown";
}

py::object shape_of(const ValueType& type) {
  if (!type.inner.empty()) return shape_of(type.inner[0]);
  if (!type.dimensions) return py::none();
  py::list shape;
  for (const graph::Dimension& dimension : *type.dimensions) {
    if (dimension.is_known()) shape.append(dimension.value);
    else if (!dimension.symbol.empty()) shape.append(dimension.symbol);
    else shape.append(py::none());
  }
  return py::tuple(shape);
}

std::string shape_text(const ValueType& type) {
  const py::object shape = shape_of(type);
  return shape.is_none() ? "" : py::repr(shape).cast<std::string>();
}

GraphModel load(const py::object& source, const std::optional<py::object>& external_directory,
                std::int64_t max_bytes) {
  graph::LoadOptions options;
  options.max_bytes = max_bytes;
  if (external_directory && !external_directory->is_none()) {
    options.external_directory = path_of(*external_directory);
  }
  const bool is_buffer = PyObject_CheckBuffer(source.ptr()) != 0;
  if (!is_buffer) {
    const std::string path = path_of(source);
    return with_os_errors([&] {
      const py::gil_scoped_release free;
      return GraphModel(graph::load(path, options));
    });
  }
  const py::buffer_info info = py::reinterpret_borrow<py::buffer>(source).request();
  check<DTypeError>(
      info.itemsize == 1 && info.ndim <= 1 && (info.ndim == 0 || info.strides[0] == 1),
      "graph.load", "path_or_bytes must be a path or bytes without gaps, got a buffer of item size",
      info.itemsize);
  return with_os_errors([&] {
    const py::gil_scoped_release free;
    return GraphModel(graph::parse(
        {static_cast<const std::uint8_t*>(info.ptr), static_cast<std::size_t>(info.size)},
        options));
  });
}

// Older opsets are written at this one where no other is asked for.
constexpr std::int64_t kWrittenOpset = 13;

// The model as it is, or a newer one.
std::shared_ptr<const graph::Model> at_opset(const GraphModel& model, std::int64_t opset) {
  const auto own = model.get().opsets.find("");
  const bool old = own != model.get().opsets.end() && own->second < kWrittenOpset;
  if (opset == 0 && !old) return model.share();
  if (own != model.get().opsets.end() && own->second == opset) return model.share();
  auto newer = std::make_shared<graph::Model>(model.get());
  if (opset != 0) {
    graph::upgrade(*newer, opset);
    return newer;
  }
  try {
    graph::upgrade(*newer, kWrittenOpset);
  } catch (const UnsupportedError& error) {
    throw UnsupportedError(std::string(error.what()) + "; opset=" + std::to_string(own->second) +
                           " writes the model as it is");
  }
  return newer;
}

py::bytes to_bytes(const GraphModel& model, const std::optional<std::int64_t>& opset) {
  std::vector<std::uint8_t> bytes;
  {
    const auto written = at_opset(model, opset.value_or(0));
    const py::gil_scoped_release free;
    bytes = graph::serialize(*written);
  }
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

void save(const GraphModel& model, const py::object& path, const std::optional<std::int64_t>& opset,
          const std::optional<std::string>& external_file, std::int64_t external_from) {
  graph::SaveOptions options;
  options.external_file = external_file.value_or("");
  options.external_from = external_from;
  const std::string name = path_of(path);
  with_os_errors([&] {
    const auto written = at_opset(model, opset.value_or(0));
    const py::gil_scoped_release free;
    graph::save(*written, name, options);
    return 0;
  });
}

py::dict evaluate(const GraphModel& model, const py::dict& inputs,
                  const std::optional<std::vector<std::string>>& outputs, std::uint64_t seed) {
  const auto evaluator = model.evaluator();
  const auto& infos = evaluator->model().graph.inputs;
  graph::Values values;
  for (const auto& [key, source] : inputs) {
    const auto name = key.cast<std::string>();
    const auto info = std::ranges::find(infos, name, &ValueInfo::name);
    check(info != infos.end(), "graph.evaluate", "inputs must be ones that the model has", name);
    values[name] = value_from(source, info->type, "graph.evaluate", "input '" + name + "'");
  }
  graph::EvaluateOptions options;
  options.seed = seed;
  graph::Values results;
  {
    const py::gil_scoped_release free;
    results = evaluator->run(
        values, outputs ? std::span<const std::string>(*outputs) : std::span<const std::string>(),
        options);
  }
  py::dict found;
  const auto take = [&](const std::string& name) {
    found[py::str(name)] = python_from(std::move(results.at(name)));
  };
  if (outputs && !outputs->empty()) {
    for (const std::string& name : *outputs) {
      if (!found.contains(name)) take(name);
    }
  } else {
    for (const ValueInfo& info : evaluator->model().graph.outputs) {
      if (!found.contains(info.name)) take(info.name);
    }
  }
  return found;
}

// The inputs that have no default.
std::vector<ValueInfo> inputs_of(const GraphModel& model) {
  std::vector<ValueInfo> inputs;
  for (const ValueInfo& info : model.get().graph.inputs) {
    if (!model.get().graph.initializers.contains(info.name)) inputs.push_back(info);
  }
  return inputs;
}

std::string text_of(const ValueInfo& info) {
  return info.name + ": " + dtype_text(info.type) + shape_text(info.type);
}

std::string repr(const GraphModel& model) {
  std::string text = "<moptcore.graph.Model";
  const auto list = [&](const std::vector<ValueInfo>& infos) {
    std::string all;
    for (const ValueInfo& info : infos) all += (all.empty() ? "" : ", ") + text_of(info);
    return all;
  };
  text += " (" + list(inputs_of(model)) + ") -> (" + list(model.get().graph.outputs) + "), ";
  text += std::to_string(model.get().graph.nodes.size()) + " nodes>";
  return text;
}

}  // namespace

void bind_graph(py::module_ m) {
  py::class_<ValueInfo>(m, "ValueInfo", "An input or output: its name, dtype and shape.")
      .def_property_readonly("name", [](const ValueInfo& self) { return self.name; })
      .def_property_readonly(
          "dtype", [](const ValueInfo& self) { return dtype_text(self.type); },
          "NumPy's or ml_dtypes' name; 'string'; 'sequence(float32)'; 'optional(int64)'.")
      .def_property_readonly(
          "shape",
          [](const ValueInfo& self) -> std::optional<py::tuple> {
            const py::object shape = shape_of(self.type);
            if (shape.is_none()) return std::nullopt;
            return py::tuple(shape);
          },
          "Extents: numbers, names of symbols, or None; None where the rank is unknown.")
      .def("__repr__", [](const ValueInfo& self) { return "<" + text_of(self) + ">"; });

  py::class_<GraphModel>(m, "Model", "A model: what ONNX describes, or a file of it holds.")
      .def_property_readonly("inputs", &inputs_of, "The inputs that a run must be given.")
      .def_property_readonly(
          "outputs", [](const GraphModel& self) { return self.get().graph.outputs; },
          "What a run returns.")
      .def_property_readonly(
          "opsets", [](const GraphModel& self) { return self.get().opsets; },
          "The version of each domain of operators; '' is ONNX's own.")
      .def(
          "evaluate", &evaluate, "inputs"_a, "outputs"_a = py::none(), py::kw_only(), "seed"_a = 0,
          "The outputs by name, or the values named in `outputs`, of arrays by name.\n\n"
          "Plain loops, one operator after the other: slow, and what faster ways are compared\n"
          "with. Arrays of every framework are read; NumPy arrays are returned, lists of them for\n"
          "sequences, None for an optional without a value.")
      .def(
          "to_bytes", &to_bytes, py::kw_only(), "opset"_a = py::none(),
          "The bytes of an ONNX file, at most 2 GiB of them.\n\n"
          "`opset` asks for a newer version of ONNX's operators than the model's, of 13 to 28, or\n"
          "for the model's own; without it a model below 13 is written at 13.")
      .def("save", &save, "path"_a, py::kw_only(), "opset"_a = py::none(),
           "external_file"_a = py::none(), "external_from"_a = 1024,
           "Writes an ONNX file, which appears at `path` whole or not at all.\n\n"
           "`opset` is that of `to_bytes`.\n"
           "`external_file` names a file beside it, which must not exist yet, for the weights of\n"
           "`external_from` bytes or more: models over 2 GiB need one.")
      .def(
          "summary",
          [](const GraphModel& self) {
            const auto model = self.share();
            const py::gil_scoped_release free;
            return graph::table(graph::count(*model));
          },
          "A table: each node with what it gives, its parameters and multiplications, and the "
          "sums; `count` has the numbers.")
      .def("__repr__", &repr);

  m.def(
      "load", &load, "path_or_bytes"_a, py::kw_only(), "external_directory"_a = py::none(),
      "max_bytes"_a = 0,
      "The model in an ONNX file, or in the bytes of one.\n\n"
      "Weights in files of their own are read below the model's folder, or below\n"
      "`external_directory`, which bytes need. `max_bytes` bounds what the model takes beside\n"
      "its file; 0 is three times the file and 32 MiB. Raises FormatError, naming the field, for\n"
      "a broken model, UnsupportedError for one that is too old or too new.");
}

}  // namespace moptcore::bindings

// SPDX-License-Identifier: Apache-2.0
#include <pybind11/stl.h>

#include <moptcore/graph/infer.hpp>
#include <moptcore/graph/optimize.hpp>
#include <moptcore/graph/summary.hpp>

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "graph.hpp"
#include "graph_value.hpp"
#include "module.hpp"

namespace moptcore::bindings {

namespace py = pybind11;
using py::literals::operator""_a;

namespace {

using Shapes = std::map<std::string, std::vector<std::optional<std::int64_t>>>;

graph::InputShapes shapes_of(const Shapes& given) {
  graph::InputShapes shapes;
  for (const auto& [name, extents] : given) {
    std::vector<std::int64_t>& shape = shapes[name];
    for (const auto& extent : extents) shape.push_back(extent.value_or(-1));
  }
  return shapes;
}

std::int64_t extent_of(const std::optional<std::int64_t>& extent) {
  if (!extent) return 0;
  check(*extent >= 1, "graph.optimize", "extent must be at least 1", *extent);
  return *extent;
}

GraphModel infer_types(const GraphModel& model, const std::optional<Shapes>& inputs) {
  const graph::InputShapes shapes = inputs ? shapes_of(*inputs) : graph::InputShapes();
  const py::gil_scoped_release free;
  return GraphModel(graph::specialise(model.get(), shapes));
}

// The caller should not take for verified what was not.
void warn_unless_run(const graph::Verification& verification, const char* where) {
  if (verification.ran) return;
  const std::string text = "[" + std::string(where) +
                           "] nothing was verified: the model does not run on made-up input, "
                           "choose another extent: " +
                           verification.reason;
  if (PyErr_WarnEx(PyExc_UserWarning, text.c_str(), 1) < 0) throw py::error_already_set();
}

std::pair<GraphModel, graph::OptimizeReport> optimize(
    const GraphModel& model, const std::vector<std::string>& without,
    const std::vector<std::string>& only, bool attention, bool verify, std::int64_t max_fold_bytes,
    std::optional<std::int64_t> extent, std::uint64_t seed) {
  graph::OptimizeOptions options;
  options.without = without;
  if (!only.empty()) {
    for (const std::string& name : graph::pass_names()) {
      if (std::ranges::find(only, name) == only.end()) options.without.push_back(name);
    }
    for (const std::string& name : only) {
      const auto names = graph::pass_names();
      check(std::ranges::find(names, name) != names.end(), "graph.optimize",
            "only must name passes (pass_names)", name);
    }
  }
  options.attention = attention;
  options.verify = verify;
  options.passes.max_fold_bytes = max_fold_bytes;
  options.verification.extent = extent_of(extent);
  options.verification.seed = seed;
  graph::Model result;
  graph::OptimizeReport report;
  {
    const py::gil_scoped_release free;
    result = model.get();
    report = graph::optimize(result, options);
  }
  if (verify) warn_unless_run(report.verification, "graph.optimize");
  return {GraphModel(std::move(result)), std::move(report)};
}

py::dict types_of(const GraphModel& model) {
  py::dict types;
  const graph::Graph& graph = model.get().graph;
  for (const auto* list : {&graph.inputs, &graph.values, &graph.outputs}) {
    for (const graph::ValueInfo& info : *list) types[py::str(info.name)] = info;
  }
  return types;
}

// -1 stands for what is unknown.
std::optional<std::int64_t> known(std::int64_t count) {
  return count < 0 ? std::nullopt : std::optional(count);
}

}  // namespace

void bind_graph_passes(py::module_ m) {
  py::class_<graph::NodeCost>(m, "NodeCost", "What one node costs.")
      .def_readonly("name", &graph::NodeCost::name)
      .def_readonly("op_type", &graph::NodeCost::op_type)
      .def_readonly("outputs", &graph::NodeCost::outputs)
      .def_readonly("parameters", &graph::NodeCost::parameters)
      .def_readonly("parameter_bytes", &graph::NodeCost::parameter_bytes)
      .def_property_readonly(
          "macs", [](const graph::NodeCost& self) { return known(self.macs); },
          "Multiplications with an addition; None where extents are unknown.")
      .def_property_readonly(
          "output_bytes", [](const graph::NodeCost& self) { return known(self.output_bytes); },
          "None where extents are unknown.");

  py::class_<graph::ModelCost>(m, "ModelCost", "What a model costs; str() is a table.")
      .def_readonly("nodes", &graph::ModelCost::nodes)
      .def_readonly("parameters", &graph::ModelCost::parameters)
      .def_readonly("parameter_bytes", &graph::ModelCost::parameter_bytes)
      .def_readonly("macs", &graph::ModelCost::macs)
      .def_readonly("activation_bytes", &graph::ModelCost::activation_bytes)
      .def_readonly("complete", &graph::ModelCost::complete,
                    "False where some extents are unknown: sums are of the known ones.")
      .def("__str__", &graph::table);

  m.def(
      "count",
      [](const GraphModel& model, const std::optional<Shapes>& inputs) {
        const graph::InputShapes shapes = inputs ? shapes_of(*inputs) : graph::InputShapes();
        const py::gil_scoped_release free;
        return graph::count(model.get(), shapes);
      },
      "model"_a, "inputs"_a = py::none(),
      "Parameters, multiplications and bytes of each node and of all, with inputs of these\n"
      "shapes. Bodies of loops count once.");

  py::class_<graph::Verification>(m, "Verification", "What a comparison of two models has found.")
      .def_readonly("ran", &graph::Verification::ran,
                    "False where the model does not run on made-up input: nothing is known then.")
      .def_readonly("reason", &graph::Verification::reason, "Why it did not run.")
      .def_readonly("difference", &graph::Verification::difference,
                    "The largest one, in parts of the output's magnitude.")
      .def_readonly("output", &graph::Verification::output, "Where it is.");

  py::class_<graph::OptimizeReport>(m, "OptimizeReport", "What optimize has done.")
      .def_property_readonly(
          "passes",
          [](const graph::OptimizeReport& self) {
            std::map<std::string, std::int64_t> counts;
            for (const graph::PassReport& pass : self.passes) counts[pass.pass] = pass.changes;
            return counts;
          },
          "How many nodes or values each pass rewrote.")
      .def_readonly("rounds", &graph::OptimizeReport::rounds)
      .def_readonly("nodes_before", &graph::OptimizeReport::nodes_before)
      .def_readonly("nodes_after", &graph::OptimizeReport::nodes_after)
      .def_readonly("verification", &graph::OptimizeReport::verification)
      .def("__repr__", [](const graph::OptimizeReport& self) {
        std::string text = "<OptimizeReport " + std::to_string(self.nodes_before) + " -> " +
                           std::to_string(self.nodes_after) + " nodes";
        for (const graph::PassReport& pass : self.passes) {
          if (pass.changes > 0) text += ", " + pass.pass + " " + std::to_string(pass.changes);
        }
        return text + ">";
      });

  m.def("infer_types", &infer_types, "model"_a, "inputs"_a = py::none(),
        "A copy of the model with the types and shapes of all its values.\n\n"
        "`inputs` gives inputs another shape, such as {'x': (1, 3, None, None)}; None leaves an\n"
        "extent as it is. Extents that depend on symbols are expressions of them, as text.\n"
        "Raises FormatError, naming the node, where shapes contradict each other.");
  m.def("types", &types_of, "model"_a,
        "ValueInfo by name of the inputs, outputs and values between whose type is known.");
  m.def("pass_names", &graph::pass_names, "The passes of optimize, in their order.");
  m.def("optimize", &optimize, "model"_a, py::kw_only(), "without"_a = std::vector<std::string>(),
        "only"_a = std::vector<std::string>(), "attention"_a = false, "verify"_a = false,
        "max_fold_bytes"_a = graph::PassOptions().max_fold_bytes, "extent"_a = py::none(),
        "seed"_a = 0,
        "A rewritten copy of the model that computes the same, and a report.\n\n"
        "`without` and `only` name passes. `attention` makes Attention of its parts, of models\n"
        "below opset 23 in opset 23. `verify` runs the model on random input before and\n"
        "after each pass that changes something and raises where outputs differ; symbols of\n"
        "inputs have the extent `extent` then, None the first of 3, 16, 32, 48, 64 and 224 at\n"
        "which the model runs. Warns where it runs at none.");
  m.def(
      "verify_equal",
      [](const GraphModel& before, const GraphModel& after,
         const std::optional<std::int64_t>& extent, std::uint64_t seed, double tolerance) {
        graph::VerifyOptions options;
        options.extent = extent_of(extent);
        options.seed = seed;
        options.tolerance = tolerance;
        graph::Verification found;
        {
          const py::gil_scoped_release free;
          found = graph::verify_equal(before.get(), after.get(), options);
        }
        warn_unless_run(found, "graph.verify_equal");
        return found;
      },
      "before"_a, "after"_a, py::kw_only(), "extent"_a = py::none(), "seed"_a = 0,
      "tolerance"_a = 0.0,
      "Runs both models on the same random input; raises where outputs differ, warns where they\n"
      "do not run. `extent` is that of `optimize`.");
  m.def(
      "random_inputs",
      [](const GraphModel& model, std::int64_t extent, std::uint64_t seed) {
        graph::VerifyOptions options;
        options.extent = extent;
        options.seed = seed;
        graph::Values values = graph::random_inputs(model.get(), options);
        py::dict result;
        for (auto& [name, value] : values) result[py::str(name)] = python_from(std::move(value));
        return result;
      },
      "model"_a, py::kw_only(), "extent"_a = 3, "seed"_a = 0,
      "Inputs that verification makes up: floats in [-1, 1], whole numbers 0 and 1.");
}

}  // namespace moptcore::bindings

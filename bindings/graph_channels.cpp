// SPDX-License-Identifier: Apache-2.0
#include <pybind11/functional.h>
#include <pybind11/stl.h>

#include <moptcore/graph/channels.hpp>

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "graph.hpp"
#include "module.hpp"

namespace moptcore::bindings {

namespace py = pybind11;
using graph::ChannelGroup;
using graph::ChannelMember;
using graph::Recipe;
using py::literals::operator""_a;

namespace {

graph::ChannelScope scope_named(const std::string& scope) {
  if (scope == "group") return graph::ChannelScope::group;
  check(scope == "global", "graph.choose_channels", "scope must be group or global", scope);
  return graph::ChannelScope::global;
}

Recipe choose(const GraphModel& model, double sparsity, const std::string& scope, double ord,
              std::optional<std::map<std::string, std::vector<double>>> scores,
              std::int64_t min_units, std::int64_t multiple_of,
              const std::map<std::string, double>& shares,
              std::function<bool(const ChannelGroup&)> take) {
  graph::ChannelChoice choice;
  choice.sparsity = sparsity;
  choice.scope = scope_named(scope);
  choice.ord = ord;
  if (scores) {
    choice.scores.emplace();
    for (auto& [name, values] : *scores) choice.scores->emplace(name, std::move(values));
  }
  choice.min_units = min_units;
  choice.multiple_of = multiple_of;
  choice.shares.insert(shares.begin(), shares.end());
  choice.take = std::move(take);
  return graph::choose_channels(model.get(), choice);
}

std::map<std::string, std::vector<std::int64_t>> kept_of(const Recipe& recipe) {
  std::map<std::string, std::vector<std::int64_t>> kept;
  for (const auto& [name, group] : recipe.groups) kept.emplace(name, group.kept);
  return kept;
}

std::map<std::string, std::int64_t> units_of(const Recipe& recipe) {
  std::map<std::string, std::int64_t> units;
  for (const auto& [name, group] : recipe.groups) units.emplace(name, group.units);
  return units;
}

Recipe recipe_of(const std::string& fingerprint, const std::map<std::string, std::int64_t>& units,
                 const std::map<std::string, std::vector<std::int64_t>>& kept) {
  Recipe recipe;
  recipe.fingerprint = fingerprint;
  for (const auto& [name, indices] : kept) {
    const auto found = units.find(name);
    check(found != units.end(), "graph.ChannelRecipe", "units must name every group of kept", name);
    recipe.groups[name] = {found->second, indices};
  }
  return recipe;
}

std::string repr(const ChannelGroup& group) {
  std::string text = "<ChannelGroup '" + group.name + "', " + std::to_string(group.units()) +
                     " units of " + std::to_string(group.unit) + ", " +
                     std::to_string(group.members.size()) + " members";
  if (group.fixed) text += ", fixed: " + group.reason;
  return text + ">";
}

}  // namespace

void bind_graph_channels(py::module_ m) {
  py::class_<ChannelMember>(m, "ChannelMember",
                            "Where the units of a group lie along one axis of a tensor.")
      .def_readonly("node", &ChannelMember::node,
                    "The node that writes the tensor; of a weight, the first that reads it.")
      .def_readonly("tensor", &ChannelMember::tensor)
      .def_readonly("axis", &ChannelMember::axis)
      .def_readonly("initializer", &ChannelMember::initializer)
      .def_readonly("offset", &ChannelMember::offset, "The least of the indices.")
      .def_readonly("block", &ChannelMember::block, "Indices of each unit.")
      .def_readonly("indices", &ChannelMember::indices,
                    "Along the axis; those of unit u begin at u * block.")
      .def("__repr__", [](const ChannelMember& self) {
        return "<ChannelMember '" + self.tensor + "', axis " + std::to_string(self.axis) + ">";
      });

  py::class_<ChannelGroup>(m, "ChannelGroup",
                           "Channels that can be cut only together, once for each unit.")
      .def_readonly("name", &ChannelGroup::name)
      .def_readonly("extent", &ChannelGroup::extent, "Channels of the first member.")
      .def_readonly("unit", &ChannelGroup::unit, "Channels of the first member in one unit.")
      .def_property_readonly("units", &ChannelGroup::units)
      .def_readonly("members", &ChannelGroup::members, "Weights first.")
      .def_readonly("fixed", &ChannelGroup::fixed, "True where none can be cut.")
      .def_readonly("reason", &ChannelGroup::reason, "Why they are fixed.")
      .def("__repr__", &repr);

  py::class_<Recipe>(m, "ChannelRecipe",
                     "Which units of each group stay, and of which architecture.")
      .def(py::init(&recipe_of), "fingerprint"_a, "units"_a, "kept"_a,
           "For each group in `kept` the indices of the units that stay, ascending, and in\n"
           "`units` how many there were.")
      .def_readonly("fingerprint", &Recipe::fingerprint)
      .def_property_readonly("kept", &kept_of,
                             "The units that stay, by group; other groups stay whole.")
      .def_property_readonly("units", &units_of, "How many units the groups had.")
      .def("to_json", &Recipe::to_json)
      .def_static("from_json", &Recipe::from_json, "json"_a,
                  "Raises FormatError, which names the place, for text that is no recipe.")
      .def(
          "__eq__", [](const Recipe& a, const Recipe& b) { return a == b; }, py::is_operator())
      .def("__repr__", [](const Recipe& self) {
        return "<ChannelRecipe of " + std::to_string(self.groups.size()) + " groups>";
      });

  m.def(
      "channel_groups",
      [](const GraphModel& model) {
        const py::gil_scoped_release free;
        return graph::channel_groups(model.get());
      },
      "model"_a,
      "The groups of channels that hold weights, in the order of the nodes.\n\n"
      "What is not understood is fixed, with the reason.");
  m.def(
      "channel_scores",
      [](const GraphModel& model, double ord) {
        const py::gil_scoped_release free;
        const auto scores = graph::channel_scores(model.get(), ord);
        return std::map<std::string, std::vector<double>>(scores.begin(), scores.end());
      },
      "model"_a, "ord"_a = 2.0,
      "The norm of all weights of each unit that can be cut, by name of the group.");
  m.def(
      "fingerprint", [](const GraphModel& model) { return graph::fingerprint(model.get()); },
      "model"_a, "Equal for models that differ in weights and in the names of values only.");
  m.def("choose_channels", &choose, "model"_a, "sparsity"_a = 0.5, py::kw_only(),
        "scope"_a = "group", "ord"_a = 2.0, "scores"_a = py::none(), "min_units"_a = 1,
        "multiple_of"_a = 1, "shares"_a = std::map<std::string, double>(), "take"_a = py::none(),
        "A recipe that cuts the share `sparsity` of the units, those of least score.\n\n"
        "scope: 'group', or 'global', where all units are ranked together, each by its score\n"
        "over the mean of its group. scores: by group a number for each unit, instead of the\n"
        "norm of order `ord` of all its weights. min_units: that every group keeps.\n"
        "multiple_of: what the channels that stay in a group are a multiple of. shares: by\n"
        "group, instead of sparsity. take: says of a ChannelGroup whether it may be cut.");
  m.def(
      "remove_channels",
      [](const GraphModel& model, const Recipe& recipe) {
        const py::gil_scoped_release free;
        return GraphModel(graph::remove_channels(model.get(), recipe));
      },
      "model"_a, "recipe"_a,
      "A model without the units that the recipe does not keep.\n\n"
      "Raises FormatError for a recipe of another architecture.");
  m.def(
      "mask_channels",
      [](const GraphModel& model, const Recipe& recipe) {
        const py::gil_scoped_release free;
        return GraphModel(graph::mask_channels(model.get(), recipe));
      },
      "model"_a, "recipe"_a,
      "A model in the old shapes that computes what remove_channels' model does.\n\n"
      "The same units are 0 wherever they are added up.");
}

}  // namespace moptcore::bindings

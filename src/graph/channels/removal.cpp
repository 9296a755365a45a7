// SPDX-License-Identifier: Apache-2.0
#include "graph/channels/removal.hpp"

#include <algorithm>
#include <cstring>
#include <set>
#include <string>
#include <unordered_set>
#include <utility>

#include "graph/channels/shapes.hpp"
#include "graph/scope.hpp"

namespace moptcore::inline v0::graph::channels {
namespace {

constexpr auto kWhere = "graph.remove_channels";

class Cutter {
 public:
  Cutter(const Coupling& all, const Removed& removed)
      : all_(all), removed_(removed), model_(all.model()) {
    for (const Track& track : all.tracks()) names_.insert(track.name);
  }

  Model run() {
    Graph& graph = model_.graph;
    for (Node& node : graph.nodes) {
      if (node.domain.empty()) change(node);
    }
    for (const Track& track : all_.tracks()) {
      if (!track.initializer) continue;
      for (int axis = 0; axis < track.rank(); ++axis) {
        const Axis& own = track.axes[static_cast<std::size_t>(axis)];
        if (!removed_.any(own)) continue;
        Tensor& tensor = graph.initializers.find(track.name)->second;
        tensor = taken(tensor, axis, removed_.kept(own));
      }
    }
    graph.initializers.merge(fresh_);
    // What only a node read that reads something new now.
    std::set<std::string> read;
    for (const Node& node : graph.nodes) read.merge(names_read(node));
    for (const ValueInfo& output : graph.outputs) read.insert(output.name);
    for (const std::string& name : replaced_) {
      const auto is_input = [&](const ValueInfo& input) { return input.name == name; };
      if (!read.contains(name) && std::ranges::none_of(graph.inputs, is_input)) {
        graph.initializers.erase(name);
        graph.notes.erase(name);
      }
    }
    for (auto* infos : {&graph.values, &graph.inputs, &graph.outputs}) {
      for (ValueInfo& info : *infos) change(info);
    }
    return std::move(model_);
  }

 private:
  [[nodiscard]] const Track& track(const std::string& name) const {
    return all_.tracks()[static_cast<std::size_t>(all_.find_track(name))];
  }

  [[nodiscard]] bool touches(const Track& track) const {
    return std::ranges::any_of(track.axes, [&](const Axis& axis) { return removed_.any(axis); });
  }

  [[nodiscard]] std::int64_t extent(const Axis& axis) const {
    return axis.has_atoms() ? removed_.kept_count(axis) : axis.extent;
  }

  void change(ValueInfo& info) {
    const std::int32_t id = all_.find_track(info.name);
    if (id < 0 || !info.type.dimensions) return;
    const Track& own = all_.tracks()[static_cast<std::size_t>(id)];
    if (own.axes.size() != info.type.dimensions->size()) return;
    for (std::size_t axis = 0; axis < own.axes.size(); ++axis) {
      Dimension& dimension = (*info.type.dimensions)[axis];
      if (dimension.is_known()) dimension.value = extent(own.axes[axis]);
    }
  }

  /// A new constant of int64 that takes the place of an input.
  void replace(Node& node, std::size_t input, const std::vector<std::int64_t>& values) {
    std::string name;
    for (int i = 0; name.empty() || !names_.insert(name).second; ++i) {
      name = node.outputs.front() + "_channels" + (i == 0 ? "" : std::to_string(i));
    }
    fresh_.emplace(name,
                   Tensor::of<std::int64_t>({static_cast<std::int64_t>(values.size())}, values));
    if (node.inputs.size() <= input) node.inputs.resize(input + 1);
    if (!node.inputs[input].empty()) replaced_.insert(node.inputs[input]);
    node.inputs[input] = name;
  }

  void change(Node& node) {
    const std::string& op = node.op_type;
    const std::size_t least = op == "Split" || op == "Slice" || op == "GroupNormalization" ? 1 : 2;
    // Of others no channels are cut.
    if (node.inputs.size() < least || node.inputs[0].empty() || node.inputs[least - 1].empty() ||
        node.outputs.empty() || node.outputs[0].empty()) {
      return;
    }
    if (op == "Conv" || op == "ConvTranspose") {
      const auto groups = node.get<std::int64_t>("group", 1);
      if (groups == 1) return;
      const Track& weight = track(node.inputs[1]);
      const Track& over = op == "Conv" ? track(node.inputs[0]) : track(node.outputs[0]);
      if (!touches(weight) && !touches(over)) return;
      node.set("group", extent(over.axes[1]) / extent(weight.axes[1]));
    } else if (op == "GroupNormalization") {
      const Track& source = track(node.inputs[0]);
      if (!touches(source)) return;
      const Axis& axis = source.axes[1];
      const auto groups = node.get<std::int64_t>("num_groups", 1);
      node.set("num_groups", extent(axis) / (axis.extent / groups));
    } else if (op == "Reshape") {
      change_reshape(node);
    } else if (op == "Expand") {
      const Track& result = track(node.outputs[0]);
      if (!touches(result)) return;
      auto shape = expand_template(all_, node).value();
      for (std::size_t axis = 0; axis < shape.size(); ++axis) {
        if (shape[axis] == kOwnExtent) shape[axis] = extent(result.axes[axis]);
      }
      replace(node, 1, shape);
    } else if (op == "Split") {
      change_split(node);
    } else if (op == "Slice") {
      change_slice(node);
    } else if (op == "Gather") {
      change_gather(node);
    } else if (op == "Resize") {
      change_resize(node);
    }
  }

  void change_reshape(Node& node) {
    const Track& source = track(node.inputs[0]);
    const Track& result = track(node.outputs[0]);
    if (!touches(source) && !touches(result)) return;
    auto shape = reshape_template(all_, node).value();
    const auto* given = all_.elements(node.inputs[1]);
    const bool copies = node.get<std::int64_t>("allowzero", 0) == 0;
    bool open = std::ranges::find(shape, -1) != shape.end();
    for (std::size_t axis = 0; axis < shape.size(); ++axis) {
      if (shape[axis] != kOwnExtent) continue;
      std::int64_t old = kOwnExtent;
      if (given != nullptr && axis < given->size()) old = (*given)[axis].value.value_or(old);
      // What the file leaves open stays open.
      const bool same =
          axis < source.axes.size() && extent(source.axes[axis]) == extent(result.axes[axis]);
      if (old == 0 && copies && same) {
        shape[axis] = 0;
      } else if (old == -1 && !open) {
        shape[axis] = -1;
        open = true;
      } else {
        shape[axis] = extent(result.axes[axis]);
      }
    }
    replace(node, 1, shape);
  }

  void change_split(Node& node) {
    const Track& source = track(node.inputs[0]);
    const auto given = node.get<std::int64_t>("axis", 0);
    const auto axis = static_cast<std::size_t>(given < 0 ? given + source.rank() : given);
    if (axis >= source.axes.size() || !removed_.any(source.axes[axis])) return;
    std::vector<std::int64_t> sizes;
    for (const std::string& output : node.outputs) {
      sizes.push_back(extent(track(output).axes[axis]));
    }
    std::erase_if(node.attributes,
                  [](const Attribute& attribute) { return attribute.name == "num_outputs"; });
    if (all_.model().opset("") < 13) node.set("split", sizes);
    else replace(node, 1, sizes);
  }

  void change_slice(Node& node) {
    const Track& source = track(node.inputs[0]);
    const std::int64_t version = all_.model().opset("");
    const auto ranges = slice_ranges(all_, node, version);
    if (!ranges) return;
    const bool cuts = std::ranges::any_of(*ranges, [&](const auto& each) {
      return removed_.any(source.axes[static_cast<std::size_t>(each.first)]);
    });
    if (!cuts) return;
    // One by one, in the order in which the node has them.
    const auto operand = [&](std::size_t input, const char* name) {
      if (version >= 10) return all_.integers(node.inputs[input]).value();
      return node.get<std::vector<std::int64_t>>(name, {});
    };
    std::vector<std::int64_t> starts = operand(1, "starts");
    std::vector<std::int64_t> ends = operand(2, "ends");
    std::vector<std::int64_t> axes;
    const bool has_axes = version < 10 ? node.find("axes") != nullptr
                                       : node.inputs.size() > 3 && !node.inputs[3].empty();
    if (has_axes) {
      axes = operand(3, "axes");
    } else {
      for (std::size_t i = 0; i < starts.size(); ++i) axes.push_back(static_cast<std::int64_t>(i));
    }
    for (std::size_t i = 0; i < axes.size(); ++i) {
      const auto axis = static_cast<int>(axes[i] < 0 ? axes[i] + source.rank() : axes[i]);
      const Axis& from = source.axes[static_cast<std::size_t>(axis)];
      if (!removed_.any(from)) continue;
      std::int64_t start = 0;
      for (std::int64_t at = 0; at < ranges->at(axis).start; ++at) {
        start += removed_.at(from, at) ? 0 : 1;
      }
      starts[i] = start;
      ends[i] = start + extent(track(node.outputs[0]).axes[static_cast<std::size_t>(axis)]);
    }
    if (version < 10) {
      node.set("starts", starts);
      node.set("ends", ends);
    } else {
      replace(node, 1, starts);
      replace(node, 2, ends);
      // Their type must be that of the new ones.
      if (has_axes) replace(node, 3, axes);
      if (node.inputs.size() > 4 && !node.inputs[4].empty()) {
        replace(node, 4, all_.integers(node.inputs[4]).value());
      }
    }
  }

  void change_gather(Node& node) {
    const Track& source = track(node.inputs[0]);
    const Track& index = track(node.inputs[1]);
    const auto given = node.get<std::int64_t>("axis", 0);
    const auto axis = static_cast<std::size_t>(given < 0 ? given + source.rank() : given);
    if (axis >= source.axes.size() || !removed_.any(source.axes[axis])) return;
    const Axis& from = source.axes[axis];
    std::vector<std::int64_t> place(static_cast<std::size_t>(from.extent), -1);
    std::int64_t count = 0;
    for (std::int64_t i = 0; i < from.extent; ++i) {
      if (!removed_.at(from, i)) place[static_cast<std::size_t>(i)] = count++;
    }
    const auto indices = all_.integers(node.inputs[1]).value();
    std::vector<std::int64_t> changed;
    for (std::size_t i = 0; i < indices.size(); ++i) {
      if (removed_.at(index.axes[0], static_cast<std::int64_t>(i))) continue;
      const std::int64_t old = indices[i] < 0 ? indices[i] + from.extent : indices[i];
      changed.push_back(place[static_cast<std::size_t>(old)]);
    }
    replace(node, 1, changed);
  }

  void change_resize(Node& node) {
    constexpr std::size_t kSizes = 3;
    if (node.inputs.size() <= kSizes || node.inputs[kSizes].empty()) return;
    const Track& source = track(node.inputs[0]);
    auto sizes = all_.integers(node.inputs[kSizes]);
    if (!touches(source) || !sizes) return;
    std::vector<std::int64_t> axes;
    for (int axis = 0; axis < source.rank(); ++axis) axes.push_back(axis);
    axes = node.get<std::vector<std::int64_t>>("axes", axes);
    for (std::size_t i = 0; i < axes.size() && i < sizes->size(); ++i) {
      const auto axis = static_cast<std::size_t>(axes[i] < 0 ? axes[i] + source.rank() : axes[i]);
      if (removed_.any(source.axes[axis])) (*sizes)[i] = extent(source.axes[axis]);
    }
    replace(node, kSizes, *sizes);
  }

  const Coupling& all_;
  const Removed& removed_;
  Model model_;
  std::unordered_set<std::string> names_;
  std::map<std::string, Tensor, std::less<>> fresh_;
  std::set<std::string> replaced_;
};

// The shapes of the new model have to follow from its inputs as the groups say.
void check_types(const Coupling& all, const Removed& removed, Model model) {
  model.graph.values.clear();
  infer_with_constants(model);
  const auto types = types_of(model);
  for (const Track& track : all.tracks()) {
    const auto type = types.find(track.name);
    if (type == types.end() || !track.ranked || !type->second->dimensions) continue;
    const auto& dimensions = *type->second->dimensions;
    bool same = dimensions.size() == track.axes.size();
    for (std::size_t axis = 0; same && axis < dimensions.size(); ++axis) {
      const Axis& own = track.axes[axis];
      if (!dimensions[axis].is_known() || !own.has_atoms()) continue;
      same = dimensions[axis].value == removed.kept_count(own);
    }
    check<UnsupportedError>(same, kWhere, "shapes must follow the channels through every operator",
                            track.name);
  }
}

}  // namespace

Tensor taken(const Tensor& tensor, int axis, const std::vector<std::int64_t>& indices) {
  Shape shape = tensor.shape();
  std::int64_t outer = 1;
  std::int64_t inner = bit_width(tensor.type()) / 8;
  for (int i = 0; i < axis; ++i) outer *= shape[i];
  for (int i = axis + 1; i < shape.rank(); ++i) inner *= shape[i];
  const std::int64_t extent = shape[axis];
  shape[axis] = static_cast<std::int64_t>(indices.size());
  Tensor result(tensor.type(), shape);
  const auto* from = static_cast<const unsigned char*>(tensor.raw());
  auto* to = static_cast<unsigned char*>(result.mutable_raw());
  for (std::int64_t i = 0; i < outer; ++i) {
    for (const std::int64_t index : indices) {
      std::memcpy(to, from + (i * extent + index) * inner, static_cast<std::size_t>(inner));
      to += inner;
    }
  }
  return result;
}

Model cut(const Coupling& all, const Removed& removed) {
  Model model = Cutter(all, removed).run();
  check_types(all, removed, model);
  return model;
}

}  // namespace moptcore::inline v0::graph::channels

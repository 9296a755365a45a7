// SPDX-License-Identifier: Apache-2.0
#include "graph/channels/movement.hpp"

#include <algorithm>
#include <map>
#include <set>

namespace moptcore::inline v0::graph::channels {
namespace {

constexpr auto kUnknownShape = "a shape is not known";

void elementwise(Walk& walk) {
  const Track& y = walk.out(0);
  bool known = y.ranked && walk.has(0);
  for (int i = 0; i < walk.input_count(); ++i) {
    if (walk.has(i)) known = known && walk.in(i).ranked && walk.in(i).rank() <= y.rank();
  }
  for (int i = 1; i < walk.output_count(); ++i) {
    if (walk.wants(i)) known = known && walk.out(i).ranked && walk.out(i).rank() == y.rank();
  }
  if (!known) {
    walk.fix_all(kUnknownShape);
    return;
  }
  const auto align = [&](const Track& track) {
    for (int axis = 0; axis < track.rank(); ++axis) {
      const Axis& own = track.axes[static_cast<std::size_t>(axis)];
      const Axis& other = y.axes[static_cast<std::size_t>(axis + y.rank() - track.rank())];
      if (own.extent != 1 || other.extent == 1) walk.couple(own, other);
    }
  };
  for (int i = 0; i < walk.input_count(); ++i) {
    if (walk.has(i)) align(walk.in(i));
  }
  for (int i = 1; i < walk.output_count(); ++i) {
    if (walk.wants(i)) align(walk.out(i));
  }
}

// The first input decides; the others are settings.
void unary(Walk& walk) {
  const Track& x = walk.in(0);
  const Track& y = walk.out(0);
  if (!x.ranked || !y.ranked || x.rank() != y.rank()) {
    walk.fix_all(kUnknownShape);
    return;
  }
  for (std::size_t axis = 0; axis < x.axes.size(); ++axis) walk.couple(x.axes[axis], y.axes[axis]);
  for (int i = 1; i < walk.output_count(); ++i) walk.fix_all(walk.out(i), kUnknownShape);
}

void concat(Walk& walk) {
  const Track& y = walk.out(0);
  const auto given = walk.node().get<std::int64_t>("axis", 1);
  const std::int64_t axis = given < 0 ? given + y.rank() : given;
  bool known = y.ranked && walk.has(0) && axis >= 0 && axis < y.rank();
  for (int i = 0; i < walk.input_count(); ++i) {
    known = known && walk.ranked_in(i) && walk.in(i).rank() == y.rank();
  }
  if (!known) {
    walk.fix_all(kUnknownShape);
    return;
  }
  const auto at = static_cast<std::size_t>(axis);
  std::int64_t offset = 0;
  for (int i = 0; i < walk.input_count(); ++i) {
    const Track& x = walk.in(i);
    for (std::size_t other = 0; other < y.axes.size(); ++other) {
      if (other != at) walk.couple(x.axes[other], y.axes[other]);
    }
    const Axis& own = x.axes[at];
    if (own.extent == 0) continue;
    if (!own.has_atoms() || !y.axes[at].has_atoms() || offset < 0) {
      walk.fix(own, kUnknownShape);
      walk.fix(y.axes[at], kUnknownShape);
      offset = -1;
      continue;
    }
    walk.couple(own, 0, y.axes[at], offset, own.extent);
    offset += own.extent;
  }
}

void split(Walk& walk) {
  const Track& x = walk.in(0);
  const auto given = walk.node().get<std::int64_t>("axis", 0);
  const std::int64_t axis = given < 0 ? given + x.rank() : given;
  bool known = x.ranked && axis >= 0 && axis < x.rank();
  for (int i = 0; i < walk.output_count(); ++i) {
    known = known && (!walk.wants(i) || walk.out(i).rank() == x.rank());
  }
  if (!known) {
    walk.fix_all(kUnknownShape);
    return;
  }
  const auto at = static_cast<std::size_t>(axis);
  std::int64_t offset = 0;
  for (int i = 0; i < walk.output_count(); ++i) {
    // Without a name the size of a part is not known either.
    if (!walk.wants(i) || !walk.out(i).axes[at].has_atoms()) offset = -1;
  }
  for (int i = 0; i < walk.output_count(); ++i) {
    if (!walk.wants(i)) continue;
    const Track& y = walk.out(i);
    for (std::size_t other = 0; other < x.axes.size(); ++other) {
      if (other != at) walk.couple(x.axes[other], y.axes[other]);
    }
    if (offset < 0 || !x.axes[at].has_atoms()) {
      walk.fix(x.axes[at], kUnknownShape);
      walk.fix(y.axes[at], kUnknownShape);
      continue;
    }
    walk.couple(x.axes[at], offset, y.axes[at], 0, y.axes[at].extent);
    offset += y.axes[at].extent;
  }
  walk.handled(1);
}

void slice(Walk& walk) {
  const Track& x = walk.in(0);
  const Track& y = walk.out(0);
  const auto axes =
      walk.has(0) ? slice_axes(walk.all(), walk.node(), walk.version()) : std::nullopt;
  if (!x.ranked || !y.ranked || x.rank() != y.rank() || !axes) {
    walk.fix_all(kUnknownShape);
    return;
  }
  const auto ranges = slice_ranges(walk.all(), walk.node(), walk.version());
  for (int axis = 0; axis < x.rank(); ++axis) {
    const Axis& from = x.axes[static_cast<std::size_t>(axis)];
    const Axis& to = y.axes[static_cast<std::size_t>(axis)];
    if (!axes->contains(axis)) {
      walk.couple(from, to);
    } else if (ranges && ranges->at(axis).step == 1 && from.has_atoms() && to.has_atoms()) {
      walk.couple(from, ranges->at(axis).start, to, 0, to.extent);
    } else {
      walk.fix(from, "it is cut in steps, or where a computation says");
      walk.fix(to, "it is cut in steps, or where a computation says");
    }
  }
}

void gather(Walk& walk) {
  const Track& x = walk.in(0);
  const Track& index = walk.in(1);
  const Track& y = walk.out(0);
  const auto given = walk.node().get<std::int64_t>("axis", 0);
  const std::int64_t axis = given < 0 ? given + x.rank() : given;
  if (!x.ranked || !index.ranked || !y.ranked || axis < 0 || axis >= x.rank() ||
      y.rank() != x.rank() + index.rank() - 1) {
    walk.fix_all(kUnknownShape);
    return;
  }
  const auto at = static_cast<int>(axis);
  for (int i = 0; i < at; ++i) {
    walk.couple(x.axes[static_cast<std::size_t>(i)], y.axes[static_cast<std::size_t>(i)]);
  }
  for (int i = at + 1; i < x.rank(); ++i) {
    walk.couple(x.axes[static_cast<std::size_t>(i)],
                y.axes[static_cast<std::size_t>(i + index.rank() - 1)]);
  }
  for (int i = 0; i < index.rank(); ++i) {
    walk.couple(index.axes[static_cast<std::size_t>(i)], y.axes[static_cast<std::size_t>(at + i)]);
  }
  const Axis& source = x.axes[static_cast<std::size_t>(at)];
  const auto indices = index.initializer && index.rank() == 1 ? walk.integers(1) : std::nullopt;
  if (!indices || !source.has_atoms()) {
    walk.fix(source, "its elements are looked up by number");
    return;
  }
  for (std::size_t i = 0; i < indices->size(); ++i) {
    std::int64_t from = (*indices)[i];
    if (from < 0) from += source.extent;
    if (from < 0 || from >= source.extent) {
      walk.fix_all("its indices are out of range");
      return;
    }
    walk.couple_index(index.axes[0], static_cast<std::int64_t>(i), source, from);
  }
}

void transpose(Walk& walk) {
  const Track& x = walk.in(0);
  const Track& y = walk.out(0);
  std::vector<std::int64_t> order;
  for (int axis = x.rank() - 1; axis >= 0; --axis) order.push_back(axis);
  order = walk.node().get<std::vector<std::int64_t>>("perm", order);
  if (!x.ranked || !y.ranked || x.rank() != y.rank() || order.size() != x.axes.size()) {
    walk.fix_all(kUnknownShape);
    return;
  }
  for (std::size_t axis = 0; axis < order.size(); ++axis) {
    if (order[axis] < 0 || order[axis] >= x.rank()) {
      walk.fix_all("its order is out of range");
      return;
    }
    walk.couple(x.axes[static_cast<std::size_t>(order[axis])], y.axes[axis]);
  }
}

void squeeze(Walk& walk) {
  const bool inserts = walk.node().op_type == "Unsqueeze";
  const Track& longer = inserts ? walk.out(0) : walk.in(0);
  const Track& shorter = inserts ? walk.in(0) : walk.out(0);
  std::optional<std::vector<std::int64_t>> axes;
  if (const Attribute* given = walk.node().find("axes")) {
    if (const auto* many = std::get_if<std::vector<std::int64_t>>(&given->value)) axes = *many;
  } else {
    axes = walk.integers(1);
  }
  std::set<std::int64_t> ones;
  for (const std::int64_t axis : axes.value_or(std::vector<std::int64_t>())) {
    ones.insert(axis < 0 ? axis + longer.rank() : axis);
  }
  if (!axes || !longer.ranked || !shorter.ranked ||
      shorter.rank() + static_cast<int>(ones.size()) != longer.rank()) {
    walk.fix_all("its axes are not given");
    return;
  }
  std::size_t to = 0;
  for (int axis = 0; axis < longer.rank(); ++axis) {
    if (ones.contains(axis)) {
      // Where it held one of several, that one is what is meant.
      walk.fix_quietly(longer.axes[static_cast<std::size_t>(axis)]);
      continue;
    }
    if (to == shorter.axes.size()) {
      walk.fix_all("its axes are out of range");
      return;
    }
    walk.couple(longer.axes[static_cast<std::size_t>(axis)], shorter.axes[to++]);
  }
}

void reshape(Walk& walk) {
  if (!walk.has(1) || !walk.wants(0) || !reshape_template(walk.all(), walk.node())) {
    walk.fix_all(kUnknownShape);
    return;
  }
  walk.refine(walk.in(0), walk.out(0));
  if (walk.in(1).ranked) {
    for (const Axis& axis : walk.in(1).axes) walk.fix_quietly(axis);
  }
  walk.handled(1);
}

void flatten(Walk& walk) { walk.refine(walk.in(0), walk.out(0)); }

void expand(Walk& walk) {
  const auto shape =
      walk.has(1) && walk.wants(0) ? expand_template(walk.all(), walk.node()) : std::nullopt;
  if (!shape) {
    walk.fix_all(kUnknownShape);
    return;
  }
  const Track& x = walk.in(0);
  const Track& y = walk.out(0);
  const int missing = y.rank() - x.rank();
  for (int axis = 0; axis < y.rank(); ++axis) {
    const Axis& to = y.axes[static_cast<std::size_t>(axis)];
    if ((*shape)[static_cast<std::size_t>(axis)] == 1) {
      walk.couple(x.axes[static_cast<std::size_t>(axis - missing)], to);
    } else {
      walk.fix(to, "it repeats one element");
    }
  }
  if (walk.in(1).ranked) {
    for (const Axis& axis : walk.in(1).axes) walk.fix_quietly(axis);
  }
  walk.handled(1);
}

void tile(Walk& walk) {
  const Track& x = walk.in(0);
  const Track& y = walk.out(0);
  const auto repeats = walk.integers(1);
  if (!repeats || !x.ranked || !y.ranked || x.rank() != y.rank() ||
      repeats->size() != x.axes.size()) {
    walk.fix_all(kUnknownShape);
    return;
  }
  for (std::size_t axis = 0; axis < x.axes.size(); ++axis) {
    if ((*repeats)[axis] == 1) {
      walk.couple(x.axes[axis], y.axes[axis]);
    } else {
      walk.fix(x.axes[axis], "it is repeated");
      walk.fix(y.axes[axis], "it is repeated");
    }
  }
}

void pad(Walk& walk) {
  const Track& x = walk.in(0);
  const Track& y = walk.out(0);
  std::optional<std::vector<std::int64_t>> pads;
  if (walk.version() < 11) {
    pads = walk.node().get<std::vector<std::int64_t>>("pads", {});
  } else {
    pads = walk.integers(1);
  }
  std::optional<std::vector<std::int64_t>> axes;
  if (walk.has(3)) {
    axes = walk.integers(3);
  } else {
    axes.emplace();
    for (int axis = 0; axis < x.rank(); ++axis) axes->push_back(axis);
  }
  if (!x.ranked || !y.ranked || x.rank() != y.rank() || !pads || !axes ||
      pads->size() != 2 * axes->size()) {
    walk.fix_all("its widths are computed");
    return;
  }
  const bool constant = walk.node().get<std::string>("mode", "constant") == "constant";
  std::vector<std::pair<std::int64_t, std::int64_t>> widths(x.axes.size());
  for (std::size_t i = 0; i < axes->size(); ++i) {
    const std::int64_t axis = (*axes)[i] < 0 ? (*axes)[i] + x.rank() : (*axes)[i];
    if (axis < 0 || axis >= x.rank()) {
      walk.fix_all("its axes are out of range");
      return;
    }
    widths[static_cast<std::size_t>(axis)] = {(*pads)[i], (*pads)[i + axes->size()]};
  }
  for (std::size_t axis = 0; axis < x.axes.size(); ++axis) {
    const Axis& from = x.axes[axis];
    const Axis& to = y.axes[axis];
    const auto [before, after] = widths[axis];
    if (before == 0 && after == 0) {
      walk.couple(from, to);
    } else if (constant && before >= 0 && after >= 0 && from.has_atoms() && to.has_atoms() &&
               before <= to.extent - from.extent && after == to.extent - from.extent - before) {
      walk.couple(from, 0, to, before, from.extent);
      walk.fix_range(to, 0, before, "it is padding");
      walk.fix_range(to, before + from.extent, after, "it is padding");
    } else {
      walk.fix(from, "it is padded by its own elements, or cut");
      walk.fix(to, "it is padded by its own elements, or cut");
    }
  }
}

void depth_to_space(Walk& walk) {
  const bool gathers = walk.node().op_type == "SpaceToDepth";
  const Track& deep = gathers ? walk.out(0) : walk.in(0);
  const Track& wide = gathers ? walk.in(0) : walk.out(0);
  const auto size = walk.node().get<std::int64_t>("blocksize", 0);
  if (deep.rank() != 4 || wide.rank() != 4 || size < 1 || size > (1 << 15) ||
      !deep.axes[1].has_atoms() || !wide.axes[1].has_atoms() ||
      deep.axes[1].extent != wide.axes[1].extent * size * size) {
    walk.fix_all(kUnknownShape);
    return;
  }
  const bool inner = !gathers && walk.node().get<std::string>("mode", "DCR") == "CRD";
  const std::int64_t channels = wide.axes[1].extent;
  for (std::int64_t i = 0; i < deep.axes[1].extent; ++i) {
    walk.couple_index(deep.axes[1], i, wide.axes[1], inner ? i / (size * size) : i % channels);
  }
  walk.couple(deep.axes[0], wide.axes[0]);
  for (const Track* track : {&deep, &wide}) {
    walk.fix_quietly(track->axes[2]);
    walk.fix_quietly(track->axes[3]);
  }
}

void resize(Walk& walk) {
  const Track& x = walk.in(0);
  const Track& y = walk.out(0);
  const bool old = walk.node().op_type == "Upsample" || walk.version() < 11;
  const bool plain =
      walk.node().get<std::string>("coordinate_transformation_mode", "half_pixel") !=
          "tf_crop_and_resize" &&
      walk.node().get<std::string>("keep_aspect_ratio_policy", "stretch") == "stretch";
  if (!x.ranked || !y.ranked || x.rank() != y.rank() || !plain) {
    walk.fix_all(kUnknownShape);
    return;
  }
  const int scales_at = old ? 1 : 2;
  constexpr int kSizesAt = 3;
  std::vector<std::int64_t> axes;
  for (int axis = 0; axis < x.rank(); ++axis) axes.push_back(axis);
  axes = walk.node().get<std::vector<std::int64_t>>("axes", axes);
  std::optional<std::vector<float>> scales;
  if (const Attribute* given = walk.node().find("scales")) {
    if (const auto* many = std::get_if<std::vector<float>>(&given->value)) scales = *many;
  } else if (walk.has(scales_at)) {
    const auto& constants = walk.all().model().graph.initializers;
    const auto constant = constants.find(walk.node().inputs[static_cast<std::size_t>(scales_at)]);
    if (constant != constants.end() && constant->second.type() == ElementType::float32 &&
        constant->second.size() > 0) {
      const auto values = constant->second.values<float>();
      scales.emplace(values.begin(), values.end());
    }
  }
  const bool by_sizes = !old && walk.has(kSizesAt);
  const auto* sizes = by_sizes ? walk.elements(kSizesAt) : nullptr;
  constexpr auto kWhy = "its size is computed";
  for (int axis = 0; axis < x.rank(); ++axis) {
    const Axis& from = x.axes[static_cast<std::size_t>(axis)];
    const Axis& to = y.axes[static_cast<std::size_t>(axis)];
    const auto place = std::ranges::find_if(
        axes, [&](std::int64_t each) { return each == axis || each == axis - x.rank(); });
    const auto at = static_cast<std::size_t>(place - axes.begin());
    bool same = place == axes.end();
    if (!same && sizes != nullptr && at < sizes->size()) {
      const Element& size = (*sizes)[at];
      same = size.value.has_value() && *size.value == from.extent;
      if (size.extents.size() == 1) {
        const Axis& other = walk.all()
                                .tracks()[static_cast<std::size_t>(size.extents[0].first)]
                                .axes[static_cast<std::size_t>(size.extents[0].second)];
        // It follows that axis by itself.
        same = other.extent == from.extent;
        if (same) walk.couple(other, from);
      }
    } else if (!same && !by_sizes && scales && at < scales->size()) {
      same = (*scales)[at] == 1.0F;
    }
    if (same) {
      walk.couple(from, to);
    } else if (axis >= 2) {
      walk.fix_quietly(from);
      walk.fix_quietly(to);
    } else {
      walk.fix(from, kWhy);
      walk.fix(to, kWhy);
    }
  }
  if (sizes != nullptr) walk.handled(kSizesAt);
  for (int i = 1; i < walk.input_count(); ++i) {
    for (const Axis& axis : walk.in(i).axes) walk.fix_quietly(axis);
  }
}

void shape(Walk& walk) {
  for (const Axis& axis : walk.out(0).axes) walk.fix_quietly(axis);
}

void triangle(Walk& walk) {
  unary(walk);
  const Track& x = walk.in(0);
  for (int axis = std::max(0, x.rank() - 2); axis < x.rank(); ++axis) {
    walk.fix(x.axes[static_cast<std::size_t>(axis)], "its elements depend on their numbers");
  }
}

constexpr NamedRule kRules[] = {
    {"Concat", concat},
    {"Split", split},
    {"Slice", slice},
    {"Gather", gather},
    {"Transpose", transpose},
    {"Squeeze", squeeze},
    {"Unsqueeze", squeeze},
    {"Flatten", flatten},
    {"Reshape", reshape},
    {"Expand", expand},
    {"Resize", resize},
    {"Upsample", resize},
    {"Tile", tile},
    {"Pad", pad},
    {"DepthToSpace", depth_to_space},
    {"SpaceToDepth", depth_to_space},
    {"Shape", shape},
    {"Size", shape},
    {"Trilu", triangle},
    {"CastLike", unary},
    {"Clip", unary},
};

constexpr std::string_view kElementwise[] = {"Abs",         "Acos",
                                             "Acosh",       "Add",
                                             "And",         "Asin",
                                             "Asinh",       "Atan",
                                             "Atanh",       "BitShift",
                                             "BitwiseAnd",  "BitwiseNot",
                                             "BitwiseOr",   "BitwiseXor",
                                             "Cast",        "Ceil",
                                             "Celu",        "Cos",
                                             "Cosh",        "Div",
                                             "Elu",         "Equal",
                                             "Erf",         "Exp",
                                             "Floor",       "Gelu",
                                             "Greater",     "GreaterOrEqual",
                                             "HardSigmoid", "HardSwish",
                                             "Identity",    "IsInf",
                                             "IsNaN",       "LeakyRelu",
                                             "Less",        "LessOrEqual",
                                             "Log",         "Max",
                                             "Mean",        "Min",
                                             "Mish",        "Mod",
                                             "Mul",         "Neg",
                                             "Not",         "Or",
                                             "PRelu",       "Pow",
                                             "Reciprocal",  "Relu",
                                             "Round",       "Selu",
                                             "Shrink",      "Sigmoid",
                                             "Sign",        "Sin",
                                             "Sinh",        "Softplus",
                                             "Softsign",    "Sqrt",
                                             "Sub",         "Sum",
                                             "Swish",       "Tan",
                                             "Tanh",        "ThresholdedRelu",
                                             "Where",       "Xor",
                                             "Dropout"};

}  // namespace

std::span<const NamedRule> movement_rules() { return kRules; }

Rule find_rule(std::string_view op_type) {
  static const std::map<std::string_view, Rule> rules = [] {
    std::map<std::string_view, Rule> all;
    for (const NamedRule& each : layer_rules()) all.emplace(each.op_type, each.rule);
    for (const NamedRule& each : movement_rules()) all.emplace(each.op_type, each.rule);
    for (const std::string_view name : kElementwise) all.emplace(name, elementwise);
    return all;
  }();
  const auto found = rules.find(op_type);
  return found == rules.end() ? nullptr : found->second;
}

}  // namespace moptcore::inline v0::graph::channels

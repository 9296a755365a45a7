// SPDX-License-Identifier: Apache-2.0
#include "graph/channels/layers.hpp"

#include <algorithm>
#include <map>
#include <set>

namespace moptcore::inline v0::graph::channels {
namespace {

constexpr auto kUnknownRank = "the number of axes is not known";

void positions(Walk& walk, const Track& track, int from) {
  for (int axis = from; axis < track.rank(); ++axis) {
    walk.fix_quietly(track.axes[static_cast<std::size_t>(axis)]);
  }
}

void same_axes(Walk& walk, const Track& a, const Track& b) {
  if (!a.ranked || !b.ranked || a.rank() != b.rank()) {
    walk.fix_all(a, kUnknownRank);
    walk.fix_all(b, kUnknownRank);
    return;
  }
  for (std::size_t axis = 0; axis < a.axes.size(); ++axis) walk.couple(a.axes[axis], b.axes[axis]);
}

// A vector with an element for each index of an axis, or one for all.
void along(Walk& walk, int input, const Axis& axis) {
  if (!walk.has(input)) return;
  const Track& vector = walk.in(input);
  if (vector.ranked && vector.rank() == 1) walk.couple(vector.axes[0], axis);
  else walk.fix(axis, "it does not have one parameter for each");
}

void convolution(Walk& walk) {
  const Track& x = walk.in(0);
  const Track& weight = walk.in(1);
  const Track& y = walk.out(0);
  if (!x.ranked || !weight.ranked || !y.ranked || x.rank() < 3 || weight.rank() != x.rank() ||
      y.rank() != x.rank()) {
    walk.fix_all(kUnknownRank);
    return;
  }
  const bool transposed = walk.node().op_type == "ConvTranspose";
  const auto groups = walk.node().get<std::int64_t>("group", 1);
  const Axis& rows = weight.axes[0];
  const Axis& columns = weight.axes[1];
  const Axis& in = x.axes[1];
  const Axis& out = y.axes[1];
  walk.fix_quietly(x.axes[0]);
  walk.fix_quietly(y.axes[0]);
  positions(walk, x, 2);
  positions(walk, y, 2);
  positions(walk, weight, 2);
  if (groups == 1) {
    walk.couple(in, transposed ? rows : columns);
    walk.couple(out, transposed ? columns : rows);
    walk.contract(0, 1);
    walk.contract(1, transposed ? 0 : 1);
    along(walk, 2, out);
    return;
  }
  const bool fits =
      groups > 1 && rows.has_atoms() && columns.has_atoms() && in.has_atoms() && out.has_atoms() &&
      rows.extent % groups == 0 && in.extent % groups == 0 && out.extent % groups == 0 &&
      (transposed ? rows.extent == in.extent && columns.extent == out.extent / groups
                  : rows.extent == out.extent && columns.extent == in.extent / groups);
  if (!fits) {
    walk.fix_all("the groups do not fit the channels");
    return;
  }
  walk.couple(rows, transposed ? in : out);
  along(walk, 2, out);
  const std::int64_t each_in = in.extent / groups;
  const std::int64_t each_out = out.extent / groups;
  // What lies along the columns: of a group each, so no channel of the whole.
  const Axis& other = transposed ? out : in;
  const std::int64_t each_row = transposed ? each_in : each_out;
  const std::int64_t each_column = transposed ? each_out : each_in;
  const std::optional<int> way =
      each_row == 1 && each_column == 1 ? std::optional(0) : walk.grouped(groups);
  if (!way) return;
  for (std::int64_t g = 0; g < groups; ++g) {
    for (std::int64_t i = 0; i < each_row; ++i) {
      walk.couple_index(rows, g * each_row + i, rows, *way == 0 ? g * each_row : i);
    }
    for (std::int64_t i = 0; i < each_column; ++i) {
      if (*way == 0) walk.couple_index(other, g * each_column + i, rows, g * each_row);
      else walk.couple_index(other, g * each_column + i, columns, i);
    }
  }
  if (*way == 0) {
    walk.fix_quietly(columns);
  } else {
    walk.contract(0, 1);
    walk.contract(1, transposed ? 0 : 1);
  }
}

void gemm(Walk& walk) {
  const Track& a = walk.in(0);
  const Track& b = walk.in(1);
  const Track& y = walk.out(0);
  if (a.rank() != 2 || b.rank() != 2 || y.rank() != 2) {
    walk.fix_all(kUnknownRank);
    return;
  }
  const int inner_a = walk.node().get<std::int64_t>("transA", 0) != 0 ? 0 : 1;
  const int inner_b = walk.node().get<std::int64_t>("transB", 0) != 0 ? 1 : 0;
  walk.couple(a.axes[static_cast<std::size_t>(inner_a)], b.axes[static_cast<std::size_t>(inner_b)]);
  walk.contract(0, inner_a);
  walk.contract(1, inner_b);
  walk.couple(a.axes[static_cast<std::size_t>(1 - inner_a)], y.axes[0]);
  walk.couple(b.axes[static_cast<std::size_t>(1 - inner_b)], y.axes[1]);
  if (!walk.has(2)) return;
  const Track& c = walk.in(2);
  if (!c.ranked || c.rank() > 2) {
    walk.fix_all(kUnknownRank);
    return;
  }
  for (int axis = 0; axis < c.rank(); ++axis) {
    const Axis& own = c.axes[static_cast<std::size_t>(axis)];
    const Axis& result = y.axes[static_cast<std::size_t>(axis + 2 - c.rank())];
    if (own.extent != 1 || result.extent == 1) walk.couple(own, result);
  }
}

void matmul(Walk& walk) {
  const Track& a = walk.in(0);
  const Track& b = walk.in(1);
  const Track& y = walk.out(0);
  if (!a.ranked || !b.ranked || !y.ranked || a.rank() < 1 || b.rank() < 1) {
    walk.fix_all(kUnknownRank);
    return;
  }
  const int inner_a = a.rank() - 1;
  const int inner_b = b.rank() == 1 ? 0 : b.rank() - 2;
  const int kept_a = a.rank() > 1 ? 1 : 0;
  const int kept_b = b.rank() > 1 ? 1 : 0;
  const int batch = std::max(std::max(a.rank() - 2, b.rank() - 2), 0);
  if (y.rank() != batch + kept_a + kept_b) {
    walk.fix_all(kUnknownRank);
    return;
  }
  walk.couple(a.axes[static_cast<std::size_t>(inner_a)], b.axes[static_cast<std::size_t>(inner_b)]);
  walk.contract(0, inner_a);
  walk.contract(1, inner_b);
  if (kept_a != 0) {
    walk.couple(a.axes[static_cast<std::size_t>(a.rank() - 2)],
                y.axes[static_cast<std::size_t>(batch)]);
  }
  if (kept_b != 0) walk.couple(b.axes.back(), y.axes.back());
  for (const Track* side : {&a, &b}) {
    const int own = std::max(side->rank() - 2, 0);
    for (int axis = 0; axis < own; ++axis) {
      const Axis& from = side->axes[static_cast<std::size_t>(axis)];
      const Axis& to = y.axes[static_cast<std::size_t>(axis + batch - own)];
      if (from.extent != 1 || to.extent == 1) walk.couple(from, to);
    }
  }
}

void einsum(Walk& walk) {
  const std::string equation = walk.node().get<std::string>("equation", "");
  std::string text;
  for (const char c : equation) {
    if (c != ' ') text += c;
  }
  const std::size_t arrow = text.find("->");
  if (arrow == std::string::npos || text.find('.') != std::string::npos) {
    walk.fix_all("equations must have -> and no ... to be followed");
    return;
  }
  std::vector<std::string> terms(1);
  for (const char c : text.substr(0, arrow)) {
    if (c == ',') terms.emplace_back();
    else terms.back() += c;
  }
  const std::string result = text.substr(arrow + 2);
  bool fits = static_cast<int>(terms.size()) == walk.input_count() && walk.out(0).ranked &&
              walk.out(0).axes.size() == result.size();
  for (int i = 0; fits && i < walk.input_count(); ++i) {
    fits = walk.in(i).ranked && walk.in(i).axes.size() == terms[static_cast<std::size_t>(i)].size();
  }
  if (!fits) {
    walk.fix_all(kUnknownRank);
    return;
  }
  std::map<char, const Axis*> seen;
  const auto meet = [&](char label, const Axis& axis) {
    const auto [place, fresh] = seen.emplace(label, &axis);
    if (fresh) return;
    if (place->second->extent == 1 && axis.extent != 1) place->second = &axis;
    else if (axis.extent != 1 || place->second->extent == 1) walk.couple(*place->second, axis);
  };
  for (int i = 0; i < walk.input_count(); ++i) {
    const std::string& term = terms[static_cast<std::size_t>(i)];
    for (std::size_t axis = 0; axis < term.size(); ++axis) {
      meet(term[axis], walk.in(i).axes[axis]);
      if (result.find(term[axis]) == std::string::npos) walk.contract(i, static_cast<int>(axis));
    }
  }
  for (std::size_t axis = 0; axis < result.size(); ++axis) {
    meet(result[axis], walk.out(0).axes[axis]);
  }
}

void recurrent(Walk& walk) {
  const Track& x = walk.in(0);
  const Track& weight = walk.in(1);
  constexpr auto kWhy = "its gates and states stay whole";
  if (x.rank() == 3 && weight.rank() == 3) {
    walk.couple(x.axes[2], weight.axes[2]);
    walk.contract(0, 2);
    walk.contract(1, 2);
    walk.fix_quietly(x.axes[0]);
    walk.fix_quietly(x.axes[1]);
    walk.fix(weight.axes[0], kWhy);
    walk.fix(weight.axes[1], kWhy);
  } else {
    walk.fix_all(x, kUnknownRank);
    walk.fix_all(weight, kUnknownRank);
  }
  for (int i = 2; i < walk.input_count(); ++i) walk.fix_all(walk.in(i), kWhy);
  for (int i = 0; i < walk.output_count(); ++i) walk.fix_all(walk.out(i), kWhy);
}

void batch_normalization(Walk& walk) {
  const Track& x = walk.in(0);
  if (!x.ranked || x.rank() < 2 || walk.node().get<std::int64_t>("spatial", 1) != 1) {
    walk.fix_all("it normalizes each position, or the number of axes is not known");
    return;
  }
  for (int i = 1; i <= 4; ++i) {
    if (!walk.has(i)) walk.fix_all("it lacks an input");
  }
  same_axes(walk, x, walk.out(0));
  for (int i = 1; i < walk.input_count(); ++i) along(walk, i, x.axes[1]);
  for (int i = 1; i < walk.output_count(); ++i) {
    const Track& statistic = walk.out(i);
    if (statistic.ranked && statistic.rank() == 1) walk.couple(statistic.axes[0], x.axes[1]);
    else walk.fix_all(statistic, kUnknownRank);
  }
}

void instance_normalization(Walk& walk) {
  const Track& x = walk.in(0);
  if (!x.ranked || x.rank() < 3) {
    walk.fix_all(kUnknownRank);
    return;
  }
  if (!walk.has(1) || !walk.has(2)) walk.fix_all("it lacks an input");
  same_axes(walk, x, walk.out(0));
  along(walk, 1, x.axes[1]);
  along(walk, 2, x.axes[1]);
  positions(walk, x, 2);
}

void group_normalization(Walk& walk) {
  const Track& x = walk.in(0);
  const auto groups = walk.node().get<std::int64_t>("num_groups", 0);
  if (!x.ranked || x.rank() < 2 || !x.axes[1].has_atoms() || groups < 1 ||
      x.axes[1].extent % groups != 0) {
    walk.fix_all("the groups do not fit the channels");
    return;
  }
  if (!walk.has(1) || !walk.has(2)) walk.fix_all("it lacks an input");
  same_axes(walk, x, walk.out(0));
  positions(walk, x, 2);
  const std::int64_t each = x.axes[1].extent / groups;
  for (std::int64_t i = 0; i < x.axes[1].extent; ++i) {
    walk.couple_index(x.axes[1], i, x.axes[1], i / each * each);
  }
  for (const int input : {1, 2}) {
    const Track& vector = walk.in(input);
    if (vector.rank() == 1 && vector.axes[0].extent == groups && walk.version() < 21) {
      for (std::int64_t g = 0; g < groups; ++g) {
        walk.couple_index(vector.axes[0], g, x.axes[1], g * each);
      }
    } else {
      along(walk, input, x.axes[1]);
    }
  }
}

// LayerNormalization and RMSNormalization.
void layer_normalization(Walk& walk) {
  const Track& x = walk.in(0);
  const Track& y = walk.out(0);
  const auto given = walk.node().get<std::int64_t>("axis", -1);
  if (!x.ranked || given < -x.rank() || given >= x.rank()) {
    walk.fix_all(kUnknownRank);
    return;
  }
  same_axes(walk, x, y);
  for (int axis = static_cast<int>(given < 0 ? given + x.rank() : given); axis < x.rank(); ++axis) {
    walk.fix(x.axes[static_cast<std::size_t>(axis)],
             "it normalizes over these channels, so each depends on all");
  }
  for (int i = 1; i < walk.input_count(); ++i) {
    const Track& parameter = walk.in(i);
    if (!parameter.ranked || parameter.rank() > x.rank()) {
      walk.fix_all(kUnknownRank);
      return;
    }
    for (int axis = 0; axis < parameter.rank(); ++axis) {
      const Axis& own = parameter.axes[static_cast<std::size_t>(axis)];
      const Axis& other = x.axes[static_cast<std::size_t>(axis + x.rank() - parameter.rank())];
      if (own.extent != 1 || other.extent == 1) walk.couple(own, other);
    }
  }
  for (int i = 1; i < walk.output_count(); ++i) {
    const Track& statistic = walk.out(i);
    if (walk.wants(i)) walk.fix_all(statistic, "its statistics are read");
    if (walk.wants(i)) walk.fix_all(x, "its statistics are read");
  }
}

void fix_axes(Walk& walk, const std::vector<std::int64_t>& axes, std::string_view why) {
  const Track& x = walk.in(0);
  same_axes(walk, x, walk.out(0));
  for (const std::int64_t given : axes) {
    const std::int64_t axis = given < 0 ? given + x.rank() : given;
    if (axis < 0 || axis >= x.rank()) {
      walk.fix_all(x, "its axis is out of range");
      return;
    }
    walk.fix(x.axes[static_cast<std::size_t>(axis)], why);
  }
}

void softmax(Walk& walk) {
  constexpr auto kWhy = "its results over these channels sum to 1";
  const Track& x = walk.in(0);
  const bool flattens = walk.version() < 13;
  auto axis = walk.node().get<std::int64_t>("axis", flattens ? 1 : -1);
  if (!flattens) {
    fix_axes(walk, {axis}, kWhy);
    return;
  }
  std::vector<std::int64_t> axes;
  if (axis < 0) axis += x.rank();
  for (; axis >= 0 && axis < x.rank(); ++axis) axes.push_back(axis);
  fix_axes(walk, axes, kWhy);
}

void response_normalization(Walk& walk) {
  fix_axes(walk, {1}, "each channel is divided by its neighbours");
}

void mean_variance_normalization(Walk& walk) {
  fix_axes(walk, walk.node().get<std::vector<std::int64_t>>("axes", {0, 2, 3}),
           "it normalizes over these channels");
}

void norm_along_axis(Walk& walk) {
  fix_axes(walk, {walk.node().get<std::int64_t>("axis", -1)}, "it normalizes over these channels");
}

void cumulative_sum(Walk& walk) {
  const auto axis = walk.integers(1);
  if (!axis || axis->size() != 1) walk.fix_all("its axis is computed");
  else fix_axes(walk, *axis, "each depends on those before");
}

void pool(Walk& walk) {
  const Track& x = walk.in(0);
  const Track& y = walk.out(0);
  if (!x.ranked || !y.ranked || x.rank() < 3 || y.rank() != x.rank() || walk.wants(1)) {
    walk.fix_all(walk.wants(1) ? "indices of maxima count through all channels" : kUnknownRank);
    return;
  }
  walk.couple(x.axes[0], y.axes[0]);
  walk.couple(x.axes[1], y.axes[1]);
  positions(walk, x, 2);
  positions(walk, y, 2);
}

void region_pool(Walk& walk) {
  const Track& x = walk.in(0);
  const Track& y = walk.out(0);
  if (x.rank() != 4 || y.rank() != 4) {
    walk.fix_all(kUnknownRank);
    return;
  }
  walk.couple(x.axes[1], y.axes[1]);
  for (const Track* track : {&x, &y}) {
    walk.fix_quietly(track->axes[0]);
    positions(walk, *track, 2);
  }
  for (int i = 1; i < walk.input_count(); ++i) walk.fix_all(walk.in(i), "regions stay");
}

void reduction(Walk& walk) {
  const Track& x = walk.in(0);
  const Track& y = walk.out(0);
  const std::string& op = walk.node().op_type;
  const bool picks = op == "ArgMax" || op == "ArgMin";
  std::optional<std::vector<std::int64_t>> axes;
  if (picks) {
    axes = {walk.node().get<std::int64_t>("axis", 0)};
  } else if (const Attribute* given = walk.node().find("axes")) {
    if (const auto* many = std::get_if<std::vector<std::int64_t>>(&given->value)) axes = *many;
  } else if (walk.has(1)) {
    axes = walk.integers(1);
    if (!axes) {
      walk.fix_all("its axes are computed");
      return;
    }
  }
  if (!x.ranked || !y.ranked) {
    walk.fix_all(kUnknownRank);
    return;
  }
  if (!axes || axes->empty()) {
    if (walk.node().get<std::int64_t>("noop_with_empty_axes", 0) != 0) {
      same_axes(walk, x, y);
      return;
    }
    axes.emplace();
    for (int axis = 0; axis < x.rank(); ++axis) axes->push_back(axis);
  }
  std::set<int> reduced;
  for (const std::int64_t given : *axes) {
    const std::int64_t axis = given < 0 ? given + x.rank() : given;
    if (axis < 0 || axis >= x.rank()) {
      walk.fix_all("its axes are out of range");
      return;
    }
    reduced.insert(static_cast<int>(axis));
  }
  const bool keeps = walk.node().get<std::int64_t>("keepdims", 1) != 0;
  if (y.rank() != (keeps ? x.rank() : x.rank() - static_cast<int>(reduced.size()))) {
    walk.fix_all(kUnknownRank);
    return;
  }
  // Adding zeros changes nothing; counting or comparing with them does.
  const bool adds =
      op == "ReduceSum" || op == "ReduceL1" || op == "ReduceL2" || op == "ReduceSumSquare";
  int to = 0;
  for (int axis = 0; axis < x.rank(); ++axis) {
    const Axis& own = x.axes[static_cast<std::size_t>(axis)];
    if (!reduced.contains(axis)) {
      walk.couple(own, y.axes[static_cast<std::size_t>(to++)]);
      continue;
    }
    if (keeps) ++to;
    if (adds) walk.contract(0, axis);
    else walk.fix(own, "its result depends on how many there are");
  }
}

void quantization(Walk& walk) {
  const Track& x = walk.in(0);
  same_axes(walk, x, walk.out(0));
  for (const int input : {1, 2}) {
    if (!walk.has(input)) continue;
    const Track& parameter = walk.in(input);
    if (parameter.ranked && parameter.rank() == 0) continue;
    if (parameter.rank() == 1 && parameter.axes[0].extent == 1) continue;
    const auto given = walk.node().get<std::int64_t>("axis", 1);
    const std::int64_t axis = given < 0 ? given + x.rank() : given;
    if (parameter.rank() != 1 || axis < 0 || axis >= x.rank()) {
      walk.fix_all("it has parameters for blocks");
      return;
    }
    walk.couple(parameter.axes[0], x.axes[static_cast<std::size_t>(axis)]);
  }
}

void attention(Walk& walk) {
  constexpr auto kWhy = "only whole heads of four-dimensional inputs can be cut";
  const Track& query = walk.in(0);
  const Track& key = walk.in(1);
  const Track& value = walk.in(2);
  const Track& y = walk.out(0);
  bool fits = query.rank() == 4 && key.rank() == 4 && value.rank() == 4 && y.rank() == 4;
  for (int i = 1; i < walk.output_count(); ++i) fits = fits && !walk.wants(i);
  for (int i = 4; i < walk.input_count(); ++i) fits = fits && !walk.has(i);
  fits = fits && query.axes[1].extent == key.axes[1].extent &&
         query.axes[1].extent == value.axes[1].extent;
  if (!fits) {
    walk.fix_all(kWhy);
    return;
  }
  walk.couple(query.axes[1], key.axes[1]);
  walk.couple(query.axes[1], value.axes[1]);
  walk.couple(query.axes[1], y.axes[1]);
  for (const Track* track : {&query, &key, &value, &y}) {
    walk.fix_quietly(track->axes[0]);
    walk.fix_quietly(track->axes[2]);
    walk.fix(track->axes[3], kWhy);
  }
  if (walk.has(3)) {
    const Track& mask = walk.in(3);
    if (!mask.ranked) {
      walk.fix_all(kWhy);
      return;
    }
    if (mask.rank() >= 3) {
      const Axis& heads = mask.axes[static_cast<std::size_t>(mask.rank() - 3)];
      if (heads.extent != 1) walk.couple(heads, query.axes[1]);
    }
    for (int axis = 0; axis < mask.rank(); ++axis) {
      if (axis != mask.rank() - 3) walk.fix_quietly(mask.axes[static_cast<std::size_t>(axis)]);
    }
  }
}

constexpr NamedRule kRules[] = {
    {"Conv", convolution},
    {"ConvTranspose", convolution},
    {"Gemm", gemm},
    {"MatMul", matmul},
    {"Einsum", einsum},
    {"LSTM", recurrent},
    {"GRU", recurrent},
    {"RNN", recurrent},
    {"Attention", attention},
    {"BatchNormalization", batch_normalization},
    {"InstanceNormalization", instance_normalization},
    {"GroupNormalization", group_normalization},
    {"LayerNormalization", layer_normalization},
    {"RMSNormalization", layer_normalization},
    {"LRN", response_normalization},
    {"LpNormalization", norm_along_axis},
    {"MeanVarianceNormalization", mean_variance_normalization},
    {"Softmax", softmax},
    {"LogSoftmax", softmax},
    {"Hardmax", softmax},
    {"CumSum", cumulative_sum},
    {"MaxPool", pool},
    {"AveragePool", pool},
    {"LpPool", pool},
    {"GlobalAveragePool", pool},
    {"GlobalMaxPool", pool},
    {"GlobalLpPool", pool},
    {"MaxRoiPool", region_pool},
    {"RoiAlign", region_pool},
    {"ArgMax", reduction},
    {"ArgMin", reduction},
    {"ReduceL1", reduction},
    {"ReduceL2", reduction},
    {"ReduceLogSum", reduction},
    {"ReduceLogSumExp", reduction},
    {"ReduceMax", reduction},
    {"ReduceMean", reduction},
    {"ReduceMin", reduction},
    {"ReduceProd", reduction},
    {"ReduceSum", reduction},
    {"ReduceSumSquare", reduction},
    {"QuantizeLinear", quantization},
    {"DequantizeLinear", quantization},
};

}  // namespace

std::span<const NamedRule> layer_rules() { return kRules; }

}  // namespace moptcore::inline v0::graph::channels

// SPDX-License-Identifier: Apache-2.0
#include "graph/channels/coupling.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>
#include <utility>

#include "graph/channels/shapes.hpp"
#include "graph/scope.hpp"

namespace moptcore::inline v0::graph::channels {
namespace {

constexpr auto kWhere = "graph.channel_groups";
constexpr std::int64_t kMostAtoms = std::int64_t{1} << 25;
// Axes beyond are samples and pixels: nobody cuts them, and atoms take memory.
constexpr std::int64_t kLongestAxis = std::int64_t{1} << 22;
constexpr std::int64_t kMostElements = 64;
constexpr std::int64_t kMostFilled = std::int64_t{1} << 30;  // bytes

const Track kNoTrack;

// Operators that compute shapes from shapes, and whose results say no more than their inputs.
bool computes_shapes(std::string_view op) {
  constexpr std::array<std::string_view, 24> kOps = {
      "Add",   "And",     "Cast", "Concat",   "Div",       "Equal", "Gather", "Greater",
      "Less",  "Max",     "Min",  "Mod",      "Mul",       "Not",   "Or",     "ReduceProd",
      "Slice", "Squeeze", "Sub",  "Identity", "Unsqueeze", "Where", "Abs",    "Neg"};
  return std::ranges::find(kOps, op) != kOps.end();
}

}  // namespace

Coupling::Coupling(const Model& model, Plan plan) : model_(&model), plan_(std::move(plan)) {
  const Graph& graph = model.graph;
  const auto types = types_of(model);
  std::vector<Axis> packed;  // and strings
  const auto add = [&](const std::string& name, std::int32_t node) {
    if (name.empty() || ids_.contains(name)) return;
    const auto id = static_cast<std::int32_t>(tracks_.size());
    ids_.emplace(name, id);
    Track track;
    track.name = name;
    track.node = node;
    const auto constant = graph.initializers.find(name);
    if (constant != graph.initializers.end()) {
      track.initializer = true;
      track.ranked = true;
      track.element = constant->second.type();
      for (const std::int64_t extent : constant->second.shape()) {
        track.axes.push_back({-1, extent, {}});
      }
    } else if (const auto type = types.find(name);
               type != types.end() && type->second->kind == ValueType::Kind::tensor) {
      track.element = type->second->element;
      if (type->second->dimensions.has_value()) {
        track.ranked = true;
        for (const Dimension& dimension : *type->second->dimensions) {
          track.axes.push_back({-1, dimension.value, dimension.symbol});
        }
      }
    }
    for (Axis& axis : track.axes) {
      if (axis.extent > 0 && axis.extent <= kLongestAxis) axis.first = new_atoms(axis.extent);
      if (axis.has_atoms() && bit_width(track.element) < 8) packed.push_back(axis);
    }
    tracks_.push_back(std::move(track));
  };
  for (const ValueInfo& input : graph.inputs) add(input.name, -1);
  for (const auto& [name, tensor] : graph.initializers) add(name, -1);
  for (std::size_t i = 0; i < graph.nodes.size(); ++i) {
    for (const std::string& name : graph.nodes[i].outputs) add(name, static_cast<std::int32_t>(i));
  }

  for (const auto& [name, tensor] : graph.initializers) {
    const auto values = integers_of(tensor);
    if (!values || static_cast<std::int64_t>(values->size()) > kMostElements) continue;
    std::vector<Element>& elements = elements_[name];
    for (const std::int64_t value : *values) elements.push_back({value, {}});
  }

  for (const Axis& axis : packed) {
    for (std::int64_t i = 0; i < axis.extent; ++i) {
      fix(axis.first + static_cast<std::int32_t>(i),
          reason_id("its elements are packed, strings or of no known type"));
    }
  }
  const auto fix_track = [&](std::string_view name, const std::string& why) {
    const std::int32_t id = find_track(name);
    if (id < 0) return;
    for (const Axis& axis : tracks_[static_cast<std::size_t>(id)].axes) {
      if (!axis.has_atoms()) continue;
      for (std::int64_t i = 0; i < axis.extent; ++i) {
        fix(axis.first + static_cast<std::int32_t>(i), reason_id(why));
      }
    }
  };
  for (const ValueInfo& input : graph.inputs) {
    if (!graph.initializers.contains(input.name)) {
      fix_track(input.name, "it is an input of the model (" + input.name + ")");
    }
  }
  for (std::size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& node = graph.nodes[i];
    for_each_subgraph(node, [&](const Graph& body) {
      for (const std::string& name : names_captured(body)) {
        fix_track(name, "a subgraph of " + node.op_type + " reads it");
      }
    });
    Walk walk(*this, static_cast<std::int32_t>(i));
    const Rule rule = node.domain.empty() ? find_rule(node.op_type) : nullptr;
    if (rule == nullptr) {
      walk.fix_all("moptcore does not follow channels through it");
    } else {
      rule(walk);
    }
    // Extents that are computed with.
    std::set<std::pair<std::int32_t, int>> taint;
    for (int input = 0; input < walk.input_count(); ++input) {
      if (walk.handled().contains(input)) continue;
      const auto found = taints_.find(node.inputs[static_cast<std::size_t>(input)]);
      if (found != taints_.end()) taint.insert(found->second.begin(), found->second.end());
    }
    if (node.op_type == "Shape" || node.op_type == "Size") {
      taint.clear();
      const std::int32_t id = walk.has(0) ? find_track(node.inputs[0]) : -1;
      for (int axis = 0; id >= 0 && axis < tracks_[static_cast<std::size_t>(id)].rank(); ++axis) {
        taint.emplace(id, axis);
      }
    } else if (!taint.empty() && !(node.domain.empty() && computes_shapes(node.op_type))) {
      for (const auto& [id, number] : taint) {
        walk.fix(tracks_[static_cast<std::size_t>(id)].axes[static_cast<std::size_t>(number)],
                 "it computes with its extent");
      }
      taint.clear();
    }
    const auto elements = shape_elements(*this, walk);
    for (const std::string& name : node.outputs) {
      if (name.empty()) continue;
      if (elements.has_value() && &name == &node.outputs.front()) {
        std::set<std::pair<std::int32_t, int>> exact;
        for (const Element& element : *elements) {
          exact.insert(element.extents.begin(), element.extents.end());
        }
        elements_[name] = *elements;
        if (!exact.empty()) taints_[name] = std::move(exact);
      } else if (!taint.empty()) {
        taints_[name] = taint;
      }
    }
  }
  for (const ValueInfo& output : graph.outputs) {
    fix_track(output.name, "it is an output of the model (" + output.name + ")");
    const auto found = taints_.find(output.name);
    if (found == taints_.end()) continue;
    for (const auto& [id, number] : found->second) {
      const Axis& axis =
          tracks_[static_cast<std::size_t>(id)].axes[static_cast<std::size_t>(number)];
      for (std::int64_t i = 0; axis.has_atoms() && i < axis.extent; ++i) {
        fix(axis.first + static_cast<std::int32_t>(i),
            reason_id("an output of the model is computed from its extent"));
      }
    }
  }
}

std::int32_t Coupling::find_track(std::string_view name) const {
  const auto found = ids_.find(std::string(name));
  return found == ids_.end() ? -1 : found->second;
}

std::int32_t Coupling::new_atoms(std::int64_t count) {
  check<UnsupportedError>(static_cast<std::int64_t>(parent_.size()) + count <= kMostAtoms, kWhere,
                          "the axes of all values must have at most 2^25 indices in all",
                          static_cast<std::int64_t>(parent_.size()) + count);
  const auto first = static_cast<std::int32_t>(parent_.size());
  const std::size_t size = parent_.size() + static_cast<std::size_t>(count);
  parent_.resize(size);
  std::iota(parent_.begin() + first, parent_.end(), first);
  reason_.resize(size, -1);
  quiet_.resize(size, false);
  return first;
}

std::int32_t Coupling::root(std::int32_t atom) const {
  while (parent_[static_cast<std::size_t>(atom)] != atom) {
    std::int32_t& parent = parent_[static_cast<std::size_t>(atom)];
    parent = parent_[static_cast<std::size_t>(parent)];
    atom = parent;
  }
  return atom;
}

void Coupling::unite(std::int32_t a, std::int32_t b) {
  a = root(a);
  b = root(b);
  if (a == b) return;
  // The least atom stands for all, so that the order of unions changes nothing.
  if (b < a) std::swap(a, b);
  parent_[static_cast<std::size_t>(b)] = a;
  if (reason_[static_cast<std::size_t>(a)] < 0) {
    reason_[static_cast<std::size_t>(a)] = reason_[static_cast<std::size_t>(b)];
  }
  if (quiet_[static_cast<std::size_t>(b)]) quiet_[static_cast<std::size_t>(a)] = true;
}

void Coupling::fix(std::int32_t atom, std::int32_t reason) {
  std::int32_t& of_root = reason_[static_cast<std::size_t>(root(atom))];
  if (of_root < 0) of_root = reason;
}

std::int32_t Coupling::reason_id(const std::string& text) {
  const auto [place, fresh] = reason_ids_.emplace(text, static_cast<std::int32_t>(reasons_.size()));
  if (fresh) reasons_.push_back(text);
  return place->second;
}

std::string Coupling::reason(std::int32_t atom) const {
  const std::int32_t id = reason_[static_cast<std::size_t>(root(atom))];
  return id < 0 ? std::string() : reasons_[static_cast<std::size_t>(id)];
}

const std::vector<Element>* Coupling::elements(std::string_view name) const {
  const auto found = elements_.find(std::string(name));
  return found == elements_.end() ? nullptr : &found->second;
}

std::optional<std::vector<std::int64_t>> Coupling::integers(std::string_view name) const {
  const auto constant = model_->graph.initializers.find(name);
  if (constant != model_->graph.initializers.end()) return integers_of(constant->second);
  const std::vector<Element>* known = elements(name);
  if (known == nullptr) return std::nullopt;
  std::vector<std::int64_t> values;
  for (const Element& element : *known) {
    if (!element.value) return std::nullopt;
    values.push_back(*element.value);
  }
  return values;
}

Walk::Walk(Coupling& all, std::int32_t index)
    : all_(&all), index_(index), node_(&all.model_->graph.nodes[static_cast<std::size_t>(index)]) {
  const auto found = all.model_->opsets.find(node_->domain);
  version_ = found == all.model_->opsets.end() ? 0 : found->second;
}

std::string Walk::described() const {
  return node_->name.empty() ? node_->op_type + " that writes " +
                                   (node_->outputs.empty() ? "nothing" : node_->outputs.front())
                             : node_->op_type + " " + node_->name;
}

const Track& Walk::in(int input) const {
  if (!has(input)) return kNoTrack;
  const std::int32_t id = all_->find_track(node_->inputs[static_cast<std::size_t>(input)]);
  return id < 0 ? kNoTrack : all_->tracks_[static_cast<std::size_t>(id)];
}

const Track& Walk::out(int output) const {
  if (!wants(output)) return kNoTrack;
  const std::int32_t id = all_->find_track(node_->outputs[static_cast<std::size_t>(output)]);
  return id < 0 ? kNoTrack : all_->tracks_[static_cast<std::size_t>(id)];
}

std::optional<std::vector<std::int64_t>> Walk::integers(int input) const {
  if (!has(input)) return std::nullopt;
  return all_->integers(node_->inputs[static_cast<std::size_t>(input)]);
}

const std::vector<Element>* Walk::elements(int input) const {
  return has(input) ? all_->elements(node_->inputs[static_cast<std::size_t>(input)]) : nullptr;
}

void Walk::couple(const Axis& a, const Axis& b) {
  if (a.extent != b.extent || a.has_atoms() != b.has_atoms()) {
    fix(a, "extents are not known to be equal");
    fix(b, "extents are not known to be equal");
    return;
  }
  couple(a, 0, b, 0, a.extent);
}

void Walk::couple(const Axis& a, std::int64_t a_from, const Axis& b, std::int64_t b_from,
                  std::int64_t count) {
  if (!a.has_atoms() || !b.has_atoms() || a_from < 0 || b_from < 0 || count < 0 ||
      count > a.extent - a_from || count > b.extent - b_from) {
    fix(a, "its ranges do not fit");
    fix(b, "its ranges do not fit");
    return;
  }
  for (std::int64_t i = 0; i < count; ++i) {
    all_->unite(a.first + static_cast<std::int32_t>(a_from + i),
                b.first + static_cast<std::int32_t>(b_from + i));
  }
}

void Walk::couple_index(const Axis& a, std::int64_t i, const Axis& b, std::int64_t j) {
  couple(a, i, b, j, 1);
}

void Walk::fix(const Axis& axis, std::string_view why) { fix_range(axis, 0, axis.extent, why); }

void Walk::fix_range(const Axis& axis, std::int64_t from, std::int64_t count,
                     std::string_view why) {
  if (!axis.has_atoms()) return;
  const std::int32_t reason = all_->reason_id(described() + ": " + std::string(why));
  for (std::int64_t i = from; i < from + count; ++i) {
    all_->fix(axis.first + static_cast<std::int32_t>(i), reason);
  }
}

void Walk::fix_quietly(const Axis& axis) {
  if (!axis.has_atoms()) return;
  fix(axis, "no channels, but positions");
  for (std::int64_t i = 0; i < axis.extent; ++i) {
    all_->quiet_[static_cast<std::size_t>(all_->root(axis.first + static_cast<std::int32_t>(i)))] =
        true;
  }
}

void Walk::fix_all(const Track& track, std::string_view why) {
  for (const Axis& axis : track.axes) fix(axis, why);
}

void Walk::fix_all(std::string_view why) {
  for (int i = 0; i < input_count(); ++i) fix_all(in(i), why);
  for (int i = 0; i < output_count(); ++i) fix_all(out(i), why);
}

void Walk::contract(int input, int axis) { all_->contractions_.push_back({index_, input, axis}); }

std::optional<int> Walk::grouped(std::int64_t groups) {
  const std::size_t number = all_->decisions_.size();
  Decision decision;
  decision.extents = {groups, groups};
  decision.atoms = {-1, -1};
  decision.convolution = index_;
  const auto other = all_->plan_.taken.find(number);
  decision.taken = other == all_->plan_.taken.end() ? 0 : other->second;
  all_->decisions_.push_back(decision);
  if (all_->plan_.open) return std::nullopt;
  return decision.taken;
}

void Walk::couple_factors(const Axis& axis, const std::vector<Factor>& factors) {
  if (!axis.has_atoms()) return;
  std::vector<Factor> parts;
  for (const Factor& factor : factors) {
    if (factor.extent != 1) parts.push_back(factor);
  }
  if (parts.empty()) return;
  const auto as_axis = [](const Factor& factor) { return Axis{factor.first, factor.extent, {}}; };
  if (parts.size() == 1) {
    if (parts[0].first < 0) fix(axis, "its parts are not known");
    else couple(axis, as_axis(parts[0]));
    return;
  }
  const std::size_t number = all_->decisions_.size();
  Decision decision;
  for (const Factor& part : parts) {
    decision.atoms.push_back(part.first);
    decision.extents.push_back(part.extent);
  }
  const auto usable = [&](std::size_t candidate) {
    const Factor& part = parts[candidate];
    if (part.first < 0) return false;
    const auto& fixed = all_->plan_.fixed;
    if (number < fixed.size() && candidate < fixed[number].size() && fixed[number][candidate]) {
      return false;
    }
    for (std::int64_t i = 0; i < part.extent; ++i) {
      if (!all_->is_fixed(part.first + static_cast<std::int32_t>(i))) return true;
    }
    return false;
  };
  const auto other = all_->plan_.taken.find(number);
  if (other != all_->plan_.taken.end()) {
    decision.taken = other->second;
  } else {
    for (std::size_t candidate = 0; candidate < parts.size() && decision.taken < 0; ++candidate) {
      if (usable(candidate)) decision.taken = static_cast<int>(candidate);
    }
  }
  all_->decisions_.push_back(decision);
  if (all_->plan_.open) return;
  constexpr auto kWhy = "another factor of the axis is cut, and only one can be";
  std::int64_t inner = 1;
  for (std::size_t i = parts.size(); i-- > 0;) {
    if (static_cast<int>(i) != decision.taken) {
      if (parts[i].first >= 0) fix(as_axis(parts[i]), kWhy);
      inner *= parts[i].extent;
      continue;
    }
    for (std::int64_t j = 0; j < axis.extent; ++j) {
      couple_index(axis, j, as_axis(parts[i]), j / inner % parts[i].extent);
    }
    break;
  }
  // The loop above stops at the factor taken, to know what lies inside of it.
  for (std::size_t i = 0; static_cast<int>(i) < decision.taken; ++i) {
    if (parts[i].first >= 0) fix(as_axis(parts[i]), kWhy);
  }
  if (decision.taken < 0) fix(axis, "none of its factors can be cut");
}

void Walk::refine(const Track& a, const Track& b) {
  if (!a.ranked || !b.ranked) {
    fix_all(a, "the shape on the other side is not known");
    fix_all(b, "the shape on the other side is not known");
    return;
  }
  const std::array<const Track*, 2> sides = {&a, &b};
  for (const Track* side : sides) {
    for (const Axis& axis : side->axes) {
      if (axis.extent == 0) {
        fix_all(a, "it is empty");
        fix_all(b, "it is empty");
        return;
      }
    }
  }
  for (const Track* side : sides) {
    for (const Axis& axis : side->axes) {
      if (axis.extent == 1) fix_quietly(axis);
    }
  }
  // Factors of each axis, peeled from the front and from the back: what two row-major shapes have
  // in common there is common whatever lies between.
  std::array<std::vector<std::vector<Factor>>, 2> front;
  std::array<std::vector<std::vector<Factor>>, 2> back;
  std::array<std::vector<std::int64_t>, 2> rest;
  std::array<int, 2> first = {0, 0};
  std::array<int, 2> last{};
  for (std::size_t s = 0; s < 2; ++s) {
    front[s].resize(sides[s]->axes.size());
    back[s].resize(sides[s]->axes.size());
    for (const Axis& axis : sides[s]->axes) rest[s].push_back(axis.extent);
    last[s] = sides[s]->rank() - 1;
  }
  const auto peel = [&](std::array<int, 2>& at, int step,
                        std::array<std::vector<std::vector<Factor>>, 2>& into) {
    const auto ended = [&](std::size_t s) { return at[s] > last[s] || at[s] < first[s]; };
    // Both ends of the range move with the side that is peeled.
    for (;;) {
      for (std::size_t s = 0; s < 2; ++s) {
        while (!ended(s) && rest[s][static_cast<std::size_t>(at[s])] == 1) at[s] += step;
      }
      if (ended(0) || ended(1)) return;
      std::int64_t& x = rest[0][static_cast<std::size_t>(at[0])];
      std::int64_t& y = rest[1][static_cast<std::size_t>(at[1])];
      if (x < 0 || y < 0) {
        const std::string& name = a.axes[static_cast<std::size_t>(at[0])].symbol;
        const bool same = x < 0 && y < 0 && !name.empty() &&
                          name == b.axes[static_cast<std::size_t>(at[1])].symbol;
        if (!same) return;
        x = y = 1;
        continue;
      }
      const std::int64_t common = x % y == 0 ? y : y % x == 0 ? x : 0;
      if (common == 0) return;
      const Factor factor{common <= kLongestAxis ? all_->new_atoms(common) : -1, common};
      into[0][static_cast<std::size_t>(at[0])].push_back(factor);
      into[1][static_cast<std::size_t>(at[1])].push_back(factor);
      x /= common;
      y /= common;
    }
  };
  std::array<int, 2> at = first;
  peel(at, 1, front);
  first = {std::max(at[0], 0), std::max(at[1], 0)};
  at = last;
  if (first[0] <= last[0] && first[1] <= last[1]) peel(at, -1, back);
  for (std::size_t s = 0; s < 2; ++s) {
    for (std::size_t axis = 0; axis < sides[s]->axes.size(); ++axis) {
      std::vector<Factor> factors = front[s][axis];
      if (rest[s][axis] > 1) factors.push_back({-1, rest[s][axis]});
      factors.insert(factors.end(), back[s][axis].rbegin(), back[s][axis].rend());
      couple_factors(sides[s]->axes[axis], factors);
    }
  }
}

Model prepared(Model model) {
  inline_functions(model);
  Graph& graph = model.graph;
  sort_nodes(graph);
  std::vector<Node> nodes;
  std::int64_t filled = 0;
  for (Node& node : graph.nodes) {
    std::optional<Tensor> constant;
    if (node.domain.empty() && node.outputs.size() == 1 && !node.outputs[0].empty()) {
      if (node.op_type == "Constant") {
        constant = constant_of(node);
      } else if (node.op_type == "ConstantOfShape" && node.inputs.size() == 1) {
        const auto shape = graph.initializers.find(node.inputs[0]);
        if (shape != graph.initializers.end()) {
          constant = filled_of(node, shape->second, kMostFilled - filled);
          if (constant) filled += constant->bytes();
        }
      }
    }
    if (constant && !graph.initializers.contains(node.outputs[0])) {
      graph.initializers.emplace(node.outputs[0], std::move(*constant));
    } else {
      nodes.push_back(std::move(node));
    }
  }
  graph.nodes = std::move(nodes);
  // Old files list all weights as inputs, and need not do so any more.
  model.ir_version = std::max<std::int64_t>(model.ir_version, 4);
  infer_with_constants(model);
  return model;
}

namespace {

// How many elements of weights can be cut at all: what the choice between decisions is about.
double cuttable(const Coupling& all) {
  double sum = 0;
  for (const Track& track : all.tracks()) {
    if (!track.initializer || bit_width(track.element) == 0) continue;
    double size = 1;
    for (const Axis& axis : track.axes) size *= static_cast<double>(axis.extent);
    for (const Axis& axis : track.axes) {
      if (!axis.has_atoms()) continue;
      std::set<std::int32_t> roots;
      std::int64_t free = 0;
      for (std::int64_t i = 0; i < axis.extent; ++i) {
        const std::int32_t atom = axis.first + static_cast<std::int32_t>(i);
        if (all.is_fixed(atom)) continue;
        ++free;
        if (roots.size() < 2) roots.insert(all.root(atom));
      }
      if (roots.size() >= 2) {
        sum += size * static_cast<double>(free) / static_cast<double>(axis.extent);
      }
    }
  }
  return sum;
}

// True where what a decision takes cannot be cut after all.
std::vector<std::size_t> failed(const Coupling& all, const Model& model) {
  std::vector<std::size_t> numbers;
  for (std::size_t number = 0; number < all.decisions().size(); ++number) {
    const Decision& decision = all.decisions()[number];
    std::int32_t first = -1;
    std::int64_t extent = 0;
    if (decision.convolution >= 0) {
      // Without atoms of its own: those of the weight tell.
      const Node& node = model.graph.nodes[static_cast<std::size_t>(decision.convolution)];
      const std::int32_t id = all.find_track(node.inputs[1]);
      const Axis& rows = all.tracks()[static_cast<std::size_t>(id)].axes[0];
      first = rows.first;
      extent = rows.extent;
    } else if (decision.taken >= 0) {
      first = decision.atoms[static_cast<std::size_t>(decision.taken)];
      extent = decision.extents[static_cast<std::size_t>(decision.taken)];
    }
    if (first < 0) continue;
    std::set<std::int32_t> roots;
    for (std::int64_t i = 0; i < extent && roots.size() < 2; ++i) {
      const std::int32_t atom = first + static_cast<std::int32_t>(i);
      if (!all.is_fixed(atom)) roots.insert(all.root(atom));
    }
    if (roots.size() < 2) numbers.push_back(number);
  }
  return numbers;
}

}  // namespace

Coupling coupled(const Model& model) {
  Plan plan;
  {
    plan.open = true;
    const Coupling open(model, plan);
    plan.open = false;
    for (const Decision& decision : open.decisions()) {
      std::vector<bool>& fixed = plan.fixed.emplace_back();
      for (std::size_t i = 0; i < decision.atoms.size(); ++i) {
        bool all = decision.atoms[i] >= 0;
        for (std::int64_t j = 0; all && j < decision.extents[i]; ++j) {
          all = open.is_fixed(decision.atoms[i] + static_cast<std::int32_t>(j));
        }
        fixed.push_back(all);
      }
    }
  }
  Coupling best(model, plan);
  if (best.decisions().empty()) return best;
  double most = cuttable(best);
  constexpr int kTries = 3;
  constexpr int kWalks = 12;
  for (int i = 0, walks = 0; i < kTries && walks < kWalks; ++i, ++walks) {
    const std::vector<std::size_t> numbers = failed(best, model);
    if (numbers.empty()) break;
    Plan other = plan;
    for (const std::size_t number : numbers) {
      const Decision& decision = best.decisions()[number];
      const auto count = static_cast<int>(decision.atoms.size());
      other.taken[number] = (decision.taken + 1 + i) % count;
    }
    Coupling candidate(model, other);
    const double cut = cuttable(candidate);
    if (cut <= most) continue;
    most = cut;
    best = std::move(candidate);
    plan = std::move(other);
    i = -1;
  }
  return best;
}

}  // namespace moptcore::inline v0::graph::channels

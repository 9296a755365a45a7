// SPDX-License-Identifier: Apache-2.0
#include "graph/channels/grouping.hpp"

#include <algorithm>
#include <limits>
#include <set>
#include <unordered_map>
#include <utility>

namespace moptcore::inline v0::graph::channels {
namespace {

// Tensors that channels are cut for: what is learned, not indices, shapes and conditions.
bool is_weight(const Track& track) {
  if (!track.initializer || track.axes.empty()) return false;
  switch (track.element) {
    case ElementType::float32:
    case ElementType::float64:
    case ElementType::float16:
    case ElementType::bfloat16:
    case ElementType::int8:
    case ElementType::uint8: return true;
    default: return false;
  }
}

std::uint64_t mixed(std::uint64_t value) {
  value += 0x9E3779B97F4A7C15U;
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9U;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBU;
  return value ^ (value >> 31);
}

// Tracks in the order in which a reader of the model meets them.
std::vector<std::int32_t> reading_order(const Coupling& all, std::vector<std::int32_t>& reader) {
  const Graph& graph = all.model().graph;
  reader.assign(all.tracks().size(), -1);
  std::vector<std::int32_t> weights;
  std::vector<std::int32_t> values;
  for (std::size_t i = 0; i < graph.nodes.size(); ++i) {
    for (const std::string& name : graph.nodes[i].inputs) {
      const std::int32_t id = name.empty() ? -1 : all.find_track(name);
      if (id < 0 || reader[static_cast<std::size_t>(id)] >= 0) continue;
      reader[static_cast<std::size_t>(id)] = static_cast<std::int32_t>(i);
      if (all.tracks()[static_cast<std::size_t>(id)].initializer) weights.push_back(id);
    }
  }
  for (std::size_t id = 0; id < all.tracks().size(); ++id) {
    if (!all.tracks()[id].initializer) values.push_back(static_cast<std::int32_t>(id));
    else if (reader[id] < 0) weights.push_back(static_cast<std::int32_t>(id));
  }
  weights.insert(weights.end(), values.begin(), values.end());
  return weights;
}

}  // namespace

std::vector<Unified> grouped(const Coupling& all) {
  const auto atoms = static_cast<std::size_t>(all.atom_count());
  std::vector<bool> weighty(atoms, false);
  std::vector<std::int32_t> reader;
  const std::vector<std::int32_t> order = reading_order(all, reader);
  for (std::size_t id = 0; id < all.tracks().size(); ++id) {
    const Track& track = all.tracks()[id];
    if (!is_weight(track) || reader[id] < 0) continue;
    for (const Axis& axis : track.axes) {
      if (axis.extent == 1) continue;  // most are there to be repeated
      for (std::int64_t i = 0; axis.has_atoms() && i < axis.extent; ++i) {
        const std::int32_t root = all.root(axis.first + static_cast<std::int32_t>(i));
        if (!all.is_quiet(root)) weighty[static_cast<std::size_t>(root)] = true;
      }
    }
  }
  // Units with the same number of indices on the same axes are a group.
  std::vector<std::uint64_t> signature(atoms, 0);
  struct Place {
    std::int32_t track;
    int axis;
  };
  std::vector<Place> places;
  for (const std::int32_t id : order) {
    const Track& track = all.tracks()[static_cast<std::size_t>(id)];
    for (int number = 0; number < track.rank(); ++number) {
      const Axis& axis = track.axes[static_cast<std::size_t>(number)];
      bool met = false;
      const std::uint64_t place = mixed(places.size());
      for (std::int64_t i = 0; axis.has_atoms() && i < axis.extent; ++i) {
        const auto root =
            static_cast<std::size_t>(all.root(axis.first + static_cast<std::int32_t>(i)));
        if (!weighty[root]) continue;
        signature[root] += place;
        met = true;
      }
      if (met) places.push_back({id, number});
    }
  }
  std::map<std::pair<std::uint64_t, bool>, std::size_t> numbers;
  std::vector<Unified> groups;
  std::vector<std::int32_t> group_of(atoms, -1);
  std::vector<std::int32_t> unit_of(atoms, -1);
  for (const Place& place : places) {
    const Track& track = all.tracks()[static_cast<std::size_t>(place.track)];
    const Axis& axis = track.axes[static_cast<std::size_t>(place.axis)];
    std::map<std::int32_t, std::vector<std::vector<std::int64_t>>> found;  // by group and unit
    for (std::int64_t i = 0; i < axis.extent; ++i) {
      const std::int32_t root = all.root(axis.first + static_cast<std::int32_t>(i));
      const auto at = static_cast<std::size_t>(root);
      if (!weighty[at]) continue;
      if (group_of[at] < 0) {
        const auto key = std::pair(signature[at], all.is_fixed(root));
        const auto [number, fresh] = numbers.emplace(key, groups.size());
        if (fresh) {
          Unified& group = groups.emplace_back();
          group.group.fixed = all.is_fixed(root);
          group.group.reason = all.reason(root);
        }
        Unified& group = groups[number->second];
        group_of[at] = static_cast<std::int32_t>(number->second);
        unit_of[at] = static_cast<std::int32_t>(group.roots.size());
        group.roots.push_back(root);
      }
      auto& units = found[group_of[at]];
      const auto unit = static_cast<std::size_t>(unit_of[at]);
      if (units.size() <= unit) units.resize(unit + 1);
      units[unit].push_back(i);
    }
    for (auto& [number, units] : found) {
      ChannelMember member;
      const std::int32_t node =
          track.initializer ? reader[static_cast<std::size_t>(place.track)] : track.node;
      if (node >= 0) {
        const Node& owner = all.model().graph.nodes[static_cast<std::size_t>(node)];
        member.node = owner.name.empty() ? owner.op_type : owner.name;
      }
      member.tensor = track.name;
      member.axis = place.axis;
      member.initializer = track.initializer;
      member.block = static_cast<std::int64_t>(units.front().size());
      member.offset = std::numeric_limits<std::int64_t>::max();
      for (const auto& unit : units) {
        member.indices.insert(member.indices.end(), unit.begin(), unit.end());
        member.offset = std::min(member.offset, unit.front());
      }
      groups[static_cast<std::size_t>(number)].group.members.push_back(std::move(member));
    }
  }
  std::set<std::string> names;
  for (Unified& unified : groups) {
    ChannelGroup& group = unified.group;
    const ChannelMember& lead = group.members.front();
    group.unit = lead.block;
    group.extent = static_cast<std::int64_t>(lead.indices.size());
    group.name = lead.tensor + ":" + std::to_string(lead.axis);
    if (lead.offset != 0) group.name += ":" + std::to_string(lead.offset);
    while (!names.insert(group.name).second) group.name += "'";
    if (!group.fixed && unified.roots.size() == 1) {
      group.fixed = true;
      group.reason = "its channels can only be cut all together";
    }
  }
  return groups;
}

Removed::Removed(const Coupling& all, const std::vector<Unified>& groups, const Recipe& recipe,
                 std::string_view where)
    : all_(&all), gone_(static_cast<std::size_t>(all.atom_count()), false) {
  std::map<std::string_view, const Unified*> by_name;
  for (const Unified& unified : groups) by_name.emplace(unified.group.name, &unified);
  for (const auto& [name, entry] : recipe.groups) {
    const auto found = by_name.find(name);
    check<FormatError>(found != by_name.end(), where,
                       "groups of the recipe must be those of the model", name);
    const Unified& unified = *found->second;
    const auto units = static_cast<std::int64_t>(unified.roots.size());
    check<FormatError>(
        entry.units == units, where,
        "units of " + name + " must be as many as the model has, " + std::to_string(units),
        entry.units);
    check<FormatError>(!entry.kept.empty(), where, "kept units must be one or more", name);
    std::int64_t last = -1;
    std::vector<bool> kept(unified.roots.size(), false);
    for (const std::int64_t unit : entry.kept) {
      check<FormatError>(
          unit > last && unit < units, where,
          "kept units of " + name + " must ascend within [0, " + std::to_string(units) + ")", unit);
      kept[static_cast<std::size_t>(unit)] = true;
      last = unit;
    }
    if (static_cast<std::int64_t>(entry.kept.size()) == units) continue;
    check<FormatError>(!unified.group.fixed, where,
                       name + " must stay whole (" + unified.group.reason + "), kept units",
                       entry.kept.size());
    for (std::size_t unit = 0; unit < kept.size(); ++unit) {
      if (!kept[unit]) gone_[static_cast<std::size_t>(unified.roots[unit])] = true;
    }
  }
}

bool Removed::any(const Axis& axis) const {
  for (std::int64_t i = 0; axis.has_atoms() && i < axis.extent; ++i) {
    if (at(axis, i)) return true;
  }
  return false;
}

std::vector<std::int64_t> Removed::kept(const Axis& axis) const {
  std::vector<std::int64_t> indices;
  for (std::int64_t i = 0; i < axis.extent; ++i) {
    if (!at(axis, i)) indices.push_back(i);
  }
  return indices;
}

std::int64_t Removed::kept_count(const Axis& axis) const {
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < axis.extent; ++i) count += at(axis, i) ? 0 : 1;
  return count;
}

}  // namespace moptcore::inline v0::graph::channels

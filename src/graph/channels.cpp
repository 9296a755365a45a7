// SPDX-License-Identifier: Apache-2.0
#include <moptcore/graph/channels.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <type_traits>
#include <utility>

#include <moptcore/prune/mask.hpp>

#include "graph/channels/grouping.hpp"
#include "graph/channels/masking.hpp"
#include "graph/channels/recipe.hpp"
#include "graph/channels/removal.hpp"

namespace moptcore::inline v0::graph {
namespace {

using channels::Coupling;
using channels::Removed;
using channels::Unified;

std::vector<ChannelGroup> plain(std::vector<Unified> unified) {
  std::vector<ChannelGroup> groups;
  groups.reserve(unified.size());
  for (Unified& each : unified) groups.push_back(std::move(each.group));
  return groups;
}

// Running means and variances, which no norm is about.
std::set<std::string> statistics(const Graph& graph) {
  std::set<std::string> names;
  for (const Node& node : graph.nodes) {
    if (node.op_type != "BatchNormalization") continue;
    for (std::size_t i = 3; i < node.inputs.size(); ++i) names.insert(node.inputs[i]);
  }
  return names;
}

template <class T>
void add_powers(const Tensor& tensor, int axis, double ord, std::vector<double>& sums) {
  using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;
  const T* data = tensor.data<T>();
  std::int64_t outer = 1;
  std::int64_t inner = 1;
  for (int i = 0; i < axis; ++i) outer *= tensor.shape()[i];
  for (int i = axis + 1; i < tensor.rank(); ++i) inner *= tensor.shape()[i];
  const std::int64_t extent = tensor.shape()[axis];
  for (std::int64_t i = 0; i < outer; ++i) {
    for (std::int64_t j = 0; j < extent; ++j) {
      double& sum = sums[static_cast<std::size_t>(j)];
      for (std::int64_t k = 0; k < inner; ++k, ++data) {
        const double value = std::fabs(static_cast<double>(static_cast<Wide>(*data)));
        if (std::isinf(ord)) sum = std::isnan(value) ? value : std::max(sum, value);
        else if (ord == 2.0) sum += value * value;
        else if (ord == 1.0) sum += value;
        else sum += std::pow(value, ord);
      }
    }
  }
}

ChannelScores scores_of(const Graph& graph, const std::vector<ChannelGroup>& groups, double ord,
                        std::string_view where) {
  check(ord > 0.0, where, "ord must be > 0", ord);
  const std::set<std::string> ignored = statistics(graph);
  ChannelScores scores;
  for (const ChannelGroup& group : groups) {
    if (group.fixed) continue;
    std::vector<double> sums(static_cast<std::size_t>(group.units()), 0.0);
    for (const ChannelMember& member : group.members) {
      if (!member.initializer || ignored.contains(member.tensor)) continue;
      const Tensor& tensor = graph.initializers.find(member.tensor)->second;
      std::vector<double> each(static_cast<std::size_t>(tensor.shape()[member.axis]), 0.0);
      switch (tensor.type()) {
        case ElementType::float32: add_powers<float>(tensor, member.axis, ord, each); break;
        case ElementType::float64: add_powers<double>(tensor, member.axis, ord, each); break;
        case ElementType::float16: add_powers<float16>(tensor, member.axis, ord, each); break;
        case ElementType::bfloat16: add_powers<bfloat16>(tensor, member.axis, ord, each); break;
        default: continue;
      }
      for (std::size_t i = 0; i < member.indices.size(); ++i) {
        const double value = each[static_cast<std::size_t>(member.indices[i])];
        check<NonFiniteError>(std::isfinite(value), where, "weights must be finite", member.tensor);
        double& sum = sums[i / static_cast<std::size_t>(member.block)];
        sum = std::isinf(ord) ? std::max(sum, value) : sum + value;
      }
    }
    if (!std::isinf(ord)) {
      for (double& sum : sums) sum = ord == 1.0 ? sum : std::pow(sum, 1.0 / ord);
    }
    scores.emplace(group.name, std::move(sums));
  }
  return scores;
}

// The units in the order in which they go: the least score first, of equal ones the last.
std::vector<std::int64_t> ranked(const std::vector<double>& scores) {
  std::vector<std::int64_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::sort(order, [&](std::int64_t a, std::int64_t b) {
    const double x = scores[static_cast<std::size_t>(a)];
    const double y = scores[static_cast<std::size_t>(b)];
    return x != y ? x < y : a > b;
  });
  return order;
}

// How many of its units a group loses when `wanted` should go.
std::int64_t allowed(const ChannelGroup& group, std::int64_t wanted, const ChannelChoice& choice) {
  const std::int64_t units = group.units();
  std::int64_t kept = std::max(units - wanted, std::min(choice.min_units, units));
  if (group.extent >= choice.multiple_of) {
    while (kept < units && kept * group.unit % choice.multiple_of != 0) ++kept;
  }
  return units - kept;
}

}  // namespace

std::vector<ChannelGroup> channel_groups(const Model& model) {
  const Model ready = channels::prepared(model);
  return plain(channels::grouped(channels::coupled(ready)));
}

ChannelScores channel_scores(const Model& model, double ord) {
  const Model ready = channels::prepared(model);
  const auto groups = plain(channels::grouped(channels::coupled(ready)));
  return scores_of(ready.graph, groups, ord, "graph.channel_scores");
}

std::string fingerprint(const Model& model) {
  return channels::fingerprint_of(channels::prepared(model));
}

Recipe choose_channels(const Model& model, const ChannelChoice& choice) {
  constexpr auto kWhere = "graph.choose_channels";
  const auto is_share = [](double share) { return share >= 0.0 && share < 1.0; };
  check(is_share(choice.sparsity), kWhere, "sparsity must be in [0, 1)", choice.sparsity);
  check(choice.min_units >= 1, kWhere, "min_units must be >= 1", choice.min_units);
  check(choice.multiple_of >= 1, kWhere, "multiple_of must be >= 1", choice.multiple_of);
  const Model ready = channels::prepared(model);
  const auto groups = plain(channels::grouped(channels::coupled(ready)));
  ChannelScores scores = scores_of(ready.graph, groups, choice.ord, kWhere);
  std::map<std::string_view, const ChannelGroup*> by_name;
  for (const ChannelGroup& group : groups) by_name.emplace(group.name, &group);
  for (const auto& [name, share] : choice.shares) {
    const auto found = by_name.find(name);
    check(found != by_name.end(), kWhere, "shares must name groups of the model", name);
    check(is_share(share), kWhere, "the share of " + name + " must be in [0, 1)", share);
    check(!found->second->fixed || share == 0.0, kWhere,
          name + " must stay whole (" + found->second->reason + "), share", share);
  }
  if (choice.scores) {
    for (const auto& [name, values] : *choice.scores) {
      const auto found = by_name.find(name);
      check(found != by_name.end(), kWhere, "scores must name groups of the model", name);
      check(static_cast<std::int64_t>(values.size()) == found->second->units(), kWhere,
            "scores of " + name + " must be as many as units, " +
                std::to_string(found->second->units()),
            values.size());
      for (const double value : values) {
        check<NonFiniteError>(!std::isnan(value), kWhere, "scores must not be NaN", name);
      }
      if (!found->second->fixed) scores[name] = values;
    }
  }

  std::map<std::string_view, std::int64_t> wanted;
  struct Unit {
    double score;
    const ChannelGroup* group;
    std::int64_t number;
  };
  std::vector<Unit> all;
  for (const ChannelGroup& group : groups) {
    if (group.fixed || (choice.take && !choice.take(group))) continue;
    const auto share = choice.shares.find(group.name);
    if (share != choice.shares.end() || choice.scope == ChannelScope::group) {
      const double part = share != choice.shares.end() ? share->second : choice.sparsity;
      wanted[group.name] = prune::zero_count(group.units(), part);
      continue;
    }
    wanted[group.name] = 0;
    const std::vector<double>& own = scores.find(group.name)->second;
    const double mean =
        std::accumulate(own.begin(), own.end(), 0.0) / static_cast<double>(own.size());
    for (std::size_t i = 0; i < own.size(); ++i) {
      const double score = mean > 0.0 && std::isfinite(mean) ? own[i] / mean : own[i];
      all.push_back({score, &group, static_cast<std::int64_t>(i)});
    }
  }
  std::ranges::stable_sort(all, [](const Unit& a, const Unit& b) { return a.score < b.score; });
  std::int64_t left = prune::zero_count(static_cast<std::int64_t>(all.size()), choice.sparsity);
  for (const Unit& unit : all) {
    if (left == 0) break;
    std::int64_t& count = wanted[unit.group->name];
    if (unit.group->units() - count <= choice.min_units) continue;
    ++count;
    --left;
  }

  Recipe recipe;
  recipe.fingerprint = channels::fingerprint_of(ready);
  for (const ChannelGroup& group : groups) {
    const auto found = wanted.find(group.name);
    if (found == wanted.end()) continue;
    const std::int64_t gone = allowed(group, found->second, choice);
    if (gone == 0) continue;
    std::vector<std::int64_t> order = ranked(scores.find(group.name)->second);
    order.erase(order.begin(), order.begin() + gone);
    std::ranges::sort(order);
    recipe.groups[group.name] = {group.units(), std::move(order)};
  }
  return recipe;
}

namespace {

// What a recipe asks for that the model has not.
std::string missing_of(const Recipe& recipe, const std::vector<Unified>& groups) {
  for (const auto& [name, wanted] : recipe.groups) {
    const auto found =
        std::ranges::find(groups, name, [](const Unified& each) { return each.group.name; });
    if (found == groups.end()) return "one with group '" + name + "', which the model lacks";
    if (found->group.units() == wanted.units) continue;
    return "one with " + std::to_string(wanted.units) + " units in group '" + name +
           "', where the model has " + std::to_string(found->group.units());
  }
  return "one with the same groups, but other nodes, attributes or shapes (fingerprint " +
         recipe.fingerprint + ")";
}

template <class F>
Model applied(Model model, const Recipe& recipe, std::string_view where, F&& change) {
  const Model ready = channels::prepared(std::move(model));
  const std::string own = channels::fingerprint_of(ready);
  const Coupling all = channels::coupled(ready);
  const std::vector<Unified> groups = channels::grouped(all);
  if (recipe.fingerprint != own) {
    throw FormatError(error_text(where, "the recipe must be of this model's architecture",
                                 missing_of(recipe, groups)));
  }
  return change(all, Removed(all, groups, recipe, where));
}

}  // namespace

Model remove_channels(Model model, const Recipe& recipe) {
  return applied(std::move(model), recipe, "graph.remove_channels", channels::cut);
}

Model mask_channels(Model model, const Recipe& recipe) {
  return applied(std::move(model), recipe, "graph.mask_channels", channels::masked);
}

}  // namespace moptcore::inline v0::graph

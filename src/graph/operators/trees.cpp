// SPDX-License-Identifier: Apache-2.0
// Ensembles of decision trees.
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <utility>

#include <moptcore/core/parallel.hpp>

#include "graph/operators/families.hpp"
#include "graph/operators/moving.hpp"
#include "graph/operators/scores.hpp"

namespace moptcore::inline v0::graph {
namespace {

using Integers = std::vector<std::int64_t>;
using Strings = std::vector<std::string>;

enum class Rule : std::uint8_t { less_equal, less, greater_equal, greater, equal, unequal, member };

// A child is the index of a branch, or ~index of a leaf.
struct Branch {
  Rule rule = Rule::less_equal;
  bool missing_is_true = false;
  std::int64_t feature = 0;
  double split = 0.0;
  std::int64_t yes = 0;
  std::int64_t no = 0;
  std::vector<double> members = {};  // sorted
};

struct Vote {
  std::int64_t target;
  double weight;
};

struct Forest {
  std::vector<Branch> branches;
  std::vector<std::vector<Vote>> leaves;
  Integers roots;  // children as above
};

bool follows(const Branch& branch, double x) {
  switch (branch.rule) {
    case Rule::less_equal: return x <= branch.split;
    case Rule::less: return x < branch.split;
    case Rule::greater_equal: return x >= branch.split;
    case Rule::greater: return x > branch.split;
    case Rule::equal: return x == branch.split;
    case Rule::unequal: return x != branch.split;
    case Rule::member: return !std::isnan(x) && std::ranges::binary_search(branch.members, x);
  }
  return false;
}

// The leaf that a row falls into. A path longer than there are branches goes in circles.
const std::vector<Vote>& leaf_of(const Call& call, const Forest& forest, std::int64_t at,
                                 const double* row) {
  std::size_t steps = 0;
  while (at >= 0) {
    call.require<FormatError>(steps++ < forest.branches.size(), "trees must not form a cycle, node",
                              at);
    const Branch& branch = forest.branches[at];
    const double x = row[branch.feature];
    const bool yes = (branch.missing_is_true && std::isnan(x)) || follows(branch, x);
    at = yes ? branch.yes : branch.no;
  }
  return forest.leaves[~at];
}

enum class Aggregate : std::uint8_t { average, sum, minimum, maximum };

// Scores of every row, row-major.
Tensor forest_scores(const Call& call, const Forest& forest, const Features& x,
                     std::int64_t targets, Aggregate how) {
  for (const Branch& branch : forest.branches) {
    call.require(branch.feature >= 0 && branch.feature < x.width,
                 "trees must ask for features that the input has, feature", branch.feature);
  }
  double start = 0.0;
  if (how == Aggregate::minimum) start = std::numeric_limits<float>::max();
  if (how == Aggregate::maximum) start = std::numeric_limits<float>::lowest();
  Tensor scores = call.environment().allocate(ElementType::float64, Shape{x.rows, targets});
  auto* all = scores.mutable_data<double>();
  std::fill_n(all, scores.size(), start);
  // A row without features has cost no memory, but takes its turn.
  call.environment().spend(x.rows);
  parallel_for(x.rows, 64, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      double* row = all + i * targets;
      for (const std::int64_t root : forest.roots) {
        for (const Vote& vote : leaf_of(call, forest, root, x.row(i))) {
          double& score = row[vote.target];
          if (how == Aggregate::minimum) score = std::min(score, vote.weight);
          else if (how == Aggregate::maximum) score = std::max(score, vote.weight);
          else score += vote.weight;
        }
      }
      if (how != Aggregate::average) continue;
      for (std::int64_t k = 0; k < targets; ++k) row[k] /= static_cast<double>(forest.roots.size());
    }
  });
  return scores;
}

// The members of each node that tests for them, one list behind the other, each closed by NaN.
void add_members(const Call& call, Forest& forest) {
  std::vector<double> members;
  if (call.node().find("membership_values") != nullptr) {
    members = numbers_of(call, call.required<Tensor>("membership_values"));
  }
  std::size_t at = 0;
  for (Branch& branch : forest.branches) {
    if (branch.rule != Rule::member) continue;
    call.require<FormatError>(
        at < members.size(),
        "membership_values must have a list for each node that tests members, "
        "values",
        members.size());
    while (at < members.size() && !std::isnan(members[at])) branch.members.push_back(members[at++]);
    ++at;
    std::ranges::sort(branch.members);
  }
}

Forest forest_of(const Call& call, std::int64_t targets) {
  Forest forest;
  const std::vector<double> weights = numbers_of(call, call.required<Tensor>("leaf_weights"));
  const auto& leaf_targets = call.required<Integers>("leaf_targetids");
  call.require<FormatError>(leaf_targets.size() == weights.size(),
                            "leaf_targetids must be one for each weight, ids", leaf_targets.size());
  for (std::size_t i = 0; i < weights.size(); ++i) {
    call.require(leaf_targets[i] >= 0 && leaf_targets[i] < targets,
                 "leaf_targetids must be in [0, n_targets)", leaf_targets[i]);
    forest.leaves.push_back({{leaf_targets[i], weights[i]}});
  }
  const Tensor& modes = call.required<Tensor>("nodes_modes");
  call.require<DTypeError>(modes.type() == ElementType::uint8, "nodes_modes must be uint8",
                           name(modes.type()));
  const std::vector<double> splits = numbers_of(call, call.required<Tensor>("nodes_splits"));
  const auto& features = call.required<Integers>("nodes_featureids");
  const auto& yes = call.required<Integers>("nodes_truenodeids");
  const auto& no = call.required<Integers>("nodes_falsenodeids");
  const auto& yes_leaf = call.required<Integers>("nodes_trueleafs");
  const auto& no_leaf = call.required<Integers>("nodes_falseleafs");
  const auto missing = call.attribute<Integers>("nodes_missing_value_tracks_true", {});
  const std::size_t count = features.size();
  call.require<FormatError>(
      static_cast<std::size_t>(modes.size()) == count && splits.size() == count &&
          yes.size() == count && no.size() == count && yes_leaf.size() == count &&
          no_leaf.size() == count && (missing.empty() || missing.size() == count),
      "nodes_* must be equally long, nodes", count);
  const auto child = [&](std::int64_t index, bool leaf) {
    const auto limit = static_cast<std::int64_t>(leaf ? weights.size() : count);
    call.require<FormatError>(index >= 0 && index < limit,
                              "trees must name nodes and leaves that there are, index", index);
    return leaf ? ~index : index;
  };
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint8_t mode = modes.data<std::uint8_t>()[i];
    call.require(mode <= 6, "nodes_modes must be in [0, 6]", static_cast<int>(mode));
    forest.branches.push_back({static_cast<Rule>(mode), !missing.empty() && missing[i] != 0,
                               features[i], splits[i], child(yes[i], yes_leaf[i] != 0),
                               child(no[i], no_leaf[i] != 0)});
  }
  add_members(call, forest);
  for (const std::int64_t root : call.required<Integers>("tree_roots")) {
    forest.roots.push_back(child(root, false));
  }
  return forest;
}

void tree_ensemble(Call& call) {
  const std::int64_t targets = call.attribute<std::int64_t>("n_targets", 1);
  call.require(targets >= 1, "n_targets must be >= 1", targets);
  const std::int64_t aggregate = call.attribute<std::int64_t>("aggregate_function", 1);
  call.require(aggregate >= 0 && aggregate <= 3, "aggregate_function must be in [0, 3]", aggregate);
  const std::int64_t transform = call.attribute<std::int64_t>("post_transform", 0);
  call.require(transform >= 0 && transform <= 4, "post_transform must be in [0, 4]", transform);
  const Forest forest = forest_of(call, targets);
  const Features x = features_of(call);
  const ElementType type = call.input(0).type();
  const Shape shape{x.rows, targets};
  Tensor scores = forest_scores(call, forest, x, targets, static_cast<Aggregate>(aggregate));
  for (std::int64_t i = 0; i < x.rows; ++i) {
    transform_scores(
        static_cast<ScoreTransform>(transform),
        {scores.mutable_data<double>() + i * targets, static_cast<std::size_t>(targets)});
  }
  write_scores(call, 0, type, shape, scores.values<double>());
}

// Trees as the operators before TreeEnsemble describe them: `votes` is "class" or "target".
Forest named_forest(const Call& call, const std::string& votes, std::int64_t targets) {
  static const std::map<std::string, Rule, std::less<>> kRules = {
      {"BRANCH_LEQ", Rule::less_equal},    {"BRANCH_LT", Rule::less},
      {"BRANCH_GTE", Rule::greater_equal}, {"BRANCH_GT", Rule::greater},
      {"BRANCH_EQ", Rule::equal},          {"BRANCH_NEQ", Rule::unequal}};
  const auto& trees = call.required<Integers>("nodes_treeids");
  const auto& ids = call.required<Integers>("nodes_nodeids");
  const auto& modes = call.required<Strings>("nodes_modes");
  const auto& features = call.required<Integers>("nodes_featureids");
  const auto& yes = call.required<Integers>("nodes_truenodeids");
  const auto& no = call.required<Integers>("nodes_falsenodeids");
  const std::vector<double> splits = numbers_of(call, "nodes_values");
  const auto missing = call.attribute<Integers>("nodes_missing_value_tracks_true", {});
  const std::size_t count = trees.size();
  call.require<FormatError>(ids.size() == count && modes.size() == count &&
                                features.size() == count && yes.size() == count &&
                                no.size() == count && splits.size() == count &&
                                (missing.empty() || missing.size() == count),
                            "nodes_* must be equally long, nodes", count);
  Forest forest;
  std::map<std::pair<std::int64_t, std::int64_t>, std::int64_t> places;
  std::set<std::int64_t> seen;
  Integers branch_nodes;
  for (std::size_t i = 0; i < count; ++i) {
    std::int64_t place = 0;
    if (modes[i] == "LEAF") {
      forest.leaves.emplace_back();
      place = ~(static_cast<std::int64_t>(forest.leaves.size()) - 1);
    } else {
      const auto rule = kRules.find(modes[i]);
      call.require(rule != kRules.end(), "nodes_modes must be LEAF or a comparison", modes[i]);
      place = static_cast<std::int64_t>(forest.branches.size());
      forest.branches.push_back({rule->second, !missing.empty() && missing[i] != 0, features[i],
                                 splits[i], yes[i], no[i]});
      branch_nodes.push_back(static_cast<std::int64_t>(i));
    }
    const bool added = places.emplace(std::pair(trees[i], ids[i]), place).second;
    call.require<FormatError>(added, "nodes of a tree must have different ids, id", ids[i]);
    if (seen.insert(trees[i]).second) forest.roots.push_back(place);
  }
  const auto place_of = [&](std::int64_t tree, std::int64_t id) {
    const auto found = places.find({tree, id});
    call.require<FormatError>(found != places.end(), "trees must name nodes that there are, id",
                              id);
    return found->second;
  };
  for (std::size_t i = 0; i < forest.branches.size(); ++i) {
    Branch& branch = forest.branches[i];
    branch.yes = place_of(trees[branch_nodes[i]], branch.yes);
    branch.no = place_of(trees[branch_nodes[i]], branch.no);
  }
  const auto& vote_trees = call.required<Integers>(votes + "_treeids");
  const auto& vote_nodes = call.required<Integers>(votes + "_nodeids");
  const auto& vote_targets = call.required<Integers>(votes + "_ids");
  const std::vector<double> weights = numbers_of(call, votes + "_weights");
  call.require<FormatError>(vote_nodes.size() == vote_trees.size() &&
                                vote_targets.size() == vote_trees.size() &&
                                weights.size() == vote_trees.size(),
                            votes + "_* must be equally long, weights", weights.size());
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const std::int64_t place = place_of(vote_trees[i], vote_nodes[i]);
    call.require<FormatError>(place < 0, "weights must belong to leaves, node", vote_nodes[i]);
    call.require(vote_targets[i] >= 0 && vote_targets[i] < targets,
                 "weights must belong to targets that there are, target", vote_targets[i]);
    forest.leaves[~place].push_back({vote_targets[i], weights[i]});
  }
  return forest;
}

// The same for every row.
std::vector<double> base_values(const Call& call, std::int64_t targets) {
  std::vector<double> base = numbers_of(call, "base_values");
  call.require(base.empty() || static_cast<std::int64_t>(base.size()) == targets,
               "base_values must be one for each target, values", base.size());
  return base;
}

void tree_ensemble_regressor(Call& call) {
  const std::int64_t targets = call.attribute<std::int64_t>("n_targets", 1);
  call.require(targets >= 1, "n_targets must be >= 1", targets);
  const std::string how = call.text("aggregate_function", "SUM");
  Aggregate aggregate = Aggregate::sum;
  if (how == "AVERAGE") aggregate = Aggregate::average;
  else if (how == "MIN") aggregate = Aggregate::minimum;
  else if (how == "MAX") aggregate = Aggregate::maximum;
  else call.require(how == "SUM", "aggregate_function must be AVERAGE, SUM, MIN or MAX", how);
  const ScoreTransform transform = score_transform(call);
  const Forest forest = named_forest(call, "target", targets);
  const std::vector<double> base = base_values(call, targets);
  const Features x = features_of(call);
  const Shape shape{x.rows, targets};
  Tensor scores = forest_scores(call, forest, x, targets, aggregate);
  for (std::int64_t i = 0; i < x.rows; ++i) {
    const std::span<double> row{scores.mutable_data<double>() + i * targets,
                                static_cast<std::size_t>(targets)};
    for (std::size_t k = 0; k < base.size(); ++k) row[k] += base[k];
    transform_scores(transform, row);
  }
  write_scores(call, 0, ElementType::float32, shape, scores.values<double>());
}

void tree_ensemble_classifier(Call& call) {
  const auto names = call.attribute<Strings>("classlabels_strings", {});
  const auto numbers = call.attribute<Integers>("classlabels_int64s", {});
  const auto classes = static_cast<std::int64_t>(std::max(names.size(), numbers.size()));
  call.require(classes >= 1 && (names.empty() || numbers.empty()),
               "classlabels must be strings or int64s, labels", classes);
  const ScoreTransform transform = score_transform(call);
  Forest forest = named_forest(call, "class", classes);
  std::set<std::int64_t> voted;
  for (const auto& leaf : forest.leaves) {
    for (const Vote& vote : leaf) voted.insert(vote.target);
  }
  // Votes for one class only tell how likely the second of two is.
  const bool binary = voted.size() == 1 && classes <= 2;
  if (binary) {
    for (auto& leaf : forest.leaves) {
      for (Vote& vote : leaf) vote.target = 0;
    }
  }
  call.require<UnsupportedError>(classes > 1 || (binary && numbers == Integers{1}),
                                 "a single class must have the label 1, labels", classes);
  const std::vector<double> base = base_values(call, classes);
  const Features x = features_of(call);
  const std::int64_t width = std::max<std::int64_t>(classes, 2);
  Tensor& labels =
      call.output(0, names.empty() ? ElementType::int64 : ElementType::string, Shape{x.rows});
  Tensor scores = forest_scores(call, forest, x, width, Aggregate::sum);
  for (std::int64_t i = 0; i < x.rows; ++i) {
    const std::span<double> row{scores.mutable_data<double>() + i * width,
                                static_cast<std::size_t>(width)};
    for (std::size_t k = 0; k < base.size(); ++k) row[k] += base[k];
    if (binary) {
      row[1] = row[0];
      const bool likelihood =
          transform == ScoreTransform::none || transform == ScoreTransform::probit;
      row[0] = likelihood ? 1.0 - row[1] : -row[1];
    }
    transform_scores(transform, row);
    const std::int64_t best = best_of(row);
    if (!names.empty()) labels.mutable_strings()[i] = names[best];
    else labels.mutable_data<std::int64_t>()[i] = numbers.size() == 1 ? best : numbers[best];
  }
  write_scores(call, 1, ElementType::float32, Shape{x.rows, width}, scores.values<double>());
}

constexpr Operator kOperators[] = {
    {"ai.onnx.ml", "TreeEnsemble", 5, tree_ensemble},
    {"ai.onnx.ml", "TreeEnsembleRegressor", 1, tree_ensemble_regressor},
    {"ai.onnx.ml", "TreeEnsembleClassifier", 1, tree_ensemble_classifier},
};

}  // namespace

std::span<const Operator> trees_operators() noexcept { return kOperators; }

}  // namespace moptcore::inline v0::graph

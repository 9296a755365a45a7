// SPDX-License-Identifier: Apache-2.0
// Channels that have to be cut together, and models without them.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <moptcore/core/export.hpp>
#include <moptcore/graph/model.hpp>

namespace moptcore::inline v0::graph {

/// Where the units of a group lie along one axis of a tensor.
struct ChannelMember {
  std::string node;  ///< that writes the tensor; of an initializer, the first one that reads it
  std::string tensor;
  int axis = 0;
  bool initializer = false;
  std::int64_t offset = 0;            ///< the least of `indices`
  std::int64_t block = 1;             ///< indices of each unit
  std::vector<std::int64_t> indices;  ///< those of unit u begin at u * block
};

/// Channels that can be cut only together, once for each of several units: cutting one unit of a
/// group leaves the others and all other groups as they are.
struct ChannelGroup {
  std::string name;  ///< of the first weight that has them, ":offset" behind where it has more
  std::int64_t extent = 0;             ///< channels of the first member
  std::int64_t unit = 1;               ///< channels of the first member that one unit has
  std::vector<ChannelMember> members;  ///< weights first, in the order of the nodes
  bool fixed = false;                  ///< none of them can be cut
  std::string reason;                  ///< why they are fixed

  [[nodiscard]] std::int64_t units() const noexcept { return unit == 0 ? 0 : extent / unit; }
};

/// The groups that hold weights, in the order of the nodes that read these. What the analysis does
/// not follow is fixed. Needs the types of values that inference finds; functions are looked into.
[[nodiscard]] MOPTCORE_API std::vector<ChannelGroup> channel_groups(const Model& model);

/// For each group a number for each unit, by name of the group.
using ChannelScores = std::map<std::string, std::vector<double>, std::less<>>;

/// The norm of order `ord` (> 0, or infinity: the largest magnitude) of all floating weights of
/// each unit that is not fixed, without the running statistics of normalizations. Throws
/// NonFiniteError for weights that are NaN or infinite.
[[nodiscard]] MOPTCORE_API ChannelScores channel_scores(const Model& model, double ord = 2.0);

/// 128 bits of hash, in hexadecimal, of operators, attributes, connections and shapes: equal for
/// models that differ in weights and in the names of values only.
[[nodiscard]] MOPTCORE_API std::string fingerprint(const Model& model);

/// Which units of each group stay, and of which architecture.
struct MOPTCORE_API Recipe {
  struct Group {
    std::int64_t units = 0;          ///< that the group had
    std::vector<std::int64_t> kept;  ///< in ascending order, at least one
    friend bool operator==(const Group&, const Group&) = default;
  };

  std::string fingerprint;
  std::map<std::string, Group, std::less<>> groups;  ///< groups that are not named stay whole

  [[nodiscard]] std::string to_json() const;
  /// Throws FormatError that names the place for text that is no recipe.
  [[nodiscard]] static Recipe from_json(std::string_view json);
  friend bool operator==(const Recipe&, const Recipe&) = default;
};

enum class ChannelScope : std::uint8_t {
  group,   ///< each group loses its share
  global,  ///< all units are ranked together, each by its score over the mean of its group
};

struct ChannelChoice {
  double sparsity = 0.5;  ///< share of the units to cut, in [0, 1)
  ChannelScope scope = ChannelScope::group;
  double ord = 2.0;
  std::optional<ChannelScores> scores;  ///< instead of norms; groups without any take norms
  std::int64_t min_units = 1;           ///< that every group keeps, >= 1
  std::int64_t multiple_of = 1;  ///< >= 1: channels that stay in a group, where it has so many
  std::map<std::string, double, std::less<>> shares;  ///< of single groups, instead of `sparsity`
  std::function<bool(const ChannelGroup&)> take;      ///< groups that may be cut; none: all
};

/// Cuts the zero_count(units, sparsity) units of least score; of equal ones the first stay. Throws
/// Error for what is out of range and for names of groups that the model does not have.
[[nodiscard]] MOPTCORE_API Recipe choose_channels(const Model& model,
                                                  const ChannelChoice& choice = {});

/// The model without the units that the recipe does not keep: smaller weights, and attributes and
/// constants that fit them. Functions are written out in nodes. Throws FormatError for a recipe of
/// another architecture, or one that names no group that can be cut.
[[nodiscard]] MOPTCORE_API Model remove_channels(Model model, const Recipe& recipe);

/// The model in its old shapes, in which the same units are 0: the weights and biases that produce
/// them, and by a node more what lies between, where an operator makes something else of 0. It
/// computes what remove_channels' model does. Throws as that does.
[[nodiscard]] MOPTCORE_API Model mask_channels(Model model, const Recipe& recipe);

}  // namespace moptcore::inline v0::graph

// SPDX-License-Identifier: Apache-2.0
// The groups of a coupling with what they are made of.
#pragma once

#include <cstdint>
#include <map>
#include <string_view>
#include <vector>

#include <moptcore/graph/channels.hpp>

#include "graph/channels/coupling.hpp"

namespace moptcore::inline v0::graph::channels {

struct Unified {
  ChannelGroup group;
  std::vector<std::int32_t> roots;  ///< of each unit
};

[[nodiscard]] std::vector<Unified> grouped(const Coupling& all);

/// What a recipe takes away.
class Removed {
 public:
  /// Throws FormatError where the recipe does not fit the groups, naming `where`.
  Removed(const Coupling& all, const std::vector<Unified>& groups, const Recipe& recipe,
          std::string_view where);

  [[nodiscard]] bool at(const Axis& axis, std::int64_t index) const {
    return axis.has_atoms() && gone_[static_cast<std::size_t>(
                                   all_->root(axis.first + static_cast<std::int32_t>(index)))];
  }
  [[nodiscard]] bool any(const Axis& axis) const;
  /// The indices that stay.
  [[nodiscard]] std::vector<std::int64_t> kept(const Axis& axis) const;
  [[nodiscard]] std::int64_t kept_count(const Axis& axis) const;

 private:
  const Coupling* all_;
  std::vector<bool> gone_;
};

}  // namespace moptcore::inline v0::graph::channels

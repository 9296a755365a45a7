// SPDX-License-Identifier: Apache-2.0
// Which indices of which axes of which tensors exist only together, as the operators of a model
// have it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <moptcore/graph/model.hpp>

namespace moptcore::inline v0::graph::channels {

/// An axis of a tensor: its channels are the atoms [first, first + extent).
struct Axis {
  std::int32_t first = -1;  ///< -1: the extent is not known, and nothing of it can be cut
  std::int64_t extent = -1;
  std::string symbol;

  [[nodiscard]] bool has_atoms() const noexcept { return first >= 0; }
};

/// A value of the main graph.
struct Track {
  std::string name;
  ElementType element = ElementType::undefined;
  bool ranked = false;       ///< the axes are known
  bool initializer = false;  ///< a constant, whose axes can be cut anywhere
  std::int32_t node = -1;    ///< that writes it
  std::vector<Axis> axes;

  [[nodiscard]] int rank() const noexcept { return static_cast<int>(axes.size()); }
};

/// An axis that a node sums over, so that what is cut has to be 0 on one side of the product.
struct Contraction {
  std::int32_t node = 0;
  int input = 0;
  int axis = 0;
};

/// Where there are several ways to cut: the factors of an axis that a Reshape splits or merges, or
/// a grouped convolution (0: whole groups; 1: the same channels of every group).
struct Decision {
  std::vector<std::int32_t> atoms;    ///< the first of each candidate
  std::vector<std::int64_t> extents;  ///< of each candidate
  int taken = -1;                     ///< -1: none can be cut
  std::int32_t convolution = -1;      ///< the node, of a grouped convolution
};

/// One for each decision, in the order in which the walk meets them.
struct Plan {
  bool open = false;  ///< couple nothing by decisions: shows what is fixed without them
  std::vector<std::vector<bool>> fixed;  ///< by decision and candidate, of an open walk
  std::map<std::size_t, int> taken;      ///< decisions made otherwise than by the first candidate
};

/// The elements of a small vector of integers: known numbers, or extents of axes.
struct Element {
  std::optional<std::int64_t> value;
  std::vector<std::pair<std::int32_t, int>> extents;  ///< of tensors and axes that it depends on
};

class Coupling {
 public:
  Coupling(const Model& model, Plan plan);

  [[nodiscard]] const Model& model() const noexcept { return *model_; }
  [[nodiscard]] const std::vector<Track>& tracks() const noexcept { return tracks_; }
  [[nodiscard]] const std::vector<Contraction>& contractions() const noexcept {
    return contractions_;
  }
  [[nodiscard]] const std::vector<Decision>& decisions() const noexcept { return decisions_; }
  [[nodiscard]] std::int32_t find_track(std::string_view name) const;

  /// The atom that stands for all that are cut together with this one.
  [[nodiscard]] std::int32_t root(std::int32_t atom) const;
  [[nodiscard]] bool is_fixed(std::int32_t atom) const { return reason_[root(atom)] >= 0; }
  /// True where an axis is fixed that nobody takes for channels, such as height and width.
  [[nodiscard]] bool is_quiet(std::int32_t atom) const { return quiet_[root(atom)]; }
  [[nodiscard]] std::string reason(std::int32_t atom) const;
  [[nodiscard]] std::int32_t atom_count() const noexcept {
    return static_cast<std::int32_t>(parent_.size());
  }

  /// The elements of a constant vector of integers, where they are known.
  [[nodiscard]] std::optional<std::vector<std::int64_t>> integers(std::string_view name) const;
  [[nodiscard]] const std::vector<Element>* elements(std::string_view name) const;

  /// What the rules of operators use.
  friend class Walk;

 private:
  std::int32_t new_atoms(std::int64_t count);
  void unite(std::int32_t a, std::int32_t b);
  void fix(std::int32_t atom, std::int32_t reason);
  std::int32_t reason_id(const std::string& text);

  const Model* model_;
  Plan plan_;
  std::vector<Track> tracks_;
  std::unordered_map<std::string, std::int32_t> ids_;
  std::unordered_map<std::string, std::vector<Element>> elements_;
  /// Axes whose extents a value is computed from.
  std::unordered_map<std::string, std::set<std::pair<std::int32_t, int>>> taints_;
  mutable std::vector<std::int32_t> parent_;
  std::vector<std::int32_t> reason_;  // of roots; -1: not fixed
  std::vector<bool> quiet_;           // of roots
  std::vector<std::string> reasons_;
  std::unordered_map<std::string, std::int32_t> reason_ids_;
  std::vector<Contraction> contractions_;
  std::vector<Decision> decisions_;
};

/// A node and what its rule says about it.
class Walk {
 public:
  Walk(Coupling& all, std::int32_t index);

  [[nodiscard]] const Coupling& all() const noexcept { return *all_; }
  [[nodiscard]] const Node& node() const noexcept { return *node_; }
  [[nodiscard]] std::int64_t version() const noexcept { return version_; }
  [[nodiscard]] bool has(int input) const noexcept {
    return input < static_cast<int>(node_->inputs.size()) &&
           !node_->inputs[static_cast<std::size_t>(input)].empty();
  }
  [[nodiscard]] bool wants(int output) const noexcept {
    return output < static_cast<int>(node_->outputs.size()) &&
           !node_->outputs[static_cast<std::size_t>(output)].empty();
  }
  [[nodiscard]] int input_count() const noexcept { return static_cast<int>(node_->inputs.size()); }
  [[nodiscard]] int output_count() const noexcept {
    return static_cast<int>(node_->outputs.size());
  }
  [[nodiscard]] const Track& in(int input) const;
  [[nodiscard]] const Track& out(int output) const;
  [[nodiscard]] bool ranked_in(int input) const { return has(input) && in(input).ranked; }
  [[nodiscard]] bool ranked_out(int output) const { return wants(output) && out(output).ranked; }
  /// A constant vector of integers that is an input, or an attribute of older versions.
  [[nodiscard]] std::optional<std::vector<std::int64_t>> integers(int input) const;
  [[nodiscard]] const std::vector<Element>* elements(int input) const;

  /// Index i of one is index i of the other. Fixes both where their extents are not the same.
  void couple(const Axis& a, const Axis& b);
  void couple(const Axis& a, std::int64_t a_from, const Axis& b, std::int64_t b_from,
              std::int64_t count);
  void couple_index(const Axis& a, std::int64_t i, const Axis& b, std::int64_t j);
  void fix(const Axis& axis, std::string_view why);
  void fix_range(const Axis& axis, std::int64_t from, std::int64_t count, std::string_view why);
  /// Fixes an axis that nobody takes for channels.
  void fix_quietly(const Axis& axis);
  void fix_all(const Track& track, std::string_view why);
  /// All inputs and outputs.
  void fix_all(std::string_view why);
  void contract(int input, int axis);
  /// Nothing else is computed of the extents that input `input` depends on.
  void handled(int input) { handled_.insert(input); }
  [[nodiscard]] const std::set<int>& handled() const noexcept { return handled_; }

  /// Couples the axes of two tensors that hold the same elements in the same order.
  void refine(const Track& a, const Track& b);

  /// Whole groups (0) or the same channels of each (1); none in an open walk.
  std::optional<int> grouped(std::int64_t groups);

  [[nodiscard]] std::string described() const;

 private:
  struct Factor {
    std::int32_t first = -1;
    std::int64_t extent = 0;  // 0: not known
  };
  void couple_factors(const Axis& axis, const std::vector<Factor>& factors);

  Coupling* all_;
  std::int32_t index_;
  const Node* node_;
  std::int64_t version_ = 0;
  std::set<int> handled_;
};

/// Couples the axes of what a node reads and writes.
using Rule = void (*)(Walk&);

/// By name of ONNX's own operators; null where there is no rule.
[[nodiscard]] Rule find_rule(std::string_view op_type);

/// The functions of a model written out, and constants as initializers.
[[nodiscard]] Model prepared(Model model);

/// The coupling of a prepared model by the decisions that leave most to cut.
[[nodiscard]] Coupling coupled(const Model& model);

/// The new shape that a Reshape can be given: 0 and -1 as ONNX has them, kOwnExtent where the
/// extent is that of the output; none where that does not say all.
inline constexpr std::int64_t kOwnExtent = -2;
[[nodiscard]] std::optional<std::vector<std::int64_t>> reshape_template(const Coupling& all,
                                                                        const Node& node);
/// The same of an Expand: 1 where the input has the extent.
[[nodiscard]] std::optional<std::vector<std::int64_t>> expand_template(const Coupling& all,
                                                                       const Node& node);

/// The ranges of a Slice, where all of them are known; by axis.
struct SliceRange {
  std::int64_t start = 0;
  std::int64_t step = 1;
};
[[nodiscard]] std::optional<std::map<int, SliceRange>> slice_ranges(const Coupling& all,
                                                                    const Node& node,
                                                                    std::int64_t version);
/// The axes that a Slice cuts, known or not; none where they are computed.
[[nodiscard]] std::optional<std::set<int>> slice_axes(const Coupling& all, const Node& node,
                                                      std::int64_t version);

}  // namespace moptcore::inline v0::graph::channels

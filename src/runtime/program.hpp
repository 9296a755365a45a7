// SPDX-License-Identifier: Apache-2.0
// A graph made ready: names have become slots, constants are known, and nodes that are one
// computation form groups.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <moptcore/graph/operator.hpp>

#include "kernels/onednn/primitive.hpp"

namespace moptcore::inline v0::runtime {

/// One node, its values as slots of the program.
struct Step {
  const graph::Node* node = nullptr;
  const graph::Operator* op = nullptr;
  std::int64_t version = 0;
  std::vector<int> inputs;  ///< -1: left out
  std::vector<int> outputs;
  std::vector<int> captures;  ///< what its subgraphs read of the values around them
  bool is_pure = true;        ///< equal inputs give equal outputs
};

/// A function of each element behind a larger computation.
struct Link {
  kernels::onednn::Algorithm algorithm;
  float a = 0;
  float b = 0;
  int operand = -1;  ///< of functions of two elements, the slot of the second
};

enum class Kind : std::uint8_t {
  plain,  // as the loops of graph do it
  convolution,
  inner_product,
  matmul,
  pool,
  elementwise,
  softmax,
  layer_norm,
  batch_norm,
  concat,
  transpose,
  mean,
  resample,
};

/// How a constant operand lies: as a Layout says, or as our own kernels read it.
enum class Packing : std::uint8_t { layout, panels, winograd };

struct Group {
  Kind kind = Kind::plain;
  std::vector<int> steps;  ///< in order; the first decides
  int x = -1;
  int weight = -1;
  int bias = -1;
  std::vector<Link> links;
  int least_rank = 0;          ///< that x must have for numbers to leave its shape as it is
  std::vector<int> order;      ///< of the axes of a matmul's result, where a transposition follows
  int output = -1;             ///< of all but plain ones
  std::vector<int> last_uses;  ///< slots that no later group reads
};

/// A value on its way through a program.
struct Cell {
  graph::Value value;              ///< row-major, where somebody has asked for it
  kernels::onednn::Layout layout;  ///< of `memory`; empty: no float32 tensor with elements
  graph::Tensor memory;
  bool is_fixed = false;    ///< follows from the shapes of the model's inputs
  bool is_batched = false;  ///< element i of axis 0 follows from element i of the model's inputs
  int storage = -1;         ///< in a plan, of `memory`, or of `value` where `layout` is empty
  int plain_storage = -1;   ///< in a plan, of `value`
};

/// Of a value as graph has it.
[[nodiscard]] Cell cell_of(graph::Value value, bool is_fixed);

/// What computing constants may take, of a program and its subgraphs together.
struct FoldBudget {
  std::int64_t bytes = 0;
  std::int64_t steps = 0;
  bool lasted = true;  ///< false: a node is left that more would have folded
};

class Program {
 public:
  /// Of a graph whose nodes are sorted. `around` has what subgraphs capture.
  Program(const graph::Graph& graph, const std::map<std::string, std::int64_t>& opsets,
          Program* around, bool fuse, FoldBudget& budget);

  [[nodiscard]] int slot_count() const noexcept { return static_cast<int>(names.size()); }
  [[nodiscard]] bool is_constant(int slot) const noexcept {
    return slot >= 0 &&
           (constants[static_cast<std::size_t>(slot)].has_value() || is_given_up(slot));
  }

  const graph::Graph* graph;
  std::vector<std::string> names;
  /// By slot: nothing where it is computed, or lives on in packed form only (constant()).
  mutable std::vector<graph::Value> constants;
  std::vector<graph::Value> defaults;  ///< of inputs that have one
  mutable std::vector<Cell> initial;   ///< by slot: the constants, ready to be read
  std::vector<int> inputs;
  std::vector<int> outputs;
  std::vector<std::pair<int, int>> captures;  ///< own slot, slot around
  std::vector<Step> steps;
  std::vector<Group> groups;   ///< in an order in which they can run
  std::vector<Group> singles;  ///< each step alone
  std::unordered_map<const graph::Graph*, std::unique_ptr<Program>> bodies;

  /// The elements of a constant, row-major.
  [[nodiscard]] graph::Tensor constant(int slot) const;

  /// A constant in the layout `wanted`, or packed for our own kernels, made once. `source` is how
  /// its elements lie.
  [[nodiscard]] graph::Tensor packed(int slot, Packing packing,
                                     const kernels::onednn::Layout& source,
                                     const kernels::onednn::Layout& wanted) const;

  /// Frees a constant that has been packed, as long as the packing can be undone and one step alone
  /// reads it. Nobody else may use the program meanwhile. True: it is freed.
  bool give_up(int slot) const;

 private:
  [[nodiscard]] bool is_given_up(int slot) const noexcept {
    return static_cast<std::size_t>(slot) < given_up_.size() &&
           given_up_[static_cast<std::size_t>(slot)];
  }
  int slot(const std::string& name);
  void compile(const std::map<std::string, std::int64_t>& opsets, bool fuse, FoldBudget& budget);
  void fold(const Step& step, FoldBudget& budget);

  std::unordered_map<std::string, int> index_;
  mutable std::mutex mutex_;
  struct Packed {
    Packing packing;
    kernels::onednn::Layout source;
    kernels::onednn::Layout wanted;  // of Packing::layout
    graph::Tensor tensor;
  };
  std::vector<bool> read_once_;  // by slot: by one step, and by no subgraph or output
  mutable std::vector<bool> given_up_;
  mutable std::unordered_map<int, std::vector<Packed>> packed_;
};

}  // namespace moptcore::inline v0::runtime

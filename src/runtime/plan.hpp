// SPDX-License-Identifier: Apache-2.0
// A run with known shapes, written down: primitives and nodes in order, and where every value lies
// in one block of memory.
#pragma once

#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "runtime/engine.hpp"
#include "runtime/program.hpp"

namespace moptcore::inline v0::runtime {

/// Memory for one or more values, one after the other.
struct Storage {
  enum class Kind : std::uint8_t {
    arena,
    input,   // of the caller
    output,  // new in each run
    constant,
    produced,  // by a node, in each run
  };
  Kind kind = Kind::arena;
  std::int64_t bytes = 0;
  std::int64_t offset = 0;  ///< in the arena
  int index = -1;           ///< of the input
  graph::Value constant;
  int first = -1;  ///< actions between which it is in use
  int last = -1;
  int shares = -1;  ///< the storage whose place it takes over
  Shape shape;      ///< of an output
};

/// A storage as a node sees it.
struct Reference {
  int storage = -1;  ///< -1: left out
  bool is_tensor = true;
  graph::ElementType type = graph::ElementType::undefined;
  Shape shape;
};

struct Action {
  kernels::onednn::PrimitivePtr primitive;  ///< null: a node
  std::vector<int> buffers;                 ///< inputs and output
  const Step* step = nullptr;
  std::vector<Reference> inputs;
  std::vector<Reference> captures;
  std::vector<Reference> outputs;
  std::string name;
  std::string operation;
  Shape shape;
  bool is_serial = false;
};

/// Thrown by a replay whose node gives another shape than when it was planned.
struct ShapesVary {};

/// When actions began and ended, in seconds after the beginning of the run.
struct Times {
  std::vector<double> begin;
  std::vector<double> end;
};

class Plan {
 public:
  Plan(const Engine& engine, const Program& program);
  ~Plan();

  // Writing down.
  int add(Storage storage);
  void record(Action action);
  /// Places everything; `outputs` are the program's.
  void finish(std::vector<Reference> outputs);

  /// What run_steps does, for inputs of the shapes of the plan. Throws ShapesVary.
  [[nodiscard]] std::vector<graph::Value> run(const std::vector<graph::Value>& inputs,
                                              Times* times = nullptr) const;

  [[nodiscard]] const std::vector<Action>& actions() const noexcept { return actions_; }
  [[nodiscard]] std::int64_t arena_bytes() const noexcept { return arena_bytes_; }

  bool is_batched = false;  ///< outputs can be computed sample by sample

 private:
  struct Context;

  std::unique_ptr<Context> make_context() const;
  void replay(Context& context, Times* times) const;
  void run_node(Context& context, const Action& action, Budget& budget) const;
  void place();
  void place_in_turn(std::span<int> small);

  const Engine& engine_;
  const Program& program_;
  std::vector<Storage> storages_;
  std::vector<Action> actions_;
  std::vector<Reference> outputs_;
  std::vector<std::vector<int>> released_;  // produced values by their last action
  std::int64_t arena_bytes_ = 0;
  std::int64_t scratch_bytes_ = 0;

  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Context>> idle_;
};

}  // namespace moptcore::inline v0::runtime

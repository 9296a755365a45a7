// SPDX-License-Identifier: Apache-2.0
// Runs the steps of a program one after the other, and writes them down as a plan where asked to.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "runtime/prepare.hpp"
#include "runtime/program.hpp"

namespace moptcore::inline v0::runtime {

class Plan;

/// What one run may spend.
struct Budget {
  std::uint64_t seed = 0;
  std::int64_t steps = 0;
};

/// What the runs of a session share.
class Engine {
 public:
  Engine(std::int64_t max_bytes, std::int64_t max_steps)
      : max_bytes(max_bytes), max_steps(max_steps) {}

  /// prepare(), remembered for groups that run with changing shapes.
  [[nodiscard]] std::shared_ptr<const Prepared> prepared(const Program& program, const Group& group,
                                                         const std::vector<Cell>& cells) const;

  const std::int64_t max_bytes;
  const std::int64_t max_steps;

 private:
  struct Entry {
    std::vector<kernels::onednn::Layout> layouts;
    std::shared_ptr<const Prepared> prepared;
  };

  mutable std::mutex mutex_;
  mutable std::map<std::pair<const Group*, int>, std::deque<Entry>> known_;
};

/// One step in plain loops. `captured` are the values of step.captures.
[[nodiscard]] std::vector<graph::Value> run_step(const Engine& engine, const Program& program,
                                                 const Step& step,
                                                 std::span<const graph::Value* const> inputs,
                                                 std::span<const graph::Value> captured,
                                                 Budget& budget);

/// Memory that the limit of the session allows.
[[nodiscard]] graph::Tensor allocate(const Engine& engine, graph::ElementType type,
                                     const Shape& shape);

/// The outputs of a program for its inputs (and, of a subgraph, what it captures, in the order of
/// Program::captures). Fills `plan` where there is one: nobody else may use the program meanwhile.
[[nodiscard]] std::vector<graph::Value> run_steps(const Engine& engine, const Program& program,
                                                  std::span<const graph::Value> inputs,
                                                  std::span<const graph::Value> captured,
                                                  Budget& budget, Plan* plan);

}  // namespace moptcore::inline v0::runtime

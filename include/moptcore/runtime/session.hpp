// SPDX-License-Identifier: Apache-2.0
// Runs a model: planned once for each combination of input shapes, with oneDNN where it is fast and
// the loops of graph/operator.hpp for the rest. Link moptcore::runtime.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <moptcore/core/export.hpp>
#include <moptcore/graph/evaluate.hpp>
#include <moptcore/graph/model.hpp>

namespace moptcore::inline v0::runtime {

struct SessionOptions {
  /// Threads of each run, the calling one included; 0: num_threads() at the time of the run. The
  /// same number gives the same bits on the same machine. OpenMP's threads spin between steps: a
  /// program that shares its cores is started with GOMP_SPINCOUNT=1000 (examples/cpp/run_onnx.cpp).
  int threads = 0;
  /// "avx512", "avx2", "baseline" or "": as set_max_isa, and for oneDNN, where it holds for the
  /// whole process and must come before anything else that uses it.
  std::string max_isa;
  /// Several nodes as one computation, where that is faster.
  bool fuse = true;
  /// Bytes that one tensor may have, and iterations that loops may take in a run.
  std::int64_t max_bytes = std::int64_t{1} << 33;
  std::int64_t max_steps = 100'000'000;
};

/// Where the time of a run goes.
struct ProfileRow {
  std::string name;            ///< of the node whose result is computed
  std::string operation;       ///< "Conv+Add+Relu"
  std::string implementation;  ///< of oneDNN, or "graph" for a plain loop
  std::string shape;           ///< of the result
  double milliseconds = 0;     ///< median over the runs
  double start = 0;            ///< in the last run, milliseconds after its begin
  double last = 0;             ///< milliseconds in the last run
};

struct MOPTCORE_API Profile {
  std::vector<ProfileRow> rows;  ///< in the order of execution
  double milliseconds = 0;       ///< of a run, median

  /// One line for each kind of operation, the slowest first, then one for each row.
  [[nodiscard]] std::string table() const;
  /// For chrome://tracing and ui.perfetto.dev.
  [[nodiscard]] std::string chrome_trace() const;
};

class MOPTCORE_API Session {
 public:
  /// Throws UnsupportedError that lists every operator that moptcore lacks.
  explicit Session(graph::Model model, const SessionOptions& options = {});
  /// Of an ONNX file, or the bytes of one; throws what graph::load and graph::parse throw.
  explicit Session(const std::filesystem::path& path, const SessionOptions& options = {});
  explicit Session(std::span<const std::uint8_t> bytes, const SessionOptions& options = {});
  Session(Session&&) noexcept;
  Session& operator=(Session&&) noexcept;
  ~Session();

  /// The inputs that a run must be given, and what it returns. Of files of IR version 3, which list
  /// all initializers as inputs, initializers are no inputs.
  [[nodiscard]] const std::vector<graph::ValueInfo>& inputs() const noexcept;
  [[nodiscard]] const std::vector<graph::ValueInfo>& outputs() const noexcept;

  /// All outputs by name. Inputs are read where they lie. From several threads at once: each call
  /// has memory of its own. The first run with new shapes plans, the very first one
  /// also computes constants that are much larger than the model. Throws Error for inputs that are
  /// missing, unknown or of a wrong type or shape, and what operators throw. NaN need not survive:
  /// oneDNN's Relu and Clip make 0 or a bound of it, where graph::Evaluator keeps it.
  [[nodiscard]] graph::Values run(const graph::Values& inputs) const;

  /// Plans for these inputs, then times `runs` of them.
  [[nodiscard]] Profile profile(const graph::Values& inputs, int runs = 20) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace moptcore::inline v0::runtime

namespace moptcore::inline v0 {
using runtime::Session;
}

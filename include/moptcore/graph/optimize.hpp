// SPDX-License-Identifier: Apache-2.0
// All rewriting passes in order, and the check that a rewritten model still computes the same.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <moptcore/core/export.hpp>
#include <moptcore/graph/evaluate.hpp>
#include <moptcore/graph/passes/pass.hpp>

namespace moptcore::inline v0::graph {

struct VerifyOptions {
  std::uint64_t seed = 0;
  /// The extent of symbols and unknown axes of inputs, the same for equal symbols. 0 takes the
  /// first of 3, 16, 32, 48, 64 and 224 at which the model runs, with a smaller batch where it can.
  std::int64_t extent = 0;
  /// The largest difference of floats, in parts of the largest magnitude of the output; 0 takes
  /// 1e-5, or 2^-21 for each node on the longest way through the model where that is more.
  double tolerance = 0.0;
  std::int64_t max_bytes = std::int64_t{1} << 30;  ///< of one value
};

struct Verification {
  /// False where the model does not run on made-up input: then nothing is known.
  bool ran = false;
  std::string reason;       ///< why it did not run, at the first extents
  double difference = 0.0;  ///< the largest one found, in parts of the output's magnitude
  std::string output;       ///< where it was found
};

/// Runs both models on the same random input and compares what they have in common as outputs:
/// integers, booleans and strings must be equal, floats within the tolerance, NaN where NaN was.
/// Throws Error that names the output where they differ.
MOPTCORE_API Verification verify_equal(const Model& before, const Model& after,
                                       const VerifyOptions& options = {});

/// Random inputs for a model: floats in [-1, 1], small whole numbers, both booleans; an extent of 0
/// is 3.
[[nodiscard]] MOPTCORE_API Values random_inputs(const Model& model,
                                                const VerifyOptions& options = {});

struct OptimizeOptions {
  PassOptions passes;
  /// Names of passes to leave out.
  std::vector<std::string> without;
  /// Attention of its parts, for runtimes that have it as one operator: models below opset 23 are
  /// upgraded to it, and UnsupportedError names the node for which there is no such form.
  bool attention = false;
  /// Runs the model before and after every pass and throws Error where the outputs differ.
  bool verify = false;
  VerifyOptions verification;
};

struct OptimizeReport {
  std::vector<PassReport> passes;  ///< each once, changes of all rounds together
  int rounds = 0;
  std::int64_t nodes_before = 0;
  std::int64_t nodes_after = 0;
  Verification verification;  ///< the last one, where asked for
};

/// The names of all passes in the order in which they run.
[[nodiscard]] MOPTCORE_API std::vector<std::string> pass_names();

/// One pass by its name. Throws Error for names that are none.
MOPTCORE_API PassReport run_pass(Model& model, const std::string& name,
                                 const PassOptions& options = {});

/// Inlines functions, then runs every pass until none changes anything; types are inferred.
MOPTCORE_API OptimizeReport optimize(Model& model, const OptimizeOptions& options = {});

}  // namespace moptcore::inline v0::graph

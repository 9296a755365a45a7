// SPDX-License-Identifier: Apache-2.0
// Runs a model operator by operator, in plain loops: what every faster way has to agree with.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <moptcore/core/export.hpp>
#include <moptcore/graph/model.hpp>

namespace moptcore::inline v0::graph {

using Values = std::map<std::string, Value, std::less<>>;

struct EvaluateOptions {
  /// Bytes that one output may have, and iterations that loops may take in all.
  std::int64_t max_bytes = std::int64_t{1} << 33;
  std::int64_t max_steps = 100'000'000;
  std::uint64_t seed = 0;  ///< of operators that draw random numbers and name no seed
  /// Called with each value that a node of the main graph computes.
  std::function<void(const Node&, const std::string& name, const Value&)> observe;
};

/// Every operator of `model`, its functions and subgraphs that moptcore lacks, as "Op", or
/// "domain.Op", or "Op (opset 6)" where only that version is missing. Sorted, each once.
[[nodiscard]] MOPTCORE_API std::vector<std::string> missing_operators(const Model& model);

class MOPTCORE_API Evaluator {
 public:
  /// Throws UnsupportedError that lists every operator it lacks; FormatError for a model whose
  /// nodes cannot be ordered.
  explicit Evaluator(Model model);
  Evaluator(Evaluator&&) noexcept;
  Evaluator& operator=(Evaluator&&) noexcept;
  ~Evaluator();

  /// The outputs of the model, or the values named in `wanted`, of inputs by name. Inputs that are
  /// initializers may be left out. May be called from several threads at once. Throws Error for
  /// inputs that are missing, unknown or of a wrong type or shape, and what operators throw.
  [[nodiscard]] Values run(const Values& inputs, std::span<const std::string> wanted = {},
                           const EvaluateOptions& options = {}) const;

  [[nodiscard]] const Model& model() const noexcept;

 private:
  struct Program;
  std::unique_ptr<Program> program_;
};

/// Evaluator(model).run(inputs).
[[nodiscard]] MOPTCORE_API Values evaluate(const Model& model, const Values& inputs,
                                           const EvaluateOptions& options = {});

}  // namespace moptcore::inline v0::graph

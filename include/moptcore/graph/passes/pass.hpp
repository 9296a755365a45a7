// SPDX-License-Identifier: Apache-2.0
// What every rewriting pass takes and gives. A pass changes a model, its subgraphs too, until it
// finds nothing more to change; inputs and outputs of the model keep their names and order.
#pragma once

#include <cstdint>
#include <string>

#include <moptcore/core/export.hpp>
#include <moptcore/graph/model.hpp>

namespace moptcore::inline v0::graph {

struct PassOptions {
  /// Bytes that constants made by folding may have in all; the same in times of the model's
  /// initializers, and 1 MiB more (0: no such limit); what operators may count as work for them.
  std::int64_t max_fold_bytes = std::int64_t{64} << 20;
  std::int64_t max_fold_ratio = 16;
  std::int64_t max_fold_steps = 1'000'000'000;
  /// How often a pass looks at the model.
  int max_rounds = 64;
  /// The model is as infer_types or a pass without changes has left it: the first round trusts the
  /// types that it finds.
  bool types_are_current = false;
};

struct PassReport {
  std::string pass;
  std::int64_t changes = 0;  ///< nodes or values that were rewritten
  int rounds = 0;
  std::int64_t bytes = 0;  ///< of constants that folding has made
};

}  // namespace moptcore::inline v0::graph

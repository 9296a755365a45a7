// SPDX-License-Identifier: Apache-2.0
// From a group of steps and the layouts of its inputs to a primitive.
#pragma once

#include <optional>
#include <vector>

#include "runtime/program.hpp"

namespace moptcore::inline v0::runtime {

struct Operand {
  int slot;
  kernels::onednn::Layout want;    ///< row-major: whatever the shape
  kernels::onednn::Layout source;  ///< how row-major elements are seen by who packs them
  Packing packing = Packing::layout;
};

struct Prepared {
  kernels::onednn::PrimitivePtr primitive;  ///< null: the output is the operand's own memory
  std::vector<Operand> operands;
  kernels::onednn::Layout output;
  bool is_serial = false;  ///< made for one thread, and run by one
};

/// Steps that take one thread less than this, in microseconds, are not worth waking others for.
inline constexpr double kSerial = 50;
/// Microseconds that moving so many bytes takes one thread, roughly.
[[nodiscard]] constexpr double time_to_move(std::int64_t bytes) noexcept {
  return static_cast<double>(bytes) / 10'000;
}

/// Nothing where the plain loops have to do it: other types than float32, attributes that oneDNN
/// lacks, and whatever is an error.
[[nodiscard]] std::optional<Prepared> prepare(const Program& program, const Group& group,
                                              const std::vector<Cell>& cells);

}  // namespace moptcore::inline v0::runtime

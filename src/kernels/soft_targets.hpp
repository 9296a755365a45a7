// SPDX-License-Identifier: Apache-2.0
// One row of distill/soft_targets.hpp at the speed of the vector unit.
#pragma once

#include <cstdint>

namespace moptcore::inline v0::kernels {

/// A row and what to do with it. Contiguous; `grad` may be `student` or `teacher`.
template <class T>
struct SoftTargetRow {
  const T* student;
  const T* teacher;  ///< not read where soft_loss is 0
  T* grad;
  T* scratch;  ///< soft_target_scratch(classes) values
  std::int64_t classes;
  std::int64_t label;  ///< in [0, classes) where hard_loss is not 0
  double temperature;
  double smoothing;
  double soft_loss;     ///< alpha T^2
  double hard_loss;     ///< 1 - alpha
  double soft_grad;     ///< alpha T scale
  double hard_grad;     ///< (1 - alpha) scale
  bool stream = false;  ///< the gradient goes past the caches; followed by stream_fence()
};

/// Classes whose exponentials are taken at once, from the maximum so far.
inline constexpr std::int64_t kSoftTargetChunk = 1024;

[[nodiscard]] constexpr std::int64_t soft_target_scratch(std::int64_t classes) noexcept {
  return 3 * (classes + (classes + kSoftTargetChunk - 1) / kSoftTargetChunk);
}

/// Writes the row's gradient, puts its loss into `loss` and returns true; or returns false and
/// writes nothing where a logit is not finite or so large that sums could overflow:
/// such rows take the formula in double.
[[nodiscard]] bool soft_target_row_f32(const SoftTargetRow<float>& row, double& loss) noexcept;
[[nodiscard]] bool soft_target_row_f64(const SoftTargetRow<double>& row, double& loss) noexcept;

}  // namespace moptcore::inline v0::kernels

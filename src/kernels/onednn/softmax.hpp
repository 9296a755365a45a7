// SPDX-License-Identifier: Apache-2.0
// oneDNN's softmax of contiguous rows of floats, on the calling thread. Throws std::runtime_error
// where oneDNN refuses or fails.
#pragma once

#include <cstdint>

namespace moptcore::inline v0::kernels::onednn {

/// dst = exp(src - max) / sum of the same, row by row. In place or disjoint.
void softmax_f32(std::int64_t rows, std::int64_t classes, const float* src, float* dst);

/// dst = log of softmax_f32. In place or disjoint.
void log_softmax_f32(std::int64_t rows, std::int64_t classes, const float* src, float* dst);

/// Whether oneDNN has a vectorized gradient for this CPU: 3.2 has one for AVX-512 only, and loops
/// over scalars elsewhere.
[[nodiscard]] bool has_softmax_gradient_f32(std::int64_t rows, std::int64_t classes);

/// grad -= exp(log_p) * (sum of grad), row by row: a gradient by the logarithms of probabilities
/// becomes one by the logits.
void log_softmax_gradient_f32(std::int64_t rows, std::int64_t classes, const float* log_p,
                              float* grad);

}  // namespace moptcore::inline v0::kernels::onednn

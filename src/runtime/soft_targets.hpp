// SPDX-License-Identifier: Apache-2.0
// Gradients by logits out of those by the logarithms of their probabilities.
#pragma once

#include <cstdint>

namespace moptcore::inline v0::runtime {

/// By oneDNN's primitive, or by its softmax and a plain pass, which is faster where the primitive
/// is not vectorized.
enum class Gradient : std::uint8_t { primitive, plain };

/// The faster one for this CPU.
[[nodiscard]] Gradient faster_gradient(std::int64_t rows, std::int64_t classes);

/// grad -= exp(log_p) * (sum of grad) for rows log_p = log softmax(x). Gradient::plain overwrites
/// x.
void to_logits(Gradient how, std::int64_t rows, std::int64_t classes, const float* log_p, float* x,
               float* grad);

}  // namespace moptcore::inline v0::runtime

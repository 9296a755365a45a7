// SPDX-License-Identifier: Apache-2.0
// oneDNN's matrix product of floats. Throws std::runtime_error where oneDNN refuses or fails.
#pragma once

#include <cstdint>

namespace moptcore::inline v0::kernels::onednn {

/// c = op(a) op(b), all row-major without gaps; op transposes where asked to. c is m x n and the
/// products have `depth` terms. Equal bits for equal arguments on one machine at one number of
/// threads.
void product_f32(bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n,
                 std::int64_t depth, const float* a, const float* b, float* c);

}  // namespace moptcore::inline v0::kernels::onednn

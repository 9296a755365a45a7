// SPDX-License-Identifier: Apache-2.0
// Products with constant weights on our own kernels, where those are faster than oneDNN's.
#pragma once

#include "kernels/gemm.hpp"
#include "kernels/onednn/primitive.hpp"

namespace moptcore::inline v0::runtime {

/// x [rows, depth] times a packed matrix. Inputs: x, the panels, the bias and the addend
/// [rows, columns] where there are any. Of `end`, the pointers say no more than whether.
[[nodiscard]] kernels::onednn::PrimitivePtr panel_product(std::int64_t rows, std::int64_t depth,
                                                          std::int64_t columns,
                                                          const kernels::Ending& end);

/// A convolution that is_winograd. Inputs as those of panel_product, x and the addend pixel by
/// pixel.
[[nodiscard]] kernels::onednn::PrimitivePtr winograd_convolution(
    const Shape& x, const kernels::onednn::ConvolutionShape& shape, const kernels::Ending& end);

/// True where Winograd's algorithm can be used and is worth it.
[[nodiscard]] bool is_winograd(const Shape& x, const kernels::onednn::ConvolutionShape& shape);

/// [batch, channels, height, width], the channels of a pixel side by side.
[[nodiscard]] kernels::onednn::Layout by_pixels(const Shape& shape);

}  // namespace moptcore::inline v0::runtime

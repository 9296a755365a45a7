// SPDX-License-Identifier: Apache-2.0
// 3 x 3 convolutions with stride 1 by Winograd's F(2 x 2, 3 x 3): 16 products for every 4 results
// of a channel instead of 36. Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks",
// 2016. Images lie pixel by pixel, [height, width, channels]; channels are multiples of 8.
#pragma once

#include <cstdint>

#include "kernels/gemm.hpp"

namespace moptcore::inline v0::kernels {

/// Products of a tile: the 4 x 4 values that 2 x 2 results depend on.
inline constexpr int kProducts = 16;

struct WinogradShape {
  std::int64_t height;
  std::int64_t width;
  std::int64_t channels;
  std::int64_t outputs;
  std::int64_t pad_top;
  std::int64_t pad_left;
  std::int64_t out_height;
  std::int64_t out_width;

  [[nodiscard]] constexpr std::int64_t tiles_across() const noexcept { return (out_width + 1) / 2; }
  [[nodiscard]] constexpr std::int64_t tiles() const noexcept {
    return tiles_across() * ((out_height + 1) / 2);
  }
};

/// packed: kProducts packed matrices [channels, outputs] of `weight` [outputs, channels, 3, 3];
/// panels [first, last) of each.
void pack_winograd(std::int64_t channels, std::int64_t outputs, const float* weight,
                   std::int64_t first, std::int64_t last, float* packed) noexcept;

/// Floats of workspace for so many tiles.
[[nodiscard]] constexpr std::int64_t winograd_workspace(const WinogradShape& shape,
                                                        std::int64_t tiles) noexcept {
  return shape.channels + kProducts * tiles * (shape.channels + shape.outputs);
}

/// Tiles [first, last) of a batch, image by image and row by row. `end` without a curve; its addend
/// lies as the output.
void convolve_winograd(const WinogradShape& shape, std::int64_t first, std::int64_t last,
                       const float* images, const float* packed, const Ending& end,
                       float* workspace, float* output) noexcept;

}  // namespace moptcore::inline v0::kernels

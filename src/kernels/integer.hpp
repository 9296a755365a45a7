// SPDX-License-Identifier: Apache-2.0
// Linear and convolution layers on 8-bit integers, exact on every instruction set: integers are
// widened to 16 bit, multiplied in pairs and summed in 32 bit (vpmaddwd), so nothing saturates.
#pragma once

#include <cstdint>
#include <vector>

namespace moptcore::inline v0::kernels {

/// The grid of an 8-bit input: value = (q - zero_point) * scale, q in [qmin, qmax].
struct InputGrid {
  float scale;
  std::int32_t zero_point;
  std::int32_t qmin;
  std::int32_t qmax;
};

/// What becomes of the sums of output o: float(sum + bias[o]) * scale[o].
struct Outputs {
  const float* scale;
  const std::int32_t* bias;  ///< null: none
  bool wide;                 ///< sum + bias may exceed 32 bit
};

/// One image [channels, height, width] to [outputs, out_height, out_width], row-major.
struct Convolution {
  std::int64_t channels, height, width;
  std::int64_t outputs, out_height, out_width;
  std::int64_t kernel_height, kernel_width;
  std::int64_t stride_height, stride_width;
  std::int64_t pad_top, pad_left, pad_bottom, pad_right;
  std::int64_t dilation_height, dilation_width;
  std::int64_t groups;

  // Two neighbouring channels of a group share a 32-bit word, the second one zero where there is
  // none. A padded row holds its columns by their remainder modulo the stride, so that the columns
  // that a weight meets are neighbours.
  [[nodiscard]] std::int64_t pairs() const noexcept { return (channels / groups + 1) / 2; }
  [[nodiscard]] std::int64_t depth() const noexcept {
    return pairs() * kernel_height * kernel_width;
  }
  [[nodiscard]] std::int64_t padded_height() const noexcept {
    return height + pad_top + pad_bottom;
  }
  [[nodiscard]] std::int64_t phase() const noexcept {
    return (width + pad_left + pad_right + stride_width - 1) / stride_width;
  }
  [[nodiscard]] std::int64_t row() const noexcept { return phase() * stride_width; }
  [[nodiscard]] std::int64_t plane() const noexcept { return padded_height() * row(); }
};

/// Words of 32 bit that convolve needs as workspace, zero at first.
[[nodiscard]] std::int64_t convolve_workspace(const Convolution& c) noexcept;

/// int8 weights [outputs, channels / groups, kernel_height, kernel_width] as words of two,
/// [outputs, depth].
[[nodiscard]] std::vector<std::int32_t> pack_convolution(const Convolution& c,
                                                         const std::int8_t* weight);

/// False where x holds NaN; y is then unspecified. `workspace` may be used for the next image of
/// the same convolution as it is.
[[nodiscard]] bool convolve(const Convolution& c, const InputGrid& grid, const float* x,
                            const std::int32_t* packed, const Outputs& outputs,
                            std::int32_t* workspace, float* y) noexcept;

/// int8 weights [outputs, inputs] as `multiply` takes them, for the instruction set in use.
[[nodiscard]] std::vector<std::int32_t> pack_linear(std::int64_t outputs, std::int64_t inputs,
                                                    const std::int8_t* weight);

/// Words of 32 bit that multiply needs as workspace.
[[nodiscard]] std::int64_t multiply_workspace(std::int64_t rows, std::int64_t inputs) noexcept;

/// y [rows, outputs] of x [rows, inputs]. False where x holds NaN.
[[nodiscard]] bool multiply(std::int64_t rows, std::int64_t inputs, std::int64_t outputs,
                            const InputGrid& grid, const float* x, const std::int32_t* packed,
                            const Outputs& results, std::int32_t* workspace, float* y) noexcept;

}  // namespace moptcore::inline v0::kernels

// SPDX-License-Identifier: Apache-2.0
// Linear and convolution layers as an int8 model computes them. Link moptcore::runtime.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>

#include <moptcore/core/export.hpp>
#include <moptcore/core/qparams.hpp>
#include <moptcore/core/tensor_view.hpp>

namespace moptcore::inline v0::runtime {

/// Rows and columns, or twice the same; a convolution over one dimension uses the second.
struct ConvolutionOptions {
  std::array<std::int64_t, 2> stride{1, 1};
  std::array<std::int64_t, 2> before{0, 0};  ///< padding above and to the left
  std::array<std::int64_t, 2> after{0, 0};   ///< padding below and to the right
  std::array<std::int64_t, 2> dilation{1, 1};
  std::int64_t groups = 1;
};

/// Who multiplies the integers.
enum class IntegerBackend : std::uint8_t { ours, onednn };

/// out [..., outputs] of x [..., inputs] and int8 weights [outputs, inputs]:
///
///   q = saturate(round_half_even(x / input.scale) + input.zero_point)
///   out = float(sum((q - zero_point) * weight) + bias) * (input.scale * weight_scale[output])
///
/// with exact sums and float32 products: what DequantizeLinear, MatMul and Add stand for. The
/// same bits on every CPU, also on those whose int8 instructions saturate (x86 without VNNI).
/// x, out and weight_scale are float32, input is one uint8 or int8 grid, bias is int32 [outputs],
/// all contiguous. A weight_scale may be negative. Throws NonFiniteError for NaN in x,
/// UnsupportedError for more inputs than the sums of 32 bit can hold, DTypeError and Error for
/// the rest.
///
/// IntegerBackend::onednn gives the same bits. Where oneDNN lacks AVX512_VNNI it adds pairs of
/// products in saturating 16 bit, so that there weights beyond 64 are an UnsupportedError. Takes a
/// byte of memory for each x beside the weights.
MOPTCORE_API void integer_linear(const AnyView& x, const QParams& input, const AnyView& weight,
                                 std::span<const float> weight_scale,
                                 const std::optional<AnyView>& bias, const MutableAnyView& out,
                                 IntegerBackend backend = IntegerBackend::ours);

/// The same of a convolution: x [batch, channels, (height,) width], weight [outputs,
/// channels / groups, (kernel height,) kernel width], out of `convolution_shape`. Padding holds
/// the zero point.
MOPTCORE_API void integer_convolution(const AnyView& x, const QParams& input, const AnyView& weight,
                                      std::span<const float> weight_scale,
                                      const std::optional<AnyView>& bias,
                                      const ConvolutionOptions& options, const MutableAnyView& out);

/// The shape of a convolution's results. Throws where x, the weights and the options do not fit.
[[nodiscard]] MOPTCORE_API Shape convolution_shape(const Shape& x, const Shape& weight,
                                                   const ConvolutionOptions& options);

/// Most products in one sum: every sum of so many of a byte and an int8 fits in 32 bit.
inline constexpr std::int64_t kIntegerDepth = ((std::int64_t{1} << 31) - 1) / (255 * 128);

}  // namespace moptcore::inline v0::runtime

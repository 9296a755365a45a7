// SPDX-License-Identifier: Apache-2.0
// quantize and dequantize of quant/quantize.hpp through oneDNN's reorder. Link moptcore::runtime.
#pragma once

#include <string>

#include <moptcore/core/export.hpp>
#include <moptcore/core/qparams.hpp>
#include <moptcore/core/tensor_view.hpp>

namespace moptcore::inline v0::runtime {

/// The version of the oneDNN library in use, such as "3.2.0".
[[nodiscard]] MOPTCORE_API std::string onednn_version();

/// quant::quantize for contiguous float32 to int8 or uint8, with scales per tensor or along an
/// axis and one zero point. oneDNN multiplies by the reciprocal of the scale where ours divides:
/// where that rounds to the other side of a tie the integer is one step away; scales that are
/// powers of two give equal bits. Throws NonFiniteError for NaN, UnsupportedError for the rest.
MOPTCORE_API void quantize(const AnyView& src, const QParams& params, const MutableAnyView& dst);

/// quant::dequantize from contiguous int8 or uint8 to contiguous float32, bit for bit.
MOPTCORE_API void dequantize(const AnyView& src, const QParams& params, const MutableAnyView& dst);

}  // namespace moptcore::inline v0::runtime

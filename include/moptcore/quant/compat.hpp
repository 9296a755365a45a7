// SPDX-License-Identifier: Apache-2.0
// Whose rules are followed, and what happens to NaN.
#pragma once

#include <cstdint>
#include <string_view>

#include <moptcore/core/check.hpp>

namespace moptcore::inline v0::quant {

/// The rules of another library, followed bit for bit.
///
/// none:   ONNX QuantizeLinear: divide by the scale, round half to even.
/// torch:  multiply by the float reciprocal of the scale, round half to even; NaN becomes qmin.
///         torch has two roundings: fake quantization (torch.fake_quantize_*) rounds x / scale
///         and then adds the zero point, quantization (torch.quantize_*) adds the zero point and
///         then rounds, so that at a few ties the integers differ by one. Each is followed.
/// tflite: divide by the scale, round half away from zero.
/// tf:     tf.quantization.fake_quant_*: a range instead of a grid, see fake_quantize_range.
enum class Compat : std::uint8_t { none, torch, tf, tflite };

/// What NaN becomes. Infinities always saturate.
enum class NonFinite : std::uint8_t {
  error,       ///< throws NonFiniteError before anything is written
  propagate,   ///< NaN stays NaN; floating results only
  zero_point,  ///< the integer zero_point, the real number 0
};

/// "" (none), "torch", "tf" or "tflite".
[[nodiscard]] constexpr Compat compat_from(std::string_view text, std::string_view where) {
  if (text.empty()) return Compat::none;
  if (text == "torch") return Compat::torch;
  if (text == "tf") return Compat::tf;
  check(text == "tflite", where, "compat must be None, \"torch\", \"tf\" or \"tflite\"", text);
  return Compat::tflite;
}

/// "error", "propagate" or "zero_point".
[[nodiscard]] constexpr NonFinite non_finite_from(std::string_view text, std::string_view where) {
  if (text == "error") return NonFinite::error;
  if (text == "propagate") return NonFinite::propagate;
  check(text == "zero_point", where, "nonfinite must be \"error\", \"propagate\" or \"zero_point\"",
        text);
  return NonFinite::zero_point;
}

}  // namespace moptcore::inline v0::quant

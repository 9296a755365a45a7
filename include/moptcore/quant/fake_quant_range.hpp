// SPDX-License-Identifier: Apache-2.0
// Fake quantization by the rules of tf.quantization.fake_quant_with_min_max_vars: a range of real
// numbers instead of a grid.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>

#include <moptcore/core/export.hpp>
#include <moptcore/core/tensor_view.hpp>

namespace moptcore::inline v0::quant {

/// A range moved so that 0 is on its grid of 2^num_bits values (one less where narrow).
struct NudgedRange {
  float min = 0.0f;
  float max = 0.0f;
  float scale = 0.0f;    ///< 0 where the range is [0, 0]
  float inverse = 0.0f;  ///< (qmax - qmin) / (max - min), not quite 1 / scale
  float zero = 0.0f;     ///< steps from min to 0
};

/// Nudges [min, max]; integers are [narrow ? 1 : 0, 2^num_bits - 1]. A range beside 0 is moved to
/// touch it and keeps its width: [0.2, 1] becomes [0, 0.8].
[[nodiscard]] inline NudgedRange nudge_range(float min, float max, int num_bits,
                                             bool narrow) noexcept {
  if (min == 0.0f && max == 0.0f) return {};
  const float qmin = narrow ? 1.0f : 0.0f;
  const auto qmax = static_cast<float>((1 << num_bits) - 1);
  const float scale = (max - min) / (qmax - qmin);
  const float inverse = (qmax - qmin) / (max - min);
  const float zero_point = std::round(std::clamp(qmin - min / scale, qmin, qmax));
  const float low = (qmin - zero_point) * scale;
  const float high = (qmax - zero_point) * scale;
  return {low, high, scale, inverse, std::floor(-low * inverse + 0.5f)};
}

/// floor((clamp(x) - min) / scale - zero + 0.5) * scale, halves rounded up; `per_channel`
/// multiplies by the inverse instead of dividing, as TensorFlow does there. NaN stays NaN; a
/// range of [0, 0] gives 0.
[[nodiscard]] inline float fake_quantize(float x, const NudgedRange& range,
                                         bool per_channel = false) noexcept {
  if (range.scale == 0.0f) return 0.0f;
  if (std::isnan(x)) return std::numeric_limits<float>::quiet_NaN();
  const float shifted = std::clamp(x, range.min, range.max) - range.min;
  const float steps = per_channel ? shifted * range.inverse : shifted / range.scale;
  return std::floor(steps - range.zero + 0.5f) * range.scale;
}

/// True where the gradient passes: x in [min, max], everywhere for a range of [0, 0].
[[nodiscard]] inline bool passes_gradient(float x, const NudgedRange& range) noexcept {
  return range.scale == 0.0f || (x >= range.min && x <= range.max);
}

struct RangeOptions {
  int num_bits = 8;                  ///< in [2, 16]
  bool narrow_range = false;         ///< leaves out the lowest integer
  std::optional<std::int64_t> axis;  ///< none: one range
};

/// Fake-quantizes `src` (float32, float16 or bfloat16; computed in float) into `dst`, by one range
/// or one for each index of the axis. `bits` as in fake_quantize. Throws Error unless ranges are
/// finite with min < max, or both 0.
MOPTCORE_API void fake_quantize_range(const AnyView& src, std::span<const float> min,
                                      std::span<const float> max, const MutableAnyView& dst,
                                      const RangeOptions& options,
                                      std::span<std::uint8_t> bits = {});

}  // namespace moptcore::inline v0::quant

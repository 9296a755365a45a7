// SPDX-License-Identifier: Apache-2.0
// oneDNN's reorder between float and 8-bit integers. Throws std::runtime_error where oneDNN
// refuses or fails.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace moptcore::inline v0::kernels::onednn {

/// The version of the library, such as "3.2.0".
[[nodiscard]] std::string version();

/// A contiguous tensor [outer, channels, inner] with one scale a channel, or with channels = 1.
struct Grouped {
  std::int64_t outer;
  std::int64_t channels;
  std::int64_t inner;
};

/// dst = saturate(round(src / scale) + zero_point); dst is int8_t (`is_signed`) or uint8_t.
void quantize_f32(const float* src, const Grouped& shape, std::span<const float> scales,
                  std::int32_t zero_point, bool is_signed, void* dst);

/// dst = (src - zero_point) * scale.
void dequantize_f32(const void* src, const Grouped& shape, std::span<const float> scales,
                    std::int32_t zero_point, bool is_signed, float* dst);

}  // namespace moptcore::inline v0::kernels::onednn

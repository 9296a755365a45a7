// SPDX-License-Identifier: Apache-2.0
// 16-bit floats, a chunk at a time, as the floats in which arithmetic on them happens.
#pragma once

#include <cstdint>

#include <moptcore/graph/operator.hpp>

namespace moptcore::inline v0::graph {

inline constexpr std::int64_t kChunk = 512;

[[nodiscard]] constexpr bool is_half(ElementType type) noexcept {
  return type == ElementType::float16 || type == ElementType::bfloat16;
}

/// The type in which arithmetic on `type` happens.
[[nodiscard]] constexpr ElementType arithmetic_type(ElementType type) noexcept {
  return is_half(type) ? ElementType::float32 : type;
}

/// `count` elements of float16 or bfloat16 from element `first` of `data` on.
inline void load_halves(ElementType type, const void* data, std::int64_t first, std::int64_t count,
                        float* to) noexcept {
  if (type == ElementType::float16) {
    const auto* from = static_cast<const float16*>(data) + first;
    for (std::int64_t i = 0; i < count; ++i) to[i] = static_cast<float>(from[i]);
  } else {
    const auto* from = static_cast<const bfloat16*>(data) + first;
    for (std::int64_t i = 0; i < count; ++i) to[i] = static_cast<float>(from[i]);
  }
}

inline void store_halves(ElementType type, const float* from, std::int64_t first,
                         std::int64_t count, void* data) noexcept {
  if (type == ElementType::float16) {
    auto* to = static_cast<float16*>(data) + first;
    for (std::int64_t i = 0; i < count; ++i) to[i] = float16(from[i]);
  } else {
    auto* to = static_cast<bfloat16*>(data) + first;
    for (std::int64_t i = 0; i < count; ++i) to[i] = bfloat16(from[i]);
  }
}

}  // namespace moptcore::inline v0::graph

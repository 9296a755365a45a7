// SPDX-License-Identifier: Apache-2.0
// Finds the grid that a tensor lies on: integers q and scales with T(scale * q) equal to every
// element bit for bit.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "bytes.hpp"

#include <moptcore/core/dtype.hpp>
#include <moptcore/core/shape.hpp>

namespace moptcore::inline v0::pack {

struct Grid {
  std::int64_t count = 1;  ///< scales
  std::int64_t inner = 1;  ///< the scale of element i is number (i / inner) % count
  int low = 0;             ///< the integer of symbol 0
  int bits = 8;            ///< of a symbol
  Bytes scales;            ///< count floats, or doubles for float64
  Bytes symbols;           ///< q - low
};

/// With one scale. None unless the integers span less than 2^bits.
[[nodiscard]] std::optional<Grid> find_grid(const std::uint8_t* elements, DType dtype,
                                            const Shape& shape, int bits);

/// With several: the coarsest of one along an axis, one for every 16 to 256 elements of the last
/// axis. None unless the integers of the whole tensor span less than 2^bits.
[[nodiscard]] std::optional<Grid> find_grids(const std::uint8_t* elements, DType dtype,
                                             const Shape& shape, int bits);

/// Elements [0, n) from their symbols; `scales` holds `grid.count` of them.
void apply_grid(const Grid& grid, const std::uint8_t* symbols, std::int64_t n, DType dtype,
                std::uint8_t* elements);

/// Bytes of a scale for a dtype: 8 for float64, else 4.
[[nodiscard]] constexpr int scale_width(DType dtype) noexcept {
  return dtype == DType::float64 ? 8 : 4;
}

}  // namespace moptcore::inline v0::pack

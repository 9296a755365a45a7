// SPDX-License-Identifier: Apache-2.0
#include "graph/operators/strided.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <type_traits>
#include <utility>

#include <moptcore/core/parallel.hpp>

namespace moptcore::inline v0::graph {
namespace {

// Bytes that one thread should move at least, and the sides of a tile of a transposition: 16 rows
// fill cache lines of four-byte elements, few enough of them to stay in the first-level cache.
constexpr std::int64_t kGrainBytes = 1 << 17;
constexpr std::int64_t kTile = 16;
// Sides of a block of tiles: as many rows read, and written, as the translations of addresses that
// a core remembers.
constexpr std::int64_t kBlock = 128;

// The two innermost loops of a copy; the loops around are counted by an odometer.
struct Plane {
  StridedAxis row;
  StridedAxis column;
  bool transposed = false;  // rows are contiguous to read, columns to write
};

// Four rows of four elements of four bytes, turned in registers.
inline void turn_four(std::uint32_t* out, std::int64_t to, const std::uint32_t* in,
                      std::int64_t from) {
#if defined(__has_builtin) && __has_builtin(__builtin_shufflevector)
  using Four = std::uint32_t __attribute__((vector_size(16)));
  Four rows[4];
  for (int i = 0; i < 4; ++i) std::memcpy(&rows[i], in + i * from, sizeof(Four));
  const Four low = __builtin_shufflevector(rows[0], rows[1], 0, 4, 1, 5);
  const Four high = __builtin_shufflevector(rows[0], rows[1], 2, 6, 3, 7);
  const Four low2 = __builtin_shufflevector(rows[2], rows[3], 0, 4, 1, 5);
  const Four high2 = __builtin_shufflevector(rows[2], rows[3], 2, 6, 3, 7);
  rows[0] = __builtin_shufflevector(low, low2, 0, 1, 4, 5);
  rows[1] = __builtin_shufflevector(low, low2, 2, 3, 6, 7);
  rows[2] = __builtin_shufflevector(high, high2, 0, 1, 4, 5);
  rows[3] = __builtin_shufflevector(high, high2, 2, 3, 6, 7);
  for (int i = 0; i < 4; ++i) std::memcpy(out + i * to, &rows[i], sizeof(Four));
#else
  for (int r = 0; r < 4; ++r) {
    for (int c = 0; c < 4; ++c) out[r * to + c] = in[r + c * from];
  }
#endif
}

// A tile of kTile rows and half as many columns, or what is left of one at an edge.
template <class T>
void copy_tile(T* out, const T* in, std::int64_t rows, std::int64_t columns, std::int64_t to,
               std::int64_t from) {
  if constexpr (std::is_same_v<T, std::uint32_t>) {
    if (rows == kTile && columns == kTile / 2) {
      for (std::int64_t r = 0; r < kTile; r += 4) {
        for (std::int64_t c = 0; c < kTile / 2; c += 4) {
          turn_four(out + r * to + c, to, in + r + c * from, from);
        }
      }
      return;
    }
  }
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < columns; ++c) out[r * to + c] = in[r + c * from];
  }
}

template <class T>
void copy_plane(T* out, const T* in, const Plane& plane) {
  const StridedAxis& row = plane.row;
  const StridedAxis& column = plane.column;
  if (plane.transposed) {
    for (std::int64_t r = 0; r < row.extent; r += kTile) {
      const std::int64_t rows = std::min(kTile, row.extent - r);
      for (std::int64_t c = 0; c < column.extent; c += kTile / 2) {
        const std::int64_t columns = std::min(kTile / 2, column.extent - c);
        copy_tile(out + r * row.to + c, in + r + c * column.from, rows, columns, row.to,
                  column.from);
      }
    }
    return;
  }
  const std::int64_t count = column.extent;
  for (std::int64_t r = 0; r < row.extent; ++r) {
    T* target = out + r * row.to;
    const T* source = in + r * row.from;
    if (column.from == 1 && column.to == 1) {
      if (count >= 8) copy_run(target, source, count);
      else
        for (std::int64_t c = 0; c < count; ++c) target[c] = source[c];
    } else if (column.from == 0 && column.to == 1) {
      const T value = *source;
      std::fill(target, target + count, value);
    } else if (column.to == 1) {
      for (std::int64_t c = 0; c < count; ++c) target[c] = source[c * column.from];
    } else {
      for (std::int64_t c = 0; c < count; ++c) target[c * column.to] = source[c * column.from];
    }
  }
}

// Neighbours that step as one become one, extents of 1 vanish. False where nothing is to copy.
bool merge_axes(std::span<const StridedAxis> given, std::array<StridedAxis, kMaxStridedAxes>& axes,
                int& rank) {
  rank = 0;
  for (const StridedAxis& axis : given) {
    if (axis.extent == 0) return false;
    if (axis.extent == 1) continue;
    if (rank > 0 && axes[rank - 1].from == axis.from * axis.extent &&
        axes[rank - 1].to == axis.to * axis.extent) {
      axes[rank - 1] = {axes[rank - 1].extent * axis.extent, axis.from, axis.to};
    } else {
      axes[rank++] = axis;
    }
  }
  return true;
}

}  // namespace

template <class T>
void copy_run(T* out, const T* in, std::int64_t count) {
  if constexpr (std::is_trivially_copyable_v<T>) {
    if (count > 0) std::memcpy(out, in, static_cast<std::size_t>(count) * sizeof(T));
  } else {
    std::copy(in, in + count, out);
  }
}

template <class T>
void fill_run(T* out, const T& value, std::int64_t count) {
  const T copy = value;
  parallel_for(
      count, kGrainBytes / static_cast<std::int64_t>(sizeof(T)),
      [&](std::int64_t first, std::int64_t last) { std::fill(out + first, out + last, copy); });
}

template <class T>
void copy_strided(T* out, const T* in, std::span<const StridedAxis> given) {
  constexpr std::int64_t kGrain = kGrainBytes / static_cast<std::int64_t>(sizeof(T));
  std::array<StridedAxis, kMaxStridedAxes> axes;
  int rank = 0;
  if (!merge_axes(given, axes, rank)) return;
  if (rank == 0) {
    *out = *in;
    return;
  }
  Plane plane;
  plane.column = axes[--rank];
  if (rank == 0) {
    const StridedAxis& only = plane.column;
    parallel_for(only.extent, kGrain, [&](std::int64_t first, std::int64_t last) {
      Plane part{{1, 0, 0}, only, false};
      part.column.extent = last - first;
      copy_plane(out + first * only.to, in + first * only.from, part);
    });
    return;
  }
  int row = rank - 1;
  if (plane.column.to == 1 && plane.column.from > 1) {
    for (int axis = 0; axis < rank; ++axis) {
      if (axes[axis].from != 1) continue;
      row = axis;
      plane.transposed = true;
    }
  }
  plane.row = axes[row];
  std::move(axes.begin() + row + 1, axes.begin() + rank, axes.begin() + row);
  --rank;

  std::int64_t planes = 1;
  for (int axis = 0; axis < rank; ++axis) planes *= axes[axis].extent;
  // Rows are cut into parts, so that few large planes keep several threads busy; columns too where
  // tiles are copied.
  const StridedAxis rows = plane.row;
  const StridedAxis columns = plane.column;
  const std::int64_t wanted =
      plane.transposed ? kBlock : std::max<std::int64_t>(kGrain / columns.extent, 1);
  const std::int64_t height = std::min(wanted, rows.extent);
  const std::int64_t width = plane.transposed ? std::min(kBlock, columns.extent) : columns.extent;
  const std::int64_t across = (columns.extent - 1) / width + 1;
  const std::int64_t parts = ((rows.extent - 1) / height + 1) * across;
  const std::int64_t grain = std::max<std::int64_t>(kGrain / (height * width), 1);
  parallel_for(planes * parts, grain, [&](std::int64_t first, std::int64_t last) {
    std::array<std::int64_t, kMaxStridedAxes> index{};
    std::int64_t at = first / parts;
    std::int64_t part = first % parts;
    T* target = out;
    const T* source = in;
    for (int axis = rank - 1; axis >= 0; --axis) {
      index[axis] = at % axes[axis].extent;
      at /= axes[axis].extent;
      target += index[axis] * axes[axis].to;
      source += index[axis] * axes[axis].from;
    }
    Plane cut = plane;
    for (std::int64_t unit = first; unit < last; ++unit) {
      const std::int64_t row_start = part / across * height;
      const std::int64_t column_start = part % across * width;
      cut.row.extent = std::min(height, rows.extent - row_start);
      cut.column.extent = std::min(width, columns.extent - column_start);
      copy_plane(target + row_start * rows.to + column_start * columns.to,
                 source + row_start * rows.from + column_start * columns.from, cut);
      if (++part < parts) continue;
      part = 0;
      for (int axis = rank - 1; axis >= 0; --axis) {
        target += axes[axis].to;
        source += axes[axis].from;
        if (++index[axis] < axes[axis].extent) break;
        target -= axes[axis].extent * axes[axis].to;
        source -= axes[axis].extent * axes[axis].from;
        index[axis] = 0;
      }
    }
  });
}

MOPTCORE_STRIDED_ALL()

}  // namespace moptcore::inline v0::graph

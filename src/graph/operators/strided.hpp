// SPDX-License-Identifier: Apache-2.0
// Copies elements from one order of axes to another: what Transpose, Slice, Concat, Expand, Tile
// and their like come down to.
#pragma once

#include <complex>
#include <cstdint>
#include <span>
#include <string>

#include <moptcore/core/shape.hpp>

namespace moptcore::inline v0::graph {

/// One loop of a copy: how far a step goes where elements are read and where they are written. A
/// stride of 0 to read repeats elements, a negative one reverses them.
struct StridedAxis {
  std::int64_t extent = 1;
  std::int64_t from = 0;
  std::int64_t to = 0;
};

/// Tile needs two loops an axis.
inline constexpr int kMaxStridedAxes = 2 * kMaxRank + 2;

/// Element sum(i * to) of `out` becomes element sum(i * from) of `in`, for every i. T is one of
/// uint8_t to uint64_t, std::complex<double>, std::string. On several threads where it pays.
template <class T>
void copy_strided(T* out, const T* in, std::span<const StridedAxis> axes);

/// `count` elements that lie together.
template <class T>
void copy_run(T* out, const T* in, std::int64_t count);

template <class T>
void fill_run(T* out, const T& value, std::int64_t count);

#define MOPTCORE_STRIDED(linkage, T)                                                      \
  linkage template void copy_strided<T>(T*, const T*, std::span<const StridedAxis> axes); \
  linkage template void copy_run<T>(T*, const T*, std::int64_t);                          \
  linkage template void fill_run<T>(T*, const T&, std::int64_t);
#define MOPTCORE_STRIDED_ALL(linkage)             \
  MOPTCORE_STRIDED(linkage, std::uint8_t)         \
  MOPTCORE_STRIDED(linkage, std::uint16_t)        \
  MOPTCORE_STRIDED(linkage, std::uint32_t)        \
  MOPTCORE_STRIDED(linkage, std::uint64_t)        \
  MOPTCORE_STRIDED(linkage, std::complex<double>) \
  MOPTCORE_STRIDED(linkage, std::string)
MOPTCORE_STRIDED_ALL(extern)

}  // namespace moptcore::inline v0::graph

// SPDX-License-Identifier: Apache-2.0
// A codebook applied: the nearest centroid of each weight, the weights that indices stand for, and
// the gradient of the centroids.
//
// Who shares a codebook: without axis and group_size the whole tensor does, and centroids are a
// vector of k. With `axis` each index along it has its own; with `group_size` too, that many
// consecutive ones share it. With `group_size` alone that many consecutive elements in row-major
// order do. Centroids are then a matrix, one row for each group; the last group may be smaller.
#pragma once

#include <cstdint>
#include <optional>

#include <moptcore/core/export.hpp>
#include <moptcore/core/tensor_view.hpp>

namespace moptcore::inline v0::cluster {

/// Most centroids of a codebook: what uint16 can index.
inline constexpr std::int64_t kMaxClusters = 65536;

/// Whose arithmetic to follow.
enum class Compat : std::uint8_t {
  none,   ///< exact distances
  tfmot,  ///< |weight - centroid| rounded to float32, as TFMOT 0.8 compares; float32 only
};

struct Sharing {
  std::optional<std::int64_t> axis;
  std::optional<std::int64_t> group_size;  ///< >= 1
};

/// uint8 for k <= 256 centroids, uint16 for more.
[[nodiscard]] constexpr DType index_dtype(std::int64_t k) noexcept {
  return k <= 256 ? DType::uint8 : DType::uint16;
}

/// Codebooks of a tensor of `shape`: 1 without axis and group_size.
[[nodiscard]] MOPTCORE_API std::int64_t codebook_count(const Shape& shape, const Sharing& sharing,
                                                       const char* where);

struct AssignOptions {
  Sharing sharing;
  /// Weights equal to zero, and only they, go to the first centroid equal to zero; the others to
  /// the nearest of the rest. Throws where there are zeros but no zero centroid.
  bool preserve_zeros = false;
  Compat compat = Compat::none;
};

/// The index of the nearest centroid, the lowest of several, into `indices`, uint8 or uint16 of the
/// weights' shape. Centroids may come in any order and repeat. Distances are compared exactly, not
/// rounded. NaN and infinity throw. Time O(n log k).
MOPTCORE_API void assign(const AnyView& weights, const AnyView& centroids,
                         const MutableAnyView& indices, const AssignOptions& options = {});

/// out[i] = centroids[indices[i]]. `indices` has any integer dtype but int4 and uint4; `out` has
/// its shape and the centroids' dtype. Throws for an index out of range.
MOPTCORE_API void lookup(const AnyView& indices, const AnyView& centroids,
                         const MutableAnyView& out, const Sharing& sharing = {});

enum class Reduction : std::uint8_t { sum, mean };

/// Sum or mean of the gradients of all weights that belong to each of k centroids, 0 for a centroid
/// without any. `out` has the centroids' shape and the dtype of `gradient`. Sums are taken in
/// double in an order that only the shapes decide.
MOPTCORE_API void centroid_gradient(const AnyView& gradient, const AnyView& indices, std::int64_t k,
                                    const MutableAnyView& out, Reduction reduction = Reduction::sum,
                                    const Sharing& sharing = {});

}  // namespace moptcore::inline v0::cluster

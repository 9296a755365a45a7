// SPDX-License-Identifier: Apache-2.0
// Masks that prune weights in groups: whole slices, rectangles, N of every M.
#pragma once

#include <cstdint>
#include <optional>

#include <moptcore/core/export.hpp>
#include <moptcore/core/tensor_view.hpp>
#include <moptcore/prune/mask.hpp>

namespace moptcore::inline v0::prune {

struct RowOptions {
  std::int64_t axis = 0;          ///< the rows are weights[..., i, ...] along this axis
  std::optional<AnyView> scores;  ///< of the weights' shape, instead of the magnitudes
  NonFinite nonfinite = NonFinite::error;
};

/// Prunes zero_count(size of a row, sparsity) elements of every slice along an axis, each ranked by
/// itself; of equal ones the first in row-major order are kept. For the weights of a linear layer
/// or convolution the rows of axis 0 are its outputs, which Wanda compares within only.
MOPTCORE_API void row_mask(const AnyView& weights, double sparsity, const MutableAnyView& mask,
                           const RowOptions& options = {});

struct StructuredOptions {
  std::int64_t axis = 0;  ///< the slices are weights[..., i, ...] along this axis
  double ord = 2.0;       ///< order of the norm: > 0, infinity for the largest magnitude
  /// One number for each slice to rank them by instead of the norm.
  std::optional<AnyView> scores;
  NonFinite nonfinite = NonFinite::error;
  /// Whether `mask` has the shape of the weights or one element for each slice. Its own shape
  /// tells by default; packed masks of both kinds may have the same size, then the slices win.
  std::optional<bool> expand;
};

/// Prunes the zero_count(extent, sparsity) slices of smallest norm; of equal ones the first are
/// kept. `mask` has one element for each slice, or the shape of the weights. Norms are summed in
/// double in an order that only the shape decides.
MOPTCORE_API void structured_mask(const AnyView& weights, double sparsity,
                                  const MutableAnyView& mask,
                                  const StructuredOptions& options = {});

enum class Pooling : std::uint8_t {
  mean,  ///< of the magnitudes in the block
  max,
};

struct BlockOptions {
  std::int64_t rows = 4;  ///< >= 1
  std::int64_t cols = 1;  ///< >= 1
  Pooling pooling = Pooling::mean;
  /// Of the weights' shape; pooled as they are instead of the magnitudes.
  std::optional<AnyView> scores;
  NonFinite nonfinite = NonFinite::error;
};

/// Cuts the last two axes into blocks and prunes zero_count(number of blocks, sparsity) of them;
/// blocks at the end of an axis may be smaller and count as one. Weights need two dimensions.
MOPTCORE_API void block_mask(const AnyView& weights, double sparsity, const MutableAnyView& mask,
                             const BlockOptions& options = {});

struct NmOptions {
  std::int64_t axis = -1;
  std::optional<AnyView> scores;  ///< of the weights' shape, instead of the magnitudes
  NonFinite nonfinite = NonFinite::error;
};

/// Keeps the n largest of every m consecutive elements along an axis; of equal ones the first are
/// kept. An incomplete last group is kept whole. 1 <= n <= m.
MOPTCORE_API void nm_mask(const AnyView& weights, std::int64_t n, std::int64_t m,
                          const MutableAnyView& mask, const NmOptions& options = {});

}  // namespace moptcore::inline v0::prune

// SPDX-License-Identifier: Apache-2.0
// Which weights are kept: masks of exact sparsity, and what is done with them.
//
// A mask is a boolean tensor of the weights' shape, true where a weight is kept, or packed: a
// uint8 tensor of packed_size(n) bytes whose bit i % 8 of byte i / 8 stands for element i in
// row-major order. Every function that fills a mask takes either and never changes its inputs.
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <span>

#include <moptcore/core/export.hpp>
#include <moptcore/core/tensor_view.hpp>

namespace moptcore::inline v0::prune {

/// What to do with NaN.
enum class NonFinite : std::uint8_t {
  error,        ///< throw NonFiniteError, changing nothing
  prune_first,  ///< NaN ranks below everything
  keep,         ///< NaN ranks above everything
};

/// Whose counting and tie rule to follow.
enum class Compat : std::uint8_t {
  none,   ///< zero_count(n, sparsity) zeros; of equal elements the first ones are kept
  torch,  ///< the count of torch.nn.utils.prune, which also takes 1; ties as in `none`
  tfmot,  ///< max(round(n (1 - sparsity)), 1) kept in float32, and all that equal the last one
};

/// Zeros that n elements get: n * sparsity in double, rounded half to even.
[[nodiscard]] inline std::int64_t zero_count(std::int64_t n, double sparsity) noexcept {
  return static_cast<std::int64_t>(std::nearbyint(static_cast<double>(n) * sparsity));
}

/// Bytes of the packed mask of n elements.
[[nodiscard]] constexpr std::int64_t packed_size(std::int64_t n) noexcept { return (n + 7) / 8; }

struct MaskOptions {
  /// Ranks the elements instead of their magnitudes: the lowest are pruned. Of the weights'
  /// shape; any dtype but int4 and uint4; negative values and infinities are ordinary values.
  std::optional<AnyView> scores;
  NonFinite nonfinite = NonFinite::error;
  Compat compat = Compat::none;
};

/// Prunes the zero_count(n, sparsity) elements of smallest magnitude; of equal ones the first in
/// row-major order are kept. -0 equals 0, infinities are largest. `sparsity` in [0, 1). The result
/// depends on neither threads nor instruction set. Time O(n), scratch about n / 6 bytes.
MOPTCORE_API void magnitude_mask(const AnyView& weights, double sparsity,
                                 const MutableAnyView& mask, const MaskOptions& options = {});

struct GlobalOptions {
  std::span<const AnyView> scores;  ///< empty, or one for each tensor
  NonFinite nonfinite = NonFinite::error;
  /// Least and greatest share of zeros in each tensor, in [0, 1]: empty, one for all, or one for
  /// each. A tensor of n elements gets zero_count(n, minimum) to zero_count(n, maximum) zeros.
  std::span<const double> minimum;
  std::span<const double> maximum;
};

/// One ranking over all tensors together: zero_count(sum of sizes, sparsity) zeros, of equal
/// elements those of earlier tensors are kept. Mixed dtypes compare as float64. With bounds the
/// total stays exact: the zeros that a tensor must or may not have are taken from the others, the
/// lowest first. Throws where the bounds do not allow that total.
MOPTCORE_API void global_mask(std::span<const AnyView> weights, double sparsity,
                              std::span<const MutableAnyView> masks,
                              const GlobalOptions& options = {});

/// Prunes zero_count(n, sparsity) elements drawn by Philox from `seed`. `shape` is that of the
/// weights, which a packed mask does not tell.
MOPTCORE_API void random_mask(const Shape& shape, double sparsity, std::uint64_t seed,
                              const MutableAnyView& mask);

/// Writes the weights to `out` with +0 where the mask is false, also for NaN and infinity. `out`
/// has the dtype and shape of `weights` and may be the same array. Any dtype but int4 and uint4.
MOPTCORE_API void apply_mask(const AnyView& weights, const AnyView& mask,
                             const MutableAnyView& out);

/// Packs a boolean mask.
MOPTCORE_API void pack_mask(const AnyView& mask, const MutableAnyView& packed);

/// Throws unless `packed` is the uint8 vector that a mask of `shape` packs into.
MOPTCORE_API void check_packed(const AnyView& packed, const Shape& shape, const char* where);

/// Unpacks into a boolean mask.
MOPTCORE_API void unpack_mask(const AnyView& packed, const MutableAnyView& mask);

/// Elements that equal zero; -0 does, NaN does not. Any dtype but int4 and uint4.
[[nodiscard]] MOPTCORE_API std::int64_t count_zeros(const AnyView& tensor);

/// Share of the elements that equal zero. Throws for an empty tensor.
[[nodiscard]] MOPTCORE_API double sparsity(const AnyView& tensor);

}  // namespace moptcore::inline v0::prune

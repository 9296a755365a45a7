// SPDX-License-Identifier: Apache-2.0
// Codebooks of weights: the optimum of one-dimensional k-means, Lloyd's iteration, and the
// initialisations of other tools.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <moptcore/cluster/assign.hpp>
#include <moptcore/core/export.hpp>
#include <moptcore/core/tensor_view.hpp>

namespace moptcore::inline v0::cluster {

/// How centroids are found. All but `optimal` are followed by Lloyd's iteration in kmeans().
enum class Init : std::uint8_t {
  optimal,           ///< the least sum of squared errors, by dynamic programming
  linear,            ///< evenly spaced from the smallest to the largest value
  density,           ///< the values at the shares (i + 1/2) / k of the sorted weights
  random,            ///< uniform between the smallest and the largest value
  kmeans_plus_plus,  ///< drawn with chances by squared distance, the best of 2 + ln k trials each
};

/// Values of a group up to which `optimal` is exact unless told otherwise.
inline constexpr std::int64_t kExactValues = std::int64_t{1} << 21;

struct KMeansOptions {
  Sharing sharing;
  Init init = Init::optimal;
  /// One centroid is exactly zero in each group that holds zeros, and only they belong to it; the
  /// rest are clustered by k - 1 centroids.
  bool preserve_zeros = false;
  std::uint64_t seed = 0;             ///< of `random` and `kmeans_plus_plus`
  std::int64_t max_iterations = 300;  ///< of Lloyd, >= 0
  /// `optimal` over all values, or to `tolerance`; by default exact up to kExactValues. float16 and
  /// bfloat16 are always exact.
  std::optional<bool> exact;
  /// Where it is not exact: before centroids are rounded to the weights' dtype, the sum of squared
  /// errors is at most (1 + tolerance) times the least. Values are counted in cells, those that may
  /// hold a border are divided, and it ends when a lower bound of the optimum proves it; where a
  /// few passes do not get there, and for 0, the result is exact.
  double tolerance = 1e-4;
  /// `tfmot`: its centroids in its order and without Lloyd, float32 only. `random` as after
  /// tf.random.set_seed(seed); `kmeans_plus_plus` ignores the seed, which is always 9 there.
  Compat compat = Compat::none;
};

/// Centroids as they come out: `rows` groups of `columns` centroids, ascending, already rounded to
/// the dtype of the weights. Groups with fewer distinct values repeat their largest centroid that
/// is not the pinned zero.
struct Centroids {
  std::int64_t rows = 1;
  std::int64_t columns = 0;
  bool shared = true;  ///< one codebook for the whole tensor: a vector
  std::vector<double> values;

  [[nodiscard]] Shape shape() const { return shared ? Shape{columns} : Shape{rows, columns}; }
  [[nodiscard]] AnyView view() const { return AnyView(values.data(), DType::float64, shape()); }

  /// Writes the centroids to a tensor of shape() and any floating dtype.
  MOPTCORE_API void store(const MutableAnyView& out) const;
};

/// At most k centroids for each group, and into `indices` (uint8 or uint16 of the weights' shape)
/// the nearest one of each weight. Where a group has no more than k distinct values, exactly those.
/// Throws for k outside [1, 65536] ([2, 65536] to preserve zeros), NaN, infinity, no weights.
///
/// The optimum: Aggarwal, Schieber, Tokuyama, "Finding a minimum-weight k-link path in graphs with
/// the concave Monge property", 1994: a price for each cluster turns k-means into one pass over the
/// sorted values; the price is searched that buys k.
[[nodiscard]] MOPTCORE_API Centroids kmeans(const AnyView& weights, std::int64_t k,
                                            const MutableAnyView& indices,
                                            const KMeansOptions& options = {});

/// The centroids that kmeans() starts Lloyd's iteration from; max_iterations is not used.
[[nodiscard]] MOPTCORE_API Centroids init_centroids(const AnyView& weights, std::int64_t k,
                                                    const KMeansOptions& options = {});

struct LloydOptions {
  Sharing sharing;
  bool preserve_zeros = false;  ///< the first centroid equal to zero stays and takes only zeros
  std::int64_t max_iterations = 300;  ///< >= 0
};

/// Moves each centroid to the mean of its weights until nothing changes: the error never grows.
/// A centroid without weights stays where it is. The result is sorted.
/// Lloyd, "Least squares quantization in PCM", 1982.
[[nodiscard]] MOPTCORE_API Centroids lloyd(const AnyView& weights, const AnyView& centroids,
                                           const LloydOptions& options = {});

}  // namespace moptcore::inline v0::cluster

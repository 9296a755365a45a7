// SPDX-License-Identifier: Apache-2.0
// Observers that count: histograms of any number of updates, and the ranges that they give.
//
// Bins lie on the grid k * 2^e, so that two neighbours of an even grid are exactly one bin of the
// next coarser one. e is a function of the smallest and the largest value alone: the least e that
//   - is at least ilogb(max |x|) - 23, where bins are as wide as a float is exact,
//   - lets the values from floor(min / 2^e) to floor(max / 2^e) fit into the bins.
// A wider range never has a smaller e, and floor(floor(x / 2^e) / 2) = floor(x / 2^(e + 1)).
// Therefore the counts are those of all values binned once with the final e, whatever the order
// of updates and merges: nothing is ever guessed about where in a bin a value was. Counts are
// int64. More than half of the bins are in use, but where all values lie closer than floats do.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include <moptcore/core/export.hpp>
#include <moptcore/core/qparams.hpp>
#include <moptcore/core/tensor_view.hpp>
#include <moptcore/quant/range.hpp>

namespace moptcore::inline v0::quant {

inline constexpr std::int64_t kDefaultBins = 2048;

/// One channel's counts: counts[i] values lie in [(first + i) * 2^exponent, (first + i + 1) *
/// 2^exponent), the smallest is min and the largest max.
struct BinCounts {
  std::span<const std::int64_t> counts;  ///< of the bins in use only; empty where nothing was seen
  std::int64_t first = 0;
  int exponent = 0;
  float min = 0.0f;
  float max = 0.0f;
};

/// The exponent e of the grid for values in [min, max] and `bins` bins.
[[nodiscard]] MOPTCORE_API int bin_exponent(float min, float max, std::int64_t bins) noexcept;

/// floor(value / 2^exponent), exact.
[[nodiscard]] MOPTCORE_API std::int64_t bin_of(float value, int exponent) noexcept;

/// The mean squared error of quantizing what was counted, each bin's values spread evenly over it
/// (over its part of [min, max]): closed form, no sampling.
[[nodiscard]] MOPTCORE_API double expected_error(const BinCounts& bins, const Grid& grid) noexcept;

/// The Kullback-Leibler divergence, in nats, of what was counted from what is left of it when
/// [low, high) of the bins is cut into the cells of `grid`: P has the values outside folded into
/// the outermost bins; Q has the values inside, each cell's spread over those of its bins that hold
/// any. Infinite where an outermost bin is empty but would take values from outside. With
/// `absolute` bins are those of |x| and cells those of the integers from the zero point up.
[[nodiscard]] MOPTCORE_API double divergence(std::span<const std::int64_t> counts,
                                             std::int64_t first, double width, std::int64_t low,
                                             std::int64_t high, const Grid& grid);

enum class Tails : std::uint8_t {
  split,     ///< (100 - percentile) / 2 percent of the values may lie below, as many above
  each,      ///< 100 - percentile percent below, as many above
  absolute,  ///< 100 - percentile percent may lie outside of a range [-t, t]
};

/// "split", "each" or "absolute".
[[nodiscard]] MOPTCORE_API Tails tails_from(std::string_view text, std::string_view where);
[[nodiscard]] MOPTCORE_API std::string_view name(Tails tails) noexcept;

/// Counts values in bins, of all or for each index of an axis, in O(bins) memory for each. Not
/// thread-safe.
class MOPTCORE_API CountingObserver {
 public:
  enum class Search : std::uint8_t { percentile, entropy, error, path };

  /// Counts the elements of `x`, any floating dtype and strides, rounded to float32.
  void update(const AnyView& x, OnNonFinite nonfinite = OnNonFinite::error);

  /// The range that the observer's rule picks for the integers of a grid; see qparams_from_range
  /// for the grid. Ends are edges of bins or min and max. Throws Error where a channel has seen
  /// nothing.
  [[nodiscard]] GroupRange range(const GridType& type = DType::int8, bool symmetric = true,
                                 Compat compat = Compat::none) const;
  [[nodiscard]] QParams qparams(const GridType& type = DType::int8, bool symmetric = true,
                                Compat compat = Compat::none) const;

  [[nodiscard]] std::int64_t bins() const noexcept { return bins_; }
  [[nodiscard]] const std::optional<std::int64_t>& axis() const noexcept { return axis_; }
  /// One element a channel; empty before the first update. min > max where nothing was seen.
  [[nodiscard]] const std::vector<float>& min() const noexcept { return min_; }
  [[nodiscard]] const std::vector<float>& max() const noexcept { return max_; }
  [[nodiscard]] const std::vector<std::int64_t>& exponent() const noexcept { return exponent_; }
  /// [channels, bins]: element i of a row counts bin floor(min / 2^exponent) + i.
  [[nodiscard]] const std::vector<std::int64_t>& counts() const noexcept { return counts_; }
  [[nodiscard]] BinCounts channel(std::int64_t index) const noexcept;

  /// Continues from what another observer's getters gave. Throws FormatError where the numbers
  /// are none that counting gives.
  void restore(std::vector<float> min, std::vector<float> max, std::vector<std::int64_t> exponent,
               std::vector<std::int64_t> counts);

  void reset() noexcept;

  friend bool operator==(const CountingObserver&, const CountingObserver&) = default;

 protected:
  CountingObserver(Search search, std::optional<std::int64_t> axis, std::int64_t bins,
                   const char* where);
  /// Exactly the counts of one observer that saw the updates of both.
  void merge_counts(const CountingObserver& other, const char* where);

  double percentile_ = 100.0;
  Tails tails_ = Tails::split;

 private:
  void widen(const std::vector<float>& min, const std::vector<float>& max);
  void update_all(const AnyView& x, OnNonFinite nonfinite);

  Search search_;
  std::int64_t bins_;
  std::optional<std::int64_t> axis_;
  std::vector<float> min_;
  std::vector<float> max_;
  std::vector<std::int64_t> exponent_;
  std::vector<std::int64_t> counts_;
};

/// The smallest range of whole bins outside of which lie at most the given share of the values.
class MOPTCORE_API PercentileObserver : public CountingObserver {
 public:
  /// percentile in (50, 100].
  explicit PercentileObserver(double percentile = 99.999, Tails tails = Tails::split,
                              std::optional<std::int64_t> axis = std::nullopt,
                              std::int64_t bins = kDefaultBins);
  [[nodiscard]] double percentile() const noexcept { return percentile_; }
  [[nodiscard]] Tails tails() const noexcept { return tails_; }
  void merge(const PercentileObserver& other);
};

/// The range of least divergence (Migacz, "8-bit Inference with TensorRT", GTC 2017). Symmetric
/// grids, and values of one sign, try every edge that leaves a bin to every integer; others
/// try 32 x 32 pairs of edges and go down from the best 4 of them, along one end at a time and
/// among near pairs, until nothing helps.
class MOPTCORE_API EntropyObserver : public CountingObserver {
 public:
  explicit EntropyObserver(std::optional<std::int64_t> axis = std::nullopt,
                           std::int64_t bins = kDefaultBins);
  void merge(const EntropyObserver& other);
};

/// The range of least expected_error, among the same candidates.
class MOPTCORE_API MSEObserver : public CountingObserver {
 public:
  explicit MSEObserver(std::optional<std::int64_t> axis = std::nullopt,
                       std::int64_t bins = kDefaultBins);
  void merge(const MSEObserver& other);
};

/// The range of least expected_error along one path: from the whole range inwards, 1e-5 of the
/// values at a time, at the end where that skips more bins. The path of torch's HistogramObserver,
/// walked to its end, with the error of the grid that is used.
class MOPTCORE_API HistogramObserver : public CountingObserver {
 public:
  explicit HistogramObserver(std::optional<std::int64_t> axis = std::nullopt,
                             std::int64_t bins = kDefaultBins);
  void merge(const HistogramObserver& other);
};

}  // namespace moptcore::inline v0::quant

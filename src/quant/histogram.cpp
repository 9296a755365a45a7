// SPDX-License-Identifier: Apache-2.0
#include <moptcore/quant/histogram.hpp>

#include <moptcore/core/parallel.hpp>

#include <atomic>
#include <cmath>
#include <mutex>
#include <string>
#include <utility>

#include "kernels/float_mode.hpp"
#include "kernels/histogram.hpp"
#include "quant/grids.hpp"
#include "quant/observed.hpp"
#include "quant/range_search.hpp"

namespace moptcore::inline v0::quant {
namespace {

using kernels::BinGrid;
using kernels::kScratch;

constexpr std::int64_t kGrain = std::int64_t{1} << 18;
constexpr std::int64_t kMaxBins = std::int64_t{1} << 16;
constexpr int kFractionBits = 23;
constexpr int kMinExponent = -149;

BinGrid bin_grid(float min, int exponent, std::int64_t bins) {
  // Products below 2^24 of a float and a power of two from 1 on have all its digits.
  const bool is_exact = exponent <= 0 && exponent >= -126;
  const int half = is_exact ? -exponent : -exponent / 2;
  return {std::ldexp(1.0f, half), std::ldexp(1.0f, -exponent - half),
          static_cast<float>(bin_of(min, exponent)), static_cast<std::int32_t>(bins), is_exact};
}

// Counts of one grid.
class Tally {
 public:
  explicit Tally(std::int64_t bins)
      : size_(static_cast<std::size_t>(bins) + 1),
        tables_(static_cast<std::size_t>(kernels::kCountTables) * size_, 0) {}

  void add(const float* src, std::int64_t n, const BinGrid& grid, bool finite) {
    kernels::count_f32(src, n, grid, finite, tables_.data());
    pending_ += n;
  }

  void add(const double* src, std::int64_t n, const BinGrid& grid, bool finite) {
    constexpr double kTop = std::numeric_limits<float>::max();
    alignas(64) float rounded[kScratch];
    for (std::int64_t at = 0; at < n; at += kScratch) {
      const std::int64_t count = std::min(kScratch, n - at);
      for (std::int64_t i = 0; i < count; ++i) {
        const double x = src[at + i];
        rounded[i] = static_cast<float>(std::isfinite(x) ? std::clamp(x, -kTop, kTop) : x);
      }
      add(rounded, count, grid, finite);
    }
  }

  // True before a 32-bit count could overflow.
  [[nodiscard]] bool is_full() const noexcept { return pending_ >= std::int64_t{1} << 30; }

  void flush(std::int64_t* counts) {
    if (pending_ == 0) return;
    for (std::size_t i = 0; i + 1 < size_; ++i) {
      counts[i] += static_cast<std::int64_t>(tables_[i]) + tables_[i + size_] +
                   tables_[i + 2 * size_] + tables_[i + 3 * size_];
    }
    std::ranges::fill(tables_, 0u);
    pending_ = 0;
  }

 private:
  std::size_t size_;
  std::vector<std::uint32_t> tables_;
  std::int64_t pending_ = 0;
};

// Moves counts[i] of bin first + i, in place, to the grid whose bins are 2^shift as wide.
void coarsen(std::int64_t* counts, std::int64_t bins, std::int64_t first, int shift,
             std::int64_t new_first, std::vector<std::int64_t>& scratch) {
  scratch.assign(static_cast<std::size_t>(bins), 0);
  for (std::int64_t i = 0; i < bins; ++i) {
    if (counts[i] == 0) continue;
    scratch[static_cast<std::size_t>(((first + i) >> shift) - new_first)] += counts[i];
  }
  std::ranges::copy(scratch, counts);
}

// What one channel has seen, as an observer or one of its threads holds it.
struct Channel {
  float& min;
  float& max;
  std::int64_t& exponent;
  std::int64_t* counts;
  std::int64_t bins;

  void widen(float low, float high, std::vector<std::int64_t>& scratch) const {
    if (!is_seen(low, high)) return;
    const bool any = is_seen(min, max);
    const int old = static_cast<int>(exponent);
    const std::int64_t first = any ? bin_of(min, old) : 0;
    min = std::min(min, low);
    max = std::max(max, high);
    const int now = bin_exponent(min, max, bins);
    exponent = now;
    if (!any) return;
    const std::int64_t new_first = bin_of(min, now);
    if (now == old && new_first == first) return;
    // Bins are below 2^24 in magnitude: a longer shift has no other result.
    coarsen(counts, bins, first, std::min(now - old, 62), new_first, scratch);
  }

  [[nodiscard]] BinGrid grid() const {
    return bin_grid(is_seen(min, max) ? min : 0.0f, static_cast<int>(exponent), bins);
  }
};

struct Counted {
  explicit Counted(std::int64_t bins) : counts(static_cast<std::size_t>(bins), 0) {}

  [[nodiscard]] Channel channel() {
    return {min, max, exponent, counts.data(), static_cast<std::int64_t>(counts.size())};
  }

  float min = kInfinity;
  float max = -kInfinity;
  std::int64_t exponent = 0;
  std::vector<std::int64_t> counts;
};

// Values that are looked at for their range and then, still in the first cache, counted.
constexpr std::int64_t kPiece = 4096;

// The whole tensor in one pass: the range grows while counting goes on, which the counts do not
// show. False where a value was not finite.
template <class T>
bool count_all(const AnyView& x, Counted& all) {
  std::mutex mutex;
  std::atomic<bool> all_finite{true};
  const auto bins = static_cast<std::int64_t>(all.counts.size());
  Counted start(bins);
  start.min = all.min;
  start.max = all.max;
  start.exponent = all.exponent;
  parallel_for(x.size(), kGrain, [&](std::int64_t first, std::int64_t last) {
    const kernels::FloatMode mode;
    std::vector<std::int64_t> scratch;
    Counted mine = start;
    const Channel channel = mine.channel();
    Tally tally(bins);
    BinGrid grid = channel.grid();
    bool ok = true;
    for_each_piece<T>(x, first, last, [&](const T* src, std::int64_t, std::int64_t n) {
      for (std::int64_t at = 0; at < n; at += kPiece) {
        const std::int64_t count = std::min(kPiece, n - at);
        const auto [low, high, finite] = piece_range(src + at, count);
        ok = ok && finite;
        if (!is_seen(low, high)) continue;
        if (low < mine.min || high > mine.max || tally.is_full()) {
          tally.flush(mine.counts.data());
          channel.widen(low, high, scratch);
          grid = channel.grid();
        }
        tally.add(src + at, count, grid, finite);
      }
    });
    tally.flush(mine.counts.data());
    if (!ok) all_finite.store(false, std::memory_order_relaxed);
    // Sums of integers do not depend on the order.
    const std::scoped_lock lock(mutex);
    all.channel().widen(mine.min, mine.max, scratch);
    channel.widen(all.min, all.max, scratch);
    for (std::size_t i = 0; i < mine.counts.size(); ++i) all.counts[i] += mine.counts[i];
  });
  return all_finite.load();
}

// Long rows: each channel's are counted by one thread.
template <class T>
void count_rows(const AnyView& x, const ChannelLayout& layout, const std::vector<BinGrid>& grids,
                bool finite, std::int64_t* counts) {
  const std::int64_t rows = x.size() / layout.inner;
  parallel_for(layout.channels, 1, [&](std::int64_t first, std::int64_t last) {
    const kernels::FloatMode mode;
    for (std::int64_t c = first; c < last; ++c) {
      const BinGrid& grid = grids[static_cast<std::size_t>(c)];
      Tally tally(grid.bins);
      for (std::int64_t row = c; row < rows; row += layout.channels) {
        for_each_piece<T>(
            x, row * layout.inner, (row + 1) * layout.inner,
            [&](const T* src, std::int64_t, std::int64_t n) { tally.add(src, n, grid, finite); });
        if (tally.is_full()) tally.flush(counts + c * grid.bins);
      }
      tally.flush(counts + c * grid.bins);
    }
  });
}

template <class T>
void count_interleaved(const AnyView& x, const ChannelLayout& layout,
                       const std::vector<int>& exponents, const std::vector<BinGrid>& grids,
                       std::int64_t* counts) {
  const kernels::FloatMode mode;
  constexpr double kTop = std::numeric_limits<float>::max();
  std::vector<double> factors;
  for (const int exponent : exponents) factors.push_back(std::ldexp(1.0, -exponent));
  for_each_piece<T>(x, 0, x.size(), [&](const T* src, std::int64_t start, std::int64_t n) {
    std::int64_t inner = start % layout.inner;
    std::int64_t c = start / layout.inner % layout.channels;
    for (std::int64_t i = 0; i < n; ++i) {
      const T value = src[i];
      if (std::isfinite(value)) {
        const auto rounded =
            static_cast<float>(std::clamp(static_cast<double>(value), -kTop, kTop));
        // Below 2^24 + 1, so that truncation to an integer is defined.
        const double v = static_cast<double>(rounded) * factors[static_cast<std::size_t>(c)];
        auto bin = static_cast<std::int32_t>(v);
        bin -= static_cast<double>(bin) > v;
        const BinGrid& grid = grids[static_cast<std::size_t>(c)];
        ++counts[c * grid.bins + (bin - static_cast<std::int32_t>(grid.first))];
      }
      if (++inner == layout.inner) {
        inner = 0;
        if (++c == layout.channels) c = 0;
      }
    }
  });
}

template <class T>
void count_channels(const AnyView& x, int axis, const std::vector<int>& exponents,
                    const std::vector<BinGrid>& grids, bool finite, std::int64_t* counts) {
  const ChannelLayout layout(x.shape(), axis);
  if (layout.has_rows()) return count_rows<T>(x, layout, grids, finite, counts);
  count_interleaved<T>(x, layout, exponents, grids, counts);
}

}  // namespace

std::int64_t bin_of(float value, int exponent) noexcept {
  return static_cast<std::int64_t>(std::floor(std::ldexp(static_cast<double>(value), -exponent)));
}

int bin_exponent(float min, float max, std::int64_t bins) noexcept {
  const float magnitude = std::max(std::abs(min), std::abs(max));
  int exponent = magnitude == 0.0f ? kMinExponent
                                   : std::max(std::ilogb(magnitude) - kFractionBits, kMinExponent);
  while (bin_of(max, exponent) - bin_of(min, exponent) >= bins) ++exponent;
  return exponent;
}

Tails tails_from(std::string_view text, std::string_view where) {
  if (text == "split") return Tails::split;
  if (text == "each") return Tails::each;
  check(text == "absolute", where, "tails must be \"split\", \"each\" or \"absolute\"", text);
  return Tails::absolute;
}

std::string_view name(Tails tails) noexcept {
  if (tails == Tails::split) return "split";
  return tails == Tails::each ? "each" : "absolute";
}

CountingObserver::CountingObserver(Search search, std::optional<std::int64_t> axis,
                                   std::int64_t bins, const char* where)
    : search_(search), bins_(bins), axis_(axis) {
  check(bins >= 2 && bins <= kMaxBins, where, "bins must be in [2, 65536]", bins);
}

void CountingObserver::widen(const std::vector<float>& min, const std::vector<float>& max) {
  std::vector<std::int64_t> scratch;
  if (min_.empty()) {
    counts_.assign(min.size() * static_cast<std::size_t>(bins_), 0);
    exponent_.assign(min.size(), 0);
    min_.assign(min.size(), kInfinity);
    max_.assign(max.size(), -kInfinity);
  }
  for (std::size_t c = 0; c < min_.size(); ++c) {
    const Channel channel{min_[c], max_[c], exponent_[c],
                          counts_.data() + static_cast<std::int64_t>(c) * bins_, bins_};
    channel.widen(min[c], max[c], scratch);
  }
}

void CountingObserver::update(const AnyView& x, OnNonFinite nonfinite) {
  if (!axis_) return update_all(x, nonfinite);
  const auto [axis, seen] = observe(x, axis_, min_.size(), nonfinite);
  const kernels::FloatMode mode;
  widen(seen.min, seen.max);
  std::vector<int> exponents;
  std::vector<BinGrid> grids;
  for (std::size_t c = 0; c < min_.size(); ++c) {
    exponents.push_back(static_cast<int>(exponent_[c]));
    grids.push_back(bin_grid(is_seen(min_[c], max_[c]) ? min_[c] : 0.0f, exponents.back(), bins_));
  }
  if (x.dtype() == DType::float64) {
    count_channels<double>(x, *axis, exponents, grids, seen.finite, counts_.data());
  } else {
    count_channels<float>(x, *axis, exponents, grids, seen.finite, counts_.data());
  }
}

void CountingObserver::update_all(const AnyView& x, OnNonFinite nonfinite) {
  (void)observed_axis(x, axis_, kUpdate);
  const kernels::FloatMode mode;
  Counted all(bins_);
  if (!min_.empty()) {
    all.min = min_[0];
    all.max = max_[0];
    all.exponent = exponent_[0];
    all.counts = counts_;
  }
  const bool finite =
      x.dtype() == DType::float64 ? count_all<double>(x, all) : count_all<float>(x, all);
  check_observed(finite, nonfinite);
  min_.assign(1, all.min);
  max_.assign(1, all.max);
  exponent_.assign(1, all.exponent);
  counts_ = std::move(all.counts);
}

BinCounts CountingObserver::channel(std::int64_t index) const noexcept {
  const auto c = static_cast<std::size_t>(index);
  if (!is_seen(min_[c], max_[c])) return {};
  const int exponent = static_cast<int>(exponent_[c]);
  const std::int64_t first = bin_of(min_[c], exponent);
  const std::int64_t used = bin_of(max_[c], exponent) - first + 1;
  return {{counts_.data() + index * bins_, static_cast<std::size_t>(used)},
          first,
          exponent,
          min_[c],
          max_[c]};
}

GroupRange CountingObserver::range(const GridType& type, bool symmetric, Compat compat) const {
  constexpr auto where = "quant.Observer.range";
  check(!min_.empty(), where, "update must have been called before");
  check<DTypeError>(is_quantized(type), where, kGridTypeRule, name(type));
  check(compat != Compat::tf, where, "compat must be None, \"torch\" or \"tflite\"", "tf");
  const auto channels = static_cast<std::int64_t>(min_.size());
  for (std::int64_t c = 0; c < channels; ++c) {
    check(!channel(c).counts.empty(), where, "every channel must have seen a finite value", c);
  }
  GroupRange out{std::vector<float>(min_.size()), std::vector<float>(min_.size()),
                 axis_ ? Shape{channels} : Shape{}};
  const GridChoice choice{type, symmetric, compat};
  parallel_for(channels, 1, [&](std::int64_t first, std::int64_t last) {
    const kernels::FloatMode mode;
    for (std::int64_t c = first; c < last; ++c) {
      const BinCounts bins = channel(c);
      std::pair<float, float> found;
      switch (search_) {
        case Search::percentile: found = percentile_range(bins, percentile_, tails_); break;
        case Search::entropy: found = entropy_range(bins, choice); break;
        case Search::error: found = error_range(bins, choice); break;
        case Search::path: found = path_range(bins, choice); break;
      }
      out.min[static_cast<std::size_t>(c)] = found.first;
      out.max[static_cast<std::size_t>(c)] = found.second;
    }
  });
  return out;
}

QParams CountingObserver::qparams(const GridType& type, bool symmetric, Compat compat) const {
  const GroupRange found = range(type, symmetric, compat);
  return qparams_from_range(found.min, found.max, type, symmetric, axis_, compat);
}

void CountingObserver::restore(std::vector<float> min, std::vector<float> max,
                               std::vector<std::int64_t> exponent,
                               std::vector<std::int64_t> counts) {
  constexpr auto where = "quant.Observer.load_state_dict";
  check<FormatError>(min.size() == max.size(), where, "max must have as many elements as min",
                     max.size());
  check<FormatError>(min.size() == exponent.size(), where,
                     "exponent must have as many elements as min", exponent.size());
  check<FormatError>(axis_.has_value() || min.size() <= 1, where,
                     "min must have at most one element where axis is None", min.size());
  const auto bins = static_cast<std::size_t>(bins_);
  check<FormatError>(counts.size() == min.size() * bins, where,
                     "counts must have " + std::to_string(bins_) + " columns for each of min",
                     counts.size());
  for (std::size_t c = 0; c < min.size(); ++c) {
    const bool unseen = min[c] == kInfinity && max[c] == -kInfinity;
    check<FormatError>(
        unseen || (std::isfinite(min[c]) && std::isfinite(max[c]) && min[c] <= max[c]), where,
        "min and max must be finite with min <= max",
        std::to_string(min[c]) + " and " + std::to_string(max[c]));
    const int expected = unseen ? 0 : bin_exponent(min[c], max[c], bins_);
    check<FormatError>(exponent[c] == expected, where,
                       "exponent must be that of min and max (" + std::to_string(expected) + ")",
                       exponent[c]);
    const std::int64_t used = unseen ? 0 : bin_of(max[c], expected) - bin_of(min[c], expected) + 1;
    const std::int64_t* row = counts.data() + c * bins;
    bool good = unseen || (row[0] > 0 && row[used - 1] > 0);
    for (std::int64_t i = 0; i < bins_; ++i) good = good && (i < used ? row[i] >= 0 : row[i] == 0);
    check<FormatError>(good, where,
                       "counts must be >= 0, > 0 in the bins of min and max and 0 behind", c);
  }
  min_ = std::move(min);
  max_ = std::move(max);
  exponent_ = std::move(exponent);
  counts_ = std::move(counts);
}

void CountingObserver::reset() noexcept {
  min_.clear();
  max_.clear();
  exponent_.clear();
  counts_.clear();
}

void CountingObserver::merge_counts(const CountingObserver& other, const char* where) {
  check(axis_ == other.axis_, where, "other must observe the same axis",
        other.axis_ ? std::to_string(*other.axis_) : "None");
  check(bins_ == other.bins_, where, "other must have " + std::to_string(bins_) + " bins",
        other.bins_);
  check(min_.empty() || other.min_.empty() || min_.size() == other.min_.size(), where,
        "other must have " + std::to_string(min_.size()) + " channels", other.min_.size());
  if (other.min_.empty()) return;
  // A copy, because other may be this observer itself.
  const CountingObserver theirs = other;
  widen(theirs.min_, theirs.max_);
  for (std::size_t c = 0; c < theirs.min_.size(); ++c) {
    const BinCounts row = theirs.channel(static_cast<std::int64_t>(c));
    if (row.counts.empty()) continue;
    const int shift = std::min(static_cast<int>(exponent_[c]) - row.exponent, 62);
    const std::int64_t first = bin_of(min_[c], static_cast<int>(exponent_[c]));
    std::int64_t* to = counts_.data() + static_cast<std::int64_t>(c) * bins_;
    for (std::size_t i = 0; i < row.counts.size(); ++i) {
      if (row.counts[i] == 0) continue;
      to[((row.first + static_cast<std::int64_t>(i)) >> shift) - first] += row.counts[i];
    }
  }
}

PercentileObserver::PercentileObserver(double percentile, Tails tails,
                                       std::optional<std::int64_t> axis, std::int64_t bins)
    : CountingObserver(Search::percentile, axis, bins, "quant.PercentileObserver") {
  check(percentile > 50.0 && percentile <= 100.0, "quant.PercentileObserver",
        "percentile must be in (50, 100]", percentile);
  percentile_ = percentile;
  tails_ = tails;
}

void PercentileObserver::merge(const PercentileObserver& other) {
  constexpr auto where = "quant.PercentileObserver.merge";
  check(percentile_ == other.percentile_ && tails_ == other.tails_, where,
        "other must have the percentile " + std::to_string(percentile_) + " and the tails " +
            std::string(name(tails_)),
        std::to_string(other.percentile_) + " and " + std::string(name(other.tails_)));
  merge_counts(other, where);
}

EntropyObserver::EntropyObserver(std::optional<std::int64_t> axis, std::int64_t bins)
    : CountingObserver(Search::entropy, axis, bins, "quant.EntropyObserver") {}

void EntropyObserver::merge(const EntropyObserver& other) {
  merge_counts(other, "quant.EntropyObserver.merge");
}

MSEObserver::MSEObserver(std::optional<std::int64_t> axis, std::int64_t bins)
    : CountingObserver(Search::error, axis, bins, "quant.MSEObserver") {}

void MSEObserver::merge(const MSEObserver& other) {
  merge_counts(other, "quant.MSEObserver.merge");
}

HistogramObserver::HistogramObserver(std::optional<std::int64_t> axis, std::int64_t bins)
    : CountingObserver(Search::path, axis, bins, "quant.HistogramObserver") {}

void HistogramObserver::merge(const HistogramObserver& other) {
  merge_counts(other, "quant.HistogramObserver.merge");
}

}  // namespace moptcore::inline v0::quant

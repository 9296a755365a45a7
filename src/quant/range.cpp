// SPDX-License-Identifier: Apache-2.0
#include <moptcore/quant/range.hpp>

#include <moptcore/core/parallel.hpp>

#include <atomic>
#include <string>
#include <utility>

#include "kernels/float_mode.hpp"
#include "kernels/minmax.hpp"
#include "kernels/strided.hpp"
#include "quant/grids.hpp"
#include "quant/observed.hpp"

namespace moptcore::inline v0::quant {
namespace {

using kernels::kScratch;
using kernels::MinMax;

constexpr std::int64_t kGrain = std::int64_t{1} << 16;
constexpr std::int64_t kMaxParts = 16;

MinMax<float> min_max(const float* src, std::int64_t n) noexcept {
  return kernels::min_max_f32(src, n);
}
MinMax<double> min_max(const double* src, std::int64_t n) noexcept {
  return kernels::min_max_f64(src, n);
}
bool update_each(const float* src, std::int64_t rows, std::int64_t n, float* mins,
                 float* maxs) noexcept {
  return kernels::min_max_update_f32(src, rows, n, mins, maxs);
}
bool update_each(const double* src, std::int64_t rows, std::int64_t n, double* mins,
                 double* maxs) noexcept {
  return kernels::min_max_update_f64(src, rows, n, mins, maxs);
}

template <class T>
Ranges whole_range(const AnyView& x) {
  std::vector<MinMax<T>> parts(static_cast<std::size_t>(block_count(x.size(), kGrain)));
  parallel_blocks(x.size(), kGrain, [&](std::int64_t block, std::int64_t first, std::int64_t last) {
    const kernels::FloatMode mode;
    MinMax<T> part;
    for_each_piece<T>(x, first, last, [&](const T* src, std::int64_t, std::int64_t n) {
      const MinMax<T> piece = min_max(src, n);
      part = {std::min(part.min, piece.min), std::max(part.max, piece.max),
              part.finite && piece.finite};
    });
    parts[static_cast<std::size_t>(block)] = part;
  });
  MinMax<T> all;
  for (const auto& part : parts) {
    all = {std::min(all.min, part.min), std::max(all.max, part.max), all.finite && part.finite};
  }
  return {{static_cast<float>(all.min)}, {static_cast<float>(all.max)}, all.finite};
}

// Every part of the tensor has its own running ranges, so their number is limited by what they
// would cost beside the tensor itself.
template <class T>
Ranges axis_ranges(const AnyView& x, int axis) {
  const ChannelLayout layout(x.shape(), axis);
  const std::int64_t each = layout.has_rows() ? layout.channels : layout.table_size();
  const std::int64_t most = std::max<std::int64_t>(1, std::min(kMaxParts, x.size() / each));
  const std::int64_t grain = std::max((x.size() + most - 1) / most, kGrain);
  const std::int64_t count = block_count(x.size(), grain);
  std::vector<T> mins(static_cast<std::size_t>(each * count), static_cast<T>(kInfinity));
  std::vector<T> maxs(static_cast<std::size_t>(each * count), static_cast<T>(-kInfinity));
  std::atomic<bool> finite{true};
  parallel_blocks(x.size(), grain, [&](std::int64_t block, std::int64_t first, std::int64_t last) {
    const kernels::FloatMode mode;
    T* const low = mins.data() + block * each;
    T* const high = maxs.data() + block * each;
    bool ok = true;
    for_each_piece<T>(x, first, last, [&](const T* src, std::int64_t start, std::int64_t n) {
      const auto row = [&](std::int64_t at, std::int64_t length, std::int64_t channel) {
        const MinMax<T> of_row = min_max(src + (at - start), length);
        low[channel] = std::min(low[channel], of_row.min);
        high[channel] = std::max(high[channel], of_row.max);
        ok = ok && of_row.finite;
      };
      if (layout.has_rows()) return layout.for_each_run(start, n, row, row);
      for (std::int64_t at = start; at < start + n;) {
        const std::int64_t offset = at % layout.period();
        const std::int64_t rest = start + n - at;
        const std::int64_t length = std::min(each - offset, rest);
        const std::int64_t rows = offset == 0 ? rest / length : 1;
        const bool good =
            update_each(src + (at - start), rows, length, low + offset, high + offset);
        ok = ok && good;
        at += rows * length;
      }
    });
    if (!ok) finite.store(false, std::memory_order_relaxed);
  });
  Ranges ranges;
  const auto channels = static_cast<std::size_t>(layout.channels);
  ranges.min.assign(channels, kInfinity);
  ranges.max.assign(channels, -kInfinity);
  ranges.finite = finite.load();
  const std::int64_t inner = layout.has_rows() ? 1 : layout.inner;
  for (std::int64_t i = 0; i < each * count; ++i) {
    const auto channel = static_cast<std::size_t>(i % each / inner % layout.channels);
    // Adding +0 makes every zero the same zero, whichever came first.
    const auto at = static_cast<std::size_t>(i);
    ranges.min[channel] = std::min(ranges.min[channel], static_cast<float>(mins[at]) + 0.0f);
    ranges.max[channel] = std::max(ranges.max[channel], static_cast<float>(maxs[at]) + 0.0f);
  }
  return ranges;
}

// A double may lie beyond the largest float.
void clamp_to_float(float& min, float& max) noexcept {
  constexpr float kTop = std::numeric_limits<float>::max();
  if (!is_seen(min, max)) return;
  min = std::clamp(min, -kTop, kTop);
  max = std::clamp(max, -kTop, kTop);
}

}  // namespace

Ranges observed_range(const AnyView& x, std::optional<int> axis) {
  Ranges seen;
  if (x.dtype() == DType::float64) {
    seen = axis ? axis_ranges<double>(x, *axis) : whole_range<double>(x);
  } else {
    seen = axis ? axis_ranges<float>(x, *axis) : whole_range<float>(x);
  }
  for (std::size_t c = 0; c < seen.min.size(); ++c) clamp_to_float(seen.min[c], seen.max[c]);
  return seen;
}

PieceRange piece_range(const float* src, std::int64_t n) noexcept {
  const MinMax<float> seen = min_max(src, n);
  return {seen.min, seen.max, seen.finite};
}

PieceRange piece_range(const double* src, std::int64_t n) noexcept {
  const MinMax<double> seen = min_max(src, n);
  PieceRange range{static_cast<float>(seen.min), static_cast<float>(seen.max), seen.finite};
  clamp_to_float(range.min, range.max);
  return range;
}

void check_observed(bool finite, OnNonFinite nonfinite) {
  check<NonFiniteError>(finite || nonfinite == OnNonFinite::skip, kUpdate,
                        "x must be finite (nonfinite=\"error\")", "NaN or infinity");
}

std::optional<int> observed_axis(const AnyView& x, std::optional<std::int64_t> axis,
                                 const char* where) {
  if (!is_floating(x.dtype())) [[unlikely]] {
    throw DTypeError(
        error_text(where, "x must be float64, float32, float16 or bfloat16", name(x.dtype())));
  }
  check(!x.empty(), where, "x must have at least one element", "0");
  check(!axis || x.rank() > 0, where, "x must have at least 1 dimension where axis is given",
        "shape ()");
  if (!axis) return std::nullopt;
  return normalize_axis(*axis, x.rank(), where);
}

std::pair<std::optional<int>, Ranges> observe(const AnyView& x, std::optional<std::int64_t> axis,
                                              std::size_t known, OnNonFinite nonfinite) {
  const std::optional<int> at = observed_axis(x, axis, kUpdate);
  const std::size_t channels = at ? static_cast<std::size_t>(x.shape()[*at]) : 1;
  if (known != 0 && known != channels) [[unlikely]] {
    throw Error(error_text(
        kUpdate,
        "x must keep the extent " + std::to_string(known) + " of axis " + std::to_string(*axis),
        channels));
  }
  Ranges seen = observed_range(x, at);
  check_observed(seen.finite, nonfinite);
  return {at, std::move(seen)};
}

namespace {

struct Scales {
  std::vector<float> scale;
  std::vector<std::int32_t> zero_point;
};

Scales scales_from_range(std::span<const float> min, std::span<const float> max,
                         const GridType& type, bool symmetric, Compat compat) {
  constexpr auto where = "quant.qparams_from_range";
  check<DTypeError>(is_quantized(type), where, kGridTypeRule, name(type));
  check(compat != Compat::tf, where, "compat must be None, \"torch\" or \"tflite\"", "tf");
  if (min.size() != max.size()) [[unlikely]] {
    throw Error(error_text(
        where, "max must have as many elements as min (" + std::to_string(min.size()) + ")",
        max.size()));
  }
  check(!min.empty(), where, "min must have at least one element", 0);
  const kernels::FloatMode mode;
  Scales result{std::vector<float>(min.size()), std::vector<std::int32_t>(min.size())};
  for (std::size_t c = 0; c < min.size(); ++c) {
    check(std::isfinite(min[c]) && std::isfinite(max[c]) && min[c] <= max[c], where,
          "min and max must be finite with min <= max",
          std::to_string(min[c]) + " and " + std::to_string(max[c]));
    const Grid grid = grid_from_range(min[c], max[c], type, symmetric, compat);
    // The float arithmetic of the compat modes overflows for ranges wider than the largest float.
    check(std::isfinite(grid.scale), where, "max - min must be finite in float32",
          std::to_string(min[c]) + " and " + std::to_string(max[c]));
    result.scale[c] = grid.scale;
    result.zero_point[c] = grid.zero_point;
  }
  return result;
}

// Groups of neighbours in memory: one kernel call each.
template <class T>
bool neighbour_ranges(const AnyView& x, std::int64_t channels, std::int64_t group_size,
                      std::int64_t groups, GroupRange& out) {
  std::atomic<bool> finite{true};
  const std::int64_t rows = x.size() / channels;
  const std::int64_t grain = std::max<std::int64_t>(1, kGrain / channels);
  parallel_for(rows, grain, [&](std::int64_t first, std::int64_t last) {
    const kernels::FloatMode mode;
    bool ok = true;
    const std::int64_t end = last * channels;
    for_each_piece<T>(
        x, first * channels, end, [&](const T* src, std::int64_t start, std::int64_t n) {
          for (std::int64_t at = start; at < start + n;) {
            const std::int64_t c = at % channels;
            const std::int64_t rest = std::min(group_size - c % group_size, channels - c);
            const std::int64_t count = std::min(rest, start + n - at);
            const MinMax<T> piece = min_max(src + (at - start), count);
            const auto to = static_cast<std::size_t>(at / channels * groups + c / group_size);
            out.min[to] = std::min(out.min[to], static_cast<float>(piece.min));
            out.max[to] = std::max(out.max[to], static_cast<float>(piece.max));
            ok = ok && piece.finite;
            at += count;
          }
        });
    if (!ok) finite.store(false, std::memory_order_relaxed);
  });
  return finite.load();
}

// The axis is not the last one: rows of `inner` neighbours, each with a range of its own.
template <class T>
bool row_ranges(const AnyView& x, const ChannelLayout& layout, std::int64_t group_size,
                std::int64_t groups, GroupRange& out) {
  std::vector<T> mins(out.min.size(), static_cast<T>(kInfinity));
  std::vector<T> maxs(out.max.size(), static_cast<T>(-kInfinity));
  std::atomic<bool> finite{true};
  const std::int64_t period = layout.period();
  const std::int64_t inner = layout.inner;
  const std::int64_t grain = std::max<std::int64_t>(1, kGrain / period);
  parallel_for(x.size() / period, grain, [&](std::int64_t first, std::int64_t last) {
    const kernels::FloatMode mode;
    bool ok = true;
    for_each_piece<T>(
        x, first * period, last * period, [&](const T* src, std::int64_t start, std::int64_t n) {
          for (std::int64_t at = start; at < start + n;) {
            const std::int64_t i = at % inner;
            const std::int64_t c = at / inner % layout.channels;
            const std::int64_t row = at / period * groups + c / group_size;
            const std::int64_t count = std::min(inner - i, start + n - at);
            const bool good =
                update_each(src + (at - start), 1, count, mins.data() + row * inner + i,
                            maxs.data() + row * inner + i);
            ok = ok && good;
            at += count;
          }
        });
    if (!ok) finite.store(false, std::memory_order_relaxed);
  });
  for (std::size_t i = 0; i < mins.size(); ++i) {
    out.min[i] = static_cast<float>(mins[i]) + 0.0f;
    out.max[i] = static_cast<float>(maxs[i]) + 0.0f;
  }
  return finite.load();
}

template <class T>
bool group_ranges(const AnyView& x, int axis, std::int64_t group_size, GroupRange& out) {
  const ChannelLayout layout(x.shape(), axis);
  const std::int64_t groups = out.shape[axis];
  if (layout.inner == 1) {
    return neighbour_ranges<T>(x, layout.channels, group_size, groups, out);
  }
  return row_ranges<T>(x, layout, group_size, groups, out);
}

}  // namespace

QParams qparams_from_range(std::span<const float> min, std::span<const float> max,
                           const GridType& type, bool symmetric, std::optional<std::int64_t> axis,
                           Compat compat) {
  Scales found = scales_from_range(min, max, type, symmetric, compat);
  const auto [qmin, qmax] = grid_range(type, symmetric, compat);
  return QParams(std::move(found.scale), std::move(found.zero_point), axis, {type, qmin, qmax});
}

QParams qparams_from_range(std::span<const float> min, std::span<const float> max,
                           const GridType& type, bool symmetric, std::int64_t axis,
                           std::int64_t group_size, const Shape& shape, Compat compat) {
  Scales found = scales_from_range(min, max, type, symmetric, compat);
  const auto [qmin, qmax] = grid_range(type, symmetric, compat);
  return QParams(std::move(found.scale), std::move(found.zero_point), axis,
                 {type, qmin, qmax, group_size, shape});
}

GroupRange group_range(const AnyView& x, std::int64_t group_size, std::int64_t axis) {
  constexpr auto where = "quant.group_range";
  if (!is_floating(x.dtype())) [[unlikely]] {
    throw DTypeError(
        error_text(where, "x must be float64, float32, float16 or bfloat16", name(x.dtype())));
  }
  check(group_size >= 1, where, "group_size must be at least 1", group_size);
  check(x.rank() > 0 && !x.empty(), where, "x must have at least 1 dimension and 1 element",
        x.shape());
  const int at = normalize_axis(axis, x.rank(), where);
  GroupRange out{{}, {}, grouped_shape(x.shape(), at, group_size)};
  const auto count = static_cast<std::size_t>(element_count(out.shape));
  out.min.assign(count, kInfinity);
  out.max.assign(count, -kInfinity);
  const bool finite = x.dtype() == DType::float64 ? group_ranges<double>(x, at, group_size, out)
                                                  : group_ranges<float>(x, at, group_size, out);
  check<NonFiniteError>(finite, where, "x must be finite", "NaN or infinity");
  // A double may lie beyond the largest float.
  constexpr float kTop = std::numeric_limits<float>::max();
  for (std::size_t i = 0; i < count; ++i) {
    out.min[i] = std::clamp(out.min[i], -kTop, kTop);
    out.max[i] = std::clamp(out.max[i], -kTop, kTop);
  }
  return out;
}

RangeObserver::RangeObserver(std::optional<std::int64_t> axis, std::optional<double> momentum)
    : momentum_(momentum), axis_(axis) {}

void RangeObserver::update(const AnyView& x, OnNonFinite nonfinite) {
  Ranges seen = observe(x, axis_, min_.size(), nonfinite).second;
  const std::size_t channels = seen.min.size();
  if (min_.empty()) {
    min_ = std::move(seen.min);
    max_ = std::move(seen.max);
    if (momentum_) {
      for (std::size_t c = 0; c < channels; ++c)
        count_.push_back(is_seen(min_[c], max_[c]) ? 1 : 0);
    }
    return;
  }
  const kernels::FloatMode mode;
  for (std::size_t c = 0; c < channels; ++c) {
    if (!is_seen(seen.min[c], seen.max[c])) continue;
    if (momentum_) ++count_[c];
    if (!is_seen(min_[c], max_[c])) {
      min_[c] = seen.min[c];
      max_[c] = seen.max[c];
    } else if (momentum_) {
      const auto m = static_cast<float>(*momentum_);
      min_[c] += m * (seen.min[c] - min_[c]);
      max_[c] += m * (seen.max[c] - max_[c]);
    } else {
      min_[c] = std::min(min_[c], seen.min[c]);
      max_[c] = std::max(max_[c], seen.max[c]);
    }
  }
}

QParams RangeObserver::qparams(const GridType& type, bool symmetric, Compat compat) const {
  constexpr auto where = "quant.Observer.qparams";
  check(!min_.empty(), where, "update must have been called before qparams");
  for (std::size_t c = 0; c < min_.size(); ++c) {
    check(is_seen(min_[c], max_[c]), where, "every channel must have seen a finite value", c);
  }
  return qparams_from_range(min_, max_, type, symmetric, axis_, compat);
}

void RangeObserver::assign(std::vector<float> min, std::vector<float> max,
                           std::vector<std::int64_t> count) {
  constexpr auto where = "quant.Observer.load_state_dict";
  check<FormatError>(min.size() == max.size(), where, "max must have as many elements as min",
                     max.size());
  check<FormatError>(axis_.has_value() || min.size() <= 1, where,
                     "min must have at most one element where axis is None", min.size());
  check<FormatError>(!momentum_ || count.size() == min.size(), where,
                     "count must have as many elements as min", count.size());
  for (std::size_t c = 0; c < min.size(); ++c) {
    const bool unseen = min[c] == kInfinity && max[c] == -kInfinity;
    check<FormatError>(
        unseen || (std::isfinite(min[c]) && std::isfinite(max[c]) && min[c] <= max[c]), where,
        "min and max must be finite with min <= max",
        std::to_string(min[c]) + " and " + std::to_string(max[c]));
    check<FormatError>(!momentum_ || (unseen ? count[c] == 0 : count[c] > 0), where,
                       "count must be > 0, or 0 where no finite value was seen",
                       momentum_ ? count[c] : 0);
  }
  min_ = std::move(min);
  max_ = std::move(max);
  count_ = std::move(count);
}

void RangeObserver::reset() noexcept {
  min_.clear();
  max_.clear();
  count_.clear();
}

void RangeObserver::check_merge(const RangeObserver& other, const char* where) const {
  check(axis_ == other.axis_, where, "other must observe the same axis",
        other.axis_ ? std::to_string(*other.axis_) : "None");
  check(min_.empty() || other.min_.empty() || min_.size() == other.min_.size(), where,
        "other must have " + std::to_string(min_.size()) + " channels", other.min_.size());
}

MinMaxObserver::MinMaxObserver(std::optional<std::int64_t> axis)
    : RangeObserver(axis, std::nullopt) {}

void MinMaxObserver::restore(std::vector<float> min, std::vector<float> max) {
  assign(std::move(min), std::move(max), {});
}

void MinMaxObserver::merge(const MinMaxObserver& other) {
  check_merge(other, "quant.MinMaxObserver.merge");
  if (min_.empty()) {
    min_ = other.min_;
    max_ = other.max_;
  }
  for (std::size_t c = 0; c < other.min_.size(); ++c) {
    min_[c] = std::min(min_[c], other.min_[c]);
    max_[c] = std::max(max_[c], other.max_[c]);
  }
}

MovingAverageObserver::MovingAverageObserver(double momentum, std::optional<std::int64_t> axis)
    : RangeObserver(axis, momentum) {
  check(momentum > 0.0 && momentum <= 1.0, "quant.MovingAverageObserver",
        "momentum must be in (0, 1]", momentum);
}

void MovingAverageObserver::restore(std::vector<float> min, std::vector<float> max,
                                    std::vector<std::int64_t> count) {
  assign(std::move(min), std::move(max), std::move(count));
}

void MovingAverageObserver::merge(const MovingAverageObserver& other) {
  constexpr auto where = "quant.MovingAverageObserver.merge";
  check_merge(other, where);
  check(momentum() == other.momentum(), where,
        "other must have the momentum " + std::to_string(momentum()), other.momentum());
  if (min_.empty()) {
    min_ = other.min_;
    max_ = other.max_;
    count_ = other.count_;
    return;
  }
  const kernels::FloatMode mode;
  for (std::size_t c = 0; c < other.min_.size(); ++c) {
    if (other.count_[c] == 0) continue;
    if (count_[c] == 0) {
      min_[c] = other.min_[c];
      max_[c] = other.max_[c];
    } else {
      const auto mine = static_cast<double>(count_[c]);
      const auto theirs = static_cast<double>(other.count_[c]);
      const auto mean = [&](float a, float b) {
        return static_cast<float>(
            (mine * static_cast<double>(a) + theirs * static_cast<double>(b)) / (mine + theirs));
      };
      min_[c] = mean(min_[c], other.min_[c]);
      max_[c] = mean(max_[c], other.max_[c]);
    }
    count_[c] += other.count_[c];
  }
}

}  // namespace moptcore::inline v0::quant

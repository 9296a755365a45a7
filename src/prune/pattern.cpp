// SPDX-License-Identifier: Apache-2.0
#include <moptcore/prune/pattern.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <sstream>
#include <vector>

#include <moptcore/core/parallel.hpp>
#include <moptcore/prune/schedule.hpp>

#include "kernels/float_mode.hpp"
#include "kernels/nm_mask.hpp"
#include "kernels/norm.hpp"
#include "kernels/strided.hpp"
#include "prune/axis.hpp"
#include "prune/mask_store.hpp"
#include "prune/selection.hpp"

namespace moptcore::inline v0::prune {
namespace {

constexpr std::int64_t kChunk = kernels::kScratch;

void check_weights(const AnyView& weights, const char* where) {
  check<DTypeError>(is_floating(weights.dtype()), where,
                    "weights must be float64, float32, float16 or bfloat16", name(weights.dtype()));
}

void check_scores(const AnyView& scores, const Shape& shape, const char* where) {
  check<DTypeError>(!is_packed(scores.dtype()), where, "scores must not be int4 or uint4",
                    name(scores.dtype()));
  std::ostringstream rule;
  rule << "scores must have the shape " << shape;
  check(scores.shape() == shape, where, rule.str(), scores.shape());
}

// How magnitudes are brought together: sums of powers, or the largest.
class Power {
 public:
  Power(double ord, double scale) : ord_(ord), scale_(scale) {}

  [[nodiscard]] bool is_max() const noexcept { return std::isinf(ord_); }

  [[nodiscard]] double join(double a, double b) const noexcept {
    if (!is_max()) return a + b;
    return b > a || std::isnan(b) ? b : a;
  }

  [[nodiscard]] double of(double x) const noexcept {
    const double magnitude = std::fabs(x) * scale_;
    if (ord_ == 1.0 || is_max()) return magnitude;
    return ord_ == 2.0 ? magnitude * magnitude : std::pow(magnitude, ord_);
  }

  // Elements [first, first + n), n <= 4096.
  [[nodiscard]] double chunk(const AnyView& view, std::int64_t first,
                             std::int64_t n) const noexcept {
    const kernels::FloatMode float_mode;
    if (scale_ == 1.0 && view.dtype() != DType::float64 && simple()) {
      std::array<float, kChunk> scratch;
      const float* src = kernels::block(view, first, n, scratch.data());
      if (is_max()) return kernels::max_magnitude_f32(src, n);
      return ord_ == 1.0 ? kernels::sum_magnitudes_f32(src, n) : kernels::sum_squares_f32(src, n);
    }
    std::array<double, kChunk> scratch;
    if (scale_ == 1.0 && simple()) {
      const double* src = kernels::block(view, first, n, scratch.data());
      if (is_max()) return kernels::max_magnitude_f64(src, n);
      return ord_ == 1.0 ? kernels::sum_magnitudes_f64(src, n) : kernels::sum_squares_f64(src, n);
    }
    kernels::load(view, first, n, scratch.data());
    for (std::int64_t i = 0; i < n; ++i) scratch[i] = of(scratch[i]);
    return is_max() ? kernels::max_magnitude_f64(scratch.data(), n)
                    : kernels::sum_magnitudes_f64(scratch.data(), n);
  }

 private:
  [[nodiscard]] bool simple() const noexcept { return ord_ == 1.0 || ord_ == 2.0 || is_max(); }

  double ord_;
  double scale_;
};

// One number for each slice along the axis. Long slices are summed in chunks of 4096 elements,
// short ones element by element, both in row-major order, chunks and rows one after the other.
std::vector<double> reduce_slices(const AnyView& view, const AxisSplit& split, const Power& power) {
  std::vector<double> result(static_cast<std::size_t>(split.extent), 0.0);
  const auto [outer, extent, inner] = split;
  if (view.empty()) return result;
  if (inner >= 16) {
    const std::int64_t per_row = block_count(inner, kChunk);
    const std::int64_t rows = outer * extent;
    std::vector<double> parts(static_cast<std::size_t>(rows * per_row));
    const std::int64_t grain = std::max<std::int64_t>(1, kMaskGrain / std::min(inner, kChunk));
    parallel_for(rows * per_row, grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t part = begin; part < end; ++part) {
        const std::int64_t at = part % per_row * kChunk;
        parts[static_cast<std::size_t>(part)] =
            power.chunk(view, part / per_row * inner + at, std::min(kChunk, inner - at));
      }
    });
    for (std::int64_t part = 0; part < rows * per_row; ++part) {
      double& slice = result[static_cast<std::size_t>(part / per_row % extent)];
      slice = power.join(slice, parts[static_cast<std::size_t>(part)]);
    }
    return result;
  }
  const std::int64_t row = extent * inner;
  const std::int64_t grain = std::max<std::int64_t>(16, kMaskGrain / row);
  std::vector<std::vector<double>> blocks(static_cast<std::size_t>(block_count(outer, grain)));
  const std::int64_t step = kChunk / inner * inner;
  parallel_blocks(outer, grain, [&](std::int64_t block, std::int64_t begin, std::int64_t end) {
    std::vector<double>& sums = blocks[static_cast<std::size_t>(block)];
    sums.assign(static_cast<std::size_t>(extent), 0.0);
    const kernels::FloatMode float_mode;
    std::array<double, kChunk> values;
    for (std::int64_t o = begin; o < end; ++o) {
      for (std::int64_t at = 0; at < row; at += step) {
        const std::int64_t n = std::min(step, row - at);
        kernels::load(view, o * row + at, n, values.data());
        for (std::int64_t i = 0; i < n; i += inner) {
          double slice = 0.0;
          for (std::int64_t j = 0; j < inner; ++j) {
            slice = power.join(slice, power.of(values[static_cast<std::size_t>(i + j)]));
          }
          double& sum = sums[static_cast<std::size_t>((at + i) / inner)];
          sum = power.join(sum, slice);
        }
      }
    }
  });
  for (const auto& sums : blocks) {
    for (std::size_t i = 0; i < sums.size(); ++i) result[i] = power.join(result[i], sums[i]);
  }
  return result;
}

double largest_magnitude(const AnyView& view) {
  const Power power(std::numeric_limits<double>::infinity(), 1.0);
  std::vector<double> parts(static_cast<std::size_t>(block_count(view.size(), kChunk)));
  parallel_blocks(view.size(), kChunk,
                  [&](std::int64_t block, std::int64_t first, std::int64_t last) {
                    parts[static_cast<std::size_t>(block)] = power.chunk(view, first, last - first);
                  });
  return std::accumulate(parts.begin(), parts.end(), 0.0,
                         [&power](double a, double b) { return power.join(a, b); });
}

// A power of two that brings the largest magnitude near 1 where sums of powers could overflow.
double safe_scale(const AnyView& view, double ord) {
  if (ord == 1.0 || std::isinf(ord)) return 1.0;
  if (ord == 2.0 && view.dtype() != DType::float64) return 1.0;
  const double largest = largest_magnitude(view);
  if (!std::isfinite(largest) || largest == 0.0) return 1.0;
  // Stays a normal number whatever the largest magnitude is.
  return std::ldexp(1.0, std::clamp(-std::ilogb(largest), -1022, 1022));
}

// One byte for each unit, 1 where it is kept.
std::vector<std::uint8_t> keep_units(const AnyView& ranked, double sparsity, NonFinite nonfinite,
                                     const AnyView& named, const char* where,
                                     const char* argument) {
  std::vector<std::uint8_t> kept(static_cast<std::size_t>(ranked.size()));
  if (kept.empty()) return kept;
  const kernels::FloatMode float_mode;
  Selection<std::int64_t> selection({Keys<std::int64_t>(ranked, Order::value, nonfinite)});
  const std::int64_t zeros = zero_count(ranked.size(), sparsity);
  if (selection.rank(std::max<std::int64_t>(zeros - 1, 0))) refuse_nan(named, where, argument);
  selection.prune_lowest(zeros);
  selection.store(0, MutableAnyView(kept.data(), DType::boolean, ranked.shape()));
  return kept;
}

// Rectangles of a batch of matrices.
struct Tiling {
  Tiling(const Shape& shape, const BlockOptions& o)
      : rows(shape[shape.rank() - 2]),
        cols(shape[shape.rank() - 1]),
        row_step(std::min(o.rows, std::max<std::int64_t>(rows, 1))),
        col_step(std::min(o.cols, std::max<std::int64_t>(cols, 1))),
        bands(block_count(rows, row_step)),
        across(block_count(cols, col_step)) {
    for (int i = 0; i + 2 < shape.rank(); ++i) batch *= shape[i];
  }
  std::int64_t rows;
  std::int64_t cols;
  std::int64_t row_step;
  std::int64_t col_step;
  std::int64_t bands;
  std::int64_t across;
  std::int64_t batch = 1;

  // Calls f(band, first row, end row) for every band of every matrix; rows count over the batch.
  template <class F>
  void for_each_band(F&& f) const {
    const std::int64_t size = std::max<std::int64_t>(1, row_step * cols);
    parallel_for(batch * bands, std::max<std::int64_t>(1, kMaskGrain / size),
                 [&](std::int64_t begin, std::int64_t end) {
                   for (std::int64_t band = begin; band < end; ++band) {
                     const std::int64_t top = band / bands * rows;
                     const std::int64_t first = top + band % bands * row_step;
                     f(band, first, std::min(first + row_step, top + rows));
                   }
                 });
  }
};

std::vector<double> pool_blocks(const AnyView& ranked, const Tiling& tiling, Pooling pooling,
                                bool magnitudes) {
  const bool is_max = pooling == Pooling::max;
  const double none = is_max ? -std::numeric_limits<double>::infinity() : 0.0;
  std::vector<double> pooled(static_cast<std::size_t>(tiling.batch * tiling.bands * tiling.across),
                             none);
  tiling.for_each_band([&](std::int64_t band, std::int64_t first, std::int64_t last) {
    double* sums = pooled.data() + band * tiling.across;
    const kernels::FloatMode float_mode;
    std::array<double, kChunk> values;
    for (std::int64_t row = first; row < last; ++row) {
      for (std::int64_t at = 0; at < tiling.cols; at += kChunk) {
        const std::int64_t n = std::min(kChunk, tiling.cols - at);
        kernels::load(ranked, row * tiling.cols + at, n, values.data());
        std::int64_t block = at / tiling.col_step;
        std::int64_t left = tiling.col_step - at % tiling.col_step;
        for (std::int64_t i = 0; i < n; ++i) {
          const double value = values[static_cast<std::size_t>(i)];
          const double x = magnitudes ? std::fabs(value) : value;
          double& sum = sums[block];
          if (!is_max) sum += x;
          else if (!std::isnan(sum) && !(x <= sum)) sum = x;
          if (--left == 0) {
            ++block;
            left = tiling.col_step;
          }
        }
      }
    }
    if (is_max) return;
    for (std::int64_t block = 0; block < tiling.across; ++block) {
      const std::int64_t width = std::min(tiling.col_step, tiling.cols - block * tiling.col_step);
      sums[block] /= static_cast<double>((last - first) * width);
    }
  });
  return pooled;
}

// Where the elements of a tile lie once group members are rows: element i of row r goes to
// (r % m) * count + (r / m) * width + i.
class Place {
 public:
  Place(std::int64_t row, std::int64_t m, std::int64_t count, std::int64_t width) noexcept
      : m_(m), count_(count), width_(width), member_(row % m), group_(row / m) {
    start_row();
  }

  [[nodiscard]] std::size_t index() const noexcept { return static_cast<std::size_t>(index_); }

  void next() noexcept {
    ++index_;
    if (--left_ != 0) return;
    if (++member_ == m_) {
      member_ = 0;
      ++group_;
    }
    start_row();
  }

 private:
  void start_row() noexcept {
    index_ = member_ * count_ + group_ * width_;
    left_ = width_;
  }

  std::int64_t m_;
  std::int64_t count_;
  std::int64_t width_;
  std::int64_t member_;
  std::int64_t group_;
  std::int64_t index_ = 0;
  std::int64_t left_ = 0;
};

// Groups of m elements along an axis, cut into tiles of `lanes` groups side by side.
class Groups {
 public:
  Groups(const Shape& shape, int axis, std::int64_t m) : split_(shape, axis), m_(m) {
    per_axis_ = split_.extent / m;
    const std::int64_t group = m * split_.inner;
    together_ = group <= kChunk ? kChunk / group : 1;
    lanes_ = group <= kChunk ? split_.inner : std::clamp<std::int64_t>(kChunk / m, 1, split_.inner);
    runs_ = block_count(per_axis_, together_);
    slices_ = block_count(split_.inner, lanes_);
  }

  [[nodiscard]] std::int64_t tiles() const noexcept { return split_.outer * runs_ * slices_; }

  // Fills keys[j * count + lane], writes their bytes, and tells whether a NaN was met.
  bool keep(std::int64_t tile, const Keys<std::int64_t>& keys, std::int64_t n,
            std::uint8_t* mask) const {
    const std::int64_t slice = tile % slices_ * lanes_;
    const std::int64_t run = tile / slices_ % runs_ * together_;
    const std::int64_t outer = tile / slices_ / runs_;
    const std::int64_t groups = std::min(together_, per_axis_ - run);
    const std::int64_t width = std::min(lanes_, split_.inner - slice);
    const std::int64_t count = groups * width;
    const std::int64_t origin = (outer * split_.extent + run * m_) * split_.inner + slice;
    std::vector<std::int64_t> words(static_cast<std::size_t>(m_ * count));
    std::vector<std::uint8_t> kept(words.size());
    const kernels::FloatMode float_mode;
    std::array<std::int64_t, kChunk> scratch;
    bool nan = false;
    const std::int64_t limit = keys.limit();
    const std::int64_t mask_word = keys.mask();
    // The tile is one stretch of memory where it takes in all that follows the axis.
    const bool whole = width == split_.inner;
    const std::int64_t rows = whole ? 1 : groups * m_;
    const std::int64_t stretch = whole ? groups * m_ * width : width;
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t at = origin + r * split_.inner;
      Place place(r, m_, count, width);
      for (std::int64_t i = 0; i < stretch; i += kChunk) {
        const std::int64_t part = std::min(kChunk, stretch - i);
        const std::int64_t* src = keys.read(at + i, part, scratch.data());
        for (std::int64_t k = 0; k < part; ++k, place.next()) {
          const std::int64_t key = src[k] & mask_word;
          nan = nan || key > limit;
          words[place.index()] = key;
        }
      }
    }
    if (m_ <= 64) kernels::nm_s64(words.data(), m_, count, n, kept.data());
    else select(words, count, n, kept);
    for (std::int64_t r = 0; r < rows; ++r) {
      std::uint8_t* to = mask + origin + r * split_.inner;
      Place place(r, m_, count, width);
      for (std::int64_t i = 0; i < stretch; ++i, place.next()) to[i] = kept[place.index()];
    }
    return nan;
  }

 private:
  // Long groups: comparing all pairs would cost m operations an element.
  void select(const std::vector<std::int64_t>& words, std::int64_t count, std::int64_t n,
              std::vector<std::uint8_t>& kept) const {
    for (std::int64_t lane = 0; lane < count; ++lane) {
      const auto key = [&](std::int64_t j) {
        return words[static_cast<std::size_t>(j * count + lane)];
      };
      std::vector<std::int64_t> column(static_cast<std::size_t>(m_));
      for (std::int64_t j = 0; j < m_; ++j) column[static_cast<std::size_t>(j)] = key(j);
      const std::int64_t threshold = kth_key(column, m_ - n);
      std::int64_t ties = n;
      for (std::int64_t j = 0; j < m_; ++j) ties -= key(j) > threshold ? 1 : 0;
      for (std::int64_t j = 0; j < m_; ++j) {
        const bool stays = key(j) > threshold || (key(j) == threshold && ties-- > 0);
        kept[static_cast<std::size_t>(j * count + lane)] = stays ? 1 : 0;
      }
    }
  }

  AxisSplit split_;
  std::int64_t m_;
  std::int64_t per_axis_ = 0;  // whole groups along the axis
  std::int64_t together_ = 0;  // groups of one tile
  std::int64_t lanes_ = 0;     // positions after the axis in one tile
  std::int64_t runs_ = 0;
  std::int64_t slices_ = 0;
};

// N of 4 along a last axis of whole groups: the keys are taken as they lie in memory.
template <class Key>
bool mask_fours(const Keys<Key>& keys, int n, std::uint8_t* bits) {
  std::vector<std::uint8_t> nan(static_cast<std::size_t>(block_count(keys.size(), kMaskGrain)));
  parallel_blocks(keys.size(), kMaskGrain,
                  [&](std::int64_t block, std::int64_t begin, std::int64_t end) {
                    std::array<Key, kChunk> scratch;
                    std::array<std::int32_t, kChunk> wide;
                    for (std::int64_t first = begin; first < end; first += kChunk) {
                      const std::int64_t count = std::min(kChunk, end - first);
                      const Key* src = keys.read(first, count, scratch.data());
                      std::int32_t largest = 0;
                      if constexpr (sizeof(Key) == 4) {
                        largest = kernels::nm4_s32(src, count, keys.mask(), n, bits + first / 8);
                      } else {
                        for (std::int64_t i = 0; i < count; ++i) wide[i] = src[i] & keys.mask();
                        largest = kernels::nm4_s32(wide.data(), count, -1, n, bits + first / 8);
                      }
                      if (largest > keys.limit()) nan[static_cast<std::size_t>(block)] = 1;
                    }
                  });
  return std::ranges::find(nan, 1) != nan.end();
}

// Ranks one row of keys and writes its bytes; says whether one is beyond the limit.
bool keep_row(const Keys<std::int64_t>& keys, std::int64_t first, std::int64_t size,
              std::int64_t zeros, std::vector<std::uint8_t>& kept) {
  const kernels::FloatMode float_mode;
  std::array<std::int64_t, kChunk> scratch;
  std::vector<std::int64_t> row;
  row.reserve(static_cast<std::size_t>(size));
  for (std::int64_t at = 0; at < size; at += kChunk) {
    const std::int64_t n = std::min(kChunk, size - at);
    const std::int64_t* src = keys.read(first + at, n, scratch.data());
    for (std::int64_t i = 0; i < n; ++i) row.push_back(src[i] & keys.mask());
  }
  if (*std::ranges::max_element(row) > keys.limit()) return true;
  kept.assign(row.size(), 1);
  if (zeros == 0) return false;
  std::vector<std::int64_t> sorted = row;
  const std::int64_t threshold = kth_key(sorted, zeros - 1);
  std::int64_t stay =
      std::ranges::count_if(row, [threshold](std::int64_t key) { return key <= threshold; });
  stay -= zeros;
  for (std::size_t i = 0; i < row.size(); ++i) {
    if (row[i] < threshold || (row[i] == threshold && stay-- <= 0)) kept[i] = 0;
  }
  return false;
}

// `axis` counted from the front; throws unless mask and scores fit the weights.
int checked_axis(const AnyView& weights, std::int64_t axis, const std::optional<AnyView>& scores,
                 const MutableAnyView& mask, const char* where) {
  check(weights.rank() >= 1, where, "weights must have at least 1 dimension", weights.rank());
  const int counted = normalize_axis(axis, weights.rank(), where);
  check_mask(mask, weights.shape(), where, "mask");
  check_no_partial_overlap(weights, mask, where, "mask");
  if (scores) {
    check_scores(*scores, weights.shape(), where);
    check_no_partial_overlap(*scores, mask, where, "mask");
  }
  return counted;
}

}  // namespace

void row_mask(const AnyView& weights, double sparsity, const MutableAnyView& mask,
              const RowOptions& options) {
  constexpr auto where = "prune.row_mask";
  check_weights(weights, where);
  check(is_sparsity(sparsity), where, "sparsity must be in [0, 1)", sparsity);
  const int axis = checked_axis(weights, options.axis, options.scores, mask, where);
  if (weights.empty()) return;
  const AnyView& ranked = options.scores ? *options.scores : weights;
  const Order order = options.scores ? Order::value : Order::magnitude;
  const AxisSplit split(weights.shape(), axis);
  const std::int64_t size = split.outer * split.inner;
  const std::int64_t zeros = zero_count(size, sparsity);
  const Keys<std::int64_t> keys(move_axis(ranked, axis, 0), order, options.nonfinite);
  ByteMask bytes(weights.size());
  std::vector<std::uint8_t> nan(static_cast<std::size_t>(split.extent));
  parallel_for(split.extent, std::max<std::int64_t>(1, kMaskGrain / size),
               [&](std::int64_t begin, std::int64_t end) {
                 std::vector<std::uint8_t> kept;
                 for (std::int64_t row = begin; row < end; ++row) {
                   if (keep_row(keys, row * size, size, zeros, kept)) {
                     nan[static_cast<std::size_t>(row)] = 1;
                     continue;
                   }
                   for (std::int64_t o = 0; o < split.outer; ++o) {
                     std::memcpy(bytes.data() + (o * split.extent + row) * split.inner,
                                 kept.data() + o * split.inner,
                                 static_cast<std::size_t>(split.inner));
                   }
                 }
               });
  if (std::ranges::find(nan, 1) != nan.end()) {
    refuse_nan(ranked, where, options.scores ? "scores" : "weights");
  }
  bytes.commit(mask);
}

void structured_mask(const AnyView& weights, double sparsity, const MutableAnyView& mask,
                     const StructuredOptions& options) {
  constexpr auto where = "prune.structured_mask";
  check_weights(weights, where);
  check(is_sparsity(sparsity), where, "sparsity must be in [0, 1)", sparsity);
  check(options.ord > 0.0, where, "ord must be > 0", options.ord);
  check(weights.rank() >= 1, where, "weights must have at least 1 dimension", weights.rank());
  const int axis = normalize_axis(options.axis, weights.rank(), where);
  const AxisSplit split(weights.shape(), axis);
  const Shape units{split.extent};
  const Shape packed{packed_size(split.extent)};
  const bool expand = options.expand.value_or(
      !(mask.dtype() == DType::uint8 ? mask.shape() == packed : mask.shape() == units));
  check_mask(mask, expand ? weights.shape() : units, where, "mask");
  check_no_partial_overlap(weights, mask, where, "mask");
  std::vector<std::uint8_t> kept;
  if (options.scores) {
    const AnyView& scores = *options.scores;
    check_scores(scores, units, where);
    check_no_partial_overlap(scores, mask, where, "mask");
    kept = keep_units(scores, sparsity, options.nonfinite, scores, where, "scores");
  } else {
    const Power power(options.ord, safe_scale(weights, options.ord));
    const kernels::FloatMode float_mode;
    const std::vector<double> norms = reduce_slices(weights, split, power);
    kept = keep_units(norms, sparsity, options.nonfinite, weights, where, "weights");
  }
  if (!expand) {
    ByteMask bytes(split.extent);
    std::ranges::copy(kept, bytes.data());
    bytes.commit(mask);
    return;
  }
  if (weights.empty()) return;
  const auto spread_to = [&](std::uint8_t* bytes) {
    const std::int64_t grain = std::max<std::int64_t>(1, kMaskGrain / split.inner);
    parallel_for(split.outer * split.extent, grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        std::memset(bytes + row * split.inner, kept[static_cast<std::size_t>(row % split.extent)],
                    static_cast<std::size_t>(split.inner));
      }
    });
  };
  if (mask.dtype() == DType::boolean && mask.is_contiguous()) {
    spread_to(static_cast<std::uint8_t*>(mask.data()));
    return;
  }
  ByteMask bytes(weights.size());
  spread_to(bytes.data());
  bytes.commit(mask);
}

void block_mask(const AnyView& weights, double sparsity, const MutableAnyView& mask,
                const BlockOptions& options) {
  constexpr auto where = "prune.block_mask";
  check_weights(weights, where);
  check(is_sparsity(sparsity), where, "sparsity must be in [0, 1)", sparsity);
  check(weights.rank() >= 2, where, "weights must have at least 2 dimensions", weights.rank());
  check(options.rows >= 1, where, "block rows must be >= 1", options.rows);
  check(options.cols >= 1, where, "block columns must be >= 1", options.cols);
  check_mask(mask, weights.shape(), where, "mask");
  check_no_partial_overlap(weights, mask, where, "mask");
  if (options.scores) {
    check_scores(*options.scores, weights.shape(), where);
    check_no_partial_overlap(*options.scores, mask, where, "mask");
  }
  const AnyView& ranked = options.scores ? *options.scores : weights;
  const Tiling tiling(weights.shape(), options);
  if (weights.empty()) return;
  const std::vector<double> pooled =
      pool_blocks(ranked, tiling, options.pooling, !options.scores.has_value());
  const std::vector<std::uint8_t> kept = keep_units(pooled, sparsity, options.nonfinite, ranked,
                                                    where, options.scores ? "scores" : "weights");
  ByteMask bytes(weights.size());
  tiling.for_each_band([&](std::int64_t band, std::int64_t first, std::int64_t last) {
    const std::uint8_t* units = kept.data() + band * tiling.across;
    std::uint8_t* row = bytes.data() + first * tiling.cols;
    for (std::int64_t block = 0; block < tiling.across; ++block) {
      const std::int64_t at = block * tiling.col_step;
      std::memset(row + at, units[block],
                  static_cast<std::size_t>(std::min(tiling.col_step, tiling.cols - at)));
    }
    for (std::int64_t other = first + 1; other < last; ++other) {
      std::memcpy(bytes.data() + other * tiling.cols, row, static_cast<std::size_t>(tiling.cols));
    }
  });
  bytes.commit(mask);
}

void nm_mask(const AnyView& weights, std::int64_t n, std::int64_t m, const MutableAnyView& mask,
             const NmOptions& options) {
  constexpr auto where = "prune.nm_mask";
  check_weights(weights, where);
  check(m >= 1, where, "m must be >= 1", m);
  check(n >= 1 && n <= m, where, "n must be in [1, m]", n);
  const int axis = checked_axis(weights, options.axis, options.scores, mask, where);
  if (weights.empty()) return;
  const AnyView& ranked = options.scores ? *options.scores : weights;
  const Order order = options.scores ? Order::value : Order::magnitude;
  const char* argument = options.scores ? "scores" : "weights";
  const AxisSplit split(weights.shape(), axis);
  // Keys of floats leave room for the 1 that the kernel adds; those of integers may not, nor
  // those that stand for NaN.
  const bool fours = m == 4 && split.inner == 1 && split.extent % 4 == 0 &&
                     is_floating(ranked.dtype()) && ranked.dtype() != DType::float64 &&
                     options.nonfinite != NonFinite::keep;
  if (fours) {
    const PoolBuffer buffer = pool_allocate(packed_size(weights.size()));
    auto* bits = static_cast<std::uint8_t*>(buffer.get());
    const auto run = [&]<class Key>() {
      return mask_fours(Keys<Key>(ranked, order, options.nonfinite), static_cast<int>(n), bits);
    };
    const bool nan = ranked.dtype() == DType::float32 ? run.template operator()<std::int32_t>()
                                                      : run.template operator()<std::int16_t>();
    if (nan) refuse_nan(ranked, where, argument);
    parallel_for(weights.size(), kMaskGrain, [&](std::int64_t first, std::int64_t last) {
      store_bits(bits + first / 8, first, last - first, mask);
    });
    return;
  }
  const Keys<std::int64_t> keys(ranked, order, options.nonfinite);
  const Groups groups(weights.shape(), axis, m);
  ByteMask bytes(weights.size());
  if (split.extent % m != 0) {
    std::memset(bytes.data(), 1, static_cast<std::size_t>(weights.size()));
  }
  std::vector<std::uint8_t> nan(static_cast<std::size_t>(groups.tiles()));
  parallel_for(groups.tiles(), 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t tile = begin; tile < end; ++tile) {
      nan[static_cast<std::size_t>(tile)] = groups.keep(tile, keys, n, bytes.data()) ? 1 : 0;
    }
  });
  const bool incomplete = split.extent % m != 0 && options.nonfinite == NonFinite::error;
  if (std::ranges::find(nan, 1) != nan.end() || (incomplete && find_nan(ranked) >= 0)) {
    refuse_nan(ranked, where, argument);
  }
  bytes.commit(mask);
}

}  // namespace moptcore::inline v0::prune

// SPDX-License-Identifier: Apache-2.0
#include <moptcore/quant/levels.hpp>

#include <moptcore/core/parallel.hpp>
#include <moptcore/quant/fake_quant.hpp>

#include <atomic>
#include <bit>
#include <limits>
#include <numeric>
#include <string>

#include "kernels/float_mode.hpp"
#include "kernels/strided.hpp"
#include "quant/grids.hpp"
#include "quant/non_finite.hpp"
#include "quant/observed.hpp"
#include "quant/transform.hpp"

namespace moptcore::inline v0::quant {
namespace {

using kernels::GridStep;
using kernels::GridTable;

template <class T>
T scale_at(const GridStep<T>& step, std::int64_t) noexcept {
  return step.scale;
}
template <class T>
T scale_at(const GridTable<T>& table, std::int64_t i) noexcept {
  return table.scale[i];
}

template <class T>
GridSteps<T> level_steps(const Shape& shape, std::span<const float> scale,
                         std::optional<std::int64_t> axis, const char* where) {
  std::vector<GridStep<T>> steps;
  for (const float each : scale) {
    check(std::isfinite(each) && each > 0.0f, where, "scale must be finite and > 0", each);
    steps.push_back({T(1), static_cast<T>(each), T(0), T(0), T(0)});
  }
  if (axis) return GridSteps<T>(std::move(steps), *axis, shape, where, "scale");
  return GridSteps<T>(steps.front());
}

void check_levels(std::span<const float> scale, std::optional<std::int64_t> axis, Levels levels,
                  const char* where) {
  check(levels.powers >= 0 && levels.powers <= kMaxLevelCode, where, "powers must be in [0, 100]",
        levels.powers);
  check(axis.has_value() ? !scale.empty() : scale.size() == 1, where,
        "scale must be one number where axis is None", scale.size());
}

// Throws unless codes are int8, the others floating, and both have one shape and no common memory.
void check_codes(const AnyView& codes, const AnyView& floats, const char* where,
                 const char* argument, const char* float_argument) {
  check<DTypeError>(is_floating(floats.dtype()), where,
                    std::string(float_argument) + " must be float64, float32, float16 or bfloat16",
                    name(floats.dtype()));
  check<DTypeError>(codes.dtype() == DType::int8, where, std::string(argument) + " must be int8",
                    name(codes.dtype()));
  check(codes.shape() == floats.shape(), where, "out must have the shape of the input",
        codes.shape());
  const auto [first, last] = extent_of(codes);
  const auto [float_first, float_last] = extent_of(floats);
  check(last <= float_first || float_last <= first || floats.empty(), where,
        "out must not overlap the input");
}

template <class T>
void write_codes(const AnyView& src, const GridSteps<T>& grids, int powers,
                 const MutableAnyView& dst) {
  parallel_for(src.size(), kGrain, [&](std::int64_t first, std::int64_t last) {
    const kernels::FloatMode mode;
    alignas(64) T in[kernels::kScratch];
    alignas(64) std::int8_t out[kernels::kScratch];
    for (std::int64_t at = first; at < last; at += kernels::kScratch) {
      const std::int64_t n = std::min(kernels::kScratch, last - at);
      const T* from = kernels::block(src, at, n, in);
      const auto piece = [&](std::int64_t position, std::int64_t count, const auto& grid) {
        const std::int64_t done = position - at;
        for (std::int64_t i = 0; i < count; ++i) {
          const T x = from[done + i];
          const int code =
              powers == 0 ? binary_code(x)
                          : power_of_two_code(x, static_cast<float>(scale_at(grid, i)), powers);
          out[done + i] = static_cast<std::int8_t>(code);
        }
      };
      grids.for_each_run(at, n, piece, piece);
      kernels::scatter(out, at, n, dst);
    }
  });
}

// Calls f(codes, position, count) for blocks of an int8 tensor, in parallel.
template <class F>
void for_each_codes(const AnyView& src, F&& f) {
  parallel_for(src.size(), kGrain, [&](std::int64_t first, std::int64_t last) {
    const kernels::FloatMode mode;
    alignas(64) std::int8_t codes[kernels::kScratch];
    for (std::int64_t at = first; at < last; at += kernels::kScratch) {
      const std::int64_t n = std::min(kernels::kScratch, last - at);
      kernels::gather(src, at, n, codes);
      f(codes, at, n);
    }
  });
}

template <class T>
void write_levels(const AnyView& src, const GridSteps<T>& grids, const MutableAnyView& dst) {
  for_each_codes(src, [&](const std::int8_t* codes, std::int64_t at, std::int64_t n) {
    alignas(64) T out[kernels::kScratch];
    T* to = kernels::writable_block(dst, at, out);
    const auto piece = [&](std::int64_t position, std::int64_t count, const auto& grid) {
      const std::int64_t done = position - at;
      for (std::int64_t i = 0; i < count; ++i) {
        to[done + i] = level_of<T>(codes[done + i], static_cast<float>(scale_at(grid, i)));
      }
    };
    grids.for_each_run(at, n, piece, piece);
    if (to == out) kernels::store(out, at, n, dst);
  });
}

template <class T>
void round_to_levels(const AnyView& src, std::span<const float> scale,
                     std::optional<std::int64_t> axis, Levels levels, const MutableAnyView& dst,
                     std::span<std::uint8_t> bits) {
  constexpr auto where = "quant.fake_quantize_levels";
  const GridSteps<T> grids = level_steps<T>(src.shape(), scale, axis, where);
  check_no_nan(src, where);
  const int powers = levels.powers;
  transform(src, dst, bits, grids,
            [powers](const T* from, std::int64_t n, const auto& grid, T* to, std::uint8_t* to_bits,
                     bool) {
              unsigned byte = 0;
              for (std::int64_t i = 0; i < n; ++i) {
                const auto s = static_cast<float>(scale_at(grid, i));
                const T x = from[i];
                to[i] = powers == 0 ? binarize(x, s) : nearest_power_of_two(x, s, powers);
                if (to_bits == nullptr) continue;
                const double reach = (powers == 0 ? 2.0 : 1.5) * static_cast<double>(s);
                const bool inside = std::abs(static_cast<double>(x)) <= reach;
                byte |= static_cast<unsigned>(inside) << (i % 8);
                if (i % 8 == 7 || i + 1 == n) {
                  to_bits[i / 8] = static_cast<std::uint8_t>(byte);
                  byte = 0;
                }
              }
            });
}

// The values of one channel after the other, each channel's in row-major order.
template <class T>
class ChannelValues {
 public:
  ChannelValues(const AnyView& x, const ChannelLayout& layout) : x_(x), layout_(layout) {
    if (layout.channels == 1 || layout.has_rows()) return;
    // Rows too short to be read one by one.
    turned_.resize(static_cast<std::size_t>(x.size()));
    const std::int64_t each = count();
    for_each_piece<T>(x, 0, x.size(), [&](const T* src, std::int64_t start, std::int64_t n) {
      std::int64_t inner = start % layout.inner;
      std::int64_t c = start / layout.inner % layout.channels;
      std::int64_t row = start / layout.period();
      for (std::int64_t i = 0; i < n; ++i) {
        turned_[static_cast<std::size_t>(c * each + row * layout.inner + inner)] = src[i];
        if (++inner < layout.inner) continue;
        inner = 0;
        if (++c < layout.channels) continue;
        c = 0;
        ++row;
      }
    });
  }

  [[nodiscard]] std::int64_t count() const { return x_.size() / layout_.channels; }

  /// f(values, count) for pieces of a channel.
  template <class F>
  void for_each(std::int64_t channel, F&& f) const {
    if (!turned_.empty()) return f(turned_.data() + channel * count(), count());
    const auto piece = [&](const T* src, std::int64_t, std::int64_t n) { f(src, n); };
    if (layout_.channels == 1) return for_each_piece<T>(x_, 0, x_.size(), piece);
    for (std::int64_t at = channel * layout_.inner; at < x_.size(); at += layout_.period()) {
      for_each_piece<T>(x_, at, at + layout_.inner, piece);
    }
  }

 private:
  const AnyView& x_;
  ChannelLayout layout_;
  std::vector<T> turned_;
};

// How many magnitudes share the upper half of their bits as floats, and their sum.
struct MagnitudeBin {
  double sum = 0.0;
  double count = 0.0;
};

constexpr int kKeyShift = 16;
constexpr std::size_t kKeys = std::size_t{1} << (31 - kKeyShift);

std::size_t key_of(double magnitude) {
  constexpr double kTop = std::numeric_limits<float>::max();
  const auto rounded = static_cast<float>(std::min(magnitude, kTop));
  return std::bit_cast<std::uint32_t>(rounded) >> kKeyShift;
}

// The mean of the k largest magnitudes, for the k whose sum squared over k is largest: kept at
// that mean they leave the least error. Bins are passed from the largest magnitudes down; only
// those are sorted whose values could end the best set, where all of the bin at its upper edge
// would make it better than any whole bins do.
template <class T>
double ternary_scale(const ChannelValues<T>& values, std::int64_t channel, double largest) {
  std::vector<MagnitudeBin> bins(kKeys);
  values.for_each(channel, [&](const T* x, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) {
      const double m = std::abs(static_cast<double>(x[i]));
      MagnitudeBin& bin = bins[key_of(m)];
      bin.sum += m / largest;  // so that squares neither overflow nor vanish
      bin.count += 1.0;
    }
  });
  const auto gain = [](double sum, double count) { return sum * sum / count; };
  double best = -1.0;
  double mean = 0.0;
  const auto take = [&](double sum, double count) {
    if (gain(sum, count) <= best) return;
    best = gain(sum, count);
    mean = sum / count;
  };
  double sum = 0.0;
  double count = 0.0;
  for (std::size_t key = kKeys; key-- > 0;) {
    if (bins[key].count == 0.0) continue;
    sum += bins[key].sum;
    count += bins[key].count;
    take(sum, count);
  }
  const double whole = best;
  std::vector<std::uint8_t> wanted(kKeys, 0);
  sum = count = 0.0;
  for (std::size_t key = kKeys; key-- > 0;) {
    const MagnitudeBin& bin = bins[key];
    if (bin.count == 0.0) continue;
    const auto next = static_cast<std::uint32_t>((key + 1) << kKeyShift);
    const double edge =
        count == 0.0 ? 1.0
                     : std::min(1.0, static_cast<double>(std::bit_cast<float>(next)) / largest);
    // Convex in the number of values taken, so largest at an end.
    wanted[key] = gain(sum + bin.count * edge, count + bin.count) > whole;
    sum += bin.sum;
    count += bin.count;
  }
  std::vector<T> some;
  values.for_each(channel, [&](const T* x, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) {
      if (wanted[key_of(std::abs(static_cast<double>(x[i])))] != 0) some.push_back(std::abs(x[i]));
    }
  });
  std::ranges::sort(some, std::greater<>());
  sum = count = 0.0;
  std::size_t at = 0;
  for (std::size_t key = kKeys; key-- > 0;) {
    if (wanted[key] != 0) {
      double inside = sum;
      double taken = count;
      for (; at < some.size() && key_of(static_cast<double>(some[at])) == key; ++at) {
        inside += static_cast<double>(some[at]) / largest;
        taken += 1.0;
        take(inside, taken);
      }
    }
    sum += bins[key].sum;
    count += bins[key].count;
  }
  return mean * largest;
}

template <class T>
double best_scale(const ChannelValues<T>& values, std::int64_t channel, ScaleRule rule) {
  double sum = 0.0;
  double largest = 0.0;
  values.for_each(channel, [&](const T* x, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) {
      const double m = std::abs(static_cast<double>(x[i]));
      sum += m;
      largest = std::max(largest, m);
    }
  });
  if (sum == 0.0) return 1.0;
  if (rule == ScaleRule::ternary) return ternary_scale(values, channel, largest);
  const double mean = sum / static_cast<double>(values.count());
  if (rule == ScaleRule::binary) return mean;
  const double threshold = 0.7 * mean;
  double kept = 0.0;
  double count = 0.0;
  values.for_each(channel, [&](const T* x, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) {
      const double m = std::abs(static_cast<double>(x[i]));
      if (m <= threshold) continue;
      kept += m;
      count += 1.0;
    }
  });
  return kept / count;
}

template <class T>
void best_scales(const AnyView& x, const ChannelLayout& layout, ScaleRule rule,
                 std::span<float> scales) {
  const ChannelValues<T> values(x, layout);
  parallel_for(layout.channels, 1, [&](std::int64_t first, std::int64_t last) {
    const kernels::FloatMode mode;
    for (std::int64_t c = first; c < last; ++c) {
      const double scale = best_scale(values, c, rule);
      scales[static_cast<std::size_t>(c)] = static_cast<float>(std::clamp<double>(
          scale, std::numeric_limits<float>::min(), std::numeric_limits<float>::max()));
    }
  });
}

}  // namespace

void fake_quantize_levels(const AnyView& src, std::span<const float> scale,
                          std::optional<std::int64_t> axis, Levels levels,
                          const MutableAnyView& dst, std::span<std::uint8_t> bits) {
  constexpr auto where = "quant.fake_quantize_levels";
  check_same(src, dst, where, "x");
  check_levels(scale, axis, levels, where);
  if (!bits.empty()) {
    check_bits(bits, src, where);
    check_bits(bits, dst, where);
  }
  if (src.dtype() == DType::float64) {
    round_to_levels<double>(src, scale, axis, levels, dst, bits);
  } else {
    round_to_levels<float>(src, scale, axis, levels, dst, bits);
  }
}

void quantize_levels(const AnyView& src, std::span<const float> scale,
                     std::optional<std::int64_t> axis, Levels levels, const MutableAnyView& dst) {
  constexpr auto where = "quant.quantize_levels";
  check_codes(dst, src, where, "out", "x");
  check_levels(scale, axis, levels, where);
  const auto write = [&](const auto& grids) {
    check_no_nan(src, where);
    write_codes(src, grids, levels.powers, dst);
  };
  if (src.dtype() == DType::float64) write(level_steps<double>(src.shape(), scale, axis, where));
  else write(level_steps<float>(src.shape(), scale, axis, where));
}

void dequantize_levels(const AnyView& src, std::span<const float> scale,
                       std::optional<std::int64_t> axis, const MutableAnyView& dst) {
  constexpr auto where = "quant.dequantize_levels";
  check_codes(src, dst, where, "q", "out");
  check_levels(scale, axis, {}, where);
  const auto write = [&](const auto& grids) {
    std::atomic<bool> fits{true};
    for_each_codes(src, [&](const std::int8_t* codes, std::int64_t, std::int64_t n) {
      if (std::any_of(codes, codes + n, [](int code) { return std::abs(code) > kMaxLevelCode; })) {
        fits.store(false, std::memory_order_relaxed);
      }
    });
    check(fits.load(), where, "q must be in [-100, 100]", "a code beyond");
    write_levels(src, grids, dst);
  };
  if (dst.dtype() == DType::float64) write(level_steps<double>(src.shape(), scale, axis, where));
  else write(level_steps<float>(src.shape(), scale, axis, where));
}

std::vector<float> level_scale(const AnyView& x, ScaleRule rule, std::optional<std::int64_t> axis) {
  constexpr auto where = "quant.level_scale";
  const std::optional<int> at_axis = observed_axis(x, axis, where);
  ChannelLayout layout;
  layout.inner = x.size();
  if (at_axis) layout = ChannelLayout(x.shape(), *at_axis);
  const kernels::FloatMode mode;
  check<NonFiniteError>(observed_range(x, std::nullopt).finite, where, "x must be finite",
                        "NaN or infinity");
  std::vector<float> scales(static_cast<std::size_t>(layout.channels));
  if (x.dtype() == DType::float64) best_scales<double>(x, layout, rule, scales);
  else best_scales<float>(x, layout, rule, scales);
  return scales;
}

namespace {

// The float that rounds to `Half` as x does, although it has fewer digits than a double: to odd.
float to_odd(double x) noexcept {
  const auto nearest = static_cast<float>(x);
  if (static_cast<double>(nearest) == x || !std::isfinite(nearest)) return nearest;
  auto word = std::bit_cast<std::uint32_t>(nearest);
  // Toward zero, then the last bit set: whoever rounds next sees that something is left.
  if (std::abs(static_cast<double>(nearest)) > std::abs(x)) --word;
  return std::bit_cast<float>(word | 1u);
}

template <class Half>
std::uint16_t half_of(double x, std::uint16_t top, Overflow overflow, bool& lost) noexcept {
  const std::uint16_t bits = Half::from_float(to_odd(x));
  const bool is_finite = (bits & 0x7fffu) <= top;
  if (is_finite) return bits;
  lost = true;
  if (overflow != Overflow::saturate || !std::isfinite(x)) return bits;
  return static_cast<std::uint16_t>((bits & 0x8000u) | top);
}

template <class Half>
void cast_as(const AnyView& src, const MutableAnyView& dst, std::uint16_t top, Overflow overflow) {
  constexpr std::int64_t kBlock = 2048;
  const auto run = [&](bool write) {
    std::atomic<bool> any_lost{false};
    parallel_for(src.size(), kGrain, [&](std::int64_t first, std::int64_t last) {
      const kernels::FloatMode mode;
      double in[kBlock];
      std::uint16_t out[kBlock];
      bool lost = false;
      for (std::int64_t at = first; at < last; at += kBlock) {
        const std::int64_t n = std::min(kBlock, last - at);
        const double* from = kernels::block(src, at, n, in);
        for (std::int64_t i = 0; i < n; ++i) out[i] = half_of<Half>(from[i], top, overflow, lost);
        if (write) kernels::scatter(out, at, n, dst);
      }
      if (lost) any_lost.store(true, std::memory_order_relaxed);
    });
    return any_lost.load();
  };
  if (overflow == Overflow::error) {
    check<NonFiniteError>(!run(false), "quant.cast",
                          "x must be finite and in the range of " + std::string(name(dst.dtype())) +
                              " (overflow=\"error\")",
                          "a value that is not");
  }
  run(true);
}

}  // namespace

void cast(const AnyView& src, const MutableAnyView& dst, Overflow overflow) {
  constexpr auto where = "quant.cast";
  if (!is_floating(src.dtype())) [[unlikely]] {
    throw DTypeError(
        error_text(where, "x must be float64, float32, float16 or bfloat16", name(src.dtype())));
  }
  check<DTypeError>(dst.dtype() == DType::float16 || dst.dtype() == DType::bfloat16, where,
                    "dtype must be float16 or bfloat16", name(dst.dtype()));
  check(src.shape() == dst.shape(), where, "out must have the shape of x", dst.shape());
  const auto [first, last] = extent_of(src);
  const auto [out_first, out_last] = extent_of(dst);
  check(last <= out_first || out_last <= first || src.empty(), where,
        "out must not overlap the input");
  if (dst.dtype() == DType::float16) cast_as<float16>(src, dst, 0x7bffu, overflow);
  else cast_as<bfloat16>(src, dst, 0x7f7fu, overflow);
}

}  // namespace moptcore::inline v0::quant

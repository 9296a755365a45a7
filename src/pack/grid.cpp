// SPDX-License-Identifier: Apache-2.0
#include "grid.hpp"

#include <moptcore/core/parallel.hpp>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <numeric>
#include <type_traits>

#include "stream.hpp"

namespace moptcore::inline v0::pack {
namespace {

constexpr std::int64_t kGrain = std::int64_t{1} << 16;
constexpr int kLargest = 255;  // of |q|: a uint8 grid with its zero point at either end

template <class T>
using ScaleOf = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <class T>
using WordOf = std::conditional_t<sizeof(T) == 8, std::uint64_t,
                                  std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint16_t>>;

template <class T>
constexpr int kPrecision = std::is_same_v<T, double>    ? 53
                           : std::is_same_v<T, float>   ? 24
                           : std::is_same_v<T, float16> ? 11
                                                        : 8;

template <class T>
double to_double(T value) {
  if constexpr (std::is_same_v<T, double>) return value;
  else return static_cast<double>(static_cast<float>(value));
}

template <class T>
T on_grid(ScaleOf<T> scale, int q) {
  return static_cast<T>(scale * static_cast<ScaleOf<T>>(q));
}

template <class T>
WordOf<T> word_of(T value) {
  return std::bit_cast<WordOf<T>>(value);
}

// The elements of one scale, once each run of `inner`.
template <class T>
struct Group {
  const T* elements;
  std::int64_t outer;
  std::int64_t stride;  // between runs
  std::int64_t inner;

  template <class F>
  bool all(F&& f) const {
    for (std::int64_t o = 0; o < outer; ++o) {
      for (std::int64_t i = 0; i < inner; ++i) {
        if (!f(elements[o * stride + i])) return false;
      }
    }
    return true;
  }
};

// As std::nearbyint below 2^51, without a call.
inline double nearest(double value) {
  constexpr double kShift = 0x1.8p52;
  return value + kShift - kShift;
}

template <class T>
int integer_of(T value, double scale) {
  return static_cast<int>(nearest(to_double(value) / scale));
}

// Half the distance to the next number of T, so that scale * q rounds to value between them.
template <class T>
double half_step(double value) {
  const std::uint64_t exponent = std::bit_cast<std::uint64_t>(value) >> 52 & 2047u;
  if (exponent > kPrecision<T>) return std::bit_cast<double>((exponent - kPrecision<T>) << 52);
  return std::ldexp(1.0, std::ilogb(value) - kPrecision<T>);
}

// The scale near `guess` with T(scale * q) == value for integers of at most `largest` by magnitude:
// every value leaves an interval of scales, and what they have in common is tried out. `least` is
// the smallest magnitude but zero.
template <class T>
std::optional<ScaleOf<T>> scale_near(const Group<T>& group, double guess, double least,
                                     int largest) {
  using S = ScaleOf<T>;
  const double q_least = least / guess;
  const double slack = 0.01 + std::ldexp(1.0, 1 - kPrecision<T>);
  if (q_least < 0.5 || std::fabs(q_least - std::nearbyint(q_least)) > slack * q_least) {
    return std::nullopt;
  }
  double low = 0.0;
  double high = std::numeric_limits<double>::infinity();
  const bool common = group.all([&](T value) {
    const double magnitude = std::fabs(to_double(value));
    if (magnitude == 0.0) return true;
    const double q = nearest(magnitude / guess);
    if (q == 0.0) return false;
    const double half = half_step<T>(magnitude);
    low = std::max(low, (magnitude - half) / q);
    high = std::min(high, (magnitude + half) / q);
    // Rounding in the two quotients may cross bounds that meet.
    return low <= high * (1.0 + 0x1p-50);
  });
  if (!common) return std::nullopt;
  const S middle = static_cast<S>(low + (high - low) / 2);
  S below = middle;
  S above = middle;
  for (int step = 0; step < 3; ++step) {
    for (const S scale : {below, above}) {
      if (!(scale > 0) || !std::isfinite(scale)) continue;
      const bool fits = group.all([&](T value) {
        const double q = nearest(to_double(value) / static_cast<double>(scale));
        return std::fabs(q) <= largest &&
               word_of(on_grid<T>(scale, static_cast<int>(q))) == word_of(value);
      });
      if (fits) return scale;
    }
    below = std::nextafter(below, S{0});
    above = std::nextafter(above, std::numeric_limits<S>::max());
  }
  return std::nullopt;
}

// Whether no smaller integers are in the same ratios.
template <class T>
bool coprime(const Group<T>& group, double scale) {
  int divisor = 0;
  return !group.all([&](T value) {
    divisor = std::gcd(divisor, integer_of(value, scale));
    return divisor != 1;
  });
}

// Tries each integer for the largest value: the scale with the smallest integers. The integer
// `hint` is tried first, if it is not 0: groups of one tensor tend to have the same.
template <class T>
std::optional<ScaleOf<T>> scale_of(const Group<T>& group, int largest, int hint) {
  using S = ScaleOf<T>;
  double top = 0.0;
  double least = std::numeric_limits<double>::infinity();
  const bool proper = group.all([&](T value) {
    const double magnitude = std::fabs(to_double(value));
    if (!(magnitude <= std::numeric_limits<double>::max())) return false;
    if (magnitude == 0.0) return word_of(value) == 0;
    top = std::max(top, magnitude);
    least = std::min(least, magnitude);
    return true;
  });
  if (!proper) return std::nullopt;
  if (top == 0.0) return S{1};
  // The largest value is itself rounded: with few bits that can move the others to other integers.
  constexpr int kGuesses = kPrecision<T> > 11 ? 0 : 4;
  const double half_top = half_step<T>(top);
  const auto with_top = [&](int q_top) -> std::optional<S> {
    for (int offset = -kGuesses; offset <= kGuesses; ++offset) {
      const double guess = (top + half_top * offset / std::max(kGuesses, 1)) / q_top;
      if (const auto scale = scale_near(group, guess, least, largest)) return scale;
    }
    return std::nullopt;
  };
  if (hint != 0) {
    const auto scale = with_top(hint);
    if (scale && coprime(group, static_cast<double>(*scale))) return scale;
  }
  for (int q_top = 1; q_top <= largest; ++q_top) {
    if (const auto scale = with_top(q_top)) return scale;
  }
  return std::nullopt;
}

template <class T>
std::optional<Grid> try_grid(const T* elements, std::int64_t n, std::int64_t count,
                             std::int64_t inner, int bits) {
  using S = ScaleOf<T>;
  std::vector<S> scales(static_cast<std::size_t>(count));
  const std::int64_t outer = n / (count * inner);
  const int largest = std::min(kLargest, (1 << bits) - 1);
  // The first scale tells nearly always whether there are any.
  std::atomic<bool> all{true};
  int hint = 0;
  const auto find_scales = [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t g = first; g < last && all.load(std::memory_order_relaxed); ++g) {
      const Group<T> group{elements + g * inner, outer, count * inner, inner};
      const auto scale = scale_of(group, largest, hint);
      if (!scale) all.store(false, std::memory_order_relaxed);
      else scales[static_cast<std::size_t>(g)] = *scale;
    }
  };
  find_scales(0, 1);
  if (!all) return std::nullopt;
  Group<T>{elements, outer, count * inner, inner}.all([&](T value) {
    hint = std::max(hint, std::abs(integer_of(value, static_cast<double>(scales[0]))));
    return true;
  });
  parallel_for(count - 1, std::max<std::int64_t>(kGrain * count / n, 1),
               [&](std::int64_t first, std::int64_t last) { find_scales(first + 1, last + 1); });
  if (!all) return std::nullopt;
  Grid grid;
  grid.count = count;
  grid.inner = inner;
  int low = 0;
  int high = 0;
  std::vector<std::int16_t> integers(static_cast<std::size_t>(n));
  for (std::int64_t run = 0; run < n / inner; ++run) {
    const auto scale = static_cast<double>(scales[static_cast<std::size_t>(run % count)]);
    for (std::int64_t i = run * inner; i < (run + 1) * inner; ++i) {
      const int q = integer_of(elements[i], scale);
      integers[static_cast<std::size_t>(i)] = static_cast<std::int16_t>(q);
      low = std::min(low, q);
      high = std::max(high, q);
    }
  }
  if (high - low >= 1 << bits) return std::nullopt;
  grid.low = low;
  grid.bits = symbol_bits(high - low);
  grid.scales.resize(scales.size() * sizeof(S));
  std::memcpy(grid.scales.data(), scales.data(), grid.scales.size());
  grid.symbols.resize(integers.size());
  std::transform(integers.begin(), integers.end(), grid.symbols.begin(),
                 [low](std::int16_t q) { return static_cast<std::uint8_t>(q - low); });
  return grid;
}

template <class T>
std::optional<Grid> find(const std::uint8_t* bytes, const Shape& shape, int bits, bool several) {
  const auto* elements = reinterpret_cast<const T*>(bytes);
  const std::int64_t n = element_count(shape);
  if (n == 0) return std::nullopt;
  if (!several) return try_grid(elements, n, 1, n, bits);
  std::int64_t inner = n;
  for (int axis = 0; axis < shape.rank(); ++axis) {
    inner /= shape[axis];
    // A scale for less than four elements saves nothing.
    if (shape[axis] == 1 || n / shape[axis] < 4) continue;
    if (auto grid = try_grid(elements, n, shape[axis], inner, bits)) return grid;
  }
  for (const std::int64_t size : {256, 128, 64, 32, 16}) {
    if (shape.rank() == 0 || shape.back() % size != 0 || shape.back() == size) continue;
    if (auto grid = try_grid(elements, n, n / size, size, bits)) return grid;
  }
  return std::nullopt;
}

template <class T>
void apply(const Grid& grid, const std::uint8_t* symbols, std::int64_t n, std::uint8_t* elements) {
  using S = ScaleOf<T>;
  auto* out = reinterpret_cast<T*>(elements);
  parallel_for(n, kGrain, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last;) {
      const std::int64_t run = i / grid.inner;
      S scale;
      std::memcpy(&scale,
                  grid.scales.data() + static_cast<std::size_t>(run % grid.count) * sizeof(S),
                  sizeof(S));
      const std::int64_t end = std::min(last, (run + 1) * grid.inner);
      for (; i < end; ++i) out[i] = on_grid<T>(scale, symbols[i] + grid.low);
    }
  });
}

std::optional<Grid> find(const std::uint8_t* elements, DType dtype, const Shape& shape, int bits,
                         bool several) {
  switch (dtype) {
    case DType::float64: return find<double>(elements, shape, bits, several);
    case DType::float32: return find<float>(elements, shape, bits, several);
    case DType::float16: return find<float16>(elements, shape, bits, several);
    case DType::bfloat16: return find<bfloat16>(elements, shape, bits, several);
    default: return std::nullopt;
  }
}

}  // namespace

std::optional<Grid> find_grid(const std::uint8_t* elements, DType dtype, const Shape& shape,
                              int bits) {
  return find(elements, dtype, shape, bits, false);
}

std::optional<Grid> find_grids(const std::uint8_t* elements, DType dtype, const Shape& shape,
                               int bits) {
  return find(elements, dtype, shape, bits, true);
}

void apply_grid(const Grid& grid, const std::uint8_t* symbols, std::int64_t n, DType dtype,
                std::uint8_t* elements) {
  switch (dtype) {
    case DType::float64: apply<double>(grid, symbols, n, elements); break;
    case DType::float32: apply<float>(grid, symbols, n, elements); break;
    case DType::float16: apply<float16>(grid, symbols, n, elements); break;
    default: apply<bfloat16>(grid, symbols, n, elements);
  }
}

}  // namespace moptcore::inline v0::pack

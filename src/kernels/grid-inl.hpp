// SPDX-License-Identifier: Apache-2.0
// Positions on a grid, for one target. Included by kernel files after <hwy/highway.h>.
#if defined(MOPTCORE_KERNELS_GRID_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef MOPTCORE_KERNELS_GRID_INL
#undef MOPTCORE_KERNELS_GRID_INL
#else
#define MOPTCORE_KERNELS_GRID_INL
#endif

#include <hwy/highway.h>

#include <cstdint>
#include <limits>

#include <hwy/cache_control.h>

#include "kernels/grid.hpp"
#include "kernels/halves-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace moptcore::inline v0::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// The lanes of one vector of elements: their grids.
template <class V>
struct Lane {
  V factor, scale, low, high, zero;
};

// The same grid for all elements.
template <class D>
class OneGrid {
  using T = hn::TFromD<D>;
  using V = hn::Vec<D>;

 public:
  OneGrid(D d, const GridStep<T>& step)
      : factor_(hn::Set(d, step.factor)),
        scale_(hn::Set(d, step.scale)),
        low_(hn::Set(d, step.low)),
        high_(hn::Set(d, step.high)),
        zero_(hn::Set(d, step.zero)) {}

  HWY_INLINE Lane<V> Load(D, std::int64_t) const { return {factor_, scale_, low_, high_, zero_}; }
  HWY_INLINE Lane<V> LoadN(D, std::int64_t, std::int64_t) const {
    return {factor_, scale_, low_, high_, zero_};
  }

 private:
  V factor_, scale_, low_, high_, zero_;
};

// A grid for each element.
template <class D>
class ManyGrids {
  using T = hn::TFromD<D>;
  using V = hn::Vec<D>;

 public:
  ManyGrids(D, const GridTable<T>& table) : table_(table) {}

  HWY_INLINE Lane<V> Load(D d, std::int64_t i) const {
    return {hn::LoadU(d, table_.factor + i), hn::LoadU(d, table_.scale + i),
            hn::LoadU(d, table_.low + i), hn::LoadU(d, table_.high + i),
            hn::LoadU(d, table_.zero + i)};
  }
  HWY_INLINE Lane<V> LoadN(D d, std::int64_t i, std::int64_t n) const {
    return {LoadPart(d, table_.factor + i, n), LoadPart(d, table_.scale + i, n),
            LoadPart(d, table_.low + i, n), LoadPart(d, table_.high + i, n),
            LoadPart(d, table_.zero + i, n)};
  }

 private:
  GridTable<T> table_;
};

// The nearest whole number of |v| < 2^22 (float) or 2^51 (double). Adding 1.5 * 2^(digits of the
// fraction) leaves no room for a fraction; the result is never -0.
template <class D, class V>
HWY_INLINE V NearestEven(D d, V v) {
  using T = hn::TFromD<D>;
  const V magic =
      hn::Set(d, static_cast<T>(1.5 / static_cast<double>(std::numeric_limits<T>::epsilon())));
  return hn::Sub(hn::Add(v, magic), magic);
}

template <Rounding kRounding, class D, class V>
HWY_INLINE V Nearest(D d, V v) {
  const V even = NearestEven(d, v);
  if constexpr (kRounding != Rounding::divide_away) return even;
  const V zero = hn::Zero(d);
  const V one = hn::Set(d, 1);
  const V half = hn::Set(d, static_cast<hn::TFromD<D>>(0.5));
  const V rest = hn::Sub(v, even);  // exact
  const auto up = hn::And(hn::Eq(rest, half), hn::Gt(v, zero));
  const auto down = hn::And(hn::Eq(rest, hn::Neg(half)), hn::Lt(v, zero));
  return hn::Sub(hn::Add(even, hn::IfThenElseZero(up, one)), hn::IfThenElseZero(down, one));
}

template <Rounding kRounding, class V>
HWY_INLINE V InSteps(V x, const Lane<V>& grid) {
  if constexpr (kRounding == Rounding::multiply_even) return hn::Mul(x, grid.factor);
  return hn::Div(x, grid.scale);
}

// The position of NaN: a constant, or the grid's low. No branch, so that loops stay free of them.
template <class D>
class NanLanes {
  using V = hn::Vec<D>;

 public:
  NanLanes(D d, NanPosition where)
      : low_(hn::Zero(d)),
        fixed_(where == NanPosition::nan
                   ? hn::Set(d, std::numeric_limits<hn::TFromD<D>>::quiet_NaN())
                   : hn::Zero(d)) {
    if (where == NanPosition::low) low_ = hn::VecFromMask(d, hn::Eq(low_, low_));
  }

  HWY_INLINE V At(V low) const { return hn::Or(hn::And(low, low_), fixed_); }

 private:
  V low_, fixed_;
};

// The saturated position of x. Saturating before rounding to the whole bound is the same and
// keeps the value in the range of NearestEven.
template <Rounding kRounding, class D, class V>
HWY_INLINE V Position(D d, V x, const Lane<V>& grid, const NanLanes<D>& nan) {
  const V v = InSteps<kRounding>(x, grid);
  const V r = Nearest<kRounding>(d, hn::Min(hn::Max(v, grid.low), grid.high));
  return hn::IfThenElse(hn::Eq(v, v), r, nan.At(grid.low));
}

// The same, and whether the rounded position needed no saturation.
template <Rounding kRounding, class D, class V>
HWY_INLINE V Position(D d, V x, const Lane<V>& grid, const NanLanes<D>& nan, hn::Mask<D>& inside) {
  const V one = hn::Set(d, 1);
  const V v = InSteps<kRounding>(x, grid);
  const auto number = hn::Eq(v, v);
  const V wide = hn::Min(hn::Max(v, hn::Sub(grid.low, one)), hn::Add(grid.high, one));
  const V r = Nearest<kRounding>(d, wide);
  const V saturated = hn::Min(hn::Max(r, grid.low), grid.high);
  inside = hn::And(number, hn::Eq(r, saturated));
  return hn::IfThenElse(number, saturated, nan.At(grid.low));
}

// How far ahead of a streaming loop memory is asked for: a page is often not known yet.
constexpr std::int64_t kAheadBytes = 2048;

// dst[i] = f(x, grid, inside) for all elements; where bits are wanted, `inside` becomes bit i.
// f may ignore `inside` where kBits is false. Memory holds S, which may be narrower than what D
// computes with; f gives no NaN but the default one. With `stream`, dst is a multiple of 16
// bytes and written past the caches.
template <bool kBits, class D, class S, class Grids, class F>
HWY_INLINE void ForEachLane(D d, const S* src, std::int64_t n, const Grids& all, S* dst,
                            std::uint8_t* bits, bool stream, F f) {
  using V = hn::Vec<D>;
  // A store of bits may alias anything but locals; f captures by value for the same reason.
  const Grids grids = all;
  constexpr std::int64_t kLanes = hn::MaxLanes(D());
  constexpr std::int64_t kByte = kLanes < 8 ? 8 : kLanes;
  constexpr std::int64_t kUnit = kByte < 4 * kLanes ? 4 * kLanes : kByte;
  std::int64_t i = 0;
  // Elements [i, i + kCount): whole vectors and whole bytes of bits.
  const auto whole = [&]<std::int64_t kCount>(bool past) HWY_ATTR {
    constexpr std::int64_t kVectors = kCount / kLanes;
    V y[kVectors];
    [[maybe_unused]] std::uint8_t part[8];
    [[maybe_unused]] unsigned byte = 0;
    for (std::int64_t v = 0; v < kVectors; ++v) {
      const std::int64_t k = v * kLanes;
      hn::Mask<D> inside;
      y[v] = f(LoadAs<S>(d, src + i + k), grids.Load(d, i + k), inside);
      if constexpr (kBits && kLanes >= 8) {
        hn::StoreMaskBits(d, inside, bits + (i + k) / 8);
      } else if constexpr (kBits) {
        hn::StoreMaskBits(d, inside, part);
        byte |= static_cast<unsigned>(part[0]) << (k % 8);
        if ((k + kLanes) % 8 == 0) {
          bits[(i + k) / 8] = static_cast<std::uint8_t>(byte);
          byte = 0;
        }
      }
    }
    if (past) {
      for (std::int64_t v = 0; v < kVectors; ++v) {
        StoreAs<true, false>(d, y[v], dst + i + v * kLanes);
      }
    } else {
      for (std::int64_t v = 0; v < kVectors; ++v) {
        StoreAs<false, false>(d, y[v], dst + i + v * kLanes);
      }
    }
  };
  for (; i + kUnit <= n; i += kUnit) {
    if (stream) {
      for (std::int64_t at = 0; at < kUnit * static_cast<std::int64_t>(sizeof(S)); at += 64) {
        hwy::Prefetch(reinterpret_cast<const char*>(src + i) + kAheadBytes + at);
      }
    }
    whole.template operator()<kUnit>(stream);
  }
  constexpr std::int64_t kLeast = kBits ? kByte : kLanes;
  for (; i + kLeast <= n; i += kLeast) whole.template operator()<kLeast>(false);
  for (; i < n; i += kLanes) {
    const std::int64_t count = n - i < kLanes ? n - i : kLanes;
    hn::Mask<D> inside;
    StorePart(d, f(LoadPart(d, src + i, count), grids.LoadN(d, i, count), inside), dst + i, count);
    if constexpr (kBits) {
      std::uint8_t part[8] = {};
      hn::StoreMaskBits(d, inside, part);
      for (std::int64_t k = 0; k < count; ++k) {
        const std::int64_t at = i + k;
        const unsigned bit = (part[k / 8] >> (k % 8)) & 1u;
        const unsigned before = at % 8 == 0 ? 0u : bits[at / 8];
        bits[at / 8] = static_cast<std::uint8_t>(before | (bit << (at % 8)));
      }
    }
  }
}

// Calls f<rounding>() with the rounding as a compile-time constant.
template <class F>
HWY_INLINE void WithRounding(Rounding rounding, F&& f) {
  switch (rounding) {
    case Rounding::divide_even: return f.template operator()<Rounding::divide_even>();
    case Rounding::multiply_even: return f.template operator()<Rounding::multiply_even>();
    case Rounding::divide_away: return f.template operator()<Rounding::divide_away>();
  }
}

}  // namespace moptcore::inline v0::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // MOPTCORE_KERNELS_GRID_INL

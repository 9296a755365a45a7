// SPDX-License-Identifier: Apache-2.0
#include "kernels/integer.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/integer.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/integer_vnni.hpp"

#if !defined(MOPTCORE_KERNELS_INTEGER_SLACK)
#define MOPTCORE_KERNELS_INTEGER_SLACK
namespace moptcore::inline v0::kernels {
// Words behind the last plane that a vector beginning there may read, whatever its length.
constexpr std::int64_t kSlack = 16;
// Words of a panel of weights that stay in the first cache.
constexpr std::int64_t kDepth = 256;
}  // namespace moptcore::inline v0::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace moptcore::inline v0::kernels {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

using DI = hn::ScalableTag<std::int32_t>;
using DF = hn::ScalableTag<float>;
using VI = hn::Vec<DI>;
using VF = hn::Vec<DF>;

constexpr int kLanes = static_cast<int>(hn::MaxLanes(DI()));
constexpr int kCols = 2 * kLanes;
// Rows whose sums stay in registers beside words, broadcasts and products. Six would on AVX2, too,
// but four divide the outputs of most layers.
constexpr int kRows = HWY_TARGET == HWY_AVX3 ? 8 : 4;

// sum + a.low * b.low + a.high * b.high of the halves of each word.
HWY_INLINE VI MulPairsAdd(VI a, VI b, VI sum) {
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
  const hn::RepartitionToNarrow<DI> d16;
  VI unused = hn::Zero(DI());
  return hn::ReorderWidenMulAccumulate(DI(), hn::BitCast(d16, a), hn::BitCast(d16, b), sum, unused);
#else
  const auto low = [](VI v) { return hn::ShiftRight<16>(hn::ShiftLeft<16>(v)); };
  const VI even = hn::Mul(low(a), low(b));
  const VI odd = hn::Mul(hn::ShiftRight<16>(a), hn::ShiftRight<16>(b));
  return hn::Add(sum, hn::Add(even, odd));
#endif
}

// Words of depth positions: left ones at equal distances, right ones where a table says.
struct Apart {
  std::int64_t distance;
  HWY_INLINE const std::int64_t* Table() const { return nullptr; }
  HWY_INLINE std::int64_t operator()(std::int64_t k) const { return k * distance; }
};

struct Listed {
  const std::int64_t* offset;
  HWY_INLINE const std::int64_t* Table() const { return offset; }
  HWY_INLINE std::int64_t operator()(std::int64_t k) const { return offset[k]; }
};

// Rows of words at a distance from each other.
struct Left {
  const std::int32_t* words;
  std::int64_t distance;
};

// sums[i][0 .. kCols) of kCount rows `left` and of two vectors of columns, added to what is there
// where kMore.
template <int kCount, bool kMore, class Offset>
HWY_INLINE void Tile(std::int64_t depth, Left left, const std::int32_t* HWY_RESTRICT first,
                     const std::int32_t* HWY_RESTRICT second, Offset offset,
                     std::int32_t* HWY_RESTRICT sums) {
  const DI d;
  VI sum[kCount][2];
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) {
    sum[i][0] = kMore ? hn::LoadU(d, sums + i * kCols) : hn::Zero(d);
    sum[i][1] = kMore ? hn::LoadU(d, sums + i * kCols + kLanes) : hn::Zero(d);
  }
  for (std::int64_t k = 0; k < depth; ++k) {
    const std::int64_t at = offset(k);
    const VI b0 = hn::LoadU(d, first + at);
    const VI b1 = hn::LoadU(d, second + at);
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i) {
      const VI a = hn::Set(d, left.words[i * left.distance + k]);
      sum[i][0] = MulPairsAdd(a, b0, sum[i][0]);
      sum[i][1] = MulPairsAdd(a, b1, sum[i][1]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) {
    hn::StoreU(sum[i][0], d, sums + i * kCols);
    hn::StoreU(sum[i][1], d, sums + i * kCols + kLanes);
  }
}

template <bool kMore, class Offset, int... kCounts>
HWY_INLINE void TileOf(std::integer_sequence<int, kCounts...>, int count, std::int64_t depth,
                       Left left, const std::int32_t* first, const std::int32_t* second,
                       Offset offset, std::int32_t* sums) {
  using Function =
      void (*)(std::int64_t, Left, const std::int32_t*, const std::int32_t*, Offset, std::int32_t*);
  static constexpr Function kTiles[] = {&Tile<kCounts + 1, kMore, Offset>...};
  kTiles[count - 1](depth, left, first, second, offset, sums);
}

template <bool kMore, class Offset>
void AnyTile(int count, std::int64_t depth, Left left, const std::int32_t* first,
             const std::int32_t* second, Offset offset, std::int32_t* sums) {
#if HWY_TARGET == HWY_AVX3
  static_assert(vnni::kRows == kRows && vnni::kCols == kCols);
  if (vnni::available()) {
    vnni::tile(count, depth, left.words, left.distance, first, second, offset.Table(), kMore, sums);
    return;
  }
#endif
  TileOf<kMore>(std::make_integer_sequence<int, kRows>(), count, depth, left, first, second, offset,
                sums);
}

HWY_INLINE float Result(std::int32_t sum, std::int32_t bias, float scale, bool wide) {
  return wide ? static_cast<float>(std::int64_t{sum} + bias) * scale
              : static_cast<float>(sum + bias) * scale;
}

// Eight bits of x less the zero point, as 32-bit integers. NaN clears `finite`.
class Rounding {
 public:
  explicit Rounding(const InputGrid& grid)
      : scale_(grid.scale),
        low_(static_cast<float>(grid.qmin - grid.zero_point)),
        high_(static_cast<float>(grid.qmax - grid.zero_point)) {}

  HWY_INLINE VI Whole(VF x) {
    const DF d;
    numbers_ = hn::And(numbers_, hn::VecFromMask(d, hn::Eq(x, x)));
    const VF v = hn::Round(hn::Div(x, hn::Set(d, scale_)));
    return hn::ConvertTo(DI(), hn::Min(hn::Max(v, hn::Set(d, low_)), hn::Set(d, high_)));
  }

  HWY_INLINE std::int32_t Whole(float x) {
    number_ = number_ && x == x;
    const float v = std::nearbyint(x / scale_);
    return static_cast<std::int32_t>(std::min(std::max(low_, v), high_));
  }

  HWY_INLINE bool AllNumbers() const {
    const DF d;
    return number_ && hn::AllTrue(d, hn::MaskFromVec(numbers_));
  }

 private:
  float scale_, low_, high_;
  bool number_ = true;
  VF numbers_ = hn::VecFromMask(DF(), hn::Eq(hn::Zero(DF()), hn::Zero(DF())));
};

HWY_INLINE VI Word(VI even, VI odd) {
  return hn::Or(hn::And(even, hn::Set(DI(), 0xffff)), hn::ShiftLeft<16>(odd));
}

HWY_INLINE std::int32_t WordOf(std::int32_t even, std::int32_t odd) {
  return static_cast<std::int32_t>((static_cast<std::uint32_t>(even) & 0xffffu) |
                                   (static_cast<std::uint32_t>(odd) << 16));
}

// words[i] = even[i] and odd[i] (null: zeros), one row of two channels. `readable` elements follow
// each in memory; zeros may be written behind a row that is shorter than a vector.
HWY_INLINE void RowWords(std::int64_t n, std::int64_t readable, const float* even, const float* odd,
                         Rounding& rounding, std::int32_t* words) {
  const auto some = [&](const float* from, const float* beside, std::int32_t* to) HWY_ATTR {
    const VI low = rounding.Whole(hn::LoadU(DF(), from));
    const VI high = beside == nullptr ? hn::Zero(DI()) : rounding.Whole(hn::LoadU(DF(), beside));
    hn::StoreU(Word(low, high), DI(), to);
  };
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) some(even + i, odd == nullptr ? odd : odd + i, words + i);
  if (i == n) return;
  if (i > 0) {
    // The last vector of the row, in part once more.
    i = n - kLanes;
    some(even + i, odd == nullptr ? odd : odd + i, words + i);
    return;
  }
  if (readable >= kLanes) {
    // What is read of the next rows becomes zeros, which those rows then overwrite.
    some(even, odd, words);
    hn::StoreU(
        hn::IfThenElseZero(hn::FirstN(DI(), static_cast<std::size_t>(n)), hn::LoadU(DI(), words)),
        DI(), words);
    return;
  }
  for (; i < n; ++i) {
    words[i] = WordOf(rounding.Whole(even[i]), odd == nullptr ? 0 : rounding.Whole(odd[i]));
  }
}

// The words of an image between the zeros of its padding.
bool Words(const Convolution& c, const InputGrid& grid, const float* x, std::int32_t* line,
           std::int32_t* planes) {
  Rounding rounding(grid);
  const float* end = x + c.channels * c.height * c.width;
  const std::int64_t channels = c.channels / c.groups;
  for (std::int64_t g = 0; g < c.groups; ++g) {
    for (std::int64_t pair = 0; pair < c.pairs(); ++pair) {
      const float* even = x + (g * channels + 2 * pair) * c.height * c.width;
      const float* odd = 2 * pair + 1 < channels ? even + c.height * c.width : nullptr;
      std::int32_t* plane = planes + (g * c.pairs() + pair) * c.plane() + c.pad_top * c.row();
      for (std::int64_t h = 0; h < c.height; ++h) {
        const float* second = odd == nullptr ? nullptr : odd + h * c.width;
        const std::int64_t readable = end - (odd == nullptr ? even + h * c.width : second);
        std::int32_t* row = plane + h * c.row();
        if (c.stride_width == 1) {
          RowWords(c.width, readable, even + h * c.width, second, rounding, row + c.pad_left);
          continue;
        }
        RowWords(c.width, readable, even + h * c.width, second, rounding, line);
        std::int64_t phase = c.pad_left % c.stride_width;
        std::int64_t index = c.pad_left / c.stride_width;
        for (std::int64_t w = 0; w < c.width; ++w) {
          row[phase * c.phase() + index] = line[w];
          if (++phase == c.stride_width) {
            phase = 0;
            ++index;
          }
        }
      }
    }
  }
  return rounding.AllNumbers();
}

// float(sum + bias) * scale of n columns of one output.
HWY_INLINE void StoreRow(const std::int32_t* sums, std::int64_t n, std::int32_t bias, float scale,
                         bool wide, float* y) {
  if (n == kCols && !wide) {
    for (int i = 0; i < kCols; i += kLanes) {
      const VI sum = hn::Add(hn::LoadU(DI(), sums + i), hn::Set(DI(), bias));
      hn::StoreU(hn::Mul(hn::ConvertTo(DF(), sum), hn::Set(DF(), scale)), DF(), y + i);
    }
  } else {
    for (std::int64_t i = 0; i < n; ++i) y[i] = Result(sums[i], bias, scale, wide);
  }
}

// n columns of one output, up to kCount vectors, from where their windows begin.
template <int kCount>
HWY_INLINE void Strip(std::int64_t depth, const std::int32_t* HWY_RESTRICT weight,
                      const std::int64_t* HWY_RESTRICT offsets,
                      const std::int32_t* HWY_RESTRICT from, std::int64_t n, std::int32_t bias,
                      float scale, float* HWY_RESTRICT y) {
  const DI d;
  VI sum[kCount];
#pragma GCC unroll 8
  for (int v = 0; v < kCount; ++v) sum[v] = hn::Set(d, bias);
  for (std::int64_t k = 0; k < depth; ++k) {
    const VI factor = hn::Set(d, weight[k]);
    const std::int32_t* at = from + offsets[k];
#pragma GCC unroll 8
    for (int v = 0; v < kCount; ++v) {
      sum[v] = MulPairsAdd(factor, hn::LoadU(d, at + v * kLanes), sum[v]);
    }
  }
  const VF factor = hn::Set(DF(), scale);
#pragma GCC unroll 8
  for (int v = 0; v + 1 < kCount; ++v) {
    hn::StoreU(hn::Mul(hn::ConvertTo(DF(), sum[v]), factor), DF(), y + v * kLanes);
  }
  const VF last = hn::Mul(hn::ConvertTo(DF(), sum[kCount - 1]), factor);
  const std::int64_t rest = n - (kCount - 1) * kLanes;
  if (rest == kLanes) {
    hn::StoreU(last, DF(), y + (kCount - 1) * kLanes);
  } else {
    hn::BlendedStore(last, hn::FirstN(DF(), static_cast<std::size_t>(rest)), DF(),
                     y + (kCount - 1) * kLanes);
  }
}

// A convolution whose groups have so few outputs that gathering columns of several rows, or sums
// that pass through memory, would cost more than vectors that a row does not fill.
void ConvolveByRows(const Convolution& c, const std::int32_t* planes, const std::int32_t* packed,
                    const std::int64_t* offsets, const Outputs& outputs, float* y) {
  constexpr int kStrip = 4;
  const std::int64_t depth = c.depth();
  const std::int64_t rows = c.outputs / c.groups;
  const std::int64_t down = c.stride_height * c.row();
  for (std::int64_t o = 0; o < c.outputs; ++o) {
    const std::int32_t* origin = planes + o / rows * c.pairs() * c.plane();
    const std::int32_t* weight = packed + o * depth;
    const std::int32_t bias = outputs.bias == nullptr ? 0 : outputs.bias[o];
    const float scale = outputs.scale[o];
    for (std::int64_t i = 0; i < c.out_height; ++i, y += c.out_width) {
      for (std::int64_t j = 0; j < c.out_width; j += kStrip * kLanes) {
        const std::int64_t n = std::min<std::int64_t>(kStrip * kLanes, c.out_width - j);
        const std::int32_t* from = origin + i * down + j;
        switch ((n + kLanes - 1) / kLanes) {
          case 1: Strip<1>(depth, weight, offsets, from, n, bias, scale, y + j); break;
          case 2: Strip<2>(depth, weight, offsets, from, n, bias, scale, y + j); break;
          case 3: Strip<3>(depth, weight, offsets, from, n, bias, scale, y + j); break;
          default: Strip<kStrip>(depth, weight, offsets, from, n, bias, scale, y + j);
        }
      }
    }
  }
}

bool convolve(const Convolution& c, const InputGrid& grid, const float* x,
              const std::int32_t* packed, const Outputs& outputs, std::int32_t* workspace,
              float* y) {
  const std::int64_t depth = c.depth();
  const std::int64_t words = c.groups * c.pairs() * c.plane();
  std::int32_t* planes = workspace;
  std::int32_t* line = planes + words + kSlack;
  std::int32_t* panel = line + c.width;
  auto* offsets = reinterpret_cast<std::int64_t*>(
      workspace + (words + kSlack + c.width + depth * kCols + 1) / 2 * 2);
  if (!Words(c, grid, x, line, planes)) return false;
  for (std::int64_t pair = 0, k = 0; pair < c.pairs(); ++pair) {
    for (std::int64_t i = 0; i < c.kernel_height; ++i) {
      for (std::int64_t j = 0; j < c.kernel_width; ++j, ++k) {
        const std::int64_t column = j * c.dilation_width;
        offsets[k] = pair * c.plane() + i * c.dilation_height * c.row() +
                     column % c.stride_width * c.phase() + column / c.stride_width;
      }
    }
  }
  const std::int64_t pixels = c.out_height * c.out_width;
  const std::int64_t rows = c.outputs / c.groups;
  if (rows == 1 && !outputs.wide) {
    ConvolveByRows(c, planes, packed, offsets, outputs, y);
    return true;
  }
  const std::int64_t down = c.stride_height * c.row();
  const bool aligned = c.out_width % kLanes == 0;
  HWY_ALIGN std::int32_t sums[kRows * kCols];
  for (std::int64_t g = 0; g < c.groups; ++g) {
    const std::int32_t* origin = planes + g * c.pairs() * c.plane();
    for (std::int64_t p = 0; p < pixels; p += kCols) {
      const std::int64_t cols = std::min<std::int64_t>(kCols, pixels - p);
      const bool direct = aligned && cols == kCols;
      const std::int32_t* first = origin + p / c.out_width * down + p % c.out_width;
      const std::int64_t q = p + kLanes;
      const std::int32_t* second = origin + q / c.out_width * down + q % c.out_width;
      if (!direct) {
        // Columns of several rows: gathered once for all outputs.
        HWY_ALIGN std::int32_t places[kCols];
        for (std::int64_t i = 0; i < kCols; ++i) {
          const std::int64_t at = p + std::min(i, cols - 1);
          places[i] = static_cast<std::int32_t>(at / c.out_width * down + at % c.out_width);
        }
        const VI low = hn::Load(DI(), places);
        const VI high = hn::Load(DI(), places + kLanes);
        for (std::int64_t k = 0; k < depth; ++k) {
          hn::StoreU(hn::GatherIndex(DI(), origin + offsets[k], low), DI(), panel + k * kCols);
          hn::StoreU(hn::GatherIndex(DI(), origin + offsets[k], high), DI(),
                     panel + k * kCols + kLanes);
        }
      }
      for (std::int64_t row = 0; row < rows; row += kRows) {
        const int count = static_cast<int>(std::min<std::int64_t>(kRows, rows - row));
        const std::int64_t o = g * rows + row;
        if (direct) {
          AnyTile<false>(count, depth, Left{packed + o * depth, depth}, first, second,
                         Listed{offsets}, sums);
        } else {
          AnyTile<false>(count, depth, Left{packed + o * depth, depth}, panel, panel + kLanes,
                         Apart{kCols}, sums);
        }
        for (int i = 0; i < count; ++i) {
          StoreRow(sums + i * kCols, cols, outputs.bias == nullptr ? 0 : outputs.bias[o + i],
                   outputs.scale[o + i], outputs.wide, y + (o + i) * pixels + p);
        }
      }
    }
  }
  return true;
}

std::int64_t columns() { return kCols; }

// Panels of kCols outputs, [depth, kCols] words each, zeros behind the last output.
void pack_linear(std::int64_t outputs, std::int64_t inputs, const std::int8_t* weight,
                 std::int32_t* packed) {
  const std::int64_t depth = (inputs + 1) / 2;
  const DI d;
  for (std::int64_t o = 0; o < outputs; o += kCols, packed += depth * kCols) {
    const std::int64_t cols = std::min<std::int64_t>(kCols, outputs - o);
    std::int64_t k = 0;
    if (cols == kCols && inputs * kCols < (std::int64_t{1} << 31)) {
      const VI low = hn::Mul(hn::Iota(d, 0), hn::Set(d, static_cast<std::int32_t>(inputs)));
      const VI high = hn::Mul(hn::Iota(d, kLanes), hn::Set(d, static_cast<std::int32_t>(inputs)));
      for (; k + 4 <= inputs; k += 4) {
        const auto* from = reinterpret_cast<const std::int32_t*>(weight + o * inputs + k);
        const VI four[2] = {hn::GatherOffset(d, from, low), hn::GatherOffset(d, from, high)};
        for (int i = 0; i < 2; ++i) {
          const VI a = hn::ShiftRight<24>(hn::ShiftLeft<24>(four[i]));
          const VI b = hn::ShiftRight<24>(hn::ShiftLeft<16>(four[i]));
          const VI e = hn::ShiftRight<24>(hn::ShiftLeft<8>(four[i]));
          hn::StoreU(Word(a, b), d, packed + k / 2 * kCols + i * kLanes);
          hn::StoreU(Word(e, hn::ShiftRight<24>(four[i])), d,
                     packed + (k / 2 + 1) * kCols + i * kLanes);
        }
      }
    }
    for (; k < inputs; k += 2) {
      for (std::int64_t i = 0; i < kCols; ++i) {
        const std::int8_t* from = weight + (o + i) * inputs + k;
        packed[k / 2 * kCols + i] = i < cols ? WordOf(from[0], k + 1 < inputs ? from[1] : 0) : 0;
      }
    }
  }
}

bool multiply(std::int64_t rows, std::int64_t inputs, std::int64_t outputs, const InputGrid& grid,
              const float* x, const std::int32_t* packed, const Outputs& results,
              std::int32_t* workspace, float* y) {
  const std::int64_t depth = (inputs + 1) / 2;
  Rounding rounding(grid);
  const hn::Rebind<std::int16_t, DI> narrow;
  for (std::int64_t row = 0; row < rows; ++row) {
    const float* from = x + row * inputs;
    auto* to = reinterpret_cast<std::int16_t*>(workspace + row * depth);
    std::int64_t k = 0;
    for (; k + kLanes <= inputs; k += kLanes) {
      const VI whole = rounding.Whole(hn::LoadU(DF(), from + k));
      hn::StoreU(hn::DemoteTo(narrow, whole), narrow, to + k);
    }
    for (; k < inputs; ++k) to[k] = static_cast<std::int16_t>(rounding.Whole(from[k]));
    if (k < 2 * depth) to[k] = 0;
  }
  if (!rounding.AllNumbers()) return false;
  std::int32_t* sums = workspace + rows * depth;
  for (std::int64_t o = 0; o < outputs; o += kCols, packed += depth * kCols) {
    const std::int64_t cols = std::min<std::int64_t>(kCols, outputs - o);
    for (std::int64_t k = 0; k < depth; k += kDepth) {
      const std::int64_t part = std::min(kDepth, depth - k);
      const std::int32_t* panel = packed + k * kCols;
      for (std::int64_t row = 0; row < rows; row += kRows) {
        const int count = static_cast<int>(std::min<std::int64_t>(kRows, rows - row));
        const Left left{workspace + row * depth + k, depth};
        if (k == 0) {
          AnyTile<false>(count, part, left, panel, panel + kLanes, Apart{kCols},
                         sums + row * kCols);
        } else {
          AnyTile<true>(count, part, left, panel, panel + kLanes, Apart{kCols}, sums + row * kCols);
        }
      }
    }
    HWY_ALIGN std::int32_t bias[kCols] = {};
    HWY_ALIGN float scale[kCols] = {};
    for (std::int64_t i = 0; i < cols; ++i) {
      bias[i] = results.bias == nullptr ? 0 : results.bias[o + i];
      scale[i] = results.scale[o + i];
    }
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::int32_t* from = sums + row * kCols;
      float* to = y + row * outputs + o;
      if (cols == kCols && !results.wide) {
        for (int j = 0; j < kCols; j += kLanes) {
          const VI sum = hn::Add(hn::LoadU(DI(), from + j), hn::Load(DI(), bias + j));
          hn::StoreU(hn::Mul(hn::ConvertTo(DF(), sum), hn::Load(DF(), scale + j)), DF(), to + j);
        }
      } else {
        for (std::int64_t j = 0; j < cols; ++j) {
          to[j] = Result(from[j], bias[j], scale[j], results.wide);
        }
      }
    }
  }
  return true;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace moptcore::inline v0::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moptcore::inline v0::kernels {

HWY_EXPORT(convolve);
HWY_EXPORT(columns);
HWY_EXPORT(pack_linear);
HWY_EXPORT(multiply);

std::int64_t convolve_workspace(const Convolution& c) noexcept {
  const std::int64_t words = c.groups * c.pairs() * c.plane() + kSlack + c.width;
  return words + c.depth() * (HWY_DYNAMIC_DISPATCH(columns)() + 2) + 2;
}

std::vector<std::int32_t> pack_convolution(const Convolution& c, const std::int8_t* weight) {
  const std::int64_t channels = c.channels / c.groups;
  const std::int64_t taps = c.kernel_height * c.kernel_width;
  std::vector<std::int32_t> packed(static_cast<std::size_t>(c.outputs * c.depth()));
  std::int32_t* to = packed.data();
  for (std::int64_t o = 0; o < c.outputs; ++o) {
    for (std::int64_t channel = 0; channel < channels; channel += 2) {
      const std::int8_t* even = weight + (o * channels + channel) * taps;
      for (std::int64_t tap = 0; tap < taps; ++tap) {
        const std::int32_t odd = channel + 1 < channels ? even[taps + tap] : 0;
        *to++ = static_cast<std::int32_t>((static_cast<std::uint32_t>(even[tap]) & 0xffffu) |
                                          (static_cast<std::uint32_t>(odd) << 16));
      }
    }
  }
  return packed;
}

bool convolve(const Convolution& c, const InputGrid& grid, const float* x,
              const std::int32_t* packed, const Outputs& outputs, std::int32_t* workspace,
              float* y) noexcept {
  return HWY_DYNAMIC_DISPATCH(convolve)(c, grid, x, packed, outputs, workspace, y);
}

std::vector<std::int32_t> pack_linear(std::int64_t outputs, std::int64_t inputs,
                                      const std::int8_t* weight) {
  const std::int64_t cols = HWY_DYNAMIC_DISPATCH(columns)();
  const std::int64_t padded = (outputs + cols - 1) / cols * cols;
  std::vector<std::int32_t> packed(static_cast<std::size_t>(padded * ((inputs + 1) / 2)));
  HWY_DYNAMIC_DISPATCH(pack_linear)(outputs, inputs, weight, packed.data());
  return packed;
}

std::int64_t multiply_workspace(std::int64_t rows, std::int64_t inputs) noexcept {
  return rows * ((inputs + 1) / 2 + HWY_DYNAMIC_DISPATCH(columns)());
}

bool multiply(std::int64_t rows, std::int64_t inputs, std::int64_t outputs, const InputGrid& grid,
              const float* x, const std::int32_t* packed, const Outputs& results,
              std::int32_t* workspace, float* y) noexcept {
  return HWY_DYNAMIC_DISPATCH(multiply)(rows, inputs, outputs, grid, x, packed, results, workspace,
                                        y);
}

}  // namespace moptcore::inline v0::kernels
#endif

// SPDX-License-Identifier: Apache-2.0
#include "kernels/gemm.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/gemm.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/exp-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moptcore::inline v0::kernels {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

// A panel of so many terms fits in the first cache.
constexpr std::int64_t kTerms = 256;

using D = hn::CappedTag<float, 16>;
using V = hn::Vec<D>;
constexpr int kWidth = static_cast<int>(hn::MaxLanes(D()));
constexpr int kVectors = 16 / kWidth;
// Sums, a row of the panel and a factor fill the registers.
constexpr int kRows = kWidth == 16 ? 12 : kWidth == 8 ? 6 : 2;

HWY_INLINE V gelu(D d, V x) {
  const V half = hn::Set(d, 0.5f);
  const V z = hn::Mul(hn::Abs(x), hn::Set(d, 0.70710678f));
  // erfc by Abramowitz and Stegun, 7.1.26.
  const V t = hn::Div(hn::Set(d, 1.0f), hn::MulAdd(z, hn::Set(d, 0.3275911f), hn::Set(d, 1.0f)));
  V p = hn::Set(d, 1.061405429f);
  p = hn::MulAdd(p, t, hn::Set(d, -1.453152027f));
  p = hn::MulAdd(p, t, hn::Set(d, 1.421413741f));
  p = hn::MulAdd(p, t, hn::Set(d, -0.284496736f));
  p = hn::MulAdd(p, t, hn::Set(d, 0.254829592f));
  const V square = hn::Neg(hn::Mul(z, z));
  V power;
  exp_of_negative<1>(d, &square, &power);
  const V tail = hn::Mul(hn::Mul(p, t), power);
  // Of a negative x the tail is all there is: nothing cancels.
  const V part = hn::Mul(hn::Mul(half, x), tail);
  return hn::IfThenElse(hn::Lt(x, hn::Zero(d)), part, hn::Sub(x, part));
}

// x / (1 + exp(-2 u)) with the u of whose tangent the definition speaks.
HWY_INLINE V tanh_gelu(D d, V x) {
  const V one = hn::Set(d, 1.0f);
  const V square = hn::Mul(x, x);
  const V twice =
      hn::Mul(x, hn::MulAdd(square, hn::Set(d, 0.071354816f), hn::Set(d, 1.5957691216f)));
  const V far = hn::Neg(hn::Abs(twice));
  V power;
  exp_of_negative<1>(d, &far, &power);
  const V top = hn::IfThenElse(hn::Lt(x, hn::Zero(d)), hn::Mul(x, power), x);
  return hn::Div(top, hn::Add(one, power));
}

HWY_INLINE V curved(D d, Ending::Curve curve, V x) {
  if (curve == Ending::Curve::gelu) return gelu(d, x);
  return curve == Ending::Curve::tanh_gelu ? tanh_gelu(d, x) : x;
}

template <int kCount>
HWY_INLINE void tile(std::int64_t terms, const float* HWY_RESTRICT a, std::int64_t a_stride,
                     const float* HWY_RESTRICT panel, bool first, float* HWY_RESTRICT c,
                     std::int64_t c_stride) {
  const D d;
  V sum[kCount][kVectors];
  for (int i = 0; i < kCount; ++i) {
    for (int v = 0; v < kVectors; ++v) sum[i][v] = hn::Zero(d);
  }
  for (std::int64_t k = 0; k < terms; ++k) {
    V row[kVectors];
    for (int v = 0; v < kVectors; ++v) row[v] = hn::LoadU(d, panel + k * kPanel + v * kWidth);
    for (int i = 0; i < kCount; ++i) {
      const V factor = hn::Set(d, a[i * a_stride + k]);
      for (int v = 0; v < kVectors; ++v) sum[i][v] = hn::MulAdd(factor, row[v], sum[i][v]);
    }
  }
  for (int i = 0; i < kCount; ++i) {
    for (int v = 0; v < kVectors; ++v) {
      float* at = c + i * c_stride + v * kWidth;
      hn::StoreU(first ? sum[i][v] : hn::Add(sum[i][v], hn::LoadU(d, at)), d, at);
    }
  }
}

void finish(std::int64_t rows, std::int64_t cols, const Ending& end, const float* addend,
            const float* bias, float* c, std::int64_t c_stride) {
  const D d;
  const V low = hn::Set(d, end.low);
  const V high = hn::Set(d, end.high);
  const auto one = [&](V x, const float* shift, const float* more) HWY_ATTR {
    if (shift != nullptr) x = hn::Add(x, hn::LoadU(d, shift));
    if (more != nullptr) x = hn::Add(x, hn::LoadU(d, more));
    if (end.clamps) x = hn::Min(hn::Max(x, low), high);
    return curved(d, end.curve, x);
  };
  for (std::int64_t i = 0; i < rows; ++i) {
    float* row = c + i * c_stride;
    const float* more = addend == nullptr ? nullptr : addend + i * end.addend_stride;
    std::int64_t j = 0;
    for (; j + kWidth <= cols; j += kWidth) {
      hn::StoreU(one(hn::LoadU(d, row + j), bias == nullptr ? nullptr : bias + j,
                     more == nullptr ? nullptr : more + j),
                 d, row + j);
    }
    if (j == cols) continue;
    float shift[16] = {};
    float other[16] = {};
    float value[16] = {};
    for (std::int64_t k = j; k < cols; ++k) {
      value[k - j] = row[k];
      if (bias != nullptr) shift[k - j] = bias[k];
      if (more != nullptr) other[k - j] = more[k];
    }
    hn::StoreU(one(hn::LoadU(d, value), shift, other), d, value);
    for (std::int64_t k = j; k < cols; ++k) row[k] = value[k - j];
  }
}

// Columns that are fewer than a panel's go through memory of their own.
template <int kCount>
void narrow_tile(std::int64_t terms, const float* a, std::int64_t a_stride, const float* panel,
                 bool first, std::int64_t cols, float* c, std::int64_t c_stride) {
  float own[kCount * kPanel];
  for (int i = 0; i < kCount; ++i) {
    for (std::int64_t j = 0; j < kPanel; ++j) {
      own[i * kPanel + j] = first || j >= cols ? 0.0f : c[i * c_stride + j];
    }
  }
  tile<kCount>(terms, a, a_stride, panel, first, own, kPanel);
  for (int i = 0; i < kCount; ++i) {
    for (std::int64_t j = 0; j < cols; ++j) c[i * c_stride + j] = own[i * kPanel + j];
  }
}

template <int kCount>
void any_tile(std::int64_t count, std::int64_t terms, const float* a, std::int64_t a_stride,
              const float* panel, bool first, std::int64_t cols, float* c, std::int64_t c_stride) {
  if (count == kCount) {
    if (cols == kPanel) tile<kCount>(terms, a, a_stride, panel, first, c, c_stride);
    else narrow_tile<kCount>(terms, a, a_stride, panel, first, cols, c, c_stride);
    return;
  }
  if constexpr (kCount > 1) {
    any_tile<kCount - 1>(count, terms, a, a_stride, panel, first, cols, c, c_stride);
  }
}

void multiply(std::int64_t rows, std::int64_t columns, std::int64_t depth, const float* a,
              std::int64_t a_stride, const float* packed, std::int64_t first_panel,
              std::int64_t last_panel, const Ending& end, float* c, std::int64_t c_stride) {
  const bool ends = end.bias != nullptr || end.addend != nullptr || end.clamps ||
                    end.curve != Ending::Curve::none;
  for (std::int64_t k = 0; k < depth; k += kTerms) {
    const std::int64_t terms = depth - k < kTerms ? depth - k : kTerms;
    const bool last = k + terms == depth;
    for (std::int64_t p = first_panel; p < last_panel; ++p) {
      const std::int64_t column = p * kPanel;
      const std::int64_t cols = columns - column < kPanel ? columns - column : kPanel;
      const float* panel = packed + p * depth * kPanel + k * kPanel;
      // Weights come from far away: the next panel is fetched while this one is in use.
      const float* next = p + 1 < last_panel ? panel + depth * kPanel
                          : last             ? panel
                                 : packed + first_panel * depth * kPanel + (k + terms) * kPanel;
      for (std::int64_t i = 0; i < rows; i += kRows) {
        const std::int64_t count = rows - i < kRows ? rows - i : kRows;
        const std::int64_t end_line = i + kRows < rows ? (i + kRows) * terms / rows : terms;
        for (std::int64_t line = i * terms / rows; line < end_line; ++line) {
          hwy::Prefetch(next + line * kPanel);
        }
        float* into = c + i * c_stride + column;
        any_tile<kRows>(count, terms, a + i * a_stride + k, a_stride, panel, k == 0, cols, into,
                        c_stride);
        if (last && ends) {
          finish(count, cols, end,
                 end.addend == nullptr ? nullptr : end.addend + i * end.addend_stride + column,
                 end.bias == nullptr ? nullptr : end.bias + column, into, c_stride);
        }
      }
    }
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace moptcore::inline v0::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moptcore::inline v0::kernels {

HWY_EXPORT(multiply);

void pack_panels(std::int64_t depth, std::int64_t columns, const float* b, std::int64_t row_stride,
                 std::int64_t column_stride, std::int64_t first, std::int64_t last,
                 float* packed) noexcept {
  for (std::int64_t p = first; p < last; ++p) {
    const std::int64_t column = p * kPanel;
    const std::int64_t cols = columns - column < kPanel ? columns - column : kPanel;
    float* panel = packed + p * depth * kPanel;
    for (std::int64_t k = 0; k < depth; ++k) {
      const float* row = b + k * row_stride + column * column_stride;
      for (std::int64_t j = 0; j < kPanel; ++j) {
        panel[k * kPanel + j] = j < cols ? row[j * column_stride] : 0.0f;
      }
    }
  }
}

void unpack_panels(std::int64_t depth, std::int64_t columns, const float* packed,
                   std::int64_t row_stride, std::int64_t column_stride, float* b) noexcept {
  for (std::int64_t j = 0; j < columns; ++j) {
    const float* panel = packed + j / kPanel * depth * kPanel + j % kPanel;
    for (std::int64_t k = 0; k < depth; ++k) {
      b[k * row_stride + j * column_stride] = panel[k * kPanel];
    }
  }
}

void multiply_panels(std::int64_t rows, std::int64_t columns, std::int64_t depth, const float* a,
                     std::int64_t a_stride, const float* packed, std::int64_t first_panel,
                     std::int64_t last_panel, const Ending& end, float* c,
                     std::int64_t c_stride) noexcept {
  HWY_DYNAMIC_DISPATCH(multiply)
  (rows, columns, depth, a, a_stride, packed, first_panel, last_panel, end, c, c_stride);
}

}  // namespace moptcore::inline v0::kernels
#endif

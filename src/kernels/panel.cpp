// SPDX-License-Identifier: Apache-2.0
#include "kernels/panel.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/panel.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace moptcore::inline v0::kernels {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

// Columns that are copied at a time: a line of the cache of each row.
constexpr std::int64_t kStrip = 16;
// Terms that are added up before they join the sum: rounding grows with the length of a sum.
constexpr std::int64_t kRun = 512;

void pack(const float* src, std::int64_t row_stride, std::int64_t col_stride, std::int64_t rows,
          std::int64_t n, float scale, float* HWY_RESTRICT panel) {
  for (std::int64_t first = 0; first < n; first += kStrip) {
    const std::int64_t last = first + kStrip < n ? first + kStrip : n;
    for (std::int64_t i = 0; i < kPanelRows; ++i) {
      const float* row = src + i * row_stride;
      float* to = panel + i;
      if (i >= rows) {
        for (std::int64_t j = first; j < last; ++j) to[j * kPanelRows] = 0.0F;
      } else if (col_stride == 1) {
        for (std::int64_t j = first; j < last; ++j) to[j * kPanelRows] = scale * row[j];
      } else {
        for (std::int64_t j = first; j < last; ++j) {
          to[j * kPanelRows] = scale * row[j * col_stride];
        }
      }
    }
  }
}

// kBlock columns are kVectors vectors; kRows rows of them stay in registers.
template <int kBlock>
struct Shape {
  using D = hn::CappedTag<float, static_cast<std::size_t>(kBlock)>;
  static constexpr int kWidth = static_cast<int>(hn::MaxLanes(D()));
  static constexpr int kVectors = kBlock / kWidth;
  static constexpr int kRows = static_cast<int>(kPanelRows) / (kVectors < 6 ? kVectors : 6) < 1
                                   ? 1
                                   : static_cast<int>(kPanelRows) / (kVectors < 6 ? kVectors : 6);
};

template <int kBlock>
void times(const float* HWY_RESTRICT panel, std::int64_t n, const float* HWY_RESTRICT x,
           float* HWY_RESTRICT y) {
  using S = Shape<kBlock>;
  const typename S::D d;
  using V = hn::Vec<typename S::D>;
  static_assert(kPanelRows % S::kRows == 0);
  for (std::int64_t i = 0; i < kPanelRows * kBlock; ++i) y[i] = 0.0F;
  for (std::int64_t first = 0; first < n; first += kRun) {
    const std::int64_t last = first + kRun < n ? first + kRun : n;
    for (int row = 0; row < static_cast<int>(kPanelRows); row += S::kRows) {
      V sum[S::kRows][S::kVectors];
      for (int i = 0; i < S::kRows; ++i) {
        for (int v = 0; v < S::kVectors; ++v) sum[i][v] = hn::Zero(d);
      }
      for (std::int64_t j = first; j < last; ++j) {
        const float* column = panel + j * kPanelRows + row;
        V right[S::kVectors];
        for (int v = 0; v < S::kVectors; ++v)
          right[v] = hn::LoadU(d, x + j * kBlock + v * S::kWidth);
        for (int i = 0; i < S::kRows; ++i) {
          const V factor = hn::Set(d, column[i]);
          for (int v = 0; v < S::kVectors; ++v) sum[i][v] = hn::MulAdd(factor, right[v], sum[i][v]);
        }
      }
      for (int i = 0; i < S::kRows; ++i) {
        for (int v = 0; v < S::kVectors; ++v) {
          float* to = y + (row + i) * kBlock + v * S::kWidth;
          hn::StoreU(hn::Add(hn::LoadU(d, to), sum[i][v]), d, to);
        }
      }
    }
  }
}

// kCount rows of x.
template <int kBlock, int kCount, bool kSubtract>
HWY_INLINE void add_tile(const float* HWY_RESTRICT panels, std::int64_t stride, std::int64_t count,
                         const float* HWY_RESTRICT y, float* HWY_RESTRICT x) {
  using S = Shape<kBlock>;
  const typename S::D d;
  using V = hn::Vec<typename S::D>;
  V sum[kCount][S::kVectors];
  for (int i = 0; i < kCount; ++i) {
    for (int v = 0; v < S::kVectors; ++v) {
      sum[i][v] = hn::LoadU(d, x + i * kBlock + v * S::kWidth);
    }
  }
  for (std::int64_t p = 0; p < count; ++p) {
    const float* panel = panels + p * stride;
    for (int r = 0; r < static_cast<int>(kPanelRows); ++r) {
      V right[S::kVectors];
      for (int v = 0; v < S::kVectors; ++v) {
        right[v] = hn::LoadU(d, y + (p * kPanelRows + r) * kBlock + v * S::kWidth);
      }
      for (int i = 0; i < kCount; ++i) {
        const V factor = hn::Set(d, panel[i * static_cast<int>(kPanelRows) + r]);
        for (int v = 0; v < S::kVectors; ++v) {
          sum[i][v] = kSubtract ? hn::NegMulAdd(factor, right[v], sum[i][v])
                                : hn::MulAdd(factor, right[v], sum[i][v]);
        }
      }
    }
  }
  for (int i = 0; i < kCount; ++i) {
    for (int v = 0; v < S::kVectors; ++v) {
      hn::StoreU(sum[i][v], d, x + i * kBlock + v * S::kWidth);
    }
  }
}

template <int kBlock, bool kSubtract>
void add(const float* panels, std::int64_t stride, std::int64_t count, std::int64_t n,
         const float* y, float* x) {
  constexpr int kRows = Shape<kBlock>::kRows;
  std::int64_t j = 0;
  for (; j + kRows <= n; j += kRows) {
    add_tile<kBlock, kRows, kSubtract>(panels + j * kPanelRows, stride, count, y, x + j * kBlock);
  }
  for (; j < n; ++j) {
    add_tile<kBlock, 1, kSubtract>(panels + j * kPanelRows, stride, count, y, x + j * kBlock);
  }
}

void panel_times(const float* panel, std::int64_t n, const float* x, std::int64_t block, float* y) {
  block == 8 ? times<8>(panel, n, x, y) : times<16>(panel, n, x, y);
}

void add_transposed(const float* panels, std::int64_t stride, std::int64_t count, std::int64_t n,
                    const float* y, std::int64_t block, bool subtract, float* x) {
  if (block == 8) {
    subtract ? add<8, true>(panels, stride, count, n, y, x)
             : add<8, false>(panels, stride, count, n, y, x);
  } else {
    subtract ? add<16, true>(panels, stride, count, n, y, x)
             : add<16, false>(panels, stride, count, n, y, x);
  }
}

void rotate(float cosine, float sine, std::int64_t count, float* HWY_RESTRICT a,
            float* HWY_RESTRICT b) {
  const hn::CappedTag<float, 8> d;
  const auto width = static_cast<std::int64_t>(hn::Lanes(d));
  const auto c = hn::Set(d, cosine);
  const auto s = hn::Set(d, sine);
  std::int64_t i = 0;
  for (; i + width <= count; i += width) {
    const auto u = hn::LoadU(d, a + i);
    const auto v = hn::LoadU(d, b + i);
    hn::StoreU(hn::Sub(hn::Mul(u, c), hn::Mul(v, s)), d, a + i);
    hn::StoreU(hn::Add(hn::Mul(u, s), hn::Mul(v, c)), d, b + i);
  }
  for (; i < count; ++i) {
    const float u = a[i];
    const float v = b[i];
    a[i] = u * cosine - v * sine;
    b[i] = u * sine + v * cosine;
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace moptcore::inline v0::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moptcore::inline v0::kernels {

HWY_EXPORT(pack);
HWY_EXPORT(panel_times);
HWY_EXPORT(add_transposed);
HWY_EXPORT(rotate);

void pack_panel_f32(const float* src, std::int64_t row_stride, std::int64_t col_stride,
                    std::int64_t rows, std::int64_t n, float scale, float* panel) noexcept {
  HWY_DYNAMIC_DISPATCH(pack)(src, row_stride, col_stride, rows, n, scale, panel);
}

void panel_times_f32(const float* panel, std::int64_t n, const float* x, std::int64_t block,
                     float* y) noexcept {
  HWY_DYNAMIC_DISPATCH(panel_times)(panel, n, x, block, y);
}

void add_transposed_f32(const float* panels, std::int64_t stride, std::int64_t count,
                        std::int64_t n, const float* y, std::int64_t block, bool subtract,
                        float* x) noexcept {
  HWY_DYNAMIC_DISPATCH(add_transposed)(panels, stride, count, n, y, block, subtract, x);
}

void rotate_rows_f32(float cosine, float sine, std::int64_t count, float* a, float* b) noexcept {
  HWY_DYNAMIC_DISPATCH(rotate)(cosine, sine, count, a, b);
}

}  // namespace moptcore::inline v0::kernels
#endif

// SPDX-License-Identifier: Apache-2.0
#include "kernels/product.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/product.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace moptcore::inline v0::kernels {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

constexpr std::int64_t kDepth = 256;  // a packed panel of b fits in the first cache
constexpr int kRows = 4;

// Two vectors of 32 bytes: with kRows rows their sums stay in registers.
template <class T>
constexpr std::int64_t kCols = 64 / static_cast<std::int64_t>(sizeof(T));

// kCols columns of b, rows [first, last), zero where the matrix ends.
template <class T>
void pack(const Matrix<const T>& b, std::int64_t first, std::int64_t last, std::int64_t col,
          std::int64_t cols, T* HWY_RESTRICT panel) {
  for (std::int64_t k = first; k < last; ++k) {
    const T* row = b.data + k * b.row_stride + col * b.col_stride;
    for (std::int64_t j = 0; j < kCols<T>; ++j) *panel++ = j < cols ? row[j * b.col_stride] : T(0);
  }
}

// kCount rows of c, kCols columns, `depth` terms.
template <int kCount, class T>
HWY_INLINE void tile(std::int64_t depth, const T* HWY_RESTRICT a, std::int64_t row_stride,
                     std::int64_t col_stride, const T* HWY_RESTRICT panel, T* HWY_RESTRICT sums) {
  const hn::CappedTag<T, static_cast<std::size_t>(kCols<T>)> d;
  using V = hn::Vec<std::remove_const_t<decltype(d)>>;
  constexpr auto kWidth = static_cast<std::int64_t>(hn::MaxLanes(d));
  constexpr int kVectors = static_cast<int>(kCols<T> / kWidth);
  V sum[kCount][kVectors];
  for (int i = 0; i < kCount; ++i) {
    for (int v = 0; v < kVectors; ++v) sum[i][v] = hn::Zero(d);
  }
  for (std::int64_t k = 0; k < depth; ++k) {
    V row[kVectors];
    for (int v = 0; v < kVectors; ++v) row[v] = hn::LoadU(d, panel + k * kCols<T> + v * kWidth);
    for (int i = 0; i < kCount; ++i) {
      const V factor = hn::Set(d, a[i * row_stride + k * col_stride]);
      // Not fused, which only some instruction sets can do.
      for (int v = 0; v < kVectors; ++v) sum[i][v] = hn::Add(hn::Mul(factor, row[v]), sum[i][v]);
    }
  }
  for (int i = 0; i < kCount; ++i) {
    for (int v = 0; v < kVectors; ++v) hn::StoreU(sum[i][v], d, sums + i * kCols<T> + v * kWidth);
  }
}

template <class T>
void product(std::int64_t m, std::int64_t n, std::int64_t depth, const Matrix<const T>& a,
             const Matrix<const T>& b, const Matrix<T>& c) {
  T panel[kDepth * kCols<T>];
  T sums[kRows * kCols<T>];
  for (std::int64_t col = 0; col < n; col += kCols<T>) {
    const std::int64_t cols = n - col < kCols<T> ? n - col : kCols<T>;
    for (std::int64_t first = 0; first < depth; first += kDepth) {
      const std::int64_t last = first + kDepth < depth ? first + kDepth : depth;
      pack(b, first, last, col, cols, panel);
      for (std::int64_t row = 0; row < m; row += kRows) {
        const std::int64_t rows = m - row < kRows ? m - row : kRows;
        const T* from = a.data + row * a.row_stride + first * a.col_stride;
        if (rows == kRows) {
          tile<kRows>(last - first, from, a.row_stride, a.col_stride, panel, sums);
        } else {
          for (std::int64_t i = 0; i < rows; ++i) {
            tile<1>(last - first, from + i * a.row_stride, a.row_stride, a.col_stride, panel,
                    sums + i * kCols<T>);
          }
        }
        for (std::int64_t i = 0; i < rows; ++i) {
          T* to = c.data + (row + i) * c.row_stride + col;
          for (std::int64_t j = 0; j < cols; ++j) to[j] += sums[i * kCols<T> + j];
        }
      }
    }
  }
}

template <class T>
void pack_all(std::int64_t n, std::int64_t depth, const Matrix<const T>& b, T* packed) {
  for (std::int64_t col = 0; col < n; col += kCols<T>) {
    const std::int64_t cols = n - col < kCols<T> ? n - col : kCols<T>;
    pack(b, 0, depth, col, cols, packed + col * depth);
  }
}

// One row of c in kCount panels at once, so that there are enough sums to hide their latency.
template <int kCount, class T>
HWY_INLINE void row_tile(std::int64_t depth, const T* HWY_RESTRICT a, std::int64_t col_stride,
                         const T* HWY_RESTRICT panels, std::int64_t panel_size,
                         T* HWY_RESTRICT sums) {
  const hn::CappedTag<T, static_cast<std::size_t>(kCols<T>)> d;
  using V = hn::Vec<std::remove_const_t<decltype(d)>>;
  constexpr auto kWidth = static_cast<std::int64_t>(hn::MaxLanes(d));
  constexpr int kVectors = static_cast<int>(kCols<T> / kWidth);
  V sum[kCount][kVectors];
  for (int p = 0; p < kCount; ++p) {
    for (int v = 0; v < kVectors; ++v) sum[p][v] = hn::Zero(d);
  }
  for (std::int64_t k = 0; k < depth; ++k) {
    const V factor = hn::Set(d, a[k * col_stride]);
    const T* row = panels + k * kCols<T>;
    for (int p = 0; p < kCount; ++p) {
      for (int v = 0; v < kVectors; ++v) {
        const V term = hn::LoadU(d, row + p * panel_size + v * kWidth);
        sum[p][v] = hn::Add(hn::Mul(factor, term), sum[p][v]);
      }
    }
  }
  for (int p = 0; p < kCount; ++p) {
    for (int v = 0; v < kVectors; ++v) hn::StoreU(sum[p][v], d, sums + p * kCols<T> + v * kWidth);
  }
}

template <class T>
HWY_INLINE void add_sums(const T* HWY_RESTRICT sums, std::int64_t count, T* HWY_RESTRICT to) {
  for (std::int64_t j = 0; j < count; ++j) to[j] += sums[j];
}

template <class T>
void product_packed(std::int64_t m, std::int64_t n, std::int64_t depth, const Matrix<const T>& a,
                    const T* packed, const Matrix<T>& c) {
  constexpr int kPanels = 4;
  T sums[kRows * kCols<T>];
  std::int64_t row = 0;
  for (; row + kRows <= m; row += kRows) {
    for (std::int64_t col = 0; col < n; col += kCols<T>) {
      const std::int64_t cols = n - col < kCols<T> ? n - col : kCols<T>;
      for (std::int64_t first = 0; first < depth; first += kDepth) {
        const std::int64_t count = depth - first < kDepth ? depth - first : kDepth;
        tile<kRows>(count, a.data + row * a.row_stride + first * a.col_stride, a.row_stride,
                    a.col_stride, packed + col * depth + first * kCols<T>, sums);
        for (std::int64_t i = 0; i < kRows; ++i) {
          add_sums(sums + i * kCols<T>, cols, c.data + (row + i) * c.row_stride + col);
        }
      }
    }
  }
  for (; row < m; ++row) {
    std::int64_t col = 0;
    while (col < n) {
      const bool many = col + kPanels * kCols<T> <= n;
      const std::int64_t width = many ? kPanels * kCols<T> : kCols<T>;
      const std::int64_t cols = n - col < width ? n - col : width;
      for (std::int64_t first = 0; first < depth; first += kDepth) {
        const std::int64_t count = depth - first < kDepth ? depth - first : kDepth;
        const T* from = a.data + row * a.row_stride + first * a.col_stride;
        const T* panels = packed + col * depth + first * kCols<T>;
        if (many) row_tile<kPanels>(count, from, a.col_stride, panels, depth * kCols<T>, sums);
        else row_tile<1>(count, from, a.col_stride, panels, depth * kCols<T>, sums);
        add_sums(sums, cols, c.data + row * c.row_stride + col);
      }
      col += width;
    }
  }
}

void pack_f32(std::int64_t n, std::int64_t depth, const Matrix<const float>& b, float* packed) {
  pack_all(n, depth, b, packed);
}

void pack_f64(std::int64_t n, std::int64_t depth, const Matrix<const double>& b, double* packed) {
  pack_all(n, depth, b, packed);
}

void product_packed_f32(std::int64_t m, std::int64_t n, std::int64_t depth,
                        const Matrix<const float>& a, const float* packed, const Matrix<float>& c) {
  product_packed(m, n, depth, a, packed, c);
}

void product_packed_f64(std::int64_t m, std::int64_t n, std::int64_t depth,
                        const Matrix<const double>& a, const double* packed,
                        const Matrix<double>& c) {
  product_packed(m, n, depth, a, packed, c);
}

void product_f32(std::int64_t m, std::int64_t n, std::int64_t depth, const Matrix<const float>& a,
                 const Matrix<const float>& b, const Matrix<float>& c) {
  product(m, n, depth, a, b, c);
}

void product_f64(std::int64_t m, std::int64_t n, std::int64_t depth, const Matrix<const double>& a,
                 const Matrix<const double>& b, const Matrix<double>& c) {
  product(m, n, depth, a, b, c);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace moptcore::inline v0::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moptcore::inline v0::kernels {

HWY_EXPORT(product_f32);
HWY_EXPORT(product_f64);
HWY_EXPORT(pack_f32);
HWY_EXPORT(pack_f64);
HWY_EXPORT(product_packed_f32);
HWY_EXPORT(product_packed_f64);

void product_f32(std::int64_t m, std::int64_t n, std::int64_t depth, const Matrix<const float>& a,
                 const Matrix<const float>& b, const Matrix<float>& c) noexcept {
  HWY_DYNAMIC_DISPATCH(product_f32)(m, n, depth, a, b, c);
}

void product_f64(std::int64_t m, std::int64_t n, std::int64_t depth, const Matrix<const double>& a,
                 const Matrix<const double>& b, const Matrix<double>& c) noexcept {
  HWY_DYNAMIC_DISPATCH(product_f64)(m, n, depth, a, b, c);
}

void pack_f32(std::int64_t n, std::int64_t depth, const Matrix<const float>& b,
              float* packed) noexcept {
  HWY_DYNAMIC_DISPATCH(pack_f32)(n, depth, b, packed);
}

void pack_f64(std::int64_t n, std::int64_t depth, const Matrix<const double>& b,
              double* packed) noexcept {
  HWY_DYNAMIC_DISPATCH(pack_f64)(n, depth, b, packed);
}

void product_packed_f32(std::int64_t m, std::int64_t n, std::int64_t depth,
                        const Matrix<const float>& a, const float* packed,
                        const Matrix<float>& c) noexcept {
  HWY_DYNAMIC_DISPATCH(product_packed_f32)(m, n, depth, a, packed, c);
}

void product_packed_f64(std::int64_t m, std::int64_t n, std::int64_t depth,
                        const Matrix<const double>& a, const double* packed,
                        const Matrix<double>& c) noexcept {
  HWY_DYNAMIC_DISPATCH(product_packed_f64)(m, n, depth, a, packed, c);
}

}  // namespace moptcore::inline v0::kernels
#endif

// SPDX-License-Identifier: Apache-2.0
#include "kernels/integer_product.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/integer_product.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace moptcore::inline v0::kernels {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

constexpr std::int64_t kPairs = 192;  // of rows of b; a packed panel fits in the first cache
constexpr std::int64_t kCols = 16;
constexpr int kRows = 4;

HWY_INLINE std::int32_t word_of(std::int16_t low, std::int16_t high) {
  return static_cast<std::int32_t>(static_cast<std::uint16_t>(low) |
                                   static_cast<std::uint32_t>(high) << 16);
}

// Rows [2 first, 2 last) of b, two to a word, zero where the matrix ends.
void pack(const Matrix<const std::int16_t>& b, std::int64_t depth, std::int64_t first,
          std::int64_t last, std::int64_t col, std::int64_t cols,
          std::int32_t* HWY_RESTRICT panel) {
  for (std::int64_t pair = first; pair < last; ++pair, panel += kCols) {
    const std::int16_t* HWY_RESTRICT low = b.data + 2 * pair * b.row_stride + col * b.col_stride;
    const bool both = 2 * pair + 1 < depth;
    if (cols == kCols && b.col_stride == 1 && both) {
      const std::int16_t* HWY_RESTRICT high = low + b.row_stride;
      for (std::int64_t j = 0; j < kCols; ++j) panel[j] = word_of(low[j], high[j]);
      continue;
    }
    for (std::int64_t j = 0; j < kCols; ++j) {
      const std::int16_t* at = low + j * b.col_stride;
      panel[j] = j < cols ? word_of(*at, both ? at[b.row_stride] : std::int16_t{0}) : 0;
    }
  }
}

// sum + a.low * b.low + a.high * b.high of the halves of each word.
template <class D, class V>
HWY_INLINE V mul_pairs_add(D d, V a, V b, V sum) {
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
  const hn::RepartitionToNarrow<D> d16;
  V unused = hn::Zero(d);
  return hn::ReorderWidenMulAccumulate(d, hn::BitCast(d16, a), hn::BitCast(d16, b), sum, unused);
#else
  (void)d;
  const auto low = [](V v) { return hn::ShiftRight<16>(hn::ShiftLeft<16>(v)); };
  const V even = hn::Mul(low(a), low(b));
  const V odd = hn::Mul(hn::ShiftRight<16>(a), hn::ShiftRight<16>(b));
  return hn::Add(sum, hn::Add(even, odd));
#endif
}

// kCount rows of c, kCols columns; a holds 2 * pairs elements a row, less one where `odd`.
template <int kCount>
HWY_INLINE void tile(std::int64_t pairs, bool odd, const std::int16_t* HWY_RESTRICT a,
                     std::int64_t row_stride, const std::int32_t* HWY_RESTRICT panel,
                     std::int32_t* HWY_RESTRICT sums) {
  const hn::CappedTag<std::int32_t, static_cast<std::size_t>(kCols)> d;
  using V = hn::Vec<std::remove_const_t<decltype(d)>>;
  constexpr auto kWidth = static_cast<std::int64_t>(hn::MaxLanes(d));
  constexpr int kVectors = static_cast<int>(kCols / kWidth);
  V sum[kCount][kVectors];
  for (int i = 0; i < kCount; ++i) {
    for (int v = 0; v < kVectors; ++v) sum[i][v] = hn::Zero(d);
  }
  const auto add = [&](std::int64_t k, auto word) HWY_ATTR {
    const std::int32_t* row = panel + k * kCols;
    for (int i = 0; i < kCount; ++i) {
      const V factor = hn::Set(d, word(i));
      for (int v = 0; v < kVectors; ++v) {
        sum[i][v] = mul_pairs_add(d, factor, hn::LoadU(d, row + v * kWidth), sum[i][v]);
      }
    }
  };
  const std::int64_t whole = odd ? pairs - 1 : pairs;
  for (std::int64_t k = 0; k < whole; ++k) {
    add(k, [&](int i) {
      const std::int16_t* pair = a + i * row_stride + 2 * k;
      return word_of(pair[0], pair[1]);
    });
  }
  if (odd) add(whole, [&](int i) { return word_of(a[i * row_stride + 2 * whole], 0); });
  for (int i = 0; i < kCount; ++i) {
    for (int v = 0; v < kVectors; ++v) hn::StoreU(sum[i][v], d, sums + i * kCols + v * kWidth);
  }
}

void product_i16(std::int64_t m, std::int64_t n, std::int64_t depth,
                 const Matrix<const std::int16_t>& a, const Matrix<const std::int16_t>& b,
                 const Matrix<std::int32_t>& c) {
  std::int32_t panel[kPairs * kCols];
  std::int32_t sums[kRows * kCols];
  const std::int64_t pairs = depth / 2 + depth % 2;
  for (std::int64_t col = 0; col < n; col += kCols) {
    const std::int64_t cols = n - col < kCols ? n - col : kCols;
    for (std::int64_t first = 0; first < pairs; first += kPairs) {
      const std::int64_t last = first + kPairs < pairs ? first + kPairs : pairs;
      const bool odd = last == pairs && depth % 2 != 0;
      pack(b, depth, first, last, col, cols, panel);
      for (std::int64_t row = 0; row < m; row += kRows) {
        const std::int64_t rows = m - row < kRows ? m - row : kRows;
        const std::int16_t* from = a.data + row * a.row_stride + 2 * first;
        if (rows == kRows) {
          tile<kRows>(last - first, odd, from, a.row_stride, panel, sums);
        } else {
          for (std::int64_t i = 0; i < rows; ++i) {
            tile<1>(last - first, odd, from + i * a.row_stride, a.row_stride, panel,
                    sums + i * kCols);
          }
        }
        for (std::int64_t i = 0; i < rows; ++i) {
          std::int32_t* to = c.data + (row + i) * c.row_stride + col;
          for (std::int64_t j = 0; j < cols; ++j) {
            to[j] = static_cast<std::int32_t>(static_cast<std::uint32_t>(to[j]) +
                                              static_cast<std::uint32_t>(sums[i * kCols + j]));
          }
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

HWY_EXPORT(product_i16);

void product_i16(std::int64_t m, std::int64_t n, std::int64_t depth,
                 const Matrix<const std::int16_t>& a, const Matrix<const std::int16_t>& b,
                 const Matrix<std::int32_t>& c) noexcept {
  HWY_DYNAMIC_DISPATCH(product_i16)(m, n, depth, a, b, c);
}

}  // namespace moptcore::inline v0::kernels
#endif

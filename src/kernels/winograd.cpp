// SPDX-License-Identifier: Apache-2.0
#include "kernels/winograd.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/winograd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace moptcore::inline v0::kernels {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<float, 8>;
using V = hn::Vec<D>;
constexpr std::int64_t kWidth = static_cast<std::int64_t>(hn::MaxLanes(D()));

// Four values of a row or column of a tile, transformed.
HWY_INLINE void spread(V& a, V& b, V& c, V& d) {
  const V first = hn::Sub(a, c);
  const V sum = hn::Add(b, c);
  const V difference = hn::Sub(c, b);
  d = hn::Sub(b, d);
  a = first;
  b = sum;
  c = difference;
}

void scatter(const WinogradShape& shape, std::int64_t first, std::int64_t last,
             const float* HWY_RESTRICT images, const float* HWY_RESTRICT zeros,
             float* HWY_RESTRICT values) {
  const D d;
  const std::int64_t channels = shape.channels;
  const std::int64_t step = (last - first) * channels;
  for (std::int64_t tile = first; tile < last; ++tile) {
    const std::int64_t own = tile % shape.tiles();
    const float* image = images + tile / shape.tiles() * shape.height * shape.width * channels;
    const std::int64_t top = own / shape.tiles_across() * 2 - shape.pad_top;
    const std::int64_t left = own % shape.tiles_across() * 2 - shape.pad_left;
    const float* pixel[4][4];
    for (std::int64_t i = 0; i < 4; ++i) {
      for (std::int64_t j = 0; j < 4; ++j) {
        const std::int64_t y = top + i;
        const std::int64_t x = left + j;
        const bool inside = y >= 0 && y < shape.height && x >= 0 && x < shape.width;
        pixel[i][j] = inside ? image + (y * shape.width + x) * channels : zeros;
      }
    }
    float* to = values + (tile - first) * channels;
    for (std::int64_t c = 0; c < channels; c += kWidth) {
      V v[4][4];
      for (int j = 0; j < 4; ++j) {
        for (int i = 0; i < 4; ++i) v[i][j] = hn::LoadU(d, pixel[i][j] + c);
        spread(v[0][j], v[1][j], v[2][j], v[3][j]);
      }
      for (int i = 0; i < 4; ++i) {
        spread(v[i][0], v[i][1], v[i][2], v[i][3]);
        for (int j = 0; j < 4; ++j) hn::StoreU(v[i][j], d, to + (i * 4 + j) * step + c);
      }
    }
  }
}

void gather(const WinogradShape& shape, std::int64_t first, std::int64_t last,
            const float* HWY_RESTRICT sums, const Ending& end, float* HWY_RESTRICT output) {
  const D d;
  const std::int64_t channels = shape.outputs;
  const std::int64_t step = (last - first) * channels;
  const V low = hn::Set(d, end.low);
  const V high = hn::Set(d, end.high);
  for (std::int64_t tile = first; tile < last; ++tile) {
    const std::int64_t own = tile % shape.tiles();
    const std::int64_t image = tile / shape.tiles() * shape.out_height * shape.out_width * channels;
    const std::int64_t top = own / shape.tiles_across() * 2;
    const std::int64_t left = own % shape.tiles_across() * 2;
    const float* from = sums + (tile - first) * channels;
    const std::int64_t tall = shape.out_height - top < 2 ? 1 : 2;
    const std::int64_t broad = shape.out_width - left < 2 ? 1 : 2;
    for (std::int64_t c = 0; c < channels; c += kWidth) {
      V half[2][4];
      for (int j = 0; j < 4; ++j) {
        const V a = hn::LoadU(d, from + j * step + c);
        const V b = hn::LoadU(d, from + (4 + j) * step + c);
        const V e = hn::LoadU(d, from + (8 + j) * step + c);
        const V f = hn::LoadU(d, from + (12 + j) * step + c);
        half[0][j] = hn::Add(hn::Add(a, b), e);
        half[1][j] = hn::Sub(hn::Sub(b, e), f);
      }
      for (std::int64_t i = 0; i < tall; ++i) {
        V result[2];
        result[0] = hn::Add(hn::Add(half[i][0], half[i][1]), half[i][2]);
        result[1] = hn::Sub(hn::Sub(half[i][1], half[i][2]), half[i][3]);
        for (std::int64_t j = 0; j < broad; ++j) {
          const std::int64_t at = image + ((top + i) * shape.out_width + left + j) * channels + c;
          V x = result[j];
          if (end.bias != nullptr) x = hn::Add(x, hn::LoadU(d, end.bias + c));
          if (end.addend != nullptr) x = hn::Add(x, hn::LoadU(d, end.addend + at));
          if (end.clamps) x = hn::Min(hn::Max(x, low), high);
          hn::StoreU(x, d, output + at);
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

HWY_EXPORT(scatter);
HWY_EXPORT(gather);

void pack_winograd(std::int64_t channels, std::int64_t outputs, const float* weight,
                   std::int64_t first, std::int64_t last, float* packed) noexcept {
  const std::int64_t size = packed_floats(channels, outputs);
  for (std::int64_t p = first; p < last; ++p) {
    for (std::int64_t c = 0; c < channels; ++c) {
      for (std::int64_t lane = 0; lane < kPanel; ++lane) {
        const std::int64_t k = p * kPanel + lane;
        float* to = packed + (p * channels + c) * kPanel + lane;
        float rows[4][3];
        for (int j = 0; j < 3; ++j) {
          const float* g = weight + (k * channels + c) * 9 + j;
          const bool known = k < outputs;
          const float a = known ? g[0] : 0.0f;
          const float b = known ? g[3] : 0.0f;
          const float e = known ? g[6] : 0.0f;
          rows[0][j] = a;
          rows[1][j] = 0.5f * (a + b + e);
          rows[2][j] = 0.5f * (a - b + e);
          rows[3][j] = e;
        }
        for (int i = 0; i < 4; ++i) {
          const float a = rows[i][0];
          const float b = rows[i][1];
          const float e = rows[i][2];
          to[(i * 4 + 0) * size] = a;
          to[(i * 4 + 1) * size] = 0.5f * (a + b + e);
          to[(i * 4 + 2) * size] = 0.5f * (a - b + e);
          to[(i * 4 + 3) * size] = e;
        }
      }
    }
  }
}

void convolve_winograd(const WinogradShape& shape, std::int64_t first, std::int64_t last,
                       const float* images, const float* packed, const Ending& end,
                       float* workspace, float* output) noexcept {
  const std::int64_t tiles = last - first;
  float* zeros = workspace;
  float* values = zeros + shape.channels;
  float* sums = values + kProducts * tiles * shape.channels;
  for (std::int64_t c = 0; c < shape.channels; ++c) zeros[c] = 0;
  HWY_DYNAMIC_DISPATCH(scatter)(shape, first, last, images, zeros, values);
  const Ending plain;
  for (int i = 0; i < kProducts; ++i) {
    multiply_panels(tiles, shape.outputs, shape.channels, values + i * tiles * shape.channels,
                    shape.channels, packed + i * packed_floats(shape.channels, shape.outputs), 0,
                    panels_of(shape.outputs), plain, sums + i * tiles * shape.outputs,
                    shape.outputs);
  }
  HWY_DYNAMIC_DISPATCH(gather)(shape, first, last, sums, end, output);
}

}  // namespace moptcore::inline v0::kernels
#endif

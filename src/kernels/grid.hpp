// SPDX-License-Identifier: Apache-2.0
// How the quantization kernels see a grid: positions count in steps of the scale from the zero
// point, so that a value is position * scale and an integer is position + zero.
#pragma once

#include <cstdint>

namespace moptcore::inline v0::kernels {

enum class Rounding : std::uint8_t {
  divide_even,    ///< x / scale, half to even
  multiply_even,  ///< x * factor, half to even
  divide_away,    ///< x / scale, half away from zero
};

enum class NanPosition : std::uint8_t { nan, zero, low };

/// When quantize adds the zero point. `before` and `fused` go with Rounding::multiply_even.
enum class ZeroPoint : std::uint8_t {
  after,   ///< rint(x in steps) + zero
  before,  ///< rint(x * factor + zero), the product rounded first
  fused,   ///< rint(x * factor + zero), the sum rounded once
};

struct GridRule {
  Rounding rounding = Rounding::divide_even;
  NanPosition nan = NanPosition::nan;
  bool float_product = false;  ///< position * scale is rounded to float also in double
  ZeroPoint zero_point = ZeroPoint::after;
};

/// One grid. low and high are whole numbers with |low|, |high| < 2^21.
template <class T>
struct GridStep {
  T factor = 1;
  T scale = 1;
  T low = 0;
  T high = 0;
  T zero = 0;
};

/// A grid for each element: arrays as long as the run.
template <class T>
struct GridTable {
  const T* factor = nullptr;
  const T* scale = nullptr;
  const T* low = nullptr;
  const T* high = nullptr;
  const T* zero = nullptr;
};

}  // namespace moptcore::inline v0::kernels

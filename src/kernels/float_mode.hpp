// SPDX-License-Identifier: Apache-2.0
// The floating-point environment that results are defined in, for the length of a scope.
#pragma once

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace moptcore::inline v0::kernels {

/// Round to nearest, denormals kept. A caller may have set another rounding mode or have told the
/// CPU to flush denormals to zero; its state is given back on leaving the scope.
class FloatMode {
 public:
#if defined(__SSE2__)
  FloatMode() noexcept : saved_(_mm_getcsr()) {
    if ((saved_ & kMode) != kDefault) _mm_setcsr((saved_ & ~kMode) | kDefault);
  }
  ~FloatMode() {
    if ((saved_ & kMode) != kDefault) _mm_setcsr(saved_);
  }
#else
  FloatMode() noexcept = default;
  ~FloatMode() {}
#endif
  FloatMode(const FloatMode&) = delete;
  FloatMode& operator=(const FloatMode&) = delete;

 private:
#if defined(__SSE2__)
  // Exception masks, rounding control, flush-to-zero and denormals-are-zero.
  static constexpr unsigned kMode = 0xFFC0u;
  static constexpr unsigned kDefault = 0x1F80u;
  unsigned saved_;
#endif
};

}  // namespace moptcore::inline v0::kernels

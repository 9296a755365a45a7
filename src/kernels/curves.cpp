// SPDX-License-Identifier: Apache-2.0
#include "kernels/curves.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/curves.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/exp-inl.h"
#include "kernels/halves-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace moptcore::inline v0::kernels {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

// Polynomials of least relative or absolute error, the highest power first.

// (tanh(x) / x - 1) / x^2 of x^2, to x = 0.625: 1.5e-10 of tanh.
constexpr float kTanh[] = {0x1.197b62p-9f,  -0x1.0c213ep-7f, 0x1.6394d8p-6f,
                           -0x1.b9ef7cp-5f, 0x1.11106cp-3f,  -0x1.555554p-2f};
// erf(x) / x - 1 of x^2, to x = 1: 1.2e-9 of erf.
constexpr float kErf[] = {0x1.496a28p-14f, -0x1.a3f6fcp-11f, 0x1.5405b2p-8f, -0x1.b7f90cp-6f,
                          0x1.ce2cf8p-4f,  -0x1.81273ep-2f,  0x1.06eba8p-3f};
// 1 - erf(x) of x - 2.46, from 1 to 3.92: within 2e-9.
constexpr float kErfc[] = {0x1.a18e90p-22f,  -0x1.2693bcp-20f, -0x1.adf7ecp-19f, 0x1.23279cp-16f,
                           -0x1.ef75aap-17f, -0x1.3e51b2p-14f, 0x1.293280p-12f,  -0x1.7515dep-12f,
                           -0x1.d2d754p-12f, 0x1.80f8b2p-9f,   -0x1.be0776p-8f,  0x1.44de68p-7f,
                           -0x1.422626p-7f,  0x1.ac3efcp-8f,   -0x1.5c2ae6p-9f,  0x1.07e6fap-11f};
constexpr float kErfMiddle = 0x1.3ae148p+1f;
constexpr float kErfOne = 3.92f;  // from here on erf is 1 within half an ulp

// Each step for all vectors, because one chain alone leaves the units waiting.
template <std::size_t kCount, std::size_t kTerms>
HWY_INLINE void polynomial(const float (&terms)[kTerms], const V* HWY_RESTRICT x,
                           V* HWY_RESTRICT y) {
  const D d;
  for (std::size_t c = 0; c < kCount; ++c) y[c] = hn::Set(d, terms[0]);
  for (std::size_t i = 1; i < kTerms; ++i) {
    const V term = hn::Set(d, terms[i]);
    for (std::size_t c = 0; c < kCount; ++c) y[c] = hn::MulAdd(y[c], x[c], term);
  }
}

struct Tanh {
  template <std::size_t kCount>
  HWY_INLINE void operator()(const V* HWY_RESTRICT x, V* HWY_RESTRICT y) const {
    const D d;
    const V one = hn::Set(d, 1.0f);
    V square[kCount];
    V series[kCount];
    V exponent[kCount];
    V power[kCount];
    for (std::size_t c = 0; c < kCount; ++c) {
      square[c] = hn::Mul(x[c], x[c]);
      exponent[c] = hn::Mul(hn::Set(d, -2.0f), hn::Abs(x[c]));
    }
    exp_of_negative<kCount>(d, exponent, power);
    polynomial<kCount>(kTanh, square, series);
    for (std::size_t c = 0; c < kCount; ++c) {
      const V near = hn::MulAdd(hn::Mul(series[c], square[c]), x[c], x[c]);
      const V far = hn::Sub(one, hn::Div(hn::Add(power[c], power[c]), hn::Add(one, power[c])));
      const auto is_far = hn::Gt(hn::Abs(x[c]), hn::Set(d, 0.625f));
      y[c] = hn::IfThenElse(is_far, hn::CopySign(far, x[c]), near);
    }
  }
};

struct Sigmoid {
  template <std::size_t kCount>
  HWY_INLINE void operator()(const V* HWY_RESTRICT x, V* HWY_RESTRICT y) const {
    const D d;
    const V one = hn::Set(d, 1.0f);
    V exponent[kCount];
    V power[kCount];
    for (std::size_t c = 0; c < kCount; ++c) exponent[c] = hn::Neg(hn::Abs(x[c]));
    exp_of_negative<kCount>(d, exponent, power);
    for (std::size_t c = 0; c < kCount; ++c) {
      const V top = hn::IfThenElse(hn::Lt(x[c], hn::Zero(d)), power[c], one);
      const V value = hn::Div(top, hn::Add(one, power[c]));
      y[c] = hn::IfThenElse(hn::Eq(x[c], x[c]), value, x[c]);
    }
  }
};

struct Erf {
  template <std::size_t kCount>
  HWY_INLINE void operator()(const V* HWY_RESTRICT x, V* HWY_RESTRICT y) const {
    const D d;
    const V one = hn::Set(d, 1.0f);
    V square[kCount];
    V distance[kCount];
    V near[kCount];
    V rest[kCount];
    for (std::size_t c = 0; c < kCount; ++c) {
      square[c] = hn::Mul(x[c], x[c]);
      distance[c] = hn::Sub(hn::Min(hn::Abs(x[c]), hn::Set(d, kErfOne)), hn::Set(d, kErfMiddle));
    }
    polynomial<kCount>(kErf, square, near);
    polynomial<kCount>(kErfc, distance, rest);
    for (std::size_t c = 0; c < kCount; ++c) {
      const V size = hn::Abs(x[c]);
      near[c] = hn::MulAdd(near[c], x[c], x[c]);
      const V far = hn::IfThenElse(hn::Ge(size, hn::Set(d, kErfOne)), one, hn::Sub(one, rest[c]));
      y[c] = hn::IfThenElse(hn::Gt(size, one), hn::CopySign(far, x[c]), near[c]);
    }
  }
};

struct Round {
  template <std::size_t kCount>
  HWY_INLINE void operator()(const V* HWY_RESTRICT x, V* HWY_RESTRICT y) const {
    for (std::size_t c = 0; c < kCount; ++c) y[c] = hn::Round(x[c]);
  }
};

struct Floor {
  template <std::size_t kCount>
  HWY_INLINE void operator()(const V* HWY_RESTRICT x, V* HWY_RESTRICT y) const {
    for (std::size_t c = 0; c < kCount; ++c) y[c] = hn::Floor(x[c]);
  }
};

struct Ceil {
  template <std::size_t kCount>
  HWY_INLINE void operator()(const V* HWY_RESTRICT x, V* HWY_RESTRICT y) const {
    for (std::size_t c = 0; c < kCount; ++c) y[c] = hn::Ceil(x[c]);
  }
};

template <class Function>
HWY_INLINE void run(const float* src, std::int64_t n, float* dst) {
  const D d;
  const Function f;
  constexpr std::size_t kCount = 4;
  constexpr auto kLanes = static_cast<std::int64_t>(hn::MaxLanes(D()));
  std::int64_t i = 0;
  V x[kCount];
  V y[kCount];
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    for (std::size_t c = 0; c < kCount; ++c) {
      x[c] = hn::LoadU(d, src + i + static_cast<std::int64_t>(c) * kLanes);
    }
    f.template operator()<kCount>(x, y);
    for (std::size_t c = 0; c < kCount; ++c) {
      hn::StoreU(y[c], d, dst + i + static_cast<std::int64_t>(c) * kLanes);
    }
  }
  for (; i < n; i += kLanes) {
    const bool whole = i + kLanes <= n;
    x[0] = whole ? hn::LoadU(d, src + i) : LoadPart(d, src + i, n - i);
    f.template operator()<1>(x, y);
    if (whole) hn::StoreU(y[0], d, dst + i);
    else StorePart(d, y[0], dst + i, n - i);
  }
}

void tanh_f32(const float* src, std::int64_t n, float* dst) { run<Tanh>(src, n, dst); }
void sigmoid_f32(const float* src, std::int64_t n, float* dst) { run<Sigmoid>(src, n, dst); }
void erf_f32(const float* src, std::int64_t n, float* dst) { run<Erf>(src, n, dst); }
void round_f32(const float* src, std::int64_t n, float* dst) { run<Round>(src, n, dst); }
void floor_f32(const float* src, std::int64_t n, float* dst) { run<Floor>(src, n, dst); }
void ceil_f32(const float* src, std::int64_t n, float* dst) { run<Ceil>(src, n, dst); }

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace moptcore::inline v0::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moptcore::inline v0::kernels {

HWY_EXPORT(tanh_f32);
HWY_EXPORT(sigmoid_f32);
HWY_EXPORT(erf_f32);
HWY_EXPORT(round_f32);
HWY_EXPORT(floor_f32);
HWY_EXPORT(ceil_f32);

void tanh_f32(const float* src, std::int64_t n, float* dst) noexcept {
  HWY_DYNAMIC_DISPATCH(tanh_f32)(src, n, dst);
}

void sigmoid_f32(const float* src, std::int64_t n, float* dst) noexcept {
  HWY_DYNAMIC_DISPATCH(sigmoid_f32)(src, n, dst);
}

void erf_f32(const float* src, std::int64_t n, float* dst) noexcept {
  HWY_DYNAMIC_DISPATCH(erf_f32)(src, n, dst);
}

void round_f32(const float* src, std::int64_t n, float* dst) noexcept {
  HWY_DYNAMIC_DISPATCH(round_f32)(src, n, dst);
}

void floor_f32(const float* src, std::int64_t n, float* dst) noexcept {
  HWY_DYNAMIC_DISPATCH(floor_f32)(src, n, dst);
}

void ceil_f32(const float* src, std::int64_t n, float* dst) noexcept {
  HWY_DYNAMIC_DISPATCH(ceil_f32)(src, n, dst);
}

}  // namespace moptcore::inline v0::kernels
#endif

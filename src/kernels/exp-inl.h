// SPDX-License-Identifier: Apache-2.0
// exp and log, written once so that every target with FMA gives the same bits.
#if defined(MOPTCORE_KERNELS_EXP_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef MOPTCORE_KERNELS_EXP_INL_H
#undef MOPTCORE_KERNELS_EXP_INL_H
#else
#define MOPTCORE_KERNELS_EXP_INL_H
#endif

#include <cstdint>

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace moptcore::inline v0::kernels {
namespace HWY_NAMESPACE {
namespace {

// exp(x) = 2^n exp(r) with |r| <= log(2) / 2. Adding 1.5 * 2^(mantissa bits) + bias leaves n + bias
// in the low bits, which shifted left are the float 2^n. Coefficients from x^2 on: for float the
// polynomial 1 + x + ... of least relative error (3.1e-9), for double Taylor's (4e-18).
template <class T>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  static constexpr float kLowest = -0x1.601e68p+6f;  // n = -127: 2^n becomes 0
  static constexpr float kLog2E = 0x1.715476p+0f;
  static constexpr float kLn2High = 0x1.62e400p-1f;  // 14 bits: n times it is exact
  static constexpr float kLn2Low = 0x1.7f7d1cp-20f;
  static constexpr float kShift = 0x1.8p+23f + 127.0f;
  static constexpr int kMantissa = 23;
  static constexpr float kPolynomial[] = {0x1.6a2434p-10f, 0x1.1239e2p-7f, 0x1.5558f2p-5f,
                                          0x1.555492p-3f, 0x1.fffffcp-2f};
};

template <>
struct ExpConstants<double> {
  static constexpr double kLowest = -0x1.628b76e3a7b61p+9;  // n = -1023
  static constexpr double kLog2E = 0x1.71547652b82fep+0;
  static constexpr double kLn2High = 0x1.62e42fefa3800p-1;
  static constexpr double kLn2Low = 0x1.ef35793c76730p-45;
  static constexpr double kShift = 0x1.8p+52 + 1023.0;
  static constexpr int kMantissa = 52;
  static constexpr double kPolynomial[] = {
      1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320,
      1.0 / 5040,       1.0 / 720,       1.0 / 120,      1.0 / 24,      1.0 / 6,      0.5};
};

/// exp(x) for x <= 0 in each of several vectors, within 1.5 ulp; 0 where it is below the smallest
/// normal number. The vectors advance together, because one chain alone leaves the units waiting.
template <std::size_t kCount, class D, class V = hwy::HWY_NAMESPACE::Vec<D>>
HWY_INLINE void exp_of_negative(D d, const V* HWY_RESTRICT x, V* HWY_RESTRICT y) {
  namespace hn = hwy::HWY_NAMESPACE;
  using T = hn::TFromD<D>;
  using K = ExpConstants<T>;
  const hn::RebindToSigned<D> di;
  V r[kCount];
  V power[kCount];
  for (std::size_t c = 0; c < kCount; ++c) r[c] = hn::Max(x[c], hn::Set(d, K::kLowest));
  for (std::size_t c = 0; c < kCount; ++c) {
    power[c] = hn::MulAdd(r[c], hn::Set(d, K::kLog2E), hn::Set(d, K::kShift));
  }
  for (std::size_t c = 0; c < kCount; ++c) {
    const V n = hn::Sub(power[c], hn::Set(d, K::kShift));
    r[c] = hn::NegMulAdd(n, hn::Set(d, K::kLn2High), r[c]);
    r[c] = hn::NegMulAdd(n, hn::Set(d, K::kLn2Low), r[c]);
    power[c] = hn::BitCast(d, hn::ShiftLeft<K::kMantissa>(hn::BitCast(di, power[c])));
  }
  for (std::size_t c = 0; c < kCount; ++c) {
    y[c] = hn::MulAdd(hn::Set(d, K::kPolynomial[0]), r[c], hn::Set(d, K::kPolynomial[1]));
  }
  for (std::size_t i = 2; i < sizeof(K::kPolynomial) / sizeof(T); ++i) {
    for (std::size_t c = 0; c < kCount; ++c) {
      y[c] = hn::MulAdd(y[c], r[c], hn::Set(d, K::kPolynomial[i]));
    }
  }
  for (std::size_t c = 0; c < kCount; ++c) y[c] = hn::MulAdd(y[c], r[c], hn::Set(d, T(1)));
  for (std::size_t c = 0; c < kCount; ++c) y[c] = hn::MulAdd(y[c], r[c], hn::Set(d, T(1)));
  for (std::size_t c = 0; c < kCount; ++c) y[c] = hn::Mul(y[c], power[c]);
}

/// What a power is raised with: 2^y for float, whose argument needs no reduction then, e^y for
/// double. Arguments in these units are 1 / kUnit times those of exp.
template <class T>
struct Power;

template <>
struct Power<float> {
  static constexpr double kUnit = 0x1.62e42fefa39efp-1;
  // 2^y = 2^n 2^f with |f| <= 1/2; 1 + f p(f) of least relative error (2.0e-9).
  static constexpr float kLowest = -127.0f;  // 2^n becomes 0
  static constexpr float kPolynomial[] = {0x1.41fc2cp-13f, 0x1.5f3e7ap-10f, 0x1.3b2d4cp-7f,
                                          0x1.c6aee8p-5f,  0x1.ebfbdcp-3f,  0x1.62e430p-1f};
};

template <>
struct Power<double> {
  static constexpr double kUnit = 1.0;
};

/// The power for y <= 0 in each of several vectors, within 1 ulp for float and 1.5 for double; 0
/// where it is below the smallest normal number.
template <std::size_t kCount, class D, class V = hwy::HWY_NAMESPACE::Vec<D>>
HWY_INLINE void power_of_negative(D d, const V* HWY_RESTRICT x, V* HWY_RESTRICT y) {
  namespace hn = hwy::HWY_NAMESPACE;
  using T = hn::TFromD<D>;
  if constexpr (sizeof(T) == 8) {
    exp_of_negative<kCount>(d, x, y);
  } else {
    using K = Power<float>;
    const auto shift = hn::Set(d, ExpConstants<float>::kShift);
    const hn::RebindToSigned<D> di;
    V f[kCount];
    V power[kCount];
    for (std::size_t c = 0; c < kCount; ++c) f[c] = hn::Max(x[c], hn::Set(d, K::kLowest));
    for (std::size_t c = 0; c < kCount; ++c) power[c] = hn::Add(f[c], shift);
    for (std::size_t c = 0; c < kCount; ++c) {
      f[c] = hn::Sub(f[c], hn::Sub(power[c], shift));
      power[c] = hn::BitCast(d, hn::ShiftLeft<23>(hn::BitCast(di, power[c])));
    }
    for (std::size_t c = 0; c < kCount; ++c) {
      y[c] = hn::MulAdd(hn::Set(d, K::kPolynomial[0]), f[c], hn::Set(d, K::kPolynomial[1]));
    }
    for (std::size_t i = 2; i < sizeof(K::kPolynomial) / sizeof(float); ++i) {
      for (std::size_t c = 0; c < kCount; ++c) {
        y[c] = hn::MulAdd(y[c], f[c], hn::Set(d, K::kPolynomial[i]));
      }
    }
    for (std::size_t c = 0; c < kCount; ++c) y[c] = hn::MulAdd(y[c], f[c], hn::Set(d, T(1)));
    for (std::size_t c = 0; c < kCount; ++c) y[c] = hn::Mul(y[c], power[c]);
  }
}

/// log(x) of a normal number > 0, within 1 ulp or 2^-53: x = 2^k m with m in [2/3, 4/3), and
/// log(m) = 2 atanh((m - 1) / (m + 1)).
HWY_INLINE double log_of_normal(double x) {
  const auto bits = __builtin_bit_cast(std::uint64_t, x);
  auto k = static_cast<std::int64_t>(bits >> 52) - 1023;
  double m = __builtin_bit_cast(double, (bits & 0xfffffffffffffu) | 0x3ff0000000000000u);
  if (m >= 4.0 / 3.0) {
    m *= 0.5;
    ++k;
  }
  const double s = (m - 1.0) / (m + 1.0);  // |s| <= 0.2
  const double z = s * s;
  double series = 0.0;
  for (int term = 23; term >= 3; term -= 2) series = (series + 1.0 / term) * z;
  const double fraction = 2.0 * (s + s * series);
  const auto n = static_cast<double>(k);
  return n * ExpConstants<double>::kLn2High + (n * ExpConstants<double>::kLn2Low + fraction);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace moptcore::inline v0::kernels
HWY_AFTER_NAMESPACE();

#endif

// SPDX-License-Identifier: Apache-2.0
#include "kernels/soft_targets.hpp"

#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/soft_targets.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/exp-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moptcore::inline v0::kernels {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

// Element j belongs to virtual lane j % kLanes whatever the vectors' width, lanes are added in
// order of their number, and after each chunk they go to a sum in double.
constexpr std::int64_t kLanes = 16;
constexpr std::int64_t kChunk = kSoftTargetChunk;

// Where softmax(student) comes from: from an exponential of its own, or, for temperatures 1, 2
// and 4, from that power of exp(x / T).
enum class Hard { none, own, first, second, fourth };

constexpr int power_of(Hard hard) {
  if (hard == Hard::second) return 2;
  return hard == Hard::fourth ? 4 : 1;
}

// Sums over a row of powers: all are of factor * logit - offset in units of Power<T>, and the
// offset is that of the largest logit so far.
template <class T>
struct Sums {
  double student_soft = 0.0;
  double teacher_soft = 0.0;
  double student = 0.0;
  double difference = 0.0;  // sum teacher's power * (teacher's argument - student's)
  double shifted = 0.0;     // sum of the arguments of `student`
};

template <class T>
HWY_INLINE double total(const T* HWY_RESTRICT lanes) {
  double sum = 0.0;
  for (std::int64_t lane = 0; lane < kLanes; ++lane) sum += static_cast<double>(lanes[lane]);
  return sum;
}

// Logits from this magnitude on could make a sum of up to 2^40 terms infinite; times this number
// they are.
template <class T>
constexpr T kTooLarge = sizeof(T) == 4 ? T(1e14) : T(1e18);

// An offset is rounded, and the argument of the largest logit then may not be 0 but as much as
// half a unit in its last place: up to here that is far below 1.
template <class T>
constexpr T kFar = sizeof(T) == 4 ? T(0x1p20) : T(0x1p49);

// The largest of n values; false where one is not finite or too large.
template <class D, class T = hn::TFromD<D>>
HWY_INLINE bool largest(D d, const T* HWY_RESTRICT x, std::int64_t n, T& high) {
  const auto step = static_cast<std::int64_t>(hn::Lanes(d));
  const auto top = hn::Set(d, kTooLarge<T>);
  auto high0 = hn::Set(d, x[0]);
  auto high1 = high0;
  auto odd0 = hn::Zero(d);
  auto odd1 = odd0;
  std::int64_t j = 0;
  for (; j + 2 * step <= n; j += 2 * step) {
    const auto a = hn::LoadU(d, x + j);
    const auto b = hn::LoadU(d, x + j + step);
    high0 = hn::Max(high0, a);
    high1 = hn::Max(high1, b);
    odd0 = hn::MulAdd(a, top, odd0);
    odd1 = hn::MulAdd(b, top, odd1);
  }
  high = hn::GetLane(hn::MaxOfLanes(d, hn::Max(high0, high1)));
  const auto limit = hn::Set(d, std::numeric_limits<T>::max());
  bool finite = hn::AllTrue(d, hn::And(hn::Le(hn::Abs(odd0), limit), hn::Le(hn::Abs(odd1), limit)));
  for (; j < n; ++j) {
    high = x[j] > high ? x[j] : high;
    const T odd = x[j] * kTooLarge<T>;
    finite =
        finite && odd <= std::numeric_limits<T>::max() && odd >= -std::numeric_limits<T>::max();
  }
  return finite;
}

// The power of a difference of offsets.
template <class T>
HWY_INLINE double fading(T from, T to) {
  const hn::CappedTag<double, 1> d;
  using V = hn::Vec<std::remove_const_t<decltype(d)>>;
  const V x = hn::Set(d, (static_cast<double>(from) - static_cast<double>(to)) * Power<T>::kUnit);
  V y;
  exp_of_negative<1>(d, &x, &y);
  return hn::GetLane(y);
}

template <bool kSoft, Hard kHard, bool kSmooth, class D, class T = hn::TFromD<D>>
class Row {
 public:
  using V = hn::Vec<D>;
  static constexpr auto kWidth = static_cast<std::int64_t>(hn::MaxLanes(D()));
  static constexpr int kVectors = static_cast<int>(kLanes / kWidth);
  static constexpr int kGroup = kVectors < 2 ? kVectors : 2;  // vectors that advance together
  static constexpr bool kOwn = kHard == Hard::own;
  static constexpr T kNone = -std::numeric_limits<T>::infinity();

  explicit Row(const SoftTargetRow<T>& row)
      : row_(row),
        soft_factor_(static_cast<T>(1.0 / (row.temperature * Power<T>::kUnit))),
        hard_factor_(kOwn ? static_cast<T>(1.0 / Power<T>::kUnit) : soft_factor_),
        student_soft_(row.scratch),
        teacher_soft_(row.scratch + row.classes),
        student_(row.scratch + 2 * row.classes),
        offsets_(row.scratch + 3 * row.classes) {
    if constexpr (kHard != Hard::none) label_logit_ = row.student[row.label];
  }

  bool run(double& loss) {
    for (std::int64_t first = 0; first < row_.classes; first += kChunk) {
      const std::int64_t last = first + kChunk < row_.classes ? first + kChunk : row_.classes;
      if (!advance(first, last)) return false;
      exponentials(first, last);
    }
    const double found = value();
    if (!(found <= std::numeric_limits<double>::max())) return false;
    loss = found;
    for (std::int64_t first = 0; first < row_.classes; first += kChunk) {
      const std::int64_t last = first + kChunk < row_.classes ? first + kChunk : row_.classes;
      gradient(first, last);
    }
    if constexpr (kHard != Hard::none) {
      row_.grad[row_.label] = static_cast<T>(static_cast<double>(row_.grad[row_.label]) -
                                             row_.hard_grad * (1.0 - row_.smoothing));
    }
    return true;
  }

 private:
  struct Lanes {
    V student_soft[kVectors];
    V teacher_soft[kVectors];
    V student[kVectors];
    V difference[kVectors];
    V shifted[kVectors];
  };

  // Copies of what every vector needs, which no store through a pointer can change.
  struct Shared {
    V soft_factor;
    V hard_factor;
    V student_offset;
    V teacher_offset;
    V own_offset;
  };

  struct Offsets {
    T student = kNone;
    T teacher = kNone;
    T own = kNone;
  };

  // Takes the maxima of a chunk into the offsets, and the sums so far to the new ones.
  bool advance(std::int64_t first, std::int64_t last) {
    const D d;
    T student_high;
    T teacher_high = 0;
    if (!largest(d, row_.student + first, last - first, student_high)) return false;
    if constexpr (kSoft) {
      if (!largest(d, row_.teacher + first, last - first, teacher_high)) return false;
    }
    const Offsets before = at_;
    const auto raise = [](T& offset, T to) {
      if (to > offset) offset = to;
      return offset <= kFar<T> && offset >= -kFar<T>;
    };
    bool near = true;
    if constexpr (kSoft) {
      near = raise(at_.student, student_high * soft_factor_) &&
             raise(at_.teacher, teacher_high * soft_factor_);
    }
    if constexpr (kOwn) near = raise(at_.own, student_high * hard_factor_) && near;
    if (!near) return false;
    if (first > 0) move_sums(before);
    T* const offsets = offsets_ + 3 * (first / kChunk);
    offsets[0] = at_.student;
    offsets[1] = at_.teacher;
    offsets[2] = at_.own;
    return true;
  }

  void move_sums(const Offsets& before) {
    const auto seen = static_cast<double>(seen_);
    const auto step = [](T from, T to) {
      return static_cast<double>(from) - static_cast<double>(to);
    };
    if constexpr (kSoft) {
      if (before.student != at_.student || before.teacher != at_.teacher) {
        const double by_teacher = fading(before.teacher, at_.teacher);
        const double by_student = fading(before.student, at_.student);
        const double moved = step(before.teacher, at_.teacher) - step(before.student, at_.student);
        sums_.difference = by_teacher * (sums_.difference + moved * sums_.teacher_soft);
        sums_.teacher_soft *= by_teacher;
        sums_.student_soft *= by_student;
        if constexpr (kHard != Hard::none && !kOwn) {
          sums_.shifted += seen * step(before.student, at_.student);
          sums_.student *= power(by_student);
        }
      }
    }
    if constexpr (kOwn) {
      if (before.own != at_.own) {
        sums_.student *= fading(before.own, at_.own);
        sums_.shifted += seen * step(before.own, at_.own);
      }
    }
  }

  // The exponentials of a group of vectors, kept in scratch and added to the lanes. Past the end
  // of the row, from element `valid` on, they are 0.
  template <bool kPartial>
  static HWY_INLINE void accumulate(const Shared& shared, const T* HWY_RESTRICT student,
                                    const T* HWY_RESTRICT teacher, std::int64_t valid,
                                    T* HWY_RESTRICT student_soft, T* HWY_RESTRICT teacher_soft,
                                    T* HWY_RESTRICT own, Lanes& lanes, int first) {
    const D d;
    const auto keep = [&](V value, int g) HWY_ATTR {
      if constexpr (kPartial) {
        const std::int64_t left = valid - g * kWidth;
        return hn::IfThenElseZero(hn::FirstN(d, static_cast<std::size_t>(left < 0 ? 0 : left)),
                                  value);
      } else {
        return value;
      }
    };
    if constexpr (kSoft) {
      V both[2 * kGroup];  // student, teacher, student, ...
      for (int g = 0; g < kGroup; ++g) {
        const V s = hn::LoadU(d, student + g * kWidth);
        const V t = hn::LoadU(d, teacher + g * kWidth);
        both[2 * g] = keep(hn::MulSub(s, shared.soft_factor, shared.student_offset), g);
        both[2 * g + 1] = keep(hn::MulSub(t, shared.soft_factor, shared.teacher_offset), g);
      }
      V difference[kGroup];
      for (int g = 0; g < kGroup; ++g) difference[g] = hn::Sub(both[2 * g + 1], both[2 * g]);
      V soft[2 * kGroup];
      power_of_negative<2 * kGroup>(d, both, soft);
      for (int g = 0; g < kGroup; ++g) {
        const V a = keep(soft[2 * g], g);
        const V b = keep(soft[2 * g + 1], g);
        hn::StoreU(a, d, student_soft + g * kWidth);
        hn::StoreU(b, d, teacher_soft + g * kWidth);
        const int v = first + g;
        lanes.student_soft[v] = hn::Add(lanes.student_soft[v], a);
        lanes.teacher_soft[v] = hn::Add(lanes.teacher_soft[v], b);
        lanes.difference[v] = hn::MulAdd(b, difference[g], lanes.difference[v]);
        if constexpr (kHard != Hard::none && !kOwn) {
          lanes.student[v] = hn::Add(lanes.student[v], power(a));
          if constexpr (kSmooth) lanes.shifted[v] = hn::Add(lanes.shifted[v], both[2 * g]);
        }
      }
    }
    if constexpr (kOwn) {
      V x[kGroup];
      V hard[kGroup];
      for (int g = 0; g < kGroup; ++g) {
        const V s = hn::LoadU(d, student + g * kWidth);
        x[g] = keep(hn::MulSub(s, shared.hard_factor, shared.own_offset), g);
        if constexpr (kSmooth) lanes.shifted[first + g] = hn::Add(lanes.shifted[first + g], x[g]);
      }
      power_of_negative<kGroup>(d, x, hard);
      for (int g = 0; g < kGroup; ++g) {
        const V e = keep(hard[g], g);
        hn::StoreU(e, d, own + g * kWidth);
        lanes.student[first + g] = hn::Add(lanes.student[first + g], e);
      }
    }
  }

  static HWY_INLINE V power(V a) {
    if constexpr (kHard == Hard::second || kHard == Hard::fourth) a = hn::Mul(a, a);
    if constexpr (kHard == Hard::fourth) a = hn::Mul(a, a);
    return a;
  }

  static HWY_INLINE double power(double a) {
    if constexpr (kHard == Hard::second || kHard == Hard::fourth) a *= a;
    if constexpr (kHard == Hard::fourth) a *= a;
    return a;
  }

  void exponentials(std::int64_t first, std::int64_t last) {
    const D d;
    Lanes lanes;
    for (int v = 0; v < kVectors; ++v) {
      lanes.student_soft[v] = hn::Zero(d);
      lanes.teacher_soft[v] = hn::Zero(d);
      lanes.student[v] = hn::Zero(d);
      lanes.difference[v] = hn::Zero(d);
      lanes.shifted[v] = hn::Zero(d);
    }
    const Shared shared = {hn::Set(d, soft_factor_), hn::Set(d, hard_factor_),
                           hn::Set(d, at_.student), hn::Set(d, at_.teacher), hn::Set(d, at_.own)};
    const T* const student = row_.student;
    const T* const teacher = row_.teacher;
    T* const student_soft = student_soft_;
    T* const teacher_soft = teacher_soft_;
    T* const own = student_;
    std::int64_t j = first;
    for (; j + kLanes <= last; j += kLanes) {
      for (int v = 0; v < kVectors; v += kGroup) {
        const std::int64_t at = j + v * kWidth;
        accumulate<false>(shared, student + at, kSoft ? teacher + at : nullptr, 0,
                          student_soft + at, teacher_soft + at, own + at, lanes, v);
      }
    }
    if (j < last) {
      const std::int64_t rest = last - j;
      T buffer[5][kLanes] = {};
      for (std::int64_t i = 0; i < rest; ++i) {
        buffer[0][i] = row_.student[j + i];
        if constexpr (kSoft) buffer[1][i] = row_.teacher[j + i];
      }
      for (int v = 0; v < kVectors; v += kGroup) {
        const std::int64_t at = v * kWidth;
        accumulate<true>(shared, buffer[0] + at, buffer[1] + at, rest - at, buffer[2] + at,
                         buffer[3] + at, buffer[4] + at, lanes, v);
      }
      for (std::int64_t i = 0; i < rest; ++i) {
        if constexpr (kSoft) student_soft_[j + i] = buffer[2][i];
        if constexpr (kSoft) teacher_soft_[j + i] = buffer[3][i];
        if constexpr (kOwn) student_[j + i] = buffer[4][i];
      }
    }
    T flat[kLanes];
    const auto flush = [&](const V* values, double& sum) HWY_ATTR {
      for (int v = 0; v < kVectors; ++v) hn::StoreU(values[v], d, flat + v * kWidth);
      sum += total(flat);
    };
    if constexpr (kSoft) {
      flush(lanes.student_soft, sums_.student_soft);
      flush(lanes.teacher_soft, sums_.teacher_soft);
      flush(lanes.difference, sums_.difference);
    }
    if constexpr (kHard != Hard::none) {
      flush(lanes.student, sums_.student);
      if constexpr (kSmooth) flush(lanes.shifted, sums_.shifted);
    }
    seen_ += last - first;
  }

  // grad = a k_a - b k_b + e k_e - k, and the label's share. The products are rounded before they
  // are subtracted, so equal logits have gradient exactly 0.
  void gradient(std::int64_t first, std::int64_t last) const {
    const D d;
    const T* const offsets = offsets_ + 3 * (first / kChunk);
    T ka = 0;
    T kb = 0;
    T ke = 0;
    T k = 0;
    double by_student = 1.0;
    if constexpr (kSoft) {
      by_student = fading(offsets[0], at_.student);
      ka = static_cast<T>(row_.soft_grad / sums_.student_soft * by_student);
      kb = static_cast<T>(row_.soft_grad / sums_.teacher_soft * fading(offsets[1], at_.teacher));
    }
    if constexpr (kHard != Hard::none) {
      const double by = kOwn ? fading(offsets[2], at_.own) : power(by_student);
      ke = static_cast<T>(row_.hard_grad / sums_.student * by);
      k = static_cast<T>(row_.hard_grad * row_.smoothing / static_cast<double>(row_.classes));
    }
    const V va = hn::Set(d, ka);
    const V vb = hn::Set(d, kb);
    const V ve = hn::Set(d, ke);
    const V vk = hn::Set(d, k);
    const auto element = [&](const T* HWY_RESTRICT a, const T* HWY_RESTRICT b,
                             const T* HWY_RESTRICT e) HWY_ATTR {
      V g = hn::Zero(d);
      V soft = hn::Zero(d);
      if constexpr (kSoft) {
        soft = hn::LoadU(d, a);
        g = hn::Sub(hn::Mul(soft, va), hn::Mul(hn::LoadU(d, b), vb));
      }
      if constexpr (kHard != Hard::none) {
        V hard;
        if constexpr (kOwn) hard = hn::LoadU(d, e);
        else hard = power(soft);
        if constexpr (kSmooth) g = hn::Add(g, hn::MulSub(hard, ve, vk));
        else g = hn::MulAdd(hard, ve, g);
      }
      return g;
    };
    const T* const student_soft = student_soft_;
    const T* const teacher_soft = teacher_soft_;
    const T* const own = student_;
    // The next row mostly follows this one, on a page that the hardware does not fetch ahead.
    const T* const next_student = row_.student + row_.classes;
    const T* const next_teacher = kSoft ? row_.teacher + row_.classes : next_student;
    T* const grad = row_.grad;
    const bool stream =
        row_.stream && reinterpret_cast<std::uintptr_t>(grad + first) % sizeof(V) == 0;
    const std::int64_t whole = last - (last - first) % kLanes;
    std::int64_t j = first;
    const auto lines = [&]<bool kStream>() HWY_ATTR {
      for (; j < whole; j += kLanes) {
        hwy::Prefetch(next_student + j);
        if constexpr (kSoft) hwy::Prefetch(next_teacher + j);
        for (int v = 0; v < kVectors; ++v) {
          const std::int64_t at = j + v * kWidth;
          const V g = element(student_soft + at, teacher_soft + at, own + at);
          if constexpr (kStream) hn::Stream(g, d, grad + at);
          else hn::StoreU(g, d, grad + at);
        }
      }
    };
    if (stream) lines.template operator()<true>();
    else lines.template operator()<false>();
    for (; j + kWidth <= last; j += kWidth) {
      hn::StoreU(element(student_soft + j, teacher_soft + j, own + j), d, grad + j);
    }
    if (j < last) {
      T buffer[4][kWidth] = {};
      for (std::int64_t i = j; i < last; ++i) {
        if constexpr (kSoft) buffer[0][i - j] = student_soft_[i];
        if constexpr (kSoft) buffer[1][i - j] = teacher_soft_[i];
        if constexpr (kOwn) buffer[2][i - j] = student_[i];
      }
      hn::StoreU(element(buffer[0], buffer[1], buffer[2]), d, buffer[3]);
      for (std::int64_t i = j; i < last; ++i) row_.grad[i] = buffer[3][i - j];
    }
  }

  [[nodiscard]] double value() const {
    double loss = 0.0;
    if constexpr (kSoft) {
      const double divergence = sums_.difference * Power<T>::kUnit / sums_.teacher_soft +
                                log_of_normal(sums_.student_soft) -
                                log_of_normal(sums_.teacher_soft);
      // Rounding must not make a divergence negative.
      loss += row_.soft_loss * (divergence < 0.0 ? 0.0 : divergence);
    }
    if constexpr (kHard != Hard::none) {
      // The arguments of the powers that were summed; what rounds alike in all of them cancels.
      const double unit = Power<T>::kUnit * power_of(kHard);
      const double offset = static_cast<double>(kOwn ? at_.own : at_.student);
      const double at_label =
          static_cast<double>(label_logit_) * static_cast<double>(hard_factor_) - offset;
      double target = (1.0 - row_.smoothing) * at_label;
      if constexpr (kSmooth) {
        target += row_.smoothing * (sums_.shifted / static_cast<double>(row_.classes));
      }
      loss += row_.hard_loss * (log_of_normal(sums_.student) - unit * target);
    }
    return loss;
  }

  const SoftTargetRow<T>& row_;
  T soft_factor_;
  T hard_factor_;
  T* HWY_RESTRICT student_soft_;
  T* HWY_RESTRICT teacher_soft_;
  T* HWY_RESTRICT student_;
  T* HWY_RESTRICT offsets_;  // those of each chunk
  T label_logit_ = 0;        // read before the gradient overwrites it: grad may be the student
  Offsets at_;
  Sums<T> sums_;
  std::int64_t seen_ = 0;
};

template <class T>
bool soft_target_row(const SoftTargetRow<T>& row, double& loss) {
  const hn::CappedTag<T, kLanes> d;
  using D = std::remove_const_t<decltype(d)>;
  const auto run = [&]<bool kSoft, Hard kHard>() HWY_ATTR {
    if (kHard != Hard::none && row.smoothing != 0.0) {
      return Row<kSoft, kHard, true, D>(row).run(loss);
    }
    return Row<kSoft, kHard, false, D>(row).run(loss);
  };
  if (row.soft_loss == 0.0) return run.template operator()<false, Hard::own>();
  if (row.hard_loss == 0.0) return run.template operator()<true, Hard::none>();
  if constexpr (sizeof(T) == 4) {
    if (row.temperature == 1.0) return run.template operator()<true, Hard::first>();
    if (row.temperature == 2.0) return run.template operator()<true, Hard::second>();
    if (row.temperature == 4.0) return run.template operator()<true, Hard::fourth>();
  }
  return run.template operator()<true, Hard::own>();
}

bool soft_target_row_f32(const SoftTargetRow<float>& row, double& loss) {
  return soft_target_row(row, loss);
}

bool soft_target_row_f64(const SoftTargetRow<double>& row, double& loss) {
  return soft_target_row(row, loss);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace moptcore::inline v0::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moptcore::inline v0::kernels {

HWY_EXPORT(soft_target_row_f32);
HWY_EXPORT(soft_target_row_f64);

bool soft_target_row_f32(const SoftTargetRow<float>& row, double& loss) noexcept {
  return HWY_DYNAMIC_DISPATCH(soft_target_row_f32)(row, loss);
}

bool soft_target_row_f64(const SoftTargetRow<double>& row, double& loss) noexcept {
  return HWY_DYNAMIC_DISPATCH(soft_target_row_f64)(row, loss);
}

}  // namespace moptcore::inline v0::kernels
#endif

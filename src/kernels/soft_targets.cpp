// SPDX-License-Identifier: Apache-2.0
#include "kernels/soft_targets.hpp"

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
// order of their number, and after kChunk elements they go to a sum in double.
constexpr std::int64_t kLanes = 16;
constexpr std::int64_t kChunk = 1024;

// Where softmax(student) comes from: from an exponential of its own, or, for temperatures 1, 2
// and 4, from that power of exp(x / T).
enum class Hard { none, own, first, second, fourth };

template <class T>
struct Sums {
  double student_soft = 0.0;
  double teacher_soft = 0.0;
  double student = 0.0;
  double difference = 0.0;  // sum exp(teacher / T) (teacher - student) / T, both less their maxima
  double shifted = 0.0;     // sum (student - its maximum)
};

template <class T>
struct Range {
  T low;
  T high;
  bool finite;
};

template <class T>
HWY_INLINE double total(const T* HWY_RESTRICT lanes) {
  double sum = 0.0;
  for (std::int64_t lane = 0; lane < kLanes; ++lane) sum += static_cast<double>(lanes[lane]);
  return sum;
}

template <class D, class T = hn::TFromD<D>>
Range<T> range(D d, const T* HWY_RESTRICT x, std::int64_t n) {
  const auto step = static_cast<std::int64_t>(hn::Lanes(d));
  const auto zero = hn::Zero(d);
  auto low0 = hn::Set(d, x[0]);
  auto high0 = low0;
  auto low1 = low0;
  auto high1 = low0;
  auto odd0 = zero;  // becomes NaN with the first NaN or infinity
  auto odd1 = zero;
  std::int64_t j = 0;
  for (; j + 2 * step <= n; j += 2 * step) {
    const auto a = hn::LoadU(d, x + j);
    const auto b = hn::LoadU(d, x + j + step);
    low0 = hn::Min(low0, a);
    high0 = hn::Max(high0, a);
    odd0 = hn::MulAdd(a, zero, odd0);
    low1 = hn::Min(low1, b);
    high1 = hn::Max(high1, b);
    odd1 = hn::MulAdd(b, zero, odd1);
  }
  Range<T> result;
  result.low = hn::GetLane(hn::MinOfLanes(d, hn::Min(low0, low1)));
  result.high = hn::GetLane(hn::MaxOfLanes(d, hn::Max(high0, high1)));
  T odd = hn::GetLane(hn::SumOfLanes(d, hn::Add(odd0, odd1)));
  for (; j < n; ++j) {
    result.low = x[j] < result.low ? x[j] : result.low;
    result.high = x[j] > result.high ? x[j] : result.high;
    odd += x[j] * T(0);
  }
  result.finite = odd == T(0);
  return result;
}

template <bool kSoft, Hard kHard, class D, class T = hn::TFromD<D>>
class Row {
 public:
  using V = hn::Vec<D>;
  static constexpr auto kWidth = static_cast<std::int64_t>(hn::MaxLanes(D()));
  static constexpr int kVectors = static_cast<int>(kLanes / kWidth);
  static constexpr int kGroup = kVectors < 2 ? kVectors : 2;  // vectors that advance together
  static constexpr bool kOwn = kHard == Hard::own;

  Row(const SoftTargetRow<T>& row, T student_high, T teacher_high)
      : row_(row),
        student_high_(student_high),
        teacher_high_(teacher_high),
        student_soft_(row.scratch),
        teacher_soft_(row.scratch + row.classes),
        student_(row.scratch + 2 * row.classes) {}

  double run() {
    Sums<T> sums;
    for (std::int64_t first = 0; first < row_.classes; first += kChunk) {
      const std::int64_t last = first + kChunk < row_.classes ? first + kChunk : row_.classes;
      exponentials(first, last, sums);
    }
    gradient(sums);
    return loss(sums);
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
    V student_high;
    V teacher_high;
    V inverse;  // 1 / T
  };

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
    V x[kGroup];
    for (int g = 0; g < kGroup; ++g) {
      x[g] = keep(hn::Sub(hn::LoadU(d, student + g * kWidth), shared.student_high), g);
      if constexpr (kHard != Hard::none) {
        lanes.shifted[first + g] = hn::Add(lanes.shifted[first + g], x[g]);
      }
    }
    if constexpr (kSoft) {
      V both[2 * kGroup];  // student, teacher, student, ...
      for (int g = 0; g < kGroup; ++g) {
        const V z = keep(hn::Sub(hn::LoadU(d, teacher + g * kWidth), shared.teacher_high), g);
        both[2 * g] = hn::Mul(x[g], shared.inverse);
        both[2 * g + 1] = hn::Mul(z, shared.inverse);
      }
      V difference[kGroup];
      for (int g = 0; g < kGroup; ++g) difference[g] = hn::Sub(both[2 * g + 1], both[2 * g]);
      V soft[2 * kGroup];
      exp_of_negative<2 * kGroup>(d, both, soft);
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
        }
      }
    }
    if constexpr (kOwn) {
      V hard[kGroup];
      exp_of_negative<kGroup>(d, x, hard);
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

  void exponentials(std::int64_t first, std::int64_t last, Sums<T>& sums) const {
    const D d;
    Lanes lanes;
    for (int v = 0; v < kVectors; ++v) {
      lanes.student_soft[v] = hn::Zero(d);
      lanes.teacher_soft[v] = hn::Zero(d);
      lanes.student[v] = hn::Zero(d);
      lanes.difference[v] = hn::Zero(d);
      lanes.shifted[v] = hn::Zero(d);
    }
    const Shared shared = {hn::Set(d, student_high_), hn::Set(d, teacher_high_),
                           hn::Set(d, static_cast<T>(1.0 / row_.temperature))};
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
      flush(lanes.student_soft, sums.student_soft);
      flush(lanes.teacher_soft, sums.teacher_soft);
      flush(lanes.difference, sums.difference);
    }
    if constexpr (kHard != Hard::none) {
      flush(lanes.student, sums.student);
      flush(lanes.shifted, sums.shifted);
    }
  }

  // grad = a k_a - b k_b + e k_e - k, and the label's share. The products are rounded before they
  // are subtracted, so equal logits have gradient exactly 0.
  void gradient(const Sums<T>& sums) const {
    const D d;
    T ka = 0;
    T kb = 0;
    T ke = 0;
    T k = 0;
    if constexpr (kSoft) {
      ka = static_cast<T>(row_.soft_grad / sums.student_soft);
      kb = static_cast<T>(row_.soft_grad / sums.teacher_soft);
    }
    if constexpr (kHard != Hard::none) {
      ke = static_cast<T>(row_.hard_grad / sums.student);
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
        g = hn::Add(g, hn::Sub(hn::Mul(hard, ve), vk));
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
    const std::int64_t whole = row_.classes - row_.classes % kLanes;
    std::int64_t j = 0;
    for (; j < whole; j += kLanes) {
      hwy::Prefetch(next_student + j);
      if constexpr (kSoft) hwy::Prefetch(next_teacher + j);
      for (int v = 0; v < kVectors; ++v) {
        const std::int64_t at = j + v * kWidth;
        hn::StoreU(element(student_soft + at, teacher_soft + at, own + at), d, grad + at);
      }
    }
    for (; j + kWidth <= row_.classes; j += kWidth) {
      hn::StoreU(element(student_soft + j, teacher_soft + j, own + j), d, grad + j);
    }
    if (j < row_.classes) {
      T buffer[4][kWidth] = {};
      for (std::int64_t i = j; i < row_.classes; ++i) {
        if constexpr (kSoft) buffer[0][i - j] = student_soft_[i];
        if constexpr (kSoft) buffer[1][i - j] = teacher_soft_[i];
        if constexpr (kOwn) buffer[2][i - j] = student_[i];
      }
      hn::StoreU(element(buffer[0], buffer[1], buffer[2]), d, buffer[3]);
      for (std::int64_t i = j; i < row_.classes; ++i) row_.grad[i] = buffer[3][i - j];
    }
    if constexpr (kHard != Hard::none) {
      row_.grad[row_.label] = static_cast<T>(static_cast<double>(row_.grad[row_.label]) -
                                             row_.hard_grad * (1.0 - row_.smoothing));
    }
  }

  double loss(const Sums<T>& sums) const {
    double loss = 0.0;
    if constexpr (kSoft) {
      const double divergence = sums.difference / sums.teacher_soft +
                                log_of_normal(sums.student_soft) - log_of_normal(sums.teacher_soft);
      // Rounding must not make a divergence negative.
      loss += row_.soft_loss * (divergence > 0.0 ? divergence : 0.0);
    }
    if constexpr (kHard != Hard::none) {
      const double at_label =
          static_cast<double>(label_logit_) - static_cast<double>(student_high_);
      const double mean = sums.shifted / static_cast<double>(row_.classes);
      loss += row_.hard_loss * (log_of_normal(sums.student) - (1.0 - row_.smoothing) * at_label -
                                row_.smoothing * mean);
    }
    return loss;
  }

  const SoftTargetRow<T>& row_;
  T student_high_;
  T teacher_high_;
  T* HWY_RESTRICT student_soft_;
  T* HWY_RESTRICT teacher_soft_;
  T* HWY_RESTRICT student_;
  // Read before the gradient overwrites it: grad may be the student.
  T label_logit_ = row_.hard_loss != 0.0 ? row_.student[row_.label] : T(0);
};

// A span below this keeps every sum of up to 2^40 terms finite in T.
template <class T>
constexpr T kWidest = sizeof(T) == 4 ? T(1e25) : T(1e290);

template <class T>
bool soft_target_row(const SoftTargetRow<T>& row, double& loss) {
  const hn::CappedTag<T, kLanes> d;
  using D = decltype(d);
  const auto student = range(d, row.student, row.classes);
  if (!student.finite || !(student.high - student.low < kWidest<T>)) return false;
  if (row.soft_loss == 0.0) {
    loss = Row<false, Hard::own, std::remove_const_t<D>>(row, student.high, T(0)).run();
    return true;
  }
  const auto teacher = range(d, row.teacher, row.classes);
  if (!teacher.finite || !(teacher.high - teacher.low < kWidest<T>)) return false;
  const auto run = [&]<Hard kHard>() HWY_ATTR {
    loss = Row<true, kHard, std::remove_const_t<D>>(row, student.high, teacher.high).run();
  };
  if (row.hard_loss == 0.0) {
    run.template operator()<Hard::none>();
  } else if (sizeof(T) == 4 && row.temperature == 1.0) {
    run.template operator()<Hard::first>();
  } else if (sizeof(T) == 4 && row.temperature == 2.0) {
    run.template operator()<Hard::second>();
  } else if (sizeof(T) == 4 && row.temperature == 4.0) {
    run.template operator()<Hard::fourth>();
  } else {
    run.template operator()<Hard::own>();
  }
  return true;
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

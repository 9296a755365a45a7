// SPDX-License-Identifier: Apache-2.0
#include <moptcore/runtime/soft_targets.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include <moptcore/core/parallel.hpp>
#include <moptcore/core/pool.hpp>

#include "distill/soft_target_call.hpp"
#include "kernels/onednn/softmax.hpp"
#include "runtime/refusal.hpp"
#include "runtime/soft_targets.hpp"

namespace moptcore::inline v0::runtime {

using distill::Reduction;
using distill::SoftTargetCall;
using distill::SoftTargetOptions;

namespace {

// The sum of f(i) over [0, n), in as many independent sums as a vector unit takes.
template <class F>
double sum_over(std::int64_t n, F&& f) {
  constexpr std::int64_t kLanes = 8;
  std::array<double, kLanes> sums{};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (std::int64_t lane = 0; lane < kLanes; ++lane) {
      sums[static_cast<std::size_t>(lane)] += f(i + lane);
    }
  }
  double total = 0.0;
  for (const double sum : sums) total += sum;
  for (; i < n; ++i) total += f(i);
  return total;
}

// to = from * factor; false where a product is not finite.
bool scaled(const float* from, std::int64_t n, float factor, float* to) {
  constexpr std::uint32_t kExponent = 0x7f800000u;
  std::uint32_t beyond = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const float value = from[i] * factor;
    to[i] = value;
    beyond |= (std::bit_cast<std::uint32_t>(value) & kExponent) == kExponent ? 1u : 0u;
  }
  return beyond == 0;
}

class Blocks {
 public:
  Blocks(const AnyView& student, const AnyView& teacher, const std::optional<AnyView>& labels,
         const SoftTargetOptions& options, const MutableAnyView& grad, const char* where)
      : call_(student, teacher, labels, options, grad, where),
        where_(where),
        student_(static_cast<const float*>(student.data())),
        teacher_(static_cast<const float*>(teacher.data())),
        grad_(static_cast<float*>(grad.data())),
        classes_(call_.classes()),
        rows_(student.size() / classes_) {
    check<UnsupportedError>(student.dtype() == DType::float32, where,
                            "backend onednn takes a float32 student", name(student.dtype()));
    check<UnsupportedError>(teacher.dtype() == DType::float32, where,
                            "backend onednn takes a float32 teacher", name(teacher.dtype()));
    check<UnsupportedError>(call_.axis() == student.rank() - 1, where,
                            "backend onednn takes classes in the last axis, axis", options.axis);
    for (const AnyView& view : {student, teacher, AnyView(grad)}) {
      check<UnsupportedError>(view.is_contiguous(), where,
                              "backend onednn takes contiguous tensors, strides", view.strides());
    }
    check<UnsupportedError>(!options.standardize, where, "backend onednn takes standardize=False");
  }

  [[nodiscard]] double run(const MutableAnyView* losses) const {
    const std::int64_t grain = call_.grain();
    std::vector<double> sums(static_cast<std::size_t>(block_count(rows_, grain)));
    or_refusal(where_, [&] {
      if (rows_ == 0) return;
      const Gradient how = faster_gradient(std::min(grain, rows_), classes_);
      parallel_blocks(rows_, grain, [&](std::int64_t block, std::int64_t first, std::int64_t last) {
        const std::vector<double> each = Block(*this, how, first, last - first).run();
        double sum = 0.0;
        for (std::size_t i = 0; i < each.size(); ++i) {
          sum += each[i];
          if (losses != nullptr) store(*losses, first + static_cast<std::int64_t>(i), each[i]);
        }
        sums[static_cast<std::size_t>(block)] = sum;
      });
    });
    double total = 0.0;
    for (const double sum : sums) total += sum;
    return total / call_.divisor();
  }

 private:
  static void store(const MutableAnyView& losses, std::int64_t row, double loss) {
    if (losses.dtype() == DType::float64) static_cast<double*>(losses.data())[row] = loss;
    else static_cast<float*>(losses.data())[row] = static_cast<float>(loss);
  }

  // Some rows. Every product and softmax is oneDNN's or float, every sum over a row double.
  class Block {
   public:
    Block(const Blocks& all, Gradient how, std::int64_t first, std::int64_t rows)
        : all_(all),
          how_(how),
          first_(first),
          rows_(rows),
          classes_(all.classes_),
          n_(rows * all.classes_),
          memory_(pool_allocate(5 * n_ * static_cast<std::int64_t>(sizeof(float)))),
          x_(static_cast<float*>(memory_.get())),
          log_p_(x_ + n_),
          y_(log_p_ + n_),
          by_(y_ + n_),
          total_(by_ + n_),
          fine_(static_cast<std::size_t>(rows), 1),
          losses_(static_cast<std::size_t>(rows), 0.0) {}

    std::vector<double> run() {
      const SoftTargetOptions& options = all_.call_.options();
      const double soft = options.alpha;
      const double hard = 1.0 - soft;
      // Beyond these, float has no quotients that mean anything.
      const bool moderate = options.temperature >= 0x1p-100 && options.temperature <= 0x1p100;
      if (!moderate) {
        std::ranges::fill(fine_, std::uint8_t{0});
      } else {
        const bool once = options.temperature == 1.0 || soft == 0.0;
        std::fill_n(total_, n_, 0.0f);
        if (soft > 0.0) {
          load(1.0 / options.temperature);
          teacher_term(soft);
          if (hard > 0.0 && once) labels_term(hard);
          add();
        }
        if (hard > 0.0 && (!once || soft == 0.0)) {
          load(1.0);
          std::fill_n(by_, n_, 0.0f);
          labels_term(hard);
          add();
        }
      }
      finish();
      return losses_;
    }

   private:
    [[nodiscard]] const float* student(std::int64_t row) const {
      return all_.student_ + (first_ + row) * classes_;
    }
    [[nodiscard]] const float* teacher(std::int64_t row) const {
      return all_.teacher_ + (first_ + row) * classes_;
    }

    // The student's logits times `factor`, and the logarithms of their probabilities.
    void load(double factor) {
      for (std::int64_t r = 0; r < rows_; ++r) {
        if (!scaled(student(r), classes_, static_cast<float>(factor), x_ + r * classes_)) {
          fine_[static_cast<std::size_t>(r)] = 0;
        }
      }
      kernels::onednn::log_softmax_f32(rows_, classes_, x_, log_p_);
    }

    // loss = alpha T^2 sum q (log q - log p); by log p, times 1 / T for logits not yet divided,
    // that is -alpha T q.
    void teacher_term(double alpha) {
      const double temperature = all_.call_.options().temperature;
      for (std::int64_t r = 0; r < rows_; ++r) {
        if (!scaled(teacher(r), classes_, static_cast<float>(1.0 / temperature),
                    y_ + r * classes_)) {
          fine_[static_cast<std::size_t>(r)] = 0;
        }
      }
      kernels::onednn::softmax_f32(rows_, classes_, y_, by_);
      kernels::onednn::log_softmax_f32(rows_, classes_, y_, y_);
      const auto weight = static_cast<float>(-alpha * temperature / all_.call_.divisor());
      for (std::int64_t r = 0; r < rows_; ++r) {
        float* const q = by_ + r * classes_;
        const float* const log_q = y_ + r * classes_;
        const float* const log_p = log_p_ + r * classes_;
        const double divergence = sum_over(classes_, [&](std::int64_t j) {
          return static_cast<double>(q[j]) * static_cast<double>(log_q[j] - log_p[j]);
        });
        losses_[static_cast<std::size_t>(r)] += alpha * temperature * temperature * divergence;
        for (std::int64_t j = 0; j < classes_; ++j) q[j] *= weight;
      }
    }

    // loss = -(1 - alpha) sum target log p, added to the gradient by log p.
    void labels_term(double hard) {
      const double eps = all_.call_.options().label_smoothing;
      const double share = eps / static_cast<double>(classes_);
      const double weight = -hard / all_.call_.divisor();
      for (std::int64_t r = 0; r < rows_; ++r) {
        if (all_.call_.ignored(first_ + r)) continue;
        const std::int64_t label = all_.call_.label(first_ + r);
        const float* const log_p = log_p_ + r * classes_;
        float* const by = by_ + r * classes_;
        double entropy = -(1.0 - eps) * static_cast<double>(log_p[label]);
        if (eps > 0.0) {
          entropy -= share * sum_over(classes_, [&](std::int64_t j) {
                       return static_cast<double>(log_p[j]);
                     });
          const auto even = static_cast<float>(weight * share);
          for (std::int64_t j = 0; j < classes_; ++j) by[j] += even;
        }
        by[label] += static_cast<float>(weight * (1.0 - eps));
        losses_[static_cast<std::size_t>(r)] += hard * entropy;
      }
    }

    void add() {
      to_logits(how_, rows_, classes_, log_p_, x_, by_);
      for (std::int64_t i = 0; i < n_; ++i) total_[i] += by_[i];
    }

    // The student may be where the gradient goes: its row is read before it is written.
    void finish() {
      const SoftTargetCall& call = all_.call_;
      for (std::int64_t r = 0; r < rows_; ++r) {
        float* const to = all_.grad_ + (first_ + r) * classes_;
        double& loss = losses_[static_cast<std::size_t>(r)];
        if (call.ignored(first_ + r)) {
          std::fill_n(to, classes_, 0.0f);
          loss = 0.0;
        } else if (fine_[static_cast<std::size_t>(r)] != 0 && std::isfinite(loss)) {
          std::copy_n(total_ + r * classes_, classes_, to);
        } else {
          const float* const from = call.options().alpha > 0.0 ? teacher(r) : nullptr;
          loss = call.careful_row(student(r), from, call.label(first_ + r), to);
        }
      }
    }

    const Blocks& all_;
    Gradient how_;
    std::int64_t first_;
    std::int64_t rows_;
    std::int64_t classes_;
    std::int64_t n_;
    PoolBuffer memory_;
    float* x_;
    float* log_p_;
    float* y_;
    float* by_;
    float* total_;
    std::vector<std::uint8_t> fine_;
    std::vector<double> losses_;
  };

  SoftTargetCall call_;
  const char* where_;
  const float* student_;
  const float* teacher_;
  float* grad_;
  std::int64_t classes_;
  std::int64_t rows_;
};

}  // namespace

Gradient faster_gradient(std::int64_t rows, std::int64_t classes) {
  return kernels::onednn::has_softmax_gradient_f32(rows, classes) ? Gradient::primitive
                                                                  : Gradient::plain;
}

void to_logits(Gradient how, std::int64_t rows, std::int64_t classes, const float* log_p, float* x,
               float* grad) {
  if (how == Gradient::primitive) {
    kernels::onednn::log_softmax_gradient_f32(rows, classes, log_p, grad);
    return;
  }
  kernels::onednn::softmax_f32(rows, classes, x, x);
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* const p = x + r * classes;
    float* const by = grad + r * classes;
    const auto sum = static_cast<float>(
        sum_over(classes, [&](std::int64_t j) { return static_cast<double>(by[j]); }));
    for (std::int64_t j = 0; j < classes; ++j) by[j] -= p[j] * sum;
  }
}

double soft_target_loss(const AnyView& student, const AnyView& teacher,
                        const std::optional<AnyView>& labels, const SoftTargetOptions& options,
                        const MutableAnyView& grad) {
  return Blocks(student, teacher, labels, options, grad, "distill.soft_target_loss").run(nullptr);
}

double soft_target_losses(const AnyView& student, const AnyView& teacher,
                          const std::optional<AnyView>& labels, const SoftTargetOptions& options,
                          const MutableAnyView& losses, const MutableAnyView& grad) {
  constexpr auto where = "distill.soft_target_losses";
  SoftTargetOptions each = options;
  each.reduction = Reduction::none;
  distill::check_losses(student, teacher, options.axis, losses, grad, where);
  check<UnsupportedError>((losses.dtype() == DType::float32 || losses.dtype() == DType::float64) &&
                              losses.is_contiguous(),
                          where, "backend onednn takes contiguous float32 or float64 losses",
                          name(losses.dtype()));
  return Blocks(student, teacher, labels, each, grad, where).run(&losses);
}

}  // namespace moptcore::inline v0::runtime

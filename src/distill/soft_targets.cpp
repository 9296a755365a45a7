// SPDX-License-Identifier: Apache-2.0
#include <moptcore/distill/soft_targets.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <moptcore/core/parallel.hpp>
#include <moptcore/core/pool.hpp>

#include "distill/dense.hpp"
#include "distill/soft_target_call.hpp"
#include "kernels/soft_targets.hpp"
#include "kernels/stream_copy.hpp"

namespace moptcore::inline v0::distill {
namespace {

bool row_kernel(const kernels::SoftTargetRow<float>& row, double& loss) {
  return kernels::soft_target_row_f32(row, loss);
}

bool row_kernel(const kernels::SoftTargetRow<double>& row, double& loss) {
  return kernels::soft_target_row_f64(row, loss);
}

// What is the same for every row of a call.
class Task {
 public:
  Task(const AnyView& student, const AnyView& teacher, const std::optional<AnyView>& labels,
       const SoftTargetOptions& options, const MutableAnyView& grad, const char* where)
      : call_(student, teacher, labels, options, grad, where),
        classes_(call_.classes()),
        student_(student, call_.axis()),
        teacher_(teacher, call_.axis()),
        grad_(grad, call_.axis()) {
    wide_ = student.dtype() == DType::float64 || teacher.dtype() == DType::float64;
    stream_ = byte_count(grad.dtype(), grad.size()) >= kernels::kStreamBytes;
  }

  [[nodiscard]] double run(const MutableAnyView* losses) const {
    return wide_ ? run_in<double>(losses) : run_in<float>(losses);
  }

 private:
  template <class T>
  [[nodiscard]] double run_in(const MutableAnyView* losses) const {
    const std::int64_t rows = student_.count();
    const std::int64_t grain = call_.grain();
    std::vector<double> sums(static_cast<std::size_t>(block_count(rows, grain)));
    parallel_blocks(rows, grain, [&](std::int64_t block, std::int64_t first, std::int64_t last) {
      Scratch<T> scratch(classes_);
      double sum = 0.0;
      for (std::int64_t r = first; r < last; ++r) {
        const double loss = row(r, scratch);
        sum += loss;
        if (losses != nullptr) kernels::store(&loss, r, 1, *losses);
      }
      sums[static_cast<std::size_t>(block)] = sum;
      if (stream_) kernels::stream_fence();
    });
    double total = 0.0;
    for (const double sum : sums) total += sum;
    return total / call_.divisor();
  }

  // Memory for one row: the kernel's, and converted copies of the inputs and the gradient.
  template <class T>
  struct Scratch {
    explicit Scratch(std::int64_t classes)
        : memory(pool_allocate(kernels::soft_target_scratch(classes) *
                               static_cast<std::int64_t>(sizeof(T)))),
          kernel(static_cast<T*>(memory.get())) {}

    PoolBuffer memory;
    T* kernel;
    std::vector<T> student;
    std::vector<T> teacher;
    std::vector<T> grad;
  };

  template <class T>
  const T* values(const Rows<AnyView>& rows, std::int64_t r, std::vector<T>& copy) const {
    if (const T* direct = rows.contiguous<T>(r)) return direct;
    copy.resize(static_cast<std::size_t>(classes_));
    kernels::load(rows[r], 0, classes_, copy.data());
    return copy.data();
  }

  template <class T>
  double row(std::int64_t r, Scratch<T>& scratch) const {
    T* const direct = grad_.contiguous<T>(r);
    if (direct == nullptr) scratch.grad.resize(static_cast<std::size_t>(classes_));
    T* const grad = direct != nullptr ? direct : scratch.grad.data();
    double loss = 0.0;
    if (call_.ignored(r)) {
      std::fill_n(grad, classes_, T(0));
    } else {
      const double alpha = call_.options().alpha;
      const double hard = 1.0 - alpha;
      const double temperature = call_.options().temperature;
      const double divisor = call_.divisor();
      const std::int64_t label = call_.label(r);
      const T* const student = values(student_, r, scratch.student);
      const T* const teacher = alpha > 0.0 ? values(teacher_, r, scratch.teacher) : nullptr;
      const bool done = row_kernel({.student = student,
                                    .teacher = teacher,
                                    .grad = grad,
                                    .scratch = scratch.kernel,
                                    .classes = classes_,
                                    .label = label,
                                    .temperature = temperature,
                                    .smoothing = call_.options().label_smoothing,
                                    .soft_loss = alpha * temperature * temperature,
                                    .hard_loss = hard,
                                    .soft_grad = alpha * temperature / divisor,
                                    .hard_grad = hard / divisor,
                                    .stream = stream_ && direct != nullptr},
                                   loss);
      if (!done) loss = call_.careful_row(student, teacher, label, grad);
    }
    if (direct == nullptr) kernels::store(grad, 0, classes_, grad_[r]);
    return loss;
  }

  SoftTargetCall call_;
  std::int64_t classes_;
  Rows<AnyView> student_;
  Rows<AnyView> teacher_;
  Rows<MutableAnyView> grad_;
  bool wide_ = false;
  bool stream_ = false;
};

// Replaces each row by its z-scores and returns the rows' deviations; 0 for a row of equal values,
// whose scores are 0.
std::vector<double> standardize(std::vector<double>& rows, std::int64_t classes) {
  const std::int64_t n = static_cast<std::int64_t>(rows.size()) / classes;
  std::vector<double> deviations(static_cast<std::size_t>(n));
  parallel_for(n, rows_a_block(classes), [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t r = first; r < last; ++r) {
      double* const x = rows.data() + r * classes;
      const double factor = to_unit(x, classes);
      const bool equal = std::all_of(x, x + classes, [&](double value) { return value == *x; });
      double sum = 0.0;
      for (std::int64_t c = 0; c < classes; ++c) sum += x[c];
      const double mean = sum / static_cast<double>(classes);
      double squares = 0.0;
      for (std::int64_t c = 0; c < classes; ++c) {
        x[c] -= mean;
        squares += x[c] * x[c];
      }
      const double deviation = equal && std::isfinite(mean)
                                   ? 0.0
                                   : std::sqrt(squares / static_cast<double>(classes - 1));
      for (std::int64_t c = 0; c < classes; ++c) x[c] = deviation == 0.0 ? 0.0 : x[c] / deviation;
      deviations[static_cast<std::size_t>(r)] = deviation / factor;
    }
  });
  return deviations;
}

// Turns the gradient by z-scores into that by the values they were made of, and adds `other`.
void unstandardize(const std::vector<double>& scores, const std::vector<double>& deviations,
                   std::int64_t classes, double weight, const std::vector<double>& other,
                   std::vector<double>& grad) {
  const auto n = static_cast<double>(classes);
  parallel_for(static_cast<std::int64_t>(deviations.size()), rows_a_block(classes),
               [&](std::int64_t first, std::int64_t last) {
                 for (std::int64_t r = first; r < last; ++r) {
                   const double deviation = deviations[static_cast<std::size_t>(r)];
                   const double* const z = scores.data() + r * classes;
                   double* const g = grad.data() + r * classes;
                   double sum = 0.0;
                   double along = 0.0;
                   for (std::int64_t c = 0; c < classes; ++c) {
                     sum += g[c];
                     along += g[c] * z[c];
                   }
                   for (std::int64_t c = 0; c < classes; ++c) {
                     const double step =
                         deviation == 0.0 ? 0.0
                                          : (g[c] - sum / n - z[c] * along / (n - 1.0)) / deviation;
                     g[c] = weight * step + other[static_cast<std::size_t>(r * classes + c)];
                   }
                 }
               });
}

// The teacher's term on z-scores and the labels' on the logits as they are.
double standardized(const AnyView& student, const AnyView& teacher,
                    const std::optional<AnyView>& labels, SoftTargetOptions options,
                    const MutableAnyView* losses, const MutableAnyView& grad, const char* where) {
  // Its checks are all that there are to make.
  (void)Task(student, teacher, labels, options, grad, where);
  const int axis = normalize_axis(options.axis, student.rank(), where);
  const std::int64_t classes = student.shape()[axis];
  const double alpha = labels ? options.alpha : 1.0;
  options.standardize = false;
  options.axis = -1;
  const AnyView logits = axis_last(student, axis);
  const Shape shape = logits.shape();
  const auto size = static_cast<std::size_t>(student.size());
  const std::size_t rows = size / static_cast<std::size_t>(classes);
  std::vector<double> by_labels(size);
  std::vector<double> label_losses(rows);
  double loss = 0.0;
  const auto view = [&](std::vector<double>& values) {
    return MutableAnyView(values.data(), DType::float64, shape);
  };
  const auto one_term = [&](const AnyView& s, const AnyView& t, double weight,
                            std::vector<double>& each, std::vector<double>& by) {
    SoftTargetOptions term = options;
    term.alpha = weight;
    const MutableAnyView to(each.data(), DType::float64, without_axis(student.shape(), axis));
    return Task(s, t, labels, term, view(by), where).run(&to);
  };
  if (alpha < 1.0) {
    loss += (1.0 - alpha) * one_term(logits, logits, 0.0, label_losses, by_labels);
    for (double& value : by_labels) value *= 1.0 - alpha;
    for (double& value : label_losses) value *= 1.0 - alpha;
  }
  std::vector<double> by(size);
  if (alpha > 0.0) {
    std::vector<double> s = load_all(logits);
    std::vector<double> t = load_all(axis_last(teacher, axis));
    const std::vector<double> deviations = standardize(s, classes);
    standardize(t, classes);
    std::vector<double> teacher_losses(rows);
    loss += alpha * one_term(view(s), view(t), 1.0, teacher_losses, by);
    unstandardize(s, deviations, classes, alpha, by_labels, by);
    for (std::size_t r = 0; r < rows; ++r) label_losses[r] += alpha * teacher_losses[r];
  } else {
    by = by_labels;
  }
  store_all(by, axis_last(grad, axis));
  if (losses != nullptr) store_all(label_losses, *losses);
  return loss;
}

double whole(const AnyView& student, const AnyView& teacher, const std::optional<AnyView>& labels,
             const SoftTargetOptions& options, const MutableAnyView* losses,
             const MutableAnyView& grad, const char* where) {
  if (options.standardize) {
    return standardized(student, teacher, labels, options, losses, grad, where);
  }
  return Task(student, teacher, labels, options, grad, where).run(losses);
}

double masked(const AnyView& student, const AnyView& teacher, const std::optional<AnyView>& labels,
              const SoftTargetOptions& options, const AnyView& mask, const MutableAnyView* losses,
              const MutableAnyView& grad, const char* where) {
  check_pair(student, teacher, grad, where);
  check_same_shape(student, teacher, where);
  const int axis = normalize_axis(options.axis, student.rank(), where);
  const Shape shape = without_axis(student.shape(), axis);
  const KeptRows rows(mask, shape, where);
  const MutableAnyView to = axis_last(grad, axis);
  auto s = rows.pack(axis_last(student, axis));
  auto t = rows.pack(axis_last(teacher, axis));
  auto g = rows.empty(to);
  SoftTargetOptions last = options;
  last.axis = -1;
  std::optional<KeptRows::Copy> y;
  std::optional<AnyView> kept_labels;
  if (labels) {
    check(labels->shape() == shape, where,
          "labels must have the student's shape without the class axis, " + shape_text(shape),
          labels->shape());
    check<DTypeError>(!is_packed(labels->dtype()), where, "labels must have an integer dtype",
                      name(labels->dtype()));
    y = rows.pack(*labels);
    kept_labels = y->flat();
  }
  double loss = 0.0;
  if (losses == nullptr) {
    loss = whole(s.view(), t.view(), kept_labels, last, nullptr, g.view(), where);
  } else {
    auto each = rows.empty(*losses);
    const MutableAnyView flat = each.flat();
    loss = whole(s.view(), t.view(), kept_labels, last, &flat, g.view(), where);
    rows.spread(each, *losses);
  }
  rows.spread(g, to);
  return loss;
}

}  // namespace

double soft_target_loss(const AnyView& student, const AnyView& teacher,
                        const std::optional<AnyView>& labels, const SoftTargetOptions& options,
                        const MutableAnyView& grad, const std::optional<AnyView>& mask) {
  constexpr auto where = "distill.soft_target_loss";
  if (mask) return masked(student, teacher, labels, options, *mask, nullptr, grad, where);
  return whole(student, teacher, labels, options, nullptr, grad, where);
}

double soft_target_losses(const AnyView& student, const AnyView& teacher,
                          const std::optional<AnyView>& labels, const SoftTargetOptions& options,
                          const MutableAnyView& losses, const MutableAnyView& grad,
                          const std::optional<AnyView>& mask) {
  constexpr auto where = "distill.soft_target_losses";
  SoftTargetOptions each = options;
  each.reduction = Reduction::none;
  check_losses(student, teacher, options.axis, losses, grad, where);
  if (mask) return masked(student, teacher, labels, each, *mask, &losses, grad, where);
  return whole(student, teacher, labels, each, &losses, grad, where);
}

}  // namespace moptcore::inline v0::distill

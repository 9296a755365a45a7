// SPDX-License-Identifier: Apache-2.0
#include <moptcore/distill/soft_targets.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <moptcore/core/parallel.hpp>
#include <moptcore/core/pool.hpp>

#include "distill/rows.hpp"
#include "kernels/soft_targets.hpp"

namespace moptcore::inline v0::distill {
namespace {

// Logits a block of rows holds about: some microseconds of work.
constexpr std::int64_t kGrain = 16384;

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
      : options_(options),
        axis_(normalize_axis(options.axis, student.rank(), where)),
        classes_(student.shape()[axis_]),
        student_(student, axis_),
        teacher_(teacher, axis_),
        grad_(grad, axis_) {
    check_options(where);
    check_tensors(student, teacher, grad, where);
    if (labels) {
      read_labels(*labels, without_axis(student.shape(), axis_), grad, where);
    } else {
      options_.alpha = 1.0;
      counted_ = student_.count();
    }
    const bool mean = options_.reduction == Reduction::batchmean && counted_ > 0;
    divisor_ = mean ? static_cast<double>(counted_) : 1.0;
    wide_ = student.dtype() == DType::float64 || teacher.dtype() == DType::float64;
  }

  [[nodiscard]] double run(const MutableAnyView* losses) const {
    return wide_ ? run_in<double>(losses) : run_in<float>(losses);
  }

 private:
  void check_options(const char* where) const {
    const auto& o = options_;
    check(o.temperature > 0.0 && std::isfinite(o.temperature), where,
          "temperature must be > 0 and finite", o.temperature);
    check(o.alpha >= 0.0 && o.alpha <= 1.0, where, "alpha must be in [0, 1]", o.alpha);
    check(o.label_smoothing >= 0.0 && o.label_smoothing <= 1.0, where,
          "label_smoothing must be in [0, 1]", o.label_smoothing);
  }

  void check_tensors(const AnyView& student, const AnyView& teacher, const MutableAnyView& grad,
                     const char* where) const {
    check<DTypeError>(is_floating(student.dtype()), where,
                      "student must be float64, float32, float16 or bfloat16",
                      name(student.dtype()));
    check<DTypeError>(is_floating(teacher.dtype()), where,
                      "teacher must be float64, float32, float16 or bfloat16",
                      name(teacher.dtype()));
    check(teacher.shape() == student.shape(), where,
          "teacher must have the student's shape " + text(student.shape()), teacher.shape());
    check(classes_ > 0, where, "student must have at least one class", student.shape());
    check<DTypeError>(grad.dtype() == student.dtype(), where,
                      "out must have the student's dtype " + std::string(name(student.dtype())),
                      name(grad.dtype()));
    check(grad.shape() == student.shape(), where,
          "out must have the student's shape " + text(student.shape()), grad.shape());
    check_no_partial_overlap(student, grad, where, "out");
    check_no_partial_overlap(teacher, grad, where, "out");
  }

  void read_labels(const AnyView& labels, const Shape& rows, const MutableAnyView& grad,
                   const char* where) {
    check<DTypeError>(!is_floating(labels.dtype()) && labels.dtype() != DType::boolean &&
                          !is_packed(labels.dtype()),
                      where, "labels must have an integer dtype", name(labels.dtype()));
    check(labels.shape() == rows, where,
          "labels must have the student's shape without the class axis, " + text(rows),
          labels.shape());
    check_no_partial_overlap(labels, grad, where, "out");
    labels_.resize(static_cast<std::size_t>(labels.size()));
    load_labels(labels);
    for (std::size_t row = 0; row < labels_.size(); ++row) {
      const std::int64_t label = labels_[row];
      if (label == options_.ignore_index) continue;
      if (label < 0 || label >= classes_) [[unlikely]] {
        check(false, where,
              "labels must be in [0, " + std::to_string(classes_) + ") or ignore_index (" +
                  std::to_string(options_.ignore_index) + ")",
              std::to_string(label) + " at row " + std::to_string(row));
      }
      ++counted_;
    }
  }

  void load_labels(const AnyView& labels) {
    const std::int64_t n = labels.size();
    const auto copy = [&]<class T>() {
      std::vector<T> values(static_cast<std::size_t>(n));
      kernels::gather(labels, 0, n, values.data());
      for (std::int64_t i = 0; i < n; ++i) {
        const T value = values[static_cast<std::size_t>(i)];
        constexpr auto kMost = std::numeric_limits<std::int64_t>::max();
        labels_[static_cast<std::size_t>(i)] =
            std::cmp_greater(value, kMost) ? kMost : static_cast<std::int64_t>(value);
      }
    };
    switch (labels.dtype()) {
      case DType::int32: return copy.operator()<std::int32_t>();
      case DType::int16: return copy.operator()<std::int16_t>();
      case DType::int8: return copy.operator()<std::int8_t>();
      case DType::uint32: return copy.operator()<std::uint32_t>();
      case DType::uint16: return copy.operator()<std::uint16_t>();
      case DType::uint8: return copy.operator()<std::uint8_t>();
      case DType::uint64: return copy.operator()<std::uint64_t>();
      default: return kernels::gather(labels, 0, n, labels_.data());
    }
  }

  static std::string text(const Shape& shape) {
    std::ostringstream out;
    out << shape;
    return out.str();
  }

  template <class T>
  [[nodiscard]] double run_in(const MutableAnyView* losses) const {
    const std::int64_t rows = student_.count();
    const std::int64_t grain = std::max<std::int64_t>(1, kGrain / classes_);
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
    });
    double total = 0.0;
    for (const double sum : sums) total += sum;
    return total / divisor_;
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
    const std::int64_t label = labels_.empty() ? 0 : labels_[static_cast<std::size_t>(r)];
    if (!labels_.empty() && label == options_.ignore_index) {
      std::fill_n(grad, classes_, T(0));
    } else {
      const double alpha = options_.alpha;
      const double hard = 1.0 - alpha;
      const double temperature = options_.temperature;
      const T* const student = values(student_, r, scratch.student);
      const T* const teacher = alpha > 0.0 ? values(teacher_, r, scratch.teacher) : nullptr;
      const bool done = row_kernel({.student = student,
                                    .teacher = teacher,
                                    .grad = grad,
                                    .scratch = scratch.kernel,
                                    .classes = classes_,
                                    .label = label,
                                    .temperature = temperature,
                                    .smoothing = options_.label_smoothing,
                                    .soft_loss = alpha * temperature * temperature,
                                    .hard_loss = hard,
                                    .soft_grad = alpha * temperature / divisor_,
                                    .hard_grad = hard / divisor_},
                                   loss);
      if (!done) loss = careful_row(student, teacher, label, grad);
    }
    if (direct == nullptr) kernels::store(grad, 0, classes_, grad_[r]);
    return loss;
  }

  template <class T>
  double careful_row(const T* student, const T* teacher, std::int64_t label, T* grad) const {
    const std::vector<double> s(student, student + classes_);
    const std::vector<double> t = teacher == nullptr
                                      ? std::vector<double>()
                                      : std::vector<double>(teacher, teacher + classes_);
    std::vector<double> g(s.size());
    const double loss = soft_target_row(s, t, label, options_, 1.0 / divisor_, g);
    for (std::size_t j = 0; j < g.size(); ++j) grad[j] = static_cast<T>(g[j]);
    return loss;
  }

  SoftTargetOptions options_;
  int axis_;
  std::int64_t classes_;
  Rows<AnyView> student_;
  Rows<AnyView> teacher_;
  Rows<MutableAnyView> grad_;
  std::vector<std::int64_t> labels_;
  std::int64_t counted_ = 0;
  double divisor_ = 1.0;
  bool wide_ = false;
};

}  // namespace

double soft_target_loss(const AnyView& student, const AnyView& teacher,
                        const std::optional<AnyView>& labels, const SoftTargetOptions& options,
                        const MutableAnyView& grad) {
  return Task(student, teacher, labels, options, grad, "distill.soft_target_loss").run(nullptr);
}

double soft_target_losses(const AnyView& student, const AnyView& teacher,
                          const std::optional<AnyView>& labels, const SoftTargetOptions& options,
                          const MutableAnyView& losses, const MutableAnyView& grad) {
  constexpr auto where = "distill.soft_target_losses";
  SoftTargetOptions each = options;
  each.reduction = Reduction::none;
  const Task task(student, teacher, labels, each, grad, where);
  const Shape rows =
      without_axis(student.shape(), normalize_axis(options.axis, student.rank(), where));
  check<DTypeError>(is_floating(losses.dtype()), where,
                    "losses must be float64, float32, float16 or bfloat16", name(losses.dtype()));
  check(losses.shape() == rows, where,
        "losses must have the student's shape without the class axis", losses.shape());
  check_no_partial_overlap(student, losses, where, "losses");
  check_no_partial_overlap(teacher, losses, where, "losses");
  check_no_partial_overlap(grad, losses, where, "losses");
  return task.run(&losses);
}

}  // namespace moptcore::inline v0::distill

// SPDX-License-Identifier: Apache-2.0
// What a call of soft_target_loss asks for, whoever computes it: the checks of its arguments, the
// labels, the divisor, and rows in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <moptcore/core/copy.hpp>
#include <moptcore/core/tensor_view.hpp>
#include <moptcore/distill/soft_targets.hpp>

#include "distill/kept_rows.hpp"

namespace moptcore::inline v0::distill {

/// Logits that a block of rows holds about: some microseconds of work.
inline constexpr std::int64_t kSoftTargetGrain = 16384;

/// What the losses of the rows must be, beside what SoftTargetCall checks.
inline void check_losses(const AnyView& student, const AnyView& teacher, std::int64_t axis,
                         const MutableAnyView& losses, const MutableAnyView& grad,
                         const char* where) {
  const Shape rows = without_axis(student.shape(), normalize_axis(axis, student.rank(), where));
  check<DTypeError>(is_floating(losses.dtype()), where,
                    "losses must be float64, float32, float16 or bfloat16", name(losses.dtype()));
  check(losses.shape() == rows, where,
        "losses must have the student's shape without the class axis", losses.shape());
  check_no_partial_overlap(student, losses, where, "losses");
  check_no_partial_overlap(teacher, losses, where, "losses");
  check_no_partial_overlap(grad, losses, where, "losses");
}

/// What is the same for every row of a call.
class SoftTargetCall {
 public:
  SoftTargetCall(const AnyView& student, const AnyView& teacher,
                 const std::optional<AnyView>& labels, const SoftTargetOptions& options,
                 const MutableAnyView& grad, const char* where)
      : options_(options),
        axis_(normalize_axis(options.axis, student.rank(), where)),
        classes_(student.shape()[axis_]) {
    check_options(where);
    check_tensors(student, teacher, grad, where);
    const Shape rows = without_axis(student.shape(), axis_);
    if (labels) {
      read_labels(*labels, rows, grad, where);
    } else {
      options_.alpha = 1.0;
      counted_ = element_count(rows);
    }
    const bool mean = options_.reduction == Reduction::batchmean && counted_ > 0;
    divisor_ = mean ? static_cast<double>(counted_) : 1.0;
  }

  /// The options, with alpha 1 where there are no labels.
  [[nodiscard]] const SoftTargetOptions& options() const noexcept { return options_; }
  [[nodiscard]] int axis() const noexcept { return axis_; }
  [[nodiscard]] std::int64_t classes() const noexcept { return classes_; }
  [[nodiscard]] double divisor() const noexcept { return divisor_; }
  [[nodiscard]] std::int64_t grain() const noexcept {
    return std::max<std::int64_t>(1, kSoftTargetGrain / classes_);
  }

  /// The label of a row that is not ignored, 0 without labels.
  [[nodiscard]] std::int64_t label(std::int64_t row) const noexcept {
    return labels_.empty() ? 0 : labels_[static_cast<std::size_t>(row)];
  }
  [[nodiscard]] bool ignored(std::int64_t row) const noexcept {
    return !labels_.empty() && label(row) == options_.ignore_index;
  }

  /// soft_target_row of one row, which may hold anything. Without a teacher, null, alpha is 0.
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
          "teacher must have the student's shape " + shape_text(student.shape()), teacher.shape());
    check(classes_ > 0, where, "student must have at least one class", student.shape());
    check<DTypeError>(grad.dtype() == student.dtype(), where,
                      "out must have the student's dtype " + std::string(name(student.dtype())),
                      name(grad.dtype()));
    check(grad.shape() == student.shape(), where,
          "out must have the student's shape " + shape_text(student.shape()), grad.shape());
    check_no_partial_overlap(student, grad, where, "out");
    check_no_partial_overlap(teacher, grad, where, "out");
  }

  void read_labels(const AnyView& labels, const Shape& rows, const MutableAnyView& grad,
                   const char* where) {
    check<DTypeError>(!is_floating(labels.dtype()) && labels.dtype() != DType::boolean &&
                          !is_packed(labels.dtype()),
                      where, "labels must have an integer dtype", name(labels.dtype()));
    check(labels.shape() == rows, where,
          "labels must have the student's shape without the class axis, " + shape_text(rows),
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
      copy_elements(labels, MutableAnyView(values.data(), dtype_of<T>(), labels.shape()));
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
      default:
        return copy_elements(labels, MutableAnyView(labels_.data(), DType::int64, labels.shape()));
    }
  }

  SoftTargetOptions options_;
  int axis_;
  std::int64_t classes_;
  std::vector<std::int64_t> labels_;
  std::int64_t counted_ = 0;
  double divisor_ = 1.0;
};

}  // namespace moptcore::inline v0::distill

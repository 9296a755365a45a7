// SPDX-License-Identifier: Apache-2.0
// Hinton's distillation loss with its gradient. With softened probabilities
//   p = softmax(student / T), q = softmax(teacher / T)
// and the smoothed target y = (1 - eps) onehot(label) + eps / classes, one row has
//   loss = alpha T^2 sum_j q_j (log q_j - log p_j) - (1 - alpha) sum_j y_j log softmax(student)_j
//   grad = alpha T (p - q) + (1 - alpha) (softmax(student) - y).
// With standardized logits p and q come from z = (x - mean(x)) / std(x) instead, of n - 1 degrees
// of freedom over the row, and d z_j / d x_i = (delta_ij - 1 / n - z_i z_j / (n - 1)) / std(x).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>

#include <moptcore/core/export.hpp>
#include <moptcore/core/tensor_view.hpp>

namespace moptcore::inline v0::distill {

/// How the losses of the rows become one number.
enum class Reduction : std::uint8_t {
  batchmean,  ///< their sum divided by the rows that are not ignored
  sum,
  none,  ///< one loss a row; the gradient is that of their sum
};

struct SoftTargetOptions {
  double temperature = 4.0;          ///< > 0 and finite
  double alpha = 0.7;                ///< weight of the teacher in [0, 1]; the labels have 1 - alpha
  std::int64_t axis = -1;            ///< the axis of the classes
  double label_smoothing = 0.0;      ///< eps in [0, 1]
  std::int64_t ignore_index = -100;  ///< rows with this label count nowhere
  Reduction reduction = Reduction::batchmean;
  bool standardize = false;  ///< z-scores of the logits in the teacher's term, not in the labels'
};

namespace detail {

// log(sum exp(x / temperature)) and the largest x, in a stable way.
struct LogSum {
  double largest;
  double log_sum;  // of exp((x - largest) / temperature)
};

inline LogSum log_sum(std::span<const double> x, double temperature) noexcept {
  double largest = -std::numeric_limits<double>::infinity();
  for (const double value : x) {
    if (!(value <= largest)) largest = value;  // NaN stays
    if (std::isnan(value)) break;
  }
  double sum = 0.0;
  for (const double value : x) sum += std::exp((value - largest) / temperature);
  return {largest, std::log(sum)};
}

}  // namespace detail

/// The loss of one row, and its gradient times `scale` in `grad`: the mathematics above in double.
/// A term of weight 0 is not evaluated (alpha = 0 never reads the teacher, which may be empty);
/// `label` is read where alpha < 1. A logit of -infinity is a class of probability 0, with
/// 0 log 0 = 0; NaN, +infinity or a row of nothing but -infinity make the row NaN.
inline double soft_target_row(std::span<const double> student, std::span<const double> teacher,
                              std::int64_t label, const SoftTargetOptions& options, double scale,
                              std::span<double> grad) noexcept {
  const double temperature = options.temperature;
  const double hard = 1.0 - options.alpha;
  const double eps = options.label_smoothing;
  const auto classes = static_cast<double>(student.size());
  double loss = 0.0;
  std::ranges::fill(grad, 0.0);
  if (options.alpha > 0.0) {
    const auto s = detail::log_sum(student, temperature);
    const auto t = detail::log_sum(teacher, temperature);
    double divergence = 0.0;
    for (std::size_t j = 0; j < student.size(); ++j) {
      const double log_p = (student[j] - s.largest) / temperature - s.log_sum;
      const double log_q = (teacher[j] - t.largest) / temperature - t.log_sum;
      const double q = std::exp(log_q);
      if (q != 0.0) divergence += q * (log_q - log_p);
      grad[j] += scale * options.alpha * temperature * (std::exp(log_p) - q);
    }
    loss += options.alpha * temperature * temperature * divergence;
  }
  if (hard > 0.0) {
    const auto s = detail::log_sum(student, 1.0);
    double entropy = 0.0;
    for (std::size_t j = 0; j < student.size(); ++j) {
      const double log_p = student[j] - s.largest - s.log_sum;
      const double target =
          eps / classes + (static_cast<std::int64_t>(j) == label ? 1.0 - eps : 0.0);
      if (target != 0.0) entropy -= target * log_p;
      grad[j] += scale * hard * (std::exp(log_p) - target);
    }
    loss += hard * entropy;
  }
  return loss;
}

/// The loss over all rows, and its gradient by the student's logits in `grad`.
///
/// Rows are all axes but `options.axis`; `labels` has their shape and an integer dtype. Without
/// labels alpha is 1 and no row is ignored. Rows with ignore_index have gradient 0; if no row is
/// left, the loss is 0. NaN and infinities: see soft_target_row. `grad` has the student's dtype
/// and shape and may be the student itself. Float rows are computed in float and summed in double
/// (double if either input is float64), with three rows of scratch a thread; equal bits at any
/// number of threads. Reduction::none returns the sum; see soft_target_losses for the rows.
/// `mask`, bool in the rows' shape, tells the rows that count: the others are not read, their
/// labels neither, and have gradient 0.
///
/// options.standardize: Sun, Ren, Li, Wang and Cao, "Logit standardization in knowledge
/// distillation", arXiv:2403.01427. Computed in double with four times the logits in memory. A row
/// of equal logits has z = 0 and gradient 0; -inf has no z-score and makes its row NaN.
MOPTCORE_API double soft_target_loss(const AnyView& student, const AnyView& teacher,
                                     const std::optional<AnyView>& labels,
                                     const SoftTargetOptions& options, const MutableAnyView& grad,
                                     const std::optional<AnyView>& mask = std::nullopt);

/// The same with reduction none: `losses`, of the rows' shape and a floating dtype, receives the
/// loss of each row (0 for ignored rows). options.reduction is not read. Returns their sum.
MOPTCORE_API double soft_target_losses(const AnyView& student, const AnyView& teacher,
                                       const std::optional<AnyView>& labels,
                                       const SoftTargetOptions& options,
                                       const MutableAnyView& losses, const MutableAnyView& grad,
                                       const std::optional<AnyView>& mask = std::nullopt);

}  // namespace moptcore::inline v0::distill

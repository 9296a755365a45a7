// SPDX-License-Identifier: Apache-2.0
#include <moptcore/distill/dist.hpp>

#include <limits>

#include "distill/dense.hpp"

namespace moptcore::inline v0::distill {
namespace {

constexpr auto kWhere = "distill.dist_loss";

// Rows of logits become rows of probabilities.
void soften(std::vector<double>& rows, std::int64_t classes, double temperature) {
  const auto n = static_cast<std::int64_t>(rows.size()) / classes;
  parallel_for(n, rows_a_block(classes), [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t r = first; r < last; ++r) {
      double* const x = rows.data() + r * classes;
      const double largest = *std::max_element(x, x + classes);
      double sum = 0.0;
      for (std::int64_t c = 0; c < classes; ++c) {
        x[c] = std::exp((x[c] - largest) / temperature);
        sum += x[c];
      }
      for (std::int64_t c = 0; c < classes; ++c) x[c] /= sum;
    }
  });
}

// Subtracts the mean of n values `stride` apart; their norm, 0 if what is left is rounding.
double centre(const double* from, std::int64_t n, std::int64_t stride, double* to) {
  double sum = 0.0;
  double largest = 0.0;
  for (std::int64_t i = 0; i < n; ++i) {
    sum += from[i * stride];
    largest = std::max(largest, std::abs(from[i * stride]));
  }
  const double mean = sum / static_cast<double>(n);
  double squares = 0.0;
  for (std::int64_t i = 0; i < n; ++i) {
    to[i] = from[i * stride] - mean;
    squares += to[i] * to[i];
  }
  const double norm = std::sqrt(squares);
  const double rounding = std::numeric_limits<double>::epsilon() * largest;
  return norm <= 8.0 * std::sqrt(static_cast<double>(n)) * rounding ? 0.0 : norm;
}

// 1 - r of two series, and `weight` times its slope added to `grad`.
double unlike(const double* p, const double* q, std::int64_t n, std::int64_t stride, double weight,
              std::vector<double>& a, std::vector<double>& b, double* grad) {
  const double p_norm = centre(p, n, stride, a.data());
  const double q_norm = centre(q, n, stride, b.data());
  if (p_norm == 0.0 || q_norm == 0.0) return 1.0;
  double dot = 0.0;
  for (std::int64_t i = 0; i < n; ++i) {
    a[static_cast<std::size_t>(i)] /= p_norm;
    b[static_cast<std::size_t>(i)] /= q_norm;
    dot += a[static_cast<std::size_t>(i)] * b[static_cast<std::size_t>(i)];
  }
  for (std::int64_t i = 0; i < n; ++i) {
    const auto at = static_cast<std::size_t>(i);
    grad[i * stride] -= weight * (b[at] - dot * a[at]) / p_norm;
  }
  return 1.0 - dot;
}

}  // namespace

double dist_loss(const AnyView& student, const AnyView& teacher, const DistOptions& options,
                 const std::optional<AnyView>& mask, const MutableAnyView& grad) {
  check_pair(student, teacher, grad, kWhere);
  check_same_shape(student, teacher, kWhere);
  check_weight(options.inter, "inter", kWhere);
  check_weight(options.intra, "intra", kWhere);
  check(options.temperature > 0.0 && std::isfinite(options.temperature), kWhere,
        "temperature must be > 0 and finite", options.temperature);
  const int axis = normalize_axis(options.axis, student.rank(), kWhere);
  const std::int64_t classes = student.shape()[axis];
  check(classes > 0, kWhere, "student must have at least one class", student.shape());
  const AnyView student_rows = axis_last(student, axis);
  const AnyView teacher_rows = axis_last(teacher, axis);
  const MutableAnyView grad_rows = axis_last(grad, axis);
  if (mask) {
    const KeptRows rows(*mask, without_axis(student.shape(), axis), kWhere);
    auto s = rows.pack(student_rows);
    auto t = rows.pack(teacher_rows);
    auto g = rows.empty(grad_rows);
    DistOptions last = options;
    last.axis = -1;
    const double loss =
        rows.count() == 0 ? 0.0 : dist_loss(s.view(), t.view(), last, std::nullopt, g.view());
    rows.spread(g, grad_rows);
    return loss;
  }
  std::vector<double> p = load_all(student_rows);
  std::vector<double> q = load_all(teacher_rows);
  const std::int64_t rows = student.size() / classes;
  if (rows == 0) return 0.0;
  soften(p, classes, options.temperature);
  soften(q, classes, options.temperature);
  std::vector<double> by(p.size());  // d loss / d p
  const double square = options.temperature * options.temperature;
  const auto add = [&](std::int64_t series, std::int64_t n, std::int64_t step, std::int64_t stride,
                       double weight) {
    if (weight == 0.0) return 0.0;
    const double each = weight * square / static_cast<double>(series);
    std::vector<double> losses(static_cast<std::size_t>(series));
    parallel_for(series, rows_a_block(n), [&](std::int64_t first, std::int64_t last) {
      std::vector<double> a(static_cast<std::size_t>(n));
      std::vector<double> b(static_cast<std::size_t>(n));
      for (std::int64_t i = first; i < last; ++i) {
        losses[static_cast<std::size_t>(i)] = unlike(p.data() + i * step, q.data() + i * step, n,
                                                     stride, each, a, b, by.data() + i * step);
      }
    });
    return sum_of(losses) * each;
  };
  double loss = add(rows, classes, classes, 1, options.inter);
  loss += add(classes, rows, 1, classes, options.intra);
  parallel_for(rows, rows_a_block(classes), [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t r = first; r < last; ++r) {
      double* const g = by.data() + r * classes;
      const double* const x = p.data() + r * classes;
      double along = 0.0;
      for (std::int64_t c = 0; c < classes; ++c) along += g[c] * x[c];
      for (std::int64_t c = 0; c < classes; ++c) g[c] = x[c] * (g[c] - along) / options.temperature;
    }
  });
  store_all(by, grad_rows);
  return loss;
}

}  // namespace moptcore::inline v0::distill

// SPDX-License-Identifier: Apache-2.0
#include <moptcore/distill/cosine.hpp>

#include "distill/dense.hpp"

namespace moptcore::inline v0::distill {
namespace {

constexpr auto kWhere = "distill.cosine_loss";

// Divides by the norm and returns what the row was divided by in all; 0 for zeros.
double normalize(std::vector<double>& row) {
  const double factor = to_unit(row.data(), static_cast<std::int64_t>(row.size()));
  double squares = 0.0;
  for (const double x : row) squares += x * x;
  const double norm = std::sqrt(squares);
  if (norm == 0.0) return 0.0;
  for (double& x : row) x /= norm;
  return norm / factor;
}

}  // namespace

double cosine_loss(const AnyView& student, const AnyView& teacher, std::int64_t axis,
                   const std::optional<AnyView>& mask, const MutableAnyView& grad) {
  check_pair(student, teacher, grad, kWhere);
  check_same_shape(student, teacher, kWhere);
  const int along = normalize_axis(axis, student.rank(), kWhere);
  const Shape outer = without_axis(student.shape(), along);
  const std::int64_t rows = element_count(outer);
  std::vector<std::uint8_t> kept;
  std::int64_t counted = rows;
  if (mask) {
    kept = mask_values(*mask, outer, kWhere);
    counted = std::count_if(kept.begin(), kept.end(), [](std::uint8_t k) { return k != 0; });
  }
  const Rows<AnyView> s(student, along);
  const Rows<AnyView> t(teacher, along);
  const Rows<MutableAnyView> g(grad, along);
  const std::int64_t width = student.shape()[along];
  const double divisor = counted == 0 ? 1.0 : static_cast<double>(counted);
  std::vector<double> losses(static_cast<std::size_t>(rows));
  parallel_for(rows, rows_a_block(width), [&](std::int64_t first, std::int64_t last) {
    std::vector<double> a(static_cast<std::size_t>(width));
    std::vector<double> b(a.size());
    std::vector<double> by(a.size());
    for (std::int64_t row = first; row < last; ++row) {
      std::fill(by.begin(), by.end(), 0.0);
      if (!mask || kept[static_cast<std::size_t>(row)] != 0) {
        kernels::load(s[row], 0, width, a.data());
        kernels::load(t[row], 0, width, b.data());
        const double norm = normalize(a);
        double cosine = 0.0;
        if (normalize(b) != 0.0 && norm != 0.0) {
          for (std::size_t i = 0; i < a.size(); ++i) cosine += a[i] * b[i];
          for (std::size_t i = 0; i < a.size(); ++i) {
            by[i] = (cosine * a[i] - b[i]) / norm / divisor;
          }
        }
        losses[static_cast<std::size_t>(row)] = 1.0 - cosine;
      }
      kernels::store(by.data(), 0, width, g[row]);
    }
  });
  return sum_of(losses) / divisor;
}

}  // namespace moptcore::inline v0::distill

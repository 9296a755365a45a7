// SPDX-License-Identifier: Apache-2.0
#include <moptcore/distill/similarity.hpp>

#include "distill/dense.hpp"
#include "distill/product.hpp"

namespace moptcore::inline v0::distill {
namespace {

constexpr auto kWhere = "distill.similarity_loss";

// Samples, and how alike they are: the rows of G, normalised.
struct Similarities {
  Similarities(const AnyView& view, std::int64_t samples)
      : n(samples),
        width(view.size() / samples),
        values(load_all(view)),
        alike(static_cast<std::size_t>(n * n)),
        norms(static_cast<std::size_t>(n)) {
    factor = to_unit(values.data(), view.size());
    gram(n, width, values.data(), alike.data());
    for (std::int64_t i = 0; i < n; ++i) {
      double* const row = alike.data() + i * n;
      double squares = 0.0;
      for (std::int64_t j = 0; j < n; ++j) squares += row[j] * row[j];
      const double norm = std::sqrt(squares);
      norms[static_cast<std::size_t>(i)] = norm;
      if (norm == 0.0) continue;
      for (std::int64_t j = 0; j < n; ++j) row[j] /= norm;
    }
  }

  std::int64_t n;
  std::int64_t width;
  std::vector<double> values;
  double factor = 1.0;
  std::vector<double> alike;
  std::vector<double> norms;
};

}  // namespace

double similarity_loss(const AnyView& student, const AnyView& teacher,
                       const std::optional<AnyView>& mask, const MutableAnyView& grad) {
  check_pair(student, teacher, grad, kWhere);
  check_same_samples(student, teacher, kWhere);
  if (mask) {
    const KeptRows rows(*mask, Shape{student.shape()[0]}, kWhere);
    auto s = rows.pack(student);
    auto t = rows.pack(teacher);
    auto g = rows.empty(grad);
    const double loss = similarity_loss(s.view(), t.view(), std::nullopt, g.view());
    rows.spread(g, grad);
    return loss;
  }
  const std::int64_t n = student.shape()[0];
  if (n == 0) return 0.0;
  const Similarities s(student, n);
  const Similarities t(teacher, n);
  const double divisor = static_cast<double>(n) * static_cast<double>(n);
  double loss = 0.0;
  std::vector<double> by_product(s.alike.size());  // d loss / d G
  for (std::int64_t i = 0; i < n; ++i) {
    const double* const row = s.alike.data() + i * n;
    const double* const other = t.alike.data() + i * n;
    double* const by = by_product.data() + i * n;
    double along = 0.0;
    for (std::int64_t j = 0; j < n; ++j) {
      const double difference = row[j] - other[j];
      loss += difference * difference;
      by[j] = 2.0 * difference / divisor;
      along += by[j] * row[j];
    }
    const double norm = s.norms[static_cast<std::size_t>(i)];
    for (std::int64_t j = 0; j < n; ++j) {
      by[j] = norm == 0.0 ? 0.0 : (by[j] - along * row[j]) / norm * s.factor;
    }
  }
  // Each sample is a row and a column of G.
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j <= i; ++j) {
      double& one = by_product[static_cast<std::size_t>(i * n + j)];
      double& other = by_product[static_cast<std::size_t>(j * n + i)];
      one = other = one + other;
    }
  }
  std::vector<double> values(s.values.size());
  product<double>(n, s.width, n, {by_product.data(), n, 1}, {s.values.data(), s.width, 1},
                  {values.data(), s.width, 1});
  store_all(values, grad);
  return loss / divisor;
}

}  // namespace moptcore::inline v0::distill

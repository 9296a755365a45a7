// SPDX-License-Identifier: Apache-2.0
#include <moptcore/distill/teachers.hpp>

#include "distill/dense.hpp"

namespace moptcore::inline v0::distill {

void average_teachers(std::span<const AnyView> teachers, std::span<const double> weights,
                      double temperature, std::int64_t axis, const MutableAnyView& out) {
  constexpr auto kWhere = "distill.average_teachers";
  check(!teachers.empty(), kWhere, "teachers must hold at least one, got none");
  check(weights.empty() || weights.size() == teachers.size(), kWhere,
        "weights must be one for each of the " + std::to_string(teachers.size()) + " teachers",
        weights.size());
  check(temperature > 0.0 && std::isfinite(temperature), kWhere,
        "temperature must be > 0 and finite", temperature);
  double total = 0.0;
  for (const double weight : weights) {
    check_weight(weight, "weights", kWhere);
    total += weight;
  }
  check(weights.empty() || (total > 0.0 && std::isfinite(total)), kWhere,
        "weights must have a sum > 0 and finite", total);
  for (const AnyView& teacher : teachers) {
    check_pair(teachers[0], teacher, out, kWhere);
    check(teacher.shape() == teachers[0].shape(), kWhere,
          "teachers must have one shape, the first's " + shape_text(teachers[0].shape()),
          teacher.shape());
  }
  const int along = normalize_axis(axis, out.rank(), kWhere);
  const std::int64_t classes = out.shape()[along];
  check(classes > 0, kWhere, "teachers must have at least one class", out.shape());
  std::vector<Rows<AnyView>> rows;
  rows.reserve(teachers.size());
  for (const AnyView& teacher : teachers) rows.emplace_back(teacher, along);
  const Rows<MutableAnyView> to(out, along);
  parallel_for(to.count(), rows_a_block(classes * static_cast<std::int64_t>(teachers.size())),
               [&](std::int64_t first, std::int64_t last) {
                 std::vector<double> x(static_cast<std::size_t>(classes));
                 std::vector<double> sum(x.size());
                 for (std::int64_t row = first; row < last; ++row) {
                   std::fill(sum.begin(), sum.end(), 0.0);
                   for (std::size_t k = 0; k < rows.size(); ++k) {
                     const double share = weights.empty() ? 1.0 / static_cast<double>(rows.size())
                                                          : weights[k] / total;
                     if (share == 0.0) continue;
                     kernels::load(rows[k][row], 0, classes, x.data());
                     const double largest = *std::max_element(x.begin(), x.end());
                     double norm = 0.0;
                     for (double& value : x) {
                       value = std::exp((value - largest) / temperature);
                       norm += value;
                     }
                     for (std::size_t c = 0; c < x.size(); ++c) sum[c] += share * (x[c] / norm);
                   }
                   for (double& value : sum) value = temperature * std::log(value);
                   kernels::store(sum.data(), 0, classes, to[row]);
                 }
               });
}

}  // namespace moptcore::inline v0::distill

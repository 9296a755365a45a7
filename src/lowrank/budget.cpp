// SPDX-License-Identifier: Apache-2.0
#include "lowrank/budget.hpp"

#include <algorithm>
#include <cmath>
#include <string>

namespace moptcore::inline v0::lowrank {

void check_budget(const Budget& budget, const char* where) {
  const int given =
      static_cast<int>(budget.rank.has_value()) + static_cast<int>(budget.energy.has_value()) +
      static_cast<int>(budget.params.has_value()) + static_cast<int>(budget.error.has_value());
  check(given == 1, where, "exactly one of rank, energy, params and error must be given", given);
  if (budget.rank) check(*budget.rank >= 1, where, "rank must be >= 1", *budget.rank);
  if (budget.energy) {
    check(*budget.energy > 0.0 && *budget.energy <= 1.0, where, "energy must be in (0, 1]",
          *budget.energy);
  }
  if (budget.params) {
    check(*budget.params > 0.0 && *budget.params < 1.0, where, "params must be in (0, 1)",
          *budget.params);
  }
  if (budget.error) {
    check(*budget.error >= 0.0 && *budget.error < 1.0, where, "error must be in [0, 1)",
          *budget.error);
  }
}

double allowed_loss(const Budget& budget) noexcept {
  return budget.energy ? 1.0 - *budget.energy : *budget.error * *budget.error;
}

std::optional<std::int64_t> rank_by_shape(const Budget& budget, std::int64_t m, std::int64_t n,
                                          const char* where) {
  if (budget.rank) {
    check_useful(*budget.rank, m, n, "rank", where);
    return budget.rank;
  }
  if (!budget.params) return std::nullopt;
  const double matrix = static_cast<double>(m) * static_cast<double>(n);
  const auto one = static_cast<double>(m + n);
  const auto rank = static_cast<std::int64_t>(std::floor(*budget.params * matrix / one));
  check(rank >= 1, where, "params must allow rank 1, at least " + std::to_string(one / matrix),
        *budget.params);
  // Rounding of the quotient must not pass the break-even point.
  return std::min({rank, m, n, std::max<std::int64_t>(largest_useful_rank(m, n), 1)});
}

std::optional<std::int64_t> rank_by_loss(std::span<const double> values, double rest,
                                         double allowed) noexcept {
  double loss = rest;
  if (!(loss <= allowed)) return std::nullopt;
  std::size_t rank = values.size();
  for (; rank > 1; --rank) {
    loss += values[rank - 1] * values[rank - 1];
    if (loss > allowed) break;
  }
  return static_cast<std::int64_t>(rank);
}

void check_useful(std::int64_t rank, std::int64_t m, std::int64_t n, const char* argument,
                  const char* where) {
  const std::int64_t most = largest_useful_rank(m, n);
  if (rank <= most) return;
  const std::string shape = std::to_string(m) + " x " + std::to_string(n);
  const std::string subject = std::string(argument) == "rank"
                                  ? "rank must be <= "
                                  : std::string(argument) + " must need a rank <= ";
  check(most >= 1, where, "w must be of a shape that a rank makes smaller", shape);
  check(false, where,
        subject + std::to_string(most) + ", the largest that makes " + shape + " smaller", rank);
}

}  // namespace moptcore::inline v0::lowrank

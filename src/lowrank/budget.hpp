// SPDX-License-Identifier: Apache-2.0
// The rank that a Budget means for one matrix.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include <moptcore/lowrank/rank.hpp>

namespace moptcore::inline v0::lowrank {

/// Throws unless exactly one field is set, and within its range.
void check_budget(const Budget& budget, const char* where);

/// The share of the squared norm that may be lost, for budgets of energy or error.
[[nodiscard]] double allowed_loss(const Budget& budget) noexcept;

/// The rank of an m x n matrix where it follows from the shape, so for budgets of rank and params.
/// Throws for one above largest_useful_rank.
[[nodiscard]] std::optional<std::int64_t> rank_by_shape(const Budget& budget, std::int64_t m,
                                                        std::int64_t n, const char* where);

/// The least r >= 1 with rest + values[r]^2 + values[r + 1]^2 + ... <= allowed; nullopt where all
/// values do not suffice.
[[nodiscard]] std::optional<std::int64_t> rank_by_loss(std::span<const double> values, double rest,
                                                       double allowed) noexcept;

/// Throws where the factors of rank r hold as much as the matrix.
void check_useful(std::int64_t rank, std::int64_t m, std::int64_t n, const char* argument,
                  const char* where);

}  // namespace moptcore::inline v0::lowrank

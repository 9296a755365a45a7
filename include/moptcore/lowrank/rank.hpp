// SPDX-License-Identifier: Apache-2.0
// How many terms a low-rank factorization keeps: of one matrix, and of several under one budget.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <moptcore/core/check.hpp>
#include <moptcore/core/export.hpp>

namespace moptcore::inline v0::lowrank {

/// What is kept of a tensor: exactly one of the four.
struct Budget {
  std::optional<std::int64_t> rank;  ///< number of terms, in [1, largest_useful_rank]
  std::optional<double> energy;      ///< least share of the squared norm to keep, in (0, 1]
  std::optional<double> params;      ///< most parameters, as a share of the tensor's, in (0, 1)
  std::optional<double> error;       ///< largest relative Frobenius error, in [0, 1)
};

/// The largest r with r (m + n) < m n: above it the factors of an m x n matrix hold as much as the
/// matrix itself. 0 where no rank makes it smaller.
[[nodiscard]] constexpr std::int64_t largest_useful_rank(std::int64_t m, std::int64_t n) noexcept {
  if (m <= 0 || n <= 0) return 0;
  __extension__ using Wide = unsigned __int128;  // the product need not fit 64 bits
  const Wide sum = static_cast<Wide>(m) + static_cast<Wide>(n);
  return static_cast<std::int64_t>((static_cast<Wide>(m) * static_cast<Wide>(n) - 1) / sum);
}

struct AllocateOptions {
  std::optional<double> params;  ///< most parameters, as a share of all tensors', in (0, 1]
  std::optional<double> error;   ///< largest error of all tensors together, in [0, 1)
  /// Weight of each tensor's loss, >= 0. allocate_ranks weighs squared errors, and takes 1 / the
  /// squared norm of each matrix where this is empty, so that the error is the root of the mean of
  /// the squared relative errors.
  std::vector<double> importance;
};

/// One way to hold a tensor.
struct Choice {
  std::int64_t parameters;  ///< >= 1
  double loss;              ///< the share of the squared norm that is lost, in [0, 1]
};

/// Which of its choices each tensor takes under one budget: exactly one of `params`, a share of all
/// `sizes` together, and `error`. std::nullopt keeps a tensor as it is, at its size and without
/// error. Choices come in any order; those with as many parameters as the tensor or more, or with
/// no less loss than a cheaper one, are never taken. An empty importance is 1 each.
///
/// The steps that buy most for a parameter are taken first, along the lower convex hull of each
/// tensor's parameters and losses (Everett, "Generalized Lagrange multiplier method", 1963);
/// choices between two corners are taken where the next corner does not fit. Throws Error where
/// the cheapest choices are above the budget.
[[nodiscard]] MOPTCORE_API std::vector<std::optional<std::size_t>> allocate_choices(
    const std::vector<std::vector<Choice>>& choices, const std::vector<std::int64_t>& sizes,
    const AllocateOptions& options);

/// Ranks of several m x n matrices, given all singular values of each in descending order, under
/// one budget: exactly one of params and error. std::nullopt keeps a matrix as it is, at m n
/// parameters and without error.
///
/// The steps that buy most energy for a parameter are taken first: steps of one matrix only get
/// worse (the convex hull of its rank, cost and error), so whenever the budget is used up the
/// result is the best of all allocations of that many parameters; otherwise it is less than
/// one step away. Everett, "Generalized Lagrange multiplier method", 1963. Throws Error where
/// rank 1 everywhere is above the budget.
[[nodiscard]] MOPTCORE_API std::vector<std::optional<std::int64_t>> allocate_ranks(
    const std::vector<std::vector<double>>& singular_values,
    const std::vector<std::pair<std::int64_t, std::int64_t>>& shapes,
    const AllocateOptions& options);

}  // namespace moptcore::inline v0::lowrank

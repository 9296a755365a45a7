// SPDX-License-Identifier: Apache-2.0
// A matrix as the product of two thin ones: w [m, n] ~ u [m, r] v [r, n]. Link moptcore::runtime.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <moptcore/core/export.hpp>
#include <moptcore/core/tensor_view.hpp>
#include <moptcore/lowrank/rank.hpp>

namespace moptcore::inline v0::lowrank {

enum class Method : std::uint8_t {
  svd,         ///< the truncated singular value decomposition: the optimum (Eckart and Young, 1936)
  randomized,  ///< a range found by random projection: Halko, Martinsson and Tropp, 2011
  krylov,      ///< the leading terms alone, to a tolerance: Musco and Musco, 2015
};

struct FactorizeOptions {
  Budget budget;
  Method method = Method::svd;
  std::uint64_t seed = 0;          ///< of the random projection
  std::int64_t oversampling = 16;  ///< directions beyond the rank in the projection, >= 0
  std::int64_t iterations = 4;     ///< power iterations of the projection, >= 0
  /// Of krylov: how far its error may be above the optimum, as a share, in [1e-6, 1]. What further
  /// steps would gain is extrapolated, not bounded. Ranks by energy or error, and matrices too
  /// small or too close to the rank for single precision, take the exact decomposition.
  double tolerance = 1e-4;
  /// X^T X [n, n] of the inputs X [samples, n] that the matrix will be multiplied with: the
  /// factors then minimise ||X (w - u v)^T||, not ||w - u v||. Symmetric, positive semidefinite.
  std::optional<AnyView> whiten;
};

/// The factors of a matrix, in double precision.
class MOPTCORE_API Factorization {
 public:
  [[nodiscard]] std::int64_t rows() const noexcept { return rows_; }
  [[nodiscard]] std::int64_t cols() const noexcept { return cols_; }
  [[nodiscard]] std::int64_t rank() const noexcept { return rank_; }

  /// ||w - u v|| / ||w||, or of their whitened forms where asked; to about 1e-8.
  [[nodiscard]] double relative_error() const noexcept { return relative_error_; }

  /// Writes u [rows, rank] and v [rank, cols], of any floating dtype and strides. Column i of u
  /// has the norm of row i of v; its entry of largest magnitude (the first of equals) is positive.
  void write(const MutableAnyView& u, const MutableAnyView& v) const;

 private:
  friend MOPTCORE_API Factorization factorize(const AnyView& w, const FactorizeOptions& options,
                                              const char* where);

  std::int64_t rows_ = 0;
  std::int64_t cols_ = 0;
  std::int64_t rank_ = 0;
  double relative_error_ = 0.0;
  std::vector<double> left_;   // rows x rank
  std::vector<double> right_;  // rank x cols
};

/// Factors of w, a matrix of a floating dtype.
///
/// Rank: the one asked for, or the least that keeps the energy or stays below the error, or the
/// largest within the parameters. Energy and error are those of the whitened matrix with `whiten`.
/// Throws NonFiniteError for NaN and infinities, Error where the rank is above
/// largest_useful_rank(m, n): the factors would be no smaller than w. Allocates a few copies of w
/// in double precision, and squares of the shorter side.
///
/// Whitened, the optimum is u v = A A^T w with A the leading left singular vectors of w L for any
/// L L^T = X^T X (Wang et al., "SVD-LLM", 2024, in a form that needs no inverse).
[[nodiscard]] MOPTCORE_API Factorization factorize(const AnyView& w,
                                                   const FactorizeOptions& options,
                                                   const char* where = "lowrank.factorize");

/// All min(m, n) singular values of w, or of its whitened form w L with L L^T = `whiten`, in
/// descending order. float64 to about 1e-15 of the largest, the narrower dtypes to about 1e-8.
[[nodiscard]] MOPTCORE_API std::vector<double> singular_values(
    const AnyView& w, const std::optional<AnyView>& whiten = std::nullopt);

}  // namespace moptcore::inline v0::lowrank

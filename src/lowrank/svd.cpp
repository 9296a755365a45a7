// SPDX-License-Identifier: Apache-2.0
#include <moptcore/lowrank/svd.hpp>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <utility>

#include <moptcore/core/parallel.hpp>
#include <moptcore/core/pool.hpp>

#include "kernels/norm.hpp"
#include "kernels/strided.hpp"
#include "lowrank/budget.hpp"
#include "lowrank/krylov.hpp"
#include "lowrank/matrix.hpp"

namespace moptcore::inline v0::lowrank {
namespace {

constexpr std::int64_t kGrain = 8192;  // elements that one thread looks at

// Orthonormal directions of one side of w, and how much of w each holds, descending.
struct Directions {
  Matrix<double> vectors;      // in the columns
  bool left = true;            // in the space of w's columns, else of its rows
  std::vector<double> values;  // singular values, of the whitened matrix where there is one
  double rest = 0.0;           // the squared norm outside of all of them
  Matrix<double> rows;         // vectors^T w, or vectors^T w^T, where it is already there
};

// w, and what whitens it, both scaled.
struct Problem {
  Matrix<double> w;
  std::optional<Matrix<double>> moment;
  bool is_double = false;
  double total = 0.0;  // the squared norm, whitened where asked
};

Matrix<double> matrix(const AnyView& view, Scaled scaled) {
  Matrix<double> result;
  result.rows = view.shape()[0];
  result.cols = view.shape()[1];
  result.values = std::move(scaled.values);
  return result;
}

void check_moment(Matrix<double>& moment, const char* where) {
  const std::int64_t n = moment.rows;
  // A sum of products in float16 or bfloat16 is symmetric to about three digits.
  constexpr double kAsymmetry = 1e-2;
  for (std::int64_t i = 0; i < n; ++i) {
    check(moment.row(i)[i] >= 0.0, where, "whiten must be positive semidefinite, its diagonal",
          moment.row(i)[i]);
    for (std::int64_t j = 0; j < i; ++j) {
      double& lower = moment.row(i)[j];
      double& upper = moment.row(j)[i];
      check(std::abs(lower - upper) <= kAsymmetry, where, "whiten must be symmetric, difference",
            std::abs(lower - upper));
      lower = upper = 0.5 * (lower + upper);
      // No second moment is larger than those of the two alone (Cauchy and Schwarz).
      const double most = std::sqrt(moment.row(i)[i]) * std::sqrt(moment.row(j)[j]);
      check(std::abs(lower) <= most + kAsymmetry, where,
            "whiten must be positive semidefinite: no element [i, j] larger than the root of "
            "[i, i] [j, j], in units of the largest element",
            lower);
    }
  }
}

struct Loaded {
  Problem problem;
  int exponent = 0;         // of w
  int moment_exponent = 0;  // of the whitening matrix
};

void check_matrix(const AnyView& w, const char* where) {
  check(w.rank() == 2 && !w.empty(), where, "w must be a matrix with one or more elements",
        w.shape());
}

Loaded load(const AnyView& w, const std::optional<AnyView>& whiten, const char* where) {
  check_matrix(w, where);
  Loaded result;
  Scaled scaled = load_scaled(w, where, "w");
  result.exponent = scaled.exponent;
  Problem& problem = result.problem;
  problem.w = matrix(w, std::move(scaled));
  problem.is_double = w.dtype() == DType::float64;
  problem.total = squared_norm(problem.w.values);
  if (whiten) {
    const std::int64_t n = w.shape()[1];
    check(whiten->shape() == Shape{n, n}, where,
          "whiten must have shape (" + std::to_string(n) + ", " + std::to_string(n) + ")",
          whiten->shape());
    Scaled moment = load_scaled(*whiten, where, "whiten");
    result.moment_exponent = moment.exponent;
    problem.moment = matrix(*whiten, std::move(moment));
    check_moment(*problem.moment, where);
    // tr(w M w^T)
    const Matrix<double> spread = product(problem.w, false, *problem.moment, false);
    problem.total = 0.0;
    for (std::size_t i = 0; i < spread.values.size(); ++i) {
      problem.total += spread.values[i] * problem.w.values[i];
    }
    problem.total = std::max(problem.total, 0.0);
  }
  return result;
}

std::vector<double> roots(std::vector<double> values) {
  for (double& value : values) value = std::sqrt(value);
  return values;
}

// All directions. Narrow dtypes go through the Gram matrix: what squaring loses in double
// precision is less than what the elements are known to.
Directions exact(const Problem& problem) {
  const Matrix<double>& w = problem.w;
  const bool wide = w.rows <= w.cols;
  if (problem.is_double) {
    const bool left = problem.moment || wide;
    Spectrum found = problem.moment
                         ? singular_vectors(product(w, false, root(*problem.moment), false), true)
                         : singular_vectors(w, left);
    return {std::move(found.vectors), left, std::move(found.values), 0.0, {}};
  }
  if (!problem.moment) {
    Spectrum found = eigenvectors(product(w, !wide, w, wide));
    return {std::move(found.vectors), wide, roots(std::move(found.values)), 0.0, {}};
  }
  if (wide) {
    const Matrix<double> spread = product(w, false, *problem.moment, false);
    Spectrum found = eigenvectors(product(spread, false, w, true));
    return {std::move(found.vectors), true, roots(std::move(found.values)), 0.0, {}};
  }
  const Matrix<double> whitened = product(w, false, root(*problem.moment), false);
  Spectrum found = eigenvectors(product(whitened, true, whitened, false));
  // Directions that hold next to nothing would not come out orthogonal by mere scaling.
  return {orthonormal(product(whitened, false, found.vectors, false)),
          true,
          roots(std::move(found.values)),
          0.0,
          {}};
}

Matrix<double> as_double(Matrix<double> a) { return a; }
Matrix<double> as_double(const Matrix<float>& a) { return widened(a); }
template <class T>
Matrix<T> converted(Matrix<double> a) {
  if constexpr (std::is_same_v<T, double>) return a;
  else return narrowed(a);
}

// The leading directions of w (or of w^T, if it is taller than wide and not whitened), found in
// the space that w maps `width` random vectors to. Halko, Martinsson and Tropp 2011, algorithms
// 4.4 and 5.1.
template <class T>
Directions projected(const Problem& problem, std::int64_t width, const FactorizeOptions& options) {
  const Matrix<T> w = converted<T>(problem.w);
  std::optional<Matrix<T>> moment;
  if (problem.moment) moment = converted<T>(*problem.moment);
  const bool left = moment.has_value() || w.rows <= w.cols;
  const std::int64_t inner = left ? w.cols : w.rows;
  Matrix<T> basis = converted<T>(gaussian(inner, width, options.seed));
  const auto onto = [&](const Matrix<T>& from, bool forward) {
    return converted<T>(orthonormal(as_double(product(w, forward != left, from, false))));
  };
  basis = onto(basis, true);
  for (std::int64_t i = 0; i < options.iterations; ++i) {
    basis = onto(basis, false);
    if (moment) basis = converted<T>(orthonormal(as_double(product(*moment, false, basis, false))));
    basis = onto(basis, true);
  }
  // Rows of what the basis keeps of w.
  Matrix<double> rows =
      left ? as_double(product(basis, true, w, false)) : as_double(product(basis, true, w, true));
  const Matrix<double> spread =
      problem.moment ? product(rows, false, *problem.moment, false) : Matrix<double>();
  Spectrum found = eigenvectors(product(problem.moment ? spread : rows, false, rows, true));
  double kept = 0.0;
  for (const double value : found.values) kept += value;
  return {product(as_double(basis), false, found.vectors, false), left,
          roots(std::move(found.values)), std::max(problem.total - kept, 0.0),
          product(found.vectors, true, rows, false)};
}

Directions projected(const Problem& problem, std::int64_t width, const FactorizeOptions& options) {
  return problem.is_double ? projected<double>(problem, width, options)
                           : projected<float>(problem, width, options);
}

// What krylov found, in the form of the others.
Directions directions_of(const LeadingTerms& found, bool left, double total) {
  Directions result;
  result.vectors = transposed(widened(found.directions));
  result.left = left;
  result.rows = widened(found.images);
  double kept = 0.0;
  for (std::int64_t k = 0; k < found.images.rows; ++k) {
    const auto size = static_cast<std::size_t>(found.images.cols);
    const double value = squared_norm({result.rows.row(k), size});
    kept += value;
    result.values.push_back(std::sqrt(value));
  }
  result.rest = std::max(total - kept, 0.0);
  return result;
}

// The leading `rank` directions alone, or nullopt where they take the exact decomposition.
std::optional<Directions> leading_directions(const Problem& problem, std::int64_t rank,
                                             const FactorizeOptions& options) {
  const Matrix<float> w = narrowed(
      problem.moment ? product(problem.w, false, root(*problem.moment), false) : problem.w);
  const std::optional<LeadingTerms> found = krylov({w.values.data(), w.rows, w.cols}, problem.total,
                                                   rank, options.tolerance, options.seed);
  if (!found) return std::nullopt;
  const bool left = w.rows < w.cols;
  Directions result = directions_of(*found, left, problem.total);
  if (!problem.moment) return result;
  // The whitened matrix's rows are not w's: its directions in the space of w's columns are needed.
  if (!left) result.vectors = orthonormal(transposed(result.rows));
  result.left = true;
  result.rows = {};
  return result;
}

// The same for a narrow dtype that nothing whitens, without a copy in double precision. Checks w as
// load does; nullopt also where its scale is at the ends of what float holds.
struct Narrow {
  Directions directions;
  double total;
  int exponent;
};
std::optional<Narrow> narrow_directions(const AnyView& w, const FactorizeOptions& options,
                                        const char* where) {
  check_matrix(w, where);
  PoolBuffer copy;
  const float* values = nullptr;
  if (w.dtype() == DType::float32 && w.is_contiguous()) {
    values = static_cast<const float*>(w.data());
  } else {
    copy = pool_allocate(w.size() * static_cast<std::int64_t>(sizeof(float)));
    auto* to = static_cast<float*>(copy.get());
    parallel_for(w.size(), kGrain, [&](std::int64_t first, std::int64_t last) {
      kernels::load(w, first, last - first, to + first);
    });
    values = to;
  }
  const auto blocks = static_cast<std::size_t>(block_count(w.size(), kGrain));
  std::vector<double> largest(blocks);
  std::vector<double> squares(blocks);
  parallel_blocks(w.size(), kGrain, [&](std::int64_t b, std::int64_t first, std::int64_t last) {
    const auto block = static_cast<std::size_t>(b);
    largest[block] = kernels::max_magnitude_f32(values + first, last - first);
    check_finite(std::isfinite(largest[block]), where, "w");
    squares[block] = kernels::sum_squares_f32(values + first, last - first);
  });
  Narrow result{{}, 0.0, 0};
  std::frexp(std::ranges::max(largest), &result.exponent);
  for (const double sum : squares) result.total += sum;
  result.total = std::ldexp(result.total, -2 * result.exponent);
  const std::int64_t m = w.shape()[0];
  const std::int64_t n = w.shape()[1];
  const auto rank = rank_by_shape(options.budget, m, n, where);
  constexpr int kLargest = 120;
  if (!rank || std::abs(result.exponent) > kLargest) return std::nullopt;
  const auto scale = static_cast<float>(std::ldexp(1.0, -result.exponent));
  const auto found =
      krylov({values, m, n, scale}, result.total, *rank, options.tolerance, options.seed);
  if (!found) return std::nullopt;
  result.directions = directions_of(*found, m < n, result.total);
  return result;
}

struct Selected {
  Directions directions;
  std::int64_t rank;
};

// What may be lost of the squared norm, and what rounding leaves of nothing: squaring in double
// precision moves every squared singular value by some 2^-52 of the norm.
double allowed(const Problem& problem, const Budget& budget) {
  constexpr double kSquared = 1e-14;
  constexpr double kDirect = 1e-28;
  const auto shorter = static_cast<double>(std::min(problem.w.rows, problem.w.cols));
  const double rounding = problem.is_double ? kDirect : kSquared;
  return (allowed_loss(budget) + shorter * rounding) * problem.total;
}

Selected choose(const Problem& problem, const FactorizeOptions& options, const char* where) {
  const std::int64_t m = problem.w.rows;
  const std::int64_t n = problem.w.cols;
  const std::int64_t most = std::min(m, n);
  const auto by_shape = rank_by_shape(options.budget, m, n, where);
  if (options.method == Method::randomized) {
    std::int64_t width = by_shape.value_or(16) + options.oversampling;
    // A projection as wide as w costs more than the exact decomposition.
    for (; width < most; width *= 2) {
      Directions found = projected(problem, width, options);
      if (by_shape) return {std::move(found), *by_shape};
      const auto rank = rank_by_loss(found.values, found.rest, allowed(problem, options.budget));
      if (!rank) continue;
      check_useful(*rank, m, n, options.budget.energy ? "energy" : "error", where);
      return {std::move(found), *rank};
    }
  }
  // Without whitening the search has been there, and found too little in single precision.
  if (options.method == Method::krylov && by_shape && (problem.moment || problem.is_double)) {
    if (auto found = leading_directions(problem, *by_shape, options)) {
      return {std::move(*found), *by_shape};
    }
  }
  Directions found = exact(problem);
  if (by_shape) return {std::move(found), *by_shape};
  const auto rank = rank_by_loss(found.values, 0.0, allowed(problem, options.budget));
  const std::int64_t needed = rank.value_or(most);
  check_useful(needed, m, n, options.budget.energy ? "energy" : "error", where);
  return {std::move(found), needed};
}

void check_options(const FactorizeOptions& options, const char* where) {
  check_budget(options.budget, where);
  check(options.oversampling >= 0, where, "oversampling must be >= 0", options.oversampling);
  check(options.iterations >= 0, where, "iterations must be >= 0", options.iterations);
  check(options.tolerance >= 1e-6 && options.tolerance <= 1.0, where,
        "tolerance must be in [1e-6, 1]", options.tolerance);
}

// Shares each term's norm between the two factors and turns its sign.
void balance(Matrix<double>& left, Matrix<double>& right, int exponent) {
  const std::int64_t rank = left.cols;
  std::vector<double> squares(static_cast<std::size_t>(rank), 0.0);
  std::vector<double> largest(static_cast<std::size_t>(rank), 0.0);
  for (std::int64_t i = 0; i < left.rows; ++i) {
    const double* row = left.row(i);
    for (std::size_t k = 0; k < squares.size(); ++k) {
      squares[k] += row[k] * row[k];
      if (std::abs(row[k]) > std::abs(largest[k])) largest[k] = row[k];
    }
  }
  std::vector<double> to_left(static_cast<std::size_t>(rank));
  for (std::size_t k = 0; k < squares.size(); ++k) {
    const auto term = static_cast<std::int64_t>(k);
    const double right_norm = squared_norm({right.row(term), static_cast<std::size_t>(right.cols)});
    const double sign = largest[k] < 0.0 ? -1.0 : 1.0;
    // The norms a and b become sqrt(a b) each, times half of w's scale.
    const double ratio =
        squares[k] > 0.0 && right_norm > 0.0 ? std::sqrt(std::sqrt(right_norm / squares[k])) : 0.0;
    const double half = exponent % 2 == 0 ? 1.0 : std::numbers::sqrt2;
    const int whole = (exponent - (exponent % 2 == 0 ? 0 : 1)) / 2;
    to_left[k] = sign * std::ldexp(ratio * half, whole);
    const double to_right = ratio > 0.0 ? sign * std::ldexp(half / ratio, whole) : 0.0;
    for (std::int64_t j = 0; j < right.cols; ++j) right.row(term)[j] *= to_right;
  }
  for (std::int64_t i = 0; i < left.rows; ++i) {
    double* row = left.row(i);
    for (std::size_t k = 0; k < squares.size(); ++k) row[k] *= to_left[k];
  }
}

}  // namespace

Factorization factorize(const AnyView& w, const FactorizeOptions& options, const char* where) {
  check_options(options, where);
  std::optional<Loaded> loaded;
  std::optional<Selected> choice;
  double total = 0.0;
  int exponent = 0;
  if (options.method == Method::krylov && !options.whiten && is_floating(w.dtype()) &&
      w.dtype() != DType::float64) {
    if (auto found = narrow_directions(w, options, where)) {
      const auto rank = static_cast<std::int64_t>(found->directions.values.size());
      choice = {std::move(found->directions), rank};
      total = found->total;
      exponent = found->exponent;
    }
  }
  if (!choice) {
    loaded = load(w, options.whiten, where);
    choice = choose(loaded->problem, options, where);
    total = loaded->problem.total;
    exponent = loaded->exponent;
  }
  Directions& directions = choice->directions;
  const std::int64_t rank = choice->rank;
  Matrix<double> kept = directions.vectors.cols == rank ? std::move(directions.vectors)
                                                        : leading(directions.vectors, rank);
  Matrix<double> left;
  Matrix<double> right;
  if (directions.rows.rows > 0) {
    Matrix<double> rows(rank, directions.rows.cols);
    std::copy_n(directions.rows.values.begin(), rows.values.size(), rows.values.begin());
    left = directions.left ? std::move(kept) : transposed(rows);
    right = directions.left ? std::move(rows) : transposed(kept);
  } else if (directions.left) {
    right = product(kept, true, loaded->problem.w, false);
    left = std::move(kept);
  } else {
    left = product(loaded->problem.w, false, kept, false);
    right = transposed(kept);
  }
  Factorization result;
  result.rows_ = w.shape()[0];
  result.cols_ = w.shape()[1];
  result.rank_ = rank;
  double loss = directions.rest;
  for (std::size_t i = directions.values.size(); i-- > static_cast<std::size_t>(rank);) {
    loss += directions.values[i] * directions.values[i];
  }
  result.relative_error_ = total > 0.0 ? std::sqrt(loss / total) : 0.0;
  balance(left, right, exponent);
  result.left_ = std::move(left.values);
  result.right_ = std::move(right.values);
  return result;
}

void Factorization::write(const MutableAnyView& u, const MutableAnyView& v) const {
  constexpr auto where = "lowrank.factorize";
  store_values(left_, {rows_, rank_}, u, where, "u");
  store_values(right_, {rank_, cols_}, v, where, "v");
}

std::vector<double> singular_values(const AnyView& w, const std::optional<AnyView>& whiten) {
  Loaded loaded = load(w, whiten, "lowrank.singular_values");
  const auto shorter = static_cast<std::size_t>(std::min(w.shape()[0], w.shape()[1]));
  std::vector<double> values = exact(loaded.problem).values;
  values.resize(shorter, 0.0);
  // The moment enters as its root.
  const double half = loaded.moment_exponent % 2 == 0 ? 1.0 : std::numbers::sqrt2;
  const int odd = loaded.moment_exponent % 2 == 0 ? 0 : 1;
  const int exponent = loaded.exponent + (loaded.moment_exponent - odd) / 2;
  for (double& value : values) value = std::ldexp(value * half, exponent);
  return values;
}

}  // namespace moptcore::inline v0::lowrank

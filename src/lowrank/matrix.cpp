// SPDX-License-Identifier: Apache-2.0
#include "lowrank/matrix.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <string>

#include <moptcore/core/parallel.hpp>

#include <Eigen/Cholesky>
#include <Eigen/Eigenvalues>
#include <Eigen/QR>
#include <Eigen/SVD>

#include "kernels/onednn/matmul.hpp"
#include "kernels/product.hpp"
#include "kernels/strided.hpp"

namespace moptcore::inline v0::lowrank {
namespace {

using Dense = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Column = Eigen::MatrixXd;

constexpr std::int64_t kTile = 128;  // rows or columns that one thread computes at a time
constexpr std::int64_t kFloatTile = 256;
constexpr std::int64_t kGrain = 8192;  // elements that it copies or adds up

Eigen::Map<const Dense> map(const Matrix<double>& a) { return {a.values.data(), a.rows, a.cols}; }
Eigen::Map<Dense> map(Matrix<double>& a) { return {a.values.data(), a.rows, a.cols}; }

template <class Derived>
Matrix<double> copied(const Eigen::MatrixBase<Derived>& source) {
  Matrix<double> result(source.rows(), source.cols());
  map(result) = source;
  return result;
}

}  // namespace

Scaled load_scaled(const AnyView& src, const char* where, const char* argument) {
  check<DTypeError>(is_floating(src.dtype()), where,
                    std::string(argument) + " must be float64, float32, float16 or bfloat16",
                    name(src.dtype()));
  Scaled result;
  result.values.resize(static_cast<std::size_t>(src.size()));
  double* values = result.values.data();
  std::vector<double> largest(static_cast<std::size_t>(block_count(src.size(), kGrain)));
  parallel_blocks(src.size(), kGrain,
                  [&](std::int64_t block, std::int64_t first, std::int64_t last) {
                    kernels::load(src, first, last - first, values + first);
                    double most = 0.0;
                    bool finite = true;
                    for (std::int64_t i = first; i < last; ++i) {
                      finite = finite && std::isfinite(values[i]);
                      most = std::max(most, std::abs(values[i]));
                    }
                    check_finite(finite, where, argument);
                    largest[static_cast<std::size_t>(block)] = most;
                  });
  const double most = largest.empty() ? 0.0 : std::ranges::max(largest);
  if (most > 0.0) std::frexp(most, &result.exponent);
  // 2^1074 is no double; what little of the range of denormals is left does no harm.
  result.exponent = std::max(result.exponent, -1000);
  const double scale = std::ldexp(1.0, -result.exponent);
  parallel_for(src.size(), kGrain, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) values[i] *= scale;
  });
  return result;
}

void check_finite(bool finite, const char* where, const char* argument) {
  check<NonFiniteError>(finite, where,
                        std::string(argument) + " must not contain NaN or infinities");
}

void store_values(std::span<const double> values, const Shape& shape, const MutableAnyView& dst,
                  const char* where, const char* argument) {
  check<DTypeError>(is_floating(dst.dtype()), where,
                    std::string(argument) + " must be float64, float32, float16 or bfloat16",
                    name(dst.dtype()));
  std::ostringstream rule;
  rule << argument << " must have shape " << shape;
  check(dst.shape() == shape, where, rule.str(), dst.shape());
  parallel_for(dst.size(), kGrain, [&](std::int64_t first, std::int64_t last) {
    kernels::store(values.data() + first, first, last - first, dst);
  });
}

Matrix<double> product(const Matrix<double>& a, bool transpose_a, const Matrix<double>& b,
                       bool transpose_b) {
  const std::int64_t m = transpose_a ? a.cols : a.rows;
  const std::int64_t n = transpose_b ? b.rows : b.cols;
  const std::int64_t depth = transpose_a ? a.rows : a.cols;
  const std::int64_t a_row = transpose_a ? 1 : a.cols;
  const std::int64_t a_col = transpose_a ? a.cols : 1;
  const std::int64_t b_row = transpose_b ? 1 : b.cols;
  const std::int64_t b_col = transpose_b ? b.cols : 1;
  const bool by_rows = m >= n;
  Matrix<double> c(m, n);
  parallel_for(by_rows ? m : n, kTile, [&](std::int64_t first, std::int64_t last) {
    const std::int64_t row = by_rows ? first : 0;
    const std::int64_t col = by_rows ? 0 : first;
    kernels::product_f64(by_rows ? last - first : m, by_rows ? n : last - first, depth,
                         {a.values.data() + row * a_row, a_row, a_col},
                         {b.values.data() + col * b_col, b_row, b_col},
                         {c.values.data() + row * n + col, n, 1});
  });
  return c;
}

Matrix<float> product(const Matrix<float>& a, bool transpose_a, const Matrix<float>& b,
                      bool transpose_b) {
  const std::int64_t m = transpose_a ? a.cols : a.rows;
  const std::int64_t n = transpose_b ? b.rows : b.cols;
  const std::int64_t depth = transpose_a ? a.rows : a.cols;
  const bool by_rows = m >= n;
  Matrix<float> c(m, n);
  const auto block = [&](std::int64_t first, std::int64_t last) {
    const std::int64_t row = by_rows ? first : 0;
    const std::int64_t col = by_rows ? 0 : first;
    kernels::onednn::product_f32(
        by_rows ? last - first : m, by_rows ? n : last - first, depth,
        {a.values.data() + row * (transpose_a ? 1 : a.cols), a.cols, transpose_a},
        {b.values.data() + col * (transpose_b ? b.cols : 1), b.cols, transpose_b},
        c.values.data() + row * n + col, n);
  };
  try {
    parallel_for(by_rows ? m : n, kFloatTile, block);
  } catch (const std::runtime_error& error) {
    throw UnsupportedError(std::string("[lowrank.factorize] oneDNN refused: ") + error.what());
  }
  return c;
}

Matrix<double> widened(const Matrix<float>& a) {
  Matrix<double> result(a.rows, a.cols);
  std::ranges::copy(a.values, result.values.begin());
  return result;
}

Matrix<float> narrowed(const Matrix<double>& a) {
  Matrix<float> result(a.rows, a.cols);
  std::ranges::transform(a.values, result.values.begin(),
                         [](double value) { return static_cast<float>(value); });
  return result;
}

Matrix<double> transposed(const Matrix<double>& a) { return copied(map(a).transpose()); }

Matrix<double> leading(const Matrix<double>& a, std::int64_t count) {
  return copied(map(a).leftCols(count));
}

double squared_norm(std::span<const double> values) noexcept {
  // Several sums: one would wait for itself.
  constexpr std::size_t kSums = 8;
  double sums[kSums] = {};
  std::size_t i = 0;
  for (; i + kSums <= values.size(); i += kSums) {
    for (std::size_t k = 0; k < kSums; ++k) sums[k] += values[i + k] * values[i + k];
  }
  for (; i < values.size(); ++i) sums[0] += values[i] * values[i];
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

Spectrum eigenvectors(const Matrix<double>& symmetric) {
  const Eigen::SelfAdjointEigenSolver<Column> solver(Column(map(symmetric)));
  check(solver.info() == Eigen::Success, "lowrank.factorize",
        "the eigenvectors must converge, rows and columns", symmetric.rows);
  Spectrum result{copied(solver.eigenvectors().rowwise().reverse()), {}};
  for (std::int64_t i = symmetric.rows - 1; i >= 0; --i) {
    result.values.push_back(std::max(solver.eigenvalues()[i], 0.0));
  }
  return result;
}

Spectrum singular_vectors(const Matrix<double>& a, bool left) {
  const Eigen::BDCSVD<Column> solver(Column(map(a)),
                                     left ? Eigen::ComputeThinU : Eigen::ComputeThinV);
  check(solver.info() == Eigen::Success, "lowrank.factorize",
        "the singular values must converge, rows", a.rows);
  const auto& values = solver.singularValues();
  return {copied(left ? solver.matrixU() : solver.matrixV()),
          std::vector<double>(values.data(), values.data() + values.size())};
}

Matrix<double> root(const Matrix<double>& a) {
  const Eigen::LLT<Column> factored{Column(map(a))};
  if (factored.info() == Eigen::Success) return copied(Column(factored.matrixL()));
  Spectrum spectrum = eigenvectors(a);
  for (std::int64_t i = 0; i < a.rows; ++i) {
    double* row = spectrum.vectors.row(i);
    for (std::int64_t j = 0; j < a.rows; ++j) {
      row[j] *= std::sqrt(spectrum.values[static_cast<std::size_t>(j)]);
    }
  }
  return std::move(spectrum.vectors);
}

Matrix<double> orthonormal(const Matrix<double>& a) {
  // Cholesky of the Gram matrix is several times faster than reflections; the second pass repairs
  // what the first loses in orthogonality. Yamamoto et al., "Roundoff error analysis of the
  // CholeskyQR2 algorithm", 2015: it holds for condition numbers up to about 1e8.
  constexpr double kSingular = 1e-7;
  Matrix<double> q = a;
  for (int pass = 0; pass < 2; ++pass) {
    const Matrix<double> gram = product(q, true, q, false);
    const Eigen::LLT<Column> factored{Column(map(gram))};
    const Eigen::VectorXd diagonal = Column(factored.matrixL()).diagonal();
    if (factored.info() != Eigen::Success ||
        !(diagonal.minCoeff() > kSingular * diagonal.maxCoeff())) {
      const Eigen::HouseholderQR<Column> reflections{Column(map(a))};
      return copied(Column(reflections.householderQ() * Column::Identity(a.rows, a.cols)));
    }
    Column inverse = Column::Identity(a.cols, a.cols);
    factored.matrixU().solveInPlace(inverse);
    q = product(q, false, copied(inverse), false);
  }
  return q;
}

}  // namespace moptcore::inline v0::lowrank

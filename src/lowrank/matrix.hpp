// SPDX-License-Identifier: Apache-2.0
// Dense matrices for the factorizations: tensors in and out, large products, eigenvectors.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <moptcore/core/tensor_view.hpp>

namespace moptcore::inline v0::lowrank {

/// Row-major without gaps.
template <class T>
struct Matrix {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::vector<T> values;

  Matrix() = default;
  Matrix(std::int64_t m, std::int64_t n)
      : rows(m), cols(n), values(static_cast<std::size_t>(m * n)) {}

  [[nodiscard]] T* row(std::int64_t i) noexcept { return values.data() + i * cols; }
  [[nodiscard]] const T* row(std::int64_t i) const noexcept { return values.data() + i * cols; }
};

/// The elements of a tensor of a floating dtype times a power of two that brings the largest into
/// [0.5, 1): squares neither overflow nor vanish. Throws NonFiniteError naming `argument`.
struct Scaled {
  std::vector<double> values;
  int exponent = 0;  ///< tensor = values * 2^exponent
};
[[nodiscard]] Scaled load_scaled(const AnyView& src, const char* where, const char* argument);

/// Throws NonFiniteError that names `argument` unless `finite`.
void check_finite(bool finite, const char* where, const char* argument);

/// Writes row-major values into a tensor of a floating dtype; throws unless it has `shape`.
void store_values(std::span<const double> values, const Shape& shape, const MutableAnyView& dst,
                  const char* where, const char* argument);

/// op(a) op(b), where op transposes if asked to. Both give the same bits on any number of threads:
/// blocks of rows or columns are computed by one each. double is ours, float oneDNN's, whose bits
/// depend on the machine. Throws UnsupportedError where oneDNN refuses.
[[nodiscard]] Matrix<double> product(const Matrix<double>& a, bool transpose_a,
                                     const Matrix<double>& b, bool transpose_b);
[[nodiscard]] Matrix<float> product(const Matrix<float>& a, bool transpose_a,
                                    const Matrix<float>& b, bool transpose_b);

[[nodiscard]] Matrix<double> widened(const Matrix<float>& a);
[[nodiscard]] Matrix<float> narrowed(const Matrix<double>& a);
[[nodiscard]] Matrix<double> transposed(const Matrix<double>& a);

/// The first `count` columns.
[[nodiscard]] Matrix<double> leading(const Matrix<double>& a, std::int64_t count);

[[nodiscard]] double squared_norm(std::span<const double> values) noexcept;

/// Eigenvectors of a symmetric positive semidefinite matrix in the columns, and its eigenvalues,
/// descending and never negative.
struct Spectrum {
  Matrix<double> vectors;
  std::vector<double> values;
};
[[nodiscard]] Spectrum eigenvectors(const Matrix<double>& symmetric);

/// Left (or right) singular vectors in the columns, and the singular values, descending.
[[nodiscard]] Spectrum singular_vectors(const Matrix<double>& a, bool left);

/// L with L L^T = a, a symmetric and positive semidefinite.
[[nodiscard]] Matrix<double> root(const Matrix<double>& a);

/// An orthonormal basis of what the columns of a span, as many columns as a has (rows >= cols).
[[nodiscard]] Matrix<double> orthonormal(const Matrix<double>& a);

}  // namespace moptcore::inline v0::lowrank

// SPDX-License-Identifier: Apache-2.0
// The eigenvalues of a symmetric band matrix, and the eigenvectors of the largest.
#pragma once

#include <cstdint>
#include <vector>

#include "lowrank/matrix.hpp"

namespace moptcore::inline v0::lowrank {

/// A symmetric matrix with elements within `width` >= 1 of its diagonal.
class Band {
 public:
  /// Zeros.
  Band(std::int64_t size, std::int64_t width)
      : size_(size), width_(width), values_(static_cast<std::size_t>(size * (width + 2)), 0.0) {}

  [[nodiscard]] std::int64_t size() const noexcept { return size_; }
  [[nodiscard]] std::int64_t width() const noexcept { return width_; }

  /// Element [row, column] for column <= row <= column + width.
  [[nodiscard]] double& at(std::int64_t row, std::int64_t column) noexcept {
    return values_[static_cast<std::size_t>(column * (width_ + 2) + row - column)];
  }
  [[nodiscard]] double at(std::int64_t row, std::int64_t column) const noexcept {
    return values_[static_cast<std::size_t>(column * (width_ + 2) + row - column)];
  }

  /// The first `count` rows and columns.
  [[nodiscard]] Band leading(std::int64_t count) const;

 private:
  std::int64_t size_;
  std::int64_t width_;
  std::vector<double> values_;  // by columns, with room for one element below the band
};

/// The band brought to tridiagonal form by rotations (Schwarz, "Tridiagonalization of a symmetric
/// band matrix", 1968), and what follows from it.
class BandSpectrum {
 public:
  /// The `count` largest eigenvalues. `with_vectors`: keeps what `vectors` needs.
  BandSpectrum(Band band, std::int64_t count, bool with_vectors);

  /// Descending, to about 2^-40 of the largest magnitude.
  [[nodiscard]] const std::vector<double>& values() const noexcept { return values_; }

  [[nodiscard]] double sum() const noexcept;

  /// Eigenvectors of the values in the columns of [size, count], by inverse iteration from the rows
  /// of `start` [count, size]. Of norm 1; orthogonal but for those whose eigenvalues are close to
  /// each other.
  [[nodiscard]] Matrix<float> vectors(const Matrix<double>& start) const;

 private:
  struct Rotation {
    std::int32_t row;  // and the next
    float cosine;
    float sine;
  };

  void find_values(std::int64_t count);
  void solve(double value, double* x, std::vector<double>& scratch) const;

  std::vector<Rotation> rotations_;
  std::vector<double> diagonal_;
  std::vector<double> beside_;
  std::vector<double> values_;
  double scale_ = 0.0;  // no eigenvalue is of larger magnitude
};

}  // namespace moptcore::inline v0::lowrank

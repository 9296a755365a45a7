// SPDX-License-Identifier: Apache-2.0
// Weights [out, in], the second moments of their inputs, and their grids, as the functions that
// round weights by the error of the outputs see them.
#pragma once

#include <moptcore/core/qparams.hpp>
#include <moptcore/core/tensor_view.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace moptcore::inline v0::quant {

/// Rows that one task works on.
inline constexpr std::int64_t kRowTile = 16;

/// Throws unless weights are floating, finite and have two dimensions, none of which is empty.
void check_weights(const AnyView& weights, const char* where);

/// `view` as doubles; throws unless it is floating, finite and has the shape.
std::vector<double> finite_numbers(const AnyView& view, const Shape& shape, const char* where,
                                   const std::string& argument);

/// [in, in] row-major, made symmetric; throws unless it is a finite square matrix of the inputs
/// whose diagonal is not negative.
std::vector<double> second_moments(const AnyView& hessian, std::int64_t inputs, const char* where);

/// The sum of e H e over the rows e of `error` [rows, n]; `h` is H [n, n], or its diagonal [n].
double output_error(const std::vector<double>& error, const std::vector<double>& h, std::int64_t n);

/// Which grid of a QParams an element of a matrix has.
class GridMap {
 public:
  /// Throws where the grids do not fit the shape.
  GridMap(const QParams& qp, const Shape& shape, const char* where);

  [[nodiscard]] Grid operator()(std::int64_t row, std::int64_t col) const noexcept {
    return qp_->grid(row / rows_ * row_step_ + col / cols_ * col_step_);
  }

 private:
  const QParams* qp_;
  std::int64_t rows_ = 1;  // neighbours that share a grid
  std::int64_t cols_ = 1;
  std::int64_t row_step_ = 0;
  std::int64_t col_step_ = 0;
};

/// The dtype that holds one integer an element: int8 for int4, uint8 for uint4.
[[nodiscard]] constexpr DType loose_dtype(DType dtype) noexcept {
  if (dtype == DType::int4) return DType::int8;
  return dtype == DType::uint4 ? DType::uint8 : dtype;
}

/// Throws unless `q` has the loose dtype and the shape.
void check_integers(const MutableAnyView& q, DType dtype, const Shape& shape, const char* where);

/// Stores n integers as elements [first, first + n) of `q`.
void store_integers(const std::int32_t* src, std::int64_t first, std::int64_t n,
                    const MutableAnyView& q);

/// The QParams of plain ranges: one grid a row, or one for each group of a row.
QParams plain_grids(const AnyView& weights, const GridType& type, std::int64_t group_size,
                    bool symmetric);

/// The QParams of grids that are row-major in [out, ceil(in / group_size)].
QParams grids_of(std::vector<float> scale, std::vector<std::int32_t> zero_point, const Shape& shape,
                 const GridType& type, std::int64_t group_size, bool symmetric);

/// The group size to use: that of `group_size`, or the whole row for 0. Throws where negative.
std::int64_t group_extent(std::int64_t group_size, std::int64_t inputs, const char* where);

}  // namespace moptcore::inline v0::quant

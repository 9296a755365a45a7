// SPDX-License-Identifier: Apache-2.0
#include "quant/weight_matrix.hpp"

#include <moptcore/quant/range.hpp>

#include <cmath>
#include <sstream>

#include "kernels/product.hpp"
#include "kernels/strided.hpp"

namespace moptcore::inline v0::quant {
namespace {

std::string text(const Shape& shape) {
  std::ostringstream out;
  out << shape;
  return out.str();
}

void check_floating(const AnyView& view, const char* where, const std::string& argument) {
  check<DTypeError>(is_floating(view.dtype()), where,
                    argument + " must be float64, float32, float16 or bfloat16",
                    name(view.dtype()));
}

}  // namespace

void check_weights(const AnyView& weights, const char* where) {
  check_floating(weights, where, "weights");
  check(weights.rank() == 2 && !weights.empty(), where,
        "weights must have two dimensions [out, in] and not be empty", weights.shape());
  const std::int64_t inputs = weights.shape()[1];
  std::vector<double> row(static_cast<std::size_t>(inputs));
  for (std::int64_t r = 0; r < weights.shape()[0]; ++r) {
    kernels::load(weights, r * inputs, inputs, row.data());
    for (const double w : row) {
      check<NonFiniteError>(std::isfinite(w), where, "weights must be finite", w);
    }
  }
}

std::vector<double> finite_numbers(const AnyView& view, const Shape& shape, const char* where,
                                   const std::string& argument) {
  check_floating(view, where, argument);
  check(view.shape() == shape, where, argument + " must have the shape " + text(shape),
        view.shape());
  std::vector<double> numbers(static_cast<std::size_t>(view.size()));
  kernels::load(view, 0, view.size(), numbers.data());
  for (const double x : numbers) {
    check<NonFiniteError>(std::isfinite(x), where, argument + " must be finite", x);
  }
  return numbers;
}

std::vector<double> second_moments(const AnyView& hessian, std::int64_t inputs, const char* where) {
  std::vector<double> h = finite_numbers(hessian, Shape{inputs, inputs}, where, "hessian");
  const auto n = static_cast<std::size_t>(inputs);
  for (std::size_t i = 0; i < n; ++i) {
    check(h[i * n + i] >= 0.0, where, "hessian must have no negative diagonal", h[i * n + i]);
    for (std::size_t j = 0; j < i; ++j) {
      h[i * n + j] = h[j * n + i] = 0.5 * (h[i * n + j] + h[j * n + i]);
    }
  }
  return h;
}

double output_error(const std::vector<double>& error, const std::vector<double>& h,
                    std::int64_t n) {
  std::vector<double> slope(error.size());
  if (static_cast<std::int64_t>(h.size()) == n) {
    for (std::size_t i = 0; i < error.size(); ++i) slope[i] = error[i] * h[i % h.size()];
  } else {
    const auto rows = static_cast<std::int64_t>(error.size()) / n;
    kernels::product_f64(rows, n, n, {error.data(), n, 1}, {h.data(), n, 1}, {slope.data(), n, 1});
  }
  double sum = 0.0;
  for (std::size_t i = 0; i < error.size(); ++i) sum += error[i] * slope[i];
  return sum;
}

GridMap::GridMap(const QParams& qp, const Shape& shape, const char* where) : qp_(&qp) {
  if (!qp.axis()) return;
  const int axis = normalize_axis(*qp.axis(), shape.rank(), where);
  if (qp.group_size()) {
    const Shape expected = grouped_shape(shape, axis, *qp.group_size());
    check(qp.scale_shape() == expected, where,
          "the scales of qparams must have the shape " + text(expected), qp.scale_shape());
    (axis == 0 ? rows_ : cols_) = *qp.group_size();
    row_step_ = expected[1];
    col_step_ = 1;
    return;
  }
  check(qp.size() == shape[axis], where,
        "qparams must have " + std::to_string(shape[axis]) + " scales, the extent of its axis",
        qp.size());
  (axis == 0 ? row_step_ : col_step_) = 1;
}

void check_integers(const MutableAnyView& q, DType dtype, const Shape& shape, const char* where) {
  check<DTypeError>(q.dtype() == loose_dtype(dtype), where,
                    "q must be " + std::string(name(loose_dtype(dtype))), name(q.dtype()));
  check(q.shape() == shape, where, "q must have the shape of weights " + text(shape), q.shape());
}

void store_integers(const std::int32_t* src, std::int64_t first, std::int64_t n,
                    const MutableAnyView& q) {
  if (bit_width(q.dtype()) == 8) {
    const std::vector<std::uint8_t> words(src, src + n);
    kernels::scatter(words.data(), first, n, q);
  } else {
    const std::vector<std::uint16_t> words(src, src + n);
    kernels::scatter(words.data(), first, n, q);
  }
}

QParams plain_grids(const AnyView& weights, const GridType& type, std::int64_t group_size,
                    bool symmetric) {
  const std::int64_t inputs = weights.shape()[1];
  const GroupRange range = group_range(weights, group_size == 0 ? inputs : group_size, 1);
  if (group_size == 0) return qparams_from_range(range.min, range.max, type, symmetric, 0);
  return qparams_from_range(range.min, range.max, type, symmetric, 1, group_size, range.shape);
}

QParams grids_of(std::vector<float> scale, std::vector<std::int32_t> zero_point, const Shape& shape,
                 const GridType& type, std::int64_t group_size, bool symmetric) {
  const auto [qmin, qmax] = grid_range(type, symmetric);
  QParams::Options options{.dtype = type, .qmin = qmin, .qmax = qmax};
  if (group_size == 0) return {std::move(scale), std::move(zero_point), 0, options};
  options.group_size = group_size;
  options.scale_shape = grouped_shape(shape, 1, group_size);
  return {std::move(scale), std::move(zero_point), 1, options};
}

std::int64_t group_extent(std::int64_t group_size, std::int64_t inputs, const char* where) {
  check(group_size >= 0, where, "group_size must be >= 1, or None for whole rows", group_size);
  return group_size == 0 ? inputs : group_size;
}

}  // namespace moptcore::inline v0::quant

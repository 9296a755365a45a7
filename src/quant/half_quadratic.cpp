// SPDX-License-Identifier: Apache-2.0
#include <moptcore/quant/half_quadratic.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include <moptcore/core/parallel.hpp>
#include <moptcore/quant/range.hpp>

#include "kernels/float_mode.hpp"
#include "kernels/strided.hpp"
#include "quant/weight_matrix.hpp"

namespace moptcore::inline v0::quant {
namespace {

constexpr auto where = "quant.hqq";

struct RealGrid {
  double scale = 1.0;
  double zero = 0.0;
  double qmin = 0.0;
  double qmax = 0.0;

  [[nodiscard]] double integer(double w) const noexcept {
    return std::clamp(std::nearbyint(w / scale + zero), qmin, qmax);
  }
};

// Scale and zero are what float32 holds, so that the errors are those of the result.
double as_float(double x) noexcept { return static_cast<double>(static_cast<float>(x)); }

RealGrid improve(const double* w, std::int64_t n, const RealGrid& start, bool symmetric,
                 const HqqOptions& o) {
  RealGrid grid = start;
  RealGrid best = start;
  double least = std::numeric_limits<double>::infinity();
  double beta = o.beta;
  for (int t = 0; t <= o.iterations; ++t) {
    double error = 0.0;
    double zeros = 0.0;
    double product = 0.0;
    double square = 0.0;
    for (std::int64_t i = 0; i < n; ++i) {
      const double q = grid.integer(w[i]);
      const double e = w[i] / grid.scale + grid.zero - q;
      const double size = std::abs(e);
      error += size == 0.0 ? 0.0 : std::pow(size, o.norm);
      const double left =
          size == 0.0 ? 0.0 : std::max(size - std::pow(size, o.norm - 1.0) / beta, 0.0);
      const double split = std::copysign(left, e);
      zeros += q - w[i] / grid.scale + split;
      product += (w[i] - split * grid.scale) * (q - grid.zero);
      square += (q - grid.zero) * (q - grid.zero);
    }
    // Another scale is another unit of the error.
    const double unit = symmetric ? std::pow(grid.scale / start.scale, o.norm) : 1.0;
    if (error * unit < least) {
      least = error * unit;
      best = grid;
    }
    if (symmetric) {
      const double scale = square > 0.0 ? as_float(product / square) : grid.scale;
      if (!(scale > static_cast<double>(kMinScale))) break;
      grid.scale = scale;
    } else {
      grid.zero = as_float(zeros / static_cast<double>(n));
      if (o.integer_zero) grid.zero = std::clamp(std::nearbyint(grid.zero), grid.qmin, grid.qmax);
    }
    beta *= o.growth;
  }
  return best;
}

void check_result(const MutableAnyView& view, const Shape& shape, const std::string& argument) {
  check<DTypeError>(view.dtype() == DType::float32, where, argument + " must be float32",
                    name(view.dtype()));
  std::ostringstream text;
  text << argument << " must have the shape " << shape;
  check(view.shape() == shape, where, text.str(), view.shape());
}

}  // namespace

void hqq(const AnyView& weights, const MutableAnyView& q, const MutableAnyView& scale,
         const MutableAnyView& zero_point, const WeightGridOptions& grids, const HqqOptions& o) {
  check<DTypeError>(is_quantized(grids.dtype), where, kGridTypeRule, name(grids.dtype));
  check(o.norm > 0.0 && o.norm <= 1.0, where, "norm must be in (0, 1]", o.norm);
  check(o.beta > 0.0 && std::isfinite(o.beta), where, "beta must be finite and > 0", o.beta);
  check(o.growth >= 1.0 && std::isfinite(o.growth), where, "growth must be finite and >= 1",
        o.growth);
  check(o.iterations >= 0, where, "iterations must be >= 0", o.iterations);
  check_weights(weights, where);
  check_integers(q, grids.dtype.storage(), weights.shape(), where);
  const std::int64_t out = weights.shape()[0];
  const std::int64_t n = weights.shape()[1];
  const std::int64_t group = group_extent(grids.group_size, n, where);
  const std::int64_t groups = block_count(n, group);
  const Shape shape = grids.group_size == 0 ? Shape{out} : Shape{out, groups};
  check_result(scale, shape, "scale");
  check_result(zero_point, shape, "zero_point");
  parallel_for(out, kRowTile, [&](std::int64_t first, std::int64_t last) {
    const kernels::FloatMode mode;
    std::vector<double> row(static_cast<std::size_t>(n));
    std::vector<std::int32_t> integers(row.size());
    std::vector<float> scales(static_cast<std::size_t>(groups));
    std::vector<float> zeros(scales.size());
    for (std::int64_t r = first; r < last; ++r) {
      kernels::load(weights, r * n, n, row.data());
      for (std::int64_t g = 0; g < groups; ++g) {
        const std::int64_t begin = g * group;
        const std::int64_t end = std::min(begin + group, n);
        const auto [low, high] = std::minmax_element(row.begin() + begin, row.begin() + end);
        const Grid plain = grid_from_range(static_cast<float>(*low), static_cast<float>(*high),
                                           grids.dtype, grids.symmetric);
        const RealGrid grid =
            improve(row.data() + begin, end - begin,
                    {static_cast<double>(plain.scale), static_cast<double>(plain.zero_point),
                     static_cast<double>(plain.qmin), static_cast<double>(plain.qmax)},
                    grids.symmetric, o);
        for (std::int64_t j = begin; j < end; ++j) {
          const auto i = static_cast<std::size_t>(j);
          integers[i] = static_cast<std::int32_t>(grid.integer(row[i]));
        }
        scales[static_cast<std::size_t>(g)] = static_cast<float>(grid.scale);
        zeros[static_cast<std::size_t>(g)] = static_cast<float>(grid.zero);
      }
      store_integers(integers.data(), r * n, n, q);
      kernels::store(scales.data(), r * groups, groups, scale);
      kernels::store(zeros.data(), r * groups, groups, zero_point);
    }
  });
}

}  // namespace moptcore::inline v0::quant

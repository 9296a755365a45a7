// SPDX-License-Identifier: Apache-2.0
#include <moptcore/quant/reconstruct.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include <moptcore/core/parallel.hpp>
#include <moptcore/quant/quantize.hpp>
#include <moptcore/quant/range.hpp>

#include "kernels/float_mode.hpp"
#include "kernels/product.hpp"
#include "kernels/strided.hpp"
#include "quant/cholesky.hpp"
#include "quant/weight_matrix.hpp"

namespace moptcore::inline v0::quant {
namespace {

using Doubles = std::vector<double>;

std::size_t at(std::int64_t row, std::int64_t cols, std::int64_t col) noexcept {
  return static_cast<std::size_t>(row * cols + col);
}

// The integer that quantize gives, for weights that moved in double.
std::int32_t nearest(double w, const Grid& grid, bool wide) noexcept {
  return wide ? quantize(w, grid) : quantize(static_cast<float>(w), grid);
}

double value(std::int32_t q, const Grid& grid) noexcept { return dequantize<double>(q, grid); }

// ---- GPTQ ------------------------------------------------------------------------------------

std::vector<std::int64_t> permutation(const Doubles& h, std::int64_t n, ColumnOrder order) {
  std::vector<std::int64_t> columns(static_cast<std::size_t>(n));
  std::iota(columns.begin(), columns.end(), std::int64_t{0});
  if (order == ColumnOrder::activation) {
    std::stable_sort(columns.begin(), columns.end(), [&](std::int64_t a, std::int64_t b) {
      return h[at(a, n, a)] > h[at(b, n, b)];
    });
  }
  return columns;
}

// U, upper triangular, with U^T U the inverse of the damped hessian in the given order. With both
// axes reversed H = L L^T, so that U is L^-1 reversed: one factorization instead of two.
Doubles inverse_factor(const Doubles& h, std::int64_t n, const std::vector<std::int64_t>& columns,
                       double damping, const char* where) {
  double mean = 0.0;
  for (std::int64_t i = 0; i < n; ++i) mean += h[at(i, n, i)] / static_cast<double>(n);
  Doubles reversed(h.size());
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int64_t row = columns[static_cast<std::size_t>(n - 1 - i)];
    for (std::int64_t j = 0; j < n; ++j) {
      reversed[at(i, n, j)] = h[at(row, n, columns[static_cast<std::size_t>(n - 1 - j)])];
    }
    double& diagonal = reversed[at(i, n, i)];
    diagonal += damping * mean;
    if (diagonal == 0.0) diagonal = 1.0;
  }
  check(cholesky(reversed, n), where, "hessian must be positive definite with this damping",
        damping);
  const Doubles inverse = invert_lower(reversed, n);
  Doubles upper(h.size());
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = i; j < n; ++j) {
      upper[at(i, n, j)] = inverse[at(n - 1 - i, n, n - 1 - j)];
    }
  }
  return upper;
}

// What one task needs: a few rows of weights that move, their grids and their integers.
class GptqTile {
 public:
  struct Plan {
    const AnyView& weights;
    const Doubles& upper;
    const std::vector<std::int64_t>& columns;
    const GridMap* fixed;  // none: grids are found on the way
    WeightGridOptions grids;
    std::int64_t group;  // columns of a group that is found on the way
    std::int64_t block_size;
    bool preserve_zeros;
    std::vector<float>* scale;
    std::vector<std::int32_t>* zero_point;
  };

  GptqTile(const Plan& plan, std::int64_t first, std::int64_t last)
      : plan_(plan),
        first_(first),
        rows_(last - first),
        n_(plan.weights.shape()[1]),
        wide_(plan.weights.dtype() == DType::float64),
        w_(static_cast<std::size_t>(rows_ * n_)),
        held_(w_.size()),
        q_(w_.size()),
        grids_(static_cast<std::size_t>(rows_)) {
    Doubles row(static_cast<std::size_t>(n_));
    for (std::int64_t r = 0; r < rows_; ++r) {
      kernels::load(plan.weights, (first + r) * n_, n_, row.data());
      for (std::int64_t j = 0; j < n_; ++j) {
        const double w = row[static_cast<std::size_t>(column(j))];
        w_[at(r, n_, j)] = w;
        held_[at(r, n_, j)] = plan.preserve_zeros && w == 0.0 ? 1 : 0;
      }
    }
  }

  void run(const MutableAnyView& q) {
    for (std::int64_t begin = 0; begin < n_;) {
      const std::int64_t end = block_end(begin);
      round_block(begin, end);
      begin = end;
    }
    for (std::int64_t r = 0; r < rows_; ++r) {
      store_integers(q_.data() + at(r, n_, 0), (first_ + r) * n_, n_, q);
    }
  }

 private:
  [[nodiscard]] std::int64_t column(std::int64_t j) const {
    return plan_.columns[static_cast<std::size_t>(j)];
  }

  // A group that starts inside of a block must end in it: its grid needs weights that are current.
  [[nodiscard]] std::int64_t block_end(std::int64_t begin) const {
    const std::int64_t end = std::min(begin + plan_.block_size, n_);
    if (plan_.fixed != nullptr || end == n_) return end;
    const std::int64_t start = end / plan_.group * plan_.group;
    return start > begin ? start : end;
  }

  void find_grids(std::int64_t j) {
    const std::int64_t end = std::min(j + plan_.group, n_);
    const std::int64_t groups = block_count(n_, plan_.group);
    for (std::int64_t r = 0; r < rows_; ++r) {
      // Every range has 0 in it, so that what is held at zero need not count.
      double low = 0.0;
      double high = 0.0;
      for (std::size_t i = at(r, n_, j); i < at(r, n_, end); ++i) {
        if (held_[i] != 0) continue;
        low = std::min(low, w_[i]);
        high = std::max(high, w_[i]);
      }
      const Grid grid = grid_from_range(static_cast<float>(low), static_cast<float>(high),
                                        plan_.grids.dtype, plan_.grids.symmetric);
      grids_[static_cast<std::size_t>(r)] = grid;
      (*plan_.scale)[at(first_ + r, groups, j / plan_.group)] = grid.scale;
      (*plan_.zero_point)[at(first_ + r, groups, j / plan_.group)] = grid.zero_point;
    }
  }

  void round_block(std::int64_t begin, std::int64_t end) {
    const std::int64_t width = end - begin;
    Doubles error(static_cast<std::size_t>(rows_ * width));
    for (std::int64_t j = begin; j < end; ++j) {
      if (plan_.fixed == nullptr && j % plan_.group == 0) find_grids(j);
      const double* u = plan_.upper.data() + at(j, n_, 0);
      for (std::int64_t r = 0; r < rows_; ++r) {
        const Grid grid = plan_.fixed != nullptr ? (*plan_.fixed)(first_ + r, column(j))
                                                 : grids_[static_cast<std::size_t>(r)];
        double* w = w_.data() + at(r, n_, 0);
        const bool held = held_[at(r, n_, j)] != 0;
        const std::int32_t integer = held ? grid.zero_point : nearest(w[j], grid, wide_);
        q_[at(r, n_, column(j))] = integer;
        const double rest = (w[j] - value(integer, grid)) / u[j];
        for (std::int64_t k = j + 1; k < end; ++k) w[k] -= rest * u[k];
        error[at(r, width, j - begin)] = -rest;
      }
    }
    if (end == n_) return;
    kernels::product_f64(rows_, n_ - end, width, {error.data(), width, 1},
                         {plan_.upper.data() + at(begin, n_, end), n_, 1},
                         {w_.data() + end, n_, 1});
  }

  const Plan& plan_;
  std::int64_t first_;
  std::int64_t rows_;
  std::int64_t n_;
  bool wide_;
  Doubles w_;
  std::vector<std::uint8_t> held_;  // at zero
  std::vector<std::int32_t> q_;
  std::vector<Grid> grids_;
};

void check_gptq(const AnyView& weights, const GptqOptions& o, const char* where) {
  check_weights(weights, where);
  check(std::isfinite(o.damping) && o.damping >= 0.0, where, "damping must be finite and >= 0",
        o.damping);
  check(o.block_size >= 1, where, "block_size must be >= 1", o.block_size);
}

void run_gptq(const AnyView& weights, const AnyView& hessian, const MutableAnyView& q,
              const GptqOptions& o, const GridMap* fixed, const WeightGridOptions& grids,
              std::vector<float>* scale, std::vector<std::int32_t>* zero_point, const char* where) {
  const std::int64_t n = weights.shape()[1];
  const Doubles h = second_moments(hessian, n, where);
  const auto columns = permutation(h, n, o.order);
  const Doubles upper = inverse_factor(h, n, columns, o.damping, where);
  const GptqTile::Plan plan{weights,      upper,
                            columns,      fixed,
                            grids,        group_extent(grids.group_size, n, where),
                            o.block_size, o.preserve_zeros,
                            scale,        zero_point};
  parallel_for(weights.shape()[0], kRowTile, [&](std::int64_t first, std::int64_t last) {
    const kernels::FloatMode mode;
    GptqTile(plan, first, last).run(q);
  });
}

// ---- AdaRound --------------------------------------------------------------------------------

// e^x for |x| <= 40, of multiplications and additions alone: std::exp may differ from CPU to CPU.
double exponential(double x) noexcept {
  const double halvings = std::nearbyint(x * 1.4426950408889634);
  const double r = x - halvings * 0.6931471805599453;
  // 1 / k!, whose next term is below 2^-54 for |r| <= log(2) / 2.
  constexpr double kTerms[] = {1.0 / 6227020800.0,
                               1.0 / 479001600.0,
                               1.0 / 39916800.0,
                               1.0 / 3628800.0,
                               1.0 / 362880.0,
                               1.0 / 40320.0,
                               1.0 / 5040.0,
                               1.0 / 720.0,
                               1.0 / 120.0,
                               1.0 / 24.0,
                               1.0 / 6.0,
                               0.5,
                               1.0,
                               1.0};
  double sum = 0.0;
  for (const double term : kTerms) sum = sum * r + term;
  const auto exponent = static_cast<std::uint64_t>(static_cast<std::int64_t>(halvings) + 1023);
  return sum * std::bit_cast<double>(exponent << 52);
}

double sigmoid(double x) noexcept { return 1.0 / (1.0 + exponential(-std::clamp(x, -40.0, 40.0))); }

// h = clip(sigmoid(v) * 1.2 - 0.1, 0, 1), the paper's zeta = 1.1 and gamma = -0.1.
constexpr double kStretch = 1.2;
constexpr double kShift = -0.1;

// The v with h(v) = x in [0, 1], by Newton's method on the sigmoid.
double inverse_of_h(double x) noexcept {
  const double goal = (x - kShift) / kStretch;
  double v = 4.0 * (goal - 0.5);
  for (int i = 0; i < 8; ++i) {
    const double s = sigmoid(v);
    v += (goal - s) / (s * (1.0 - s));
  }
  return v;
}

class AdaroundTile {
 public:
  AdaroundTile(const AnyView& weights, const Doubles& h, const std::vector<float>& h_float,
               const GridMap& map, bool preserve_zeros, std::int64_t first, std::int64_t last)
      : h_(h),
        h_float_(h_float),
        first_(first),
        rows_(last - first),
        n_(weights.shape()[1]),
        low_(static_cast<std::size_t>(rows_ * n_)),
        rounded_(low_.size()),
        step_(low_.size()),
        below_(low_.size()),
        free_(low_.size()) {
    const bool wide = weights.dtype() == DType::float64;
    Doubles row(static_cast<std::size_t>(n_));
    for (std::int64_t r = 0; r < rows_; ++r) {
      kernels::load(weights, (first + r) * n_, n_, row.data());
      for (std::int64_t j = 0; j < n_; ++j) {
        const Grid grid = map(first + r, j);
        const double w = row[static_cast<std::size_t>(j)];
        const double scale = static_cast<double>(grid.scale);
        const std::size_t i = at(r, n_, j);
        const double least = grid.qmin - grid.zero_point;
        const double most = grid.qmax - grid.zero_point;
        const double floor = std::clamp(std::floor(w / scale), least, most);
        low_[i] = static_cast<std::int32_t>(floor) + grid.zero_point;
        step_[i] = scale;
        below_[i] = floor * scale - w;
        // Weights beyond the grid have no choice.
        free_[i] = floor < most && w / scale > least && !(preserve_zeros && w == 0.0) ? 1 : 0;
        rounded_[i] = free_[i] != 0 && nearest(w, grid, wide) > low_[i] ? 1 : 0;
      }
    }
  }

  void run(const AdaroundOptions& o, const MutableAnyView& q) {
    std::vector<std::uint8_t> plain = rounded_;
    const Doubles plain_error = descend(plain);
    std::vector<std::uint8_t> best = plain;
    if (o.iterations > 0) {
      std::vector<std::uint8_t> learned = learn(o);
      const Doubles learned_error = descend(learned);
      for (std::int64_t r = 0; r < rows_; ++r) {
        if (learned_error[static_cast<std::size_t>(r)] < plain_error[static_cast<std::size_t>(r)]) {
          std::copy_n(learned.begin() + static_cast<std::ptrdiff_t>(r * n_), n_,
                      best.begin() + static_cast<std::ptrdiff_t>(r * n_));
        }
      }
    }
    std::vector<std::int32_t> integers(low_);
    for (std::size_t i = 0; i < integers.size(); ++i) integers[i] += best[i];
    store_integers(integers.data(), first_ * n_, rows_ * n_, q);
  }

 private:
  // error * H for every row.
  [[nodiscard]] Doubles slopes(const Doubles& error) const {
    Doubles result(error.size());
    kernels::product_f64(rows_, n_, n_, {error.data(), n_, 1}, {h_.data(), n_, 1},
                         {result.data(), n_, 1});
    return result;
  }

  // Turns over single weights, the columns in order, while a sweep lowers a row's error; gives the
  // errors.
  [[nodiscard]] Doubles descend(std::vector<std::uint8_t>& up) const {
    Doubles error(below_);
    for (std::size_t i = 0; i < error.size(); ++i) error[i] += up[i] != 0 ? step_[i] : 0.0;
    Doubles slope = slopes(error);
    for (std::int64_t r = 0; r < rows_; ++r) {
      double* g = slope.data() + r * n_;
      for (int sweep = 0; sweep < 100; ++sweep) {
        bool moved = false;
        for (std::int64_t j = 0; j < n_; ++j) {
          const std::size_t i = at(r, n_, j);
          const double move = up[i] != 0 ? -step_[i] : step_[i];
          const double curvature = h_[at(j, n_, j)];
          // Changes below the rounding of the sums would go on for ever.
          const double gain = move * (2.0 * g[j] + move * curvature);
          if (free_[i] == 0 || gain >= -1e-9 * move * move * curvature) continue;
          const double* row = h_.data() + at(j, n_, 0);
          for (std::int64_t k = 0; k < n_; ++k) g[k] += move * row[k];
          error[i] += move;
          up[i] ^= 1;
          moved = true;
        }
        if (!moved) break;
      }
    }
    slope = slopes(error);
    Doubles total(static_cast<std::size_t>(rows_));
    for (std::int64_t r = 0; r < rows_; ++r) {
      for (std::int64_t j = 0; j < n_; ++j) {
        total[static_cast<std::size_t>(r)] += error[at(r, n_, j)] * slope[at(r, n_, j)];
      }
    }
    return total;
  }

  // The mean of the diagonal terms of each row's error, whose reciprocal makes errors comparable.
  [[nodiscard]] Doubles units() const {
    Doubles unit(static_cast<std::size_t>(rows_));
    for (std::int64_t r = 0; r < rows_; ++r) {
      double& sum = unit[static_cast<std::size_t>(r)];
      for (std::int64_t j = 0; j < n_; ++j) {
        const double step = step_[at(r, n_, j)];
        sum += step * step * h_[at(j, n_, j)] / static_cast<double>(n_);
      }
      if (!(sum > 0.0)) sum = 1.0;
    }
    return unit;
  }

  [[nodiscard]] std::vector<std::uint8_t> learn(const AdaroundOptions& o) const {
    const std::size_t size = low_.size();
    const Doubles unit = units();
    Doubles v(size);
    Doubles mean(size);
    Doubles square(size);
    for (std::size_t i = 0; i < size; ++i) {
      v[i] = inverse_of_h(std::clamp(-below_[i] / step_[i], 0.0, 1.0));
    }
    std::vector<float> error(size);
    std::vector<float> slope(size);
    Doubles height(size);
    Doubles tilt(size);  // d h / d v
    double mean_left = 1.0;
    double square_left = 1.0;
    const int warm = o.iterations / 5;
    for (int t = 0; t < o.iterations; ++t) {
      for (std::size_t i = 0; i < size; ++i) {
        const double s = sigmoid(v[i]);
        const double h = s * kStretch + kShift;
        height[i] = std::clamp(h, 0.0, 1.0);
        tilt[i] = h > 0.0 && h < 1.0 ? s * (1.0 - s) * kStretch : 0.0;
        error[i] = static_cast<float>(below_[i] + (free_[i] != 0 ? height[i] * step_[i] : 0.0));
      }
      std::fill(slope.begin(), slope.end(), 0.0f);
      kernels::product_f32(rows_, n_, n_, {error.data(), n_, 1}, {h_float_.data(), n_, 1},
                           {slope.data(), n_, 1});
      mean_left *= 0.9;
      square_left *= 0.999;
      // Even powers from 20 to 2 need products alone.
      const int half = t < warm ? 0 : 10 - 9 * (t - warm) / std::max(o.iterations - warm - 1, 1);
      for (std::size_t i = 0; i < size; ++i) {
        if (free_[i] == 0) continue;
        const double row = unit[i / static_cast<std::size_t>(n_)];
        double grad = 2.0 * step_[i] * static_cast<double>(slope[i]) / row;
        if (half > 0) {
          const double x = 2.0 * height[i] - 1.0;
          double power = x;
          for (int k = 1; k < half; ++k) power *= x * x;
          grad -= o.regularization * 4.0 * static_cast<double>(half) * power;
        }
        grad *= tilt[i];
        mean[i] = 0.9 * mean[i] + 0.1 * grad;
        square[i] = 0.999 * square[i] + 0.001 * grad * grad;
        v[i] -= o.learning_rate * (mean[i] / (1.0 - mean_left)) /
                (std::sqrt(square[i] / (1.0 - square_left)) + 1e-8);
      }
    }
    std::vector<std::uint8_t> up(size);
    for (std::size_t i = 0; i < size; ++i) up[i] = free_[i] != 0 && v[i] > 0.0 ? 1 : 0;
    return up;
  }

  const Doubles& h_;
  const std::vector<float>& h_float_;
  std::int64_t first_;
  std::int64_t rows_;
  std::int64_t n_;
  std::vector<std::int32_t> low_;
  std::vector<std::uint8_t> rounded_;
  Doubles step_;
  Doubles below_;  // the lower choice less the weight
  std::vector<std::uint8_t> free_;
};

}  // namespace

double reconstruction_error(const AnyView& weights, const AnyView& approximation,
                            const AnyView& hessian) {
  constexpr auto where = "quant.reconstruction_error";
  check_weights(weights, where);
  const std::int64_t n = weights.shape()[1];
  const Doubles other = finite_numbers(approximation, weights.shape(), where, "approximation");
  const bool diagonal = hessian.rank() == 1;
  const Doubles h = diagonal ? finite_numbers(hessian, Shape{n}, where, "hessian")
                             : second_moments(hessian, n, where);
  const std::int64_t out = weights.shape()[0];
  Doubles sums(static_cast<std::size_t>(block_count(out, kRowTile)));
  parallel_blocks(out, kRowTile, [&](std::int64_t block, std::int64_t first, std::int64_t last) {
    const std::int64_t rows = last - first;
    Doubles error(static_cast<std::size_t>(rows * n));
    kernels::load(weights, first * n, rows * n, error.data());
    for (std::size_t i = 0; i < error.size(); ++i) error[i] -= other[at(first, n, 0) + i];
    sums[static_cast<std::size_t>(block)] = output_error(error, h, n);
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

QParams gptq(const AnyView& weights, const AnyView& hessian, const MutableAnyView& q,
             const WeightGridOptions& grids, const GptqOptions& options) {
  constexpr auto where = "quant.gptq";
  check<DTypeError>(is_quantized(grids.dtype), where, kGridTypeRule, name(grids.dtype));
  check_gptq(weights, options, where);
  const std::int64_t group = group_extent(grids.group_size, weights.shape()[1], where);
  if (options.order == ColumnOrder::activation) {
    const QParams plain = plain_grids(weights, grids.dtype, grids.group_size, grids.symmetric);
    gptq(weights, hessian, q, plain, options);
    return plain;
  }
  check_integers(q, grids.dtype.storage(), weights.shape(), where);
  const auto count =
      static_cast<std::size_t>(weights.shape()[0] * block_count(weights.shape()[1], group));
  std::vector<float> scale(count, 1.0f);
  std::vector<std::int32_t> zero_point(count);
  run_gptq(weights, hessian, q, options, nullptr, grids, &scale, &zero_point, where);
  return grids_of(std::move(scale), std::move(zero_point), weights.shape(), grids.dtype,
                  grids.group_size, grids.symmetric);
}

void gptq(const AnyView& weights, const AnyView& hessian, const MutableAnyView& q,
          const QParams& grids, const GptqOptions& options) {
  constexpr auto where = "quant.gptq";
  check_gptq(weights, options, where);
  check_integers(q, grids.dtype(), weights.shape(), where);
  const GridMap map(grids, weights.shape(), where);
  run_gptq(weights, hessian, q, options, &map, {}, nullptr, nullptr, where);
}

void adaround(const AnyView& weights, const AnyView& hessian, const MutableAnyView& q,
              const QParams& grids, const AdaroundOptions& options) {
  constexpr auto where = "quant.adaround";
  check_weights(weights, where);
  check_integers(q, grids.dtype(), weights.shape(), where);
  check(options.iterations >= 0, where, "iterations must be >= 0", options.iterations);
  check(std::isfinite(options.learning_rate) && options.learning_rate > 0.0, where,
        "learning_rate must be finite and > 0", options.learning_rate);
  check(std::isfinite(options.regularization) && options.regularization >= 0.0, where,
        "regularization must be finite and >= 0", options.regularization);
  const GridMap map(grids, weights.shape(), where);
  const std::int64_t n = weights.shape()[1];
  Doubles h = second_moments(hessian, n, where);
  // In float the hessian must neither overflow nor vanish.
  const double top = *std::max_element(h.begin(), h.end());
  if (top > 0.0) {
    for (double& x : h) x /= top;
  }
  const std::vector<float> h_float(h.begin(), h.end());
  parallel_for(weights.shape()[0], kRowTile, [&](std::int64_t first, std::int64_t last) {
    const kernels::FloatMode mode;
    AdaroundTile(weights, h, h_float, map, options.preserve_zeros, first, last).run(options, q);
  });
}

void bias_correction(const AnyView& weights, const AnyView& approximation, const AnyView& mean,
                     const MutableAnyView& correction, std::int64_t groups) {
  constexpr auto where = "quant.bias_correction";
  check<DTypeError>(is_floating(weights.dtype()), where,
                    "weights must be float64, float32, float16 or bfloat16", name(weights.dtype()));
  check(weights.rank() >= 2 && !weights.empty(), where,
        "weights must have the dimensions [out, in / groups, ...] and not be empty",
        weights.shape());
  const std::int64_t out = weights.shape()[0];
  const std::int64_t in = weights.shape()[1];
  check(groups >= 1 && out % groups == 0, where,
        "groups must be >= 1 and divide the outputs " + std::to_string(out), groups);
  const Doubles w = finite_numbers(weights, weights.shape(), where, "weights");
  const Doubles a = finite_numbers(approximation, weights.shape(), where, "approximation");
  const Doubles x = finite_numbers(mean, Shape{in * groups}, where, "mean");
  check<DTypeError>(is_floating(correction.dtype()), where, "the correction must be floating",
                    name(correction.dtype()));
  check(correction.shape() == Shape{out}, where, "the correction must have one value an output",
        correction.shape());
  const std::int64_t inner = weights.size() / (out * in);
  Doubles result(static_cast<std::size_t>(out));
  for (std::int64_t o = 0; o < out; ++o) {
    const std::int64_t group = o / (out / groups);
    for (std::int64_t c = 0; c < in; ++c) {
      double sum = 0.0;
      for (std::int64_t k = 0; k < inner; ++k) {
        const std::size_t i = at(o * in + c, inner, k);
        sum += w[i] - a[i];
      }
      result[static_cast<std::size_t>(o)] += sum * x[static_cast<std::size_t>(group * in + c)];
    }
  }
  kernels::store(result.data(), 0, out, correction);
}

}  // namespace moptcore::inline v0::quant

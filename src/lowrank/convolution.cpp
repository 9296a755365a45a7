// SPDX-License-Identifier: Apache-2.0
#include <moptcore/lowrank/convolution.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "lowrank/budget.hpp"
#include "lowrank/matrix.hpp"

namespace moptcore::inline v0::lowrank {
namespace {

void check_weight(const AnyView& w, const char* where) {
  check(w.rank() == 4 && !w.empty(), where,
        "w must have shape [out, in, kh, kw] and one or more elements", w.shape());
}

// The elements of `source`, of extents `shape`, with axes in another order.
std::vector<double> permuted(const std::vector<double>& source,
                             const std::array<std::int64_t, 4>& shape,
                             const std::array<int, 4>& order) {
  std::array<std::int64_t, 4> strides{};
  std::int64_t step = 1;
  for (int axis = 3; axis >= 0; --axis) {
    strides[static_cast<std::size_t>(axis)] = step;
    step *= shape[static_cast<std::size_t>(axis)];
  }
  const auto extent = [&](int i) {
    return shape[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])];
  };
  const auto stride = [&](int i) {
    return strides[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])];
  };
  std::vector<double> result;
  result.reserve(source.size());
  for (std::int64_t a = 0; a < extent(0); ++a) {
    for (std::int64_t b = 0; b < extent(1); ++b) {
      for (std::int64_t c = 0; c < extent(2); ++c) {
        const double* from = source.data() + a * stride(0) + b * stride(1) + c * stride(2);
        for (std::int64_t d = 0; d < extent(3); ++d) result.push_back(from[d * stride(3)]);
      }
    }
  }
  return result;
}

Matrix<double> shaped(std::vector<double> values, std::int64_t rows, std::int64_t cols) {
  Matrix<double> result;
  result.rows = rows;
  result.cols = cols;
  result.values = std::move(values);
  return result;
}

// Makes the entry of largest magnitude in each column positive.
void fix_signs(Matrix<double>& a) {
  for (std::int64_t k = 0; k < a.cols; ++k) {
    double largest = 0.0;
    for (std::int64_t i = 0; i < a.rows; ++i) {
      if (std::abs(a.row(i)[k]) > std::abs(largest)) largest = a.row(i)[k];
    }
    if (largest >= 0.0) continue;
    for (std::int64_t i = 0; i < a.rows; ++i) a.row(i)[k] = -a.row(i)[k];
  }
}

// A weight [out, in, k] and the subspaces of its two channel axes.
class Tucker {
 public:
  Tucker(Matrix<double> by_out, std::int64_t in) : w_(std::move(by_out)), in_(in) {}

  [[nodiscard]] std::int64_t out() const { return w_.rows; }
  [[nodiscard]] std::int64_t in() const { return in_; }
  [[nodiscard]] std::int64_t taps() const { return w_.cols / in_; }
  [[nodiscard]] std::int64_t parameters(std::int64_t r_out, std::int64_t r_in) const {
    return out() * r_out + r_out * r_in * taps() + in() * r_in;
  }
  [[nodiscard]] double squared() const { return squared_norm(w_.values); }

  // All directions of both axes: the higher-order SVD.
  void start() {
    basis_out_ = eigenvectors(product(w_, false, w_, true)).vectors;
    const Matrix<double> by_in = swapped(w_, in_);
    basis_in_ = eigenvectors(product(by_in, false, by_in, true)).vectors;
  }

  void cut(std::int64_t r_out, std::int64_t r_in) {
    basis_out_ = leading(basis_out_, r_out);
    basis_in_ = leading(basis_in_, r_in);
  }

  // Each axis in turn gets the directions that keep most, given those of the other one.
  void sweep() {
    const std::int64_t r_out = basis_out_.cols;
    const std::int64_t r_in = basis_in_.cols;
    const Matrix<double> less_in = onto_in(w_);
    basis_out_ = leading(eigenvectors(product(less_in, false, less_in, true)).vectors, r_out);
    const Matrix<double> less_out = product(basis_out_, true, w_, false);
    const Matrix<double> by_in = swapped(less_out, in_);
    basis_in_ = leading(eigenvectors(product(by_in, false, by_in, true)).vectors, r_in);
  }

  // [r_out, r_in k]
  [[nodiscard]] Matrix<double> core() const {
    return onto_in(product(basis_out_, true, w_, false));
  }

  Matrix<double>& basis_out() { return basis_out_; }
  Matrix<double>& basis_in() { return basis_in_; }

 private:
  // [a, b k] to [b, a k].
  [[nodiscard]] Matrix<double> swapped(const Matrix<double>& a, std::int64_t b) const {
    return shaped(permuted(a.values, {a.rows, b, taps(), 1}, {1, 0, 2, 3}), b, a.rows * taps());
  }

  // [a, in k] to [a, r_in k].
  [[nodiscard]] Matrix<double> onto_in(const Matrix<double>& a) const {
    const Matrix<double> by_in = product(basis_in_, true, swapped(a, in_), false);
    return shaped(permuted(by_in.values, {by_in.rows, a.rows, taps(), 1}, {1, 0, 2, 3}), a.rows,
                  by_in.rows * taps());
  }

  Matrix<double> w_;
  std::int64_t in_;
  Matrix<double> basis_out_;
  Matrix<double> basis_in_;
};

// Calls f(r_out, r_in, parameters, energy) for all pairs of ranks that make the weight smaller,
// with what the leading block of the full core holds.
template <class F>
void for_each_pair(const Tucker& tucker, const Matrix<double>& core, F&& f) {
  const std::int64_t taps = tucker.taps();
  const std::int64_t all = tucker.out() * tucker.in() * taps;
  std::vector<double> above(static_cast<std::size_t>(tucker.in()), 0.0);
  for (std::int64_t r_out = 1; r_out <= tucker.out(); ++r_out) {
    double row_energy = 0.0;
    for (std::int64_t r_in = 1; r_in <= tucker.in(); ++r_in) {
      const double* cell = core.row(r_out - 1) + (r_in - 1) * taps;
      row_energy += squared_norm({cell, static_cast<std::size_t>(taps)});
      const double energy = above[static_cast<std::size_t>(r_in - 1)] += row_energy;
      const std::int64_t cost = tucker.parameters(r_out, r_in);
      if (cost < all) f(r_out, r_in, cost, energy);
    }
  }
}

// The best pair of ranks by what leading blocks of the full core hold.
std::pair<std::int64_t, std::int64_t> best_ranks(const Tucker& tucker, const Matrix<double>& core,
                                                 const Budget& budget, const char* where) {
  const std::int64_t all = tucker.out() * tucker.in() * tucker.taps();
  const double total = tucker.squared();
  // Squared norms are known to some 1e-14; what is asked for must not be missed by that.
  const double enough = budget.params ? 0.0 : (1.0 - allowed_loss(budget) - 1e-13) * total;
  const double most = budget.params ? *budget.params * static_cast<double>(all)
                                    : std::numeric_limits<double>::infinity();
  std::pair<std::int64_t, std::int64_t> best{0, 0};
  std::int64_t best_cost = 0;
  double best_energy = -1.0;
  for_each_pair(
      tucker, core, [&](std::int64_t r_out, std::int64_t r_in, std::int64_t cost, double energy) {
        if (static_cast<double>(cost) > most || energy < enough) return;
        const bool cheaper = cost < best_cost || (cost == best_cost && energy > best_energy);
        const bool richer = energy > best_energy || (energy == best_energy && cost < best_cost);
        if (best.first == 0 || (budget.params ? richer : cheaper)) {
          best = {r_out, r_in};
          best_cost = cost;
          best_energy = energy;
        }
      });
  if (best.first == 0 && budget.params) {
    check(
        false, where,
        "params must allow ranks (1, 1), at least " +
            std::to_string(static_cast<double>(tucker.parameters(1, 1)) / static_cast<double>(all)),
        *budget.params);
  }
  check(best.first > 0, where,
        std::string(budget.energy ? "energy" : "error") +
            " must be within reach of ranks that make w smaller",
        budget.energy.value_or(budget.error.value_or(0.0)));
  return best;
}

// The weight as a matrix, its axes in the order `order`, factorized. Narrow dtypes stay narrow:
// they need less care.
Factorization factorize_as(const AnyView& w, const std::array<int, 4>& order, const Shape& matrix,
                           const FactorizeOptions& options, const char* where) {
  const Shape& shape = w.shape();
  const Scaled scaled = load_scaled(w, where, "w");
  std::vector<double> values =
      permuted(scaled.values, {shape[0], shape[1], shape[2], shape[3]}, order);
  for (double& value : values) value = std::ldexp(value, scaled.exponent);
  if (w.dtype() == DType::float64) {
    return factorize(TensorView<const double>(values.data(), matrix), options, where);
  }
  const std::vector<float> floats(values.begin(), values.end());
  return factorize(TensorView<const float>(floats.data(), matrix), options, where);
}

Sequence two(const AnyView& w, const Factorization& factors, const Shape& first,
             const Shape& second, bool spatial) {
  std::vector<double> u(static_cast<std::size_t>(factors.rows() * factors.rank()));
  std::vector<double> v(static_cast<std::size_t>(factors.rank() * factors.cols()));
  factors.write(TensorView<double>(u.data(), {factors.rows(), factors.rank()}),
                TensorView<double>(v.data(), {factors.rank(), factors.cols()}));
  if (!spatial) {
    return {{first, second}, {std::move(v), std::move(u)}, factors.relative_error()};
  }
  const std::int64_t r = factors.rank();
  // [in, kh, r] to [r, in, kh], and [r, out, kw] to [out, r, kw].
  return {{first, second},
          {permuted(u, {w.shape()[1], w.shape()[2], r, 1}, {2, 0, 1, 3}),
           permuted(v, {r, w.shape()[0], w.shape()[3], 1}, {1, 0, 2, 3})},
          factors.relative_error()};
}

}  // namespace

Sequence::Sequence(std::vector<Shape> shapes, std::vector<std::vector<double>> values,
                   double relative_error)
    : shapes_(std::move(shapes)), values_(std::move(values)), relative_error_(relative_error) {
  check(shapes_.size() == values_.size(), "lowrank.Sequence", "values must be as many as shapes",
        values_.size());
  for (std::size_t i = 0; i < shapes_.size(); ++i) {
    check(element_count(shapes_[i]) == static_cast<std::int64_t>(values_[i].size()),
          "lowrank.Sequence", "values must fill their shapes", values_[i].size());
  }
}

void Sequence::write(std::size_t index, const MutableAnyView& dst) const {
  constexpr auto where = "lowrank.Sequence";
  check(index < size(), where, "index must be below " + std::to_string(size()), index);
  store_values(values_[index], shapes_[index], dst, where, "dst");
}

Sequence channel_svd(const AnyView& w, const FactorizeOptions& options) {
  constexpr auto where = "lowrank.channel_svd";
  check_weight(w, where);
  const Shape& shape = w.shape();
  const std::int64_t inner = shape[1] * shape[2] * shape[3];
  const Factorization factors = factorize_as(w, {0, 1, 2, 3}, {shape[0], inner}, options, where);
  const std::int64_t r = factors.rank();
  return two(w, factors, {r, shape[1], shape[2], shape[3]}, {shape[0], r, 1, 1}, false);
}

Sequence spatial_svd(const AnyView& w, const FactorizeOptions& options) {
  constexpr auto where = "lowrank.spatial_svd";
  check_weight(w, where);
  check(!options.whiten, where, "whiten must not be given: the inputs of w do not stay one axis");
  const Shape& shape = w.shape();
  const Factorization factors =
      factorize_as(w, {1, 2, 0, 3}, {shape[1] * shape[2], shape[0] * shape[3]}, options, where);
  const std::int64_t r = factors.rank();
  return two(w, factors, {r, shape[1], shape[2], 1}, {shape[0], r, 1, shape[3]}, true);
}

Sequence tucker2(const AnyView& w, const TuckerOptions& options) {
  constexpr auto where = "lowrank.tucker2";
  check_weight(w, where);
  check(options.iterations >= 0, where, "iterations must be >= 0", options.iterations);
  check(!options.budget.rank, where, "rank must be a pair (out, in)");
  if (options.ranks) {
    check(!options.budget.energy && !options.budget.params && !options.budget.error, where,
          "exactly one of rank, energy, params and error must be given");
  } else {
    check_budget(options.budget, where);
  }
  const Shape& shape = w.shape();
  const std::int64_t taps = shape[2] * shape[3];
  Scaled scaled = load_scaled(w, where, "w");
  Tucker tucker(shaped(std::move(scaled.values), shape[0], shape[1] * taps), shape[1]);
  if (options.ranks) {
    const auto [r_out, r_in] = *options.ranks;
    check(r_out >= 1 && r_out <= shape[0] && r_in >= 1 && r_in <= shape[1], where,
          "rank must be a pair in [1, out] and [1, in]", Shape{r_out, r_in});
    const std::int64_t held = tucker.parameters(r_out, r_in);
    check(held < w.size(), where,
          "rank must make w smaller than its " + std::to_string(w.size()) + " parameters", held);
  }
  tucker.start();
  const auto [r_out, r_in] =
      options.ranks ? *options.ranks : best_ranks(tucker, tucker.core(), options.budget, where);
  tucker.cut(r_out, r_in);
  double kept = squared_norm(tucker.core().values);
  for (std::int64_t i = 0; i < options.iterations; ++i) {
    // The energy never falls; less than this is rounding.
    constexpr double kConverged = 1e-10;
    tucker.sweep();
    const double now = squared_norm(tucker.core().values);
    const bool converged = now - kept <= kConverged * now;
    kept = now;
    if (converged) break;
  }
  fix_signs(tucker.basis_out());
  fix_signs(tucker.basis_in());
  Matrix<double> core = tucker.core();
  for (double& value : core.values) value = std::ldexp(value, scaled.exponent);
  const double total = tucker.squared();
  const double error = total > 0.0 ? std::sqrt(std::max(total - kept, 0.0) / total) : 0.0;
  return {{{r_in, shape[1], 1, 1}, {r_out, r_in, shape[2], shape[3]}, {shape[0], r_out, 1, 1}},
          {transposed(tucker.basis_in()).values, std::move(core.values),
           std::move(tucker.basis_out().values)},
          error};
}

std::vector<TuckerChoice> tucker2_choices(const AnyView& w) {
  constexpr auto where = "lowrank.tucker2_choices";
  check_weight(w, where);
  const Shape& shape = w.shape();
  Scaled scaled = load_scaled(w, where, "w");
  Tucker tucker(shaped(std::move(scaled.values), shape[0], shape[1] * shape[2] * shape[3]),
                shape[1]);
  tucker.start();
  const double total = tucker.squared();
  std::vector<TuckerChoice> pairs;
  for_each_pair(tucker, tucker.core(),
                [&](std::int64_t r_out, std::int64_t r_in, std::int64_t cost, double energy) {
                  const double loss =
                      total > 0.0 ? std::clamp((total - energy) / total, 0.0, 1.0) : 0.0;
                  pairs.push_back({{r_out, r_in}, {cost, loss}});
                });
  std::ranges::stable_sort(pairs, [](const TuckerChoice& a, const TuckerChoice& b) {
    return a.choice.parameters != b.choice.parameters ? a.choice.parameters < b.choice.parameters
                                                      : a.choice.loss < b.choice.loss;
  });
  std::vector<TuckerChoice> result;
  for (const TuckerChoice& pair : pairs) {
    if (result.empty() || pair.choice.loss < result.back().choice.loss) result.push_back(pair);
  }
  return result;
}

Sequence reconstruct(const std::vector<AnyView>& factors) {
  constexpr auto where = "lowrank.reconstruct";
  check(!factors.empty(), where, "factors must be one or more");
  if (factors.size() == 2 && factors[0].rank() == 2 && factors[1].rank() == 2) {
    // The matrices as 1 x 1 convolutions, the right one applied first.
    const auto widened = [](const AnyView& a) {
      return AnyView(a.data(), a.dtype(), {a.shape()[0], a.shape()[1], 1, 1},
                     {a.strides()[0], a.strides()[1], 1, 1});
    };
    Sequence made = reconstruct({widened(factors[1]), widened(factors[0])});
    return {{{made.shape(0)[0], made.shape(0)[1]}}, {std::move(made.values_[0])}, 0.0};
  }
  for (const AnyView& factor : factors) check_weight(factor, where);
  Shape shape = factors.front().shape();
  Scaled first = load_scaled(factors.front(), where, "factors");
  int exponent = first.exponent;
  std::vector<double> values = std::move(first.values);
  for (std::size_t next = 1; next < factors.size(); ++next) {
    const Shape& outer = factors[next].shape();
    check(outer[1] == shape[0], where,
          "factors must take as many channels as the one before gives, " + std::to_string(shape[0]),
          outer[1]);
    const Scaled scaled = load_scaled(factors[next], where, "factors");
    exponent += scaled.exponent;
    const Shape grown{outer[0], shape[1], shape[2] + outer[2] - 1, shape[3] + outer[3] - 1};
    std::vector<double> sum(static_cast<std::size_t>(element_count(grown)), 0.0);
    const Matrix<double> inner =
        shaped(std::move(values), shape[0], shape[1] * shape[2] * shape[3]);
    const auto taps =
        permuted(scaled.values, {outer[0], outer[1], outer[2], outer[3]}, {2, 3, 0, 1});
    for (std::int64_t tap = 0; tap < outer[2] * outer[3]; ++tap) {
      const std::int64_t size = outer[0] * outer[1];
      const Matrix<double> part = product(
          shaped({taps.begin() + tap * size, taps.begin() + (tap + 1) * size}, outer[0], outer[1]),
          false, inner, false);
      const std::int64_t down = tap / outer[3];
      const std::int64_t right = tap % outer[3];
      const double* from = part.values.data();
      for (std::int64_t channel = 0; channel < outer[0] * shape[1]; ++channel) {
        for (std::int64_t y = 0; y < shape[2]; ++y) {
          double* to = sum.data() + (channel * grown[2] + y + down) * grown[3] + right;
          for (std::int64_t x = 0; x < shape[3]; ++x) to[x] += *from++;
        }
      }
    }
    shape = grown;
    values = std::move(sum);
  }
  for (double& value : values) value = std::ldexp(value, exponent);
  return {{shape}, {std::move(values)}, 0.0};
}

}  // namespace moptcore::inline v0::lowrank

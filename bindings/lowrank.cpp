// SPDX-License-Identifier: Apache-2.0
#include <moptcore/lowrank/lowrank.hpp>

#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <moptcore/core/copy.hpp>

#include "array.hpp"
#include "module.hpp"

namespace moptcore::bindings {

namespace py = pybind11;

namespace {

using Number = std::optional<double>;
using Rank = std::optional<std::int64_t>;
using Ranks = std::optional<std::pair<std::int64_t, std::int64_t>>;

lowrank::Method method_from(const std::string& text, const char* where) {
  if (text == "svd") return lowrank::Method::svd;
  if (text == "randomized") return lowrank::Method::randomized;
  check(text == "krylov", where, "method must be svd, randomized or krylov", text);
  return lowrank::Method::krylov;
}

lowrank::FactorizeOptions options_from(Rank rank, Number energy, Number params, Number error,
                                       const std::string& method, std::uint64_t seed,
                                       std::int64_t oversampling, std::int64_t iterations,
                                       double tolerance, const char* where) {
  return {.budget = {.rank = rank, .energy = energy, .params = params, .error = error},
          .method = method_from(method, where),
          .seed = seed,
          .oversampling = oversampling,
          .iterations = iterations,
          .tolerance = tolerance,
          .whiten = std::nullopt};
}

py::tuple factorize(const Array& w, Rank rank, Number energy, Number params, Number error,
                    const std::string& method, const std::optional<Array>& whiten,
                    std::uint64_t seed, std::int64_t oversampling, std::int64_t iterations,
                    double tolerance) {
  constexpr const char* kWhere = "lowrank.factorize";
  adopt_thread_limit();
  lowrank::FactorizeOptions options = options_from(rank, energy, params, error, method, seed,
                                                   oversampling, iterations, tolerance, kWhere);
  if (whiten) options.whiten = whiten->view();
  const lowrank::Factorization factors = [&] {
    const py::gil_scoped_release release;
    return lowrank::factorize(w.view(), options);
  }();
  Output u(w, w.dtype(), {factors.rows(), factors.rank()}, py::none(), kWhere);
  Output v(w, w.dtype(), {factors.rank(), factors.cols()}, py::none(), kWhere);
  {
    const py::gil_scoped_release release;
    factors.write(u.view(), v.view());
  }
  return py::make_tuple(u.take(), v.take());
}

py::object singular_values(const Array& w, const std::optional<Array>& whiten) {
  adopt_thread_limit();
  const std::vector<double> values = [&] {
    const py::gil_scoped_release release;
    return lowrank::singular_values(w.view(),
                                    whiten ? std::optional(whiten->view()) : std::nullopt);
  }();
  Output result(DType::float64, {static_cast<std::int64_t>(values.size())}, py::none(),
                "lowrank.singular_values");
  copy_elements(values, result.view());
  return result.take();
}

// The factors as arrays of w's kind and dtype.
py::tuple arrays(const lowrank::Sequence& sequence, const Array& w, const char* where) {
  py::tuple result(sequence.size());
  for (std::size_t i = 0; i < sequence.size(); ++i) {
    Output factor(w, w.dtype(), sequence.shape(i), py::none(), where);
    {
      const py::gil_scoped_release release;
      sequence.write(i, factor.view());
    }
    result[i] = factor.take();
  }
  return result;
}

py::tuple channel_svd(const Array& w, Rank rank, Number energy, Number params, Number error,
                      const std::string& method, const std::optional<Array>& whiten,
                      std::uint64_t seed, std::int64_t oversampling, std::int64_t iterations,
                      double tolerance) {
  constexpr const char* kWhere = "lowrank.channel_svd";
  adopt_thread_limit();
  lowrank::FactorizeOptions options = options_from(rank, energy, params, error, method, seed,
                                                   oversampling, iterations, tolerance, kWhere);
  if (whiten) options.whiten = whiten->view();
  const lowrank::Sequence sequence = [&] {
    const py::gil_scoped_release release;
    return lowrank::channel_svd(w.view(), options);
  }();
  return arrays(sequence, w, kWhere);
}

py::tuple spatial_svd(const Array& w, Rank rank, Number energy, Number params, Number error,
                      const std::string& method, std::uint64_t seed, std::int64_t oversampling,
                      std::int64_t iterations, double tolerance) {
  constexpr const char* kWhere = "lowrank.spatial_svd";
  adopt_thread_limit();
  const lowrank::FactorizeOptions options = options_from(
      rank, energy, params, error, method, seed, oversampling, iterations, tolerance, kWhere);
  const lowrank::Sequence sequence = [&] {
    const py::gil_scoped_release release;
    return lowrank::spatial_svd(w.view(), options);
  }();
  return arrays(sequence, w, kWhere);
}

py::tuple tucker2(const Array& w, Ranks rank, Number energy, Number params, Number error,
                  std::int64_t iterations) {
  adopt_thread_limit();
  const lowrank::TuckerOptions options{
      .ranks = rank,
      .budget = {.rank = std::nullopt, .energy = energy, .params = params, .error = error},
      .iterations = iterations};
  const lowrank::Sequence sequence = [&] {
    const py::gil_scoped_release release;
    return lowrank::tucker2(w.view(), options);
  }();
  return arrays(sequence, w, "lowrank.tucker2");
}

py::object reconstruct(const py::args& factors) {
  constexpr const char* kWhere = "lowrank.reconstruct";
  adopt_thread_limit();
  std::vector<Array> taken;
  std::vector<AnyView> views;
  for (const py::handle factor : factors) {
    taken.emplace_back(factor);
    views.push_back(taken.back().view());
  }
  const lowrank::Sequence sequence = [&] {
    const py::gil_scoped_release release;
    return lowrank::reconstruct(views);
  }();
  return arrays(sequence, taken.front(), kWhere)[0];
}

std::vector<Rank> allocate_ranks(const std::vector<std::vector<double>>& singular_values,
                                 const std::vector<std::pair<std::int64_t, std::int64_t>>& shapes,
                                 Number params, Number error,
                                 const std::optional<std::vector<double>>& importance) {
  const py::gil_scoped_release release;
  return lowrank::allocate_ranks(
      singular_values, shapes,
      {.params = params, .error = error, .importance = importance.value_or(std::vector<double>())});
}

// NumPy arrays [k, 2], [k] and [k].
py::tuple tucker2_choices(const Array& w) {
  constexpr const char* kWhere = "lowrank.tucker2_choices";
  adopt_thread_limit();
  const std::vector<lowrank::TuckerChoice> choices = [&] {
    const py::gil_scoped_release release;
    return lowrank::tucker2_choices(w.view());
  }();
  const auto count = static_cast<std::int64_t>(choices.size());
  Output ranks(DType::int64, {count, 2}, py::none(), kWhere);
  Output parameters(DType::int64, {count}, py::none(), kWhere);
  Output losses(DType::float64, {count}, py::none(), kWhere);
  std::vector<std::int64_t> pairs;
  std::vector<std::int64_t> held;
  std::vector<double> lost;
  for (const lowrank::TuckerChoice& each : choices) {
    pairs.push_back(each.ranks.first);
    pairs.push_back(each.ranks.second);
    held.push_back(each.choice.parameters);
    lost.push_back(each.choice.loss);
  }
  copy_elements(AnyView(pairs.data(), DType::int64, {count, 2}), ranks.view());
  copy_elements(held, parameters.view());
  copy_elements(lost, losses.view());
  return py::make_tuple(ranks.take(), parameters.take(), losses.take());
}

std::vector<std::optional<std::size_t>> allocate_choices(
    const std::vector<std::vector<std::pair<std::int64_t, double>>>& choices,
    const std::vector<std::int64_t>& sizes, Number params, Number error,
    const std::optional<std::vector<double>>& importance) {
  const py::gil_scoped_release release;
  std::vector<std::vector<lowrank::Choice>> taken;
  for (const auto& each : choices) {
    auto& list = taken.emplace_back();
    for (const auto& [parameters, loss] : each) list.push_back({parameters, loss});
  }
  return lowrank::allocate_choices(
      taken, sizes,
      {.params = params, .error = error, .importance = importance.value_or(std::vector<double>())});
}

}  // namespace

void bind_lowrank(py::module_ m) {
  using py::literals::operator""_a;
  m.doc() = "Weights as products of smaller ones.";
  m.def("factorize", &factorize, "w"_a, "rank"_a = py::none(), "energy"_a = py::none(),
        "params"_a = py::none(), "error"_a = py::none(), "method"_a = "svd",
        "whiten"_a = py::none(), "seed"_a = 0, "oversampling"_a = 16, "iterations"_a = 4,
        "tolerance"_a = 1e-4,
        R"(Two thin matrices whose product is close to w [m, n]: (u [m, r], v [r, n]), w ~ u @ v.

Exactly one of
  rank    the number r of terms,
  energy  the least share of the squared norm to keep, in (0, 1],
  params  the most parameters, as a share of m n, in (0, 1),
  error   the largest relative Frobenius error, in [0, 1).
Energy and error take the least rank that suffices. A rank with r (m + n) >= m n would not make
w smaller: Error, naming the largest that does.

method "svd" is the truncated singular value decomposition, the best that there is. "randomized"
projects w on random directions first (Halko, Martinsson and Tropp 2011) with `oversampling` more
directions than the rank and `iterations` power iterations, drawn from `seed`: the same bits
on the same machine, at any number of threads. "krylov" finds the leading terms alone (block Krylov,
Musco and Musco 2015), with an error at most `tolerance` above the optimum as far as the gains of
its steps tell: the fastest for large matrices and small ranks. Energy and error, which need the
whole spectrum, take "svd" instead.

whiten is the second moment X.T @ X [n, n] of the inputs X [samples, n] of a layer: u and v then
minimise the error of the layer's output, norm(X @ (w - u @ v).T), and energy and error mean
that one (the optimum of Wang et al., "SVD-LLM", 2024, without an inverse: X.T @ X may be singular).

Each term's norm is shared equally by its column of u and row of v, and the column's entry of
largest magnitude is positive. The factors are arrays of w's kind and dtype. NaN and infinities
raise NonFiniteError.)");
  m.def("singular_values", &singular_values, "w"_a, "whiten"_a = py::none(),
        R"(All min(m, n) singular values of a matrix, descending, as float64.

With `whiten`, those of w L with L L^T = whiten: what `factorize` ranks its terms by. Exact to
about 1e-15 of the largest for float64, 1e-8 for the narrower dtypes.)");
  m.def("channel_svd", &channel_svd, "w"_a, "rank"_a = py::none(), "energy"_a = py::none(),
        "params"_a = py::none(), "error"_a = py::none(), "method"_a = "svd",
        "whiten"_a = py::none(), "seed"_a = 0, "oversampling"_a = 16, "iterations"_a = 4,
        "tolerance"_a = 1e-4,
        R"(A convolution [out, in, kh, kw] as [r, in, kh, kw] and then [out, r, 1, 1].

The truncated SVD of the weight as [out, in kh kw]; the arguments are those of `factorize`, whiten
being the second moment of the patches, [in kh kw, in kh kw]. Stride, padding and dilation belong
to the first convolution. `reconstruct` gives the weight back.)");
  m.def("spatial_svd", &spatial_svd, "w"_a, "rank"_a = py::none(), "energy"_a = py::none(),
        "params"_a = py::none(), "error"_a = py::none(), "method"_a = "svd", "seed"_a = 0,
        "oversampling"_a = 16, "iterations"_a = 4, "tolerance"_a = 1e-4,
        R"(A convolution [out, in, kh, kw] as [r, in, kh, 1] and then [out, r, 1, kw].

The truncated SVD of the weight as [in kh, out kw] (Jaderberg et al. 2014); the arguments are those
of `factorize`. The vertical parts of stride, padding and dilation belong to the first
convolution, the horizontal ones to the second.)");
  m.def("tucker2", &tucker2, "w"_a, "rank"_a = py::none(), "energy"_a = py::none(),
        "params"_a = py::none(), "error"_a = py::none(), "iterations"_a = 10,
        R"(A convolution [out, in, kh, kw] as three: first [r_in, in, 1, 1], then
[r_out, r_in, kh, kw], last [out, r_out, 1, 1].

Tucker-2 (Kim et al. 2016): higher-order SVD and at most `iterations` sweeps of orthogonal
iteration. rank is a pair (r_out, r_in); energy, params and error choose the best pair of all by
what the higher-order SVD keeps, which the iteration only increases. The first and last factors
have orthonormal rows and columns. Stride, padding and dilation belong to the middle one.)");
  m.def("reconstruct", &reconstruct,
        R"(What factors stand for: u @ v of two matrices, or the weight of convolutions in a row.

Convolutions come in the order in which they are applied, as the functions here return them:
reconstruct(*tucker2(w, rank=(8, 8))) ~ w. The result is of the first one's kind and dtype.)");
  m.def("allocate_ranks", &allocate_ranks, "singular_values"_a, "shapes"_a, "params"_a = py::none(),
        "error"_a = py::none(), "importance"_a = py::none(),
        R"(Ranks of several matrices under one budget; None leaves a matrix as it is.

singular_values: all of each matrix, descending; shapes: its (m, n). Exactly one of
params (the most parameters, as a share of all matrices') and error (the largest
sqrt(sum(importance * squared error) / sum(importance * squared norm))). importance is
1 / squared norm unless given, so that relative errors count alike.

The steps with the most energy for a parameter come first (Everett 1963): the best allocation
whenever they use the budget up, and otherwise less than one step from it. Error if
rank 1 everywhere is above the budget.)");
  m.def("tucker2_choices", &tucker2_choices, "w"_a,
        R"(The pairs of ranks of a convolution [out, in, kh, kw] that are worth taking.

Three arrays, by parameters: ranks int64 [k, 2] as `tucker2` takes them (r_out, r_in), parameters
int64 [k] of the three factors, and losses float64 [k], the share of the squared norm that the
higher-order SVD of these ranks loses (`tucker2` loses no more). Each pair makes w smaller and
loses less than every pair of as many parameters or fewer; k is 0 where no pair makes w smaller.)");
  m.def("allocate_choices", &allocate_choices, "choices"_a, "sizes"_a, "params"_a = py::none(),
        "error"_a = py::none(), "importance"_a = py::none(),
        R"(Which of its choices each tensor takes under one budget; None leaves a tensor as it is.

choices: for each tensor, pairs (parameters, share of the squared norm that is lost) in any
order, of any decomposition; sizes: the tensors' own parameters. A choice that makes its tensor no
smaller is never taken. Exactly one of params (the most parameters, as a share of all
tensors') and error (the largest sqrt(sum(importance * loss) / sum(importance))).
importance is 1 each unless given.

Steps along the lower convex hull of each tensor's choices, those that keep most for a parameter
first (Everett 1963): the best of all wherever they use the budget up. Error if the cheapest
choices are above the budget.)");
  m.def("largest_useful_rank", &lowrank::largest_useful_rank, "m"_a, "n"_a,
        "The largest rank r with r (m + n) < m n; 0 where none makes an m x n matrix smaller.");
}

}  // namespace moptcore::bindings

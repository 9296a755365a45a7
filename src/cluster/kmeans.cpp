// SPDX-License-Identifier: Apache-2.0
#include <moptcore/cluster/kmeans.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <span>
#include <string>
#include <unordered_set>

#include <moptcore/core/parallel.hpp>

#include "cluster/approximate.hpp"
#include "cluster/assign_finite.hpp"
#include "cluster/cells.hpp"
#include "cluster/groups.hpp"
#include "cluster/initial.hpp"
#include "cluster/nearest.hpp"
#include "cluster/optimal.hpp"
#include "cluster/points.hpp"
#include "cluster/tfmot.hpp"
#include "kernels/strided.hpp"

namespace moptcore::inline v0::cluster {
namespace {

struct Task {
  const KMeansOptions& options;
  std::int64_t k;
  std::int64_t lloyd_iterations;
  const char* where;
};

// To the dtype of the weights, which hold no other centroids.
double rounded(double value, DType dtype) {
  switch (dtype) {
    case DType::float64: return value;
    case DType::float32: return static_cast<double>(static_cast<float>(value));
    case DType::float16:
      return static_cast<double>(static_cast<float>(float16(static_cast<float>(value))));
    default: return static_cast<double>(static_cast<float>(bfloat16(static_cast<float>(value))));
  }
}

template <class T>
Points sorted_points(const AnyView& tensor, std::int64_t first, std::int64_t n, const char* where) {
  std::vector<double> values;
  std::vector<std::int64_t> counts;
  bool finite = false;
  if (tensor.dtype() == dtype_of<T>() && tensor.is_contiguous()) {
    finite = sort_values(static_cast<const T*>(tensor.data()) + first, n, values, counts);
  } else {
    std::vector<T> copy(n);
    kernels::load(tensor, first, n, copy.data());
    finite = sort_values(copy.data(), n, values, counts);
  }
  check<NonFiniteError>(finite, where, "weights must be finite");
  return Points(std::move(values), std::move(counts));
}

Points points_of(const AnyView& tensor, std::int64_t first, std::int64_t n, const char* where) {
  return tensor.dtype() == DType::float64 ? sorted_points<double>(tensor, first, n, where)
                                          : sorted_points<float>(tensor, first, n, where);
}

// Whether the tensor has more than `most` distinct values; stops as soon as it has.
bool has_more_than(const AnyView& tensor, std::int64_t first, std::int64_t n, std::int64_t most) {
  std::unordered_set<double> seen;
  std::array<double, kernels::kScratch> scratch;
  for (std::int64_t at = 0; at < n; at += kernels::kScratch) {
    const std::int64_t size = std::min(kernels::kScratch, n - at);
    const double* values = kernels::block(tensor, first + at, size, scratch.data());
    for (std::int64_t i = 0; i < size; ++i) seen.insert(values[i] + 0.0);
    if (static_cast<std::int64_t>(seen.size()) > most) return true;
  }
  return false;
}

std::vector<double> all_values(const Points& points) {
  std::vector<double> values(points.size());
  for (std::int64_t i = 0; i < points.size(); ++i) values[i] = points.value(i);
  return values;
}

std::vector<double> optimal_centroids(const Points& points, std::int64_t k) {
  const std::vector<std::int64_t> borders = optimal_borders(points, k);
  std::vector<double> centroids(k);
  for (std::int64_t i = 0; i < k; ++i) centroids[i] = points.mean(borders[i], borders[i + 1]);
  return centroids;
}

std::vector<double> fitted(const Points& points, std::int64_t k, std::int64_t group,
                           const Task& task) {
  const KMeansOptions& options = task.options;
  const auto stream = static_cast<std::uint64_t>(group);
  std::vector<double> centroids;
  switch (options.init) {
    case Init::optimal: return optimal_centroids(points, k);
    case Init::linear: centroids = linear_centroids(points, k); break;
    case Init::density: centroids = density_centroids(points, k); break;
    case Init::random: centroids = random_centroids(points, k, options.seed, stream); break;
    case Init::kmeans_plus_plus:
      centroids = plus_plus_centroids(points, k, options.seed, stream);
      break;
  }
  iterate_lloyd(points, centroids, task.lloyd_iterations);
  return centroids;
}

struct Fitted {
  std::vector<double> centroids;
  bool pinned = false;  // one of them is the zero of preserve_zeros
};

// Cells stand for the values where they are too many to be sorted.
bool wants_cells(const AnyView& tensor, std::int64_t n, const Task& task) {
  const KMeansOptions& options = task.options;
  return options.init == Init::optimal && bit_width(tensor.dtype()) > 16 &&
         options.tolerance > 0.0 && !options.exact.value_or(n <= kExactValues);
}

// Nothing where only all values will do.
std::optional<Fitted> fit_cells(const AnyView& tensor, std::int64_t first, std::int64_t n,
                                const Task& task) {
  Cells cells(tensor, first, n, task.options.preserve_zeros);
  if (!cells.usable()) return std::nullopt;
  const std::int64_t k = task.k - (cells.has_zero() ? 1 : 0);
  const auto found = static_cast<std::int64_t>(cells.cells().size());
  if (found <= k && !has_more_than(tensor, first, n, task.k)) return std::nullopt;
  auto centroids = approximate_centroids(cells, k, task.options.tolerance);
  if (!centroids) return std::nullopt;
  return Fitted{std::move(*centroids), cells.has_zero()};
}

Fitted fit_group(const AnyView& tensor, std::int64_t first, std::int64_t n, std::int64_t group,
                 const Task& task) {
  Fitted result;
  std::optional<Fitted> near;
  if (wants_cells(tensor, n, task)) near = fit_cells(tensor, first, n, task);
  if (near) {
    result = std::move(*near);
  } else {
    Points points = points_of(tensor, first, n, task.where);
    result.pinned = task.options.preserve_zeros && points.remove_zero();
    const std::int64_t k = task.k - (result.pinned ? 1 : 0);
    if (points.size() > 0) {
      result.centroids = points.size() <= k ? all_values(points) : fitted(points, k, group, task);
    }
  }
  for (double& centroid : result.centroids) centroid = rounded(centroid, tensor.dtype());
  if (result.pinned) {
    result.centroids.insert(std::ranges::lower_bound(result.centroids, 0.0), 0.0);
  }
  return result;
}

// All groups with as many columns as the largest has centroids.
Centroids gathered(std::vector<Fitted> groups, bool shared) {
  Centroids result;
  result.rows = static_cast<std::int64_t>(groups.size());
  result.shared = shared;
  for (const Fitted& group : groups) {
    result.columns = std::max(result.columns, static_cast<std::int64_t>(group.centroids.size()));
  }
  for (Fitted& group : groups) {
    auto& row = group.centroids;
    // Behind the pinned zero, which comes first of all zeros, only where there is nothing else.
    auto last = row.end() - 1;
    if (group.pinned && *last == 0.0 && row.size() > 1) --last;
    row.insert(last, static_cast<std::size_t>(result.columns) - row.size(), double{*last});
    result.values.insert(result.values.end(), row.begin(), row.end());
  }
  return result;
}

void check_arguments(const AnyView& weights, const Task& task) {
  const KMeansOptions& options = task.options;
  check<DTypeError>(is_floating(weights.dtype()), task.where,
                    "weights must be float64, float32, float16 or bfloat16", name(weights.dtype()));
  const std::int64_t least = options.preserve_zeros ? 2 : 1;
  check(task.k >= least && task.k <= kMaxClusters, task.where,
        least == 2 ? "k must be in [2, 65536] to preserve zeros" : "k must be in [1, 65536]",
        task.k);
  check(!weights.empty(), task.where, "weights must have at least one element", weights.shape());
  check(options.max_iterations >= 0, task.where, "max_iterations must be >= 0",
        options.max_iterations);
  check(options.tolerance >= 0.0, task.where, "tolerance must be >= 0", options.tolerance);
  if (options.compat != Compat::tfmot) return;
  check<DTypeError>(weights.dtype() == DType::float32, task.where,
                    "weights must be float32 with compat tfmot", name(weights.dtype()));
  check<UnsupportedError>(options.init != Init::optimal, task.where,
                          "init must be linear, density, random or kmeans++ with compat tfmot");
}

Centroids fit_tfmot(const AnyView& weights, const Groups& groups, const Task& task) {
  OperationSeeds seeds(task.options.seed);
  std::vector<Fitted> fits(groups.count());
  std::vector<float> values;
  for (std::int64_t group = 0; group < groups.count(); ++group) {
    values.resize(groups.size(group));
    kernels::load(groups.view(weights, group), groups.first(group), groups.size(group),
                  values.data());
    const bool finite =
        std::ranges::all_of(values, [](float value) { return std::isfinite(value); });
    check<NonFiniteError>(finite, task.where, "weights must be finite");
    fits[group].centroids =
        tfmot_centroids(values.data(), groups.size(group), task.k, task.options, seeds);
  }
  return gathered(std::move(fits), groups.shared());
}

Centroids fit(const AnyView& weights, const Groups& groups, const Task& task) {
  if (task.options.compat == Compat::tfmot) return fit_tfmot(weights, groups, task);
  std::vector<Fitted> fits(groups.count());
  const auto run = [&](std::int64_t group) {
    fits[group] = fit_group(groups.view(weights, group), groups.first(group), groups.size(group),
                            group, task);
  };
  if (groups.count() == 1) {
    run(0);
  } else {
    parallel_for(groups.count(), 1, [&](std::int64_t group, std::int64_t) { run(group); });
  }
  return gathered(std::move(fits), groups.shared());
}

}  // namespace

void Centroids::store(const MutableAnyView& out) const {
  constexpr auto where = "cluster.Centroids";
  check<DTypeError>(is_floating(out.dtype()), where,
                    "out must be float64, float32, float16 or bfloat16", name(out.dtype()));
  check(out.shape() == shape(), where, "out must have the shape of the centroids", out.shape());
  kernels::store(values.data(), 0, static_cast<std::int64_t>(values.size()), out);
}

Centroids kmeans(const AnyView& weights, std::int64_t k, const MutableAnyView& indices,
                 const KMeansOptions& options) {
  constexpr auto where = "cluster.kmeans";
  const Task task{options, k, options.max_iterations, where};
  check_arguments(weights, task);
  check<DTypeError>(
      indices.dtype() == DType::uint16 || (indices.dtype() == DType::uint8 && k <= 256), where,
      "indices must be uint8 for k <= 256 or uint16", name(indices.dtype()));
  check(indices.shape() == weights.shape(), where, "indices must have the shape of weights",
        indices.shape());
  const Groups groups(weights.shape(), options.sharing, where);
  Centroids centroids = fit(weights, groups, task);
  // TFMOT assigns by distance alone.
  const bool tfmot = options.compat == Compat::tfmot;
  assign_finite(weights, centroids.view(), indices,
                {options.sharing, options.preserve_zeros && !tfmot, options.compat});
  return centroids;
}

Centroids init_centroids(const AnyView& weights, std::int64_t k, const KMeansOptions& options) {
  constexpr auto where = "cluster.init_centroids";
  const Task task{options, k, 0, where};
  check_arguments(weights, task);
  return fit(weights, Groups(weights.shape(), options.sharing, where), task);
}

Centroids lloyd(const AnyView& weights, const AnyView& centroids, const LloydOptions& options) {
  constexpr auto where = "cluster.lloyd";
  check<DTypeError>(is_floating(weights.dtype()), where,
                    "weights must be float64, float32, float16 or bfloat16", name(weights.dtype()));
  check<DTypeError>(is_floating(centroids.dtype()), where,
                    "centroids must be float64, float32, float16 or bfloat16",
                    name(centroids.dtype()));
  check(options.max_iterations >= 0, where, "max_iterations must be >= 0", options.max_iterations);
  const Groups groups(weights.shape(), options.sharing, where);
  Centroids result;
  result.columns = groups.columns(centroids, where);
  result.rows = groups.count();
  result.shared = groups.shared();
  result.values.resize(centroids.size());
  kernels::load(centroids, 0, centroids.size(), result.values.data());
  const bool finite =
      std::ranges::all_of(result.values, [](double value) { return std::isfinite(value); });
  check<NonFiniteError>(finite, where, "centroids must be finite");
  parallel_for(groups.count(), 1, [&](std::int64_t group, std::int64_t) {
    const std::int64_t n = groups.size(group);
    Points points = points_of(groups.view(weights, group), groups.first(group), n, where);
    const auto row = std::span(result.values).subspan(group * result.columns, result.columns);
    std::vector<double> moving(row.begin(), row.end());
    bool pinned = false;
    if (options.preserve_zeros) {
      const bool has_zero = points.remove_zero();
      const std::int64_t zero = zero_centroid(row);
      pinned = zero >= 0;
      check(pinned || !has_zero, where, "centroids must hold 0 to preserve zeros; group without it",
            group);
      if (pinned) moving.erase(moving.begin() + zero);
    }
    std::ranges::sort(moving);
    if (points.size() > 0 && !moving.empty()) {
      iterate_lloyd(points, moving, options.max_iterations);
    }
    for (double& centroid : moving) centroid = rounded(centroid, weights.dtype());
    if (pinned) moving.insert(std::ranges::lower_bound(moving, 0.0), 0.0);
    std::ranges::copy(moving, row.begin());
  });
  return result;
}

}  // namespace moptcore::inline v0::cluster

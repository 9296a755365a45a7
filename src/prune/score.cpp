// SPDX-License-Identifier: Apache-2.0
#include <moptcore/prune/score.hpp>

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>
#include <sstream>
#include <string>
#include <vector>

#include <moptcore/core/parallel.hpp>
#include <moptcore/core/pool.hpp>

#include "kernels/float_mode.hpp"
#include "kernels/norm.hpp"
#include "kernels/strided.hpp"
#include "prune/axis.hpp"
#include "prune/descending.hpp"

namespace moptcore::inline v0::prune {
namespace {

constexpr std::int64_t kChunk = kernels::kScratch;
constexpr std::int64_t kGrain = 16 * kChunk;

void check_floating(const AnyView& tensor, const char* where, const char* argument) {
  check<DTypeError>(is_floating(tensor.dtype()), where,
                    std::string(argument) + " must be float64, float32, float16 or bfloat16",
                    name(tensor.dtype()));
}

void check_shape(const AnyView& tensor, const Shape& shape, const char* where,
                 const char* argument) {
  std::ostringstream rule;
  rule << argument << " must have the shape " << shape;
  check(tensor.shape() == shape, where, rule.str(), tensor.shape());
}

void check_out(const AnyView& out, const Shape& shape, const char* where, const char* argument) {
  check_floating(out, where, argument);
  check_shape(out, shape, where, argument);
}

// Weights, another tensor of their shape, and the scores.
void check_pair(const AnyView& weights, const AnyView& other, const MutableAnyView& out,
                const char* where, const char* argument, const char* out_name = "out") {
  check_floating(weights, where, "weights");
  check_floating(other, where, argument);
  check_shape(other, weights.shape(), where, argument);
  check_out(out, weights.shape(), where, out_name);
  check_no_partial_overlap(weights, out, where, out_name);
  check_no_partial_overlap(other, out, where, out_name);
}

// The vector `other` repeated over the weights.
AnyView check_along(const AnyView& weights, const AnyView& other, std::int64_t axis,
                    const MutableAnyView& out, const char* where, const char* argument) {
  check_floating(weights, where, "weights");
  const int at = normalize_axis(axis, weights.rank(), where);
  check_floating(other, where, argument);
  check_shape(other, Shape{weights.shape()[at]}, where, argument);
  check_out(out, weights.shape(), where, "out");
  check_no_partial_overlap(weights, out, where, "out");
  const auto [first, last] = extent_of(other);
  const auto [out_first, out_last] = extent_of(out);
  check(last <= out_first || out_last <= first, where,
        "out must not overlap " + std::string(argument));
  return spread(other, weights.shape(), at);
}

// out = f(a, b), or f(a, b, out) where f takes three.
template <class F>
void map(const AnyView& a, const AnyView& b, const MutableAnyView& out, F&& f) {
  parallel_for(a.size(), kGrain, [&](std::int64_t begin, std::int64_t end) {
    const kernels::FloatMode float_mode;
    std::array<double, kChunk> x;
    std::array<double, kChunk> y;
    std::array<double, kChunk> z;
    for (std::int64_t first = begin; first < end; first += kChunk) {
      const std::int64_t n = std::min(kChunk, end - first);
      kernels::load(a, first, n, x.data());
      kernels::load(b, first, n, y.data());
      if constexpr (std::is_invocable_v<F, double, double, double>) {
        kernels::load(out, first, n, z.data());
        for (std::int64_t i = 0; i < n; ++i) z[i] = f(x[i], y[i], z[i]);
      } else {
        for (std::int64_t i = 0; i < n; ++i) z[i] = f(x[i], y[i]);
      }
      kernels::store(z.data(), first, n, out);
    }
  });
}

// The flat index of the first element that is not accepted, or -1.
template <class F>
std::int64_t find_not(const AnyView& view, F&& accept) {
  std::array<double, kChunk> values;
  for (std::int64_t first = 0; first < view.size(); first += kChunk) {
    const std::int64_t n = std::min(kChunk, view.size() - first);
    kernels::load(view, first, n, values.data());
    for (std::int64_t i = 0; i < n; ++i) {
      if (!accept(values[static_cast<std::size_t>(i)])) return first + i;
    }
  }
  return -1;
}

template <class F>
void check_entries(const AnyView& view, const char* where, const char* rule, F&& accept) {
  const std::int64_t at = find_not(view, accept);
  if (at < 0) return;
  std::array<double, 1> value;
  kernels::load(view, at, 1, value.data());
  std::ostringstream got;
  got << value[0] << " at flat index " << at;
  throw Error(error_text(where, rule, got.str()));
}

// |x| of one tensor.
void magnitudes(const AnyView& tensor, const MutableAnyView& out, const char* where,
                const char* argument) {
  check_floating(tensor, where, argument);
  check_out(out, tensor.shape(), where, "out");
  check_no_partial_overlap(tensor, out, where, "out");
  map(tensor, tensor, out, [](double weight, double) { return magnitude_score(weight); });
}

// The diagonal repeated over the weights, or as it is.
AnyView check_diagonal(const AnyView& weights, const AnyView& diagonal, const MutableAnyView& out,
                       const HessianScoreOptions& options, const char* where,
                       const char* argument) {
  if (options.axis) return check_along(weights, diagonal, *options.axis, out, where, argument);
  check_pair(weights, diagonal, out, where, argument);
  return diagonal;
}

// Eight sums side by side, which the compiler can keep in vectors without changing their order.
double squared_distance(const double* a, const double* b, std::int64_t n) {
  std::array<double, 8> sums{};
  std::int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (std::size_t lane = 0; lane < 8; ++lane) {
      const double difference =
          a[i + static_cast<std::int64_t>(lane)] - b[i + static_cast<std::int64_t>(lane)];
      sums[lane] += difference * difference;
    }
  }
  double sum = 0.0;
  for (; i < n; ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  for (const double part : sums) sum += part;
  return sum;
}

// Squares over the sums of all squares up to them.
template <class Order>
void score_descending(const Order& order, const MutableAnyView& out) {
  const kernels::FloatMode float_mode;
  const std::int64_t size = out.size();
  const std::int64_t numbers = order.numbers();
  const double largest = numbers > 0 ? order.magnitude(0) : 0.0;
  const bool infinite = std::isinf(largest);
  // Squares neither overflow nor lose bits once the largest is near 1.
  const double scale = largest > 0.0 && !infinite
                           ? std::ldexp(1.0, std::clamp(-std::ilogb(largest), -1022, 1022))
                           : 1.0;
  const auto square = [&](std::int64_t rank) {
    const double magnitude = order.magnitude(rank) * scale;
    return magnitude * magnitude;
  };
  const PoolBuffer sums = pool_allocate(size * static_cast<std::int64_t>(sizeof(double)));
  auto* totals = static_cast<double*>(sums.get());
  double total = 0.0;
  for (std::int64_t rank = 0; rank < numbers && !infinite; ++rank) {
    total += square(rank);
    totals[rank] = total;
  }
  const PoolBuffer scored = pool_allocate(size * static_cast<std::int64_t>(sizeof(double)));
  auto* scores = static_cast<double*>(scored.get());
  parallel_for(size, kGrain, [&](std::int64_t first, std::int64_t last) {
    const kernels::FloatMode mode;
    for (std::int64_t rank = first; rank < last; ++rank) {
      double& score = scores[order.index(rank)];
      if (rank >= numbers) score = std::numeric_limits<double>::quiet_NaN();
      else if (infinite) score = std::isinf(order.magnitude(rank)) ? 1.0 : 0.0;
      else score = totals[rank] > 0.0 ? square(rank) / totals[rank] : 0.0;
    }
  });
  parallel_for(size, kGrain, [&](std::int64_t first, std::int64_t last) {
    const kernels::FloatMode mode;
    kernels::store(scores + first, first, last - first, out);
  });
}

}  // namespace

void magnitude_score(const AnyView& weights, const MutableAnyView& out) {
  magnitudes(weights, out, "prune.magnitude_score", "weights");
}

void batch_norm_score(const AnyView& gamma, const MutableAnyView& out) {
  constexpr auto where = "prune.batch_norm_score";
  check(gamma.rank() == 1, where, "gamma must have 1 dimension", gamma.shape());
  magnitudes(gamma, out, where, "gamma");
}

void taylor_score(const AnyView& weights, const AnyView& grad, const MutableAnyView& out,
                  const TaylorOptions& options) {
  check_pair(weights, grad, out, "prune.taylor_score", "grad");
  map(weights, grad, out, [squared = options.squared](double weight, double slope) {
    return taylor_score(weight, slope, squared);
  });
}

double snip_total(const AnyView& weights, const AnyView& grad) {
  constexpr auto where = "prune.snip_total";
  check_floating(weights, where, "weights");
  check_floating(grad, where, "grad");
  check_shape(grad, weights.shape(), where, "grad");
  std::vector<double> sums(static_cast<std::size_t>(block_count(weights.size(), kChunk)));
  parallel_blocks(
      weights.size(), kChunk, [&](std::int64_t block, std::int64_t first, std::int64_t last) {
        const kernels::FloatMode float_mode;
        std::array<double, kChunk> x;
        std::array<double, kChunk> y;
        const std::int64_t n = last - first;
        kernels::load(weights, first, n, x.data());
        kernels::load(grad, first, n, y.data());
        for (std::int64_t i = 0; i < n; ++i) {
          x[i] *= y[i];
          if (std::isnan(x[i])) x[i] = 0.0;
        }
        sums[static_cast<std::size_t>(block)] = kernels::sum_magnitudes_f64(x.data(), n);
      });
  const kernels::FloatMode float_mode;
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

void snip_score(const AnyView& weights, const AnyView& grad, const MutableAnyView& out,
                const SnipOptions& options) {
  constexpr auto where = "prune.snip_score";
  check_pair(weights, grad, out, where, "grad");
  check(!options.total || *options.total >= 0.0, where, "total must be >= 0",
        options.total.value_or(0.0));
  const double total = options.total ? *options.total : snip_total(weights, grad);
  map(weights, grad, out,
      [total](double weight, double slope) { return snip_score(weight, slope, total); });
}

void movement_score(const AnyView& weights, const AnyView& grad, const MutableAnyView& scores) {
  constexpr auto where = "prune.movement_score";
  check_pair(weights, grad, scores, where, "grad", "scores");
  for (const AnyView& input : {weights, grad}) {
    const auto [first, last] = extent_of(input);
    const auto [out_first, out_last] = extent_of(scores);
    check(last <= out_first || out_last <= first, where, "scores must not be an input");
  }
  map(weights, grad, scores, [](double weight, double slope, double previous) {
    return movement_score(weight, slope, previous);
  });
}

void wanda_score(const AnyView& weights, const AnyView& input_norm, const MutableAnyView& out,
                 const WandaOptions& options) {
  constexpr auto where = "prune.wanda_score";
  const AnyView norms = check_along(weights, input_norm, options.axis, out, where, "input_norm");
  check_entries(input_norm, where, "input_norm must be >= 0",
                [](double norm) { return !(norm < 0.0); });
  map(weights, norms, out, [](double weight, double norm) { return wanda_score(weight, norm); });
}

void obs_score(const AnyView& weights, const AnyView& inverse_hessian_diagonal,
               const MutableAnyView& out, const HessianScoreOptions& options) {
  constexpr auto where = "prune.obs_score";
  constexpr auto argument = "inverse_hessian_diagonal";
  const AnyView diagonal =
      check_diagonal(weights, inverse_hessian_diagonal, out, options, where, argument);
  check_entries(inverse_hessian_diagonal, where, "inverse_hessian_diagonal must be > 0",
                [](double entry) { return !(entry <= 0.0); });
  map(weights, diagonal, out, [](double weight, double entry) { return obs_score(weight, entry); });
}

void obd_score(const AnyView& weights, const AnyView& hessian_diagonal, const MutableAnyView& out,
               const HessianScoreOptions& options) {
  constexpr auto where = "prune.obd_score";
  const AnyView diagonal =
      check_diagonal(weights, hessian_diagonal, out, options, where, "hessian_diagonal");
  map(weights, diagonal, out, [](double weight, double entry) { return obd_score(weight, entry); });
}

void lamp_score(const AnyView& weights, const MutableAnyView& out) {
  constexpr auto where = "prune.lamp_score";
  check_floating(weights, where, "weights");
  check_out(out, weights.shape(), where, "out");
  check_no_partial_overlap(weights, out, where, "out");
  if (weights.empty()) return;
  const bool few = weights.size() <= std::numeric_limits<std::uint32_t>::max();
  if (weights.dtype() == DType::float64) {
    score_descending(Descending<double, std::uint64_t>(weights), out);
  } else if (few) {
    score_descending(Descending<float, std::uint32_t>(weights), out);
  } else {
    score_descending(Descending<float, std::uint64_t>(weights), out);
  }
}

void fpgm_score(const AnyView& weights, const MutableAnyView& out, const FpgmOptions& options) {
  constexpr auto where = "prune.fpgm_score";
  check_floating(weights, where, "weights");
  check(weights.rank() >= 1, where, "weights must have at least 1 dimension", weights.rank());
  const int axis = normalize_axis(options.axis, weights.rank(), where);
  const std::int64_t slices = weights.shape()[axis];
  check_out(out, Shape{slices}, where, "out");
  check_no_partial_overlap(weights, out, where, "out");
  if (slices == 0) return;
  const std::int64_t size = weights.size() / slices;
  const AnyView rows = move_axis(weights, axis, 0);
  std::vector<double> values(static_cast<std::size_t>(weights.size()));
  parallel_for(weights.size(), kGrain, [&](std::int64_t first, std::int64_t last) {
    kernels::load(rows, first, last - first, values.data() + first);
  });
  std::vector<double> scores(static_cast<std::size_t>(slices));
  parallel_for(slices, 1, [&](std::int64_t i, std::int64_t) {
    const kernels::FloatMode float_mode;
    double sum = 0.0;
    for (std::int64_t j = 0; j < slices; ++j) {
      sum += std::sqrt(squared_distance(values.data() + i * size, values.data() + j * size, size));
    }
    scores[static_cast<std::size_t>(i)] = sum;
  });
  kernels::store(scores.data(), 0, slices, out);
}

}  // namespace moptcore::inline v0::prune

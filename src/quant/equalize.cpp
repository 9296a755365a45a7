// SPDX-License-Identifier: Apache-2.0
#include <moptcore/quant/equalize.hpp>

#include <algorithm>
#include <cmath>
#include <sstream>
#include <string>
#include <vector>

#include <moptcore/core/parallel.hpp>
#include <moptcore/quant/quantize.hpp>
#include <moptcore/quant/range.hpp>

#include "kernels/float_mode.hpp"
#include "kernels/product.hpp"
#include "kernels/strided.hpp"
#include "quant/weight_matrix.hpp"

namespace moptcore::inline v0::quant {
namespace {

using Doubles = std::vector<double>;

void check_scales(const MutableAnyView& scales, std::int64_t channels, const char* where) {
  check<DTypeError>(is_floating(scales.dtype()), where, "scales must be floating",
                    name(scales.dtype()));
  check(scales.shape() == Shape{channels}, where,
        "scales must have " + std::to_string(channels) + " elements", scales.shape());
}

Doubles magnitudes(const AnyView& view, std::int64_t channels, const char* where,
                   const std::string& argument) {
  const Doubles values = finite_numbers(view, Shape{channels}, where, argument);
  for (const double value : values) {
    check(value >= 0.0, where, argument + " must be >= 0", value);
  }
  return values;
}

// A layer's weights in double, and how its inputs and outputs lie in them.
struct Layer {
  Doubles w;
  std::int64_t out = 0;
  std::int64_t in = 0;     // channels a group reads
  std::int64_t inner = 1;  // elements of a kernel

  Layer(const AnyView& view, const char* where, const std::string& argument) {
    check(view.rank() >= 2 && !view.empty(), where,
          argument + " must have the dimensions [out, in, ...] and not be empty", view.shape());
    w = finite_numbers(view, view.shape(), where, argument);
    out = view.shape()[0];
    in = view.shape()[1];
    inner = view.size() / (out * in);
  }

  // Groups when it reads so many channels; 0 where that cannot be.
  [[nodiscard]] std::int64_t groups(std::int64_t channels) const noexcept {
    const bool fits = channels % in == 0 && out % (channels / in) == 0;
    return fits ? channels / in : 0;
  }

  // Calls f(first element, elements, channel) for the kernels that read each input channel.
  template <class F>
  void for_each_input(std::int64_t groups, F&& f) const {
    for (std::int64_t o = 0; o < out; ++o) {
      const std::int64_t group = o / (out / groups);
      for (std::int64_t c = 0; c < in; ++c) f((o * in + c) * inner, inner, group * in + c);
    }
  }

  [[nodiscard]] double largest(std::int64_t first, std::int64_t n) const noexcept {
    double top = 0.0;
    for (std::int64_t i = first; i < first + n; ++i) {
      top = std::max(top, std::abs(w[static_cast<std::size_t>(i)]));
    }
    return top;
  }

  void multiply(std::int64_t first, std::int64_t n, double factor) noexcept {
    for (std::int64_t i = first; i < first + n; ++i) w[static_cast<std::size_t>(i)] *= factor;
  }

  void divide(std::int64_t first, std::int64_t n, double factor) noexcept {
    for (std::int64_t i = first; i < first + n; ++i) w[static_cast<std::size_t>(i)] /= factor;
  }

  [[nodiscard]] Doubles input_ranges(std::int64_t channels) const {
    Doubles ranges(static_cast<std::size_t>(channels));
    for_each_input(groups(channels), [&](std::int64_t first, std::int64_t n, std::int64_t c) {
      double& range = ranges[static_cast<std::size_t>(c)];
      range = std::max(range, largest(first, n));
    });
    return ranges;
  }
};

void check_pair(const Layer& first, const Layer& second, const Shape& shape, const char* where,
                const std::string& argument) {
  check(second.groups(first.out) != 0, where,
        argument + " must read the " + std::to_string(first.out) +
            " channels that the layer before it gives",
        shape);
}

Doubles pair_scales(const Layer& first, const Layer& second, bool power_of_two) {
  const Doubles inputs = second.input_ranges(first.out);
  Doubles scales(inputs.size(), 1.0);
  const std::int64_t size = first.in * first.inner;
  for (std::int64_t c = 0; c < first.out; ++c) {
    const double before = first.largest(c * size, size);
    const double after = inputs[static_cast<std::size_t>(c)];
    if (before == 0.0 || after == 0.0) continue;
    const double s = std::sqrt(before) / std::sqrt(after);
    scales[static_cast<std::size_t>(c)] = power_of_two ? nearest_power_of_two(s) : s;
  }
  return scales;
}

// The squared error that one scaling leaves in the outputs.
double scaled_error(const AnyView& weights, const Doubles& h, const Doubles& scales,
                    const WeightGridOptions& grids, std::int64_t group) {
  const std::int64_t out = weights.shape()[0];
  const std::int64_t n = weights.shape()[1];
  Doubles sums(static_cast<std::size_t>(block_count(out, kRowTile)));
  parallel_blocks(out, kRowTile, [&](std::int64_t block, std::int64_t first, std::int64_t last) {
    const kernels::FloatMode mode;
    const std::int64_t rows = last - first;
    Doubles error(static_cast<std::size_t>(rows * n));
    std::vector<float> scaled(static_cast<std::size_t>(n));
    kernels::load(weights, first * n, rows * n, error.data());
    for (std::int64_t r = 0; r < rows; ++r) {
      double* row = error.data() + r * n;
      for (std::int64_t j = 0; j < n; ++j) {
        const auto i = static_cast<std::size_t>(j);
        scaled[i] = static_cast<float>(row[j] * scales[i]);
      }
      for (std::int64_t begin = 0; begin < n; begin += group) {
        const std::int64_t end = std::min(begin + group, n);
        const auto [low, high] = std::minmax_element(scaled.begin() + begin, scaled.begin() + end);
        const Grid grid = grid_from_range(*low, *high, grids.dtype, grids.symmetric);
        for (std::int64_t j = begin; j < end; ++j) {
          const auto i = static_cast<std::size_t>(j);
          row[j] -= dequantize<double>(quantize(scaled[i], grid), grid) / scales[i];
        }
      }
    }
    sums[static_cast<std::size_t>(block)] = output_error(error, h, n);
  });
  double total = 0.0;
  for (const double sum : sums) total += sum;
  return total;
}

Doubles awq_candidate(const Doubles& mean, double exponent) {
  Doubles scales;
  scales.reserve(mean.size());
  for (const double m : mean) scales.push_back(std::max(std::pow(m, exponent), 1e-4));
  const auto [low, high] = std::minmax_element(scales.begin(), scales.end());
  const double middle = std::sqrt(*low) * std::sqrt(*high);
  // What float32 holds is what will be used.
  for (double& s : scales) s = static_cast<double>(static_cast<float>(s / middle));
  return scales;
}

}  // namespace

double awq_scales(const AnyView& weights, const AnyView& activation_mean, const AnyView& hessian,
                  const MutableAnyView& scales, const WeightGridOptions& grids, int steps) {
  constexpr auto where = "quant.awq_scales";
  check<DTypeError>(is_quantized(grids.dtype), where, kGridTypeRule, name(grids.dtype));
  check_weights(weights, where);
  check(steps >= 1, where, "steps must be >= 1", steps);
  const std::int64_t n = weights.shape()[1];
  const std::int64_t group = group_extent(grids.group_size, n, where);
  const Doubles mean = magnitudes(activation_mean, n, where, "activation_mean");
  const bool diagonal = hessian.rank() == 1;
  const Doubles h =
      diagonal ? magnitudes(hessian, n, where, "hessian") : second_moments(hessian, n, where);
  check_scales(scales, n, where);
  Doubles best;
  double least = 0.0;
  double exponent = 0.0;
  for (int i = 0; i <= steps; ++i) {
    const double a = static_cast<double>(i) / static_cast<double>(steps);
    const Doubles candidate = i == 0 ? Doubles(mean.size(), 1.0) : awq_candidate(mean, a);
    const double error = scaled_error(weights, h, candidate, grids, group);
    if (i == 0 || error < least) {
      least = error;
      best = candidate;
      exponent = a;
    }
  }
  kernels::store(best.data(), 0, n, scales);
  return exponent;
}

void smoothquant_scales(const AnyView& activation_max, std::span<const AnyView> weights,
                        const MutableAnyView& scales, double alpha, bool power_of_two) {
  constexpr auto where = "quant.smoothquant_scales";
  check(alpha >= 0.0 && alpha <= 1.0, where, "alpha must be in [0, 1]", alpha);
  check(activation_max.rank() == 1, where, "activation_max must have one dimension",
        activation_max.shape());
  check(!weights.empty(), where, "weights must be at least one tensor", 0);
  const std::int64_t n = activation_max.shape()[0];
  const Doubles inputs = magnitudes(activation_max, n, where, "activation_max");
  Doubles ranges(inputs.size());
  for (const AnyView& view : weights) {
    const Layer layer(view, where, "weights");
    check(layer.groups(n) != 0, where,
          "weights must read the " + std::to_string(n) + " channels of activation_max",
          view.shape());
    const Doubles more = layer.input_ranges(n);
    for (std::size_t c = 0; c < ranges.size(); ++c) ranges[c] = std::max(ranges[c], more[c]);
  }
  check_scales(scales, n, where);
  Doubles result(inputs.size(), 1.0);
  for (std::size_t c = 0; c < result.size(); ++c) {
    if (inputs[c] == 0.0 || ranges[c] == 0.0) continue;
    const double s = std::pow(inputs[c], alpha) / std::pow(ranges[c], 1.0 - alpha);
    result[c] = power_of_two ? nearest_power_of_two(s) : s;
  }
  kernels::store(result.data(), 0, n, scales);
}

void cross_layer_scales(const AnyView& first, const AnyView& second, const MutableAnyView& scales,
                        bool power_of_two) {
  constexpr auto where = "quant.cross_layer_scales";
  const Layer before(first, where, "first");
  const Layer after(second, where, "second");
  check_pair(before, after, second.shape(), where, "second");
  check_scales(scales, before.out, where);
  const Doubles result = pair_scales(before, after, power_of_two);
  kernels::store(result.data(), 0, before.out, scales);
}

void equalize(std::span<const AnyView> weights, std::span<const std::optional<AnyView>> biases,
              std::span<const MutableAnyView> results,
              std::span<const std::optional<MutableAnyView>> bias_results,
              const EqualizeOptions& o) {
  constexpr auto where = "quant.equalize";
  check(weights.size() >= 2, where, "weights must be of at least two layers", weights.size());
  check(biases.size() == weights.size() && results.size() == weights.size() &&
            bias_results.size() == weights.size(),
        where, "biases and results must be as many as weights", biases.size());
  check(o.iterations >= 0, where, "iterations must be >= 0", o.iterations);
  check(std::isfinite(o.tolerance) && o.tolerance >= 0.0, where,
        "tolerance must be finite and >= 0", o.tolerance);
  std::vector<Layer> layers;
  std::vector<Doubles> shifts(weights.size());
  for (std::size_t k = 0; k < weights.size(); ++k) {
    const std::string argument = "weights[" + std::to_string(k) + "]";
    layers.emplace_back(weights[k], where, argument);
    if (k > 0) check_pair(layers[k - 1], layers[k], weights[k].shape(), where, argument);
    if (biases[k]) {
      shifts[k] = finite_numbers(*biases[k], Shape{layers[k].out}, where,
                                 "biases[" + std::to_string(k) + "]");
    }
    check(results[k].dtype() == weights[k].dtype() && results[k].shape() == weights[k].shape(),
          where, "results must have the dtypes and shapes of weights", results[k].shape());
    check(biases[k].has_value() == bias_results[k].has_value() &&
              (!biases[k] || (bias_results[k]->dtype() == biases[k]->dtype() &&
                              bias_results[k]->shape() == biases[k]->shape())),
          where, "bias results must have the dtypes and shapes of biases");
  }
  for (int t = 0; t < o.iterations; ++t) {
    double change = 0.0;
    for (std::size_t k = 0; k + 1 < layers.size(); ++k) {
      Layer& before = layers[k];
      Layer& after = layers[k + 1];
      const Doubles scales = pair_scales(before, after, o.power_of_two);
      const std::int64_t size = before.in * before.inner;
      for (std::int64_t c = 0; c < before.out; ++c) {
        const double s = scales[static_cast<std::size_t>(c)];
        before.divide(c * size, size, s);
        if (biases[k]) shifts[k][static_cast<std::size_t>(c)] /= s;
        change = std::max(change, std::abs(s - 1.0));
      }
      after.for_each_input(after.groups(before.out),
                           [&](std::int64_t first, std::int64_t n, std::int64_t c) {
                             after.multiply(first, n, scales[static_cast<std::size_t>(c)]);
                           });
    }
    if (change <= o.tolerance) break;
  }
  for (std::size_t k = 0; k < layers.size(); ++k) {
    kernels::store(layers[k].w.data(), 0, results[k].size(), results[k]);
    if (biases[k]) kernels::store(shifts[k].data(), 0, layers[k].out, *bias_results[k]);
  }
}

}  // namespace moptcore::inline v0::quant

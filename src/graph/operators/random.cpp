// SPDX-License-Identifier: Apache-2.0
// Operators that draw random numbers: each a function of a seed and of its place in the output.
#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>
#include <random>
#include <vector>

#include <moptcore/core/parallel.hpp>
#include <moptcore/core/random.hpp>

#include <moptcore/graph/operator.hpp>
#include "graph/operators/cast.hpp"
#include "graph/operators/types.hpp"

namespace moptcore::inline v0::graph {
namespace {

constexpr std::int64_t kGrain = 1 << 13;

Philox generator_of(const Call& call) {
  if (call.node().find("seed") == nullptr) return Philox(call.environment().next_seed());
  return Philox(std::bit_cast<std::uint32_t>(call.attribute("seed", 0.0f)));
}

// In [0, 1), of 53 bits.
double unit(std::uint32_t high, std::uint32_t low) {
  return static_cast<double>((std::uint64_t{high} << 32 | low) >> 11) * 0x1p-53;
}

double uniform_at(const Philox& random, std::int64_t index) {
  const Philox::Block words = random(static_cast<std::uint64_t>(index));
  return unit(words[0], words[1]);
}

// Box and Muller's transform.
double normal_at(const Philox& random, std::int64_t index) {
  const Philox::Block words = random(static_cast<std::uint64_t>(index));
  const double radius = std::sqrt(-2 * std::log(1 - unit(words[0], words[1])));
  return radius * std::cos(2 * std::numbers::pi * unit(words[2], words[3]));
}

template <class F>
Tensor drawn(const Call& call, const Shape& shape, F&& f) {
  Tensor numbers = call.environment().allocate(ElementType::float64, shape);
  double* const to = numbers.mutable_data<double>();
  parallel_for(numbers.size(), kGrain, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) to[i] = f(i);
  });
  return numbers;
}

void fill_normal(Call& call, const Shape& shape, ElementType type) {
  visit_floats(call, type, []<class T>() {});
  const double mean = call.attribute("mean", 0.0f);
  const double scale = call.attribute("scale", 1.0f);
  const Philox random = generator_of(call);
  const Tensor numbers =
      drawn(call, shape, [&](std::int64_t i) { return mean + scale * normal_at(random, i); });
  call.set(0, cast_tensor(call, numbers, type));
}

void fill_uniform(Call& call, const Shape& shape, ElementType type) {
  visit_floats(call, type, []<class T>() {});
  const double low = call.attribute("low", 0.0f);
  const double high = call.attribute("high", 1.0f);
  const Philox random = generator_of(call);
  const Tensor numbers = drawn(
      call, shape, [&](std::int64_t i) { return low + (high - low) * uniform_at(random, i); });
  call.set(0, cast_tensor(call, numbers, type));
}

Shape shape_attribute(const Call& call) {
  return Shape(std::span<const std::int64_t>(call.required<std::vector<std::int64_t>>("shape")));
}

void random_normal(Call& call) {
  fill_normal(call, shape_attribute(call),
              element_type_attribute(call, "dtype", ElementType::float32));
}

void random_uniform(Call& call) {
  fill_uniform(call, shape_attribute(call),
               element_type_attribute(call, "dtype", ElementType::float32));
}

void random_normal_like(Call& call) {
  const Tensor& like = call.input(0);
  fill_normal(call, like.shape(), element_type_attribute(call, "dtype", like.type()));
}

void random_uniform_like(Call& call) {
  const Tensor& like = call.input(0);
  fill_uniform(call, like.shape(), element_type_attribute(call, "dtype", like.type()));
}

void bernoulli(Call& call) {
  const Tensor& given = call.input(0);
  visit_floats(call, given.type(), []<class T>() {});
  const ElementType type = element_type_attribute(call, "dtype", given.type());
  const Tensor odds = cast_tensor(call, given, ElementType::float64);
  const double* const p = odds.data<double>();
  const Philox random = generator_of(call);
  const Tensor numbers = drawn(call, given.shape(), [&](std::int64_t i) {
    return uniform_at(random, i) < p[i] ? 1.0 : 0.0;
  });
  call.set(0, cast_tensor(call, numbers, type));
}

// Of logarithms of odds, row by row.
void multinomial(Call& call) {
  const Tensor& given = call.input(0);
  visit_floats(call, given.type(), []<class T>() {});
  const ElementType type = element_type_attribute(call, "dtype", ElementType::int32);
  call.require<DTypeError>(type == ElementType::int32 || type == ElementType::int64,
                           "dtype must be int32 or int64", name(type));
  call.require(given.rank() == 2 && given.shape()[1] > 0,
               "the input must be a matrix with columns, shape", given.shape());
  const auto samples = call.attribute<std::int64_t>("sample_size", 1);
  call.require(samples > 0, "sample_size must be > 0", samples);
  const std::int64_t rows = given.shape()[0];
  const std::int64_t classes = given.shape()[1];
  const Tensor logits = cast_tensor(call, given, ElementType::float64);
  const Philox random = generator_of(call);
  Tensor picks = call.environment().allocate(ElementType::int64, Shape{rows, samples});
  std::int64_t* to = picks.mutable_data<std::int64_t>();
  std::vector<double> sums(classes);
  for (std::int64_t row = 0; row < rows; ++row) {
    const double* const x = logits.data<double>() + row * classes;
    const double greatest = *std::max_element(x, x + classes);
    double sum = 0;
    for (std::int64_t i = 0; i < classes; ++i) sums[i] = sum += std::exp(x[i] - greatest);
    call.require(sum > 0 && std::isfinite(sum), "a row must have finite logarithms, row", row);
    for (std::int64_t i = 0; i < samples; ++i, ++to) {
      const double at = sum * uniform_at(random, row * samples + i);
      const auto found = std::upper_bound(sums.begin(), sums.end(), at);
      *to = std::min<std::int64_t>(found - sums.begin(), classes - 1);
    }
  }
  call.set(0, cast_tensor(call, picks, type));
}

void all_kept(Call& call, const Tensor& x, ElementType mask_type) {
  call.set(0, x);
  if (!call.wants(1)) return;
  Tensor ones = call.environment().allocate(ElementType::boolean, x.shape());
  std::fill_n(ones.mutable_data<bool>(), ones.size(), true);
  call.set(1, cast_tensor(call, ones, mask_type));
}

double scalar_input(const Call& call, int index, double fallback) {
  if (!call.has(index)) return fallback;
  const Tensor& given = call.input(index);
  call.require(given.size() == 1, "ratio and training_mode must have one element, shape",
               given.shape());
  return *cast_tensor(call, given, ElementType::float64).data<double>();
}

void dropout(Call& call) {
  const Tensor& x = call.input(0);
  if (call.version() < 12) {
    return all_kept(call, x, call.version() < 10 ? x.type() : ElementType::boolean);
  }
  const double ratio = scalar_input(call, 1, 0.5);
  const bool training = scalar_input(call, 2, 0) != 0;
  if (!training || ratio == 0) return all_kept(call, x, ElementType::boolean);
  call.require(ratio > 0 && ratio < 1, "ratio must be in [0, 1)", ratio);
  Tensor mask = call.environment().allocate(ElementType::boolean, x.shape());
  bool* const kept = mask.mutable_data<bool>();
  if (call.node().find("seed") != nullptr) {
    // ONNX's own cases expect the numbers that NumPy's RandomState(seed) draws.
    const auto seed = static_cast<std::uint32_t>(call.attribute<std::int64_t>("seed", 0));
    std::mt19937 twister(seed);
    for (std::int64_t i = 0; i < mask.size(); ++i) {
      const double high = twister() >> 5;
      const double low = twister() >> 6;
      kept[i] = (high * 0x1p26 + low) * 0x1p-53 >= ratio;
    }
  } else {
    const Philox random(call.environment().next_seed());
    parallel_for(mask.size(), kGrain, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t i = first; i < last; ++i) kept[i] = uniform_at(random, i) >= ratio;
    });
  }
  const double scale = 1 / (1 - ratio);
  const Tensor wide = cast_tensor(call, x, ElementType::float64);
  const double* const from = wide.data<double>();
  const Tensor result = drawn(
      call, x.shape(), [&](std::int64_t i) { return kept[i] ? from[i] * scale : from[i] * 0.0; });
  call.set(0, cast_tensor(call, result, x.type()));
  if (call.wants(1)) call.set(1, mask);
}

constexpr Operator kOperators[] = {
    {"", "RandomNormal", 1, random_normal, false},
    {"", "RandomNormalLike", 1, random_normal_like, false},
    {"", "RandomUniform", 1, random_uniform, false},
    {"", "RandomUniformLike", 1, random_uniform_like, false},
    {"", "Bernoulli", 15, bernoulli, false},
    {"", "Multinomial", 7, multinomial, false},
    {"", "Dropout", 7, dropout},
    {"", "Dropout", 12, dropout, false},
};

}  // namespace

std::span<const Operator> random_operators() noexcept { return kOperators; }

}  // namespace moptcore::inline v0::graph

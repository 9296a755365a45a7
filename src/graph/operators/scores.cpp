// SPDX-License-Identifier: Apache-2.0
#include "graph/operators/scores.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "graph/operators/types.hpp"

namespace moptcore::inline v0::graph {
namespace {

double logistic(double x) {
  const double one = 1.0 / (1.0 + std::exp(-std::abs(x)));
  return x < 0 ? 1.0 - one : one;
}

// The inverse of the error function in the approximation that runtimes of ONNX agree on.
double inverse_erf(double x) {
  const double rest = (1.0 - x) * (1.0 + x);
  if (rest == 0.0) return 0.0;
  const double log = std::log(rest);
  const double v = 2.0 / (std::numbers::pi * 0.147) + 0.5 * log;
  const double root = std::sqrt(std::sqrt(v * v - log / 0.147) - v);
  return x < 0 ? -root : root;
}

}  // namespace

ScoreTransform score_transform(const Call& call) {
  const std::string given = call.text("post_transform", "NONE");
  if (given == "NONE") return ScoreTransform::none;
  if (given == "SOFTMAX") return ScoreTransform::softmax;
  if (given == "LOGISTIC") return ScoreTransform::logistic;
  if (given == "SOFTMAX_ZERO") return ScoreTransform::softmax_zero;
  if (given == "PROBIT") return ScoreTransform::probit;
  throw Error(error_text(call.where(),
                         "post_transform must be NONE, SOFTMAX, LOGISTIC, SOFTMAX_ZERO or PROBIT",
                         given));
}

void transform_scores(ScoreTransform transform, std::span<double> row) {
  if (row.empty()) return;
  switch (transform) {
    case ScoreTransform::none: return;
    case ScoreTransform::logistic:
      for (double& x : row) x = logistic(x);
      return;
    case ScoreTransform::probit:
      for (double& x : row) x = std::numbers::sqrt2 * inverse_erf(2.0 * x - 1.0);
      return;
    default: break;
  }
  const double most = *std::ranges::max_element(row);
  double sum = 0.0;
  for (double& x : row) {
    // Scores that are 0 stay as far below the others as 0 is.
    const bool zero = transform == ScoreTransform::softmax_zero && std::abs(x) <= 1e-7;
    x = zero ? x * std::exp(-most) : std::exp(x - most);
    sum += x;
  }
  for (double& x : row) x = sum == 0.0 ? 0.5 : x / sum;
}

Features features_of(const Call& call) {
  const Tensor& x = call.input(0);
  call.require(x.rank() == 1 || x.rank() == 2, "input must be a vector or matrix, shape",
               x.shape());
  Features result;
  result.rows = x.rank() == 1 ? 1 : x.shape()[0];
  result.width = x.shape()[x.rank() - 1];
  result.values = numbers_of(call, x);
  return result;
}

std::int64_t best_of(std::span<const double> row) {
  return std::ranges::max_element(row) - row.begin();
}

std::vector<double> numbers_of(const Call& call, const Tensor& tensor) {
  std::vector<double> numbers(static_cast<std::size_t>(tensor.size()));
  visit_numbers(call, tensor.type(), [&]<class T>() {
    const T* values = tensor.data<T>();
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      numbers[i] = static_cast<double>(static_cast<Arithmetic<T>>(values[i]));
    }
  });
  return numbers;
}

std::vector<double> numbers_of(const Call& call, const std::string& name) {
  if (call.node().find(name + "_as_tensor") != nullptr) {
    return numbers_of(call, call.required<Tensor>(name + "_as_tensor"));
  }
  const auto floats = call.attribute<std::vector<float>>(name, {});
  return {floats.begin(), floats.end()};
}

void write_scores(Call& call, int index, ElementType type, const Shape& shape,
                  std::span<const double> scores) {
  if (!call.wants(index)) return;
  Tensor& out = call.output(index, type, shape);
  visit_floats(call, type, [&]<class T>() {
    T* values = out.mutable_data<T>();
    for (std::size_t i = 0; i < scores.size(); ++i) {
      if constexpr (kIsHalf<T>) values[i] = static_cast<T>(static_cast<float>(scores[i]));
      else values[i] = static_cast<T>(scores[i]);
    }
  });
}

}  // namespace moptcore::inline v0::graph

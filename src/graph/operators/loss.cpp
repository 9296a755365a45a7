// SPDX-License-Identifier: Apache-2.0
// Losses of classes, and the steps of optimizers.
#include <algorithm>
#include <cmath>
#include <vector>

#include <moptcore/core/parallel.hpp>

#include <moptcore/graph/operator.hpp>
#include "graph/operators/along_axis.hpp"
#include "graph/operators/cast.hpp"
#include "graph/operators/types.hpp"

namespace moptcore::inline v0::graph {
namespace {

// Output 0 of minus the logarithms that the labels in input 1 choose; inputs are (N, C, d1, d2
// ...).
void pick(Call& call, const Tensor& logs, ElementType type) {
  const Shape& shape = logs.shape();
  call.require(shape.rank() >= 2, "input 0 must have two dimensions or more, shape", shape);
  Shape places{shape[0]};
  for (int axis = 2; axis < shape.rank(); ++axis) places.push_back(shape[axis]);
  const ElementType label_type = call.input(1).type();
  call.require<DTypeError>(label_type == ElementType::int32 || label_type == ElementType::int64,
                           "labels must be int32 or int64", name(label_type));
  const Tensor labels = cast_tensor(call, call.input(1), ElementType::int64);
  call.require(labels.shape() == places, "labels must have the shape of input 0 without classes",
               labels.shape());
  const std::int64_t classes = shape[1];
  Tensor weights;
  const bool weighted = call.has(2);
  if (weighted) {
    weights = cast_tensor(call, call.input(2, type), ElementType::float64);
    call.require(weights.shape() == Shape{classes}, "there must be a weight for each class, shape",
                 weights.shape());
  }
  const bool ignores = call.node().find("ignore_index") != nullptr;
  const auto ignored = call.attribute<std::int64_t>("ignore_index", 0);
  const std::string reduction = call.text("reduction", "mean");
  call.require(reduction == "none" || reduction == "sum" || reduction == "mean",
               "reduction must be none, sum or mean", reduction);

  Tensor losses = call.environment().allocate(ElementType::float64, places);
  double* const loss = losses.mutable_data<double>();
  const std::int64_t* const label = labels.data<std::int64_t>();
  const double* const x = logs.data<double>();
  const double* const weight = weighted ? weights.data<double>() : nullptr;
  const std::int64_t inner = losses.size() == 0 ? 1 : losses.size() / shape[0];
  double total = 0;
  double norm = 0;
  for (std::int64_t i = 0; i < losses.size(); ++i) {
    const std::int64_t chosen = label[i];
    if (ignores && chosen == ignored) {
      loss[i] = 0;
      continue;
    }
    call.require(chosen >= 0 && chosen < classes,
                 "labels must be in [0, " + std::to_string(classes) + ")", chosen);
    const double factor = weighted ? weight[chosen] : 1;
    loss[i] = -x[(i / inner * classes + chosen) * inner + i % inner] * factor;
    total += loss[i];
    norm += factor;
  }
  if (reduction == "none") return call.set(0, cast_tensor(call, losses, type));
  const double result = reduction == "sum" ? total : total / norm;
  call.set(0, cast_tensor(call, Tensor::scalar(result), type));
}

void negative_log_likelihood(Call& call) {
  const Tensor& logs = call.input(0);
  visit_floats(call, logs.type(), []<class T>() {});
  pick(call, cast_tensor(call, logs, ElementType::float64), logs.type());
}

void softmax_cross_entropy(Call& call) {
  const Tensor& scores = call.input(0);
  visit_floats(call, scores.type(), []<class T>() {});
  call.require(scores.rank() >= 2, "input 0 must have two dimensions or more, shape",
               scores.shape());
  const Tensor wide = cast_tensor(call, scores, ElementType::float64);
  Tensor logs = call.environment().allocate(ElementType::float64, scores.shape());
  if (scores.size() > 0) {
    const AlongAxis cut = along_axis(scores.shape(), 1);
    const double* const x = wide.data<double>();
    double* const y = logs.mutable_data<double>();
    parallel_for(cut.lines(), std::max<std::int64_t>(1, (1 << 12) / cut.extent),
                 [&](std::int64_t first, std::int64_t last) {
                   for (std::int64_t line = first; line < last; ++line) {
                     const std::int64_t start = cut.start(line);
                     double greatest = x[start];
                     for (std::int64_t i = 1; i < cut.extent; ++i) {
                       greatest = std::max(greatest, x[start + i * cut.inner]);
                     }
                     double sum = 0;
                     for (std::int64_t i = 0; i < cut.extent; ++i) {
                       sum += std::exp(x[start + i * cut.inner] - greatest);
                     }
                     const double shift = greatest + std::log(sum);
                     for (std::int64_t i = 0; i < cut.extent; ++i) {
                       y[start + i * cut.inner] = x[start + i * cut.inner] - shift;
                     }
                   }
                 });
  }
  pick(call, logs, scores.type());
  if (call.wants(1)) call.set(1, cast_tensor(call, logs, scores.type()));
}

// What every optimizer of ai.onnx.preview.training is given: a rate R, a count of updates T, and
// for each parameter X its gradient G and `states` tensors more, all X before all G.
struct Optimizer {
  double rate;
  double updates;
  int parameters;
};

Optimizer optimizer_of(const Call& call, int states) {
  const int tensors = 2 + states;
  const int count = call.input_count() - 2;
  call.require<FormatError>(
      count > 0 && count % tensors == 0,
      "inputs must be R, T and " + std::to_string(tensors) + " tensors for each parameter",
      call.input_count());
  Optimizer optimizer{0, 0, count / tensors};
  for (const int index : {0, 1}) {
    const Tensor& given = call.input(index);
    call.require(given.size() == 1, "R and T must have one element, shape", given.shape());
    (index == 0 ? optimizer.rate : optimizer.updates) =
        *cast_tensor(call, given, ElementType::float64).data<double>();
  }
  return optimizer;
}

// Calls step(values) for each element of parameter `index`: values are X, G and the states; it
// leaves the new X in the first and the new states from the third on.
template <int kStates, class Step>
void update(Call& call, const Optimizer& optimizer, int index, Step&& step) {
  constexpr int kTensors = 2 + kStates;
  const Tensor& x = call.input(2 + index);
  call.require<DTypeError>(x.type() == ElementType::float32 || x.type() == ElementType::float64,
                           "parameters must be float32 or float64", name(x.type()));
  Tensor wide[kTensors];
  for (int i = 0; i < kTensors; ++i) {
    const Tensor& given = call.input(2 + i * optimizer.parameters + index, x.type());
    call.require(given.shape() == x.shape(), "tensors of a parameter must have its shape",
                 given.shape());
    wide[i] = cast_tensor(call, given, ElementType::float64);
    if (x.type() == ElementType::float64) wide[i] = wide[i].clone();
  }
  double* at[kTensors];
  for (int i = 0; i < kTensors; ++i) at[i] = static_cast<double*>(wide[i].mutable_raw());
  for (std::int64_t i = 0; i < x.size(); ++i) {
    double values[kTensors];
    for (int tensor = 0; tensor < kTensors; ++tensor) values[tensor] = at[tensor][i];
    step(values);
    for (int tensor = 0; tensor < kTensors; ++tensor) at[tensor][i] = values[tensor];
  }
  call.set(index, cast_tensor(call, wide[0], x.type()));
  for (int state = 0; state < kStates; ++state) {
    call.set((1 + state) * optimizer.parameters + index,
             cast_tensor(call, wide[2 + state], x.type()));
  }
}

void adagrad(Call& call) {
  const Optimizer optimizer = optimizer_of(call, 1);
  const double decay = call.attribute("decay_factor", 0.0f);
  const double epsilon = call.attribute("epsilon", 1e-6f);
  const double norm = call.attribute("norm_coefficient", 0.0f);
  const double rate = optimizer.rate / (1 + optimizer.updates * decay);
  for (int index = 0; index < optimizer.parameters; ++index) {
    update<1>(call, optimizer, index, [&](double* v) {
      const double gradient = norm * v[0] + v[1];
      v[2] += gradient * gradient;
      v[0] -= rate * gradient / (std::sqrt(v[2]) + epsilon);
    });
  }
}

void adam(Call& call) {
  const Optimizer optimizer = optimizer_of(call, 2);
  const double alpha = call.attribute("alpha", 0.9f);
  const double beta = call.attribute("beta", 0.999f);
  const double epsilon = call.attribute("epsilon", 1e-6f);
  const double norm = call.attribute("norm_coefficient", 0.0f);
  const double shrink = 1 - static_cast<double>(call.attribute("norm_coefficient_post", 0.0f));
  double rate = optimizer.rate;
  if (optimizer.updates > 0) {
    rate *=
        std::sqrt(1 - std::pow(beta, optimizer.updates)) / (1 - std::pow(alpha, optimizer.updates));
  }
  for (int index = 0; index < optimizer.parameters; ++index) {
    update<2>(call, optimizer, index, [&](double* v) {
      const double gradient = norm * v[0] + v[1];
      v[2] = alpha * v[2] + (1 - alpha) * gradient;
      v[3] = beta * v[3] + (1 - beta) * gradient * gradient;
      v[0] = shrink * (v[0] - rate * v[2] / (std::sqrt(v[3]) + epsilon));
    });
  }
}

void momentum(Call& call) {
  const Optimizer optimizer = optimizer_of(call, 1);
  const double alpha = call.required<float>("alpha");
  const double beta = optimizer.updates > 0 ? call.required<float>("beta") : 1.0f;
  const double norm = call.required<float>("norm_coefficient");
  const std::string& mode = call.required<std::string>("mode");
  const bool nesterov = mode == "nesterov";
  call.require(nesterov || mode == "standard", "mode must be standard or nesterov", mode);
  for (int index = 0; index < optimizer.parameters; ++index) {
    update<1>(call, optimizer, index, [&](double* v) {
      const double gradient = norm * v[0] + v[1];
      v[2] = alpha * v[2] + beta * gradient;
      v[0] -= optimizer.rate * (nesterov ? gradient + alpha * v[2] : v[2]);
    });
  }
}

constexpr Operator kOperators[] = {
    {"", "NegativeLogLikelihoodLoss", 12, negative_log_likelihood},
    {"", "SoftmaxCrossEntropyLoss", 12, softmax_cross_entropy},
    {"ai.onnx.preview.training", "Adagrad", 1, adagrad},
    {"ai.onnx.preview.training", "Adam", 1, adam},
    {"ai.onnx.preview.training", "Momentum", 1, momentum},
};

}  // namespace

std::span<const Operator> loss_operators() noexcept { return kOperators; }

}  // namespace moptcore::inline v0::graph

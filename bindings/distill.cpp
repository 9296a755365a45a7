// SPDX-License-Identifier: Apache-2.0
#include <moptcore/distill/distill.hpp>

#include <pybind11/stl.h>

#include <optional>
#include <string>

#include "array.hpp"
#include "module.hpp"

namespace moptcore::bindings {

namespace py = pybind11;

namespace {

distill::Reduction reduction_from(const std::string& text, const char* where) {
  if (text == "batchmean") return distill::Reduction::batchmean;
  if (text == "sum") return distill::Reduction::sum;
  check(text == "none", where, "reduction must be batchmean, sum or none", text);
  return distill::Reduction::none;
}

Shape row_shape(const Shape& shape, std::int64_t axis, const char* where) {
  const int skipped = normalize_axis(axis, shape.rank(), where);
  Shape rows;
  for (int i = 0; i < shape.rank(); ++i) {
    if (i != skipped) rows.push_back(shape[i]);
  }
  return rows;
}

py::tuple soft_target_loss(const Array& student, const Array& teacher,
                           const std::optional<Array>& labels, double temperature, double alpha,
                           std::int64_t axis, double label_smoothing, std::int64_t ignore_index,
                           const std::string& reduction, const py::object& out) {
  constexpr const char* kWhere = "distill.soft_target_loss";
  const distill::SoftTargetOptions options{.temperature = temperature,
                                           .alpha = alpha,
                                           .axis = axis,
                                           .label_smoothing = label_smoothing,
                                           .ignore_index = ignore_index,
                                           .reduction = reduction_from(reduction, kWhere)};
  const auto label_view = labels ? std::optional(labels->view()) : std::nullopt;
  Output grad(student, student.dtype(), student.shape(), out, kWhere);
  if (options.reduction == distill::Reduction::none) {
    const DType wide = student.dtype() == DType::float64 ? DType::float64 : DType::float32;
    Output losses(student, wide, row_shape(student.shape(), axis, kWhere), py::none(), kWhere);
    {
      const py::gil_scoped_release release;
      distill::soft_target_losses(student.view(), teacher.view(), label_view, options,
                                  losses.view(), grad.view());
    }
    return py::make_tuple(losses.take(), grad.take());
  }
  double loss = 0.0;
  {
    const py::gil_scoped_release release;
    loss =
        distill::soft_target_loss(student.view(), teacher.view(), label_view, options, grad.view());
  }
  return py::make_tuple(loss, grad.take());
}

py::tuple feature_loss(const Array& student, const Array& teacher,
                       const std::optional<Array>& adaptor, const std::optional<Array>& bias,
                       const py::object& out) {
  constexpr const char* kWhere = "distill.feature_loss";
  check(adaptor || !bias, kWhere, "bias must come with an adaptor");
  Output grad(student, student.dtype(), student.shape(), out, kWhere);
  double loss = 0.0;
  if (!adaptor) {
    {
      const py::gil_scoped_release release;
      loss = distill::feature_loss(student.view(), teacher.view(), grad.view());
    }
    return py::make_tuple(loss, grad.take());
  }
  distill::FeatureAdaptor<AnyView> map{adaptor->view(), std::nullopt};
  Output weight_grad(*adaptor, adaptor->dtype(), adaptor->shape(), py::none(), kWhere);
  distill::FeatureAdaptor<MutableAnyView> map_grad{weight_grad.view(), std::nullopt};
  std::optional<Output> bias_grad;
  if (bias) {
    map.bias = bias->view();
    bias_grad.emplace(*bias, bias->dtype(), bias->shape(), py::none(), kWhere);
    map_grad.bias = bias_grad->view();
  }
  {
    const py::gil_scoped_release release;
    loss = distill::feature_loss(student.view(), teacher.view(), map, grad.view(), map_grad);
  }
  if (!bias) return py::make_tuple(loss, grad.take(), weight_grad.take());
  return py::make_tuple(loss, grad.take(), weight_grad.take(), bias_grad->take());
}

}  // namespace

void bind_distill(py::module_ m) {
  using py::literals::operator""_a;
  m.doc() = "Losses that train a small network to follow a large one, with their gradients.";
  m.def("soft_target_loss", &soft_target_loss, "student"_a, "teacher"_a, "labels"_a = py::none(),
        "temperature"_a = 4.0, "alpha"_a = 0.7, "axis"_a = -1, "label_smoothing"_a = 0.0,
        "ignore_index"_a = -100, "reduction"_a = "batchmean", "out"_a = py::none(),
        R"(Hinton's loss of a student's logits against a teacher's and the labels: (loss, gradient).

loss = alpha T^2 KL(softmax(teacher / T) || softmax(student / T))
       + (1 - alpha) cross_entropy(student, labels), summed over the rows (all axes but `axis`)
and divided by their number. Without labels alpha is 1. Rows whose label is `ignore_index` count
nowhere; if none is left the loss is 0. `reduction` is "batchmean", "sum" or "none": then loss is
an array with one value a row and the gradient that of their sum. A logit of -inf is a class of
probability 0; NaN and +inf make their row NaN. A term of weight 0 is not evaluated. The gradient
by the student's logits is an array of the student's kind and dtype, or `out`.)");
  m.def("feature_loss", &feature_loss, "student"_a, "teacher"_a, "adaptor"_a = py::none(),
        "bias"_a = py::none(), "out"_a = py::none(),
        R"(Mean squared difference of features: (loss, gradient by the student).

With `adaptor`, a matrix [out, in], and perhaps `bias` [out], the student's last axis is mapped
first: loss = mean((student @ adaptor.T + bias - teacher)^2), and the gradients by adaptor and
bias follow in the tuple. The teacher has the shape of what it is compared with; the student's
gradient is an array of its kind and dtype, or `out`. NaN and infinities propagate.)");
}

}  // namespace moptcore::bindings

// SPDX-License-Identifier: Apache-2.0
#include <moptcore/distill/distill.hpp>

#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <vector>

#include "array.hpp"
#include "backend.hpp"
#include "module.hpp"
#include "soft_targets.hpp"

namespace moptcore::bindings {

namespace py = pybind11;

namespace {

py::tuple soft_target_loss(const Array& student, const Array& teacher,
                           const std::optional<Array>& labels, double temperature, double alpha,
                           std::int64_t axis, double label_smoothing, std::int64_t ignore_index,
                           const std::string& reduction, const py::object& out, bool standardize,
                           const std::optional<Array>& mask,
                           const std::optional<std::string>& backend) {
  constexpr const char* kWhere = "distill.soft_target_loss";
  if (backend) {
    const py::object function = onednn("soft_target_loss", *backend, kWhere);
    check<UnsupportedError>(!standardize && !mask, kWhere,
                            "backend onednn takes standardize=False and mask=None");
    const py::object targets = labels ? labels->object() : py::none();
    return function(student.object(), teacher.object(), targets, temperature, alpha, axis,
                    label_smoothing, ignore_index, reduction, out);
  }
  const distill::SoftTargetOptions options{.temperature = temperature,
                                           .alpha = alpha,
                                           .axis = axis,
                                           .label_smoothing = label_smoothing,
                                           .ignore_index = ignore_index,
                                           .reduction = reduction_from(reduction, kWhere),
                                           .standardize = standardize};
  const auto label_view = view_of(labels);
  const auto mask_view = view_of(mask);
  return soft_targets(
      student, options, out, kWhere,
      [&](const MutableAnyView& grad) {
        return distill::soft_target_loss(student.view(), teacher.view(), label_view, options, grad,
                                         mask_view);
      },
      [&](const MutableAnyView& losses, const MutableAnyView& grad) {
        distill::soft_target_losses(student.view(), teacher.view(), label_view, options, losses,
                                    grad, mask_view);
      });
}

py::tuple feature_loss(const Array& student, const Array& teacher,
                       const std::optional<Array>& adaptor, const std::optional<Array>& bias,
                       const py::object& out, const std::optional<Array>& mask) {
  constexpr const char* kWhere = "distill.feature_loss";
  check(adaptor || !bias, kWhere, "bias must come with an adaptor");
  Output grad(student, student.dtype(), student.shape(), out, kWhere);
  const auto mask_view = view_of(mask);
  double loss = 0.0;
  if (!adaptor) {
    {
      const py::gil_scoped_release release;
      loss = distill::feature_loss(student.view(), teacher.view(), grad.view(), mask_view);
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
    loss = distill::feature_loss(student.view(), teacher.view(), map, grad.view(), map_grad,
                                 mask_view);
  }
  if (!bias) return py::make_tuple(loss, grad.take(), weight_grad.take());
  return py::make_tuple(loss, grad.take(), weight_grad.take(), bias_grad->take());
}

// (loss, gradient by the student) of a loss that writes its gradient into a view.
template <class Loss>
py::tuple with_gradient(const Array& student, const py::object& out, const char* where,
                        Loss&& loss) {
  Output grad(student, student.dtype(), student.shape(), out, where);
  double value = 0.0;
  {
    const py::gil_scoped_release release;
    value = loss(grad.view());
  }
  return py::make_tuple(value, grad.take());
}

py::tuple attention_loss(const Array& student, const Array& teacher, double p, std::int64_t axis,
                         const std::optional<Array>& mask, const py::object& out) {
  return with_gradient(student, out, "distill.attention_loss", [&](const MutableAnyView& grad) {
    return distill::attention_loss(student.view(), teacher.view(), {.power = p, .axis = axis},
                                   view_of(mask), grad);
  });
}

py::tuple relational_loss(const Array& student, const Array& teacher, double distance, double angle,
                          const std::optional<Array>& mask, const py::object& out) {
  return with_gradient(student, out, "distill.relational_loss", [&](const MutableAnyView& grad) {
    return distill::relational_loss(student.view(), teacher.view(),
                                    {.distance = distance, .angle = angle}, view_of(mask), grad);
  });
}

py::tuple similarity_loss(const Array& student, const Array& teacher,
                          const std::optional<Array>& mask, const py::object& out) {
  return with_gradient(student, out, "distill.similarity_loss", [&](const MutableAnyView& grad) {
    return distill::similarity_loss(student.view(), teacher.view(), view_of(mask), grad);
  });
}

py::tuple dist_loss(const Array& student, const Array& teacher, double inter, double intra,
                    double temperature, std::int64_t axis, const std::optional<Array>& mask,
                    const py::object& out) {
  const distill::DistOptions options{
      .inter = inter, .intra = intra, .temperature = temperature, .axis = axis};
  return with_gradient(student, out, "distill.dist_loss", [&](const MutableAnyView& grad) {
    return distill::dist_loss(student.view(), teacher.view(), options, view_of(mask), grad);
  });
}

py::tuple cosine_loss(const Array& student, const Array& teacher, std::int64_t axis,
                      const std::optional<Array>& mask, const py::object& out) {
  return with_gradient(student, out, "distill.cosine_loss", [&](const MutableAnyView& grad) {
    return distill::cosine_loss(student.view(), teacher.view(), axis, view_of(mask), grad);
  });
}

py::object average_teachers(const py::list& teachers, const std::vector<double>& weights,
                            double temperature, std::int64_t axis, const py::object& out) {
  constexpr const char* kWhere = "distill.average_teachers";
  const auto arrays = teachers.cast<std::vector<Array>>();
  check(!arrays.empty(), kWhere, "teachers must hold at least one, got none");
  std::vector<AnyView> views;
  views.reserve(arrays.size());
  for (const Array& array : arrays) views.push_back(array.view());
  Output average(arrays[0], arrays[0].dtype(), arrays[0].shape(), out, kWhere);
  {
    const py::gil_scoped_release release;
    distill::average_teachers(views, weights, temperature, axis, average.view());
  }
  return average.take();
}

}  // namespace

void bind_distill(py::module_ m) {
  using py::literals::operator""_a;
  m.doc() = "Losses that train a small network to follow a large one, with their gradients.";
  m.def("soft_target_loss", &soft_target_loss, "student"_a, "teacher"_a, "labels"_a = py::none(),
        "temperature"_a = 4.0, "alpha"_a = 0.7, "axis"_a = -1, "label_smoothing"_a = 0.0,
        "ignore_index"_a = -100, "reduction"_a = "batchmean", "out"_a = py::none(),
        "standardize"_a = false, "mask"_a = py::none(), "backend"_a = py::none(),
        R"(Hinton's loss of a student's logits against a teacher's and the labels: (loss, gradient).

loss = alpha T^2 KL(softmax(teacher / T) || softmax(student / T))
       + (1 - alpha) cross_entropy(student, labels), summed over the rows (all axes but `axis`)
and divided by their number. Without labels alpha is 1. Rows whose label is `ignore_index` count
nowhere; if none is left the loss is 0. `reduction` is "batchmean", "sum" or "none": then loss is
an array with one value a row and the gradient that of their sum. A logit of -inf is a class of
probability 0; NaN and +inf make their row NaN. A term of weight 0 is not evaluated. The gradient
by the student's logits is an array of the student's kind and dtype, or `out`.

`mask`, bool in the rows' shape, is true for the rows that count; the others are not read, have
gradient 0 and are not in the divisor. `standardize` takes the softmax of the teacher's term from
z-scores of the logits, (x - mean) / std over the row (n - 1 degrees of freedom; 0 for equal
logits): Sun et al., "Logit standardization in knowledge distillation", arXiv:2403.01427. The
labels' term keeps the logits as they are.

backend="onednn": contiguous float32 with the classes in the last axis through oneDNN's softmax, a
few roundings away from ours, which is as fast or faster.)");
  m.def("feature_loss", &feature_loss, "student"_a, "teacher"_a, "adaptor"_a = py::none(),
        "bias"_a = py::none(), "out"_a = py::none(), "mask"_a = py::none(),
        R"(Mean squared difference of features: (loss, gradient by the student).

With `adaptor`, a matrix [out, in], and perhaps `bias` [out], the student's last axis is mapped
first: loss = mean((student @ adaptor.T + bias - teacher)^2), and the gradients by adaptor and
bias follow in the tuple. The teacher has the shape of what it is compared with; the student's
gradient is an array of its kind and dtype, or `out`. NaN and infinities propagate. `mask`, bool in
the student's shape without its last axis, is true for the rows that count; the others are not
read. With an adaptor this is the hint of FitNets (Romero et al., arXiv:1412.6550).)");
  m.def("attention_loss", &attention_loss, "student"_a, "teacher"_a, "p"_a = 2.0, "axis"_a = 1,
        "mask"_a = py::none(), "out"_a = py::none(),
        R"(Attention transfer of features [samples, ...]: (loss, gradient by the student).

A sample's map is the sum over the channels (`axis`) of |feature|^p, p >= 1, divided by its norm;
loss = the mean over samples and positions of the squared difference of the maps. The teacher may
have another number of channels. `mask`, bool in the student's shape without the channels, is true
for the positions that count. A map of zeros stays 0, with gradient 0; NaN and infinities make the
loss NaN. Zagoruyko and Komodakis, arXiv:1612.03928, section 3.1.)");
  m.def("relational_loss", &relational_loss, "student"_a, "teacher"_a, "distance"_a = 25.0,
        "angle"_a = 50.0, "mask"_a = py::none(), "out"_a = py::none(),
        R"(Relational distillation of features [samples, ...]: (loss, gradient by the student).

loss = distance * mean over pairs of huber(d_student - d_teacher), with d the Euclidean distances
divided by the mean of those that are not 0, + angle * mean over triples of huber of the difference
of cosines at each sample between the directions to two others. A weight of 0 leaves its term out.
Only the number of samples must agree. `mask`, bool [samples], is true for those that count. Equal
samples have no direction and gradient 0; NaN makes the loss NaN. Takes time cubic in the samples.
Park et al., "Relational knowledge distillation", arXiv:1904.05068.)");
  m.def("similarity_loss", &similarity_loss, "student"_a, "teacher"_a, "mask"_a = py::none(),
        "out"_a = py::none(),
        R"(Similarity-preserving distillation of [samples, ...]: (loss, gradient by the student).

loss = the mean squared difference of G = X X^T, X the samples as rows, with every row of G divided
by its norm. Only the number of samples must agree. `mask`, bool [samples], is true for those that
count. A row of zeros stays 0, with gradient 0; NaN makes the loss NaN. Tung and Mori,
"Similarity-preserving knowledge distillation", arXiv:1907.09682.)");
  m.def("dist_loss", &dist_loss, "student"_a, "teacher"_a, "inter"_a = 1.0, "intra"_a = 1.0,
        "temperature"_a = 1.0, "axis"_a = -1, "mask"_a = py::none(), "out"_a = py::none(),
        R"(DIST of logits, relations instead of values: (loss, gradient by the student).

With probabilities at `temperature` T over the classes (`axis`),
loss = T^2 (inter * mean over rows of 1 - r + intra * mean over classes of 1 - r), r being Pearson's
correlation of the student's row (class) with the teacher's. What does not vary has r = 0 and
gradient 0. `mask`, bool in the rows' shape, is true for the rows that count. NaN makes the loss
NaN. Huang et al., "Knowledge distillation from a stronger teacher", arXiv:2205.10536.)");
  m.def("cosine_loss", &cosine_loss, "student"_a, "teacher"_a, "axis"_a = -1, "mask"_a = py::none(),
        "out"_a = py::none(),
        R"(Mean over rows of 1 - cosine(student, teacher): (loss, gradient by the student).

Rows lie along `axis`; `mask`, bool in the shape of the other axes, is true for those that count. A
row of zeros has cosine 0 and gradient 0; NaN and infinities make the loss NaN.)");
  m.def("average_teachers", &average_teachers, "teachers"_a, "weights"_a = std::vector<double>(),
        "temperature"_a = 4.0, "axis"_a = -1, "out"_a = py::none(),
        R"(Logits whose softmax at `temperature` is the weighted average of the teachers' softmaxes.

A loss against the result is one against the ensemble. `teachers` is a list of arrays of one shape,
`weights` one number >= 0 a teacher (equal if none are given), divided by their sum. Returns an
array like the first teacher, or `out`. -inf is a class of probability 0; NaN and +inf make their
row NaN. Hinton, Vinyals and Dean, arXiv:1503.02531, section 1.)");
}

}  // namespace moptcore::bindings

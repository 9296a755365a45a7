// SPDX-License-Identifier: Apache-2.0
#include <moptcore/quant/quant.hpp>

#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <vector>

#include "array.hpp"
#include "module.hpp"

namespace moptcore::bindings {

namespace py = pybind11;
using py::literals::operator""_a;

namespace {

using GroupSize = std::optional<std::int64_t>;
using quant::WeightGridOptions;

WeightGridOptions grid_options(const py::object& dtype, const GroupSize& group_size, bool symmetric,
                               const char* where) {
  check(!group_size || *group_size >= 1, where, "group_size must be >= 1 or None",
        group_size.value_or(0));
  return {grid_type_from(dtype, where), group_size.value_or(0), symmetric};
}

DType loose(DType dtype) {
  if (dtype == DType::int4) return DType::int8;
  return dtype == DType::uint4 ? DType::uint8 : dtype;
}

// The dtype of results computed from `array`: its own, or float64 for numbers and integers.
DType floating_dtype(const Array& array) {
  return is_floating(array.dtype()) ? array.dtype() : DType::float64;
}

Shape vector_shape(const Array& array, int axis, const char* where, const char* argument) {
  check(array.shape().rank() > axis, where,
        std::string(argument) + " must have at least " + std::to_string(axis + 1) +
            (axis == 0 ? " dimension" : " dimensions"),
        array.shape());
  return Shape{array.shape()[axis]};
}

py::tuple gptq(const Array& weights, const Array& hessian, const py::object& dtype,
               const GroupSize& group_size, bool symmetric, double damping, std::int64_t block_size,
               const std::string& order, const std::optional<QParams>& qparams, bool preserve_zeros,
               const py::object& out) {
  constexpr auto where = "quant.gptq";
  const quant::GptqOptions options{.damping = damping,
                                   .block_size = block_size,
                                   .order = quant::column_order_from(order, where),
                                   .preserve_zeros = preserve_zeros};
  const WeightGridOptions grids = grid_options(dtype, group_size, symmetric, where);
  Output q(weights, loose(qparams ? qparams->dtype() : grids.dtype.storage()), weights.shape(), out,
           where);
  q.check_overlap(hessian, where);
  std::optional<QParams> found = qparams;
  {
    const py::gil_scoped_release release;
    if (qparams) {
      quant::gptq(weights.view(), hessian.view(), q.view(), *qparams, options);
    } else {
      found = quant::gptq(weights.view(), hessian.view(), q.view(), grids, options);
    }
  }
  return py::make_tuple(q.take(), *found);
}

py::object adaround(const Array& weights, const Array& hessian, const QParams& qparams,
                    int iterations, double learning_rate, double regularization,
                    bool preserve_zeros, const py::object& out) {
  constexpr auto where = "quant.adaround";
  Output q(weights, loose(qparams.dtype()), weights.shape(), out, where);
  q.check_overlap(hessian, where);
  {
    const py::gil_scoped_release release;
    quant::adaround(weights.view(), hessian.view(), q.view(), qparams,
                    {.iterations = iterations,
                     .learning_rate = learning_rate,
                     .regularization = regularization,
                     .preserve_zeros = preserve_zeros});
  }
  return q.take();
}

py::tuple hqq(const Array& weights, const py::object& dtype, const GroupSize& group_size,
              bool symmetric, double norm, double beta, double growth, int iterations,
              bool integer_zero) {
  constexpr auto where = "quant.hqq";
  const WeightGridOptions grids = grid_options(dtype, group_size, symmetric, where);
  check(weights.shape().rank() == 2 && !weights.view().empty(), where,
        "weights must have two dimensions [out, in] and not be empty", weights.shape());
  const Shape shape =
      group_size ? grouped_shape(weights.shape(), 1, *group_size) : Shape{weights.shape()[0]};
  Output q(weights, loose(grids.dtype.storage()), weights.shape(), py::none(), where);
  Output scale(weights, DType::float32, shape, py::none(), where);
  Output zero_point(weights, DType::float32, shape, py::none(), where);
  {
    const py::gil_scoped_release release;
    quant::hqq(weights.view(), q.view(), scale.view(), zero_point.view(), grids,
               {.norm = norm,
                .beta = beta,
                .growth = growth,
                .iterations = iterations,
                .integer_zero = integer_zero});
  }
  return py::make_tuple(q.take(), scale.take(), zero_point.take());
}

py::object bias_correction(const Array& weights, const Array& approximation, const Array& mean,
                           std::int64_t groups, const py::object& out) {
  constexpr auto where = "quant.bias_correction";
  Output result(weights, floating_dtype(weights), vector_shape(weights, 0, where, "weights"), out,
                where);
  {
    const py::gil_scoped_release release;
    quant::bias_correction(weights.view(), approximation.view(), mean.view(), result.view(),
                           groups);
  }
  return result.take();
}

py::tuple awq_scales(const Array& weights, const Array& activation_mean, const Array& hessian,
                     const py::object& dtype, const GroupSize& group_size, bool symmetric,
                     int steps) {
  constexpr auto where = "quant.awq_scales";
  const WeightGridOptions grids = grid_options(dtype, group_size, symmetric, where);
  Output scales(weights, DType::float32, vector_shape(weights, 1, where, "weights"), py::none(),
                where);
  double exponent = 0.0;
  {
    const py::gil_scoped_release release;
    exponent = quant::awq_scales(weights.view(), activation_mean.view(), hessian.view(),
                                 scales.view(), grids, steps);
  }
  return py::make_tuple(scales.take(), exponent);
}

// A list or tuple of arrays, held so that nobody can take one away while the GIL is released.
py::tuple sequence_of(const py::object& list, const char* where, const char* argument) {
  check<DTypeError>(py::isinstance<py::list>(list) || py::isinstance<py::tuple>(list), where,
                    std::string(argument) + " must be a list or tuple of arrays",
                    Py_TYPE(list.ptr())->tp_name);
  return py::tuple(list);
}

Array array_at(const py::tuple& list, std::size_t i, const char* where, const char* argument) {
  check<DTypeError>(Array::accepts(list[i]), where,
                    std::string(argument) + '[' + std::to_string(i) + "] must be an array",
                    Py_TYPE(py::object(list[i]).ptr())->tp_name);
  return Array(list[i]);
}

py::object smoothquant_scales(const Array& activation_max, const py::object& weights, double alpha,
                              bool power_of_two) {
  constexpr auto where = "quant.smoothquant_scales";
  const bool several = py::isinstance<py::list>(weights) || py::isinstance<py::tuple>(weights);
  const py::tuple held = several ? py::tuple(weights) : py::make_tuple(weights);
  std::vector<Array> arrays;
  std::vector<AnyView> views;
  for (std::size_t i = 0; i < held.size(); ++i) {
    arrays.push_back(array_at(held, i, where, "weights"));
    views.push_back(arrays.back().view());
  }
  Output scales(activation_max, floating_dtype(activation_max),
                vector_shape(activation_max, 0, where, "activation_max"), py::none(), where);
  {
    const py::gil_scoped_release release;
    quant::smoothquant_scales(activation_max.view(), views, scales.view(), alpha, power_of_two);
  }
  return scales.take();
}

py::object cross_layer_scales(const Array& first, const Array& second, bool power_of_two) {
  constexpr auto where = "quant.cross_layer_scales";
  Output scales(first, floating_dtype(first), vector_shape(first, 0, where, "first"), py::none(),
                where);
  {
    const py::gil_scoped_release release;
    quant::cross_layer_scales(first.view(), second.view(), scales.view(), power_of_two);
  }
  return scales.take();
}

py::tuple equalize(const py::object& weights, const py::object& biases, bool power_of_two,
                   int iterations, double tolerance) {
  constexpr auto where = "quant.equalize";
  const py::tuple held = sequence_of(weights, where, "weights");
  const py::tuple held_biases = biases.is_none()
                                    ? py::tuple(py::list(py::make_tuple(py::none())) *
                                                py::int_(static_cast<int>(held.size())))
                                    : sequence_of(biases, where, "biases");
  check(held_biases.size() == held.size(), where, "biases must be as many as weights",
        held_biases.size());
  std::vector<Array> arrays;
  std::vector<AnyView> views;
  std::vector<std::optional<AnyView>> bias_views;
  std::vector<Output> results;
  std::vector<std::optional<Output>> bias_results;
  std::vector<MutableAnyView> targets;
  std::vector<std::optional<MutableAnyView>> bias_targets;
  const auto same = [&](const Array& array) {
    return Output(array, floating_dtype(array), array.shape(), py::none(), where);
  };
  for (std::size_t i = 0; i < held.size(); ++i) {
    const Array array = array_at(held, i, where, "weights");
    views.push_back(array.view());
    results.push_back(same(array));
    targets.push_back(results.back().view());
    arrays.push_back(array);
    const py::object bias = held_biases[i];
    if (bias.is_none()) {
      bias_views.emplace_back();
      bias_results.emplace_back();
      bias_targets.emplace_back();
      continue;
    }
    const Array shift = array_at(held_biases, i, where, "biases");
    bias_views.emplace_back(shift.view());
    bias_results.emplace_back(same(shift));
    bias_targets.emplace_back(bias_results.back()->view());
    arrays.push_back(shift);
  }
  {
    const py::gil_scoped_release release;
    quant::equalize(
        views, bias_views, targets, bias_targets,
        {.power_of_two = power_of_two, .iterations = iterations, .tolerance = tolerance});
  }
  py::list new_weights;
  py::list new_biases;
  for (Output& result : results) new_weights.append(result.take());
  for (std::optional<Output>& result : bias_results) {
    new_biases.append(result ? result->take() : py::none());
  }
  return py::make_tuple(new_weights, new_biases);
}

}  // namespace

void bind_quant_weights(py::module_ m) {
  m.def(
      "reconstruction_error",
      [](const Array& weights, const Array& approximation, const Array& hessian) {
        const py::gil_scoped_release release;
        return quant::reconstruction_error(weights.view(), approximation.view(), hessian.view());
      },
      "weights"_a, "approximation"_a, "hessian"_a,
      R"(The squared error of a layer's outputs: sum over rows of (w - a) H (w - a)^T.

weights, approximation: [out, in]; hessian: X^T X of the inputs, [in, in], or its diagonal [in].)");
  m.def("gptq", &gptq, "weights"_a, "hessian"_a, "dtype"_a = "int4", "group_size"_a = py::none(),
        "symmetric"_a = true, "damping"_a = 0.01, "block_size"_a = 128, "order"_a = "none",
        "qparams"_a = py::none(), "preserve_zeros"_a = false, "out"_a = py::none(),
        R"(GPTQ (Frantar et al. 2022, algorithm 1): (integers, QParams).

Rounds the columns of weights [out, in] one after the other and changes those that are left so
that the outputs keep. hessian: X^T X of the inputs [in, in], times any factor; damping times its
mean diagonal is added to the diagonal. One grid a row, or one for each group_size neighbours of a
row, found when the first column of the group is reached; or those of `qparams`.
order="activation" takes the columns with the largest diagonal first, on grids of the given
weights. preserve_zeros: weights that are 0, as pruned ones are, get the zero point, and the others
make up for that too. Integers are int8 for int4 and uint8 for uint4, one each; dequantize(q, qp,
packed=False) gives the weights. Raises Error where the damped hessian is not positive definite.)");
  m.def("adaround", &adaround, "weights"_a, "hessian"_a, "qparams"_a, "iterations"_a = 500,
        "learning_rate"_a = 0.02, "regularization"_a = 0.02, "preserve_zeros"_a = false,
        "out"_a = py::none(),
        R"(AdaRound (Nagel et al. 2020, section 4): for each weight the integer below or above it.

Learns a rectified sigmoid a weight by Adam on the outputs' error, hessian = X^T X of the inputs
[in, in], pressed to 0 or 1 by sum(1 - |2h - 1|^beta), beta from 20 to 2; then turns over single
weights while that lowers the error. No row's error exceeds that of rounding to the nearest. No
random numbers. weights: [out, in] on the grids of `qparams`. preserve_zeros: weights that
are 0, as pruned ones are, get the zero point. Integers as gptq gives them.)");
  m.def("hqq", &hqq, "weights"_a, "dtype"_a = "int4", "group_size"_a = py::none(),
        "symmetric"_a = false, "norm"_a = 0.7, "beta"_a = 10.0, "growth"_a = 1.01,
        "iterations"_a = 20, "integer_zero"_a = false,
        R"(HQQ (Badri and Shaji 2023): (integers, scale, zero_point) without data.

weights [out, in] ~ (q - zero_point) * scale with float32 scale and zero_point, [out] or, with
group_size, [out, ceil(in / group_size)]. Lowers sum |e|^norm of the errors in steps by half-
quadratic splitting: the zero point, or the scale where symmetric. The best of all iterations is
kept. integer_zero: zero points are whole numbers of the grid, as QParams wants them.)");
  m.def("bias_correction", &bias_correction, "weights"_a, "approximation"_a, "mean"_a,
        "groups"_a = 1, "out"_a = py::none(),
        R"(What to add to the bias of a layer with approximate weights: (W - W') E[x], [out].

Nagel et al. 2019, section 4.2. weights, approximation: [out, in / groups, ...]; mean: the mean of
each input channel [in].)");
  m.def("awq_scales", &awq_scales, "weights"_a, "activation_mean"_a, "hessian"_a,
        "dtype"_a = "int4", "group_size"_a = py::none(), "symmetric"_a = true, "steps"_a = 20,
        R"(AWQ (Lin et al. 2023, section 3.2): (scales [in], exponent).

Quantize weights * scales and divide the inputs by scales. scales = m^a, normalized, m the mean |x|
of each input, with the a of 0, 1/steps, ..., 1 whose error of the outputs is least; 0 means no
scaling. hessian: X^T X of the inputs [in, in], or its diagonal [in]. The grids are those of the
scaled weights' smallest and largest values, as in group_qparams.)");
  m.def("smoothquant_scales", &smoothquant_scales, "activation_max"_a, "weights"_a, "alpha"_a = 0.5,
        "power_of_two"_a = false,
        R"(SmoothQuant (Xiao et al. 2022, equation 4): s = max|x|^alpha / max|w|^(1 - alpha), [in].

Divide the inputs by s and multiply the input channels of all weights that read them (one array
[out, in, ...] or a list). 1 where an input or its weights are 0. power_of_two: the nearest power
of two, so that nothing is rounded.)");
  m.def("cross_layer_scales", &cross_layer_scales, "first"_a, "second"_a, "power_of_two"_a = false,
        R"(Cross-layer equalization (Nagel et al. 2019, section 4.1): s = sqrt(r1 / r2), [channels].

r1, r2: the largest magnitude of each channel in first [channels, ...] and in second
[out, channels / groups, ...]. Divide the rows and the bias of the first by s, multiply the input
channels of the second. 1 where a range is 0.)");
  m.def("equalize", &equalize, "weights"_a, "biases"_a = py::none(), "power_of_two"_a = false,
        "iterations"_a = 100, "tolerance"_a = 1e-3,
        R"(Equalizes a chain of layers with ReLUs between them: (weights, biases), new arrays.

cross_layer_scales of each pair, applied, until no factor is further than `tolerance` from 1.
weights: list of [out, in / groups, ...]; biases: list of [out] or None. power_of_two: factors that
change no bit of the network's outputs.)");
}

}  // namespace moptcore::bindings

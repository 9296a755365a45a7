// SPDX-License-Identifier: Apache-2.0
// The second extension module: what needs oneDNN. Imported on first use, because loading libdnnl
// costs some milliseconds and megabytes.
#include <moptcore/core/parallel.hpp>
#include <moptcore/runtime/runtime.hpp>

#include <pybind11/stl.h>

#include <array>
#include <optional>
#include <span>
#include <string>

#include "array.hpp"
#include "constructed.hpp"
#include "misfit.hpp"
#include "module.hpp"
#include "soft_targets.hpp"

namespace moptcore::bindings {

namespace py = pybind11;

void adopt_thread_limit() {
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<py::object> limit;
  limit.call_once_and_store_result(
      [] { return py::module_::import("moptcore._core").attr("get_num_threads"); });
  set_num_threads(limit.get_stored()().cast<int>());
}

namespace {

py::object quantize(const Array& x, const QParams& qp, const py::object& out) {
  adopt_thread_limit();
  Output result(x, qp.dtype(), x.shape(), out, "quant.quantize");
  {
    const py::gil_scoped_release release;
    runtime::quantize(x.view(), qp, result.view());
  }
  return result.take();
}

py::object dequantize(const Array& q, const QParams& qp, const py::object& out) {
  adopt_thread_limit();
  Output result(q, DType::float32, q.shape(), out, "quant.dequantize");
  {
    const py::gil_scoped_release release;
    runtime::dequantize(q.view(), qp, result.view());
  }
  return result.take();
}

// One grid of bytes.
QParams input_grid(float scale, std::int32_t zero_point, std::int32_t qmin, std::int32_t qmax) {
  QParams::Options options;
  options.dtype = qmin < 0 ? DType::int8 : DType::uint8;
  options.qmin = qmin;
  options.qmax = qmax;
  return QParams(scale, zero_point, options);
}

std::span<const float> scales_from(const Array& scale, const char* where) {
  check<DTypeError>(scale.dtype() == DType::float32 && scale.view().is_contiguous(), where,
                    "weight_scale must be contiguous float32", name(scale.dtype()));
  return {static_cast<const float*>(scale.view().data()),
          static_cast<std::size_t>(scale.view().size())};
}

py::tuple soft_target_loss(const Array& student, const Array& teacher,
                           const std::optional<Array>& labels, double temperature, double alpha,
                           std::int64_t axis, double label_smoothing, std::int64_t ignore_index,
                           const std::string& reduction, const py::object& out) {
  constexpr const char* kWhere = "distill.soft_target_loss";
  adopt_thread_limit();
  const distill::SoftTargetOptions options{.temperature = temperature,
                                           .alpha = alpha,
                                           .axis = axis,
                                           .label_smoothing = label_smoothing,
                                           .ignore_index = ignore_index,
                                           .reduction = reduction_from(reduction, kWhere)};
  const auto label_view = view_of(labels);
  return soft_targets(
      student, options, out, kWhere,
      [&](const MutableAnyView& grad) {
        return runtime::soft_target_loss(student.view(), teacher.view(), label_view, options, grad);
      },
      [&](const MutableAnyView& losses, const MutableAnyView& grad) {
        runtime::soft_target_losses(student.view(), teacher.view(), label_view, options, losses,
                                    grad);
      });
}

runtime::IntegerBackend integer_backend(const std::optional<std::string>& text, const char* where) {
  if (!text) return runtime::IntegerBackend::ours;
  check(*text == "onednn", where, "backend must be None or \"onednn\"", *text);
  return runtime::IntegerBackend::onednn;
}

py::object integer_linear(const Array& x, float scale, std::int32_t zero_point, const Array& weight,
                          const Array& weight_scale, const std::optional<Array>& bias,
                          std::int32_t qmin, std::int32_t qmax, const py::object& out,
                          const std::optional<std::string>& backend) {
  constexpr const char* kWhere = "runtime.integer_linear";
  adopt_thread_limit();
  const runtime::IntegerBackend by = integer_backend(backend, kWhere);
  const QParams input = input_grid(scale, zero_point, qmin, qmax);
  const std::span<const float> scales = scales_from(weight_scale, kWhere);
  check(x.shape().rank() >= 1 && weight.shape().rank() == 2, kWhere,
        "x and weight must have at least 1 and exactly 2 dimensions", weight.shape());
  Shape shape = x.shape();
  shape[shape.rank() - 1] = weight.shape()[0];
  Output result(x, DType::float32, shape, out, kWhere);
  {
    const py::gil_scoped_release release;
    runtime::integer_linear(x.view(), input, weight.view(), scales, view_of(bias), result.view(),
                            by);
  }
  return result.take();
}

using Pair = std::array<std::int64_t, 2>;

py::object integer_convolution(const Array& x, float scale, std::int32_t zero_point,
                               const Array& weight, const Array& weight_scale,
                               const std::optional<Array>& bias, Pair stride, Pair before,
                               Pair after, Pair dilation, std::int64_t groups, std::int32_t qmin,
                               std::int32_t qmax, const py::object& out) {
  constexpr const char* kWhere = "runtime.integer_convolution";
  adopt_thread_limit();
  const QParams input = input_grid(scale, zero_point, qmin, qmax);
  const std::span<const float> scales = scales_from(weight_scale, kWhere);
  const runtime::ConvolutionOptions options{stride, before, after, dilation, groups};
  Output result(x, DType::float32, runtime::convolution_shape(x.shape(), weight.shape(), options),
                out, kWhere);
  {
    const py::gil_scoped_release release;
    runtime::integer_convolution(x.view(), input, weight.view(), scales, view_of(bias), options,
                                 result.view());
  }
  return result.take();
}

}  // namespace
}  // namespace moptcore::bindings

PYBIND11_MODULE(_runtime, m) {
  using pybind11::literals::operator""_a;
  namespace bindings = moptcore::bindings;
  m.doc() = "What moptcore computes with oneDNN.";
  // QParams and the errors are _core's.
  pybind11::module_::import("moptcore._core");
  m.attr("onednn_version") = moptcore::runtime::onednn_version();
  m.def("quantize", &bindings::quantize, "x"_a, "qp"_a, "out"_a = pybind11::none(),
        "quant.quantize(x, qp, backend=\"onednn\").");
  m.def("dequantize", &bindings::dequantize, "q"_a, "qp"_a, "out"_a = pybind11::none(),
        "quant.dequantize(q, qp, backend=\"onednn\").");
  m.def("soft_target_loss", &bindings::soft_target_loss, "student"_a, "teacher"_a,
        "labels"_a = pybind11::none(), "temperature"_a = 4.0, "alpha"_a = 0.7, "axis"_a = -1,
        "label_smoothing"_a = 0.0, "ignore_index"_a = -100, "reduction"_a = "batchmean",
        "out"_a = pybind11::none(), "distill.soft_target_loss(..., backend=\"onednn\").");
  m.attr("INTEGER_DEPTH") = moptcore::runtime::kIntegerDepth;
  m.def("integer_linear", &bindings::integer_linear, "x"_a, "scale"_a, "zero_point"_a, "weight"_a,
        "weight_scale"_a, "bias"_a = pybind11::none(), "qmin"_a = 0, "qmax"_a = 255,
        "out"_a = pybind11::none(), "backend"_a = pybind11::none(),
        R"(A linear layer as an int8 model computes it: float32 x [..., inputs] in, float32 out.

q = saturate(round(x / scale) + zero_point); the results are
float32(sum((q - zero_point) * weight) + bias) * (scale * weight_scale) with exact sums: the same
bits on every CPU. weight is int8 [outputs, inputs], weight_scale float32 [outputs], bias int32
[outputs]. NaN in x raises NonFiniteError. backend="onednn" gives the same bits; on CPUs without
AVX512_VNNI, where oneDNN's sums of 16 bit saturate, it refuses weights outside [-64, 64].)");
  m.def("integer_convolution", &bindings::integer_convolution, "x"_a, "scale"_a, "zero_point"_a,
        "weight"_a, "weight_scale"_a, "bias"_a, "stride"_a, "before"_a, "after"_a, "dilation"_a,
        "groups"_a = 1, "qmin"_a = 0, "qmax"_a = 255, "out"_a = pybind11::none(),
        R"(integer_linear's arithmetic for x [batch, channels, (height,) width].

stride, dilation and the padding `before` and `after` are pairs of rows and columns; over one
dimension only the second counts. Padding holds the zero point.)");
  bindings::bind_lowrank(m.def_submodule("lowrank"));
  bindings::bind_session(m.def_submodule("runtime"));
  bindings::word_misfits(m);
}

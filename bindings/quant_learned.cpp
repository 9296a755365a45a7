// SPDX-License-Identifier: Apache-2.0
#include <moptcore/quant/learned.hpp>

#include <pybind11/stl.h>

#include <optional>

#include "array.hpp"
#include "module.hpp"

namespace moptcore::bindings {

namespace py = pybind11;
using py::literals::operator""_a;

namespace {

using Axis = std::optional<std::int64_t>;
using Maybe = std::optional<Array>;
using quant::LsqOptions;

LsqOptions lsq_options(const Maybe& zero_point, const Maybe& offset, std::int32_t qmin,
                       std::int32_t qmax, const Axis& axis, const char* where) {
  check(!zero_point || !offset, where, "zero_point and offset must not be given together");
  const auto shift = offset ? LsqOptions::Shift::offset : LsqOptions::Shift::zero_point;
  return {.qmin = qmin, .qmax = qmax, .axis = axis, .shift = shift, .grad_scale = std::nullopt};
}

std::optional<AnyView> shift_of(const Maybe& zero_point, const Maybe& offset) {
  if (zero_point) return zero_point->view();
  if (offset) return offset->view();
  return std::nullopt;
}

py::object lsq(const Array& x, const Array& scale, const Maybe& zero_point, const Maybe& offset,
               std::int32_t qmin, std::int32_t qmax, const Axis& axis, const py::object& out) {
  constexpr auto where = "quant.lsq";
  const LsqOptions options = lsq_options(zero_point, offset, qmin, qmax, axis, where);
  Output result(x, x.dtype(), x.shape(), out, where);
  result.check_overlap(x, where);
  {
    const py::gil_scoped_release release;
    quant::lsq(x.view(), scale.view(), shift_of(zero_point, offset), result.view(), options);
  }
  return result.take();
}

// A gradient of the kind, shape and dtype of what it belongs to; numbers and integers get float64.
Output like(const Array& array, const char* where) {
  const DType dtype = is_floating(array.dtype()) ? array.dtype() : DType::float64;
  return {array, dtype, array.shape(), py::none(), where};
}

py::tuple lsq_backward(const Array& grad, const Array& x, const Array& scale,
                       const Maybe& zero_point, const Maybe& offset, std::int32_t qmin,
                       std::int32_t qmax, const Axis& axis, std::optional<double> grad_scale,
                       const py::object& out) {
  constexpr auto where = "quant.lsq_backward";
  LsqOptions options = lsq_options(zero_point, offset, qmin, qmax, axis, where);
  options.grad_scale = grad_scale;
  Output result(x, x.dtype(), x.shape(), out, where);
  result.check_overlap(x, where);
  result.check_overlap(grad, where);
  Output scale_grad = like(scale, where);
  std::optional<Output> shift_grad;
  if (zero_point || offset) shift_grad.emplace(like(zero_point ? *zero_point : *offset, where));
  {
    const py::gil_scoped_release release;
    quant::lsq_backward(grad.view(), x.view(), scale.view(), shift_of(zero_point, offset),
                        result.view(), scale_grad.view(),
                        shift_grad ? std::optional(shift_grad->view()) : std::nullopt, options);
  }
  if (!shift_grad) return py::make_tuple(result.take(), scale_grad.take());
  return py::make_tuple(result.take(), scale_grad.take(), shift_grad->take());
}

py::object pact(const Array& x, const Array& alpha, int bits, const Axis& axis,
                const py::object& out) {
  constexpr auto where = "quant.pact";
  Output result(x, x.dtype(), x.shape(), out, where);
  result.check_overlap(x, where);
  {
    const py::gil_scoped_release release;
    quant::pact(x.view(), alpha.view(), result.view(), {.bits = bits, .axis = axis});
  }
  return result.take();
}

py::tuple pact_backward(const Array& grad, const Array& x, const Array& alpha, int bits,
                        const Axis& axis, const py::object& out) {
  constexpr auto where = "quant.pact_backward";
  Output result(x, x.dtype(), x.shape(), out, where);
  result.check_overlap(x, where);
  result.check_overlap(grad, where);
  Output alpha_grad = like(alpha, where);
  {
    const py::gil_scoped_release release;
    quant::pact_backward(grad.view(), x.view(), alpha.view(), result.view(), alpha_grad.view(),
                         {.bits = bits, .axis = axis});
  }
  return py::make_tuple(result.take(), alpha_grad.take());
}

}  // namespace

void bind_quant_learned(py::module_ m) {
  m.def("lsq", &lsq, "x"_a, "scale"_a, "zero_point"_a = py::none(), "offset"_a = py::none(),
        "qmin"_a = -128, "qmax"_a = 127, "axis"_a = py::none(), "out"_a = py::none(),
        R"(Fake quantization with a learned scale, in x's dtype.

LSQ (Esser et al. 2020, section 2.1), and with `zero_point` or `offset` LSQ+ (Bhalgat et al. 2020,
section 3):
  zero_point z: y = (clamp(rint(x / scale) + z, qmin, qmax) - z) * scale
  offset b:     y = clamp(rint((x - b) / scale), qmin, qmax) * scale + b
scale, zero_point, offset: floating, one number, or with `axis` one for each of its indices. A zero
point is rounded half to even and clamped to [qmin, qmax]; y is then fake_quantize's, bit for bit.
A scale that is not finite and > 0 is an Error; NaN in x stays NaN.)");
  m.def("lsq_backward", &lsq_backward, "grad"_a, "x"_a, "scale"_a, "zero_point"_a = py::none(),
        "offset"_a = py::none(), "qmin"_a = -128, "qmax"_a = 127, "axis"_a = py::none(),
        "grad_scale"_a = py::none(), "out"_a = py::none(),
        R"(The gradients of lsq in one pass: (by x, by scale[, by zero_point or offset]).

Rounding counts as the identity. With v = (x - offset) / scale, or x / scale: an element whose
integer needs no clamping gives (1, rint(v) - v, 0), a clamped one (0, the bound it is clamped to
less the zero point, -scale for a zero point or 1 for an offset), times grad. The gradients of the
grid are multiplied by grad_scale; None is LSQ's 1 / sqrt(n qmax), n the number of elements that
share a scale. They have the shape and dtype of scale, zero_point and offset; sums are in double
and the same at any number of threads. NaN in x gives 0.)");
  m.def("pact", &pact, "x"_a, "alpha"_a, "bits"_a = 8, "axis"_a = py::none(), "out"_a = py::none(),
        R"(x clipped to [0, alpha] and rounded to 2^bits - 1 steps, in x's dtype.

PACT (Choi et al. 2018, section 3): y = rint(clamp(x, 0, alpha) / s) * s, s = alpha / (2^bits - 1).
alpha: finite, > 0, floating, one number, or with `axis` one for each of its indices.)");
  m.def("pact_backward", &pact_backward, "grad"_a, "x"_a, "alpha"_a, "bits"_a = 8,
        "axis"_a = py::none(), "out"_a = py::none(),
        R"(The gradients of pact in one pass: (by x, by alpha).

By x: grad where 0 <= x < alpha, else 0. By alpha: the sum of grad where x >= alpha.)");
}

}  // namespace moptcore::bindings

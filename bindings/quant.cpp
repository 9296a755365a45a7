// SPDX-License-Identifier: Apache-2.0
#include <moptcore/quant/quant.hpp>

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cmath>
#include <concepts>
#include <optional>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "array.hpp"
#include "backend.hpp"
#include "constructed.hpp"
#include "module.hpp"

namespace moptcore::bindings {

namespace py = pybind11;
using py::literals::operator""_a;

namespace {

using Axis = std::optional<std::int64_t>;
using Text = std::optional<std::string>;

quant::Compat compat_of(const Text& text, const char* where) {
  return text ? quant::compat_from(*text, where) : quant::Compat::none;
}

std::string shape_text(const Shape& shape) {
  std::ostringstream text;
  text << "shape " << shape;
  return text.str();
}

// A contiguous vector of exactly type T, or one number; the memory stays the caller's.
template <class T>
std::span<const T> vector_of(const Array& array, const char* where, const char* argument) {
  const AnyView& view = array.view();
  check<DTypeError>(view.dtype() == dtype_of<T>(), where,
                    std::string(argument) + " must be " + std::string(name(dtype_of<T>())),
                    name(view.dtype()));
  check(view.rank() <= 1, where, std::string(argument) + " must be a number or a vector",
        shape_text(view.shape()));
  check(view.is_contiguous(), where, std::string(argument) + " must be contiguous");
  return {static_cast<const T*>(view.data()), static_cast<std::size_t>(view.size())};
}

// The caller's buffer for the bits of x; empty where there is none.
std::span<std::uint8_t> bits_of(const std::optional<Array>& bits, const Array& x,
                                const char* where) {
  if (!bits) return {};
  const MutableAnyView view = bits->writable(where, "bits");
  check<DTypeError>(view.dtype() == DType::uint8, where, "bits must be uint8", name(view.dtype()));
  const std::int64_t bytes = quant::bit_bytes(x.view().size());
  check(view.size() == bytes, where,
        "bits must have " + std::to_string(bytes) + (bytes == 1 ? " byte" : " bytes") +
            " (one bit an element)",
        view.size());
  check(view.is_contiguous(), where, "bits must be contiguous");
  return {static_cast<std::uint8_t*>(view.data()), static_cast<std::size_t>(view.size())};
}

std::string type_of(py::handle source) {
  if (py::isinstance<py::array>(source)) return py::str(source.attr("dtype"));
  return py::str(py::type::handle_of(source).attr("__name__"));
}

// The array that NumPy makes of `source`, whose dtype must be of one of the kinds.
py::array array_of(py::handle source, const char* kinds, const char* where,
                   const std::string& rule) {
  const auto array = source.is_none() ? py::array() : py::array::ensure(source);
  const bool fits = !source.is_none() && array &&
                    std::string_view(kinds).find(array.dtype().kind()) != std::string_view::npos;
  check<DTypeError>(fits, where, rule, type_of(source));
  return array;
}

// Numbers of any kind as float32. Finite ones must stay finite.
std::vector<float> floats_of(py::handle source, const char* where, const std::string& argument) {
  using Doubles = py::array_t<double, py::array::c_style | py::array::forcecast>;
  const Doubles array(
      array_of(source, "fiu", where, argument + " must be a number or a vector of numbers"));
  std::vector<float> values;
  for (py::ssize_t i = 0; i < array.size(); ++i) {
    const double value = array.data()[i];
    values.push_back(static_cast<float>(value));
    check(std::isfinite(values.back()) || !std::isfinite(value), where,
          argument + " must be in the range of float32", value);
  }
  return values;
}

// Whole numbers of any kind as int32.
std::vector<std::int32_t> integers_of(py::handle source, const char* where, const char* argument) {
  using Wide = py::array_t<std::int64_t, py::array::c_style | py::array::forcecast>;
  const Wide wide(
      array_of(source, "iu", where, std::string(argument) + " must be of an integer dtype"));
  std::vector<std::int32_t> values;
  for (py::ssize_t i = 0; i < wide.size(); ++i) {
    const std::int64_t value = wide.data()[i];
    check(value >= -65536 && value <= 65536, where,
          std::string(argument) + " must be in [qmin, qmax]", value);
    values.push_back(static_cast<std::int32_t>(value));
  }
  return values;
}

// A scale that is not 0 but too small for float32 is named as the caller wrote it.
std::vector<float> scales_of(py::handle source, const char* where) {
  std::vector<float> values = floats_of(source, where, "scale");
  const auto doubles = py::array_t < double,
             py::array::c_style |
                 py::array::forcecast > (py::reinterpret_borrow<py::object>(source));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double value = doubles.data()[i];
    check(values[i] > 0.0f || !(value > 0.0), where, "scale must be finite and > 0 in float32",
          value);
  }
  return values;
}

// A name of no dtype is refused by the rule of the function, which lists those that it takes.
DType dtype_of_rule(py::handle dtype, const char* where, std::string_view rule) {
  const auto got = [&] {
    const bool text = PyUnicode_Check(dtype.ptr()) != 0;
    return (text ? py::str(dtype) : py::repr(dtype)).cast<std::string>();
  };
  try {
    return dtype_from(dtype, where, "dtype");
  } catch (const py::error_already_set&) {
    throw DTypeError(error_text(where, rule, got()));
  } catch (const DTypeError&) {
    throw DTypeError(error_text(where, rule, got()));
  } catch (const Error&) {
    throw Error(error_text(where, rule, got()));
  }
}

}  // namespace

GridType grid_type_from(py::handle dtype, const char* where) {
  // NumPy takes None for float64.
  check<DTypeError>(!dtype.is_none(), where, kGridTypeRule, "None");
  if (PyUnicode_Check(dtype.ptr())) {
    if (const auto levels = few_levels_from(dtype.cast<std::string>())) return *levels;
  }
  return dtype_of_rule(dtype, where, kGridTypeRule);
}

namespace {

py::object fake_quantize(const Array& x, const GridView& grids, py::handle out,
                         const std::optional<Array>& bits, quant::NonFinite nonfinite,
                         quant::Compat compat, const char* where) {
  Output result(x, x.dtype(), x.shape(), out, where);
  result.check_overlap(x, where);
  const std::span<std::uint8_t> mask = bits_of(bits, x, where);
  {
    const py::gil_scoped_release release;
    quant::fake_quantize(x.view(), grids, result.view(), mask, nonfinite, compat, where);
  }
  return result.take();
}

py::object fake_quantize_affine(const Array& x, const Array& scale, const Array& zero_point,
                                std::int32_t qmin, std::int32_t qmax, const Axis& axis,
                                const py::object& out,
                                const std::optional<std::variant<bool, Array>>& bits,
                                const Text& compat) {
  constexpr auto where = "quant.fake_quantize_affine";
  const GridView grids{vector_of<float>(scale, where, "scale"),
                       vector_of<std::int32_t>(zero_point, where, "zero_point"), qmin, qmax, axis};
  const auto rule = compat_of(compat, where);
  const bool* made = bits ? std::get_if<bool>(&*bits) : nullptr;
  if (made == nullptr || !*made) {
    std::optional<Array> given;
    if (bits && made == nullptr) given = std::get<Array>(*bits);
    return fake_quantize(x, grids, out, given, quant::NonFinite::propagate, rule, where);
  }
  Output result(x, x.dtype(), x.shape(), out, where);
  result.check_overlap(x, where);
  Output mask(x, DType::uint8, {quant::bit_bytes(x.view().size())}, py::none(), where);
  const std::span<std::uint8_t> bytes(static_cast<std::uint8_t*>(mask.view().data()),
                                      static_cast<std::size_t>(mask.view().size()));
  {
    const py::gil_scoped_release release;
    quant::fake_quantize(x.view(), grids, result.view(), bytes, quant::NonFinite::propagate, rule,
                         where);
  }
  return py::make_tuple(result.take(), mask.take());
}

py::object fake_quantize_backward(const Array& grad, const Array& bits, const py::object& out) {
  constexpr auto where = "quant.fake_quantize_backward";
  const auto mask = vector_of<std::uint8_t>(bits, where, "bits");
  Output result(grad, grad.dtype(), grad.shape(), out, where);
  result.check_overlap(grad, where);
  {
    const py::gil_scoped_release release;
    quant::fake_quantize_backward(grad.view(), mask, result.view());
  }
  return result.take();
}

bool is_nibbles(DType dtype) { return dtype == DType::int4 || dtype == DType::uint4; }

// A byte vector as the 4-bit tensor of the given shape that it packs.
void check_packed(const AnyView& bytes, const Shape& shape, const char* where,
                  const char* argument) {
  const std::int64_t needed = byte_count(DType::int4, element_count(shape));
  check<DTypeError>(bytes.dtype() == DType::uint8, where,
                    std::string(argument) + " must be uint8 where 4-bit integers are packed",
                    name(bytes.dtype()));
  check(bytes.rank() == 1 && bytes.size() == needed, where,
        std::string(argument) + " must be a vector of " + std::to_string(needed) +
            (needed == 1 ? " byte" : " bytes") + " (two integers in each)",
        shape_text(bytes.shape()));
  check(bytes.is_contiguous(), where, std::string(argument) + " must be contiguous");
}

py::object quantize(const Array& x, const QParams& qp, const py::object& out,
                    const std::string& nonfinite, const Text& compat, bool packed,
                    const Text& backend) {
  constexpr auto where = "quant.quantize";
  if (backend) {
    const py::object function = onednn("quantize", *backend, where);
    check<UnsupportedError>(nonfinite == "error" && !compat, where,
                            "backend onednn takes nonfinite=\"error\" and compat=None");
    return function(x.object(), qp, out);
  }
  const auto policy = quant::non_finite_from(nonfinite, where);
  const auto rules = compat_of(compat, where);
  const auto call = [&](Output& result, const MutableAnyView& view) {
    result.check_overlap(x, where);
    {
      const py::gil_scoped_release release;
      quant::quantize(x.view(), qp, view, policy, rules);
    }
    return result.take();
  };
  if (!is_nibbles(qp.dtype())) {
    Output result(x, qp.dtype(), x.shape(), out, where);
    return call(result, result.view());
  }
  if (!packed) {
    Output result(x, qp.dtype() == DType::int4 ? DType::int8 : DType::uint8, x.shape(), out, where);
    return call(result, result.view());
  }
  Output result(x, DType::uint8, Shape{byte_count(DType::int4, x.view().size())}, out, where);
  check_packed(result.view(), x.shape(), where, "out");
  return call(result, MutableAnyView(result.view().data(), qp.dtype(), x.shape()));
}

py::object dequantize(const Array& q, const QParams& qp, const py::object& out,
                      const std::optional<std::vector<std::int64_t>>& shape, bool packed,
                      const Text& backend) {
  constexpr auto where = "quant.dequantize";
  if (backend) {
    const py::object function = onednn("dequantize", *backend, where);
    check<UnsupportedError>(!shape, where, "backend onednn takes no packed 4-bit integers");
    return function(q.object(), qp, out);
  }
  std::optional<Array> target;
  if (!out.is_none()) target.emplace(out);
  const DType dtype = target ? target->dtype() : DType::float32;
  AnyView integers = q.view();
  const bool bytes = is_nibbles(qp.dtype()) && packed && !is_nibbles(integers.dtype());
  check(!shape || bytes, where, "shape must be None but for packed 4-bit integers",
        shape ? shape_text(Shape(std::span<const std::int64_t>(*shape))) : std::string());
  if (bytes) {
    check(shape || target, where, "shape or out must be given for packed 4-bit integers",
          "None for both");
    const Shape full = shape ? Shape(std::span<const std::int64_t>(*shape)) : target->shape();
    check_packed(integers, full, where, "q");
    integers = AnyView(integers.data(), qp.dtype(), full);
  }
  Output result(q, dtype, integers.shape(), out, where);
  result.check_overlap(q, where);
  {
    const py::gil_scoped_release release;
    quant::dequantize(integers, qp, result.view());
  }
  return result.take();
}

py::object fake_quantize_range(const Array& x, const py::object& min, const py::object& max,
                               int num_bits, bool narrow_range, const Axis& axis,
                               const py::object& out, const std::optional<Array>& bits,
                               const Text& compat) {
  constexpr auto where = "quant.fake_quantize_range";
  check(compat == "tf", where, "compat must be \"tf\"", compat.value_or("None"));
  const std::vector<float> low = floats_of(min, where, "min");
  const std::vector<float> high = floats_of(max, where, "max");
  Output result(x, x.dtype(), x.shape(), out, where);
  result.check_overlap(x, where);
  const std::span<std::uint8_t> mask = bits_of(bits, x, where);
  {
    const py::gil_scoped_release release;
    quant::fake_quantize_range(x.view(), low, high, result.view(), {num_bits, narrow_range, axis},
                               mask);
  }
  return result.take();
}

Shape shape_of(py::handle numbers) {
  const py::array array = py::array::ensure(numbers);
  return Shape(std::span<const py::ssize_t>(array.shape(), static_cast<std::size_t>(array.ndim())));
}

QParams make_qparams(const py::object& scale, const py::object& zero_point, const py::object& dtype,
                     const Axis& axis, const std::optional<std::int32_t>& qmin,
                     const std::optional<std::int32_t>& qmax,
                     const std::optional<std::int64_t>& group_size) {
  constexpr auto where = "quant.QParams";
  std::vector<float> scales = scales_of(scale, where);
  std::vector<std::int32_t> zeros = integers_of(zero_point, where, "zero_point");
  Shape shape;
  if (group_size) {
    shape = shape_of(scale);
    check(zeros.size() == 1 || shape_of(zero_point) == shape, where,
          "zero_point must be one number or have the shape of scale where group_size is given",
          shape_text(shape_of(zero_point)));
  }
  if (zeros.size() == 1) zeros.resize(scales.size(), zeros.front());
  return {std::move(scales),
          std::move(zeros),
          axis,
          {grid_type_from(dtype, where), qmin, qmax, group_size, shape}};
}

template <class T>
py::object numbers(const std::vector<T>& values, bool one) {
  if (one) return py::cast(values.front());
  return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

template <class T>
py::object shaped(const std::vector<T>& values, const Shape& shape) {
  return py::array_t<T>(std::vector<py::ssize_t>(shape.begin(), shape.end()), values.data());
}

template <class T>
py::object grid_numbers(const QParams& q, const std::vector<T>& values) {
  return q.group_size() ? shaped(values, q.scale_shape()) : numbers(values, !q.axis());
}

py::object scale_of(const QParams& q) { return grid_numbers(q, q.scale()); }
py::object zero_point_of(const QParams& q) { return grid_numbers(q, q.zero_point()); }

std::string repr_of(const QParams& q) {
  const py::str text(
      "QParams(scale={!r}, zero_point={!r}, dtype={!r}, axis={!r}, qmin={}, qmax={})");
  // A float32 in its own shortest form: 0.02 and not 0.019999999552965164.
  py::object scale = scale_of(q);
  if (!q.axis()) scale = py::float_(py::str(py::module_::import("numpy").attr("float32")(scale)));
  auto result = text.format(scale, zero_point_of(q), std::string(name(q.type())), q.axis(),
                            q.qmin(), q.qmax())
                    .cast<std::string>();
  if (q.group_size()) {
    result.insert(result.size() - 1, ", group_size=" + std::to_string(*q.group_size()));
  }
  return result;
}

py::tuple state_of(const QParams& q) {
  return py::make_tuple(scale_of(q), zero_point_of(q), std::string(name(q.type())), q.axis(),
                        q.qmin(), q.qmax(), q.group_size());
}

QParams from_state(const py::tuple& state) {
  return make_qparams(state[0], state[1], state[2], state[3].cast<Axis>(),
                      state[4].cast<std::int32_t>(), state[5].cast<std::int32_t>(),
                      state[6].cast<std::optional<std::int64_t>>());
}

void bind_qparams(py::module_& m) {
  py::class_<QParams>(m, "QParams",
                      "Scale, zero point and integer range of a quantized tensor: "
                      "real = (q - zero_point) * scale. Immutable.")
      .def(
          py::init(&make_qparams), "scale"_a, "zero_point"_a = 0, "dtype"_a = "int8",
          "axis"_a = py::none(), "qmin"_a = py::none(), "qmax"_a = py::none(),
          "group_size"_a = py::none(),
          "scale: finite, > 0, one number or one for each index of `axis`.\n"
          "zero_point: integer in [qmin, qmax]; one number serves all scales.\n"
          "dtype: int8, uint8, int16, uint16, int4, uint4, or fewer integers: int3 [-4, 3], uint3\n"
          "[0, 7], int2 [-2, 1], uint2 [0, 3], ternary [-1, 1]. These are stored one an element, "
          "as\n"
          "int8 or where not signed uint8; moptcore.pack packs them.\n"
          "qmin, qmax: None is the dtype's full range.\n"
          "group_size: one scale for each group of so many neighbours along `axis` (ONNX's\n"
          "block_size): scale has the tensor's shape, but ceil(n / group_size) along `axis`. The\n"
          "last group may be incomplete.")
      .def_property_readonly("scale", &scale_of,
                             "float, float32 vector over `axis`, or array of groups.")
      .def_property_readonly("zero_point", &zero_point_of, "int, or int32 array like scale.")
      .def_property_readonly("dtype", [](const QParams& q) { return std::string(name(q.type())); })
      .def_property_readonly("axis", &QParams::axis)
      .def_property_readonly("group_size", &QParams::group_size)
      .def_property_readonly("qmin", &QParams::qmin)
      .def_property_readonly("qmax", &QParams::qmax)
      .def(
          "__eq__", [](const QParams& a, const QParams& b) { return a == b; }, py::is_operator())
      .def("__hash__", [](const QParams& q) { return py::hash(py::str(repr_of(q))); })
      .def("__repr__", &repr_of)
      .def(py::pickle(&state_of, &from_state));

  m.def(
      "qparams_from_range",
      [](const py::object& min, const py::object& max, const py::object& dtype, bool symmetric,
         const Axis& axis, const Text& compat, const Axis& group_size) {
        constexpr auto where = "quant.qparams_from_range";
        const std::vector<float> low = floats_of(min, where, "min");
        const std::vector<float> high = floats_of(max, where, "max");
        if (group_size) {
          check(axis.has_value(), where, "axis must be given where group_size is", "None");
          const Shape shape = shape_of(min);
          check(shape == shape_of(max), where, "max must have the shape of min",
                shape_text(shape_of(max)));
          return quant::qparams_from_range(low, high, grid_type_from(dtype, where), symmetric,
                                           *axis, *group_size, shape, compat_of(compat, where));
        }
        return quant::qparams_from_range(low, high, grid_type_from(dtype, where), symmetric, axis,
                                         compat_of(compat, where));
      },
      "min"_a, "max"_a, "dtype"_a = "int8", "symmetric"_a = true, "axis"_a = py::none(),
      "compat"_a = py::none(), "group_size"_a = py::none(),
      "The QParams that cover [min, max], extended to hold 0.\n\n"
      "min, max: numbers, vectors over `axis`, or with group_size arrays as group_range gives.\n"
      "symmetric: scale = absmax / 127 and integers [-127, 127] for int8, [-3, 3] for int3, [-1, "
      "1]\n"
      "for int2; else the full range with a zero point. A range of nothing but 0 gives scale 1; no "
      "scale is below 2^-126.\n"
      "compat: \"torch\" follows torch.ao's observers, \"tflite\" TFLite.");
  m.def(
      "group_range",
      [](const Array& x, std::int64_t group_size, std::int64_t axis) {
        quant::GroupRange range;
        {
          const py::gil_scoped_release release;
          range = quant::group_range(x.view(), group_size, axis);
        }
        return py::make_tuple(shaped(range.min, range.shape), shaped(range.max, range.shape));
      },
      "x"_a, "group_size"_a, "axis"_a = -1,
      "(min, max) of each `group_size` neighbours along `axis` as float32 arrays with x's shape,\n"
      "but ceil(n / group_size) along `axis`: [out, in] weights give [out, groups]. The last "
      "group\n"
      "may be incomplete. NaN and infinities raise NonFiniteError.");
  m.def(
      "group_qparams",
      [](const Array& x, std::int64_t group_size, std::int64_t axis, const py::object& dtype,
         bool symmetric) {
        const GridType target = grid_type_from(dtype, "quant.group_qparams");
        const py::gil_scoped_release release;
        const quant::GroupRange range = quant::group_range(x.view(), group_size, axis);
        return quant::qparams_from_range(range.min, range.max, target, symmetric, axis, group_size,
                                         range.shape);
      },
      "x"_a, "group_size"_a, "axis"_a = -1, "dtype"_a = "int4", "symmetric"_a = true,
      "The QParams of the smallest and largest value of each group: qparams_from_range of\n"
      "group_range. For weight-only quantization; ONNX's blocked DequantizeLinear.");
}

constexpr const char* kind_of(const quant::MinMaxObserver&) { return "MinMaxObserver"; }
constexpr const char* kind_of(const quant::MovingAverageObserver&) {
  return "MovingAverageObserver";
}
constexpr const char* kind_of(const quant::PercentileObserver&) { return "PercentileObserver"; }
constexpr const char* kind_of(const quant::EntropyObserver&) { return "EntropyObserver"; }
constexpr const char* kind_of(const quant::MSEObserver&) { return "MSEObserver"; }
constexpr const char* kind_of(const quant::HistogramObserver&) { return "HistogramObserver"; }

template <class Observer>
constexpr bool kCounts = std::derived_from<Observer, quant::CountingObserver>;

py::object ascii_of(std::string_view text) {
  return py::array_t<std::uint8_t>(static_cast<py::ssize_t>(text.size()),
                                   reinterpret_cast<const std::uint8_t*>(text.data()));
}

py::object axis_numbers(const Axis& axis) {
  return numbers(axis ? std::vector<std::int64_t>{*axis} : std::vector<std::int64_t>{}, false);
}

// What must be equal for a state to be an observer's own.
template <class Observer>
py::dict observer_settings(const Observer& self) {
  py::dict settings("kind"_a = ascii_of(kind_of(self)), "axis"_a = axis_numbers(self.axis()));
  if constexpr (requires { self.momentum(); }) {
    settings["momentum"] = numbers(std::vector<double>{self.momentum()}, false);
  }
  if constexpr (kCounts<Observer>) {
    settings["bins"] = numbers(std::vector<std::int64_t>{self.bins()}, false);
  }
  if constexpr (requires { self.percentile(); }) {
    settings["percentile"] = numbers(std::vector<double>{self.percentile()}, false);
    settings["tails"] = ascii_of(quant::name(self.tails()));
  }
  return settings;
}

template <class Observer>
py::dict observer_state(const Observer& self) {
  py::dict state = observer_settings(self);
  state["min"] = numbers(self.min(), false);
  state["max"] = numbers(self.max(), false);
  if constexpr (kCounts<Observer>) {
    state["exponent"] = numbers(self.exponent(), false);
    state["counts"] =
        shaped(self.counts(), Shape{static_cast<std::int64_t>(self.min().size()), self.bins()});
  } else if constexpr (requires { self.count(); }) {
    state["count"] = numbers(self.count(), false);
  }
  return state;
}

// An array of a state as a Python value to show and compare: text, None, or a number.
std::string setting_text(const std::string& key, const py::array& array) {
  if (key == "kind" || key == "tails") {
    const auto bytes = py::array_t < std::uint8_t,
               py::array::c_style | py::array::forcecast > (array);
    return {reinterpret_cast<const char*>(bytes.data()), static_cast<std::size_t>(bytes.size())};
  }
  if (array.size() == 0) return "None";
  return py::str(array.attr("ravel")().attr("tolist")()[py::int_(0)]);
}

template <class T>
std::vector<T> elements_of(const py::array& array) {
  const auto same = py::array_t < T, py::array::c_style | py::array::forcecast > (array);
  return {same.data(), same.data() + same.size()};
}

template <class Observer>
void restore_observer(Observer& self, const py::dict& state, bool strict) {
  constexpr auto where = "quant.Observer.load_state_dict";
  const py::dict own = observer_state(self);
  const std::string keys = py::str(py::str(", ").attr("join")(py::list(own)));
  const auto found = [&] { return py::str(py::list(state)).cast<std::string>(); };
  const auto array = [&](const char* key, const char* kinds, int rank) {
    check<FormatError>(state.contains(key), where, "state must have the keys " + keys, found());
    py::array result =
        array_of(state[key], kinds, where, std::string(key) + " must be an array of numbers");
    check<FormatError>(result.ndim() == rank, where,
                       std::string(key) + " must have " + std::to_string(rank) +
                           (rank == 1 ? " dimension" : " dimensions"),
                       result.ndim());
    return result;
  };
  const std::string kind = setting_text("kind", array("kind", "u", 1));
  check<FormatError>(kind == kind_of(self), where,
                     std::string("state must be of a ") + kind_of(self), kind);
  for (const auto& [name, value] : observer_settings(self)) {
    const auto key = name.template cast<std::string>();
    const std::string mine = setting_text(key, py::reinterpret_borrow<py::array>(value));
    const std::string theirs = setting_text(key, array(key.c_str(), "fiu", 1));
    check<FormatError>(mine == theirs, where,
                       "state must be of an observer with " + key + " " + mine, theirs);
  }
  check<FormatError>(!strict || py::len(state) == py::len(own), where,
                     "state must have no key but " + keys, found());
  std::vector<float> min = floats_of(array("min", "fiu", 1), where, "min");
  std::vector<float> max = floats_of(array("max", "fiu", 1), where, "max");
  if constexpr (kCounts<Observer>) {
    self.restore(std::move(min), std::move(max),
                 elements_of<std::int64_t>(array("exponent", "iu", 1)),
                 elements_of<std::int64_t>(array("counts", "iu", 2)));
  } else if constexpr (requires { self.count(); }) {
    self.restore(std::move(min), std::move(max),
                 elements_of<std::int64_t>(array("count", "iu", 1)));
  } else {
    self.restore(std::move(min), std::move(max));
  }
}

// What all observers share. State is a dict of arrays.
template <class Observer>
void bind_observer(py::class_<Observer>& c) {
  using quant::OnNonFinite;
  c.def(
       "update",
       [](Observer& self, const Array& x, const std::string& nonfinite) {
         constexpr auto where = "quant.Observer.update";
         check(nonfinite == "error" || nonfinite == "skip", where,
               "nonfinite must be \"error\" or \"skip\"", nonfinite);
         const py::gil_scoped_release release;
         self.update(x.view(), nonfinite == "skip" ? OnNonFinite::skip : OnNonFinite::error);
       },
       "x"_a, "nonfinite"_a = "error",
       "Observes x. NaN and infinities raise NonFiniteError, or are left out with \"skip\".")
      .def(
          "qparams",
          [](const Observer& self, const py::object& dtype, bool symmetric, const Text& compat) {
            constexpr auto where = "quant.Observer.qparams";
            return self.qparams(grid_type_from(dtype, where), symmetric, compat_of(compat, where));
          },
          "dtype"_a = "int8", "symmetric"_a = true, "compat"_a = py::none(),
          "The QParams of the range; see qparams_from_range.")
      .def("reset", &Observer::reset, "Forgets everything seen.")
      .def_property_readonly("axis", [](const Observer& self) { return self.axis(); })
      .def_property_readonly(
          "min", [](const Observer& self) { return numbers(self.min(), false); },
          "float32 vector: one value, or one for each index of `axis`; empty "
          "before the first update.")
      .def_property_readonly("max", [](const Observer& self) { return numbers(self.max(), false); })
      .def(
          "state_dict", [](const Observer& self) { return observer_state(self); },
          "What was seen as a dict of arrays, with the settings of the observer; `kind` is the\n"
          "ASCII name of its class.")
      .def(
          "load_state_dict",
          [](Observer& self, const py::dict& state, bool strict) {
            restore_observer(self, state, strict);
          },
          "state"_a, "strict"_a = true,
          "Continues from what state_dict() of the same class with the same settings gave; else\n"
          "FormatError.")
      .def(
          "__eq__", [](const Observer& a, const Observer& b) { return a == b; }, py::is_operator());
}

void bind_observers(py::module_& m) {
  using quant::MinMaxObserver, quant::MovingAverageObserver;
  auto min_max = py::class_<MinMaxObserver>(
      m, "MinMaxObserver", "Smallest and largest value of all updates, in all or along an axis.");
  min_max.def(py::init<Axis>(), "axis"_a = py::none())
      .def("merge", &MinMaxObserver::merge, "other"_a, "As if this one had seen other's updates.")
      .def("__repr__",
           [](const MinMaxObserver& self) {
             return py::str("MinMaxObserver(axis={!r})").format(self.axis());
           })
      .def(py::pickle(
          [](const MinMaxObserver& self) {
            return py::make_tuple(self.axis(), self.min(), self.max());
          },
          [](const py::tuple& state) {
            MinMaxObserver self(state[0].cast<Axis>());
            self.restore(state[1].cast<std::vector<float>>(), state[2].cast<std::vector<float>>());
            return self;
          }));
  bind_observer(min_max);

  auto moving = py::class_<MovingAverageObserver>(
      m, "MovingAverageObserver",
      "Exponential mean of each update's smallest and largest value; the first update sets both.");
  moving.def(py::init<double, Axis>(), "momentum"_a = 0.01, "axis"_a = py::none())
      .def_property_readonly("momentum", &MovingAverageObserver::momentum)
      .def_property_readonly(
          "count", [](const MovingAverageObserver& self) { return numbers(self.count(), false); },
          "int64 vector like min: the updates that moved it.")
      .def("merge", &MovingAverageObserver::merge, "other"_a,
           "The mean of both ranges weighted by their counts; the counts add up.")
      .def("__repr__",
           [](const MovingAverageObserver& self) {
             return py::str("MovingAverageObserver(momentum={!r}, axis={!r})")
                 .format(self.momentum(), self.axis());
           })
      .def(py::pickle(
          [](const MovingAverageObserver& self) {
            return py::make_tuple(self.momentum(), self.axis(), self.min(), self.max(),
                                  self.count());
          },
          [](const py::tuple& state) {
            MovingAverageObserver self(state[0].cast<double>(), state[1].cast<Axis>());
            self.restore(state[2].cast<std::vector<float>>(), state[3].cast<std::vector<float>>(),
                         state[4].cast<std::vector<std::int64_t>>());
            return self;
          }));
  bind_observer(moving);
}

// What the observers that count add. Pickling goes through the state.
template <class Observer>
void bind_counts(py::class_<Observer>& c) {
  bind_observer(c);
  c.def("merge", &Observer::merge, "other"_a,
        "As if this one had seen other's updates, exactly, in any order.")
      .def(
          "range",
          [](const Observer& self, const py::object& dtype, bool symmetric, const Text& compat) {
            constexpr auto where = "quant.Observer.range";
            const GridType target = grid_type_from(dtype, where);
            const quant::Compat rules = compat_of(compat, where);
            quant::GroupRange range;
            {
              const py::gil_scoped_release release;
              range = self.range(target, symmetric, rules);
            }
            return py::make_tuple(numbers(range.min, false), numbers(range.max, false));
          },
          "dtype"_a = "int8", "symmetric"_a = true, "compat"_a = py::none(),
          "(min, max) that the rule picks, float32 vectors like `min`.")
      .def_property_readonly("bins", [](const Observer& self) { return self.bins(); })
      .def_property_readonly(
          "exponent", [](const Observer& self) { return numbers(self.exponent(), false); },
          "int64 vector like min: bins are 2^exponent wide.")
      .def_property_readonly(
          "counts",
          [](const Observer& self) {
            return shaped(self.counts(),
                          Shape{static_cast<std::int64_t>(self.min().size()), self.bins()});
          },
          "int64 [channels, bins]: element i of a row counts the values in\n"
          "[(first + i) * 2**exponent, (first + i + 1) * 2**exponent), first = floor(min / "
          "2**exponent).");
}

template <class Observer>
void bind_plain_counts(py::module_& m, const char* name, const char* text) {
  auto c = py::class_<Observer>(m, name, text);
  c.def(py::init<Axis, std::int64_t>(), "axis"_a = py::none(), "bins"_a = quant::kDefaultBins)
      .def("__repr__",
           [name](const Observer& self) {
             return py::str("{}(axis={!r}, bins={})").format(name, self.axis(), self.bins());
           })
      .def(py::pickle(
          [](const Observer& self) -> py::tuple {
            return py::make_tuple(self.axis(), self.bins(), observer_state(self));
          },
          [](const py::tuple& state) {
            Observer self(state[0].cast<Axis>(), state[1].cast<std::int64_t>());
            restore_observer(self, state[2], true);
            return self;
          }));
  bind_counts(c);
}

void bind_counting_observers(py::module_& m) {
  using quant::PercentileObserver;
  const auto make = [](double percentile, const std::string& tails, const Axis& axis,
                       std::int64_t bins) {
    return PercentileObserver(percentile, quant::tails_from(tails, "quant.PercentileObserver"),
                              axis, bins);
  };
  auto percentile = py::class_<PercentileObserver>(
      m, "PercentileObserver",
      "The smallest range of whole bins outside of which lie at most 100 - percentile percent of\n"
      "all values: half of them on each side (tails=\"split\"), as many on each side (\"each\")\n"
      "or outside of [-t, t] (\"absolute\").");
  percentile
      .def(py::init(make), "percentile"_a = 99.999, "tails"_a = "split", "axis"_a = py::none(),
           "bins"_a = quant::kDefaultBins)
      .def_property_readonly("percentile", &PercentileObserver::percentile)
      .def_property_readonly(
          "tails",
          [](const PercentileObserver& self) { return std::string(quant::name(self.tails())); })
      .def("__repr__",
           [](const PercentileObserver& self) {
             return py::str("PercentileObserver(percentile={!r}, tails={!r}, axis={!r}, bins={})")
                 .format(self.percentile(), std::string(quant::name(self.tails())), self.axis(),
                         self.bins());
           })
      .def(py::pickle(
          [](const PercentileObserver& self) -> py::tuple {
            return py::make_tuple(self.percentile(), std::string(quant::name(self.tails())),
                                  self.axis(), self.bins(), observer_state(self));
          },
          [make](const py::tuple& state) {
            auto self = make(state[0].cast<double>(), state[1].cast<std::string>(),
                             state[2].cast<Axis>(), state[3].cast<std::int64_t>());
            restore_observer(self, state[4], true);
            return self;
          }));
  bind_counts(percentile);
  bind_plain_counts<quant::EntropyObserver>(
      m, "EntropyObserver",
      "The range whose quantized distribution has the least Kullback-Leibler divergence from the\n"
      "observed one (Migacz, 8-bit Inference with TensorRT, 2017): every edge of a bin that "
      "leaves\n"
      "a bin to every integer is tried, for two free ends 32 x 32 pairs and a descent.");
  bind_plain_counts<quant::MSEObserver>(
      m, "MSEObserver",
      "The range with the least mean squared quantization error, every bin's values spread evenly\n"
      "over it: every edge of a bin is tried, for two free ends 32 x 32 pairs and a descent.");
  bind_plain_counts<quant::HistogramObserver>(
      m, "HistogramObserver",
      "The range with the least mean squared quantization error on one path: inwards from the\n"
      "whole range, 1e-5 of the values at a time at the end where that skips more bins. The path\n"
      "of torch.ao's HistogramObserver, walked to its end.");
}

void bind_levels(py::module_& m) {
  m.def(
      "fake_quantize_levels",
      [](const Array& x, const py::object& scale, int powers, const Axis& axis,
         const py::object& out, const std::optional<Array>& bits) {
        constexpr auto where = "quant.fake_quantize_levels";
        const std::vector<float> scales = scales_of(scale, where);
        Output result(x, x.dtype(), x.shape(), out, where);
        result.check_overlap(x, where);
        const std::span<std::uint8_t> mask = bits_of(bits, x, where);
        {
          const py::gil_scoped_release release;
          quant::fake_quantize_levels(x.view(), scales, axis, {powers}, result.view(), mask);
        }
        return result.take();
      },
      "x"_a, "scale"_a, "powers"_a = 0, "axis"_a = py::none(), "out"_a = py::none(),
      "bits"_a = py::none(),
      "x rounded to levels that are no grid, in x's shape and dtype; NaN raises NonFiniteError.\n\n"
      "powers=0: {-scale, scale} (BinaryConnect, XNOR-Net), 0 becomes scale. powers=n: 0 and\n"
      "+-scale * 2^-k for k < n (INQ), the nearest on the line of numbers, ties to the larger\n"
      "magnitude. bits: see fake_quantize; the gradient passes where |x| <= 2 scale for two "
      "levels,\n"
      "1.5 scale for powers of two. fake_quantize_backward is the gradient.");
  m.def(
      "quantize_levels",
      [](const Array& x, const py::object& scale, int powers, const Axis& axis,
         const py::object& out) {
        const std::vector<float> scales = scales_of(scale, "quant.quantize_levels");
        Output result(x, DType::int8, x.shape(), out, "quant.quantize_levels");
        result.check_overlap(x, "quant.quantize_levels");
        {
          const py::gil_scoped_release release;
          quant::quantize_levels(x.view(), scales, axis, {powers}, result.view());
        }
        return result.take();
      },
      "x"_a, "scale"_a, "powers"_a = 0, "axis"_a = py::none(), "out"_a = py::none(),
      "The int8 codes of fake_quantize_levels: 0 for 0, else k + 1 with the sign of the level\n"
      "+-scale * 2^-k. Two levels have the codes -1 and 1. NaN raises NonFiniteError.");
  m.def(
      "dequantize_levels",
      [](const Array& q, const py::object& scale, const Axis& axis, const py::object& out) {
        constexpr auto where = "quant.dequantize_levels";
        const std::vector<float> scales = scales_of(scale, where);
        std::optional<Array> target;
        if (!out.is_none()) target.emplace(out);
        Output result(q, target ? target->dtype() : DType::float32, q.shape(), out, where);
        result.check_overlap(q, where);
        {
          const py::gil_scoped_release release;
          quant::dequantize_levels(q.view(), scales, axis, result.view());
        }
        return result.take();
      },
      "q"_a, "scale"_a, "axis"_a = py::none(), "out"_a = py::none(),
      "The levels of int8 codes as float32, or in the floating dtype of `out`:\n"
      "sign(q) * scale * 2^(1 - |q|), 0 for 0. With the dtype of x that is fake_quantize_levels, "
      "bit\n"
      "for bit. Codes beyond [-100, 100] raise Error.");
  m.def(
      "level_scale",
      [](const Array& x, const std::string& levels, const Axis& axis) {
        constexpr auto where = "quant.level_scale";
        check(levels == "binary" || levels == "ternary" || levels == "twn", where,
              "levels must be \"binary\", \"ternary\" or \"twn\"", levels);
        const auto rule = levels == "binary"    ? quant::ScaleRule::binary
                          : levels == "ternary" ? quant::ScaleRule::ternary
                                                : quant::ScaleRule::twn;
        std::vector<float> scales;
        {
          const py::gil_scoped_release release;
          scales = quant::level_scale(x.view(), rule, axis);
        }
        return numbers(scales, !axis);
      },
      "x"_a, "levels"_a = "ternary", "axis"_a = py::none(),
      "The scale for x, a float or a float32 vector over `axis`; 1 where all of x is 0.\n\n"
      "\"binary\": mean |x|, the least squared error with {-s, s} (XNOR-Net). \"ternary\": the "
      "least\n"
      "squared error with {-s, 0, s}, exact; its levels are those of\n"
      "QParams(s, 0, \"ternary\", axis). \"twn\": the mean of |x| > 0.7 mean |x| (Ternary "
      "Weight\n"
      "Networks), near to it.");
  m.def(
      "cast",
      [](const Array& x, const py::object& dtype, const py::object& out,
         const std::string& overflow) {
        constexpr auto where = "quant.cast";
        check(overflow == "error" || overflow == "saturate" || overflow == "infinity", where,
              "overflow must be \"error\", \"saturate\" or \"infinity\"", overflow);
        const auto policy = overflow == "error"      ? quant::Overflow::error
                            : overflow == "saturate" ? quant::Overflow::saturate
                                                     : quant::Overflow::infinity;
        constexpr std::string_view rule = "dtype must be float16 or bfloat16";
        const DType target = dtype_of_rule(dtype, where, rule);
        check<DTypeError>(target == DType::float16 || target == DType::bfloat16, where, rule,
                          name(target));
        Output result(x, target, x.shape(), out, where);
        result.check_overlap(x, where);
        {
          const py::gil_scoped_release release;
          quant::cast(x.view(), result.view(), policy);
        }
        return result.take();
      },
      "x"_a, "dtype"_a, "out"_a = py::none(), "overflow"_a = "error",
      "x as float16 or bfloat16, rounded once, half to even. Finite values beyond the dtype raise\n"
      "NonFiniteError, as NaN and infinities do; with overflow=\"saturate\" they become the "
      "largest\n"
      "finite number, with \"infinity\" infinite, and NaN and infinities stay.");
}

}  // namespace

void bind_quant(py::module_ m) {
  m.doc() = "Ranges, quantization and fake quantization.";
  bind_qparams(m);
  bind_observers(m);
  bind_counting_observers(m);
  bind_levels(m);

  m.def(
      "fake_quantize",
      [](const Array& x, const QParams& qp, const py::object& out, const std::optional<Array>& bits,
         const std::string& nonfinite, const Text& compat) {
        constexpr auto where = "quant.fake_quantize";
        return fake_quantize(x, qp.view(), out, bits, quant::non_finite_from(nonfinite, where),
                             compat_of(compat, where), where);
      },
      "x"_a, "qp"_a, "out"_a = py::none(), "bits"_a = py::none(), "nonfinite"_a = "propagate",
      "compat"_a = py::none(),
      "dequantize(quantize(x, qp), qp) in one pass, bit for bit, in x's dtype.\n"
      "compat=\"torch\": torch.fake_quantize_*, which rounds before it adds the zero point;\n"
      "torch's quantize rounds after, so that the two differ by one step at a few ties.\n\n"
      "bits: uint8 buffer of ceil(n / 8) bytes for the gradient's mask: bit i % 8 of byte i // 8\n"
      "is 1 where the i-th element (row-major) rounds to an integer in [qmin, qmax] unsaturated.\n"
      "nonfinite: NaN stays NaN (\"propagate\"), becomes 0 (\"zero_point\") or raises "
      "(\"error\");\n"
      "infinities saturate. compat: \"torch\" or \"tflite\" round as those do.");
  m.def("quantize", &quantize, "x"_a, "qp"_a, "out"_a = py::none(), "nonfinite"_a = "error",
        "compat"_a = py::none(), "packed"_a = true, "backend"_a = py::none(),
        "Integers of qp.dtype: clamp(rint(x / scale) + zero_point, qmin, qmax), ties to even, as\n"
        "ONNX QuantizeLinear. Infinities saturate; NaN raises NonFiniteError or, with\n"
        "nonfinite=\"zero_point\", becomes zero_point. compat: \"torch\" gives the integers of\n"
        "torch.quantize_per_tensor, with an axis of torch.quantize_per_channel; \"tflite\" rounds\n"
        "ties away from zero.\n"
        "int4, uint4: a uint8 vector, element 2i in the low nibble of byte i, 2i + 1 in the high\n"
        "one, row-major; packed=False: one int8 or uint8 an element. int3, int2 and ternary: one "
        "int8,\n"
        "uint3 and uint2: one uint8 an element.\n"
        "backend=\"onednn\": contiguous float32 to int8 or uint8 through oneDNN's reorder, which\n"
        "multiplies by 1 / scale: one step away where that rounds to the other side of a tie.");
  m.def("dequantize", &dequantize, "q"_a, "qp"_a, "out"_a = py::none(), "shape"_a = py::none(),
        "packed"_a = true, "backend"_a = py::none(),
        "(q - zero_point) * scale as float32, or in the floating dtype of `out`. Packed int4 and\n"
        "uint4 need `shape` or `out`. backend=\"onednn\": int8 and uint8, the same bits.");
  m.def("fake_quantize_range", &fake_quantize_range, "x"_a, "min"_a, "max"_a, "num_bits"_a = 8,
        "narrow_range"_a = false, "axis"_a = py::none(), "out"_a = py::none(),
        "bits"_a = py::none(), "compat"_a = "tf",
        "tf.quantization.fake_quant_with_min_max_vars, or with an axis its _per_channel form on\n"
        "any axis, bit for bit. bits: min <= x <= max of the nudged range.");
  m.def("fake_quantize_affine", &fake_quantize_affine, "x"_a, "scale"_a, "zero_point"_a, "qmin"_a,
        "qmax"_a, "axis"_a = py::none(), "out"_a = py::none(), "bits"_a = py::none(),
        "compat"_a = py::none(),
        "fake_quantize with the grid as arrays: scale float32 and zero_point int32, one number or\n"
        "one for each index of `axis`. NaN stays NaN. bits=True makes the bits too and returns\n"
        "(y, bits). For framework adapters.");
  m.def(
      "fake_quantize_backward", &fake_quantize_backward, "grad"_a, "bits"_a, "out"_a = py::none(),
      "The gradient of fake_quantize: grad where the bit is set, else 0 (also where grad is NaN).");
}

}  // namespace moptcore::bindings

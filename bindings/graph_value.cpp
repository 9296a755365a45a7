// SPDX-License-Identifier: Apache-2.0
#include "graph_value.hpp"

#include <pybind11/numpy.h>

#include <array>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include <moptcore/core/copy.hpp>

#include "array.hpp"

namespace moptcore::bindings {

namespace py = pybind11;
using graph::ElementType;
using graph::Tensor;
using graph::Value;
using graph::ValueType;

namespace {

// Types that NumPy has from ml_dtypes, one element in each byte or two bytes.
bool is_extended(ElementType type) {
  switch (type) {
    case ElementType::bfloat16:
    case ElementType::float8e4m3fn:
    case ElementType::float8e4m3fnuz:
    case ElementType::float8e5m2:
    case ElementType::float8e5m2fnuz:
    case ElementType::float8e8m0:
    case ElementType::float4e2m1:
    case ElementType::uint4:
    case ElementType::int4:
    case ElementType::uint2:
    case ElementType::int2: return true;
    default: return false;
  }
}

ElementType type_named(std::string_view text) {
  for (int i = 1; i < graph::kElementTypeCount; ++i) {
    const auto type = static_cast<ElementType>(i);
    if (graph::name(type) == text) return type;
  }
  return ElementType::undefined;
}

// Keeps a Python object for as long as a tensor uses its memory; tensors may die on any thread.
std::shared_ptr<void> owner_of(py::object object) {
  return {object.release().ptr(), [](void* pointer) {
            const py::gil_scoped_acquire lock;
            py::handle(static_cast<PyObject*>(pointer)).dec_ref();
          }};
}

Shape shape_of(const py::array& array) {
  return Shape(
      std::span<const std::int64_t>(array.shape(), static_cast<std::size_t>(array.ndim())));
}

Tensor shared(ElementType type, const py::array& contiguous) {
  return {type, shape_of(contiguous), const_cast<void*>(contiguous.data()), owner_of(contiguous)};
}

// One element a byte into as many as a byte has room for.
Tensor packed(ElementType type, const py::array& bytes) {
  Tensor tensor(type, shape_of(bytes));
  const int bits = graph::bit_width(type);
  const int in_byte = 8 / bits;
  const auto* from = static_cast<const std::uint8_t*>(bytes.data());
  auto* to = static_cast<std::uint8_t*>(tensor.mutable_raw());
  if (tensor.bytes() > 0) std::memset(to, 0, static_cast<std::size_t>(tensor.bytes()));
  const int mask = (1 << bits) - 1;
  for (std::int64_t i = 0; i < tensor.size(); ++i) {
    to[i / in_byte] |= static_cast<std::uint8_t>((from[i] & mask) << (i % in_byte * bits));
  }
  return tensor;
}

Tensor strings_from(const py::array& array, std::string_view where, const std::string& name) {
  std::vector<std::string> texts;
  texts.reserve(static_cast<std::size_t>(array.size()));
  for (const py::handle item : array.attr("ravel")().attr("tolist")()) {
    const bool is_text = py::isinstance<py::str>(item) || py::isinstance<py::bytes>(item);
    check<DTypeError>(is_text, where, name + " must hold strings",
                      std::string(Py_TYPE(item.ptr())->tp_name));
    texts.push_back(item.cast<std::string>());
  }
  return Tensor::of_strings(shape_of(array), std::move(texts));
}

// NumPy arrays of dtypes that the core's border does not take: text, complex numbers, ml_dtypes'.
Tensor tensor_of_numpy(const py::array& array, std::string_view where, const std::string& name) {
  const char kind = array.dtype().kind();
  if (kind == 'O' || kind == 'U' || kind == 'S' || kind == 'T') {
    return strings_from(array, where, name);
  }
  const ElementType type = type_named(array.dtype().attr("name").cast<std::string>());
  check<DTypeError>(type != ElementType::undefined, where, name + " must have a dtype of ONNX",
                    py::str(array.dtype()).cast<std::string>());
  check<UnsupportedError>(array.ndim() <= kMaxRank, where,
                          name + " must have at most 16 dimensions", array.ndim());
  const py::module_ numpy = py::module_::import("numpy");
  // ascontiguousarray makes a scalar an array with one dimension.
  py::array contiguous = numpy.attr("require")(array, py::none(), py::make_tuple("C", "A"));
  if (contiguous.dtype().byteorder() == '>') {
    contiguous = contiguous.attr("astype")(contiguous.dtype().attr("newbyteorder")("="));
  }
  if (!is_extended(type)) return shared(type, contiguous);
  const bool wide = graph::bit_width(type) == 16;
  const py::array words = contiguous.attr("view")(wide ? "uint16" : "uint8");
  return graph::is_packed(type) ? packed(type, words) : shared(type, words);
}

Tensor tensor_from(py::handle source, const ValueType& expected, std::string_view where,
                   const std::string& name) {
  const py::module_ numpy = py::module_::import("numpy");
  const bool is_plain = PyFloat_Check(source.ptr()) || PyLong_Check(source.ptr()) ||
                        PyList_Check(source.ptr()) || PyTuple_Check(source.ptr()) ||
                        PyUnicode_Check(source.ptr()) || PyBytes_Check(source.ptr());
  if (is_plain) {
    const bool known =
        expected.kind == ValueType::Kind::tensor && expected.element != ElementType::undefined;
    const py::object dtype = known ? numpy_dtype(expected.element) : py::none();
    return tensor_of_numpy(numpy.attr("asarray")(source, dtype), where, name);
  }
  if (py::isinstance<py::array>(source)) {
    return tensor_of_numpy(py::reinterpret_borrow<py::array>(source), where, name);
  }
  check<DTypeError>(Array::accepts(source), where, name + " must be an array",
                    std::string(Py_TYPE(source.ptr())->tp_name));
  // Arrays of other frameworks, through DLPack or the buffer protocol.
  auto array = std::make_shared<Array>(source);
  const AnyView& view = array->view();
  const ElementType type = graph::element_type_of(view.dtype());
  if (!view.is_contiguous()) {
    Tensor tensor(type, view.shape());
    copy_elements(view, tensor.mutable_view());
    return tensor;
  }
  std::shared_ptr<void> keep = owner_of(array->object());
  // The Array, which may hold a capsule, goes before the object that it views.
  std::shared_ptr<void> owner(const_cast<void*>(view.data()), [array, keep](void*) mutable {
    const py::gil_scoped_acquire lock;
    array.reset();
    keep.reset();
  });
  return {type, view.shape(), const_cast<void*>(view.data()), std::move(owner)};
}

std::vector<py::ssize_t> extents_of(const Shape& shape) { return {shape.begin(), shape.end()}; }

py::object unpacked(const Tensor& tensor) {
  const ElementType type = tensor.type();
  const int bits = graph::bit_width(type);
  const int in_byte = 8 / bits;
  py::array_t<std::uint8_t> bytes(extents_of(tensor.shape()));
  auto* to = bytes.mutable_data();
  const auto* from = static_cast<const std::uint8_t*>(tensor.raw());
  const int mask = (1 << bits) - 1;
  for (std::int64_t i = 0; i < tensor.size(); ++i) {
    to[i] = static_cast<std::uint8_t>(from[i / in_byte] >> (i % in_byte * bits) & mask);
  }
  return bytes.attr("view")(numpy_dtype(type));
}

py::object strings_to(const Tensor& tensor) {
  py::array array(py::dtype("O"), extents_of(tensor.shape()));
  auto** to = static_cast<PyObject**>(array.mutable_data());
  for (const std::string& text : tensor.strings()) {
    PyObject* made =
        PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "surrogateescape");
    if (made == nullptr) throw py::error_already_set();
    Py_XSETREF(*to, made);
    ++to;
  }
  return array;
}

}  // namespace

py::object numpy_dtype(ElementType type) {
  if (type == ElementType::string) return py::dtype("O");
  const std::string name(graph::name(type));
  if (!is_extended(type)) return py::dtype(name);
  try {
    return py::dtype::from_args(py::module_::import("ml_dtypes").attr(name.c_str()));
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_ImportError) && !error.matches(PyExc_AttributeError)) throw;
  }
  throw UnsupportedError("[graph.array] NumPy has " + name +
                         " from a recent ml_dtypes only: pip install -U ml_dtypes");
}

Value value_from(py::handle source, const ValueType& expected, std::string_view where,
                 const std::string& name) {
  if (source.is_none()) return {};
  const bool optional = expected.kind == ValueType::Kind::optional && !expected.inner.empty();
  const ValueType& type = optional ? expected.inner[0] : expected;
  if (type.kind == ValueType::Kind::sequence) {
    check<DTypeError>(PyList_Check(source.ptr()) || PyTuple_Check(source.ptr()), where,
                      name + " must be a list of arrays",
                      std::string(Py_TYPE(source.ptr())->tp_name));
    const ValueType none;
    Value::Sequence sequence;
    for (const py::handle item : py::reinterpret_borrow<py::sequence>(source)) {
      sequence.push_back(tensor_from(item, type.inner.empty() ? none : type.inner[0], where, name));
    }
    return sequence;
  }
  return tensor_from(source, type, where, name);
}

py::object numpy_from(Tensor tensor) {
  const ElementType type = tensor.type();
  if (type == ElementType::string) return strings_to(tensor);
  if (graph::is_packed(type)) return unpacked(tensor);
  const bool extended = is_extended(type);
  const py::dtype words = !extended ? py::reinterpret_borrow<py::dtype>(numpy_dtype(type))
                                    : py::dtype(graph::bit_width(type) == 16 ? "uint16" : "uint8");
  // Who writes into the result must change nothing else.
  if (!tensor.is_sole_owner()) tensor = tensor.clone();
  auto held = std::make_unique<Tensor>(std::move(tensor));
  const std::vector<py::ssize_t> extents = extents_of(held->shape());
  void* const data = held->mutable_raw();
  const py::capsule owner(held.get(), [](void* pointer) { delete static_cast<Tensor*>(pointer); });
  held.release();  // NOLINT(bugprone-unused-return-value): the capsule has it
  py::array array(words, extents, data, owner);
  return extended ? array.attr("view")(numpy_dtype(type)) : py::object(array);
}

py::object python_from(Value value) {
  if (!value.has_value()) return py::none();
  if (value.is_tensor()) {
    Tensor tensor = value.tensor();
    value = Value();
    return numpy_from(std::move(tensor));
  }
  py::list list;
  for (const Tensor& tensor : value.sequence()) list.append(numpy_from(tensor));
  return list;
}

}  // namespace moptcore::bindings

// SPDX-License-Identifier: Apache-2.0
// The border: any array of any framework as a TensorView, without copying, and results as the
// caller's kind of array. NumPy arrays are read through NumPy's C API, the others through DLPack
// (its C exchange API where the framework has it), then the buffer protocol, then __array__.
#pragma once

#include <pybind11/pybind11.h>

#include <moptcore/core/grid_type.hpp>
#include <moptcore/core/tensor_view.hpp>

#include <cstdint>
#include <memory>
#include <string>

namespace moptcore::bindings {

namespace py = pybind11;

/// Where an array came from, and so what kind a result becomes.
enum class Kind : std::uint8_t { numpy, torch, jax, tensorflow, other };

/// An argument: someone's array, viewed for the length of the call.
///
/// Bind functions with parameters of type `const Array&`; pybind11 fills them through the caster
/// below. Anything that is no array raises TypeError, arrays on a GPU UnsupportedError. Lists and
/// numbers are converted as NumPy does it.
class Array {
 public:
  Array() = default;
  explicit Array(py::handle source);

  /// Whether `source` is an array, or a number or nested list that NumPy makes one of.
  [[nodiscard]] static bool accepts(py::handle source);

  [[nodiscard]] const AnyView& view() const noexcept { return view_; }
  [[nodiscard]] const Shape& shape() const noexcept { return view_.shape(); }
  [[nodiscard]] DType dtype() const noexcept { return view_.dtype(); }
  [[nodiscard]] Kind kind() const noexcept { return kind_; }
  [[nodiscard]] py::object object() const { return py::reinterpret_borrow<py::object>(source_); }

  /// The same memory for writing. Throws Error("[where] name must be writable ...") for read-only
  /// memory, for JAX and TensorFlow arrays, and where the view is a converted copy.
  [[nodiscard]] bool is_writable() const noexcept { return !readonly_ && !copied_; }
  [[nodiscard]] MutableAnyView writable(const char* where, const char* name) const;

 private:
  friend class Output;

  AnyView view_;
  py::handle source_;
  py::object keep_;  // what the view's memory belongs to, where that is not source_
  Kind kind_ = Kind::numpy;
  bool readonly_ = false;
  bool copied_ = false;
};

/// A result: the memory to write into, and the Python object to return.
class Output {
 public:
  /// The caller's `out` (None: a new array of `like`'s kind) with the given dtype and shape.
  /// `out` must have exactly that dtype (TypeError) and shape, be writable, and not overlap an
  /// input partly. `where` is "prune.magnitude_mask"; errors speak of the argument "out".
  Output(const Array& like, DType dtype, const Shape& shape, py::handle out, const char* where);

  /// A new NumPy array where there is no input to copy the kind from (random_mask).
  Output(DType dtype, const Shape& shape, py::handle out, const char* where);

  [[nodiscard]] const MutableAnyView& view() const noexcept { return view_; }

  /// Throws unless the output is disjoint from `input` or exactly the same array.
  void check_overlap(const Array& input, const char* where) const;

  /// The array to return to the caller. Takes the GIL for granted.
  [[nodiscard]] py::object take();

 private:
  void allocate(Kind kind, py::handle like, DType dtype, const Shape& shape);
  void use(py::handle out, DType dtype, const Shape& shape, const char* where);

  MutableAnyView view_;
  py::object object_;
  Kind kind_ = Kind::numpy;  // what take() makes of the NumPy array object_
  py::object keep_;          // what view_'s memory belongs to, where that is not object_
};

/// The DType named by a NumPy-style name or dtype-like object ("int8", numpy.int8, torch.int8).
[[nodiscard]] DType dtype_from(py::handle name, const char* where, const char* argument);

/// The type of a grid that Python names: "int3", or anything that names a quantized dtype. Throws
/// DTypeError.
[[nodiscard]] GridType grid_type_from(py::handle dtype, const char* where);

}  // namespace moptcore::bindings

namespace pybind11::detail {

template <>
struct type_caster<moptcore::bindings::Array> {
  PYBIND11_TYPE_CASTER(moptcore::bindings::Array, const_name("ArrayLike"));

  bool load(handle source, bool) {
    if (!source || !moptcore::bindings::Array::accepts(source)) return false;
    value = moptcore::bindings::Array(source);
    return true;
  }
};

}  // namespace pybind11::detail

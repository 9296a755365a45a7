// SPDX-License-Identifier: Apache-2.0
// What flows through a graph, as Python has it: arrays, lists of arrays, None.
#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <string_view>

#include <moptcore/graph/model.hpp>

namespace moptcore::bindings {

/// The NumPy dtype of the elements: ml_dtypes' where NumPy has none, object for strings. Throws
/// UnsupportedError where ml_dtypes is needed and missing.
[[nodiscard]] pybind11::object numpy_dtype(graph::ElementType type);

/// A Value of an array of any framework, a number, a nested list, a list or tuple of arrays
/// (where `expected` is a sequence), or None. The memory of contiguous arrays is shared, for as
/// long as the Value lives. `expected` decides the dtype of what is no array yet. `name` is for
/// errors: "input 'x'".
[[nodiscard]] graph::Value value_from(pybind11::handle source, const graph::ValueType& expected,
                                      std::string_view where, const std::string& name);

/// The NumPy array, list of arrays, or None. Takes over the memory where nobody else holds it.
[[nodiscard]] pybind11::object python_from(graph::Value value);
[[nodiscard]] pybind11::object numpy_from(graph::Tensor tensor);

}  // namespace moptcore::bindings

// SPDX-License-Identifier: Apache-2.0
// soft_target_loss from Python, whoever computes it.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>
#include <string>

#include <moptcore/distill/soft_targets.hpp>

#include "array.hpp"

namespace moptcore::bindings {

inline std::optional<AnyView> view_of(const std::optional<Array>& array) {
  return array ? std::optional(array->view()) : std::nullopt;
}

inline distill::Reduction reduction_from(const std::string& text, const char* where) {
  if (text == "batchmean") return distill::Reduction::batchmean;
  if (text == "sum") return distill::Reduction::sum;
  check(text == "none", where, "reduction must be batchmean, sum or none", text);
  return distill::Reduction::none;
}

inline Shape row_shape(const Shape& shape, std::int64_t axis, const char* where) {
  const int skipped = normalize_axis(axis, shape.rank(), where);
  Shape rows;
  for (int i = 0; i < shape.rank(); ++i) {
    if (i != skipped) rows.push_back(shape[i]);
  }
  return rows;
}

/// (loss, gradient): each(losses, grad) where every row's loss is asked for, else whole(grad).
template <class Whole, class Each>
pybind11::tuple soft_targets(const Array& student, const distill::SoftTargetOptions& options,
                             const pybind11::object& out, const char* where, Whole&& whole,
                             Each&& each) {
  namespace py = pybind11;
  Output grad(student, student.dtype(), student.shape(), out, where);
  if (options.reduction == distill::Reduction::none) {
    const DType wide = student.dtype() == DType::float64 ? DType::float64 : DType::float32;
    Output losses(student, wide, row_shape(student.shape(), options.axis, where), py::none(),
                  where);
    {
      const py::gil_scoped_release release;
      each(losses.view(), grad.view());
    }
    return py::make_tuple(losses.take(), grad.take());
  }
  double loss = 0.0;
  {
    const py::gil_scoped_release release;
    loss = whole(grad.view());
  }
  return py::make_tuple(loss, grad.take());
}

}  // namespace moptcore::bindings

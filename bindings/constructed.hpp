// SPDX-License-Identifier: Apache-2.0
// Objects that Python made with __new__ alone have no C++ object behind them. pybind11 would lend
// uninitialized memory in its place; here such an object is a TypeError.
#pragma once

#include <pybind11/pybind11.h>

#include <moptcore/prune/prune.hpp>
#include <moptcore/quant/quant.hpp>

namespace moptcore::bindings {

template <class T>
class ConstructedCaster : public pybind11::detail::type_caster_base<T> {
 public:
  bool load(pybind11::handle source, bool convert) {
    if (source && !source.is_none() && pybind11::isinstance<T>(source)) {
      auto* object = reinterpret_cast<pybind11::detail::instance*>(source.ptr());
      const auto* type = pybind11::detail::get_type_info(typeid(T));
      if (!object->get_value_and_holder(type).holder_constructed()) {
        throw pybind11::type_error(std::string(Py_TYPE(source.ptr())->tp_name) +
                                   " object was never initialized: its __init__ did not run");
      }
    }
    return pybind11::detail::type_caster_base<T>::load(source, convert);
  }
};

}  // namespace moptcore::bindings

namespace pybind11::detail {

template <>
struct type_caster<moptcore::QParams> : moptcore::bindings::ConstructedCaster<moptcore::QParams> {};

template <>
struct type_caster<moptcore::quant::MinMaxObserver>
    : moptcore::bindings::ConstructedCaster<moptcore::quant::MinMaxObserver> {};

template <>
struct type_caster<moptcore::quant::MovingAverageObserver>
    : moptcore::bindings::ConstructedCaster<moptcore::quant::MovingAverageObserver> {};

template <>
struct type_caster<moptcore::quant::PercentileObserver>
    : moptcore::bindings::ConstructedCaster<moptcore::quant::PercentileObserver> {};

template <>
struct type_caster<moptcore::quant::EntropyObserver>
    : moptcore::bindings::ConstructedCaster<moptcore::quant::EntropyObserver> {};

template <>
struct type_caster<moptcore::quant::MSEObserver>
    : moptcore::bindings::ConstructedCaster<moptcore::quant::MSEObserver> {};

template <>
struct type_caster<moptcore::quant::HistogramObserver>
    : moptcore::bindings::ConstructedCaster<moptcore::quant::HistogramObserver> {};

template <>
struct type_caster<moptcore::prune::ConstantSparsity>
    : moptcore::bindings::ConstructedCaster<moptcore::prune::ConstantSparsity> {};

template <>
struct type_caster<moptcore::prune::PolynomialDecay>
    : moptcore::bindings::ConstructedCaster<moptcore::prune::PolynomialDecay> {};

template <>
struct type_caster<moptcore::prune::LinearDecay>
    : moptcore::bindings::ConstructedCaster<moptcore::prune::LinearDecay> {};

template <>
struct type_caster<moptcore::prune::CosineDecay>
    : moptcore::bindings::ConstructedCaster<moptcore::prune::CosineDecay> {};

template <>
struct type_caster<moptcore::prune::ExponentialDecay>
    : moptcore::bindings::ConstructedCaster<moptcore::prune::ExponentialDecay> {};

}  // namespace pybind11::detail

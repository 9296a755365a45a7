// SPDX-License-Identifier: Apache-2.0
// What the functions of <moptcore/xtensor.hpp> take and return. Link moptcore::xtensor.
#pragma once

#include <cstddef>
#include <type_traits>
#include <vector>

#include <xtensor/xarray.hpp>

#include <moptcore/core/tensor_view.hpp>

namespace moptcore::inline v0 {

/// A container or strided view of xtensor. Expressions that are not computed yet: xt::eval first.
template <class C>
concept XtensorContainer = StridedContainer<const C> && xt::is_xexpression<C>::value;

/// The element type of an xtensor container.
template <XtensorContainer C>
using XtensorValue = std::remove_cv_t<typename C::value_type>;

/// An uninitialized row-major array.
template <class T>
[[nodiscard]] xt::xarray<T> make_xarray(const Shape& shape) {
  return xt::xarray<T>::from_shape(std::vector<std::size_t>(shape.begin(), shape.end()));
}

}  // namespace moptcore::inline v0

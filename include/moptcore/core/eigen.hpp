// SPDX-License-Identifier: Apache-2.0
// What the functions of <moptcore/eigen.hpp> take and return. Link moptcore::eigen.
#pragma once

#include <type_traits>

#include <Eigen/Core>

#include <moptcore/core/tensor_view.hpp>

namespace moptcore::inline v0 {

/// A dense Eigen object with memory of its own or of someone else's: Matrix, Array, Map, Ref,
/// Block. Expressions that are not computed yet: .eval() first.
template <class C>
concept EigenContainer = EigenDense<const C> && std::is_base_of_v<Eigen::EigenBase<C>, C>;

/// An array of the extents and storage order of C, with elements of type T.
template <EigenContainer C, class T>
using EigenLike =
    Eigen::Array<T, C::RowsAtCompileTime, C::ColsAtCompileTime, C::PlainObject::Options,
                 C::MaxRowsAtCompileTime, C::MaxColsAtCompileTime>;

/// One dimension instead of two, for an Eigen vector.
template <EigenContainer C>
  requires(bool(C::IsVectorAtCompileTime))
[[nodiscard]] TensorView<const typename C::Scalar> flat_view(const C& vector) {
  return {vector.data(), Shape{vector.size()}, Shape{vector.innerStride()}};
}

}  // namespace moptcore::inline v0

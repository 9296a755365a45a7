// SPDX-License-Identifier: Apache-2.0
// Tensors of one element type from tensors of another.
#pragma once

#include <moptcore/graph/operator.hpp>
#include <moptcore/graph/small_float.hpp>

namespace moptcore::inline v0::graph {

/// Of the types with 8 bits and fewer.
struct CastRounding {
  bool saturate = true;
  ScaleRounding scale = ScaleRounding::up;
};

/// What Cast makes of `from`: the tensor itself where the type is the same. Integers drop their
/// higher bits, floats round to nearest. A float beyond the integers: NaN becomes 0, int32, int64
/// and uint64 saturate, the others get the low bits of the saturated int64. Throws DTypeError for
/// complex numbers, Error for strings that are no number.
[[nodiscard]] Tensor cast_tensor(const Call& call, const Tensor& from, ElementType to,
                                 const CastRounding& rounding = {});

/// The type that a TensorProto.DataType in attribute `attribute` names. Throws FormatError.
[[nodiscard]] ElementType element_type_attribute(const Call& call, std::string_view attribute,
                                                 ElementType fallback = ElementType::undefined);

}  // namespace moptcore::inline v0::graph

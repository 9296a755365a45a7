// SPDX-License-Identifier: Apache-2.0
// Element types of ONNX tensors: those of core/dtype.hpp and the ones only files know.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include <moptcore/core/dtype.hpp>

namespace moptcore::inline v0::graph {

/// Numbered as TensorProto.DataType of ONNX.
enum class ElementType : std::uint8_t {
  undefined = 0,
  float32 = 1,
  uint8 = 2,
  int8 = 3,
  uint16 = 4,
  int16 = 5,
  int32 = 6,
  int64 = 7,
  string = 8,
  boolean = 9,
  float16 = 10,
  float64 = 11,
  uint32 = 12,
  uint64 = 13,
  complex64 = 14,
  complex128 = 15,
  bfloat16 = 16,
  float8e4m3fn = 17,
  float8e4m3fnuz = 18,
  float8e5m2 = 19,
  float8e5m2fnuz = 20,
  uint4 = 21,
  int4 = 22,
  float4e2m1 = 23,
  float8e8m0 = 24,
  uint2 = 25,
  int2 = 26,
};

inline constexpr int kElementTypeCount = 27;

/// "float32", "string", "float8e4m3fn": NumPy's and ml_dtypes' names where they have the type.
[[nodiscard]] constexpr std::string_view name(ElementType type) noexcept {
  constexpr std::array<std::string_view, kElementTypeCount> kNames = {"undefined",
                                                                      "float32",
                                                                      "uint8",
                                                                      "int8",
                                                                      "uint16",
                                                                      "int16",
                                                                      "int32",
                                                                      "int64",
                                                                      "string",
                                                                      "bool",
                                                                      "float16",
                                                                      "float64",
                                                                      "uint32",
                                                                      "uint64",
                                                                      "complex64",
                                                                      "complex128",
                                                                      "bfloat16",
                                                                      "float8_e4m3fn",
                                                                      "float8_e4m3fnuz",
                                                                      "float8_e5m2",
                                                                      "float8_e5m2fnuz",
                                                                      "uint4",
                                                                      "int4",
                                                                      "float4_e2m1fn",
                                                                      "float8_e8m0fnu",
                                                                      "uint2",
                                                                      "int2"};
  return kNames[static_cast<std::size_t>(type)];
}

/// Bits of one element; 0 for strings and undefined.
[[nodiscard]] constexpr int bit_width(ElementType type) noexcept {
  constexpr std::array<int, kElementTypeCount> kBits = {
      0, 32, 8, 8, 16, 16, 32, 64, 0, 8, 16, 64, 32, 64, 64, 128, 16, 8, 8, 8, 8, 4, 4, 4, 8, 2, 2};
  return kBits[static_cast<std::size_t>(type)];
}

/// True where several elements share a byte, the first in the lowest bits.
[[nodiscard]] constexpr bool is_packed(ElementType type) noexcept {
  return bit_width(type) > 0 && bit_width(type) < 8;
}

/// Bytes of `count` elements, the last byte of packed types perhaps partly used.
[[nodiscard]] constexpr std::int64_t byte_count(ElementType type, std::int64_t count) noexcept {
  const int bits = bit_width(type);
  if (bits >= 8) return count * (bits / 8);
  return bits == 0 ? 0 : (count + 8 / bits - 1) / (8 / bits);
}

/// The dtype of the core with the same elements, where there is one.
[[nodiscard]] constexpr std::optional<DType> dtype_of(ElementType type) noexcept {
  switch (type) {
    case ElementType::float64: return DType::float64;
    case ElementType::float32: return DType::float32;
    case ElementType::float16: return DType::float16;
    case ElementType::bfloat16: return DType::bfloat16;
    case ElementType::int64: return DType::int64;
    case ElementType::int32: return DType::int32;
    case ElementType::int16: return DType::int16;
    case ElementType::int8: return DType::int8;
    case ElementType::uint64: return DType::uint64;
    case ElementType::uint32: return DType::uint32;
    case ElementType::uint16: return DType::uint16;
    case ElementType::uint8: return DType::uint8;
    case ElementType::boolean: return DType::boolean;
    case ElementType::int4: return DType::int4;
    case ElementType::uint4: return DType::uint4;
    default: return std::nullopt;
  }
}

[[nodiscard]] constexpr ElementType element_type_of(DType dtype) noexcept {
  constexpr std::array<ElementType, kDTypeCount> kTypes = {
      ElementType::float64, ElementType::float32, ElementType::float16, ElementType::bfloat16,
      ElementType::int64,   ElementType::int32,   ElementType::int16,   ElementType::int8,
      ElementType::uint64,  ElementType::uint32,  ElementType::uint16,  ElementType::uint8,
      ElementType::boolean, ElementType::int4,    ElementType::uint4};
  return kTypes[static_cast<std::size_t>(dtype)];
}

/// The ElementType of a C++ element type.
template <Element T>
[[nodiscard]] constexpr ElementType element_type_of() noexcept {
  return element_type_of(moptcore::dtype_of<T>());
}

}  // namespace moptcore::inline v0::graph

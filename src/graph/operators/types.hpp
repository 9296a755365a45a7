// SPDX-License-Identifier: Apache-2.0
// From an element type at run time to a C++ type: `visit_numbers(call, type, []<class T> { ... })`.
#pragma once

#include <complex>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>

#include <moptcore/graph/operator.hpp>

namespace moptcore::inline v0::graph {

/// The type in which arithmetic on T happens: float for the 16-bit floats, T itself otherwise.
template <class T>
using Arithmetic =
    std::conditional_t<std::is_same_v<T, float16> || std::is_same_v<T, bfloat16>, float, T>;

template <class T>
inline constexpr bool kIsHalf = std::is_same_v<T, float16> || std::is_same_v<T, bfloat16>;

/// Floating, with the halves that std::is_floating_point does not know.
template <class T>
inline constexpr bool kIsFloating = FloatingElement<T>;

[[noreturn]] inline void refuse_type(const Call& call, std::string_view what, ElementType type) {
  throw DTypeError(error_text(call.where(), std::string(what), name(type)));
}

#define MOPTCORE_VISIT(enumerator, T) \
  case ElementType::enumerator: return std::forward<F>(f).template operator()<T>();

/// double, float, float16, bfloat16.
template <class F>
decltype(auto) visit_floats(const Call& call, ElementType type, F&& f) {
  switch (type) {
    MOPTCORE_VISIT(float32, float)
    MOPTCORE_VISIT(float64, double)
    MOPTCORE_VISIT(float16, float16)
    MOPTCORE_VISIT(bfloat16, bfloat16)
    default: refuse_type(call, "elements must be float64, float32, float16 or bfloat16", type);
  }
}

/// Signed and unsigned, 8 to 64 bits.
template <class F>
decltype(auto) visit_integers(const Call& call, ElementType type, F&& f) {
  switch (type) {
    MOPTCORE_VISIT(int8, std::int8_t)
    MOPTCORE_VISIT(int16, std::int16_t)
    MOPTCORE_VISIT(int32, std::int32_t)
    MOPTCORE_VISIT(int64, std::int64_t)
    MOPTCORE_VISIT(uint8, std::uint8_t)
    MOPTCORE_VISIT(uint16, std::uint16_t)
    MOPTCORE_VISIT(uint32, std::uint32_t)
    MOPTCORE_VISIT(uint64, std::uint64_t)
    default: refuse_type(call, "elements must be integers of 8 to 64 bits", type);
  }
}

/// Floats and integers.
template <class F>
decltype(auto) visit_numbers(const Call& call, ElementType type, F&& f) {
  switch (type) {
    MOPTCORE_VISIT(float32, float)
    MOPTCORE_VISIT(float64, double)
    MOPTCORE_VISIT(float16, float16)
    MOPTCORE_VISIT(bfloat16, bfloat16)
    MOPTCORE_VISIT(int8, std::int8_t)
    MOPTCORE_VISIT(int16, std::int16_t)
    MOPTCORE_VISIT(int32, std::int32_t)
    MOPTCORE_VISIT(int64, std::int64_t)
    MOPTCORE_VISIT(uint8, std::uint8_t)
    MOPTCORE_VISIT(uint16, std::uint16_t)
    MOPTCORE_VISIT(uint32, std::uint32_t)
    MOPTCORE_VISIT(uint64, std::uint64_t)
    default: refuse_type(call, "elements must be floats or integers of 8 to 64 bits", type);
  }
}

#undef MOPTCORE_VISIT

/// For operators that only move elements: an unsigned integer of the same width (strings are a case
/// of their own, packed types have to be unpacked first).
template <class F>
decltype(auto) visit_width(const Call& call, ElementType type, F&& f) {
  switch (bit_width(type)) {
    case 8: return std::forward<F>(f).template operator()<std::uint8_t>();
    case 16: return std::forward<F>(f).template operator()<std::uint16_t>();
    case 32: return std::forward<F>(f).template operator()<std::uint32_t>();
    case 64: return std::forward<F>(f).template operator()<std::uint64_t>();
    case 128: return std::forward<F>(f).template operator()<std::complex<double>>();
    default: refuse_type(call, "elements must have 8 to 128 bits", type);
  }
}

}  // namespace moptcore::inline v0::graph

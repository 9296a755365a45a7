// SPDX-License-Identifier: Apache-2.0
// The integers of a grid, of which there may be fewer than a dtype has.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>

#include <moptcore/core/dtype.hpp>

namespace moptcore::inline v0 {

/// True for the dtypes that hold quantized values: int8, uint8, int16, uint16, int4, uint4.
[[nodiscard]] constexpr bool is_quantized(DType dtype) noexcept {
  return dtype == DType::int8 || dtype == DType::uint8 || dtype == DType::int16 ||
         dtype == DType::uint16 || dtype == DType::int4 || dtype == DType::uint4;
}

/// The least and the greatest integer of a quantized dtype.
[[nodiscard]] constexpr std::pair<std::int32_t, std::int32_t> integer_range(DType dtype) noexcept {
  const std::int32_t levels = std::int32_t{1} << bit_width(dtype);
  const bool is_signed = dtype == DType::int8 || dtype == DType::int16 || dtype == DType::int4;
  return is_signed ? std::pair{-levels / 2, levels / 2 - 1} : std::pair{0, levels - 1};
}

/// Grids of fewer integers than any dtype has: [-2, 1], [0, 3], [-4, 3], [0, 7] and [-1, 1].
enum class FewLevels : std::uint8_t { int2, uint2, int3, uint3, ternary };

/// Which integers a grid may have, and the dtype that stores them. A dtype is the grid type of all
/// its integers; FewLevels are stored one an element, as int8 or where not signed uint8, and are
/// for the packer to pack.
class GridType {
 public:
  constexpr GridType(DType dtype) noexcept  // NOLINT(google-explicit-constructor)
      : storage_(dtype) {}
  constexpr GridType(FewLevels levels) noexcept  // NOLINT(google-explicit-constructor)
      : storage_(levels == FewLevels::uint2 || levels == FewLevels::uint3 ? DType::uint8
                                                                          : DType::int8),
        levels_(levels) {}

  [[nodiscard]] constexpr DType storage() const noexcept { return storage_; }
  /// None where all integers of the storage are meant.
  [[nodiscard]] constexpr std::optional<FewLevels> levels() const noexcept { return levels_; }

  friend constexpr bool operator==(const GridType&, const GridType&) = default;

 private:
  DType storage_;
  std::optional<FewLevels> levels_;
};

/// The name in Python: "int8", "int3", "ternary".
[[nodiscard]] constexpr std::string_view name(const GridType& type) noexcept {
  constexpr std::string_view kNames[] = {"int2", "uint2", "int3", "uint3", "ternary"};
  return type.levels() ? kNames[static_cast<int>(*type.levels())] : name(type.storage());
}

/// The FewLevels of that name, if there are any.
[[nodiscard]] constexpr std::optional<FewLevels> few_levels_from(std::string_view text) noexcept {
  for (const FewLevels levels :
       {FewLevels::int2, FewLevels::uint2, FewLevels::int3, FewLevels::uint3, FewLevels::ternary}) {
    if (text == name(GridType(levels))) return levels;
  }
  return std::nullopt;
}

/// False where the storage is a dtype that holds no quantized values.
[[nodiscard]] constexpr bool is_quantized(const GridType& type) noexcept {
  return is_quantized(type.storage());
}

/// What is_quantized asks for, in the words of an error.
inline constexpr std::string_view kGridTypeRule =
    "dtype must be int8, uint8, int16, uint16, int4, uint4, int3, uint3, int2, uint2 or ternary";

/// The least and the greatest integer.
[[nodiscard]] constexpr std::pair<std::int32_t, std::int32_t> integer_range(
    const GridType& type) noexcept {
  if (!type.levels()) return integer_range(type.storage());
  switch (*type.levels()) {
    case FewLevels::int2: return {-2, 1};
    case FewLevels::uint2: return {0, 3};
    case FewLevels::int3: return {-4, 3};
    case FewLevels::uint3: return {0, 7};
    default: return {-1, 1};
  }
}

}  // namespace moptcore::inline v0

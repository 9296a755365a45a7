// SPDX-License-Identifier: Apache-2.0
// Counting and collecting by key: the passes over memory of exact selection. A key is a signed
// integer ordered as the elements are; magnitudes of floats are their bits without the sign, so
// every function here takes a mask that it ands to each word first.
#pragma once

#include <cstdint>

namespace moptcore::inline v0::kernels {

/// What one chunk holds with respect to an open interval (low, high), low < high.
template <class Key>
struct Bracket {
  std::int64_t above = 0;   ///< keys > low
  std::int64_t at_low = 0;  ///< keys == low, where asked for
  std::int64_t inside = 0;  ///< low < keys < high
  Key largest = 0;          ///< largest key
};

/// Most keys of one chunk.
inline constexpr std::int64_t kBracketKeys = 4096;

/// Room that the positions of a chunk of n keys need beyond n: they are written four at a time.
inline constexpr std::int64_t kBracketSlack = 4;

/// Classifies n <= kBracketKeys keys, n > 0. Sets bit i of `bits` where key i >= high (unused bits
/// of the last byte are zero) and writes the positions of the keys inside, in order, to
/// `positions`. Counting the keys at `low` costs a little and is left out unless `count_low`.
Bracket<std::int16_t> bracket(const std::int16_t* src, std::int64_t n, std::int16_t mask,
                              std::int16_t low, std::int16_t high, bool count_low,
                              std::uint8_t* bits, std::uint16_t* positions) noexcept;
Bracket<std::int32_t> bracket(const std::int32_t* src, std::int64_t n, std::int32_t mask,
                              std::int32_t low, std::int32_t high, bool count_low,
                              std::uint8_t* bits, std::uint16_t* positions) noexcept;
Bracket<std::int64_t> bracket(const std::int64_t* src, std::int64_t n, std::int64_t mask,
                              std::int64_t low, std::int64_t high, bool count_low,
                              std::uint8_t* bits, std::uint16_t* positions) noexcept;

/// Largest key of n > 0.
std::int16_t largest(const std::int16_t* src, std::int64_t n, std::int16_t mask) noexcept;
std::int32_t largest(const std::int32_t* src, std::int64_t n, std::int32_t mask) noexcept;
std::int64_t largest(const std::int64_t* src, std::int64_t n, std::int64_t mask) noexcept;

/// Sets bit i where key i > threshold; unused bits of the last byte become zero.
void above(const std::int16_t* src, std::int64_t n, std::int16_t mask, std::int16_t threshold,
           std::uint8_t* bits) noexcept;
void above(const std::int32_t* src, std::int64_t n, std::int32_t mask, std::int32_t threshold,
           std::uint8_t* bits) noexcept;
void above(const std::int64_t* src, std::int64_t n, std::int64_t mask, std::int64_t threshold,
           std::uint8_t* bits) noexcept;

}  // namespace moptcore::inline v0::kernels

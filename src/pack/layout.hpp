// SPDX-License-Identifier: Apache-2.0
// Which elements of a tensor are stored: taking them out and putting them back. Elements are words
// of 1, 2, 4 or 8 bytes; `zero` is the word that need not be stored.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <utility>

#include "bytes.hpp"

#include <moptcore/core/shape.hpp>

namespace moptcore::inline v0::pack {

/// A tensor of `count` words without gaps, aligned to them.
struct Words {
  const std::uint8_t* data;
  std::int64_t count;
  int width;
  std::uint64_t zero;
};

[[nodiscard]] std::int64_t count_nonzero(const Words& words);

/// One bit a word, the first in the lowest bit; set where the word is not zero.
[[nodiscard]] Bytes mask_of(const Words& words);

/// The words that are not zero.
[[nodiscard]] Bytes nonzero_of(const Words& words);

/// For each row of `columns` words the number of those that are not zero, as varints; and for each
/// of these the words between it and the one before in its row, as varints.
struct Rows {
  Bytes counts;
  Bytes gaps;
};
[[nodiscard]] Rows rows_of(const Words& words, std::int64_t columns);

/// n words and their places in each group of m; where fewer are not zero, the first zeros join
/// them. Places are n numbers of place_bits(m) bits; where
/// they fit in a byte, a group is one symbol.
struct Groups {
  Bytes places;
  Bytes words;
};
[[nodiscard]] Groups groups_of(const Words& words, int n, int m);
[[nodiscard]] int place_bits(int m) noexcept;
[[nodiscard]] bool one_symbol(int n, int m) noexcept;

/// The n and m with the smallest n / m that every group of m has at most n words that are not
/// zero: m of 2, 4, 8, 16 that divide `last`, n < m. With `m` given, that one only.
[[nodiscard]] std::optional<std::pair<int, int>> find_groups(const Words& words, std::int64_t last,
                                                             int m = 0);

// The way back; each throws FormatError for what the functions above do not make.
void check_mask(ByteSpan mask, std::int64_t count);
[[nodiscard]] std::int64_t count_bits(ByteSpan mask) noexcept;
/// Behind `stored` there are kernels::kExpandSlack bytes that may be read.
void expand_mask(ByteSpan mask, ByteSpan stored, int width, std::uint64_t zero, std::int64_t count,
                 std::uint8_t* words);
[[nodiscard]] std::int64_t sum_counts(ByteSpan counts, std::int64_t rows, std::int64_t columns);
void expand_rows(ByteSpan counts, ByteSpan gaps, ByteSpan stored, int width, std::uint64_t zero,
                 std::int64_t rows, std::int64_t columns, std::uint8_t* words);
void expand_groups(ByteSpan places, ByteSpan stored, int width, std::uint64_t zero, int n, int m,
                   std::int64_t count, std::uint8_t* words);

}  // namespace moptcore::inline v0::pack

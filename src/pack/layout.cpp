// SPDX-License-Identifier: Apache-2.0
#include "layout.hpp"

#include <moptcore/core/parallel.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <vector>

#include "kernels/unpack.hpp"

namespace moptcore::inline v0::pack {
namespace {

constexpr std::int64_t kGrain = std::int64_t{1} << 18;

// Calls f with the unsigned type of `width` bytes.
template <class F>
decltype(auto) visit_width(int width, F&& f) {
  switch (width) {
    case 1: return f(std::uint8_t{});
    case 2: return f(std::uint16_t{});
    case 4: return f(std::uint32_t{});
    default: return f(std::uint64_t{});
  }
}

template <class Word>
Word load(const std::uint8_t* data, std::int64_t index) {
  Word word;
  std::memcpy(&word, data + index * static_cast<std::int64_t>(sizeof(Word)), sizeof(Word));
  return word;
}

template <class Word>
void store(std::uint8_t* data, std::int64_t index, Word word) {
  std::memcpy(data + index * static_cast<std::int64_t>(sizeof(Word)), &word, sizeof(Word));
}

template <class Word>
void fill(std::uint8_t* words, std::int64_t count, std::uint64_t zero) {
  for (std::int64_t i = 0; i < count; ++i) store(words, i, static_cast<Word>(zero));
}

}  // namespace

std::int64_t count_nonzero(const Words& words) {
  return visit_width(words.width, [&]<class Word>(Word) {
    const auto zero = static_cast<Word>(words.zero);
    std::int64_t count = 0;
    for (std::int64_t i = 0; i < words.count; ++i) count += load<Word>(words.data, i) != zero;
    return count;
  });
}

Bytes mask_of(const Words& words) {
  Bytes mask(static_cast<std::size_t>((words.count + 7) / 8));
  visit_width(words.width, [&]<class Word>(Word) {
    parallel_for(words.count, kGrain, [&](std::int64_t first, std::int64_t last) {
      kernels::mark(reinterpret_cast<const Word*>(words.data) + first,
                    static_cast<Word>(words.zero), last - first, mask.data() + first / 8);
    });
  });
  return mask;
}

Bytes nonzero_of(const Words& words) {
  const Bytes mask = mask_of(words);
  Bytes stored;
  visit_width(words.width, [&]<class Word>(Word) {
    stored.resize(static_cast<std::size_t>(count_bits(mask)) * sizeof(Word));
    auto* to = reinterpret_cast<Word*>(stored.data());
    const auto* from = reinterpret_cast<const Word*>(words.data);
    for (const std::uint8_t byte : mask) {
      for (unsigned bits = byte; bits != 0; bits &= bits - 1) *to++ = from[std::countr_zero(bits)];
      from += 8;
    }
  });
  return stored;
}

Rows rows_of(const Words& words, std::int64_t columns) {
  Rows rows;
  visit_width(words.width, [&]<class Word>(Word) {
    const auto zero = static_cast<Word>(words.zero);
    for (std::int64_t row = 0; row * columns < words.count; ++row) {
      std::int64_t next = 0;
      std::uint64_t count = 0;
      for (std::int64_t column = 0; column < columns; ++column) {
        if (load<Word>(words.data, row * columns + column) == zero) continue;
        put_varint(rows.gaps, static_cast<std::uint64_t>(column - next));
        next = column + 1;
        ++count;
      }
      put_varint(rows.counts, count);
    }
  });
  return rows;
}

int place_bits(int m) noexcept { return std::bit_width(static_cast<unsigned>(m - 1)); }

bool one_symbol(int n, int m) noexcept { return n * place_bits(m) <= 8; }

Groups groups_of(const Words& words, int n, int m) {
  Groups groups;
  const int bits = place_bits(m);
  const bool joined = one_symbol(n, m);
  groups.words.resize(static_cast<std::size_t>(words.count / m * n * words.width));
  visit_width(words.width, [&]<class Word>(Word) {
    const auto zero = static_cast<Word>(words.zero);
    std::int64_t at = 0;
    for (std::int64_t first = 0; first < words.count; first += m) {
      int missing = n;
      for (int place = 0; place < m; ++place) {
        missing -= load<Word>(words.data, first + place) != zero ? 1 : 0;
      }
      unsigned symbol = 0;
      int shift = 0;
      // Zeros from the front: which of them fill the group does not matter, only that it is one
      // way.
      for (int place = 0; place < m; ++place) {
        const Word word = load<Word>(words.data, first + place);
        if (word == zero && missing-- <= 0) continue;
        store(groups.words.data(), at++, word);
        if (joined) {
          symbol |= static_cast<unsigned>(place) << shift;
          shift += bits;
        } else {
          groups.places.push_back(static_cast<std::uint8_t>(place));
        }
      }
      if (joined) groups.places.push_back(static_cast<std::uint8_t>(symbol));
    }
  });
  return groups;
}

std::optional<std::pair<int, int>> find_groups(const Words& words, std::int64_t last, int m) {
  std::optional<std::pair<int, int>> best;
  const std::array<int, 4> sizes = {2, 4, 8, 16};
  const std::span<const int> tried = m != 0 ? std::span<const int>(&m, 1) : sizes;
  for (const int size : tried) {
    if (words.count == 0 || last % size != 0) continue;
    int most = 0;
    visit_width(words.width, [&]<class Word>(Word) {
      const auto zero = static_cast<Word>(words.zero);
      for (std::int64_t first = 0; first < words.count && most < size; first += size) {
        int stored = 0;
        for (int place = 0; place < size; ++place) {
          stored += load<Word>(words.data, first + place) != zero ? 1 : 0;
        }
        most = std::max(most, stored);
      }
    });
    most = std::max(most, 1);
    if (most < size && (!best || most * best->second < best->first * size)) best = {{most, size}};
  }
  return best;
}

std::int64_t count_bits(ByteSpan mask) noexcept {
  return kernels::count_bits(mask.data(), static_cast<std::int64_t>(mask.size()));
}

void check_mask(ByteSpan mask, std::int64_t count) {
  const int used = static_cast<int>(count % 8);
  check<FormatError>(used == 0 || mask.back() >> used == 0, kDecode,
                     "bits of a mask behind its last element must be 0, last byte",
                     mask.empty() ? 0 : static_cast<int>(mask.back()));
}

void expand_mask(ByteSpan mask, ByteSpan stored, int width, std::uint64_t zero, std::int64_t count,
                 std::uint8_t* words) {
  // Where each block's stored words begin.
  std::vector<std::int64_t> starts(static_cast<std::size_t>(block_count(count, kGrain)));
  std::int64_t sum = 0;
  for (std::size_t block = 0; block < starts.size(); ++block) {
    starts[block] = sum;
    const std::size_t first = block * (kGrain / 8);
    sum += count_bits(mask.subspan(first, std::min<std::size_t>(kGrain / 8, mask.size() - first)));
  }
  visit_width(width, [&]<class Word>(Word) {
    parallel_blocks(count, kGrain, [&](std::int64_t block, std::int64_t first, std::int64_t last) {
      kernels::expand(
          mask.data() + first / 8,
          reinterpret_cast<const Word*>(stored.data()) + starts[static_cast<std::size_t>(block)],
          static_cast<Word>(zero), last - first, reinterpret_cast<Word*>(words) + first);
    });
  });
}

std::int64_t sum_counts(ByteSpan counts, std::int64_t rows, std::int64_t columns) {
  Cursor cursor(counts);
  std::int64_t sum = 0;
  for (std::int64_t row = 0; row < rows; ++row) {
    sum += static_cast<std::int64_t>(
        cursor.varint(static_cast<std::uint64_t>(columns), "the number of elements of a row"));
  }
  check<FormatError>(cursor.left() == 0, kDecode, "there must be a count for each row, bytes left",
                     cursor.left());
  return sum;
}

void expand_rows(ByteSpan counts, ByteSpan gaps, ByteSpan stored, int width, std::uint64_t zero,
                 std::int64_t rows, std::int64_t columns, std::uint8_t* words) {
  visit_width(width, [&]<class Word>(Word) {
    fill<Word>(words, rows * columns, zero);
    Cursor count_at(counts);
    Cursor gap_at(gaps);
    std::int64_t at = 0;
    for (std::int64_t row = 0; row < rows; ++row) {
      std::uint64_t next = 0;
      for (std::uint64_t left = count_at.varint(static_cast<std::uint64_t>(columns), "a count");
           left > 0; --left) {
        const std::uint64_t room = static_cast<std::uint64_t>(columns) - next;
        check<FormatError>(room > 0, kDecode, "a row must end with its last column, elements left",
                           left);
        next += gap_at.varint(room - 1, "a gap within its row");
        store(words, row * columns + static_cast<std::int64_t>(next),
              load<Word>(stored.data(), at++));
        ++next;
      }
    }
    check<FormatError>(gap_at.left() == 0, kDecode,
                       "there must be a gap for each element, bytes left", gap_at.left());
  });
}

void expand_groups(ByteSpan places, ByteSpan stored, int width, std::uint64_t zero, int n, int m,
                   std::int64_t count, std::uint8_t* words) {
  const int bits = place_bits(m);
  const bool joined = one_symbol(n, m);
  visit_width(width, [&]<class Word>(Word) {
    fill<Word>(words, count, zero);
    std::int64_t at = 0;
    for (std::int64_t group = 0; group < count / m; ++group) {
      unsigned symbol = joined ? places[static_cast<std::size_t>(group)] : 0u;
      int next = 0;
      for (int i = 0; i < n; ++i, ++at) {
        const int place = joined ? static_cast<int>(symbol & ((1u << bits) - 1))
                                 : static_cast<int>(places[static_cast<std::size_t>(at)]);
        symbol >>= bits;
        check<FormatError>(place >= next && place < m, kDecode,
                           "places in a group must ascend and be below " + std::to_string(m),
                           place);
        next = place + 1;
        store(words, group * m + place, load<Word>(stored.data(), at));
      }
    }
  });
}

}  // namespace moptcore::inline v0::pack

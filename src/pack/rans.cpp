// SPDX-License-Identifier: Apache-2.0
#include "rans.hpp"

#include <moptcore/core/parallel.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/unpack.hpp"

namespace moptcore::inline v0::pack {
namespace {

constexpr int kScaleBits = 12;
constexpr std::uint32_t kScale = 1u << kScaleBits;
constexpr std::uint32_t kLow = 1u << 16;  // states are in [kLow, 2^32)
constexpr std::int64_t kBlock = std::int64_t{1} << 18;

using Frequencies = std::array<std::uint32_t, 256>;

// Sums to kScale, at least 1 where a symbol occurs. Rounding the probabilities is corrected where
// it costs the fewest bits.
Frequencies normalize(const Histogram& histogram) {
  std::int64_t total = 0;
  for (const std::int64_t count : histogram) total += count;
  Frequencies frequencies{};
  std::int64_t sum = 0;
  for (int s = 0; s < 256; ++s) {
    if (histogram[s] == 0) continue;
    const double share = static_cast<double>(histogram[s]) / static_cast<double>(total) * kScale;
    frequencies[s] = static_cast<std::uint32_t>(std::max(1.0, std::floor(share + 0.5)));
    sum += frequencies[s];
  }
  // What one step of each symbol costs; only that of the symbol that took one changes.
  const auto cost_of = [&](int s, int step) {
    if (histogram[s] == 0 || frequencies[s] + step == 0) {
      return std::numeric_limits<double>::infinity();
    }
    const double f = frequencies[s];
    return static_cast<double>(histogram[s]) * (std::log2(f) - std::log2(f + step));
  };
  const int step = sum < kScale ? 1 : -1;
  std::array<double, 256> costs;
  for (int s = 0; s < 256 && sum != kScale; ++s) costs[s] = cost_of(s, step);
  for (; sum != kScale; sum += step) {
    const auto best =
        static_cast<int>(std::min_element(costs.begin(), costs.end()) - costs.begin());
    frequencies[best] += step;
    costs[best] = cost_of(best, step);
  }
  return frequencies;
}

class BitWriter {
 public:
  explicit BitWriter(Bytes& out) : out_(out) {}
  void put(std::uint32_t value, int bits) {
    word_ |= static_cast<std::uint64_t>(value) << filled_;
    for (filled_ += bits; filled_ >= 8; filled_ -= 8, word_ >>= 8) {
      out_.push_back(static_cast<std::uint8_t>(word_));
    }
  }
  void flush() {
    if (filled_ > 0) out_.push_back(static_cast<std::uint8_t>(word_));
    filled_ = 0;
  }

 private:
  Bytes& out_;
  std::uint64_t word_ = 0;
  int filled_ = 0;
};

void put_frequencies(Bytes& out, const Frequencies& frequencies) {
  int first = 0;
  int last = 255;
  while (frequencies[first] == 0) ++first;
  while (frequencies[last] == 0) --last;
  out.push_back(static_cast<std::uint8_t>(first));
  out.push_back(static_cast<std::uint8_t>(last));
  BitWriter bits(out);
  for (int s = first; s <= last; ++s) {
    const int length = std::bit_width(frequencies[s]);
    bits.put(static_cast<std::uint32_t>(length), 4);
    if (length > 1) bits.put(frequencies[s] & ((1u << (length - 1)) - 1), length - 1);
  }
  bits.flush();
}

Frequencies take_frequencies(Cursor& cursor) {
  Frequencies frequencies{};
  const int first = cursor.u8();
  const int last = cursor.u8();
  check<FormatError>(first <= last, kDecode, "the first symbol must not lie behind the last",
                     first);
  std::uint64_t word = 0;
  int filled = 0;
  const auto take = [&](int bits) {
    for (; filled < bits; filled += 8) word |= static_cast<std::uint64_t>(cursor.u8()) << filled;
    const auto value = static_cast<std::uint32_t>(word & ((1u << bits) - 1));
    word >>= bits;
    filled -= bits;
    return value;
  };
  std::uint32_t sum = 0;
  for (int s = first; s <= last; ++s) {
    const int length = static_cast<int>(take(4));
    if (length == 0) continue;
    frequencies[s] = (1u << (length - 1)) | take(length - 1);
    sum += frequencies[s];
  }
  check<FormatError>(sum == kScale, kDecode, "the frequencies of symbols must sum to 4096", sum);
  return frequencies;
}

// Each lane costs 4 bytes a block: so many that this is less than a 400th of what they hold, and
// 32 where it can be, as those are decoded in vectors.
int lane_bits(const Histogram& histogram) {
  const std::int64_t total = std::accumulate(histogram.begin(), histogram.end(), std::int64_t{0});
  const double bytes = entropy_bytes(histogram) *
                       std::min(1.0, static_cast<double>(kBlock) / static_cast<double>(total));
  constexpr double kShare = 400.0 * sizeof(std::uint32_t);
  if (bytes >= 32 * kShare) return 5;
  return bytes >= 8 * kShare ? 3 : bytes >= 4 * kShare ? 2 : bytes >= 2 * kShare ? 1 : 0;
}

struct Coding {
  std::uint64_t inverse;  // floor(2^64 / frequency) + 1: exact division of 32-bit numbers
  std::uint64_t limit;    // states from here on give a word away first
  std::uint32_t start;
  std::uint32_t frequency;
};

Bytes encode_block(ByteSpan symbols, const std::array<Coding, 256>& codings, int lanes) {
  std::array<std::uint32_t, kernels::kRansLanes> states;
  states.fill(kLow);
  // Filled from the end, as the decoder takes words in the other direction; no symbol has two.
  std::vector<std::uint16_t> words(symbols.size());
  std::uint16_t* const end = words.data() + words.size();
  std::uint16_t* word = end;
  const auto mask = static_cast<std::size_t>(lanes - 1);
  for (std::size_t i = symbols.size(); i-- > 0;) {
    const Coding& c = codings[symbols[i]];
    std::uint32_t x = states[i & mask];
    // Written always and kept where it counts: a branch would be wrong every other time. A word is
    // kept at most once a symbol, so the place before the last kept one is there.
    const std::uint32_t full = x >= c.limit ? 1u : 0u;
    word[-1] = static_cast<std::uint16_t>(x);
    word -= full;
    x >>= 16 * full;
    const auto quotient =
        c.frequency == 1
            ? x
            : static_cast<std::uint32_t>((static_cast<unsigned __int128>(x) * c.inverse) >> 64);
    states[i & mask] = (quotient << kScaleBits) + (x - quotient * c.frequency) + c.start;
  }
  const std::size_t head = 4 * static_cast<std::size_t>(lanes);
  Bytes out;
  out.reserve(head + 2 * static_cast<std::size_t>(end - word));
  for (int lane = 0; lane < lanes; ++lane) put_u32(out, states[static_cast<std::size_t>(lane)]);
  for (; word != end; ++word) {
    out.push_back(static_cast<std::uint8_t>(*word));
    out.push_back(static_cast<std::uint8_t>(*word >> 8));
  }
  return out;
}

// frequency - 1 in the upper 12 bits, then the place within the symbol's range, then the symbol.
using Table = std::array<std::uint32_t, kScale>;

inline std::uint32_t advance(const Table& table, std::uint32_t x, std::uint8_t* symbol) {
  const std::uint32_t entry = table[x & (kScale - 1)];
  *symbol = static_cast<std::uint8_t>(entry);
  return ((entry >> 20) + 1) * (x >> kScaleBits) + ((entry >> 8) & (kScale - 1));
}

template <int kLanes>
void decode_block(ByteSpan coded, const Table& table, std::span<std::uint8_t> symbols) {
  check<FormatError>(coded.size() >= 4 * kLanes, kDecode, "a block must hold its states, bytes",
                     coded.size());
  kernels::RansReader reader;
  std::uint32_t* const x = reader.states;
  for (int lane = 0; lane < kLanes; ++lane) {
    x[lane] = load_u32(coded.data() + 4 * lane);
    check<FormatError>(x[lane] >= kLow, kDecode, "a state must be at least 65536", x[lane]);
  }
  const std::uint8_t* word = coded.data() + 4 * kLanes;
  const std::uint8_t* const end = coded.data() + coded.size();
  std::uint8_t* out = symbols.data();
  std::size_t left = symbols.size();
  if constexpr (kLanes == kernels::kRansLanes) {
    reader.word = word;
    reader.end = end;
    const std::int64_t done =
        kernels::rans_rounds(table.data(), reader, out, static_cast<std::int64_t>(left));
    word = reader.word;
    out += done;
    left -= static_cast<std::size_t>(done);
  } else {
    while (left >= kLanes && end - word >= 2 * kLanes) {
      for (int lane = 0; lane < kLanes; ++lane) {
        const std::uint32_t y = advance(table, x[lane], out + lane);
        // A branch here would be wrong every other time.
        const bool low = y < kLow;
        const std::uint32_t filled =
            (y << 16) | (word[0] | static_cast<std::uint32_t>(word[1]) << 8);
        x[lane] = low ? filled : y;
        word += low ? 2 : 0;
      }
      out += kLanes;
      left -= kLanes;
    }
  }
  for (int lane = 0; left > 0; --left, ++out, lane = (lane + 1) % kLanes) {
    x[lane] = advance(table, x[lane], out);
    if (x[lane] < kLow) {
      check<FormatError>(end - word >= 2, kDecode,
                         "a block must hold a word for each state below "
                         "65536, symbols left",
                         left);
      x[lane] = (x[lane] << 16) | (word[0] | static_cast<std::uint32_t>(word[1]) << 8);
      word += 2;
    }
  }
  bool whole = word == end;
  for (int lane = 0; lane < kLanes; ++lane) whole = whole && x[lane] == kLow;
  check<FormatError>(whole, kDecode, "a block must end with its last symbol, bytes left",
                     end - word);
}

}  // namespace

Histogram histogram_of(ByteSpan symbols) {
  // Four tables, so that equal neighbours do not wait for each other.
  std::array<Histogram, 4> counts{};
  std::size_t i = 0;
  for (; i + 4 <= symbols.size(); i += 4) {
    for (std::size_t lane = 0; lane < 4; ++lane) ++counts[lane][symbols[i + lane]];
  }
  for (; i < symbols.size(); ++i) ++counts[0][symbols[i]];
  for (int s = 0; s < 256; ++s) counts[0][s] += counts[1][s] + counts[2][s] + counts[3][s];
  return counts[0];
}

double entropy_bytes(const Histogram& histogram) {
  double total = 0.0;
  double bits = 0.0;
  for (const std::int64_t count : histogram) total += static_cast<double>(count);
  for (const std::int64_t count : histogram) {
    if (count == 0) continue;
    const auto c = static_cast<double>(count);
    bits += c * std::log2(total / c);
  }
  return bits / 8.0;
}

std::size_t rans_bytes(const Histogram& histogram) {
  const Frequencies frequencies = normalize(histogram);
  Bytes table;
  put_frequencies(table, frequencies);
  double bits = 0.0;
  std::int64_t total = 0;
  for (int s = 0; s < 256; ++s) {
    if (histogram[s] == 0) continue;
    total += histogram[s];
    bits += static_cast<double>(histogram[s]) *
            (kScaleBits - std::log2(static_cast<double>(frequencies[s])));
  }
  const std::int64_t blocks = block_count(total, kBlock);
  const int lanes = lane_bits(histogram);
  const double block = bits / 8.0 / static_cast<double>(blocks);
  Bytes length;
  put_varint(length, static_cast<std::uint64_t>(block));
  return 1 + table.size() + static_cast<std::size_t>(std::ceil(bits / 8.0)) +
         static_cast<std::size_t>(blocks) * (length.size() + (std::size_t{4} << lanes));
}

Bytes rans_encode(ByteSpan symbols, const Histogram& histogram) {
  const Frequencies frequencies = normalize(histogram);
  std::array<Coding, 256> codings{};
  std::uint32_t start = 0;
  for (int s = 0; s < 256; ++s) {
    const std::uint32_t f = frequencies[s];
    if (f == 0) continue;
    codings[s] = {std::numeric_limits<std::uint64_t>::max() / f + 1,
                  static_cast<std::uint64_t>(f) << (32 - kScaleBits), start, f};
    start += f;
  }
  const int lanes = lane_bits(histogram);
  std::vector<Bytes> blocks(
      static_cast<std::size_t>(block_count(static_cast<std::int64_t>(symbols.size()), kBlock)));
  parallel_blocks(static_cast<std::int64_t>(symbols.size()), kBlock,
                  [&](std::int64_t block, std::int64_t first, std::int64_t last) {
                    blocks[static_cast<std::size_t>(block)] =
                        encode_block(symbols.subspan(static_cast<std::size_t>(first),
                                                     static_cast<std::size_t>(last - first)),
                                     codings, 1 << lanes);
                  });
  Bytes out;
  out.push_back(static_cast<std::uint8_t>(lanes));
  put_frequencies(out, frequencies);
  for (const Bytes& block : blocks) {
    put_varint(out, block.size());
    put_bytes(out, block);
  }
  return out;
}

void rans_decode(ByteSpan coded, std::span<std::uint8_t> symbols) {
  Cursor cursor(coded);
  const int lanes = cursor.u8();
  check<FormatError>(lanes <= 3 || lanes == 5, kDecode,
                     "a block must have 1, 2, 4, 8 or 32 lanes, their log2", lanes);
  const Frequencies frequencies = take_frequencies(cursor);
  Table table;
  std::uint32_t slot = 0;
  for (std::uint32_t s = 0; s < 256; ++s) {
    for (std::uint32_t i = 0; i < frequencies[s]; ++i) {
      table[slot++] = (frequencies[s] - 1) << 20 | i << 8 | s;
    }
  }
  const auto count = static_cast<std::int64_t>(symbols.size());
  std::vector<ByteSpan> blocks;
  for (std::int64_t block = 0; block < block_count(count, kBlock); ++block) {
    blocks.push_back(cursor.take(cursor.varint(coded.size(), "the length of a block")));
  }
  check<FormatError>(cursor.left() == 0, kDecode,
                     "a stream must end with its last block, bytes "
                     "left",
                     cursor.left());
  parallel_blocks(count, kBlock, [&](std::int64_t block, std::int64_t first, std::int64_t last) {
    const ByteSpan bytes = blocks[static_cast<std::size_t>(block)];
    const auto part =
        symbols.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(last - first));
    switch (lanes) {
      case 0: decode_block<1>(bytes, table, part); break;
      case 1: decode_block<2>(bytes, table, part); break;
      case 2: decode_block<4>(bytes, table, part); break;
      case 3: decode_block<8>(bytes, table, part); break;
      default: decode_block<kernels::kRansLanes>(bytes, table, part);
    }
  });
}

}  // namespace moptcore::inline v0::pack

// SPDX-License-Identifier: Apache-2.0
#include "stream.hpp"

#include <moptcore/core/parallel.hpp>

#include <zstd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>

#include "rans.hpp"

namespace moptcore::inline v0::pack {
namespace {

constexpr std::int64_t kGrain = std::int64_t{1} << 16;
// Above this size the search of level 19 takes long and finds little more.
constexpr std::size_t kThoroughBytes = std::size_t{1} << 18;
// Header and block of a frame: nothing shorter gains by one.
constexpr std::size_t kFrameBytes = 12;
constexpr std::size_t kShortBytes = std::size_t{1} << 12;
constexpr std::size_t kSampleBytes = std::size_t{1} << 16;

std::size_t packed_bytes(std::size_t symbols, int bits) {
  return (symbols * static_cast<std::size_t>(bits) + 7) / 8;
}

Bytes pack_bits(ByteSpan symbols, int bits) {
  if (bits == 8) return {symbols.begin(), symbols.end()};
  Bytes out;
  out.reserve(packed_bytes(symbols.size(), bits) + 8);
  std::uint32_t word = 0;
  int filled = 0;
  for (const std::uint8_t symbol : symbols) {
    word |= static_cast<std::uint32_t>(symbol) << filled;
    for (filled += bits; filled >= 8; filled -= 8, word >>= 8) {
      out.push_back(static_cast<std::uint8_t>(word));
    }
  }
  if (filled > 0) out.push_back(static_cast<std::uint8_t>(word));
  return out;
}

void unpack_bits(ByteSpan packed, int bits, std::span<std::uint8_t> symbols) {
  if (bits == 8) {
    std::copy(packed.begin(), packed.end(), symbols.begin());
    return;
  }
  const std::uint32_t mask = (1u << bits) - 1;
  std::uint32_t word = 0;
  int filled = 0;
  std::size_t at = 0;
  for (std::uint8_t& symbol : symbols) {
    if (filled < bits) {
      word |= static_cast<std::uint32_t>(packed[at++]) << filled;
      filled += 8;
    }
    symbol = static_cast<std::uint8_t>(word & mask);
    word >>= bits;
    filled -= bits;
  }
  check<FormatError>(word == 0, kDecode, "unused bits must be 0, bits", word);
}

Bytes compress(ByteSpan symbols, int level) {
  Bytes out(ZSTD_compressBound(symbols.size()));
  const std::size_t size =
      ZSTD_compress(out.data(), out.size(), symbols.data(), symbols.size(), level);
  check(ZSTD_isError(size) == 0, "pack.encode", "zstd must succeed", ZSTD_getErrorName(size));
  out.resize(size);
  return out;
}

// Whether Zstandard may find what order-0 coding, `least` bytes, does not: tried on a sample of a
// long stream, and at a low level on a short one, which the highest seldom beats by a quarter.
bool repeats(ByteSpan symbols, int bits, std::size_t least) {
  if (symbols.size() <= kShortBytes) return true;
  if (symbols.size() <= kSampleBytes) return compress(symbols, 3).size() < least + least / 4;
  Bytes sample;
  const std::size_t step = symbols.size() / 4;
  for (std::size_t part = 0; part < 4; ++part) {
    put_bytes(sample, symbols.subspan(part * step, kSampleBytes / 4));
  }
  const double plain = static_cast<double>(packed_bytes(sample.size(), bits));
  const double order_0 = std::min(entropy_bytes(histogram_of(sample)), plain);
  return static_cast<double>(compress(sample, 3).size()) < 0.97 * order_0;
}

struct Coded {
  Coder coder;
  Bytes bytes;
};

Coded code(ByteSpan symbols, int bits, Coder coder) {
  const Histogram histogram = histogram_of(symbols);
  if (histogram[symbols[0]] == static_cast<std::int64_t>(symbols.size())) {
    return {Coder::fill, {symbols[0]}};
  }
  const int level = symbols.size() <= kThoroughBytes ? 19 : 9;
  switch (coder) {
    case Coder::raw:
    case Coder::fill: return {Coder::raw, pack_bits(symbols, bits)};
    case Coder::zstd: return {Coder::zstd, compress(symbols, level)};
    case Coder::rans: return {Coder::rans, rans_encode(symbols, histogram)};
    case Coder::best: break;
  }
  Coded best{Coder::raw, {}};
  std::size_t least = packed_bytes(symbols.size(), bits);
  if (entropy_bytes(histogram) < static_cast<double>(least)) {
    Bytes bytes = rans_encode(symbols, histogram);
    if (bytes.size() < least) {
      least = bytes.size();
      best = {Coder::rans, std::move(bytes)};
    }
  }
  if (least > kFrameBytes && repeats(symbols, bits, least)) {
    Bytes bytes = compress(symbols, level);
    if (bytes.size() < least) return {Coder::zstd, std::move(bytes)};
  }
  if (best.coder == Coder::raw) best.bytes = pack_bits(symbols, bits);
  return best;
}

// The word whose upper byte holds the exponent of a float, and back.
template <class Word>
void split_planes(ByteSpan elements, bool floating, std::vector<Bytes>& planes) {
  const std::size_t count = elements.size() / sizeof(Word);
  parallel_for(
      static_cast<std::int64_t>(count), kGrain, [&](std::int64_t first, std::int64_t last) {
        for (auto i = static_cast<std::size_t>(first); i < static_cast<std::size_t>(last); ++i) {
          Word word;
          std::memcpy(&word, elements.data() + i * sizeof(Word), sizeof(Word));
          if (floating) word = std::rotl(word, 1);
          for (std::size_t p = 0; p < sizeof(Word); ++p) {
            planes[p][i] = static_cast<std::uint8_t>(word >> (8 * p));
          }
        }
      });
}

template <class Word>
void join_planes(const std::vector<Bytes>& planes, bool floating,
                 std::span<std::uint8_t> elements) {
  const std::size_t count = elements.size() / sizeof(Word);
  parallel_for(
      static_cast<std::int64_t>(count), kGrain, [&](std::int64_t first, std::int64_t last) {
        for (auto i = static_cast<std::size_t>(first); i < static_cast<std::size_t>(last); ++i) {
          Word word = 0;
          for (std::size_t p = 0; p < sizeof(Word); ++p) {
            word = static_cast<Word>(word | static_cast<Word>(planes[p][i]) << (8 * p));
          }
          if (floating) word = std::rotr(word, 1);
          std::memcpy(elements.data() + i * sizeof(Word), &word, sizeof(Word));
        }
      });
}

}  // namespace

int symbol_bits(int largest) noexcept {
  return std::max(1, static_cast<int>(std::bit_width(static_cast<unsigned>(largest))));
}

void put_stream(Bytes& out, ByteSpan symbols, int bits, Coder coder) {
  if (symbols.empty()) return;
  const Coded coded = code(symbols, bits, coder);
  out.push_back(static_cast<std::uint8_t>(coded.coder));
  if (coded.coder != Coder::fill) put_varint(out, coded.bytes.size());
  put_bytes(out, coded.bytes);
}

void put_elements(Bytes& out, ByteSpan elements, int width, bool floating, Coder coder) {
  if (elements.empty()) return;
  Bytes whole{0};
  put_stream(whole, elements, 8, coder);
  if (width > 1) {
    std::vector<Bytes> planes(static_cast<std::size_t>(width),
                              Bytes(elements.size() / static_cast<std::size_t>(width)));
    if (width == 2) split_planes<std::uint16_t>(elements, floating, planes);
    else if (width == 4) split_planes<std::uint32_t>(elements, floating, planes);
    else split_planes<std::uint64_t>(elements, floating, planes);
    Bytes split{1};
    for (const Bytes& plane : planes) put_stream(split, plane, 8, coder);
    if (split.size() < whole.size()) whole = std::move(split);
  }
  put_bytes(out, whole);
}

void StreamReader::take(std::span<std::uint8_t> symbols, int bits, const char* name) {
  if (symbols.empty()) return;
  const int coder = cursor_.u8();
  check<FormatError>(coder <= static_cast<int>(Coder::fill), kDecode,
                     "a coder must be raw (0), zstd (1), rans (2) or fill (3)", coder);
  Stream stream{name, static_cast<Coder>(coder), bits, static_cast<std::int64_t>(symbols.size()), 0,
                1};
  if (stream.coder != Coder::fill) {
    stream.size = static_cast<std::int64_t>(cursor_.varint(cursor_.left(), "a stream's length"));
  }
  stream.offset = static_cast<std::int64_t>(cursor_.at());
  const ByteSpan coded = cursor_.take(static_cast<std::uint64_t>(stream.size));
  switch (stream.coder) {
    case Coder::raw:
      check<FormatError>(coded.size() == packed_bytes(symbols.size(), bits), kDecode,
                         "a raw stream must have the bytes of its symbols, " +
                             std::to_string(packed_bytes(symbols.size(), bits)),
                         coded.size());
      unpack_bits(coded, bits, symbols);
      break;
    case Coder::zstd: {
      const std::size_t size =
          ZSTD_decompress(symbols.data(), symbols.size(), coded.data(), coded.size());
      if (ZSTD_isError(size) != 0) {
        throw FormatError(
            error_text(kDecode, "a zstd stream must be whole", ZSTD_getErrorName(size)));
      }
      check<FormatError>(size == symbols.size(), kDecode,
                         "a zstd stream must hold " + std::to_string(symbols.size()) + " bytes",
                         size);
      break;
    }
    case Coder::rans: rans_decode(coded, symbols); break;
    default: std::fill(symbols.begin(), symbols.end(), coded[0]);
  }
  if (bits < 8 && stream.coder != Coder::raw) {
    std::uint8_t all = 0;
    for (const std::uint8_t symbol : symbols) all |= symbol;
    check<FormatError>(all >> bits == 0, kDecode,
                       "a symbol must have " + std::to_string(bits) + " bits, all together",
                       static_cast<int>(all));
  }
  if (seen_ != nullptr) seen_->push_back(std::move(stream));
}

void StreamReader::take_elements(std::span<std::uint8_t> elements, int width, bool floating,
                                 const char* name) {
  if (elements.empty()) return;
  const int mode = cursor_.u8();
  check<FormatError>(mode == 0 || (mode == 1 && width > 1), kDecode,
                     "elements must be one stream (0) or one for each byte (1)", mode);
  if (mode == 0) {
    take(elements, 8, name);
    return;
  }
  std::vector<Bytes> planes;
  for (int p = 0; p < width; ++p) {
    planes.emplace_back(elements.size() / static_cast<std::size_t>(width));
    take(planes.back(), 8, (std::string(name) + " plane " + std::to_string(p)).c_str());
  }
  if (width == 2) join_planes<std::uint16_t>(planes, floating, elements);
  else if (width == 4) join_planes<std::uint32_t>(planes, floating, elements);
  else join_planes<std::uint64_t>(planes, floating, elements);
}

}  // namespace moptcore::inline v0::pack

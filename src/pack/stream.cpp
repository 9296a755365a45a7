// SPDX-License-Identifier: Apache-2.0
#include "stream.hpp"

#include <moptcore/core/parallel.hpp>

#include <zstd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <memory>

namespace moptcore::inline v0::pack {
namespace {

constexpr std::int64_t kGrain = std::int64_t{1} << 16;
// Above this size the search of level 19 takes long and finds little more.
constexpr std::size_t kThoroughBytes = std::size_t{1} << 18;
// Header and block of a frame: nothing shorter gains by one.
constexpr std::size_t kFrameBytes = 12;
constexpr std::size_t kTinyBytes = std::size_t{1} << 8;
constexpr std::size_t kShortBytes = std::size_t{1} << 12;
constexpr std::size_t kSampleBytes = std::size_t{1} << 16;

std::size_t packed_bytes(std::size_t symbols, int bits) {
  return (symbols * static_cast<std::size_t>(bits) + 7) / 8;
}

Bytes pack_bits(ByteSpan symbols, int bits) {
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

// A context takes longer to make than most streams to compress.
struct FreeContext {
  void operator()(ZSTD_CCtx* context) const noexcept { ZSTD_freeCCtx(context); }
};

Bytes compress(ByteSpan symbols, int level) {
  thread_local const std::unique_ptr<ZSTD_CCtx, FreeContext> context(ZSTD_createCCtx());
  check(context != nullptr, "pack.encode", "zstd must have memory");
  Bytes out(ZSTD_compressBound(symbols.size()));
  const std::size_t size = ZSTD_compressCCtx(context.get(), out.data(), out.size(), symbols.data(),
                                             symbols.size(), level);
  check(ZSTD_isError(size) == 0, "pack.encode", "zstd must succeed", ZSTD_getErrorName(size));
  out.resize(size);
  return out;
}

// Four parts of a long stream; they begin with whole elements.
Bytes sample_of(ByteSpan symbols) {
  Bytes sample;
  const std::size_t step = symbols.size() / 4 / sizeof(double) * sizeof(double);
  for (std::size_t part = 0; part < 4; ++part) {
    put_bytes(sample, symbols.subspan(part * step, kSampleBytes / 4));
  }
  return sample;
}

// Whether Zstandard may find what the other coders, which take `least` bytes, do not. Its lowest
// level finds what repeats; where nothing does, level 19 beats it by a tenth, and order 0 both. The
// doubt is worth the time of level 19 for what is short.
bool repeats(ByteSpan symbols, int bits, std::size_t least) {
  if (symbols.size() <= kTinyBytes) return true;
  if (symbols.size() <= kSampleBytes) {
    const std::size_t size = compress(symbols, 1).size();
    const std::size_t doubt = symbols.size() <= kShortBytes ? least / 12 : 0;
    return size < packed_bytes(symbols.size(), bits) && size < least + doubt;
  }
  const Bytes sample = sample_of(symbols);
  const double plain = static_cast<double>(packed_bytes(sample.size(), bits));
  const double order_0 = std::min(entropy_bytes(histogram_of(sample)), plain);
  return static_cast<double>(compress(sample, 1).size()) < order_0;
}

int level_of(ByteSpan symbols) { return symbols.size() <= kThoroughBytes ? 19 : 9; }

void choose(Planned& plan, Coder asked) {
  const ByteSpan symbols = plan.symbols;
  if (symbols.empty()) return;
  plan.histogram = histogram_of(symbols);
  if (plan.histogram[symbols[0]] == static_cast<std::int64_t>(symbols.size())) {
    plan.coder = Coder::fill;
    plan.coded = {symbols[0]};
    plan.size = 2;
    return;
  }
  const std::size_t packed = packed_bytes(symbols.size(), plan.bits);
  std::size_t least = packed;
  plan.coder = asked;
  if (asked == Coder::fill) plan.coder = Coder::raw;
  if (asked == Coder::rans) least = rans_bytes(plan.histogram);
  if (asked == Coder::zstd) {
    plan.coded = compress(symbols, level_of(symbols));
    least = plan.coded.size();
  }
  if (asked == Coder::best) {
    plan.coder = Coder::raw;
    if (entropy_bytes(plan.histogram) < static_cast<double>(packed)) {
      const std::size_t size = rans_bytes(plan.histogram);
      if (size < least) {
        least = size;
        plan.coder = Coder::rans;
      }
    }
    if (least > kFrameBytes && repeats(symbols, plan.bits, least)) {
      Bytes bytes = compress(symbols, level_of(symbols));
      if (bytes.size() < least) {
        least = bytes.size();
        plan.coder = Coder::zstd;
        plan.coded = std::move(bytes);
      }
    }
  }
  Bytes length;
  put_varint(length, least);
  plan.size = 1 + length.size() + least;
}

// The word whose upper byte holds the exponent of a float, and back. Elements are aligned to words.
template <class Word>
void split_planes(ByteSpan elements, bool floating, std::vector<Bytes>& planes) {
  constexpr std::size_t kPlanes = sizeof(Word);
  const auto* words = reinterpret_cast<const Word*>(elements.data());
  std::array<std::uint8_t*, kPlanes> to;
  for (std::size_t p = 0; p < kPlanes; ++p) to[p] = planes[p].data();
  const int turn = floating ? 1 : 0;
  parallel_for(static_cast<std::int64_t>(elements.size() / kPlanes), kGrain,
               [=](std::int64_t first, std::int64_t last) {
                 // One plane after the other: each is a loop that becomes vectors.
                 for (std::size_t p = 0; p < kPlanes; ++p) {
                   std::uint8_t* __restrict plane = to[p];
                   for (std::int64_t i = first; i < last; ++i) {
                     plane[i] = static_cast<std::uint8_t>(std::rotl(words[i], turn) >> (8 * p));
                   }
                 }
               });
}

template <class Word>
void join_planes(const std::vector<Bytes>& planes, bool floating,
                 std::span<std::uint8_t> elements) {
  constexpr std::size_t kPlanes = sizeof(Word);
  auto* words = reinterpret_cast<Word*>(elements.data());
  std::array<const std::uint8_t*, kPlanes> from;
  for (std::size_t p = 0; p < kPlanes; ++p) from[p] = planes[p].data();
  const int turn = floating ? 1 : 0;
  parallel_for(static_cast<std::int64_t>(elements.size() / kPlanes), kGrain,
               [=](std::int64_t first, std::int64_t last) {
                 Word* __restrict to = words;
                 for (std::int64_t i = first; i < last; ++i) {
                   Word word = 0;
                   for (std::size_t p = 0; p < kPlanes; ++p) {
                     word = static_cast<Word>(word | static_cast<Word>(from[p][i]) << (8 * p));
                   }
                   to[i] = std::rotr(word, turn);
                 }
               });
}

}  // namespace

int symbol_bits(int largest) noexcept {
  return std::max(1, static_cast<int>(std::bit_width(static_cast<unsigned>(largest))));
}

Planned plan_stream(ByteSpan symbols, int bits, Coder coder) {
  Planned plan;
  plan.symbols = symbols;
  plan.bits = bits;
  choose(plan, coder);
  return plan;
}

Planned plan_stream(Bytes&& symbols, int bits, Coder coder) {
  Planned plan;
  plan.own = std::move(symbols);
  plan.symbols = plan.own;
  plan.bits = bits;
  choose(plan, coder);
  return plan;
}

void put_planned(Bytes& out, const Planned& plan) {
  if (plan.symbols.empty()) return;
  out.push_back(static_cast<std::uint8_t>(plan.coder));
  if (plan.coder == Coder::fill) {
    put_bytes(out, plan.coded);
    return;
  }
  Bytes made;
  if (plan.coder == Coder::raw && plan.bits == 8) {
    put_varint(out, plan.symbols.size());
    put_bytes(out, plan.symbols);
    return;
  }
  if (plan.coder == Coder::raw) made = pack_bits(plan.symbols, plan.bits);
  if (plan.coder == Coder::rans) made = rans_encode(plan.symbols, plan.histogram);
  const ByteSpan coded = plan.coder == Coder::zstd ? plan.coded : made;
  put_varint(out, coded.size());
  put_bytes(out, coded);
}

void put_stream(Bytes& out, ByteSpan symbols, int bits, Coder coder) {
  put_planned(out, plan_stream(symbols, bits, coder));
}

PlannedElements plan_elements(ByteSpan elements, int width, bool floating, Coder coder) {
  PlannedElements split;
  if (elements.empty()) return split;
  if (width > 1) {
    std::vector<Bytes> planes(static_cast<std::size_t>(width),
                              Bytes(elements.size() / static_cast<std::size_t>(width)));
    if (width == 2) split_planes<std::uint16_t>(elements, floating, planes);
    else if (width == 4) split_planes<std::uint32_t>(elements, floating, planes);
    else split_planes<std::uint64_t>(elements, floating, planes);
    split.size = 1;
    for (Bytes& plane : planes) {
      split.streams.push_back(plan_stream(std::move(plane), 8, coder));
      split.size += split.streams.back().size;
    }
    // Order 0 of all bytes is never below that of the planes, so only repeated elements gain.
    if (coder == Coder::best && elements.size() > kSampleBytes) {
      const Bytes sample = sample_of(elements);
      const double share =
          static_cast<double>(compress(sample, 1).size()) / static_cast<double>(sample.size());
      if (share * static_cast<double>(elements.size()) > static_cast<double>(split.size)) {
        return split;
      }
    }
  }
  PlannedElements whole;
  whole.streams.push_back(plan_stream(elements, 8, coder));
  whole.size = 1 + whole.streams[0].size;
  return width > 1 && split.size < whole.size ? std::move(split) : std::move(whole);
}

void put_planned(Bytes& out, const PlannedElements& plan) {
  if (plan.streams.empty()) return;
  out.push_back(plan.streams.size() > 1 ? 1 : 0);
  for (const Planned& stream : plan.streams) put_planned(out, stream);
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

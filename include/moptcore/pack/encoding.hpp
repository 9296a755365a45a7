// SPDX-License-Identifier: Apache-2.0
// One tensor as a string of bytes: which elements are stored, as what, and how they are coded.
//
// The bytes (integers little-endian, `varint` is LEB128):
//   u8 version = 2, u8 dtype, u8 layout * 16 + values (+ 8 where zeros have signs), u8 rank,
//   varint extents[rank]
//   layout nm:       varint n, varint m
//   values codebook: varint k, then k elements; grid: u8 bits, varint -low, varint count,
//                    varint inner; the scale of element i is number (i / inner) % count
//   the streams of the scales (grid), of the layout, of the elements or their symbols, and of the
//   signs: a bit for each zero, the first in the lowest bit of a byte, set where it is -0.0
//   zeros, where the tensor has more than 1024 times the bytes so far
//   u32 CRC-32 (as of zlib) of all bytes before it
// Streams in this order: those of the layout are the mask; counts and gaps, each after a varint
// length; places.
// Version 1, which is read as well, has no signs and no streams of rANS with 32 lanes.
// A stream is u8 coder, then varint length and that many bytes (fill: the one symbol). Elements as
// they are have a byte in front: 0, one stream of their bytes; 1, one stream for each byte of
// theirs, the lowest first, floats rotated left by one so that a byte holds the exponent.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <moptcore/core/export.hpp>
#include <moptcore/core/tensor_view.hpp>

namespace moptcore::inline v0::pack {

/// Which elements are stored.
enum class Layout : std::uint8_t {
  dense,   ///< all
  bitmap,  ///< those that are not zero, and a bit for every element
  csr,     ///< those that are not zero, and for each row their number and the gaps between them
  nm,      ///< n of every m consecutive elements of the last axis, and where they are
};

/// As what they are stored. Zero is the element whose bits are all 0; -0.0 is one with a sign, or
/// a value like others, whichever is smaller.
enum class Values : std::uint8_t {
  raw,       ///< themselves
  codebook,  ///< 1 to 8 bit indices into the table of the distinct elements
  grid,      ///< 1 to 8 bit integers q of scale * q, with one scale or some along an axis
};

/// How the bytes are coded.
enum class Coder : std::uint8_t {
  raw,   ///< symbols of b bits, packed, the first in the lowest bits
  zstd,  ///< a frame of Zstandard over one byte a symbol
  rans,  ///< static order-0 range asymmetric numeral systems, Duda, arXiv:1311.2540
  fill,  ///< one symbol over and over
  best,  ///< in an Encoding: whichever is smallest, as far as samples of the stream tell
};

/// What `encode` shall do: by default whatever makes the tensor smallest; where half the elements
/// are zero, a bitmap, which is decoded in a third of the time, also if it takes up to a 256th
/// more.
struct Encoding {
  bool any_layout = true;
  bool any_values = true;
  Layout layout = Layout::dense;
  Values values = Values::raw;
  Coder coder = Coder::best;
  int n = 0;     ///< of Layout::nm; 0 finds n and m
  int m = 0;     ///< in [2, 256]
  int bits = 0;  ///< of Values::grid: at most so many; 0 means 8
};

/// "auto", or names joined by +: of a layout (dense, bitmap, csr, nm, 2:4), of values (raw,
/// codebook, grid, int2, int3, int4, int8) and of a coder (plain, zstd, rans); what is not named
/// is dense, raw and the best. "bitmap+codebook", "int4+rans". Throws Error for other names.
[[nodiscard]] MOPTCORE_API Encoding parse_encoding(std::string_view text);

/// One coded run of symbols inside the bytes.
struct Stream {
  std::string name;  ///< mask, counts, gaps, places, scales, elements, plane 0, signs, ...
  Coder coder = Coder::raw;
  int bits = 8;              ///< of a symbol
  std::int64_t symbols = 0;  ///< how many
  std::int64_t offset = 0;   ///< of the coded bytes
  std::int64_t size = 0;     ///< of the coded bytes
};

/// What a string of bytes made by `encode` holds.
struct Description {
  DType dtype = DType::float32;
  Shape shape;
  std::string encoding;  ///< "bitmap+codebook4+rans"
  std::int64_t dense_bytes = 0;
  std::int64_t packed_bytes = 0;
  std::vector<Stream> streams;
};

/// The elements, bit for bit, in as few bytes as `encoding` allows; never more than 37 + 9 rank
/// bytes above the dense size: an encoding that would be larger gives way to dense and raw.
/// Throws Error where the tensor does not fit a named encoding, DTypeError for int4 and uint4.
[[nodiscard]] MOPTCORE_API std::vector<std::uint8_t> encode(const AnyView& tensor,
                                                            const Encoding& encoding = {});

/// What `bytes` hold, after checking the checksum and all streams. Throws FormatError.
[[nodiscard]] MOPTCORE_API Description describe(std::span<const std::uint8_t> bytes);

/// dtype and shape only, after checking the checksum and that the tensor has at most 1024 times
/// the bytes; what is needed before `decode`. Throws FormatError.
[[nodiscard]] MOPTCORE_API Description describe_header(std::span<const std::uint8_t> bytes);

/// The elements that were encoded. `out` has their dtype and shape. Throws FormatError for bytes
/// that `encode` does not make; `out` is undefined then.
MOPTCORE_API void decode(std::span<const std::uint8_t> bytes, const MutableAnyView& out);

/// Bytes that no order-0 code of the elements goes below, its table included: with K distinct
/// elements of w bytes and the entropy H of one, n H / 8 + K w, or the dense size if that is less.
[[nodiscard]] MOPTCORE_API double entropy_bound(const AnyView& tensor);

/// CRC-32 of IEEE 802.3, as zlib has it; `crc` continues that of the bytes before.
[[nodiscard]] MOPTCORE_API std::uint32_t crc32(std::span<const std::uint8_t> bytes,
                                               std::uint32_t crc = 0) noexcept;

}  // namespace moptcore::inline v0::pack

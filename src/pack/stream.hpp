// SPDX-License-Identifier: Apache-2.0
// A run of symbols of 1 to 8 bits, coded by the coder that makes it smallest.
#pragma once

#include <moptcore/pack/encoding.hpp>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "bytes.hpp"

namespace moptcore::inline v0::pack {

/// Bits of the symbols 0 to `largest`: 1 to 8.
[[nodiscard]] int symbol_bits(int largest) noexcept;

/// Appends `symbols`, each below 2^bits, coded by `coder` or the best. Nothing of an empty run.
/// Where every symbol is the same, that is Coder::fill whatever was asked for.
void put_stream(Bytes& out, ByteSpan symbols, int bits, Coder coder);

/// Appends whole elements of `width` bytes; see encoding.hpp. Floats are rotated in planes.
void put_elements(Bytes& out, ByteSpan elements, int width, bool floating, Coder coder);

/// Reads streams in the order in which they were written, and keeps what it saw.
class StreamReader {
 public:
  StreamReader(Cursor& cursor, std::vector<Stream>* seen) : cursor_(cursor), seen_(seen) {}

  void take(std::span<std::uint8_t> symbols, int bits, const char* name);
  void take_elements(std::span<std::uint8_t> elements, int width, bool floating, const char* name);

 private:
  Cursor& cursor_;
  std::vector<Stream>* seen_;
};

}  // namespace moptcore::inline v0::pack

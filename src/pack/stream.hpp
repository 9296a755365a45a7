// SPDX-License-Identifier: Apache-2.0
// A run of symbols of 1 to 8 bits, coded by the coder that makes it smallest.
#pragma once

#include <moptcore/pack/encoding.hpp>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "bytes.hpp"
#include "rans.hpp"

namespace moptcore::inline v0::pack {

/// Bits of the symbols 0 to `largest`: 1 to 8.
[[nodiscard]] int symbol_bits(int largest) noexcept;

/// A run of symbols with the coder chosen for it; coded when it is put down.
struct Planned {
  Planned() = default;
  Planned(const Planned&) = delete;  // `symbols` may point into `own`
  Planned& operator=(const Planned&) = delete;
  Planned(Planned&&) noexcept = default;
  Planned& operator=(Planned&&) noexcept = default;
  ~Planned() = default;

  Bytes own;         ///< the symbols, unless they are somebody else's
  ByteSpan symbols;  ///< each below 2^bits
  int bits = 8;
  Histogram histogram{};
  Coder coder = Coder::raw;
  Bytes coded;           ///< where choosing has coded it
  std::size_t size = 0;  ///< of all that put_planned appends; of Coder::rans within few bytes
};

/// `coder` or the smallest. Where every symbol is the same, that is Coder::fill whatever was asked
/// for. The symbols must outlive the plan.
[[nodiscard]] Planned plan_stream(ByteSpan symbols, int bits, Coder coder);
[[nodiscard]] Planned plan_stream(Bytes&& symbols, int bits, Coder coder);

/// Appends the stream. Nothing of an empty run.
void put_planned(Bytes& out, const Planned& plan);

void put_stream(Bytes& out, ByteSpan symbols, int bits, Coder coder);

/// Whole elements of `width` bytes as one stream or as their planes; see encoding.hpp. Floats are
/// rotated in planes.
struct PlannedElements {
  std::vector<Planned> streams;
  std::size_t size = 0;
};
[[nodiscard]] PlannedElements plan_elements(ByteSpan elements, int width, bool floating,
                                            Coder coder);
void put_planned(Bytes& out, const PlannedElements& plan);

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

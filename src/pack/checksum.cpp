// SPDX-License-Identifier: Apache-2.0
#include "checksum.hpp"

#include <array>

#include "bytes.hpp"
#include "kernels/unpack.hpp"

namespace moptcore::inline v0::pack {
namespace {

// Sixteen bytes a step: table t holds the CRC of a byte followed by t zero bytes.
constexpr int kSlices = 16;

constexpr auto kTables = [] {
  std::array<std::array<std::uint32_t, 256>, kSlices> tables{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1u) != 0 ? 0xEDB88320u : 0u);
    tables[0][byte] = crc;
  }
  for (int slice = 1; slice < kSlices; ++slice) {
    for (int byte = 0; byte < 256; ++byte) {
      const std::uint32_t before = tables[slice - 1][byte];
      tables[slice][byte] = (before >> 8) ^ tables[0][before & 255u];
    }
  }
  return tables;
}();

// In the middle of a run: not inverted.
std::uint32_t divide(ByteSpan bytes, std::uint32_t crc) noexcept {
  const std::uint8_t* at = bytes.data();
  std::size_t left = bytes.size();
  for (; left >= kSlices; left -= kSlices, at += kSlices) {
    std::uint32_t next = 0;
    const std::uint32_t words[4] = {load_u32(at) ^ crc, load_u32(at + 4), load_u32(at + 8),
                                    load_u32(at + 12)};
    for (int word = 0; word < 4; ++word) {
      for (int byte = 0; byte < 4; ++byte) {
        next ^= kTables[15 - 4 * word - byte][(words[word] >> (8 * byte)) & 255u];
      }
    }
    crc = next;
  }
  for (; left > 0; --left, ++at) crc = (crc >> 8) ^ kTables[0][(crc ^ *at) & 255u];
  return crc;
}

}  // namespace

std::uint32_t crc32(std::span<const std::uint8_t> bytes, std::uint32_t crc) noexcept {
  constexpr std::size_t kFolded = 64;
  crc = ~crc;
  if (bytes.size() >= 2 * kFolded) {
    const std::size_t most = bytes.size() / kFolded * kFolded;
    std::array<std::uint8_t, 16> folded;
    if (kernels::crc32_fold(bytes.data(), static_cast<std::int64_t>(most), crc, folded.data())) {
      crc = divide(folded, 0);
      bytes = bytes.subspan(most);
    }
  }
  return ~divide(bytes, crc);
}

}  // namespace moptcore::inline v0::pack

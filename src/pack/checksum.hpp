// SPDX-License-Identifier: Apache-2.0
// CRC-32 of all bytes but the last four, which hold it.
#pragma once

#include <moptcore/pack/encoding.hpp>

#include "bytes.hpp"

namespace moptcore::inline v0::pack {

inline void put_checksum(Bytes& out) { put_u32(out, crc32(out)); }

[[nodiscard]] inline bool checksum_holds(ByteSpan bytes) noexcept {
  return bytes.size() >= 4 &&
         load_u32(bytes.data() + bytes.size() - 4) == crc32(bytes.first(bytes.size() - 4));
}

}  // namespace moptcore::inline v0::pack

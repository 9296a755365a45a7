// SPDX-License-Identifier: Apache-2.0
// Philox4x32-10: random bits as a function of seed and position, so that blocks of a tensor can
// be drawn in any order. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
#pragma once

#include <array>
#include <cstdint>

namespace moptcore::inline v0 {

class Philox {
 public:
  using Block = std::array<std::uint32_t, 4>;

  constexpr explicit Philox(std::uint64_t seed, std::uint64_t stream = 0) noexcept
      : seed_(seed), stream_(stream) {}

  /// Four independent 32-bit words for each position.
  [[nodiscard]] constexpr Block operator()(std::uint64_t position) const noexcept {
    Block c = {static_cast<std::uint32_t>(position), static_cast<std::uint32_t>(position >> 32),
               static_cast<std::uint32_t>(stream_), static_cast<std::uint32_t>(stream_ >> 32)};
    std::uint32_t k0 = static_cast<std::uint32_t>(seed_);
    std::uint32_t k1 = static_cast<std::uint32_t>(seed_ >> 32);
    for (int round = 0; round < 10; ++round) {
      const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c[0];
      const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * c[2];
      c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<std::uint32_t>(p1),
           static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<std::uint32_t>(p0)};
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    return c;
  }

  /// Word number `index` of the stream.
  [[nodiscard]] constexpr std::uint32_t word(std::uint64_t index) const noexcept {
    return (*this)(index / 4)[index % 4];
  }

 private:
  std::uint64_t seed_;
  std::uint64_t stream_;
};

}  // namespace moptcore::inline v0

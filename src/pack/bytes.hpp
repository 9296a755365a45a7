// SPDX-License-Identifier: Apache-2.0
// Bytes in and out: little-endian numbers and LEB128, with every read within bounds.
#pragma once

#include <moptcore/core/check.hpp>
#include <moptcore/core/pool.hpp>

#include <cstdint>
#include <cstring>
#include <new>
#include <span>
#include <utility>
#include <vector>

namespace moptcore::inline v0::pack {

inline constexpr auto kDecode = "pack.decode";

// Memory of the pool, which keeps large blocks, and no zeros written before what is to stand there.
template <class T>
struct Uninitialized {
  using value_type = T;
  Uninitialized() = default;
  template <class U>
  explicit Uninitialized(const Uninitialized<U>&) noexcept {}
  T* allocate(std::size_t count) {
    return static_cast<T*>(pool_allocate(static_cast<std::int64_t>(count * sizeof(T))).release());
  }
  void deallocate(T* memory, std::size_t) noexcept { PoolDeleter{}(memory); }
  template <class U, class... Arguments>
  void construct(U* at, Arguments&&... arguments) {
    if constexpr (sizeof...(Arguments) == 0) ::new (static_cast<void*>(at)) U;
    else ::new (static_cast<void*>(at)) U(std::forward<Arguments>(arguments)...);
  }
  friend bool operator==(const Uninitialized&, const Uninitialized&) { return true; }
};

using Bytes = std::vector<std::uint8_t, Uninitialized<std::uint8_t>>;
using ByteSpan = std::span<const std::uint8_t>;

inline void put_varint(Bytes& out, std::uint64_t value) {
  for (; value >= 128; value >>= 7) out.push_back(static_cast<std::uint8_t>(value | 128));
  out.push_back(static_cast<std::uint8_t>(value));
}

inline void put_bytes(Bytes& out, ByteSpan bytes) {
  if (bytes.empty()) return;
  const std::size_t at = out.size();
  out.resize(at + bytes.size());
  std::memcpy(out.data() + at, bytes.data(), bytes.size());
}

inline void put_u32(Bytes& out, std::uint32_t value) {
  for (int i = 0; i < 4; ++i) out.push_back(static_cast<std::uint8_t>(value >> (8 * i)));
}

[[nodiscard]] inline std::uint32_t load_u32(const std::uint8_t* at) noexcept {
  return at[0] | at[1] << 8 | at[2] << 16 | static_cast<std::uint32_t>(at[3]) << 24;
}

class Cursor {
 public:
  explicit Cursor(ByteSpan bytes) : bytes_(bytes) {}

  [[nodiscard]] std::size_t at() const noexcept { return at_; }
  [[nodiscard]] std::size_t left() const noexcept { return bytes_.size() - at_; }

  std::uint8_t u8() { return take(1)[0]; }

  ByteSpan take(std::uint64_t count) {
    check<FormatError>(count <= left(), kDecode,
                       "a field must end before the bytes do; bytes that are missing",
                       count <= left() ? 0 : count - left());
    const ByteSpan taken = bytes_.subspan(at_, static_cast<std::size_t>(count));
    at_ += static_cast<std::size_t>(count);
    return taken;
  }

  /// At most `most`, which `what` names in the error.
  std::uint64_t varint(std::uint64_t most, const char* what) {
    std::uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      const std::uint8_t byte = u8();
      check<FormatError>(shift < 63 || byte <= 1, kDecode,
                         "a number must have at most 64 bits, byte", static_cast<int>(byte));
      value |= static_cast<std::uint64_t>(byte & 127) << shift;
      if (byte < 128) break;
    }
    if (value > most) {
      throw FormatError(error_text(
          kDecode, std::string(what) + " must be at most " + std::to_string(most), value));
    }
    return value;
  }

 private:
  ByteSpan bytes_;
  std::size_t at_ = 0;
};

}  // namespace moptcore::inline v0::pack

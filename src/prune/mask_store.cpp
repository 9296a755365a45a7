// SPDX-License-Identifier: Apache-2.0
#include "prune/mask_store.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <sstream>

#include <moptcore/core/parallel.hpp>
#include <moptcore/prune/mask.hpp>

#include "kernels/mask_bits.hpp"
#include "kernels/strided.hpp"

namespace moptcore::inline v0::prune {
namespace {

constexpr std::int64_t kChunk = kernels::kScratch;

// Byte masks beyond this size do not fit the caches that are worth keeping for the weights.
constexpr std::int64_t kStreamFrom = std::int64_t{4} << 20;

}  // namespace

void check_mask(const AnyView& mask, const Shape& shape, const char* where, const char* argument) {
  const bool bytes = mask.dtype() == DType::boolean;
  if (bytes ? mask.shape() == shape
            : mask.dtype() == DType::uint8 && mask.rank() == 1 &&
                  mask.shape()[0] == packed_size(element_count(shape))) {
    return;
  }
  const std::string name_of(argument);
  check<DTypeError>(bytes || mask.dtype() == DType::uint8, where,
                    name_of + " must be bool, or uint8 if packed", name(mask.dtype()));
  std::ostringstream rule;
  if (bytes) {
    rule << name_of << " must have the shape " << shape;
  } else {
    rule << name_of << " must be bool " << shape << " or packed uint8 "
         << Shape{packed_size(element_count(shape))};
  }
  check(false, where, rule.str(), mask.shape());
}

void store_bits(const std::uint8_t* bits, std::int64_t first, std::int64_t n,
                const MutableAnyView& mask) noexcept {
  if (mask.dtype() == DType::uint8) {
    kernels::scatter(bits, first / 8, packed_size(n), mask);
    return;
  }
  if (mask.is_contiguous()) {
    kernels::unpack_bits(bits, n, static_cast<std::uint8_t*>(mask.data()) + first,
                         mask.size() > kStreamFrom);
    return;
  }
  std::array<std::uint8_t, kChunk> bytes;
  for (std::int64_t at = 0; at < n; at += kChunk) {
    const std::int64_t count = std::min(kChunk, n - at);
    kernels::unpack_bits(bits + at / 8, count, bytes.data(), false);
    kernels::scatter(bytes.data(), first + at, count, mask);
  }
}

const std::uint8_t* load_bits(const AnyView& mask, std::int64_t first, std::int64_t n,
                              std::uint8_t* scratch) noexcept {
  const auto* data = static_cast<const std::uint8_t*>(mask.data());
  if (mask.dtype() == DType::uint8) {
    if (mask.is_contiguous()) return data + first / 8;
    kernels::gather(mask, first / 8, packed_size(n), scratch);
  } else if (mask.is_contiguous()) {
    kernels::pack_bytes(data + first, n, scratch);
  } else {
    std::array<std::uint8_t, kChunk> bytes;
    kernels::gather(mask, first, n, bytes.data());
    kernels::pack_bytes(bytes.data(), n, scratch);
  }
  return scratch;
}

ByteMask::ByteMask(std::int64_t size)
    : size_(size), buffer_(pool_allocate(std::max<std::int64_t>(size, 1))) {}

void ByteMask::commit(const MutableAnyView& mask) const {
  parallel_for(size_, kMaskGrain, [&](std::int64_t first, std::int64_t last) {
    if (mask.dtype() == DType::boolean) {
      kernels::scatter(data() + first, first, last - first, mask);
      return;
    }
    std::array<std::uint8_t, kMaskGrain / 8> bits;
    kernels::pack_bytes(data() + first, last - first, bits.data());
    store_bits(bits.data(), first, last - first, mask);
  });
}

}  // namespace moptcore::inline v0::prune

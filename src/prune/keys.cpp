// SPDX-License-Identifier: Apache-2.0
#include "prune/keys.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "kernels/strided.hpp"

namespace moptcore::inline v0::prune {
namespace {

// Bits of +infinity in a floating dtype.
constexpr std::int64_t infinity_bits(DType dtype) noexcept {
  switch (dtype) {
    case DType::float64: return 0x7ff0000000000000;
    case DType::float32: return 0x7f800000;
    case DType::float16: return 0x7c00;
    default: return 0x7f80;
  }
}

// Words of a floating dtype become keys in place.
template <class Key>
void order_floats(Key* keys, std::int64_t n, Key infinity, Order order,
                  NonFinite nonfinite) noexcept {
  constexpr Key kLargest = std::numeric_limits<Key>::max();
  constexpr Key kSmallest = std::numeric_limits<Key>::min();
  constexpr int kSign = std::numeric_limits<Key>::digits;
  const Key nan = nonfinite == NonFinite::prune_first
                      ? (order == Order::magnitude ? Key{-1} : kSmallest)
                      : kLargest;
  for (std::int64_t i = 0; i < n; ++i) {
    const Key word = keys[i];
    const Key magnitude = static_cast<Key>(word & kLargest);
    Key key = magnitude;
    if (order == Order::value) {
      // Two's complement of the magnitude for negative numbers; -0 becomes 0.
      const Key negative = static_cast<Key>(word >> kSign);
      key = static_cast<Key>((magnitude ^ negative) - negative);
    }
    keys[i] = magnitude > infinity ? nan : key;
  }
}

template <class Key, class T>
void widen(const AnyView& view, std::int64_t first, std::int64_t n, Key* keys) noexcept {
  std::array<T, kernels::kScratch> values;
  kernels::gather(view, first, n, values.data());
  for (std::int64_t i = 0; i < n; ++i) keys[i] = static_cast<Key>(values[i]);
}

// Unsigned words become signed in the same order.
template <class Key>
void bias(Key* keys, std::int64_t n) noexcept {
  constexpr Key kSign = std::numeric_limits<Key>::min();
  for (std::int64_t i = 0; i < n; ++i) keys[i] = static_cast<Key>(keys[i] ^ kSign);
}

template <class Key>
void random_keys(std::uint64_t seed, std::int64_t first, std::int64_t n, Key* keys) noexcept {
  const Philox philox(seed);
  auto position = static_cast<std::uint64_t>(first);
  for (std::int64_t i = 0; i < n;) {
    const Philox::Block block = philox(position / 4);
    for (auto word = static_cast<std::size_t>(position % 4); word < 4 && i < n; ++word) {
      keys[i++] = static_cast<Key>(static_cast<std::int32_t>(block[word]));
      ++position;
    }
  }
}

}  // namespace

template <class Key>
Key Keys<Key>::limit() const noexcept {
  if (order_ == Order::random || nonfinite_ != NonFinite::error || !is_floating(view_.dtype())) {
    return std::numeric_limits<Key>::max();
  }
  const bool wide = 8 * sizeof(Key) != static_cast<std::size_t>(bit_width(view_.dtype()));
  return static_cast<Key>(infinity_bits(wide ? DType::float64 : view_.dtype()));
}

template <class Key>
const Key* Keys<Key>::read(std::int64_t first, std::int64_t n, Key* scratch) const noexcept {
  if (direct_) return static_cast<const Key*>(view_.data()) + first;
  if (order_ == Order::random) {
    random_keys(seed_, first, n, scratch);
    return scratch;
  }
  const DType dtype = view_.dtype();
  const bool native = !mixed_ && bit_width(dtype) == static_cast<int>(8 * sizeof(Key));
  if (native && is_floating(dtype)) {
    kernels::gather(view_, first, n, scratch);
    order_floats(scratch, n, static_cast<Key>(infinity_bits(dtype)), order_, nonfinite_);
  } else if (native) {
    kernels::gather(view_, first, n, scratch);
    if (dtype == DType::uint16 || dtype == DType::uint32 || dtype == DType::uint64) {
      bias(scratch, n);
    }
  } else if (sizeof(Key) == 2) {
    if (dtype == DType::int8) widen<Key, std::int8_t>(view_, first, n, scratch);
    else widen<Key, std::uint8_t>(view_, first, n, scratch);
  } else {
    std::array<double, kernels::kScratch> values;
    kernels::load(view_, first, n, values.data());
    for (std::int64_t i = 0; i < n; ++i) {
      scratch[i] = static_cast<Key>(std::bit_cast<std::int64_t>(values[i]));
    }
    order_floats(scratch, n, static_cast<Key>(infinity_bits(DType::float64)), order_, nonfinite_);
  }
  return scratch;
}

template class Keys<std::int16_t>;
template class Keys<std::int32_t>;
template class Keys<std::int64_t>;

std::int64_t find_nan(const AnyView& view) noexcept {
  if (!is_floating(view.dtype())) return -1;
  std::array<double, kernels::kScratch> values;
  for (std::int64_t first = 0; first < view.size(); first += kernels::kScratch) {
    const std::int64_t n = std::min(kernels::kScratch, view.size() - first);
    kernels::load(view, first, n, values.data());
    for (std::int64_t i = 0; i < n; ++i) {
      if (std::isnan(values[i])) return first + i;
    }
  }
  return -1;
}

void refuse_nan(const AnyView& view, const char* where, const std::string& argument) {
  throw NonFiniteError(
      error_text(where, argument + " must not contain NaN unless nonfinite is prune_first or keep",
                 "NaN at flat index " + std::to_string(find_nan(view))));
}

}  // namespace moptcore::inline v0::prune

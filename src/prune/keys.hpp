// SPDX-License-Identifier: Apache-2.0
// Elements of any tensor as keys: signed integers in the order in which elements are to be pruned.
#pragma once

#include <cstdint>
#include <limits>
#include <string>

#include <moptcore/core/random.hpp>
#include <moptcore/core/tensor_view.hpp>
#include <moptcore/prune/mask.hpp>

namespace moptcore::inline v0::prune {

enum class Order : std::uint8_t {
  magnitude,  ///< of a floating tensor
  value,      ///< any dtype but packed
  random,     ///< no tensor: Philox words
};

/// Bits of the key that holds every element of a dtype: 16, 32 or 64.
[[nodiscard]] constexpr int key_width(DType dtype) noexcept {
  return bit_width(dtype) <= 16 ? 16 : bit_width(dtype);
}

/// The keys of one tensor. Key must be as wide as key_width(dtype), or int64 for any dtype, and
/// then elements that are not integers of 64 bits pass through double.
template <class Key>
class Keys {
 public:
  /// `mixed`: the tensor is ranked together with others of other dtypes, all as float64.
  Keys(const AnyView& view, Order order, NonFinite nonfinite, bool mixed = false)
      : view_(view),
        size_(view.size()),
        order_(order),
        nonfinite_(nonfinite),
        mixed_(mixed && view.dtype() != DType::float64) {
    direct_ = order == Order::magnitude && nonfinite == NonFinite::error && view.is_contiguous() &&
              bit_width(view.dtype()) == 8 * sizeof(Key);
  }

  Keys(std::int64_t size, std::uint64_t seed)
      : size_(size), seed_(seed), order_(Order::random), nonfinite_(NonFinite::error) {}

  [[nodiscard]] std::int64_t size() const noexcept { return size_; }

  /// What the words that read() returns must be anded with.
  [[nodiscard]] Key mask() const noexcept {
    return direct_ ? std::numeric_limits<Key>::max() : static_cast<Key>(-1);
  }

  /// The largest key that is no NaN. Only meaningful where NaN is an error.
  [[nodiscard]] Key limit() const noexcept;

  /// The keys of elements [first, first + n), n <= 4096: a pointer into the tensor itself, or
  /// `scratch`, filled. Where NaN is an error its keys are above limit().
  [[nodiscard]] const Key* read(std::int64_t first, std::int64_t n, Key* scratch) const noexcept;

 private:
  AnyView view_;
  std::int64_t size_ = 0;
  std::uint64_t seed_ = 0;
  Order order_;
  NonFinite nonfinite_;
  bool mixed_ = false;
  bool direct_ = false;
};

extern template class Keys<std::int16_t>;
extern template class Keys<std::int32_t>;
extern template class Keys<std::int64_t>;

/// Row-major position of the first NaN, or -1. Any dtype.
[[nodiscard]] std::int64_t find_nan(const AnyView& view) noexcept;

/// Throws the NonFiniteError that names the first NaN of `view`, which has one.
[[noreturn]] void refuse_nan(const AnyView& view, const char* where, const std::string& argument);

}  // namespace moptcore::inline v0::prune

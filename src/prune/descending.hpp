// SPDX-License-Identifier: Apache-2.0
// The elements of a tensor in descending order of magnitude: a stable radix sort whose blocks
// depend on the size alone, so that any number of threads gives the same order.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include <moptcore/core/parallel.hpp>
#include <moptcore/core/pool.hpp>
#include <moptcore/core/tensor_view.hpp>

#include "kernels/float_mode.hpp"
#include "kernels/strided.hpp"

namespace moptcore::inline v0::prune {

/// Float is float, or double for float64 tensors; Index an unsigned integer that counts them.
template <class Float, class Index>
class Descending {
 public:
  explicit Descending(const AnyView& view)
      : size_(view.size()), grain_(std::max<std::int64_t>(std::int64_t{1} << 16, size_ / 256)) {
    const auto bytes = static_cast<std::int64_t>(sizeof(Item)) * std::max<std::int64_t>(size_, 1);
    buffer_ = pool_allocate(bytes);
    PoolBuffer other = pool_allocate(bytes);
    fill(view);
    for (int shift = 0; shift < kBits; shift += kRadix) {
      if (sort_by(shift, static_cast<Item*>(other.get()))) std::swap(buffer_, other);
    }
  }

  /// Elements that are not NaN; NaN come after them.
  [[nodiscard]] std::int64_t numbers() const noexcept { return size_ - nan_; }

  [[nodiscard]] double magnitude(std::int64_t rank) const noexcept {
    return static_cast<double>(std::bit_cast<Float>(kInfinity - items()[rank].key));
  }

  /// Row-major position in the tensor.
  [[nodiscard]] std::int64_t index(std::int64_t rank) const noexcept {
    return static_cast<std::int64_t>(items()[rank].index);
  }

 private:
  using Word = std::conditional_t<sizeof(Float) == 4, std::uint32_t, std::uint64_t>;
  struct Item {
    Word key;  // infinity comes first, and after zero NaN
    Index index;
  };
  static constexpr Word kInfinity =
      sizeof(Float) == 4 ? static_cast<Word>(0x7f800000u) : static_cast<Word>(0x7ff0000000000000u);
  static constexpr int kBits = 8 * static_cast<int>(sizeof(Float)) - 1;
  static constexpr int kRadix = 11;
  static constexpr std::size_t kDigits = std::size_t{1} << kRadix;

  [[nodiscard]] Item* items() const noexcept { return static_cast<Item*>(buffer_.get()); }

  void fill(const AnyView& view) {
    std::vector<std::int64_t> nans(static_cast<std::size_t>(block_count(size_, grain_)));
    parallel_blocks(size_, grain_, [&](std::int64_t block, std::int64_t begin, std::int64_t end) {
      const kernels::FloatMode float_mode;
      std::array<Float, kernels::kScratch> scratch;
      std::int64_t nan = 0;
      for (std::int64_t first = begin; first < end; first += kernels::kScratch) {
        const std::int64_t n = std::min(kernels::kScratch, end - first);
        const Float* src = kernels::block(view, first, n, scratch.data());
        for (std::int64_t i = 0; i < n; ++i) {
          const Word magnitude = std::bit_cast<Word>(src[i]) & static_cast<Word>(~Word{0} >> 1);
          const bool number = magnitude <= kInfinity;
          nan += number ? 0 : 1;
          std::construct_at(
              items() + first + i,
              Item{number ? kInfinity - magnitude : kInfinity + 1, static_cast<Index>(first + i)});
        }
      }
      nans[static_cast<std::size_t>(block)] = nan;
    });
    for (const std::int64_t nan : nans) nan_ += nan;
  }

  // Moves all items to `to`, ordered by one digit, unless they share it.
  bool sort_by(int shift, Item* to) {
    const auto digit = [shift](const Item& item) {
      return static_cast<std::size_t>(item.key >> shift) & (kDigits - 1);
    };
    using Counts = std::array<std::int64_t, kDigits>;
    std::vector<Counts> places(static_cast<std::size_t>(block_count(size_, grain_)));
    const Item* from = items();
    parallel_blocks(size_, grain_, [&](std::int64_t block, std::int64_t first, std::int64_t last) {
      Counts& counts = places[static_cast<std::size_t>(block)];
      for (std::int64_t i = first; i < last; ++i) ++counts[digit(from[i])];
    });
    std::int64_t place = 0;
    for (std::size_t d = 0; d < kDigits; ++d) {
      const std::int64_t before = place;
      for (Counts& counts : places) place += std::exchange(counts[d], place);
      if (place - before == size_) return false;
    }
    parallel_blocks(size_, grain_, [&](std::int64_t block, std::int64_t first, std::int64_t last) {
      Counts& next = places[static_cast<std::size_t>(block)];
      for (std::int64_t i = first; i < last; ++i) {
        std::construct_at(to + next[digit(from[i])]++, from[i]);
      }
    });
    return true;
  }

  std::int64_t size_;
  std::int64_t grain_;
  std::int64_t nan_ = 0;
  PoolBuffer buffer_;
};

}  // namespace moptcore::inline v0::prune

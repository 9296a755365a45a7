// SPDX-License-Identifier: Apache-2.0
// Exact selection in O(n): which elements of one or more tensors are the lowest.
//
// A sample brackets the wanted key between two others. One pass over memory counts what lies above
// the lower one, marks what is not below the upper one and collects the few keys between them,
// among which the wanted one is then found by radix; fixing the marks of those few needs no second
// pass. A bracket that missed costs another pass. Results do not depend on the sample, only the
// time does.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include <moptcore/core/pool.hpp>
#include <moptcore/core/tensor_view.hpp>

#include "prune/keys.hpp"

namespace moptcore::inline v0::prune {

template <class Key>
class Selection {
 public:
  explicit Selection(std::vector<Keys<Key>> tensors);

  /// Ranks all elements for prune_lowest() or keep_highest(); the first tensor with a NaN where
  /// that is an error, if any. Call it first, and nothing else after a NaN.
  [[nodiscard]] std::optional<std::size_t> rank(std::int64_t position);

  /// Prunes `zeros` elements, after rank(zeros - 1); zeros = 0 after rank(0) prunes none.
  /// Of elements with equal keys, earlier ones are kept.
  void prune_lowest(std::int64_t zeros);

  /// Keeps every element whose key is at least that of the ranked position.
  void keep_from_rank();

  /// Writes the mask of tensor number `index`. After one of the two functions above.
  void store(std::size_t index, const MutableAnyView& mask) const;

 private:
  struct Block {
    std::size_t tensor = 0;
    std::int64_t first = 0;
    std::int64_t size = 0;
    std::uint8_t* bits = nullptr;
    std::int64_t above = 0;   // keys above low_
    std::int64_t at_low = 0;  // keys equal to low_, where counted
    std::int64_t equal = 0;   // keys equal to the one found
    std::int64_t kept = 0;    // of those, how many stay
    bool nan = false;
    std::vector<Key> inside;
    std::vector<std::uint16_t> positions;
  };

  void bracket(std::int64_t position);
  void pass();
  void settle(std::int64_t position, std::int64_t above);
  void read_block(Block& block) const;
  void resolve(Block& block) const;
  void finish();

  std::vector<Keys<Key>> tensors_;
  std::vector<Block> blocks_;
  std::vector<std::size_t> first_block_;
  PoolBuffer bits_;
  std::int64_t size_ = 0;
  Key low_ = 0;
  Key high_ = 0;
  Key found_ = 0;
  std::int64_t below_ = 0;  // keys below found_
  std::int64_t equal_ = 0;
  // Blocks mark the keys from high_ on and list those inside; what is found is one of the latter,
  // or low_, or neither, and then the blocks are read again.
  bool found_inside_ = false;
  bool found_at_low_ = false;
  bool count_low_ = true;
};

extern template class Selection<std::int16_t>;
extern template class Selection<std::int32_t>;
extern template class Selection<std::int64_t>;

/// Key number k, counted from 0 in ascending order, of all that `parts` hold.
template <class Key>
[[nodiscard]] Key kth_key(std::span<const std::span<const Key>> parts, std::int64_t k);

extern template std::int16_t kth_key(std::span<const std::span<const std::int16_t>>, std::int64_t);
extern template std::int32_t kth_key(std::span<const std::span<const std::int32_t>>, std::int64_t);
extern template std::int64_t kth_key(std::span<const std::span<const std::int64_t>>, std::int64_t);

/// The same of `keys`, which may be reordered.
template <class Key>
[[nodiscard]] Key kth_key(std::vector<Key>& keys, std::int64_t k);

extern template std::int16_t kth_key(std::vector<std::int16_t>&, std::int64_t);
extern template std::int32_t kth_key(std::vector<std::int32_t>&, std::int64_t);
extern template std::int64_t kth_key(std::vector<std::int64_t>&, std::int64_t);

}  // namespace moptcore::inline v0::prune

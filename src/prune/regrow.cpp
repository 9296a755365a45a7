// SPDX-License-Identifier: Apache-2.0
#include <moptcore/prune/regrow.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <limits>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include <moptcore/core/parallel.hpp>

#include "kernels/float_mode.hpp"
#include "kernels/mask_bits.hpp"
#include "kernels/strided.hpp"
#include "prune/mask_store.hpp"
#include "prune/selection.hpp"

namespace moptcore::inline v0::prune {
namespace {

constexpr std::int64_t kChunk = kernels::kScratch;

void check_tensor(const AnyView& tensor, const char* where, const char* argument) {
  check<DTypeError>(is_floating(tensor.dtype()), where,
                    std::string(argument) + " must be float64, float32, float16 or bfloat16",
                    name(tensor.dtype()));
}

// The magnitudes of the elements whose byte is `chosen`, block by block: blocks depend on the size
// alone, and ties are shared out in their order.
template <class Key>
class Chosen {
 public:
  Chosen(const AnyView& view, NonFinite nonfinite, std::uint8_t* bytes, std::uint8_t chosen,
         const char* where, const char* argument)
      : keys_(view, Order::magnitude, nonfinite), bytes_(bytes), chosen_(chosen) {
    blocks_.resize(static_cast<std::size_t>(block_count(keys_.size(), kMaskGrain)));
    visit([this](Block& block, std::int64_t first, std::int64_t n, const Key* keys) {
      std::array<Key, kChunk> found;
      std::size_t count = 0;
      Key largest = std::numeric_limits<Key>::min();
      for (std::int64_t i = 0; i < n; ++i) {
        const Key key = static_cast<Key>(keys[i] & keys_.mask());
        const bool counts = bytes_[first + i] == chosen_;
        found[count] = key;
        count += counts ? 1 : 0;
        largest = std::max(largest, counts ? key : largest);
      }
      block.keys.insert(block.keys.end(), found.begin(),
                        found.begin() + static_cast<std::ptrdiff_t>(count));
      for (std::int64_t i = 0; largest > keys_.limit() && block.nan < 0; ++i) {
        const Key key = static_cast<Key>(keys[i] & keys_.mask());
        if (bytes_[first + i] == chosen_ && key > keys_.limit()) block.nan = first + i;
      }
    });
    for (const Block& block : blocks_) {
      if (block.nan >= 0) refuse(block.nan, where, argument);
      size_ += static_cast<std::int64_t>(block.keys.size());
    }
  }

  [[nodiscard]] std::int64_t size() const noexcept { return size_; }

  // Key number k in ascending order.
  [[nodiscard]] Key find(std::int64_t k) const {
    std::vector<std::span<const Key>> parts;
    for (const Block& block : blocks_) parts.emplace_back(block.keys);
    return kth_key<Key>(parts, k);
  }

  // Flips the bytes of `count` elements: those on the side of `threshold` that is given, and of
  // the ones at it the first, or the last.
  void flip(std::int64_t count, Key threshold, bool above, bool last_ties) {
    const auto beyond = [=](Key key) { return above ? key > threshold : key < threshold; };
    std::int64_t ties = count;
    std::int64_t all_ties = 0;
    for (Block& block : blocks_) {
      ties -= std::ranges::count_if(block.keys, beyond);
      block.ties = std::ranges::count(block.keys, threshold);
      all_ties += block.ties;
    }
    // Of all ties, numbers [first, last) flip.
    const std::int64_t first = last_ties ? all_ties - ties : 0;
    const std::int64_t last = first + ties;
    std::int64_t number = 0;
    for (Block& block : blocks_) {
      const std::int64_t before = number;
      number += block.ties;
      block.first_tie = std::clamp(first - before, std::int64_t{0}, block.ties);
      block.last_tie = std::clamp(last - before, std::int64_t{0}, block.ties);
      block.ties = 0;
    }
    visit([&](Block& block, std::int64_t first_index, std::int64_t n, const Key* keys) {
      std::uint8_t* bytes = bytes_ + first_index;
      for (std::int64_t i = 0; i < n; ++i) {
        const Key key = static_cast<Key>(keys[i] & keys_.mask());
        const bool met = (bytes[i] == chosen_) & (key == threshold);
        const bool flips = (bytes[i] == chosen_) & beyond(key);
        bytes[i] = static_cast<std::uint8_t>(bytes[i] ^ (flips ? 1 : 0));
        if (met) [[unlikely]] {
          if (block.ties >= block.first_tie && block.ties < block.last_tie) bytes[i] ^= 1;
          ++block.ties;
        }
      }
    });
  }

 private:
  struct Block {
    std::vector<Key> keys;
    std::int64_t nan = -1;  // flat index of the first NaN where that is an error
    std::int64_t ties = 0;
    std::int64_t first_tie = 0;
    std::int64_t last_tie = 0;
  };

  template <class F>
  void visit(F&& f) {
    parallel_blocks(keys_.size(), kMaskGrain,
                    [&](std::int64_t number, std::int64_t begin, std::int64_t end) {
                      const kernels::FloatMode float_mode;
                      Block& block = blocks_[static_cast<std::size_t>(number)];
                      std::array<Key, kChunk> scratch;
                      for (std::int64_t first = begin; first < end; first += kChunk) {
                        const std::int64_t n = std::min(kChunk, end - first);
                        f(block, first, n, keys_.read(first, n, scratch.data()));
                      }
                    });
  }

  [[noreturn]] static void refuse(std::int64_t nan, const char* where, const char* argument) {
    throw NonFiniteError(error_text(
        where,
        std::string(argument) + " must not contain NaN unless nonfinite is prune_first or keep",
        "NaN at flat index " + std::to_string(nan)));
  }

  Keys<Key> keys_;
  std::uint8_t* bytes_;
  std::uint8_t chosen_;
  std::vector<Block> blocks_;
  std::int64_t size_ = 0;
};

// Calls f with the key type of a floating dtype.
template <class F>
void visit_keys(DType dtype, F&& f) {
  switch (key_width(dtype)) {
    case 64: return f.template operator()<std::int64_t>();
    case 32: return f.template operator()<std::int32_t>();
    default: return f.template operator()<std::int16_t>();
  }
}

}  // namespace

void regrow(const AnyView& mask, const AnyView& weights, const AnyView& grad, double fraction,
            const MutableAnyView& out, const RegrowOptions& options) {
  constexpr auto where = "prune.regrow";
  check_tensor(weights, where, "weights");
  check_tensor(grad, where, "grad");
  std::ostringstream rule;
  rule << "grad must have the shape of weights, " << weights.shape();
  check(grad.shape() == weights.shape(), where, rule.str(), grad.shape());
  check_mask(mask, weights.shape(), where, "mask");
  check(fraction >= 0.0 && fraction <= 1.0, where, "fraction must be in [0, 1]", fraction);
  check_mask(out, weights.shape(), where, "out");
  check_no_partial_overlap(mask, out, where, "out");
  check_no_partial_overlap(weights, out, where, "out");
  check_no_partial_overlap(grad, out, where, "out");
  const std::int64_t size = weights.size();
  if (size == 0) return;
  const kernels::FloatMode float_mode;
  ByteMask bytes(size);
  std::uint8_t* active = bytes.data();
  parallel_for(size, kMaskGrain, [&](std::int64_t begin, std::int64_t end) {
    std::array<std::uint8_t, kChunk / 8> scratch;
    for (std::int64_t first = begin; first < end; first += kChunk) {
      const std::int64_t n = std::min(kChunk, end - first);
      kernels::unpack_bits(load_bits(mask, first, n, scratch.data()), n, active + first, false);
    }
  });
  std::int64_t count = 0;
  visit_keys(weights.dtype(), [&]<class Key>() {
    Chosen<Key> kept(weights, options.nonfinite, active, 1, where, "weights");
    count = zero_count(kept.size(), fraction);
    // Of equal weights the first stay.
    if (count > 0) kept.flip(count, kept.find(count - 1), false, true);
  });
  if (count > 0) {
    visit_keys(grad.dtype(), [&]<class Key>() {
      Chosen<Key> idle(grad, options.nonfinite, active, 0, where, "grad");
      idle.flip(count, idle.find(idle.size() - count), true, false);
    });
  }
  bytes.commit(out);
}

}  // namespace moptcore::inline v0::prune

// SPDX-License-Identifier: Apache-2.0
#include "prune/selection.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include <moptcore/core/parallel.hpp>
#include <moptcore/core/random.hpp>

#include "kernels/float_mode.hpp"
#include "kernels/select.hpp"
#include "kernels/strided.hpp"
#include "prune/mask_store.hpp"

namespace moptcore::inline v0::prune {
namespace {

constexpr std::int64_t kChunk = kernels::kScratch;

// Up to here everything is collected: a sample would cost more than it saves.
constexpr std::int64_t kSampleFrom = 16384;

static_assert(kMaskGrain <= 65536, "positions in a block fit 16 bits");
static_assert(kChunk <= kernels::kBracketKeys);

void set_all(std::uint8_t* bits, std::int64_t n) {
  std::memset(bits, 0xff, static_cast<std::size_t>(packed_size(n)));
  if (n % 8 != 0) bits[n / 8] = static_cast<std::uint8_t>((1u << (n % 8)) - 1u);
}

}  // namespace

template <class Key>
Key kth_key(std::vector<Key>& keys, std::int64_t k) {
  using Unsigned = std::make_unsigned_t<Key>;
  constexpr int kRadix = 11;
  std::array<std::int64_t, 1 << kRadix> counts;
  // Each round leaves the keys of one of 2048 intervals of equal length, so there are at most
  // six rounds for 64 bits.
  while (keys.size() > 64) {
    const auto [least, greatest] = std::minmax_element(keys.begin(), keys.end());
    const Key origin = *least;
    const auto range =
        static_cast<Unsigned>(static_cast<Unsigned>(*greatest) - static_cast<Unsigned>(origin));
    if (range == 0) return origin;
    const int shift = std::max(0, static_cast<int>(std::bit_width(range)) - kRadix);
    const auto digit = [origin, shift](Key key) {
      const auto offset =
          static_cast<Unsigned>(static_cast<Unsigned>(key) - static_cast<Unsigned>(origin));
      return static_cast<std::size_t>(offset >> shift);
    };
    counts.fill(0);
    for (const Key key : keys) ++counts[digit(key)];
    std::size_t chosen = 0;
    for (; k >= counts[chosen]; ++chosen) k -= counts[chosen];
    std::erase_if(keys, [&](Key key) { return digit(key) != chosen; });
  }
  const auto place = keys.begin() + k;
  std::nth_element(keys.begin(), place, keys.end());
  return *place;
}

template std::int16_t kth_key(std::vector<std::int16_t>&, std::int64_t);
template std::int32_t kth_key(std::vector<std::int32_t>&, std::int64_t);
template std::int64_t kth_key(std::vector<std::int64_t>&, std::int64_t);

template <class Key>
Selection<Key>::Selection(std::vector<Keys<Key>> tensors) : tensors_(std::move(tensors)) {
  // Each block starts a cache line of its own.
  const auto room = [](std::int64_t size) { return (packed_size(size) + 63) / 64 * 64; };
  std::int64_t bytes = 0;
  for (std::size_t t = 0; t < tensors_.size(); ++t) {
    first_block_.push_back(blocks_.size());
    const std::int64_t size = tensors_[t].size();
    for (std::int64_t first = 0; first < size; first += kMaskGrain) {
      Block block;
      block.tensor = t;
      block.first = first;
      block.size = std::min(kMaskGrain, size - first);
      bytes += room(block.size);
      blocks_.push_back(std::move(block));
    }
    size_ += size;
  }
  first_block_.push_back(blocks_.size());
  bits_ = pool_allocate(std::max<std::int64_t>(bytes, 64));
  auto* bits = static_cast<std::uint8_t*>(bits_.get());
  for (Block& block : blocks_) {
    block.bits = bits;
    bits += room(block.size);
  }
}

template <class Key>
void Selection<Key>::bracket(std::int64_t position) {
  low_ = std::numeric_limits<Key>::min();
  high_ = std::numeric_limits<Key>::max();
  if (size_ <= kSampleFrom) return;
  const kernels::FloatMode float_mode;
  const double root = std::cbrt(static_cast<double>(size_));
  // A larger sample costs more itself and leaves fewer keys inside; this balances the two.
  const auto wanted =
      std::clamp(static_cast<std::int64_t>(root * root), std::int64_t{2048}, std::int64_t{65536});
  // One element from each stretch of equal length, at a place that no pattern in the data meets.
  const std::int64_t stretch = std::min(size_ / wanted, std::int64_t{1} << 31);
  const Philox philox(0x6d6f7074636f7265u);
  std::vector<Key> sample;
  sample.reserve(static_cast<std::size_t>(wanted));
  std::size_t t = 0;
  std::int64_t start = 0;
  Philox::Block words{};
  for (std::int64_t i = 0; i < wanted; ++i) {
    if (i % 4 == 0) words = philox(static_cast<std::uint64_t>(i / 4));
    // The upper bits of a product instead of a remainder; a stretch has at most 2^31.
    const auto jump = static_cast<std::int64_t>(
        (words[static_cast<std::size_t>(i % 4)] * static_cast<std::uint64_t>(stretch)) >> 32);
    const std::int64_t at = i * stretch + jump;
    while (at - start >= tensors_[t].size()) start += tensors_[t++].size();
    Key scratch = 0;
    const Key* word = tensors_[t].read(at - start, 1, &scratch);
    sample.push_back(static_cast<Key>(*word & tensors_[t].mask()));
  }
  // The rank of the wanted key in the sample has this standard deviation; 4.5 of them miss once
  // in 100,000 times.
  const double share = static_cast<double>(position) / static_cast<double>(size_);
  const double middle = share * static_cast<double>(wanted);
  const double reach = 4.5 * std::sqrt(middle * (1.0 - share)) + 2.0;
  const auto place = [wanted](double at) {
    return std::clamp(static_cast<std::int64_t>(at), std::int64_t{0}, wanted - 1);
  };
  const auto first = sample.begin() + place(middle - reach);
  const auto last = sample.begin() + place(middle + reach);
  std::nth_element(sample.begin(), first, sample.end());
  low_ = *first;
  std::nth_element(first, last, sample.end());
  high_ = *last;
  if (low_ == std::numeric_limits<Key>::max()) --low_;
  if (high_ <= low_) high_ = static_cast<Key>(low_ + 1);
}

template <class Key>
void Selection<Key>::read_block(Block& block) const {
  const Keys<Key>& tensor = tensors_[block.tensor];
  const Key mask = tensor.mask();
  const Key limit = tensor.limit();
  const kernels::FloatMode float_mode;
  std::array<Key, kChunk> scratch;
  std::array<Key, kChunk> inside;
  std::array<Key, kChunk> positions;
  block.below = 0;
  block.at_low = 0;
  block.nan = false;
  block.inside.clear();
  block.positions.clear();
  for (std::int64_t at = 0; at < block.size; at += kChunk) {
    const std::int64_t n = std::min(kChunk, block.size - at);
    const Key* src = tensor.read(block.first + at, n, scratch.data());
    const auto counts = kernels::bracket(src, n, mask, low_, high_, block.bits + at / 8,
                                         inside.data(), positions.data());
    block.below += counts.below;
    block.at_low += counts.at_low;
    block.nan = block.nan || counts.largest > limit;
    block.inside.insert(block.inside.end(), inside.begin(), inside.begin() + counts.inside);
    for (std::int64_t i = 0; i < counts.inside; ++i) {
      block.positions.push_back(
          static_cast<std::uint16_t>(at + static_cast<std::int64_t>(positions[i])));
    }
  }
}

template <class Key>
void Selection<Key>::pass() {
  parallel_for(static_cast<std::int64_t>(blocks_.size()), 1,
               [this](std::int64_t first, std::int64_t) {
                 read_block(blocks_[static_cast<std::size_t>(first)]);
               });
}

template <class Key>
std::optional<std::size_t> Selection<Key>::rank(std::int64_t position) {
  if (size_ == 0) return std::nullopt;
  constexpr Key kLargest = std::numeric_limits<Key>::max();
  bracket(position);
  for (;;) {
    pass();
    std::int64_t below = 0;
    std::int64_t at_low = 0;
    std::int64_t inside = 0;
    for (const Block& block : blocks_) {
      if (block.nan) return block.tensor;
      below += block.below;
      at_low += block.at_low;
      inside += static_cast<std::int64_t>(block.inside.size());
    }
    if (position < below) {
      high_ = low_;
      low_ = std::numeric_limits<Key>::min();
      continue;
    }
    if (position < below + at_low) {
      found_ = low_;
      below_ = below;
      equal_ = at_low;
      for (Block& block : blocks_) block.equal = block.at_low;
      return std::nullopt;
    }
    if (position < below + at_low + inside) {
      std::vector<Key> keys;
      keys.reserve(static_cast<std::size_t>(inside));
      for (const Block& block : blocks_) {
        keys.insert(keys.end(), block.inside.begin(), block.inside.end());
      }
      found_ = kth_key(keys, position - below - at_low);
      found_inside_ = true;
      below_ = below + at_low;
      equal_ = 0;
      for (Block& block : blocks_) {
        block.equal = std::ranges::count(block.inside, found_);
        equal_ += block.equal;
        below_ += std::ranges::count_if(block.inside, [this](Key key) { return key < found_; });
      }
      return std::nullopt;
    }
    if (high_ == kLargest) {
      found_ = kLargest;
      below_ = below + at_low + inside;
      equal_ = size_ - below_;
      for (Block& block : blocks_) {
        block.equal = block.size - block.below - block.at_low -
                      static_cast<std::int64_t>(block.inside.size());
      }
      return std::nullopt;
    }
    // Many keys may equal the upper end: look at it alone before collecting what is above.
    const bool narrow = low_ + 1 == high_;
    low_ = high_;
    high_ = narrow ? kLargest : static_cast<Key>(low_ + 1);
  }
}

template <class Key>
void Selection<Key>::prune_lowest(std::int64_t zeros) {
  if (zeros == 0) {
    for (Block& block : blocks_) {
      set_all(block.bits, block.size);
    }
    return;
  }
  std::int64_t kept = below_ + equal_ - zeros;
  for (Block& block : blocks_) {
    block.kept = std::min(kept, block.equal);
    kept -= block.kept;
  }
  finish();
}

template <class Key>
void Selection<Key>::keep_from_rank() {
  for (Block& block : blocks_) block.kept = block.equal;
  finish();
}

template <class Key>
void Selection<Key>::finish() {
  parallel_for(static_cast<std::int64_t>(blocks_.size()), 1,
               [this](std::int64_t first, std::int64_t) {
                 resolve(blocks_[static_cast<std::size_t>(first)]);
               });
}

template <class Key>
void Selection<Key>::resolve(Block& block) const {
  std::int64_t kept = block.kept;
  if (found_inside_) {
    for (std::size_t i = 0; i < block.inside.size(); ++i) {
      // Half of these keys stay, in no order that a branch could follow; ties are rare.
      bool stays = block.inside[i] > found_;
      if (block.inside[i] == found_) [[unlikely]]
        stays = kept-- > 0;
      const unsigned at = block.positions[i];
      block.bits[at / 8] =
          static_cast<std::uint8_t>(block.bits[at / 8] | (unsigned{stays} << (at % 8)));
    }
    return;
  }
  const Keys<Key>& tensor = tensors_[block.tensor];
  const Key mask = tensor.mask();
  const kernels::FloatMode float_mode;
  std::array<Key, kChunk> scratch;
  for (std::int64_t at = 0; at < block.size; at += kChunk) {
    const std::int64_t n = std::min(kChunk, block.size - at);
    const Key* src = tensor.read(block.first + at, n, scratch.data());
    std::uint8_t* bits = block.bits + at / 8;
    if (block.kept == block.equal && block.equal != 0) {
      if (found_ == std::numeric_limits<Key>::min()) set_all(bits, n);
      else kernels::above(src, n, mask, static_cast<Key>(found_ - 1), bits);
      continue;
    }
    kernels::above(src, n, mask, found_, bits);
    for (std::int64_t i = 0; i < n && kept > 0; ++i) {
      if (static_cast<Key>(src[i] & mask) == found_) {
        bits[i / 8] = static_cast<std::uint8_t>(bits[i / 8] | (1u << (i % 8)));
        --kept;
      }
    }
  }
}

template <class Key>
void Selection<Key>::store(std::size_t index, const MutableAnyView& mask) const {
  const auto first = static_cast<std::int64_t>(first_block_[index]);
  const auto last = static_cast<std::int64_t>(first_block_[index + 1]);
  parallel_for(last - first, 1, [&](std::int64_t at, std::int64_t) {
    const Block& block = blocks_[static_cast<std::size_t>(first + at)];
    store_bits(block.bits, block.first, block.size, mask);
  });
}

template class Selection<std::int16_t>;
template class Selection<std::int32_t>;
template class Selection<std::int64_t>;

}  // namespace moptcore::inline v0::prune

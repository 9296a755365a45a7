// SPDX-License-Identifier: Apache-2.0
#include "prune/selection.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>
#include <type_traits>

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

// Up to here sorting is faster than counting.
constexpr std::size_t kFewKeys = 256;

// How many keys lie in each of 2048 intervals of equal length from the least key on.
template <class Key>
class Histogram {
 public:
  /// All keys are in [least, greatest].
  Histogram(std::span<const std::span<const Key>> parts, Key least, Key greatest)
      : parts_(parts), least_(least) {
    shift_ = std::max(0, static_cast<int>(std::bit_width(offset(greatest))) - kRadix);
    for (const auto part : parts_) {
      for (const Key key : part) ++counts_[interval(key)];
    }
  }

  /// Key number k, counted from 0 in ascending order.
  [[nodiscard]] Key find(std::int64_t k) const {
    std::size_t chosen = 0;
    for (; k >= counts_[chosen]; ++chosen) k -= counts_[chosen];
    if (shift_ == 0) return static_cast<Key>(static_cast<Unsigned>(least_) + chosen);
    std::vector<Key> left(static_cast<std::size_t>(counts_[chosen]) + 1);
    std::size_t size = 0;
    for (const auto part : parts_) {
      for (const Key key : part) {
        left[size] = key;
        size += interval(key) == chosen ? 1 : 0;
      }
    }
    left.resize(size);
    return kth_key(left, k);
  }

 private:
  using Unsigned = std::make_unsigned_t<Key>;
  static constexpr int kRadix = 11;

  [[nodiscard]] Unsigned offset(Key key) const {
    return static_cast<Unsigned>(static_cast<Unsigned>(key) - static_cast<Unsigned>(least_));
  }
  [[nodiscard]] std::size_t interval(Key key) const {
    return static_cast<std::size_t>(offset(key) >> shift_);
  }

  std::span<const std::span<const Key>> parts_;
  Key least_;
  int shift_ = 0;
  std::array<std::int64_t, 1 << kRadix> counts_{};
};

template <class Key>
std::pair<Key, Key> range_of(std::span<const std::span<const Key>> parts) {
  Key least = std::numeric_limits<Key>::max();
  Key greatest = std::numeric_limits<Key>::min();
  for (const auto part : parts) {
    for (const Key key : part) {
      least = std::min(least, key);
      greatest = std::max(greatest, key);
    }
  }
  return {least, greatest};
}

}  // namespace

template <class Key>
Key kth_key(std::vector<Key>& keys, std::int64_t k) {
  if (keys.size() > kFewKeys) {
    const std::array<std::span<const Key>, 1> parts{keys};
    return kth_key<Key>(parts, k);
  }
  const auto place = keys.begin() + k;
  std::nth_element(keys.begin(), place, keys.end());
  return *place;
}

template <class Key>
Key kth_key(std::span<const std::span<const Key>> parts, std::int64_t k) {
  // Each round leaves the keys of one interval, so there are at most six for 64 bits.
  const auto [least, greatest] = range_of(parts);
  return Histogram<Key>(parts, least, greatest).find(k);
}

template std::int16_t kth_key(std::span<const std::span<const std::int16_t>>, std::int64_t);
template std::int32_t kth_key(std::span<const std::span<const std::int32_t>>, std::int64_t);
template std::int64_t kth_key(std::span<const std::span<const std::int64_t>>, std::int64_t);

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
      std::clamp(static_cast<std::int64_t>(root * root), std::int64_t{4096}, std::int64_t{131072});
  // Neighbours share a cache line, which is what a place costs. One place from each stretch of
  // equal length, where no pattern in the data meets it.
  constexpr std::int64_t kNeighbours = 4;
  constexpr std::int64_t kBatch = 64;
  const std::int64_t places = wanted / kNeighbours;
  const std::int64_t stretch = std::min(size_ / places, std::int64_t{1} << 31);
  const Philox philox(0x6d6f7074636f7265u);
  std::vector<Key> sample(static_cast<std::size_t>(wanted));
  std::size_t taken = 0;
  std::size_t t = 0;
  std::int64_t start = 0;
  Philox::Block words{};
  std::array<Key, kBatch * kNeighbours> scratch;
  struct Place {
    const Key* keys;
    std::int64_t count;
    Key mask;
  };
  std::array<Place, kBatch> batch;
  for (std::int64_t first = 0; first < places; first += kBatch) {
    const std::int64_t last = std::min(first + kBatch, places);
    for (std::int64_t i = first; i < last; ++i) {
      if (i % 4 == 0) words = philox(static_cast<std::uint64_t>(i / 4));
      // The upper bits of a product instead of a remainder; a stretch has at most 2^31.
      const auto jump = static_cast<std::int64_t>(
          (words[static_cast<std::size_t>(i % 4)] * static_cast<std::uint64_t>(stretch)) >> 32);
      const std::int64_t at = i * stretch + jump;
      while (at - start >= tensors_[t].size()) start += tensors_[t++].size();
      const std::int64_t count = std::min(kNeighbours, tensors_[t].size() - (at - start));
      Place& place = batch[static_cast<std::size_t>(i - first)];
      place = {tensors_[t].read(at - start, count, scratch.data() + (i - first) * kNeighbours),
               count, tensors_[t].mask()};
      __builtin_prefetch(place.keys);
    }
    for (std::int64_t i = first; i < last; ++i) {
      const Place& place = batch[static_cast<std::size_t>(i - first)];
      for (std::int64_t j = 0; j < place.count; ++j) {
        sample[taken++] = static_cast<Key>(place.keys[j] & place.mask);
      }
    }
  }
  sample.resize(taken);
  // The rank of the wanted key in a sample of independent keys has this standard deviation; 4 of
  // them miss once in 15,000 times, and leave room for neighbours that resemble each other.
  const auto size = static_cast<std::int64_t>(sample.size());
  const double share = static_cast<double>(position) / static_cast<double>(size_);
  const double middle = share * static_cast<double>(size);
  const double reach = 4.0 * std::sqrt(middle * (1.0 - share)) + 2.0;
  const std::array<std::span<const Key>, 1> parts{sample};
  const auto [least, greatest] = range_of<Key>(parts);
  const Histogram<Key> histogram(parts, least, greatest);
  const auto key_at = [&](double at) {
    const auto place = static_cast<std::int64_t>(at);
    return histogram.find(std::clamp(place, std::int64_t{0}, size - 1));
  };
  low_ = key_at(middle - reach);
  high_ = key_at(middle + reach);
  count_low_ = std::ranges::count(sample, low_) > 1;
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
  std::array<Key, kChunk> keys;
  std::array<std::uint16_t, kChunk + kernels::kBracketSlack> positions;
  block.above = 0;
  block.at_low = 0;
  block.nan = false;
  block.inside.clear();
  block.positions.clear();
  for (std::int64_t at = 0; at < block.size; at += kChunk) {
    const std::int64_t n = std::min(kChunk, block.size - at);
    const Key* src = tensor.read(block.first + at, n, scratch.data());
    const auto counts = kernels::bracket(src, n, mask, low_, high_, count_low_, block.bits + at / 8,
                                         positions.data());
    block.above += counts.above;
    block.at_low += counts.at_low;
    block.nan = block.nan || counts.largest > limit;
    const auto inside = static_cast<std::size_t>(counts.inside);
    for (std::size_t i = 0; i < inside; ++i) {
      keys[i] = static_cast<Key>(src[positions[i]] & mask);
      positions[i] = static_cast<std::uint16_t>(at + static_cast<std::int64_t>(positions[i]));
    }
    block.inside.insert(block.inside.end(), keys.begin(), keys.begin() + counts.inside);
    block.positions.insert(block.positions.end(), positions.begin(),
                           positions.begin() + counts.inside);
  }
}

template <class Key>
void Selection<Key>::pass() {
  parallel_for(static_cast<std::int64_t>(blocks_.size()), 1,
               [this](std::int64_t first, std::int64_t) {
                 read_block(blocks_[static_cast<std::size_t>(first)]);
               });
}

// The wanted key is inside: `above` keys are above low_.
template <class Key>
void Selection<Key>::settle(std::int64_t position, std::int64_t above) {
  below_ = size_ - above;
  if (size_ <= static_cast<std::int64_t>(kFewKeys)) {
    std::vector<Key> keys;
    for (const Block& block : blocks_) {
      keys.insert(keys.end(), block.inside.begin(), block.inside.end());
    }
    found_ = kth_key(keys, position - below_);
  } else {
    std::vector<std::span<const Key>> parts;
    parts.reserve(blocks_.size());
    for (const Block& block : blocks_) parts.emplace_back(block.inside);
    found_ = Histogram<Key>(parts, static_cast<Key>(low_ + 1), static_cast<Key>(high_ - 1))
                 .find(position - below_);
  }
  found_inside_ = true;
  equal_ = 0;
  for (Block& block : blocks_) {
    block.equal = std::ranges::count(block.inside, found_);
    equal_ += block.equal;
    below_ += std::ranges::count_if(block.inside, [this](Key key) { return key < found_; });
  }
}

template <class Key>
std::optional<std::size_t> Selection<Key>::rank(std::int64_t position) {
  if (size_ == 0) return std::nullopt;
  constexpr Key kLargest = std::numeric_limits<Key>::max();
  bracket(position);
  for (;;) {
    pass();
    std::int64_t above = 0;
    std::int64_t at_low = 0;
    std::int64_t inside = 0;
    for (const Block& block : blocks_) {
      if (block.nan) return block.tensor;
      above += block.above;
      at_low += block.at_low;
      inside += static_cast<std::int64_t>(block.inside.size());
    }
    if (position < size_ - above) {
      if (!count_low_) {
        count_low_ = true;
        continue;
      }
      below_ = size_ - above - at_low;
      if (position >= below_) {
        found_ = low_;
        found_at_low_ = true;
        equal_ = at_low;
        for (Block& block : blocks_) block.equal = block.at_low;
        return std::nullopt;
      }
      high_ = low_;
      low_ = std::numeric_limits<Key>::min();
      continue;
    }
    if (position < size_ - above + inside) {
      settle(position, above);
      return std::nullopt;
    }
    if (high_ == kLargest) {
      found_ = kLargest;
      below_ = size_ - above + inside;
      equal_ = size_ - below_;
      for (Block& block : blocks_) {
        block.equal = block.above - static_cast<std::int64_t>(block.inside.size());
      }
      return std::nullopt;
    }
    // Many keys may equal the upper end: look at it alone before collecting what is above.
    const bool narrow = low_ + 1 == high_;
    count_low_ = true;
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
  // Bytes may alias anything, so what the loops read is held in locals.
  std::uint8_t* const marks = block.bits;
  const std::uint16_t* const positions = block.positions.data();
  const std::size_t inside = block.inside.size();
  const auto mark = [marks](unsigned at, bool stays) {
    marks[at / 8] = static_cast<std::uint8_t>(marks[at / 8] | (unsigned{stays} << (at % 8)));
  };
  if (found_inside_) {
    const Key* const keys = block.inside.data();
    const Key found = found_;
    for (std::size_t i = 0; i < inside; ++i) {
      // Half of these keys stay, in no order that a branch could follow; ties are rare.
      bool stays = keys[i] > found;
      if (keys[i] == found) [[unlikely]]
        stays = kept-- > 0;
      mark(positions[i], stays);
    }
    return;
  }
  if (found_at_low_ && kept == 0) {
    for (std::size_t i = 0; i < inside; ++i) mark(positions[i], true);
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

// SPDX-License-Identifier: Apache-2.0
#include "cluster/cells.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <numeric>

#include <moptcore/core/parallel.hpp>

#include "kernels/minmax.hpp"
#include "kernels/place.hpp"
#include "kernels/strided.hpp"

namespace moptcore::inline v0::cluster {
namespace {

constexpr std::int64_t kBlock = kernels::kScratch;
constexpr int kPlaceBits = 31;
constexpr int kInnerBits = kPlaceBits - Cells::kRootBits;
constexpr std::int64_t kRoot = std::int64_t{1} << Cells::kRootBits;
// A table entry adds up places and, from this bit on, counts them. Sums of places within a cell
// stay below the bit, and counts above it below 2^24, for so many values in one pass.
constexpr int kCountShift = 40;
constexpr std::int64_t kPass = std::int64_t{1} << 23;
// Leaves of all nodes that one pass counts.
constexpr std::int64_t kLeaves = 131072;

kernels::MinMax<float> min_max(const float* src, std::int64_t n) {
  return kernels::min_max_f32(src, n);
}
kernels::MinMax<double> min_max(const double* src, std::int64_t n) {
  return kernels::min_max_f64(src, n);
}

void place(const float* src, std::int64_t n, double low, double scale, std::uint32_t* dst) {
  kernels::place_f32(src, n, low, scale, dst);
}
void place(const double* src, std::int64_t n, double low, double scale, std::uint32_t* dst) {
  kernels::place_f64(src, n, low, scale, dst);
}

// Blocks whose number only n decides, so that sums do not depend on the threads.
std::int64_t grain_of(std::int64_t n) { return std::max((n + 15) / 16, 16 * kBlock); }

// The next values of a tensor, without its zeros where those are left out; counts them.
template <class T>
const T* next(const AnyView& tensor, std::int64_t first, std::int64_t& n, bool without_zeros,
              T* scratch) {
  const T* src = kernels::block(tensor, first, n, scratch);
  if (!without_zeros || std::find(src, src + n, T{0}) == src + n) return src;
  std::int64_t kept = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    scratch[kept] = src[i];
    kept += src[i] != T{0} ? 1 : 0;
  }
  n = kept;
  return scratch;
}

}  // namespace

Cells::Cells(const AnyView& tensor, std::int64_t first, std::int64_t n, bool without_zeros)
    : tensor_(tensor), first_(first), n_(n), without_zeros_(without_zeros) {
  const bool wide = tensor.dtype() == DType::float64;
  wide ? find_range<double>() : find_range<float>();
  if (!usable_) return;
  wide ? count_root<double>() : count_root<float>();
  root_children_.assign(kRoot, -1);
  collect();
}

template <class T>
void Cells::find_range() {
  const std::int64_t grain = grain_of(n_);
  std::vector<kernels::MinMax<T>> ranges(block_count(n_, grain));
  std::atomic<bool> zeros = false;
  parallel_blocks(n_, grain, [&](std::int64_t block, std::int64_t first, std::int64_t last) {
    std::array<T, kBlock> scratch;
    auto& range = ranges[block];
    for (; first < last; first += kBlock) {
      const std::int64_t all = std::min(kBlock, last - first);
      std::int64_t size = all;
      const T* src = next(tensor_, first_ + first, size, without_zeros_, scratch.data());
      if (size < all) zeros.store(true, std::memory_order_relaxed);
      const auto part = min_max(src, size);
      range.min = std::min(range.min, part.min);
      range.max = std::max(range.max, part.max);
      range.finite = range.finite && part.finite;
    }
  });
  kernels::MinMax<T> range;
  for (const auto& part : ranges) {
    range.min = std::min(range.min, part.min);
    range.max = std::max(range.max, part.max);
    range.finite = range.finite && part.finite;
  }
  has_zero_ = zeros;
  low_ = static_cast<double>(range.min);
  const auto high = static_cast<double>(range.max);
  step_ = (high - low_) * 0x1p-31;
  scale_ = 1.0 / step_;
  // Squares of the values neither overflow nor vanish.
  const double largest = std::max(std::abs(low_), std::abs(high));
  usable_ = range.finite && high > low_ && step_ > largest * 0x1p-70 && largest > 0x1p-200 &&
            largest < 0x1p+400;
}

template <class T>
void Cells::count_root() {
  const std::int64_t blocks = block_count(n_, grain_of(n_));
  root_counts_.assign(kRoot, 0);
  root_sums_.assign(kRoot, 0.0);
  std::vector<std::vector<std::uint64_t>> tables(blocks);
  for (std::int64_t pass = 0; pass < n_; pass += kPass) {
    const std::int64_t of_pass = std::min(kPass, n_ - pass);
    const std::int64_t part = std::max((of_pass + blocks - 1) / blocks, kBlock);
    parallel_blocks(of_pass, part, [&](std::int64_t block, std::int64_t first, std::int64_t last) {
      auto& table = tables[block];
      table.assign(kRoot, 0);
      std::uint64_t* entries = table.data();
      std::array<T, kBlock> scratch;
      std::array<std::uint32_t, kBlock> places;
      for (; first < last; first += kBlock) {
        std::int64_t size = std::min(kBlock, last - first);
        const T* src = next(tensor_, first_ + pass + first, size, without_zeros_, scratch.data());
        place(src, size, low_, scale_, places.data());
        for (std::int64_t i = 0; i < size; ++i) {
          const std::uint64_t at = places[i];
          entries[at >> kInnerBits] += (std::uint64_t{1} << kCountShift) + at;
        }
      }
    });
    for (const auto& table : tables) {
      for (std::size_t bin = 0; bin < table.size(); ++bin) {
        if (table[bin] == 0) continue;
        // Each value added the cell's start, which is known, and its place within.
        const std::uint64_t start = static_cast<std::uint64_t>(bin) << kInnerBits;
        const std::uint64_t each = (std::uint64_t{1} << kCountShift) + start;
        const std::uint64_t count = table[bin] / each;
        root_counts_[bin] += static_cast<std::int64_t>(count);
        root_sums_[bin] += static_cast<double>(table[bin] - count * each);
      }
    }
    for (auto& table : tables) table.clear();
  }
}

template <class T>
void Cells::count_nodes(std::int32_t first_node) {
  // Leaves of the new nodes, one behind the other.
  std::vector<std::int64_t> starts(nodes_.size() + 1, 0);
  for (std::size_t i = static_cast<std::size_t>(first_node); i < nodes_.size(); ++i) {
    starts[i + 1] = starts[i] + static_cast<std::int64_t>(nodes_[i].leaves.size());
  }
  const std::int64_t grain = grain_of(n_);
  std::vector<std::vector<Leaf>> tables(block_count(n_, grain));
  parallel_blocks(n_, grain, [&](std::int64_t block, std::int64_t first, std::int64_t last) {
    auto& table = tables[block];
    table.resize(starts.back());
    std::array<T, kBlock> scratch;
    std::array<std::uint32_t, kBlock> places;
    for (; first < last; first += kBlock) {
      std::int64_t size = std::min(kBlock, last - first);
      const T* src = next(tensor_, first_ + first, size, without_zeros_, scratch.data());
      place(src, size, low_, scale_, places.data());
      for (std::int64_t i = 0; i < size; ++i) {
        std::int32_t at = root_children_[places[i] >> kInnerBits];
        const auto value = static_cast<double>(src[i]);
        while (at >= 0) {
          const Node& node = nodes_[at];
          const double inner = (value - node.low) * node.scale;
          const auto top = static_cast<double>(node.children.size() - 1);
          const auto leaf = static_cast<std::int64_t>(std::clamp(inner, 0.0, top));
          if (at >= first_node) {
            Leaf& found = table[starts[at] + leaf];
            ++found.count;
            found.sum += value - node.low;
            found.min = std::min(found.min, value);
            found.max = std::max(found.max, value);
          }
          at = node.children[leaf];
        }
      }
    }
  });
  for (std::size_t i = static_cast<std::size_t>(first_node); i < nodes_.size(); ++i) {
    auto& leaves = nodes_[i].leaves;
    for (const auto& table : tables) {
      for (std::size_t leaf = 0; leaf < leaves.size(); ++leaf) {
        const Leaf& part = table[starts[i] + static_cast<std::int64_t>(leaf)];
        leaves[leaf].count += part.count;
        leaves[leaf].sum += part.sum;
        leaves[leaf].min = std::min(leaves[leaf].min, part.min);
        leaves[leaf].max = std::max(leaves[leaf].max, part.max);
      }
    }
  }
}

void Cells::collect() {
  cells_.clear();
  places_.clear();
  const double width = std::ldexp(step_, kInnerBits);
  for (std::int64_t bin = 0; bin < kRoot; ++bin) {
    const std::int64_t count = root_counts_[bin];
    if (count == 0) continue;
    if (root_children_[bin] >= 0) {
      collect(root_children_[bin]);
      continue;
    }
    const double low = low_ + width * static_cast<double>(bin);
    const double inner = root_sums_[bin] / static_cast<double>(count) + 0.5;
    // Values count as the middles of whole numbers; doubles round far below that.
    cells_.push_back({low, low + width, low + step_ * inner, count, step_});
    places_.push_back({-1, static_cast<std::int32_t>(bin)});
  }
}

void Cells::collect(std::int32_t at) {
  const Node& node = nodes_[at];
  for (std::size_t i = 0; i < node.leaves.size(); ++i) {
    const Leaf& leaf = node.leaves[i];
    if (leaf.count == 0) continue;
    if (node.children[i] >= 0) {
      collect(node.children[i]);
      continue;
    }
    const double mean = node.low + leaf.sum / static_cast<double>(leaf.count);
    cells_.push_back({leaf.min, leaf.max, std::clamp(mean, leaf.min, leaf.max), leaf.count, 0.0});
    places_.push_back({at, static_cast<std::int32_t>(i)});
  }
}

void Cells::divide(const std::vector<std::int64_t>& positions,
                   const std::vector<std::int64_t>& parts) {
  const auto first = static_cast<std::int32_t>(nodes_.size());
  const std::int64_t wanted = std::accumulate(parts.begin(), parts.end(), std::int64_t{0});
  const double share = std::min(1.0, static_cast<double>(kLeaves) / static_cast<double>(wanted));
  for (std::size_t i = 0; i < positions.size(); ++i) {
    const std::int64_t position = positions[i];
    const Cell& cell = cells_[position];
    const auto leaves =
        std::max<std::int64_t>(2, static_cast<std::int64_t>(static_cast<double>(parts[i]) * share));
    Node node;
    node.low = cell.low;
    node.scale = static_cast<double>(leaves) / (cell.high - cell.low);
    node.leaves.resize(leaves);
    node.children.assign(leaves, -1);
    const Place place = places_[position];
    auto& children = place.node < 0 ? root_children_ : nodes_[place.node].children;
    children[place.leaf] = static_cast<std::int32_t>(nodes_.size());
    nodes_.push_back(std::move(node));
  }
  tensor_.dtype() == DType::float64 ? count_nodes<double>(first) : count_nodes<float>(first);
  collect();
}

}  // namespace moptcore::inline v0::cluster

// SPDX-License-Identifier: Apache-2.0
#include "prune/allotment.hpp"

#include <algorithm>
#include <array>
#include <limits>

#include <moptcore/core/parallel.hpp>

#include "kernels/float_mode.hpp"
#include "kernels/strided.hpp"

namespace moptcore::inline v0::prune {
namespace {

constexpr std::int64_t kChunk = kernels::kScratch;
constexpr int kDigitBits = 11;

// Keys of one tensor below the digits found so far, and by the next digit.
struct Census {
  std::int64_t below = 0;
  std::array<std::int64_t, 1 << kDigitBits> counts;
  bool nan = false;
};

// The order of unsigned words.
std::uint64_t word_of(std::int64_t key) noexcept {
  return static_cast<std::uint64_t>(key) ^ (std::uint64_t{1} << 63);
}

// Counts the keys that agree with `prefix` above `shift + kDigitBits` by their next digit.
void take(const Keys<std::int64_t>& keys, std::uint64_t prefix, int shift, Census& census) {
  const kernels::FloatMode float_mode;
  std::array<std::int64_t, kChunk> scratch;
  census.counts.fill(0);
  // The first digit has nothing above it, and a shift by 64 is undefined.
  const int above = std::min(63, shift + kDigitBits);
  const bool first = shift + kDigitBits >= 64;
  for (std::int64_t at = 0; at < keys.size(); at += kChunk) {
    const std::int64_t n = std::min(kChunk, keys.size() - at);
    const std::int64_t* src = keys.read(at, n, scratch.data());
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int64_t key = src[i] & keys.mask();
      census.nan = census.nan || key > keys.limit();
      const std::uint64_t word = word_of(key);
      if (first || word >> above == prefix >> above) {
        ++census.counts[(word >> shift) & ((1u << kDigitBits) - 1u)];
      }
    }
  }
}

}  // namespace

Allotment allot_zeros(std::span<const AnyView> ranked, Order order, NonFinite nonfinite,
                      std::int64_t zeros, std::span<const ZeroBounds> bounds) {
  const std::size_t count = ranked.size();
  Allotment result;
  result.zeros.assign(count, 0);
  if (count == 0) return result;
  const DType dtype = ranked.front().dtype();
  const bool mixed =
      std::ranges::any_of(ranked, [dtype](const AnyView& view) { return view.dtype() != dtype; });
  std::vector<Keys<std::int64_t>> keys;
  for (const AnyView& view : ranked) keys.emplace_back(view, order, nonfinite, mixed);
  std::vector<Census> tensors(count);
  const auto within = [&](std::size_t t, std::int64_t wanted) {
    return std::clamp(wanted, bounds[t].least, bounds[t].greatest);
  };
  // The lowest key at which, with all keys up to it pruned, the bounds give at least `zeros`.
  std::uint64_t prefix = 0;
  constexpr int kDigits = (64 + kDigitBits - 1) / kDigitBits;
  for (int digit = kDigits - 1; digit >= 0; --digit) {
    const int shift = digit * kDigitBits;
    parallel_for(static_cast<std::int64_t>(count), 1, [&](std::int64_t t, std::int64_t) {
      take(keys[static_cast<std::size_t>(t)], prefix, shift, tensors[static_cast<std::size_t>(t)]);
    });
    for (std::size_t t = 0; t < count; ++t) {
      if (tensors[t].nan) {
        result.nan = t;
        return result;
      }
    }
    const std::size_t last = (std::size_t{1} << std::min(kDigitBits, 64 - shift)) - 1;
    std::size_t chosen = 0;
    for (; chosen < last; ++chosen) {
      std::int64_t total = 0;
      for (std::size_t t = 0; t < count; ++t) {
        total += within(t, tensors[t].below + tensors[t].counts[chosen]);
      }
      if (total >= zeros) break;
      for (Census& census : tensors) census.below += census.counts[chosen];
    }
    prefix |= static_cast<std::uint64_t>(chosen) << shift;
    if (digit > 0) continue;
    std::int64_t left = zeros;
    for (std::size_t t = 0; t < count; ++t) {
      result.zeros[t] = within(t, tensors[t].below);
      left -= result.zeros[t];
    }
    for (std::size_t t = count; t-- > 0;) {
      const std::int64_t most = within(t, tensors[t].below + tensors[t].counts[chosen]);
      const std::int64_t more = std::min(left, most - result.zeros[t]);
      result.zeros[t] += more;
      left -= more;
    }
  }
  return result;
}

}  // namespace moptcore::inline v0::prune

// SPDX-License-Identifier: Apache-2.0
#include "cluster/histogram.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <limits>

#include <moptcore/core/parallel.hpp>

#include "kernels/minmax.hpp"
#include "kernels/strided.hpp"

namespace moptcore::inline v0::cluster {
namespace {

constexpr std::int64_t kBlock = kernels::kScratch;
// Values of one pass over a table: the count of a bin has 24 bits above a sum of 40.
constexpr std::int64_t kPass = (std::int64_t{1} << 24) - kBlock;
constexpr int kCountShift = 40;

kernels::MinMax<float> min_max(const float* src, std::int64_t n) {
  return kernels::min_max_f32(src, n);
}
kernels::MinMax<double> min_max(const double* src, std::int64_t n) {
  return kernels::min_max_f64(src, n);
}

// Zeros that are left out do not widen the range either.
template <class T>
kernels::MinMax<T> min_max_of(const T* src, std::int64_t n, bool without_zeros) {
  kernels::MinMax<T> range = min_max(src, n);
  if (!without_zeros || !(range.min <= T{0} && range.max >= T{0})) return range;
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  range.min = kInfinity;
  range.max = -kInfinity;
  for (std::int64_t i = 0; i < n; ++i) {
    if (src[i] == T{0}) continue;
    range.min = std::min(range.min, src[i]);
    range.max = std::max(range.max, src[i]);
  }
  return range;
}

template <class T>
std::optional<Histogram> histogram_as(const AnyView& tensor, std::int64_t begin, std::int64_t n,
                                      bool without_zeros) {
  // Whole numbers are added, so that any split of the work gives the same sums.
  const std::int64_t grain = std::max((n + 15) / 16, 16 * kBlock);
  const std::int64_t blocks = block_count(n, grain);
  std::vector<kernels::MinMax<T>> ranges(blocks);
  parallel_blocks(n, grain, [&](std::int64_t block, std::int64_t first, std::int64_t last) {
    std::array<T, kBlock> scratch;
    auto& range = ranges[block];
    for (; first < last; first += kBlock) {
      const std::int64_t size = std::min(kBlock, last - first);
      const auto part = min_max_of(kernels::block(tensor, begin + first, size, scratch.data()),
                                   size, without_zeros);
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
  const auto low = static_cast<double>(range.min);
  const double width = static_cast<double>(range.max) * 0.25 - low * 0.25;
  Histogram result;
  // Sixteen bits of bin, and as many again of the place in it.
  const double step = width / static_cast<double>(0x3fffffff);
  if (!range.finite || !(step > 0.0) || !std::isfinite(1.0 / step)) return std::nullopt;
  const double scale = 1.0 / step;
  const double shift = low * 0.25;
  std::vector<std::int64_t> counts(kBins, 0);
  std::vector<std::uint64_t> sums(kBins, 0);
  std::atomic<std::int64_t> zeros = 0;
  std::vector<std::vector<std::uint64_t>> tables(blocks);
  for (std::int64_t pass = 0; pass < n; pass += kPass) {
    const std::int64_t of_pass = std::min(kPass, n - pass);
    const std::int64_t part = std::max((of_pass + blocks - 1) / blocks, kBlock);
    parallel_blocks(of_pass, part, [&](std::int64_t block, std::int64_t first, std::int64_t last) {
      auto& table = tables[block];
      table.assign(kBins, 0);
      std::array<T, kBlock> scratch;
      std::int64_t zeros_here = 0;
      for (; first < last; first += kBlock) {
        const std::int64_t size = std::min(kBlock, last - first);
        const T* src = kernels::block(tensor, begin + pass + first, size, scratch.data());
        for (std::int64_t i = 0; i < size; ++i) {
          if (without_zeros && src[i] == T{0}) {
            ++zeros_here;
            continue;
          }
          const double place = (static_cast<double>(src[i]) * 0.25 - shift) * scale;
          const auto whole = static_cast<std::uint64_t>(std::clamp(place * 4.0, 0.0, 4294967295.0));
          table[whole >> 16] += (std::uint64_t{1} << kCountShift) | (whole & 0xffffu);
        }
      }
      zeros += zeros_here;
    });
    for (const auto& table : tables) {
      for (std::size_t bin = 0; bin < table.size(); ++bin) {
        counts[bin] += static_cast<std::int64_t>(table[bin] >> kCountShift);
        sums[bin] += table[bin] & ((std::uint64_t{1} << kCountShift) - 1);
      }
    }
    for (auto& table : tables) table.clear();
  }
  result.has_zero = zeros > 0;
  for (std::int64_t bin = 0; bin < kBins; ++bin) {
    if (counts[bin] == 0) continue;
    const double place = static_cast<double>(bin) * 65536.0 + 0.5 +
                         static_cast<double>(sums[bin]) / static_cast<double>(counts[bin]);
    result.means.push_back((shift + place * 0.25 * step) * 4.0);
    result.counts.push_back(counts[bin]);
  }
  return result;
}

}  // namespace

std::optional<Histogram> histogram(const AnyView& tensor, std::int64_t first, std::int64_t n,
                                   bool without_zeros) {
  if (tensor.dtype() == DType::float64) {
    return histogram_as<double>(tensor, first, n, without_zeros);
  }
  return histogram_as<float>(tensor, first, n, without_zeros);
}

}  // namespace moptcore::inline v0::cluster

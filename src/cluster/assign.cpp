// SPDX-License-Identifier: Apache-2.0
#include <moptcore/cluster/assign.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <string>
#include <type_traits>
#include <vector>

#include <moptcore/core/parallel.hpp>

#include "cluster/assign_finite.hpp"
#include "cluster/groups.hpp"
#include "cluster/nearest.hpp"
#include "kernels/minmax.hpp"
#include "kernels/stream_copy.hpp"
#include "kernels/strided.hpp"

namespace moptcore::inline v0::cluster {
namespace {

constexpr std::int64_t kBlock = kernels::kScratch;

void check_floating(const AnyView& tensor, const char* where, const char* argument) {
  check<DTypeError>(is_floating(tensor.dtype()), where,
                    std::string(argument) + " must be float64, float32, float16 or bfloat16",
                    name(tensor.dtype()));
}

bool is_finite(const float* src, std::int64_t n) { return kernels::min_max_f32(src, n).finite; }
bool is_finite(const double* src, std::int64_t n) { return kernels::min_max_f64(src, n).finite; }

template <class T>
void check_finite(const AnyView& tensor, const char* where, const char* argument) {
  std::atomic<bool> finite = true;
  parallel_for(tensor.size(), 16 * kBlock, [&](std::int64_t first, std::int64_t last) {
    std::array<T, kBlock> scratch;
    for (; first < last; first += kBlock) {
      const std::int64_t n = std::min(kBlock, last - first);
      if (!is_finite(kernels::block(tensor, first, n, scratch.data()), n)) {
        finite.store(false, std::memory_order_relaxed);
      }
    }
  });
  check<NonFiniteError>(finite, where, std::string(argument) + " must be finite");
}

// Calls f(group, first, n) for blocks of all groups, positions counted within the group.
template <class F>
void for_each_block(const Groups& groups, std::int64_t block, F&& f) {
  const std::int64_t blocks = std::max<std::int64_t>(block_count(groups.largest(), block), 1);
  const std::int64_t grain =
      std::max<std::int64_t>(1, 4 * kBlock / std::clamp<std::int64_t>(groups.largest(), 1, block));
  parallel_for(groups.count() * blocks, grain, [&](std::int64_t task, std::int64_t last) {
    for (; task < last; ++task) {
      const std::int64_t group = task / blocks;
      const std::int64_t first = (task % blocks) * block;
      const std::int64_t n = std::min(block, groups.size(group) - first);
      if (n > 0) f(group, first, n);
    }
  });
}

std::vector<double> load_centroids(const AnyView& centroids, const char* where) {
  check_floating(centroids, where, "centroids");
  std::vector<double> values(centroids.size());
  kernels::load(centroids, 0, centroids.size(), values.data());
  const bool finite =
      std::ranges::all_of(values, [](double value) { return std::isfinite(value); });
  check<NonFiniteError>(finite, where, "centroids must be finite");
  return values;
}

template <class T, class Index>
void assign_groups(const AnyView& weights, const Groups& groups,
                   const std::vector<Nearest<T>>& nearest, const MutableAnyView& indices) {
  for_each_block(groups, kBlock, [&](std::int64_t group, std::int64_t first, std::int64_t n) {
    std::array<T, kBlock> scratch;
    std::array<Index, kBlock> result;
    const AnyView src = groups.view(weights, group);
    const MutableAnyView dst = groups.view(indices, group);
    const std::int64_t start = groups.first(group) + first;
    const T* values = kernels::block(src, start, n, scratch.data());
    Index* found = kernels::writable_block(dst, start, result.data());
    // Zeros without a centroid were refused before.
    static_cast<void>(nearest[group].find(values, n, found));
    if (found == result.data()) kernels::scatter(found, start, n, dst);
  });
}

// Throws where a group has zeros to preserve and no centroid for them.
template <class T>
void check_zeros(const AnyView& weights, const Groups& groups, const std::vector<double>& centroids,
                 std::int64_t k, const char* where) {
  std::atomic<std::int64_t> missing = -1;
  for_each_block(groups, kBlock, [&](std::int64_t group, std::int64_t first, std::int64_t n) {
    if (zero_centroid(std::span(centroids).subspan(group * k, k)) >= 0) return;
    std::array<T, kBlock> scratch;
    const T* values =
        kernels::block(groups.view(weights, group), groups.first(group) + first, n, scratch.data());
    if (std::find(values, values + n, T{0}) != values + n) missing.store(group);
  });
  check(missing < 0, where, "centroids must hold 0 to preserve zeros; group without it",
        missing.load());
}

template <class T>
void assign_as(const AnyView& weights, const Groups& groups, const std::vector<double>& centroids,
               std::int64_t k, const MutableAnyView& indices, const AssignOptions& options,
               bool checked, const char* where) {
  if (!checked) check_finite<T>(weights, where, "weights");
  if (options.preserve_zeros) check_zeros<T>(weights, groups, centroids, k, where);
  std::vector<Nearest<T>> nearest;
  nearest.reserve(groups.count());
  for (std::int64_t group = 0; group < groups.count(); ++group) {
    nearest.emplace_back(std::span(centroids).subspan(group * k, k), options.preserve_zeros,
                         options.compat);
  }
  if (indices.dtype() == DType::uint8) {
    assign_groups<T, std::uint8_t>(weights, groups, nearest, indices);
  } else {
    assign_groups<T, std::uint16_t>(weights, groups, nearest, indices);
  }
}

// Indices of any integer dtype as int64; int64 holds them all but the upper half of uint64, whose
// members come out negative and are refused like the rest.
template <class Index>
void widen(const Index* src, std::int64_t n, std::int64_t* dst) {
  for (std::int64_t i = 0; i < n; ++i) dst[i] = static_cast<std::int64_t>(src[i]);
}

template <class F>
decltype(auto) visit_integer(DType dtype, const char* where, F&& f) {
  switch (dtype) {
    case DType::uint8: return f.template operator()<std::uint8_t>();
    case DType::uint16: return f.template operator()<std::uint16_t>();
    case DType::uint32: return f.template operator()<std::uint32_t>();
    case DType::uint64: return f.template operator()<std::uint64_t>();
    case DType::int8: return f.template operator()<std::int8_t>();
    case DType::int16: return f.template operator()<std::int16_t>();
    case DType::int32: return f.template operator()<std::int32_t>();
    case DType::int64: return f.template operator()<std::int64_t>();
    default:
      throw DTypeError(error_text(where, "indices must be integers of 8 to 64 bits", name(dtype)));
  }
}

template <class Index>
const Index* index_block(const AnyView& indices, std::int64_t first, std::int64_t n,
                         Index* scratch) {
  if (indices.is_contiguous()) return static_cast<const Index*>(indices.data()) + first;
  kernels::gather(indices, first, n, scratch);
  return scratch;
}

template <class Index>
void check_range(const AnyView& indices, std::int64_t k, const char* where) {
  std::atomic<bool> inside = true;
  parallel_for(indices.size(), 16 * kBlock, [&](std::int64_t first, std::int64_t last) {
    std::array<Index, kBlock> scratch;
    for (; first < last; first += kBlock) {
      const std::int64_t n = std::min(kBlock, last - first);
      const Index* src = index_block(indices, first, n, scratch.data());
      // A negative index is a large one.
      using Unsigned = std::make_unsigned_t<Index>;
      Unsigned top = 0;
      for (std::int64_t i = 0; i < n; ++i) top = std::max(top, static_cast<Unsigned>(src[i]));
      if (n > 0 && std::uint64_t{top} >= static_cast<std::uint64_t>(k)) {
        inside.store(false, std::memory_order_relaxed);
      }
    }
  });
  check(inside, where, "indices must be in [0, " + std::to_string(k) + ")");
}

template <class Word, class Index>
void lookup_as(const AnyView& indices, const Groups& groups, const std::vector<Word>& centroids,
               std::int64_t k, const MutableAnyView& out) {
  const std::int64_t bytes = groups.count() * groups.largest() * std::int64_t{sizeof(Word)};
  const bool stream = bytes >= kernels::kStreamBytes;
  for_each_block(groups, kBlock, [&](std::int64_t group, std::int64_t first, std::int64_t n) {
    std::array<Index, kBlock> scratch;
    std::array<Word, kBlock> result;
    const MutableAnyView dst = groups.view(out, group);
    const std::int64_t start = groups.first(group) + first;
    const Index* src = index_block(groups.view(indices, group), start, n, scratch.data());
    const Word* book = centroids.data() + group * k;
    Word* found = dst.is_contiguous() ? static_cast<Word*>(dst.data()) + start : nullptr;
    Word* values = found == nullptr || stream ? result.data() : found;
    for (std::int64_t i = 0; i < n; ++i) values[i] = book[src[i]];
    if (found == nullptr) {
      kernels::scatter(values, start, n, dst);
    } else if (stream) {
      kernels::stream_copy(values, n * std::int64_t{sizeof(Word)}, found);
      kernels::stream_fence();
    }
  });
}

// Neighbours often have the same index, and each sum would wait for the one before: so some sums of
// each centroid take turns.
constexpr std::int64_t kTurns = 4;

template <bool kCounts, class T, class Index>
void add_block(const T* gradient, const Index* indices, std::int64_t n, std::int64_t k,
               double* sums, std::int64_t* counts) {
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int64_t at = (i % kTurns) * k + static_cast<std::int64_t>(indices[i]);
    sums[at] += static_cast<double>(gradient[i]);
    if constexpr (kCounts) ++counts[at];
  }
}

// Sums of one group in a number of blocks that the sizes alone decide, added in order.
template <bool kCounts, class T, class Index>
void add_gradient(const AnyView& gradient, const AnyView& indices, std::int64_t start,
                  std::int64_t size, std::int64_t k, double* sums, std::int64_t* counts) {
  const std::int64_t grain = std::max({std::int64_t{1} << 16, 8 * k, (size + 63) / 64});
  const std::int64_t blocks = std::max<std::int64_t>(block_count(size, grain), 1);
  std::vector<double> partial(blocks * kTurns * k, 0.0);
  std::vector<std::int64_t> members(kCounts ? blocks * kTurns * k : 0, 0);
  parallel_blocks(size, grain, [&](std::int64_t block, std::int64_t first, std::int64_t last) {
    std::array<T, kBlock> values;
    std::array<Index, kBlock> scratch;
    for (; first < last; first += kBlock) {
      const std::int64_t n = std::min(kBlock, last - first);
      const T* g = kernels::block(gradient, start + first, n, values.data());
      const Index* at = index_block(indices, start + first, n, scratch.data());
      add_block<kCounts>(g, at, n, k, partial.data() + block * kTurns * k,
                         kCounts ? members.data() + block * kTurns * k : nullptr);
    }
  });
  for (std::int64_t turn = 0; turn < blocks * kTurns; ++turn) {
    for (std::int64_t i = 0; i < k; ++i) {
      sums[i] += partial[turn * k + i];
      if constexpr (kCounts) counts[i] += members[turn * k + i];
    }
  }
}

}  // namespace

std::int64_t codebook_count(const Shape& shape, const Sharing& sharing, const char* where) {
  return Groups(shape, sharing, where).count();
}

namespace {

void assign_weights(const AnyView& weights, const AnyView& centroids, const MutableAnyView& indices,
                    const AssignOptions& options, bool checked) {
  constexpr auto where = "cluster.assign";
  check_floating(weights, where, "weights");
  const bool tfmot = options.compat == Compat::tfmot;
  check<DTypeError>(!tfmot || weights.dtype() == DType::float32, where,
                    "weights must be float32 with compat tfmot", name(weights.dtype()));
  const Groups groups(weights.shape(), options.sharing, where);
  const std::int64_t k = groups.columns(centroids, where);
  const std::vector<double> book = load_centroids(centroids, where);
  check<DTypeError>(
      indices.dtype() == DType::uint16 || (indices.dtype() == DType::uint8 && k <= 256), where,
      "indices must be uint8 for k <= 256 or uint16", name(indices.dtype()));
  check(indices.shape() == weights.shape(), where, "indices must have the shape of weights",
        indices.shape());
  check_no_partial_overlap(weights, indices, where, "indices");
  check_no_partial_overlap(centroids, indices, where, "indices");
  if (weights.dtype() == DType::float64) {
    assign_as<double>(weights, groups, book, k, indices, options, checked, where);
  } else {
    assign_as<float>(weights, groups, book, k, indices, options, checked, where);
  }
}

}  // namespace

void assign(const AnyView& weights, const AnyView& centroids, const MutableAnyView& indices,
            const AssignOptions& options) {
  assign_weights(weights, centroids, indices, options, false);
}

void assign_finite(const AnyView& weights, const AnyView& centroids, const MutableAnyView& indices,
                   const AssignOptions& options) {
  assign_weights(weights, centroids, indices, options, true);
}

void lookup(const AnyView& indices, const AnyView& centroids, const MutableAnyView& out,
            const Sharing& sharing) {
  constexpr auto where = "cluster.lookup";
  check_floating(centroids, where, "centroids");
  const Groups groups(indices.shape(), sharing, where);
  const std::int64_t k = groups.columns(centroids, where);
  check<DTypeError>(out.dtype() == centroids.dtype(), where, "out must have the dtype of centroids",
                    name(out.dtype()));
  check(out.shape() == indices.shape(), where, "out must have the shape of indices", out.shape());
  check_no_partial_overlap(indices, out, where, "out");
  visit_integer(indices.dtype(), where, [&]<class Index>() {
    check_range<Index>(indices, k, where);
    const auto run = [&]<class Word>() {
      std::vector<Word> book(centroids.size());
      kernels::gather(centroids, 0, centroids.size(), book.data());
      lookup_as<Word, Index>(indices, groups, book, k, out);
    };
    switch (bit_width(centroids.dtype())) {
      case 16: return run.template operator()<std::uint16_t>();
      case 32: return run.template operator()<std::uint32_t>();
      default: return run.template operator()<std::uint64_t>();
    }
  });
}

void centroid_gradient(const AnyView& gradient, const AnyView& indices, std::int64_t k,
                       const MutableAnyView& out, Reduction reduction, const Sharing& sharing) {
  constexpr auto where = "cluster.centroid_gradient";
  check_floating(gradient, where, "gradient");
  check(k >= 1 && k <= kMaxClusters, where, "k must be in [1, 65536]", k);
  check(gradient.shape() == indices.shape(), where, "gradient must have the shape of indices",
        gradient.shape());
  const Groups groups(indices.shape(), sharing, where);
  check(groups.columns(out, where) == k, where, "out must have k columns", out.shape());
  check<DTypeError>(out.dtype() == gradient.dtype(), where, "out must have the dtype of gradient",
                    name(out.dtype()));
  check_no_partial_overlap(gradient, out, where, "out");
  check_no_partial_overlap(indices, out, where, "out");
  visit_integer(indices.dtype(), where, [&]<class Index>() {
    check_range<Index>(indices, k, where);
    std::vector<double> sums(groups.count() * k, 0.0);
    const auto run = [&](std::int64_t group) {
      std::vector<std::int64_t> counts(k, 0);
      double* sum = sums.data() + group * k;
      const auto add = [&]<bool kCounts, class T>() {
        add_gradient<kCounts, T, Index>(groups.view(gradient, group), groups.view(indices, group),
                                        groups.first(group), groups.size(group), k, sum,
                                        counts.data());
      };
      const bool wide = gradient.dtype() == DType::float64;
      if (reduction == Reduction::sum) {
        wide ? add.template operator()<false, double>() : add.template operator()<false, float>();
        return;
      }
      wide ? add.template operator()<true, double>() : add.template operator()<true, float>();
      for (std::int64_t i = 0; i < k; ++i) {
        if (counts[i] > 0) sum[i] /= static_cast<double>(counts[i]);
      }
    };
    if (groups.count() == 1) {
      run(0);
    } else {
      const std::int64_t grain =
          std::max<std::int64_t>(1, 4 * kBlock / std::max<std::int64_t>(groups.largest(), 1));
      parallel_for(groups.count(), grain, [&](std::int64_t group, std::int64_t last) {
        for (; group < last; ++group) run(group);
      });
    }
    kernels::store(sums.data(), 0, groups.count() * k, out);
  });
}

}  // namespace moptcore::inline v0::cluster

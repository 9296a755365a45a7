// SPDX-License-Identifier: Apache-2.0
#include <moptcore/prune/mask.hpp>

#include <algorithm>
#include <array>
#include <numeric>
#include <sstream>
#include <vector>

#include <moptcore/core/parallel.hpp>
#include <moptcore/prune/schedule.hpp>

#include "kernels/float_mode.hpp"
#include "kernels/mask_bits.hpp"
#include "kernels/strided.hpp"
#include "prune/allotment.hpp"
#include "prune/mask_store.hpp"
#include "prune/selection.hpp"

namespace moptcore::inline v0::prune {
namespace {

constexpr std::int64_t kChunk = kernels::kScratch;

// Texts are made only where a check fails: they would cost a small tensor more than its mask.
void check_floating(const AnyView& tensor, const char* where, const std::string& argument) {
  if (is_floating(tensor.dtype())) return;
  check<DTypeError>(false, where, argument + " must be float64, float32, float16 or bfloat16",
                    name(tensor.dtype()));
}

void check_unpacked(const AnyView& tensor, const char* where, const std::string& argument) {
  if (!is_packed(tensor.dtype())) return;
  check<DTypeError>(false, where, argument + " must not be int4 or uint4", name(tensor.dtype()));
}

void check_scores(const AnyView& scores, const Shape& shape, const char* where,
                  const std::string& argument) {
  check_unpacked(scores, where, argument);
  if (scores.shape() == shape) return;
  std::ostringstream rule;
  rule << argument << " must have the shape of weights, " << shape;
  check(false, where, rule.str(), scores.shape());
}

// The count of TFMOT in its own arithmetic, which is float32 throughout.
std::int64_t tfmot_kept(std::int64_t n, double sparsity) {
  const float share = 1.0f - static_cast<float>(sparsity);
  const float kept = std::max(std::nearbyint(static_cast<float>(n) * share), 1.0f);
  return std::min(static_cast<std::int64_t>(kept), n);
}

struct Rule {
  double sparsity;
  Compat compat;
  std::optional<std::int64_t> zeros;  // instead of the sparsity's
};

// Up to here one tensor is ranked in place: the memory of a Selection would cost more.
constexpr std::int64_t kFew = 256;

// Prunes `zeros` of 1 to kFew keys, or keeps all from that of `position` on; false for a NaN where
// that is an error, and then nothing is written.
template <class Key>
bool prune_few(const Keys<Key>& keys, std::int64_t zeros, std::int64_t position, bool from_rank,
               const MutableAnyView& mask) {
  std::array<Key, kFew> scratch;
  std::array<Key, kFew> words{};
  const std::int64_t n = keys.size();
  const Key* src = keys.read(0, n, scratch.data());
  for (std::int64_t i = 0; i < n; ++i) {
    const Key key = static_cast<Key>(src[i] & keys.mask());
    if (key > keys.limit()) return false;
    words[static_cast<std::size_t>(i)] = key;
  }
  std::array<Key, kFew> sorted = words;
  std::nth_element(sorted.begin(), sorted.begin() + position, sorted.begin() + n);
  const Key found = sorted[static_cast<std::size_t>(position)];
  std::int64_t kept = -zeros;
  for (std::int64_t i = 0; i < n; ++i) kept += words[static_cast<std::size_t>(i)] <= found ? 1 : 0;
  if (from_rank) kept = n;
  std::array<std::uint8_t, kFew / 8> bits{};
  for (std::int64_t i = 0; i < n; ++i) {
    const Key key = words[static_cast<std::size_t>(i)];
    const bool stays = key > found || (key == found && kept-- > 0);
    auto& byte = bits[static_cast<std::size_t>(i / 8)];
    byte = static_cast<std::uint8_t>(byte | (unsigned{stays} << (i % 8)));
  }
  store_bits(bits.data(), 0, n, mask);
  return true;
}

// What the tensors are ranked by: `ranked` are the weights or the scores given for them.
template <class Key>
void prune_ranked(std::span<const AnyView> ranked, Order order, NonFinite nonfinite, Rule rule,
                  bool mixed, std::span<const MutableAnyView> masks, const char* where,
                  const char* argument) {
  std::int64_t n = 0;
  for (const AnyView& view : ranked) n += view.size();
  if (n == 0) return;
  const kernels::FloatMode float_mode;
  const bool tfmot = rule.compat == Compat::tfmot;
  const std::int64_t zeros = rule.zeros ? *rule.zeros
                             : tfmot    ? n - tfmot_kept(n, rule.sparsity)
                                        : zero_count(n, rule.sparsity);
  const std::int64_t position = tfmot ? zeros : std::max<std::int64_t>(zeros - 1, 0);
  if (ranked.size() == 1 && n <= kFew) {
    const Keys<Key> keys(ranked[0], order, nonfinite, mixed);
    if (!prune_few(keys, zeros, position, tfmot, masks[0])) refuse_nan(ranked[0], where, argument);
    return;
  }
  std::vector<Keys<Key>> keys;
  for (const AnyView& view : ranked) keys.emplace_back(view, order, nonfinite, mixed);
  Selection<Key> selection(std::move(keys));
  if (const auto at = selection.rank(position)) {
    const std::string index = ranked.size() > 1 ? '[' + std::to_string(*at) + ']' : "";
    refuse_nan(ranked[*at], where, argument + index);
  }
  if (tfmot) selection.keep_from_rank();
  else selection.prune_lowest(zeros);
  for (std::size_t t = 0; t < ranked.size(); ++t) selection.store(t, masks[t]);
}

void prune_tensors(std::span<const AnyView> ranked, Order order, NonFinite nonfinite, Rule rule,
                   std::span<const MutableAnyView> masks, const char* where, const char* argument) {
  if (ranked.empty()) return;
  const DType first = ranked.front().dtype();
  const bool mixed =
      std::ranges::any_of(ranked, [first](const AnyView& view) { return view.dtype() != first; });
  const auto run = [&]<class Key>() {
    prune_ranked<Key>(ranked, order, nonfinite, rule, mixed, masks, where, argument);
  };
  if (mixed || key_width(first) == 64) run.template operator()<std::int64_t>();
  else if (key_width(first) == 32) run.template operator()<std::int32_t>();
  else run.template operator()<std::int16_t>();
}

// The zeros that each tensor must and may have.
std::vector<ZeroBounds> bounds_of(std::span<const AnyView> weights, const GlobalOptions& options,
                                  const char* where) {
  const auto share = [&](std::span<const double> list, const char* argument, std::size_t i,
                         double otherwise) {
    if (list.empty()) return otherwise;
    check(list.size() == 1 || list.size() == weights.size(), where,
          std::string(argument) + " must be one number or as many as weights (" +
              std::to_string(weights.size()) + ")",
          list.size());
    const std::size_t at = list.size() == 1 ? 0 : i;
    const std::string index = list.size() == 1 ? "" : '[' + std::to_string(i) + ']';
    check(list[at] >= 0.0 && list[at] <= 1.0, where, argument + index + " must be in [0, 1]",
          list[at]);
    return list[at];
  };
  std::vector<ZeroBounds> bounds;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const double minimum = share(options.minimum, "minimum", i, 0.0);
    const double maximum = share(options.maximum, "maximum", i, 1.0);
    std::ostringstream rule;
    rule << "minimum must be <= maximum (" << maximum << ") for weights[" << i << ']';
    check(minimum <= maximum, where, rule.str(), minimum);
    const std::int64_t n = weights[i].size();
    bounds.push_back({zero_count(n, minimum), zero_count(n, maximum)});
  }
  return bounds;
}

template <class F>
auto visit_words(DType dtype, F&& f) {
  switch (bit_width(dtype)) {
    case 8: return f.template operator()<std::uint8_t>();
    case 16: return f.template operator()<std::uint16_t>();
    case 32: return f.template operator()<std::uint32_t>();
    default: return f.template operator()<std::uint64_t>();
  }
}

}  // namespace

void magnitude_mask(const AnyView& weights, double sparsity, const MutableAnyView& mask,
                    const MaskOptions& options) {
  constexpr auto where = "prune.magnitude_mask";
  check_floating(weights, where, "weights");
  if (options.compat == Compat::torch) {
    check(sparsity >= 0.0 && sparsity <= 1.0, where, "sparsity must be in [0, 1] with compat torch",
          sparsity);
  } else {
    check(is_sparsity(sparsity), where, "sparsity must be in [0, 1)", sparsity);
  }
  if (options.scores) check_scores(*options.scores, weights.shape(), where, "scores");
  check_mask(mask, weights.shape(), where, "mask");
  check_no_partial_overlap(weights, mask, where, "mask");
  if (options.scores) check_no_partial_overlap(*options.scores, mask, where, "mask");
  const AnyView& ranked = options.scores ? *options.scores : weights;
  prune_tensors({&ranked, 1}, options.scores ? Order::value : Order::magnitude, options.nonfinite,
                {sparsity, options.compat, {}}, {&mask, 1}, where,
                options.scores ? "scores" : "weights");
}

void global_mask(std::span<const AnyView> weights, double sparsity,
                 std::span<const MutableAnyView> masks, const GlobalOptions& options) {
  constexpr auto where = "prune.global_mask";
  check(is_sparsity(sparsity), where, "sparsity must be in [0, 1)", sparsity);
  const std::string as_many =
      " must be as many as weights (" + std::to_string(weights.size()) + ")";
  check(masks.size() == weights.size(), where, "masks" + as_many, masks.size());
  const bool scored = !options.scores.empty();
  check(!scored || options.scores.size() == weights.size(), where, "scores" + as_many,
        options.scores.size());
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const std::string index = '[' + std::to_string(i) + ']';
    check_floating(weights[i], where, "weights" + index);
    check_mask(masks[i], weights[i].shape(), where, ("masks" + index).c_str());
    if (scored) check_scores(options.scores[i], weights[i].shape(), where, "scores" + index);
    for (const AnyView& weight : weights) {
      check_no_partial_overlap(weight, masks[i], where, "masks" + index);
    }
    for (const AnyView& scores : options.scores) {
      check_no_partial_overlap(scores, masks[i], where, "masks" + index);
    }
    for (std::size_t j = 0; j < i; ++j) {
      const auto [first, last] = extent_of(masks[i]);
      const auto [other_first, other_last] = extent_of(masks[j]);
      check(last <= other_first || other_last <= first, where,
            "masks" + index + " must not share memory with masks[" + std::to_string(j) + ']');
    }
  }
  const std::span<const AnyView> ranked = scored ? options.scores : weights;
  const Order order = scored ? Order::value : Order::magnitude;
  const char* argument = scored ? "scores" : "weights";
  if (options.minimum.empty() && options.maximum.empty()) {
    prune_tensors(ranked, order, options.nonfinite, {sparsity, Compat::none, {}}, masks, where,
                  argument);
    return;
  }
  const std::vector<ZeroBounds> bounds = bounds_of(weights, options, where);
  std::int64_t size = 0;
  std::int64_t least = 0;
  std::int64_t greatest = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    size += weights[i].size();
    least += bounds[i].least;
    greatest += bounds[i].greatest;
  }
  const std::int64_t zeros = zero_count(size, sparsity);
  check(least <= zeros && zeros <= greatest, where,
        "minimum and maximum must allow " + std::to_string(zeros) + " zeros",
        std::to_string(least) + " to " + std::to_string(greatest));
  const Allotment allotment = allot_zeros(ranked, order, options.nonfinite, zeros, bounds);
  if (allotment.nan) {
    refuse_nan(ranked[*allotment.nan], where,
               argument + ('[' + std::to_string(*allotment.nan) + ']'));
  }
  for (std::size_t i = 0; i < weights.size(); ++i) {
    prune_tensors(ranked.subspan(i, 1), order, options.nonfinite,
                  {0.0, Compat::none, allotment.zeros[i]}, masks.subspan(i, 1), where, argument);
  }
}

void random_mask(const Shape& shape, double sparsity, std::uint64_t seed,
                 const MutableAnyView& mask) {
  constexpr auto where = "prune.random_mask";
  check(is_sparsity(sparsity), where, "sparsity must be in [0, 1)", sparsity);
  check_mask(mask, shape, where, "mask");
  const std::int64_t n = element_count(shape);
  if (n == 0) return;
  const kernels::FloatMode float_mode;
  Selection<std::int32_t> selection({Keys<std::int32_t>(n, seed)});
  const std::int64_t zeros = zero_count(n, sparsity);
  // Random words are never NaN.
  (void)selection.rank(std::max<std::int64_t>(zeros - 1, 0));
  selection.prune_lowest(zeros);
  selection.store(0, mask);
}

void apply_mask(const AnyView& weights, const AnyView& mask, const MutableAnyView& out) {
  constexpr auto where = "prune.apply_mask";
  check_unpacked(weights, where, "weights");
  check_mask(mask, weights.shape(), where, "mask");
  check<DTypeError>(out.dtype() == weights.dtype(), where,
                    "out must have the dtype of weights, " + std::string(name(weights.dtype())),
                    name(out.dtype()));
  check(out.shape() == weights.shape(), where, "out must have the shape of weights", out.shape());
  check_no_partial_overlap(weights, out, where, "out");
  check_no_partial_overlap(mask, out, where, "out");
  visit_words(weights.dtype(), [&]<class Word>() {
    const bool direct_in = weights.is_contiguous();
    const bool direct_out = out.is_contiguous();
    parallel_for(weights.size(), kMaskGrain, [&](std::int64_t begin, std::int64_t end) {
      std::array<Word, kChunk> words;
      std::array<std::uint8_t, kChunk / 8> packed;
      for (std::int64_t first = begin; first < end; first += kChunk) {
        const std::int64_t n = std::min(kChunk, end - first);
        const std::uint8_t* bits = load_bits(mask, first, n, packed.data());
        const Word* src = words.data();
        if (direct_in) src = static_cast<const Word*>(weights.data()) + first;
        else kernels::gather(weights, first, n, words.data());
        Word* dst = direct_out ? static_cast<Word*>(out.data()) + first : words.data();
        kernels::keep(src, bits, n, dst);
        if (!direct_out) kernels::scatter(words.data(), first, n, out);
      }
    });
  });
}

void pack_mask(const AnyView& mask, const MutableAnyView& packed) {
  constexpr auto where = "prune.pack_mask";
  check<DTypeError>(mask.dtype() == DType::boolean, where, "mask must be bool", name(mask.dtype()));
  check<DTypeError>(packed.dtype() == DType::uint8, where, "packed must be uint8",
                    name(packed.dtype()));
  check_mask(packed, mask.shape(), where, "packed");
  check_no_partial_overlap(mask, packed, where, "packed");
  parallel_for(mask.size(), kMaskGrain, [&](std::int64_t begin, std::int64_t end) {
    std::array<std::uint8_t, kChunk / 8> scratch;
    for (std::int64_t first = begin; first < end; first += kChunk) {
      const std::int64_t n = std::min(kChunk, end - first);
      store_bits(load_bits(mask, first, n, scratch.data()), first, n, packed);
    }
  });
}

void check_packed(const AnyView& packed, const Shape& shape, const char* where) {
  check<DTypeError>(packed.dtype() == DType::uint8, where, "packed must be uint8",
                    name(packed.dtype()));
  const Shape bytes{packed_size(element_count(shape))};
  std::ostringstream rule;
  rule << "packed must have the shape " << bytes << ", one bit an element of " << shape;
  check(packed.shape() == bytes, where, rule.str(), packed.shape());
}

void unpack_mask(const AnyView& packed, const MutableAnyView& mask) {
  constexpr auto where = "prune.unpack_mask";
  check<DTypeError>(mask.dtype() == DType::boolean, where, "mask must be bool", name(mask.dtype()));
  check_packed(packed, mask.shape(), where);
  check_no_partial_overlap(packed, mask, where, "mask");
  parallel_for(mask.size(), kMaskGrain, [&](std::int64_t begin, std::int64_t end) {
    std::array<std::uint8_t, kChunk / 8> scratch;
    for (std::int64_t first = begin; first < end; first += kChunk) {
      const std::int64_t n = std::min(kChunk, end - first);
      store_bits(load_bits(packed, first, n, scratch.data()), first, n, mask);
    }
  });
}

std::int64_t count_zeros(const AnyView& tensor) {
  check_unpacked(tensor, "prune.count_zeros", "tensor");
  std::vector<std::int64_t> counts(
      static_cast<std::size_t>(block_count(tensor.size(), kMaskGrain)));
  visit_words(tensor.dtype(), [&]<class Word>() {
    // Without its sign, -0 is all zeros as well.
    const Word mask =
        static_cast<Word>(is_floating(tensor.dtype()) ? Word(~Word{0}) >> 1 : Word(~Word{0}));
    parallel_blocks(tensor.size(), kMaskGrain,
                    [&](std::int64_t block, std::int64_t begin, std::int64_t end) {
                      std::array<Word, kChunk> words;
                      std::int64_t count = 0;
                      for (std::int64_t first = begin; first < end; first += kChunk) {
                        const std::int64_t n = std::min(kChunk, end - first);
                        const Word* src = words.data();
                        if (tensor.is_contiguous())
                          src = static_cast<const Word*>(tensor.data()) + first;
                        else kernels::gather(tensor, first, n, words.data());
                        count += kernels::count_zeros(src, n, mask);
                      }
                      counts[static_cast<std::size_t>(block)] = count;
                    });
  });
  return std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
}

double sparsity(const AnyView& tensor) {
  check(!tensor.empty(), "prune.sparsity", "tensor must have at least one element", tensor.shape());
  return static_cast<double>(count_zeros(tensor)) / static_cast<double>(tensor.size());
}

}  // namespace moptcore::inline v0::prune

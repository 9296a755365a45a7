// SPDX-License-Identifier: Apache-2.0
#include <moptcore/prune/regrow.hpp>

#include <algorithm>
#include <array>
#include <sstream>
#include <string>
#include <vector>

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

// Calls f(index, key) for the magnitudes of all elements whose byte is `chosen`.
template <class F>
void for_each(const Keys<std::int64_t>& keys, const std::uint8_t* bytes, std::uint8_t chosen,
              F&& f) {
  std::array<std::int64_t, kChunk> scratch;
  for (std::int64_t first = 0; first < keys.size(); first += kChunk) {
    const std::int64_t n = std::min(kChunk, keys.size() - first);
    const std::int64_t* src = keys.read(first, n, scratch.data());
    for (std::int64_t i = 0; i < n; ++i) {
      if (bytes[first + i] == chosen) f(first + i, src[i] & keys.mask());
    }
  }
}

struct Ranking {
  std::vector<std::int64_t> keys;
  std::int64_t nan = -1;  // flat index of the first NaN where that is an error
};

Ranking rank(const Keys<std::int64_t>& keys, const std::uint8_t* bytes, std::uint8_t chosen) {
  Ranking ranking;
  for_each(keys, bytes, chosen, [&](std::int64_t index, std::int64_t key) {
    if (key > keys.limit() && ranking.nan < 0) ranking.nan = index;
    ranking.keys.push_back(key);
  });
  return ranking;
}

void check_ranking(const Ranking& ranking, const char* where, const char* argument) {
  if (ranking.nan < 0) return;
  throw NonFiniteError(error_text(
      where,
      std::string(argument) + " must not contain NaN unless nonfinite is prune_first or keep",
      "NaN at flat index " + std::to_string(ranking.nan)));
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
  std::array<std::uint8_t, kChunk / 8> scratch;
  for (std::int64_t first = 0; first < size; first += kChunk) {
    const std::int64_t n = std::min(kChunk, size - first);
    kernels::unpack_bits(load_bits(mask, first, n, scratch.data()), n, active + first, false);
  }
  const Keys<std::int64_t> weight_keys(weights, Order::magnitude, options.nonfinite);
  Ranking kept = rank(weight_keys, active, 1);
  check_ranking(kept, where, "weights");
  const std::int64_t count = zero_count(static_cast<std::int64_t>(kept.keys.size()), fraction);
  if (count > 0) {
    const std::int64_t threshold = kth_key(kept.keys, count - 1);
    std::int64_t stay = -count;
    for_each(weight_keys, active, 1, [&](std::int64_t, std::int64_t key) {
      if (key <= threshold) ++stay;
    });
    for_each(weight_keys, active, 1, [&](std::int64_t index, std::int64_t key) {
      if (key < threshold || (key == threshold && stay-- <= 0)) active[index] = 0;
    });
    const Keys<std::int64_t> grad_keys(grad, Order::magnitude, options.nonfinite);
    Ranking idle = rank(grad_keys, active, 0);
    check_ranking(idle, where, "grad");
    const auto candidates = static_cast<std::int64_t>(idle.keys.size());
    const std::int64_t lowest = kth_key(idle.keys, candidates - count);
    std::int64_t ties = count;
    for_each(grad_keys, active, 0, [&](std::int64_t, std::int64_t key) {
      if (key > lowest) --ties;
    });
    for_each(grad_keys, active, 0, [&](std::int64_t index, std::int64_t key) {
      if (key > lowest || (key == lowest && ties-- > 0)) active[index] = 1;
    });
  }
  bytes.commit(out);
}

}  // namespace moptcore::inline v0::prune

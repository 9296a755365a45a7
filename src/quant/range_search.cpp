// SPDX-License-Identifier: Apache-2.0
#include "quant/range_search.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

namespace moptcore::inline v0::quant {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();
constexpr double kPathStep = 1e-5;
constexpr std::size_t kPairs = 32;  // a side
constexpr std::size_t kStarts = 4;
constexpr std::ptrdiff_t kNear = 6;

using Edges = std::vector<std::int64_t>;

// Counts of |x| on the same grid, whose bins mirror each other around 0.
struct Folded {
  std::int64_t first = 0;
  std::vector<std::int64_t> counts;
};

Folded fold(const BinCounts& bins) {
  const auto used = static_cast<std::int64_t>(bins.counts.size());
  const std::int64_t last = bins.first + used - 1;
  const auto mirrored = [](std::int64_t k) { return k < 0 ? -k - 1 : k; };
  Folded folded;
  const bool both = bins.first < 0 && last >= 0;
  folded.first = both ? 0 : std::min(mirrored(bins.first), mirrored(last));
  const std::int64_t end = std::max(mirrored(bins.first), mirrored(last)) + 1;
  folded.counts.assign(static_cast<std::size_t>(end - folded.first), 0);
  for (std::int64_t i = 0; i < used; ++i) {
    folded.counts[static_cast<std::size_t>(mirrored(bins.first + i) - folded.first)] +=
        bins.counts[static_cast<std::size_t>(i)];
  }
  return folded;
}

float edge_of(const BinCounts& bins, std::int64_t k) {
  const double edge = std::ldexp(static_cast<double>(k), bins.exponent);
  const double top = std::numeric_limits<float>::max();
  return static_cast<float>(std::clamp(edge, -top, top));
}

float magnitude_of(const BinCounts& bins) { return std::max(-bins.min, bins.max); }

FloatRange between(const BinCounts& bins, std::int64_t low, std::int64_t high) {
  return {std::max(edge_of(bins, low), bins.min), std::min(edge_of(bins, high), bins.max)};
}

FloatRange around_zero(const BinCounts& bins, std::int64_t high) {
  const float bound = std::min(edge_of(bins, high), magnitude_of(bins));
  return {-bound, bound};
}

Grid grid_of(const FloatRange& range, const GridChoice& choice) {
  return grid_from_range(range.first, range.second, choice.type, choice.symmetric, choice.compat);
}

// The edge with the least cost; of equals the first. cost(edge, limit) may be anything from `limit`
// on where the cost is.
template <class Cost>
std::int64_t best_edge(const Edges& edges, Cost&& cost) {
  std::int64_t best = edges.front();
  double least = kNever;
  for (const std::int64_t edge : edges) {
    const double found = cost(edge, least);
    if (found < least) {
      least = found;
      best = edge;
    }
  }
  return best;
}

using Pair = std::pair<std::int64_t, std::int64_t>;

// Some edges, the first among them, evenly spaced.
Edges thinned(const Edges& edges) {
  if (edges.size() <= kPairs) return edges;
  Edges some;
  for (std::size_t i = 0; i < kPairs; ++i) some.push_back(edges[i * edges.size() / kPairs]);
  return some;
}

// Of all edges those at most kNear places from `edge`.
Edges near(const Edges& edges, std::int64_t edge) {
  const auto at = std::find(edges.begin(), edges.end(), edge);
  return {at - std::min<std::ptrdiff_t>(at - edges.begin(), kNear),
          at + std::min<std::ptrdiff_t>(edges.end() - at, kNear + 1)};
}

// The pair with the least cost of all where they are few or one end is fixed, else the best end of
// descents from the best of some pairs. Both lists start with the widest range.
template <class Cost>
Pair best_pair(const Edges& lows, const Edges& highs, Cost&& cost) {
  using Found = std::pair<double, Pair>;
  const auto least_of = [&](const Edges& some_lows, const Edges& some_highs, Found best) {
    for (const std::int64_t low : some_lows) {
      for (const std::int64_t high : some_highs) {
        const double found = cost(low, high, best.first);
        if (found < best.first) best = {found, {low, high}};
      }
    }
    return best;
  };
  Found best{kNever, {lows.front(), highs.front()}};
  if (lows.size() == 1 || highs.size() == 1 || lows.size() * highs.size() <= kPairs * kPairs) {
    return least_of(lows, highs, best).second;
  }
  std::vector<Found> starts;  // the best so far, the least first; of equals the earlier ones
  for (const std::int64_t low : thinned(lows)) {
    for (const std::int64_t high : thinned(highs)) {
      const double limit = starts.size() < kStarts ? kNever : starts.back().first;
      const Found found{cost(low, high, limit), {low, high}};
      if (!(found.first < limit)) continue;
      const auto to =
          std::upper_bound(starts.begin(), starts.end(), found,
                           [](const Found& a, const Found& b) { return a.first < b.first; });
      starts.insert(to, found);
      if (starts.size() > kStarts) starts.pop_back();
    }
  }
  for (Found at : starts) {
    // The divergence has ledges that only both ends together leave.
    for (double before = kNever; at.first < before;) {
      before = at.first;
      at = least_of({at.second.first}, highs, at);
      at = least_of(lows, {at.second.second}, at);
      at = least_of(near(lows, at.second.first), near(highs, at.second.second), at);
    }
    if (at.first < best.first) best = at;
  }
  return best.second;
}

// Ends of ranges that hold 0 and cut into the values or hold them all, the widest first.
Edges low_edges(const BinCounts& bins) {
  Edges edges;
  const std::int64_t end = bins.first + static_cast<std::int64_t>(bins.counts.size());
  for (std::int64_t k = bins.first; k < std::min<std::int64_t>(end, 0); ++k) edges.push_back(k);
  if (edges.empty() || end > 0) edges.push_back(0);
  return edges;
}

Edges high_edges(const BinCounts& bins) {
  Edges edges;
  const std::int64_t end = bins.first + static_cast<std::int64_t>(bins.counts.size());
  for (std::int64_t k = end; k > std::max<std::int64_t>(bins.first, 0); --k) edges.push_back(k);
  if (edges.empty() || bins.first < 0) edges.push_back(0);
  return edges;
}

Edges magnitude_edges(const Folded& folded) {
  Edges edges;
  const std::int64_t end = folded.first + static_cast<std::int64_t>(folded.counts.size());
  for (std::int64_t k = end; k > folded.first; --k) edges.push_back(k);
  return edges;
}

// The nearest whole number of |x| < 2^51, ties to even.
double nearest(double x) noexcept {
  constexpr double kMagic = 0x1.8p52;
  return (x + kMagic) - kMagic;
}

// The integral of the squared error over [0, u), all in steps of the scale from the zero point:
// each whole step adds 1 / 12, what is saturated grows with the cube.
double error_integral(double u, double low, double high) noexcept {
  const double inside = std::min(std::max(u, low), high);
  const double whole = nearest(inside);
  const double rest = inside - whole;
  const double outside = u - inside;
  return whole / 12.0 + (rest * rest * rest + outside * outside * outside) / 3.0;
}

// expected_error for many grids of the same counts.
class ExpectedError {
 public:
  explicit ExpectedError(const BinCounts& bins)
      : first_(bins.first),
        inverse_width_(std::ldexp(1.0, -bins.exponent)),
        integral_(bins.counts.size() + 1) {
    const std::size_t used = bins.counts.size();
    for (std::size_t i = 0; i <= used; ++i) {
      const double edge =
          std::ldexp(static_cast<double>(bins.first + static_cast<std::int64_t>(i)), bins.exponent);
      edges_.push_back(
          std::clamp(edge, static_cast<double>(bins.min), static_cast<double>(bins.max)));
    }
    moments_.emplace_back();
    for (std::size_t i = 0; i < used; ++i) {
      const double low = edges_[i];
      const double width = edges_[i + 1] - low;
      const auto count = static_cast<double>(bins.counts[i]);
      total_ += count;
      Moments sum = moments_.back();
      if (width > 0.0) {
        density_.push_back(count / width);
        sum.count += count;
        sum.first += count * (low + 0.5 * width);
        sum.second += count * (low * low + low * width + width * width / 3.0);
      } else {
        // All values of the bin are the largest one.
        density_.push_back(0.0);
        point_ = edges_[i];
        point_count_ = count;
      }
      moments_.push_back(sum);
    }
  }

  /// Whether the grid of every range inside that of `grid` has an error above `limit`. Its steps
  /// are not longer, so its ends lie less than a step, here two, outside of this grid's.
  [[nodiscard]] bool is_hopeless(const Grid& grid, double limit) const noexcept {
    const auto scale = static_cast<double>(grid.scale);
    const double low = grid.qmin - grid.zero_point - 2;
    const double high = grid.qmax - grid.zero_point + 2;
    return cut(low * scale, high * scale) > limit * kSlack;
  }

  /// The error, or infinity where what is cut off alone is above `limit`.
  double operator()(const Grid& grid, double limit = kNever) noexcept {
    const auto scale = static_cast<double>(grid.scale);
    const double low = grid.qmin - grid.zero_point;
    const double high = grid.qmax - grid.zero_point;
    if (limit < kNever && cut(low * scale, high * scale) > limit * kSlack) return kNever;
    const double inverse = 1.0 / scale;
    for (std::size_t i = 0; i < edges_.size(); ++i) {
      integral_[i] = error_integral(edges_[i] * inverse, low, high);
    }
    double sum = 0.0;
    for (std::size_t i = 0; i < density_.size(); ++i) {
      sum += density_[i] * (integral_[i + 1] - integral_[i]);
    }
    const double u = point_ * inverse;
    const double miss = (u - std::clamp(std::nearbyint(u), low, high)) * scale;
    return (sum * scale * scale * scale + point_count_ * miss * miss) / total_;
  }

 private:
  // Far more than what sums of moments round.
  static constexpr double kSlack = 1.0 + 1e-6;

  // Sums of x^0, x^1 and x^2 over the values of the bins before an edge.
  struct Moments {
    double count = 0.0;
    double first = 0.0;
    double second = 0.0;
  };

  // The error of the bins wholly outside of [low, high].
  [[nodiscard]] double cut(double low, double high) const noexcept {
    const auto outside = [](const Moments& from, const Moments& to, double end) {
      return to.second - from.second - 2.0 * end * (to.first - from.first) +
             end * end * (to.count - from.count);
    };
    const Moments& below = moments_[edge_at(std::floor(low * inverse_width_))];
    const Moments& above = moments_[edge_at(std::ceil(high * inverse_width_))];
    return (outside({}, below, low) + outside(above, moments_.back(), high)) / total_;
  }

  [[nodiscard]] std::size_t edge_at(double k) const noexcept {
    const double at = k - static_cast<double>(first_);
    return static_cast<std::size_t>(std::clamp(at, 0.0, static_cast<double>(moments_.size() - 1)));
  }

  std::int64_t first_;
  double inverse_width_;
  std::vector<double> edges_;
  std::vector<double> density_;
  std::vector<Moments> moments_;
  std::vector<double> integral_;
  double total_ = 0.0;
  double point_ = 0.0;
  double point_count_ = 0.0;
};

// An edge above which, and one below which, at most `allowed` values lie.
std::int64_t upper_edge(std::span<const std::int64_t> counts, std::int64_t first,
                        std::int64_t allowed) {
  std::size_t i = counts.size();
  while (i > 1 && counts[i - 1] <= allowed) allowed -= counts[--i];
  return first + static_cast<std::int64_t>(i);
}

std::int64_t lower_edge(std::span<const std::int64_t> counts, std::int64_t first,
                        std::int64_t allowed) {
  std::size_t i = 0;
  while (i + 1 < counts.size() && counts[i] <= allowed) allowed -= counts[i++];
  return first + static_cast<std::int64_t>(i);
}

std::int64_t total(const BinCounts& bins) {
  return std::accumulate(bins.counts.begin(), bins.counts.end(), std::int64_t{0});
}

// The divergence for many windows and grids of the same counts. What whole bins add to its sums is
// summed once; a window costs one logarithm an integer of the grid.
class Divergence {
 public:
  Divergence(std::span<const std::int64_t> counts, std::int64_t first, double width)
      : counts_(counts), first_(first), width_(width), sums_(counts.size() + 1) {
    for (std::size_t i = 0; i < counts.size(); ++i) {
      const auto count = static_cast<double>(counts[i]);
      sums_[i + 1] = sums_[i];
      if (counts[i] == 0) continue;
      sums_[i + 1].count += count;
      sums_[i + 1].logs += count * std::log(count);
      sums_[i + 1].occupied += 1.0;
    }
  }

  double operator()(std::int64_t low, std::int64_t high, const Grid& grid) const {
    const std::int64_t end = first_ + static_cast<std::int64_t>(counts_.size());
    const std::int64_t from = std::max(low, first_);
    const std::int64_t to = std::min(high, end);
    if (from >= to) return kNever;
    const double below = before(from).count;
    const double above = before(end).count - before(to).count;
    if ((below > 0.0 && at(from) == 0.0) || (above > 0.0 && at(to - 1) == 0.0)) return kNever;
    const double inside = before(to).count - before(from).count;
    if (inside == 0.0) return kNever;
    // Sum of p ln p, p with what is folded in.
    double logs = before(to).logs - before(from).logs;
    const auto fold = [&](double q, double more) {
      if (more > 0.0) logs += (q + more) * std::log(q + more) - q * std::log(q);
    };
    if (from == to - 1) {
      fold(at(from), below + above);
    } else {
      fold(at(from), below);
      fold(at(to - 1), above);
    }
    const double lowest = grid.qmin - grid.zero_point;
    const double highest = grid.qmax - grid.zero_point;
    const double steps = width_ / static_cast<double>(grid.scale);
    const auto level = [&](std::int64_t k) {
      // What is too large for `nearest` is far outside of the levels.
      return std::clamp(nearest((static_cast<double>(k) + 0.5) * steps), lowest, highest);
    };
    double cells = 0.0;  // sum of p ln(mass / bins) of each cell
    for (std::int64_t k = from; k < to;) {
      const double cell = level(k);
      std::int64_t next = to;
      if (cell < highest) {
        // The first bin of a greater level, to within the rounding of this estimate.
        const double estimate = std::clamp(std::ceil((cell + 0.5) / steps - 0.5),
                                           static_cast<double>(k + 1), static_cast<double>(to));
        next = static_cast<std::int64_t>(estimate);
        while (next > k + 1 && level(next - 1) > cell) --next;
        while (next < to && level(next) == cell) ++next;
      }
      const double mass = before(next).count - before(k).count;
      if (mass > 0.0) {
        const double occupied = before(next).occupied - before(k).occupied;
        const double folded = mass + (k == from ? below : 0.0) + (next == to ? above : 0.0);
        if (mass != occupied) cells += folded * std::log(mass / occupied);
      }
      k = next;
    }
    const double everything = before(end).count;
    return (logs - cells) / everything + std::log(inside / everything);
  }

 private:
  // Sums over the bins before an edge.
  struct Sums {
    double count = 0.0;
    double logs = 0.0;
    double occupied = 0.0;
  };

  [[nodiscard]] const Sums& before(std::int64_t k) const {
    return sums_[static_cast<std::size_t>(k - first_)];
  }
  [[nodiscard]] double at(std::int64_t k) const {
    return static_cast<double>(counts_[static_cast<std::size_t>(k - first_)]);
  }

  std::span<const std::int64_t> counts_;
  std::int64_t first_;
  double width_;
  std::vector<Sums> sums_;
};

}  // namespace

double expected_error(const BinCounts& bins, const Grid& grid) noexcept {
  return ExpectedError(bins)(grid);
}

double divergence(std::span<const std::int64_t> counts, std::int64_t first, double width,
                  std::int64_t low, std::int64_t high, const Grid& grid) {
  return Divergence(counts, first, width)(low, high, grid);
}

FloatRange percentile_range(const BinCounts& bins, double percentile, Tails tails) {
  const double share = (100.0 - percentile) / (tails == Tails::split ? 200.0 : 100.0);
  const auto allowed = static_cast<std::int64_t>(static_cast<double>(total(bins)) * share);
  if (tails == Tails::absolute) {
    const Folded folded = fold(bins);
    const std::int64_t high = upper_edge(folded.counts, folded.first, allowed);
    return between(bins, -high, high);
  }
  return between(bins, lower_edge(bins.counts, bins.first, allowed),
                 upper_edge(bins.counts, bins.first, allowed));
}

FloatRange entropy_range(const BinCounts& bins, const GridChoice& choice) {
  const double width = std::ldexp(1.0, bins.exponent);
  if (choice.symmetric) {
    const Folded folded = fold(bins);
    const Divergence cost(folded.counts, folded.first, width);
    const std::int64_t high = best_edge(magnitude_edges(folded), [&](std::int64_t k, double) {
      const Grid grid = grid_of(around_zero(bins, k), choice);
      if (k < grid.qmax - grid.zero_point + 1) return kNever;
      return cost(0, k, grid);
    });
    return around_zero(bins, high);
  }
  const auto [qmin, qmax] = grid_range(choice.type, false, choice.compat);
  const std::int64_t levels = qmax - qmin + 1;
  const Divergence cost(bins.counts, bins.first, width);
  const Pair found = best_pair(low_edges(bins), high_edges(bins),
                               [&](std::int64_t low, std::int64_t high, double) {
                                 if (high - low < levels) return kNever;
                                 return cost(low, high, grid_of(between(bins, low, high), choice));
                               });
  return between(bins, found.first, found.second);
}

FloatRange error_range(const BinCounts& bins, const GridChoice& choice) {
  ExpectedError error(bins);
  if (choice.symmetric) {
    const std::int64_t high =
        best_edge(magnitude_edges(fold(bins)), [&](std::int64_t k, double limit) {
          return error(grid_of(around_zero(bins, k), choice), limit);
        });
    return around_zero(bins, high);
  }
  const Pair found = best_pair(low_edges(bins), high_edges(bins),
                               [&](std::int64_t low, std::int64_t high, double limit) {
                                 if (low == high) return kNever;
                                 return error(grid_of(between(bins, low, high), choice), limit);
                               });
  return between(bins, found.first, found.second);
}

FloatRange path_range(const BinCounts& bins, const GridChoice& choice) {
  ExpectedError error(bins);
  const auto all = static_cast<double>(total(bins));
  const auto used = static_cast<std::int64_t>(bins.counts.size());
  std::vector<double> sums(bins.counts.size());
  std::partial_sum(bins.counts.begin(), bins.counts.end(), sums.begin());
  FloatRange best = between(bins, bins.first, bins.first + used);
  double least = error(grid_of(best, choice));
  std::int64_t start = 0;
  std::int64_t end = used - 1;
  double alpha = 0.0;
  double beta = 1.0;
  while (alpha < beta && start < end) {
    std::int64_t left = start;
    std::int64_t right = end;
    while (left < end && sums[static_cast<std::size_t>(left)] < (alpha + kPathStep) * all) ++left;
    while (right > start && sums[static_cast<std::size_t>(right)] > (beta - kPathStep) * all) {
      --right;
    }
    const bool moves = left > start || right < end;
    if (left - start > end - right) {
      start = left;
      alpha += kPathStep;
    } else {
      end = right;
      beta -= kPathStep;
    }
    if (!moves || start > end) continue;
    const FloatRange range = between(bins, bins.first + start, bins.first + end + 1);
    const Grid grid = grid_of(range, choice);
    if (error.is_hopeless(grid, least)) break;
    const double found = error(grid, least);
    if (found < least) {
      least = found;
      best = range;
    }
  }
  return best;
}

}  // namespace moptcore::inline v0::quant

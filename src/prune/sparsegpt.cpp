// SPDX-License-Identifier: Apache-2.0
#include <moptcore/prune/sparsegpt.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <sstream>
#include <string>
#include <vector>

#include <moptcore/core/parallel.hpp>
#include <moptcore/prune/mask.hpp>
#include <moptcore/prune/schedule.hpp>

#include "kernels/float_mode.hpp"
#include "kernels/mask_bits.hpp"
#include "kernels/product.hpp"
#include "kernels/strided.hpp"
#include "prune/inverse_root.hpp"
#include "prune/mask_store.hpp"
#include "prune/selection.hpp"

namespace moptcore::inline v0::prune {
namespace {

constexpr auto kWhere = "prune.sparsegpt";
constexpr std::int64_t kChunk = kernels::kScratch;
constexpr std::int64_t kRows = 16;  // of the weights that one block of work takes

void check_floating(const AnyView& tensor, const char* argument) {
  check<DTypeError>(is_floating(tensor.dtype()), kWhere,
                    std::string(argument) + " must be float64, float32, float16 or bfloat16",
                    name(tensor.dtype()));
}

std::vector<double> finite_values(const AnyView& tensor, const char* argument) {
  std::vector<double> values(static_cast<std::size_t>(tensor.size()));
  parallel_for(tensor.size(), kMaskGrain, [&](std::int64_t first, std::int64_t last) {
    kernels::load(tensor, first, last - first, values.data() + first);
  });
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (std::isfinite(values[i])) continue;
    std::ostringstream got;
    got << values[i] << " at flat index " << i;
    throw NonFiniteError(error_text(kWhere, std::string(argument) + " must be finite", got.str()));
  }
  return values;
}

void check_options(const AnyView& weights, const SparseGptOptions& o) {
  const int ways = (o.sparsity ? 1 : 0) + (o.pattern ? 1 : 0) + (o.mask ? 1 : 0);
  check(ways == 1, kWhere, "exactly one of sparsity, n and m, and mask must be given", ways);
  if (o.sparsity) {
    check(is_sparsity(*o.sparsity), kWhere, "sparsity must be in [0, 1)", *o.sparsity);
  }
  if (o.pattern) {
    check(o.pattern->m >= 1, kWhere, "m must be >= 1", o.pattern->m);
    check(o.pattern->n >= 1 && o.pattern->n <= o.pattern->m, kWhere, "n must be in [1, m]",
          o.pattern->n);
  }
  if (o.mask) check_mask(*o.mask, weights.shape(), kWhere, "mask");
  check(o.block_size >= 1, kWhere, "block_size must be >= 1", o.block_size);
  check(o.damping >= 0.0 && std::isfinite(o.damping), kWhere, "damping must be finite and >= 0",
        o.damping);
}

// Inputs, the inverse root of their damped Hessian, and which of them are always zero.
struct Inputs {
  Inputs(const AnyView& hessian, double damping)
      : n(hessian.shape()[0]),
        root(finite_values(hessian, "hessian")),
        dead(static_cast<std::size_t>(n)) {
    double mean = 0.0;
    double largest = 0.0;
    for (std::int64_t i = 0; i < n; ++i) {
      mean += at(i, i);
      largest = std::max(largest, std::fabs(at(i, i)));
    }
    mean /= static_cast<double>(n);
    for (std::int64_t i = 0; i < n; ++i) {
      dead[static_cast<std::size_t>(i)] = at(i, i) == 0.0 ? 1 : 0;
      for (std::int64_t j = 0; j < i; ++j) {
        // Wider than the rounding of any floating dtype that could hold such a matrix.
        if (!(std::fabs(at(i, j) - at(j, i)) <= 0x1p-6 * largest)) {
          std::ostringstream got;
          got << at(i, j) << " and " << at(j, i) << " at (" << i << ", " << j << ')';
          throw Error(error_text(kWhere, "hessian must be symmetric", got.str()));
        }
      }
    }
    for (std::int64_t i = 0; i < n; ++i) {
      if (dead[static_cast<std::size_t>(i)] != 0) {
        // On their own, so that they neither repair nor are repaired.
        for (std::int64_t j = 0; j < n; ++j) at(i, j) = at(j, i) = 0.0;
        at(i, i) = 1.0;
      } else {
        at(i, i) += damping * mean;
      }
    }
    const std::int64_t pivot = inverse_root(root.data(), n);
    check(pivot < 0, kWhere, "hessian must be positive definite once damped, raise damping",
          "a pivot <= 0 at input " + std::to_string(pivot));
  }

  [[nodiscard]] double& at(std::int64_t i, std::int64_t j) {
    return root[static_cast<std::size_t>(i * n + j)];
  }
  [[nodiscard]] double at(std::int64_t i, std::int64_t j) const {
    return root[static_cast<std::size_t>(i * n + j)];
  }

  std::int64_t n;
  std::vector<double> root;
  std::vector<std::uint8_t> dead;
};

class Pruning {
 public:
  Pruning(const AnyView& weights, const AnyView& hessian, const SparseGptOptions& options)
      : options_(options),
        rows_(weights.shape()[0]),
        cols_(weights.shape()[1]),
        values_(finite_values(weights, "weights")),
        inputs_(hessian, options.damping),
        kept_(weights.size()) {
    std::fill_n(kept_.data(), weights.size(), std::uint8_t{1});
    if (!options.mask) return;
    std::array<std::uint8_t, kChunk / 8> scratch;
    for (std::int64_t first = 0; first < weights.size(); first += kChunk) {
      const std::int64_t n = std::min(kChunk, weights.size() - first);
      kernels::unpack_bits(load_bits(*options.mask, first, n, scratch.data()), n,
                           kept_.data() + first, false);
    }
  }

  void run() {
    std::int64_t step = options_.block_size;
    if (options_.pattern) {
      const std::int64_t m = options_.pattern->m;
      step = std::max(m, step / m * m);
    }
    step = std::min(step, cols_);
    errors_.resize(static_cast<std::size_t>(rows_ * step));
    for (std::int64_t first = 0; first < cols_; first += step) {
      const std::int64_t last = std::min(cols_, first + step);
      if (options_.sparsity) choose(first, last);
      parallel_for(rows_, kRows, [&](std::int64_t begin, std::int64_t end) {
        const kernels::FloatMode float_mode;
        for (std::int64_t row = begin; row < end; ++row) repair_block(row, first, last);
        if (last == cols_) return;
        kernels::product_f64(end - begin, cols_ - last, last - first,
                             {errors_.data() + begin * (last - first), last - first, 1},
                             {inputs_.root.data() + first * cols_ + last, cols_, 1},
                             {values_.data() + begin * cols_ + last, cols_, 1});
      });
    }
  }

  void store(const MutableAnyView& out, const MutableAnyView& mask) const {
    parallel_for(rows_ * cols_, kMaskGrain, [&](std::int64_t first, std::int64_t last) {
      const kernels::FloatMode float_mode;
      kernels::store(values_.data() + first, first, last - first, out);
    });
    kept_.commit(mask);
  }

 private:
  [[nodiscard]] double score(std::int64_t row, std::int64_t col) const {
    if (inputs_.dead[static_cast<std::size_t>(col)] != 0) return -1.0;
    const double ratio =
        values_[static_cast<std::size_t>(row * cols_ + col)] / inputs_.at(col, col);
    return ratio * ratio;
  }

  // The zeros of one block of columns, over all rows.
  void choose(std::int64_t first, std::int64_t last) {
    const std::int64_t width = last - first;
    const std::int64_t zeros = zero_count(rows_ * last, *options_.sparsity) -
                               zero_count(rows_ * first, *options_.sparsity);
    if (zeros == 0) return;
    std::vector<double> scores(static_cast<std::size_t>(rows_ * width));
    parallel_for(rows_, kRows, [&](std::int64_t begin, std::int64_t end) {
      const kernels::FloatMode float_mode;
      for (std::int64_t row = begin; row < end; ++row) {
        for (std::int64_t col = first; col < last; ++col) {
          scores[static_cast<std::size_t>(row * width + col - first)] = score(row, col);
        }
      }
    });
    const AnyView view(scores.data(), DType::float64, Shape{rows_, width});
    Selection<std::int64_t> selection({Keys<std::int64_t>(view, Order::value, NonFinite::keep)});
    // Nothing is NaN that could be refused here.
    (void)selection.rank(zeros - 1);
    selection.prune_lowest(zeros);
    selection.store(0, MutableAnyView(kept_.data() + first, DType::boolean, Shape{rows_, width},
                                      Shape{cols_, 1}));
  }

  // The zeros of one group of a row: all but the n of largest score, of equal ones the first.
  void choose_group(std::int64_t row, std::int64_t first) const {
    const auto [n, m] = *options_.pattern;
    std::uint8_t* kept = kept_.data() + row * cols_;
    for (std::int64_t zeros = m - n; zeros > 0; --zeros) {
      std::int64_t least = -1;
      for (std::int64_t col = first; col < first + m; ++col) {
        if (kept[col] != 0 && (least < 0 || score(row, col) <= score(row, least))) least = col;
      }
      kept[least] = 0;
    }
  }

  // Prunes one row of a block and repairs the rest of the block; leaves minus the errors.
  void repair_block(std::int64_t row, std::int64_t first, std::int64_t last) {
    const std::int64_t width = last - first;
    double* values = values_.data() + row * cols_;
    double* errors = errors_.data() + row * width;
    const std::uint8_t* kept = kept_.data() + row * cols_;
    for (std::int64_t col = first; col < last; ++col) {
      if (options_.pattern && (col - first) % options_.pattern->m == 0 &&
          col + options_.pattern->m <= cols_) {
        choose_group(row, col);
      }
      errors[col - first] = 0.0;
      if (kept[col] != 0) continue;
      const double* root = inputs_.root.data() + col * cols_;
      const double error = -values[col] / root[col];
      errors[col - first] = error;
      values[col] = 0.0;
      for (std::int64_t j = col + 1; j < last; ++j) values[j] += error * root[j];
    }
  }

  const SparseGptOptions& options_;
  std::int64_t rows_;
  std::int64_t cols_;
  std::vector<double> values_;
  Inputs inputs_;
  ByteMask kept_;
  std::vector<double> errors_;
};

}  // namespace

void sparsegpt(const AnyView& weights, const AnyView& hessian, const MutableAnyView& out,
               const MutableAnyView& out_mask, const SparseGptOptions& options) {
  check_floating(weights, "weights");
  check_floating(hessian, "hessian");
  check(weights.rank() == 2, kWhere, "weights must have 2 dimensions, outputs and inputs",
        weights.shape());
  const Shape square{weights.shape()[1], weights.shape()[1]};
  std::ostringstream rule;
  rule << "hessian must have the shape " << square;
  check(hessian.shape() == square, kWhere, rule.str(), hessian.shape());
  check_options(weights, options);
  check<DTypeError>(out.dtype() == weights.dtype(), kWhere,
                    "out must have the dtype of weights, " + std::string(name(weights.dtype())),
                    name(out.dtype()));
  check(out.shape() == weights.shape(), kWhere, "out must have the shape of weights", out.shape());
  check_mask(out_mask, weights.shape(), kWhere, "out_mask");
  check_no_partial_overlap(weights, out, kWhere, "out");
  const auto [first, last] = extent_of(out);
  const auto [mask_first, mask_last] = extent_of(out_mask);
  check(last <= mask_first || mask_last <= first, kWhere, "out and out_mask must not overlap");
  if (weights.empty()) return;
  Pruning pruning(weights, hessian, options);
  pruning.run();
  pruning.store(out, out_mask);
}

}  // namespace moptcore::inline v0::prune

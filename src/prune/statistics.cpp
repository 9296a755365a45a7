// SPDX-License-Identifier: Apache-2.0
#include <moptcore/prune/statistics.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <sstream>
#include <string>

#include <moptcore/core/parallel.hpp>

#include "kernels/float_mode.hpp"
#include "kernels/product.hpp"
#include "kernels/strided.hpp"
#include "prune/axis.hpp"

namespace moptcore::inline v0::prune {
namespace {

constexpr std::int64_t kChunk = kernels::kScratch;
constexpr std::int64_t kGrain = 16 * kChunk;
constexpr std::int64_t kSamples = 256;  // that one product takes
constexpr std::int64_t kRows = 64;      // of the result that one block computes

void check_finite(const AnyView& view, const char* where, const char* argument) {
  // The least flat index, whichever block is read first.
  std::atomic<std::int64_t> found{view.size()};
  parallel_for(view.size(), kGrain, [&](std::int64_t begin, std::int64_t end) {
    std::array<double, kChunk> values;
    for (std::int64_t first = begin; first < end; first += kChunk) {
      const std::int64_t n = std::min(kChunk, end - first);
      kernels::load(view, first, n, values.data());
      for (std::int64_t i = 0; i < n; ++i) {
        if (std::isfinite(values[static_cast<std::size_t>(i)])) continue;
        std::int64_t least = found.load();
        while (first + i < least && !found.compare_exchange_weak(least, first + i)) {
        }
        return;
      }
    }
  });
  if (found.load() == view.size()) return;
  double value = 0.0;
  kernels::load(view, found.load(), 1, &value);
  std::ostringstream got;
  got << value << " at flat index " << found.load();
  throw NonFiniteError(error_text(where, std::string(argument) + " must be finite", got.str()));
}

// The inputs as samples times features.
AnyView check_inputs(const AnyView& inputs, std::int64_t axis, std::int64_t features,
                     const char* where) {
  check<DTypeError>(is_floating(inputs.dtype()), where,
                    "inputs must be float64, float32, float16 or bfloat16", name(inputs.dtype()));
  const int at = normalize_axis(axis, inputs.rank(), where);
  check(inputs.shape()[at] == features, where,
        "inputs must have " + std::to_string(features) + " features along axis " +
            std::to_string(axis),
        inputs.shape());
  check_finite(inputs, where, "inputs");
  return move_axis(inputs, at, inputs.rank() - 1);
}

}  // namespace

InputNorm::InputNorm(std::int64_t features) {
  check(features >= 1, "prune.InputNorm", "features must be >= 1", features);
  sums_.assign(static_cast<std::size_t>(features), 0.0);
}

void InputNorm::update(const AnyView& inputs, std::int64_t axis) {
  const std::int64_t features = this->features();
  const AnyView samples = check_inputs(inputs, axis, features, "prune.InputNorm.update");
  const std::int64_t count = samples.size() / features;
  const std::int64_t grain = std::max<std::int64_t>(1, kGrain / features);
  std::vector<std::vector<double>> blocks(static_cast<std::size_t>(block_count(count, grain)));
  parallel_blocks(count, grain, [&](std::int64_t block, std::int64_t begin, std::int64_t end) {
    const kernels::FloatMode float_mode;
    auto& sums = blocks[static_cast<std::size_t>(block)];
    sums.assign(static_cast<std::size_t>(features), 0.0);
    std::array<double, kChunk> values;
    for (std::int64_t sample = begin; sample < end; ++sample) {
      for (std::int64_t at = 0; at < features; at += kChunk) {
        const std::int64_t n = std::min(kChunk, features - at);
        kernels::load(samples, sample * features + at, n, values.data());
        for (std::int64_t i = 0; i < n; ++i) {
          sums[static_cast<std::size_t>(at + i)] += values[i] * values[i];
        }
      }
    }
  });
  const kernels::FloatMode float_mode;
  for (const auto& sums : blocks) {
    for (std::size_t i = 0; i < sums.size(); ++i) sums_[i] += sums[i];
  }
  count_ += count;
}

void InputNorm::merge(const InputNorm& other) {
  check(other.features() == features(), "prune.InputNorm.merge",
        "other must have " + std::to_string(features()) + " features", other.features());
  const kernels::FloatMode float_mode;
  for (std::size_t i = 0; i < sums_.size(); ++i) sums_[i] += other.sums_[i];
  count_ += other.count_;
}

std::vector<double> InputNorm::norm() const {
  std::vector<double> result(sums_.size());
  std::ranges::transform(sums_, result.begin(), [](double sum) { return std::sqrt(sum); });
  return result;
}

InputNorm InputNorm::restore(std::span<const double> sums, std::int64_t count) {
  constexpr auto where = "prune.InputNorm.restore";
  check(count >= 0, where, "count must be >= 0", count);
  for (const double sum : sums) {
    check(sum >= 0.0 && std::isfinite(sum), where, "sums must be finite and >= 0", sum);
  }
  InputNorm result(static_cast<std::int64_t>(sums.size()));
  std::ranges::copy(sums, result.sums_.begin());
  result.count_ = count;
  return result;
}

InputHessian::InputHessian(std::int64_t features) : features_(features) {
  check(features >= 1 && features <= 65536, "prune.InputHessian", "features must be in [1, 65536]",
        features);
  sums_.assign(static_cast<std::size_t>(features * features), 0.0);
}

void InputHessian::update(const AnyView& inputs, std::int64_t axis) {
  const std::int64_t features = features_;
  const AnyView samples = check_inputs(inputs, axis, features, "prune.InputHessian.update");
  const std::int64_t count = samples.size() / features;
  std::vector<double> buffer(static_cast<std::size_t>(std::min(kSamples, count) * features));
  double* const x = buffer.data();
  for (std::int64_t first = 0; first < count; first += kSamples) {
    const std::int64_t n = std::min(kSamples, count - first);
    parallel_for(n * features, kGrain, [&](std::int64_t begin, std::int64_t end) {
      kernels::load(samples, first * features + begin, end - begin, x + begin);
    });
    parallel_for(features, kRows, [&](std::int64_t begin, std::int64_t end) {
      const kernels::FloatMode float_mode;
      kernels::product_f64(end - begin, end, n, {x + begin, 1, features}, {x, features, 1},
                           {sums_.data() + begin * features, features, 1});
    });
  }
  count_ += count;
}

void InputHessian::merge(const InputHessian& other) {
  check(other.features_ == features_, "prune.InputHessian.merge",
        "other must have " + std::to_string(features_) + " features", other.features_);
  const kernels::FloatMode float_mode;
  for (std::size_t i = 0; i < sums_.size(); ++i) sums_[i] += other.sums_[i];
  count_ += other.count_;
}

void InputHessian::hessian(const MutableAnyView& out) const {
  constexpr auto where = "prune.InputHessian.hessian";
  check<DTypeError>(is_floating(out.dtype()), where,
                    "out must be float64, float32, float16 or bfloat16", name(out.dtype()));
  const Shape square{features_, features_};
  std::ostringstream rule;
  rule << "out must have the shape " << square;
  check(out.shape() == square, where, rule.str(), out.shape());
  parallel_for(features_, kRows, [&](std::int64_t begin, std::int64_t end) {
    const kernels::FloatMode float_mode;
    std::vector<double> row(static_cast<std::size_t>(features_));
    for (std::int64_t i = begin; i < end; ++i) {
      for (std::int64_t j = 0; j < features_; ++j) {
        const std::int64_t at = std::max(i, j) * features_ + std::min(i, j);
        row[static_cast<std::size_t>(j)] = 2.0 * sums_[static_cast<std::size_t>(at)];
      }
      kernels::store(row.data(), i * features_, features_, out);
    }
  });
}

InputHessian InputHessian::restore(const AnyView& sums, std::int64_t count) {
  constexpr auto where = "prune.InputHessian.restore";
  check<DTypeError>(is_floating(sums.dtype()), where,
                    "sums must be float64, float32, float16 or bfloat16", name(sums.dtype()));
  check(sums.rank() == 2 && sums.shape()[0] == sums.shape()[1], where,
        "sums must be a square matrix", sums.shape());
  check(count >= 0, where, "count must be >= 0", count);
  check_finite(sums, where, "sums");
  InputHessian result(sums.shape()[0]);
  kernels::load(sums, 0, sums.size(), result.sums_.data());
  result.count_ = count;
  return result;
}

}  // namespace moptcore::inline v0::prune

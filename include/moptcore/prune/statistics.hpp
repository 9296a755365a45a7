// SPDX-License-Identifier: Apache-2.0
// What a layer's inputs tell about its weights, gathered batch by batch in double. Statistics of
// parts of the data add up to those of the whole.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <moptcore/core/export.hpp>
#include <moptcore/core/tensor_view.hpp>

namespace moptcore::inline v0::prune {

/// Sum of the squares of each input feature: what wanda_score() needs.
class MOPTCORE_API InputNorm {
 public:
  /// `features` >= 1.
  explicit InputNorm(std::int64_t features);

  /// Adds inputs with the features along `axis`; everything else counts as samples. Throws
  /// NonFiniteError for NaN and infinity, changing nothing.
  void update(const AnyView& inputs, std::int64_t axis = -1);

  /// Adds what another one of as many features has seen.
  void merge(const InputNorm& other);

  /// The Euclidean norm of each feature over all samples.
  [[nodiscard]] std::vector<double> norm() const;

  [[nodiscard]] std::int64_t features() const noexcept {
    return static_cast<std::int64_t>(sums_.size());
  }
  [[nodiscard]] std::int64_t count() const noexcept { return count_; }  ///< samples seen
  [[nodiscard]] std::span<const double> sums() const noexcept { return sums_; }

  /// The statistic that had these sums of squares >= 0 and this many samples.
  [[nodiscard]] static InputNorm restore(std::span<const double> sums, std::int64_t count);

 private:
  std::vector<double> sums_;
  std::int64_t count_ = 0;
};

/// Sum of x x^T over the samples: what sparsegpt() and obs_score() need, 8 features^2 bytes.
class MOPTCORE_API InputHessian {
 public:
  /// `features` in [1, 65536].
  explicit InputHessian(std::int64_t features);

  /// As InputNorm::update().
  void update(const AnyView& inputs, std::int64_t axis = -1);
  void merge(const InputHessian& other);

  /// Writes 2 X^T X, the Hessian of the summed squared error of one output with respect to its
  /// weights, as a [features, features] matrix of any floating dtype.
  void hessian(const MutableAnyView& out) const;

  [[nodiscard]] std::int64_t features() const noexcept { return features_; }
  [[nodiscard]] std::int64_t count() const noexcept { return count_; }  ///< samples seen

  /// Row-major, of which the entries above the diagonal are unspecified.
  [[nodiscard]] std::span<const double> sums() const noexcept { return sums_; }

  /// The statistic whose X^T X this is, of which only the lower triangle is read.
  [[nodiscard]] static InputHessian restore(const AnyView& sums, std::int64_t count);

 private:
  std::int64_t features_;
  std::vector<double> sums_;
  std::int64_t count_ = 0;
};

}  // namespace moptcore::inline v0::prune

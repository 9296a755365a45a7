// SPDX-License-Identifier: Apache-2.0
// A convolution as a sequence of cheaper ones. Weights are [out, in, kh, kw], and the smaller
// convolutions are listed in the order in which they are applied. Link moptcore::runtime.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include <moptcore/core/export.hpp>
#include <moptcore/core/tensor_view.hpp>
#include <moptcore/lowrank/svd.hpp>

namespace moptcore::inline v0::lowrank {

/// Weights of convolutions in a row, in double precision.
class MOPTCORE_API Sequence {
 public:
  [[nodiscard]] std::size_t size() const noexcept { return shapes_.size(); }
  [[nodiscard]] const Shape& shape(std::size_t index) const { return shapes_.at(index); }

  /// The square root of the share of the squared norm that is lost.
  [[nodiscard]] double relative_error() const noexcept { return relative_error_; }

  /// Writes factor `index` into a tensor of its shape and any floating dtype and strides.
  void write(std::size_t index, const MutableAnyView& dst) const;

  /// Takes factors made elsewhere: `values[i]` is row-major of `shapes[i]`.
  Sequence(std::vector<Shape> shapes, std::vector<std::vector<double>> values,
           double relative_error);

 private:
  friend MOPTCORE_API Sequence reconstruct(const std::vector<AnyView>& factors);

  std::vector<Shape> shapes_;
  std::vector<std::vector<double>> values_;
  double relative_error_;
};

/// [r, in, kh, kw] and [out, r, 1, 1]: the truncated SVD of the weight as [out, in kh kw].
/// `whiten` is the second moment of the patches, [in kh kw, in kh kw] in the order of the weight.
[[nodiscard]] MOPTCORE_API Sequence channel_svd(const AnyView& w, const FactorizeOptions& options);

/// [r, in, kh, 1] and [out, r, 1, kw]: the truncated SVD of the weight as [in kh, out kw].
/// Jaderberg et al., "Speeding up convolutional neural networks with low rank expansions", 2014.
[[nodiscard]] MOPTCORE_API Sequence spatial_svd(const AnyView& w, const FactorizeOptions& options);

struct TuckerOptions {
  /// Ranks (out, in); or one of energy, params and error of `budget`, whose rank stays empty.
  std::optional<std::pair<std::int64_t, std::int64_t>> ranks;
  Budget budget;
  std::int64_t iterations = 10;  ///< at most so many sweeps of orthogonal iteration, >= 0
};

/// [r_in, in, 1, 1], [r_out, r_in, kh, kw] and [out, r_out, 1, 1]: the Tucker-2 decomposition, by
/// higher-order SVD and orthogonal iteration. Kim et al., "Compression of deep convolutional
/// neural networks for fast and low power mobile applications", 2016.
///
/// Ranks by budget are the best of all pairs by what the higher-order SVD keeps: fewest
/// parameters for the energy or error, most energy for the parameters; the iteration only adds
/// energy. Throws Error for ranks with which the factors hold as much as the weight.
[[nodiscard]] MOPTCORE_API Sequence tucker2(const AnyView& w, const TuckerOptions& options);

/// Ranks (out, in) of tucker2, what the factors hold, and the share of the squared norm that the
/// higher-order SVD of these ranks loses; orthogonal iteration only makes that less.
struct TuckerChoice {
  std::pair<std::int64_t, std::int64_t> ranks;
  Choice choice;
};

/// All pairs of ranks worth taking, by parameters: each makes w smaller, and loses less than every
/// pair with as many parameters or fewer. Empty where no pair makes w smaller.
[[nodiscard]] MOPTCORE_API std::vector<TuckerChoice> tucker2_choices(const AnyView& w);

/// What applying `factors` in a row computes, as one weight (stride and padding apart): kernel
/// extents add up, minus one each. Or u [m, r] and v [r, n]: their product u v.
[[nodiscard]] MOPTCORE_API Sequence reconstruct(const std::vector<AnyView>& factors);

}  // namespace moptcore::inline v0::lowrank

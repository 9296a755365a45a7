// SPDX-License-Identifier: Apache-2.0
// The functions of moptcore with results as Eigen arrays of the argument's extents and storage
// order. Each computes what the function of the same name and namespace does that writes into the
// caller's memory. Link moptcore::eigen.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>

#include <moptcore/core/eigen.hpp>
#include <moptcore/moptcore.hpp>

namespace moptcore::inline v0 {

namespace detail {

template <class T, EigenContainer C>
[[nodiscard]] EigenLike<C, T> make_like(const C& like) {
  return EigenLike<C, T>(like.rows(), like.cols());
}

}  // namespace detail

namespace prune {

template <EigenContainer C>
[[nodiscard]] EigenLike<C, bool> magnitude_mask(const C& weights, double sparsity,
                                                const MaskOptions& options = {}) {
  auto mask = moptcore::detail::make_like<bool>(weights);
  magnitude_mask(AnyView(weights), sparsity, MutableAnyView(mask), options);
  return mask;
}

/// One element for each slice along options.axis.
template <EigenContainer C>
[[nodiscard]] Eigen::Array<bool, Eigen::Dynamic, 1> structured_mask(
    const C& weights, double sparsity, const StructuredOptions& options = {}) {
  const int axis = normalize_axis(options.axis, 2, "prune.structured_mask");
  Eigen::Array<bool, Eigen::Dynamic, 1> mask(axis == 0 ? weights.rows() : weights.cols());
  structured_mask(AnyView(weights), sparsity, TensorView<bool>(mask.data(), Shape{mask.size()}),
                  options);
  return mask;
}

template <EigenContainer C>
[[nodiscard]] EigenLike<C, bool> block_mask(const C& weights, double sparsity,
                                            const BlockOptions& options = {}) {
  auto mask = moptcore::detail::make_like<bool>(weights);
  block_mask(AnyView(weights), sparsity, MutableAnyView(mask), options);
  return mask;
}

template <EigenContainer C>
[[nodiscard]] EigenLike<C, bool> nm_mask(const C& weights, std::int64_t n, std::int64_t m,
                                         const NmOptions& options = {}) {
  auto mask = moptcore::detail::make_like<bool>(weights);
  nm_mask(AnyView(weights), n, m, MutableAnyView(mask), options);
  return mask;
}

template <EigenContainer C, EigenContainer M>
[[nodiscard]] EigenLike<C, typename C::Scalar> apply_mask(const C& weights, const M& mask) {
  auto out = moptcore::detail::make_like<typename C::Scalar>(weights);
  apply_mask(AnyView(weights), AnyView(mask), MutableAnyView(out));
  return out;
}

}  // namespace prune

namespace quant {

/// Q is the C++ type of params.dtype(), std::int8_t for int8.
template <class Q, EigenContainer C>
[[nodiscard]] EigenLike<C, Q> quantize(const C& x, const QParams& params,
                                       NonFinite nonfinite = NonFinite::error) {
  auto out = moptcore::detail::make_like<Q>(x);
  quantize(AnyView(x), params, MutableAnyView(out), nonfinite);
  return out;
}

template <class T = float, EigenContainer C>
[[nodiscard]] EigenLike<C, T> dequantize(const C& q, const QParams& params) {
  auto out = moptcore::detail::make_like<T>(q);
  dequantize(AnyView(q), params, MutableAnyView(out));
  return out;
}

template <EigenContainer C>
[[nodiscard]] EigenLike<C, typename C::Scalar> fake_quantize(
    const C& x, const QParams& params, NonFinite nonfinite = NonFinite::propagate) {
  auto out = moptcore::detail::make_like<typename C::Scalar>(x);
  fake_quantize(AnyView(x), params.view(), MutableAnyView(out), {}, nonfinite);
  return out;
}

}  // namespace quant

namespace distill {

template <EigenContainer C>
struct EigenLoss {
  double loss;
  EigenLike<C, typename C::Scalar> grad;  ///< by the student
};

/// Rows of logits [rows, classes]; see flat_view for labels in an Eigen vector.
template <EigenContainer S, EigenContainer T>
[[nodiscard]] EigenLoss<S> soft_target_loss(const S& student, const T& teacher,
                                            const std::optional<AnyView>& labels = std::nullopt,
                                            const SoftTargetOptions& options = {}) {
  auto grad = moptcore::detail::make_like<typename S::Scalar>(student);
  const double loss =
      soft_target_loss(AnyView(student), AnyView(teacher), labels, options, MutableAnyView(grad));
  return {loss, std::move(grad)};
}

template <EigenContainer S, EigenContainer T>
[[nodiscard]] EigenLoss<S> feature_loss(const S& student, const T& teacher) {
  auto grad = moptcore::detail::make_like<typename S::Scalar>(student);
  const double loss = feature_loss(AnyView(student), AnyView(teacher), MutableAnyView(grad));
  return {loss, std::move(grad)};
}

}  // namespace distill

}  // namespace moptcore::inline v0

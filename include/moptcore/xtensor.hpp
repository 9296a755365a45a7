// SPDX-License-Identifier: Apache-2.0
// The functions of moptcore with results as xt::xarray. Each computes what the function of the
// same name and namespace does that writes into the caller's memory. Link moptcore::xtensor.
#pragma once

#include <cstdint>
#include <optional>

#include <moptcore/core/xtensor.hpp>
#include <moptcore/moptcore.hpp>

namespace moptcore::inline v0 {

namespace prune {

template <XtensorContainer C>
[[nodiscard]] xt::xarray<bool> magnitude_mask(const C& weights, double sparsity,
                                              const MaskOptions& options = {}) {
  const AnyView view(weights);
  auto mask = make_xarray<bool>(view.shape());
  magnitude_mask(view, sparsity, mask, options);
  return mask;
}

/// One element for each slice along options.axis.
template <XtensorContainer C>
[[nodiscard]] xt::xarray<bool> structured_mask(const C& weights, double sparsity,
                                               const StructuredOptions& options = {}) {
  const AnyView view(weights);
  const int axis = normalize_axis(options.axis, view.rank(), "prune.structured_mask");
  auto mask = make_xarray<bool>(Shape{view.shape()[axis]});
  structured_mask(view, sparsity, mask, options);
  return mask;
}

template <XtensorContainer C>
[[nodiscard]] xt::xarray<bool> block_mask(const C& weights, double sparsity,
                                          const BlockOptions& options = {}) {
  const AnyView view(weights);
  auto mask = make_xarray<bool>(view.shape());
  block_mask(view, sparsity, mask, options);
  return mask;
}

template <XtensorContainer C>
[[nodiscard]] xt::xarray<bool> nm_mask(const C& weights, std::int64_t n, std::int64_t m,
                                       const NmOptions& options = {}) {
  const AnyView view(weights);
  auto mask = make_xarray<bool>(view.shape());
  nm_mask(view, n, m, mask, options);
  return mask;
}

template <XtensorContainer C, XtensorContainer M>
[[nodiscard]] xt::xarray<XtensorValue<C>> apply_mask(const C& weights, const M& mask) {
  const AnyView view(weights);
  auto out = make_xarray<XtensorValue<C>>(view.shape());
  apply_mask(view, mask, out);
  return out;
}

}  // namespace prune

namespace quant {

/// Q is the C++ type of params.dtype(), std::int8_t for int8.
template <class Q, XtensorContainer C>
[[nodiscard]] xt::xarray<Q> quantize(const C& x, const QParams& params,
                                     NonFinite nonfinite = NonFinite::error) {
  const AnyView view(x);
  auto out = make_xarray<Q>(view.shape());
  quantize(view, params, MutableAnyView(out), nonfinite);
  return out;
}

template <class T = float, XtensorContainer C>
[[nodiscard]] xt::xarray<T> dequantize(const C& q, const QParams& params) {
  const AnyView view(q);
  auto out = make_xarray<T>(view.shape());
  dequantize(view, params, MutableAnyView(out));
  return out;
}

template <XtensorContainer C>
[[nodiscard]] xt::xarray<XtensorValue<C>> fake_quantize(
    const C& x, const QParams& params, NonFinite nonfinite = NonFinite::propagate) {
  const AnyView view(x);
  auto out = make_xarray<XtensorValue<C>>(view.shape());
  fake_quantize(view, params.view(), MutableAnyView(out), {}, nonfinite);
  return out;
}

}  // namespace quant

namespace distill {

template <class T>
struct XtensorLoss {
  double loss;
  xt::xarray<T> grad;  ///< by the student
};

template <XtensorContainer S, XtensorContainer T>
[[nodiscard]] XtensorLoss<XtensorValue<S>> soft_target_loss(
    const S& student, const T& teacher, const std::optional<AnyView>& labels = std::nullopt,
    const SoftTargetOptions& options = {}) {
  const AnyView view(student);
  auto grad = make_xarray<XtensorValue<S>>(view.shape());
  const double loss = soft_target_loss(view, AnyView(teacher), labels, options, grad);
  return {loss, std::move(grad)};
}

template <XtensorContainer S, XtensorContainer T>
[[nodiscard]] XtensorLoss<XtensorValue<S>> feature_loss(const S& student, const T& teacher) {
  const AnyView view(student);
  auto grad = make_xarray<XtensorValue<S>>(view.shape());
  const double loss = feature_loss(view, AnyView(teacher), MutableAnyView(grad));
  return {loss, std::move(grad)};
}

}  // namespace distill

}  // namespace moptcore::inline v0

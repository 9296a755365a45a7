// SPDX-License-Identifier: Apache-2.0
#include <moptcore/runtime/quantize.hpp>

#include <algorithm>
#include <cstdint>
#include <sstream>
#include <string>

#include <moptcore/core/parallel.hpp>

#include "kernels/onednn/reorder.hpp"
#include "runtime/refusal.hpp"

namespace moptcore::inline v0::runtime {
namespace {

using kernels::onednn::Grouped;

constexpr std::int64_t kGrain = 1 << 16;

void check_integers(const AnyView& view, const QParams& params, const char* where,
                    const char* argument) {
  check<UnsupportedError>(params.dtype() == DType::int8 || params.dtype() == DType::uint8, where,
                          "backend onednn takes int8 and uint8", name(params.dtype()));
  check<DTypeError>(view.dtype() == params.dtype(), where,
                    std::string(argument) + " must have dtype " + std::string(name(params.dtype())),
                    name(view.dtype()));
  check<UnsupportedError>(view.is_contiguous(), where,
                          "backend onednn takes contiguous tensors, strides", view.strides());
}

void check_floats(const AnyView& view, const char* where) {
  check<UnsupportedError>(view.dtype() == DType::float32, where, "backend onednn takes float32",
                          name(view.dtype()));
  check<UnsupportedError>(view.is_contiguous(), where,
                          "backend onednn takes contiguous tensors, strides", view.strides());
}

// The tensor as [outer, channels, inner] around the axis of the scales.
Grouped grouped(const Shape& shape, const QParams& params, const char* where) {
  if (!params.axis()) return {1, 1, element_count(shape)};
  check<UnsupportedError>(!params.group_size(), where, "backend onednn takes no group_size",
                          params.group_size().value_or(0));
  const int axis = normalize_axis(*params.axis(), shape.rank(), where);
  check(shape[axis] == params.size(), where,
        "scale must have the axis's extent " + std::to_string(shape[axis]), params.size());
  Grouped result{1, shape[axis], 1};
  for (int i = 0; i < shape.rank(); ++i) {
    if (i < axis) result.outer *= shape[i];
    if (i > axis) result.inner *= shape[i];
  }
  return result;
}

std::int32_t one_zero_point(const QParams& params, const char* where) {
  const auto& all = params.zero_point();
  check<UnsupportedError>(std::ranges::all_of(all, [&](std::int32_t z) { return z == all[0]; }),
                          where, "backend onednn takes one zero_point for all channels");
  return all[0];
}

void check_shapes(const AnyView& src, const AnyView& dst, const char* where) {
  std::ostringstream rule;
  rule << "out must have shape " << src.shape();
  check(dst.shape() == src.shape(), where, rule.str(), dst.shape());
  check_no_partial_overlap(src, dst, where, "out");
}

void check_no_nan(const AnyView& src, const char* where) {
  const auto* data = static_cast<const float*>(src.data());
  parallel_for(src.size(), kGrain, [&](std::int64_t first, std::int64_t last) {
    bool found = false;
    for (std::int64_t i = first; i < last; ++i) found |= data[i] != data[i];
    check<NonFiniteError>(!found, where, "x must not contain NaN");
  });
}

// oneDNN saturates to the dtype; a narrower range is applied afterwards.
template <class Q>
void narrow(Q* data, std::int64_t n, const QParams& params) {
  const auto [least, greatest] = integer_range(params.dtype());
  if (params.qmin() == least && params.qmax() == greatest) return;
  const auto low = static_cast<Q>(params.qmin());
  const auto high = static_cast<Q>(params.qmax());
  parallel_for(n, kGrain, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) data[i] = std::clamp(data[i], low, high);
  });
}

}  // namespace

std::string onednn_version() { return kernels::onednn::version(); }

void quantize(const AnyView& src, const QParams& params, const MutableAnyView& dst) {
  constexpr auto where = "quant.quantize";
  check_floats(src, where);
  check_integers(dst, params, where, "out");
  check_shapes(src, dst, where);
  const Grouped shape = grouped(src.shape(), params, where);
  const std::int32_t zero_point = one_zero_point(params, where);
  check_no_nan(src, where);
  if (src.empty()) return;
  const bool is_signed = params.dtype() == DType::int8;
  or_refusal(where, [&] {
    kernels::onednn::quantize_f32(static_cast<const float*>(src.data()), shape, params.scale(),
                                  zero_point, is_signed, dst.data());
  });
  if (is_signed) narrow(static_cast<std::int8_t*>(dst.data()), dst.size(), params);
  else narrow(static_cast<std::uint8_t*>(dst.data()), dst.size(), params);
}

void dequantize(const AnyView& src, const QParams& params, const MutableAnyView& dst) {
  constexpr auto where = "quant.dequantize";
  check_integers(src, params, where, "q");
  check_floats(dst, where);
  check_shapes(src, dst, where);
  const Grouped shape = grouped(src.shape(), params, where);
  const std::int32_t zero_point = one_zero_point(params, where);
  if (src.empty()) return;
  or_refusal(where, [&] {
    kernels::onednn::dequantize_f32(src.data(), shape, params.scale(), zero_point,
                                    params.dtype() == DType::int8, static_cast<float*>(dst.data()));
  });
}

}  // namespace moptcore::inline v0::runtime

// SPDX-License-Identifier: Apache-2.0
#include "kernels/onednn/primitive.hpp"

#include <algorithm>
#include <stdexcept>

#include "kernels/onednn/engine.hpp"

namespace moptcore::inline v0::kernels::onednn {
namespace {

using dnnl::algorithm;
using dnnl::memory;
using dnnl::prop_kind;

constexpr auto kInference = prop_kind::forward_inference;

memory::dims minus_one(const std::vector<std::int64_t>& dilation) {
  memory::dims result(dilation);
  for (auto& each : result) each -= 1;
  return result;
}

Shape grouped_shape(const ConvolutionShape& shape) {
  if (shape.groups == 1 && !shape.transposed) return shape.weight;
  // [groups, out, in, ...]; ConvTranspose's weight is [in, out / groups, ...].
  Shape result;
  if (shape.groups > 1) result.push_back(shape.groups);
  if (shape.transposed) {
    result.push_back(shape.weight[1]);
    result.push_back(shape.weight[0] / shape.groups);
  } else {
    result.push_back(shape.weight[0] / shape.groups);
    result.push_back(shape.weight[1]);
  }
  for (int axis = 2; axis < shape.weight.rank(); ++axis) result.push_back(shape.weight[axis]);
  return result;
}

template <class Description>
Layout output_of(const Description& plan, const Shape& shape) {
  return layout_of(plan.dst_desc(), shape);
}

template <class Kind, class Description>
PrimitivePtr finish_convolution(const Description& plan, const Layout& x,
                                const ConvolutionShape& shape, bool bias,
                                std::span<const Post> posts) {
  if (is_slow(plan.impl_info_str())) return nullptr;
  std::vector<std::pair<int, Layout>> inputs;
  inputs.emplace_back(DNNL_ARG_SRC, layout_of(plan.src_desc(), x.shape()));
  inputs.emplace_back(DNNL_ARG_WEIGHTS, layout_of(plan.weights_desc(), grouped_shape(shape)));
  if (bias) inputs.emplace_back(DNNL_ARG_BIAS, Layout(Shape{shape.output[1]}));
  return wrap(Kind(plan), std::move(inputs), {DNNL_ARG_DST, output_of(plan, shape.output)},
              plan.scratchpad_desc(), posts, plan.impl_info_str());
}

// oneDNN lays out the operand of a post as the result; which one that is is known only after the
// primitive has been described once without it.
std::vector<Post> with_operands_like(std::span<const Post> posts, const Layout& output) {
  std::vector<Post> result(posts.begin(), posts.end());
  for (Post& post : result) {
    if (is_binary(post.algorithm) && post.operand.shape() == output.shape()) post.operand = output;
  }
  return result;
}

std::vector<Post> without_operands(std::span<const Post> posts) {
  std::vector<Post> result;
  for (const Post& post : posts) {
    if (!is_binary(post.algorithm)) result.push_back(post);
  }
  return result;
}

}  // namespace

Layout grouped_weight(const ConvolutionShape& shape) {
  const Shape whole = grouped_shape(shape);
  if (!shape.transposed) return Layout(whole);
  // [groups, out, in, ...] over memory of [groups, in, out, ...].
  Shape strides = contiguous_strides(whole);
  const int out = shape.groups > 1 ? 1 : 0;
  std::int64_t pixels = 1;
  for (int axis = out + 2; axis < whole.rank(); ++axis) pixels *= whole[axis];
  strides[out] = pixels;
  strides[out + 1] = pixels * whole[out];
  return Layout(whole, strides);
}

PrimitivePtr convolution(const Layout& x, const ConvolutionShape& shape, bool bias,
                         std::span<const Post> given) {
  return prepared([&]() -> PrimitivePtr {
    const memory::desc weight = any_of(grouped_shape(shape));
    const memory::desc shift =
        bias ? memory::desc({shape.output[1]}, memory::data_type::f32, memory::format_tag::a)
             : memory::desc();
    // Images of few channels are read as they are by the kernels for first layers.
    const bool as_is = x.shape()[1] <= 4 && shape.groups == 1 && x.is_row_major();
    const memory::desc source = as_is ? desc_of(x) : any_of(x.shape());
    const auto describe = [&](std::span<const Post> posts, const memory::desc& dst) {
      if (shape.transposed) return dnnl::convolution_forward::primitive_desc();
      return dnnl::convolution_forward::primitive_desc(
          cpu(), kInference, algorithm::convolution_direct, source, weight, shift, dst,
          shape.stride, minus_one(shape.dilation), shape.before, shape.after, attributes_of(posts));
    };
    if (shape.transposed) {
      const auto plan_of = [&](std::span<const Post> posts, const memory::desc& dst) {
        return dnnl::deconvolution_forward::primitive_desc(
            cpu(), kInference, algorithm::deconvolution_direct, source, weight, shift, dst,
            shape.stride, minus_one(shape.dilation), shape.before, shape.after,
            attributes_of(posts));
      };
      const auto free = plan_of(without_operands(given), any_of(shape.output));
      const auto posts = with_operands_like(given, output_of(free, shape.output));
      const auto plan = plan_of(posts, free.dst_desc());
      return finish_convolution<dnnl::deconvolution_forward>(plan, x, shape, bias, posts);
    }
    const auto free = describe(without_operands(given), any_of(shape.output));
    const auto posts = with_operands_like(given, output_of(free, shape.output));
    const auto plan = describe(posts, free.dst_desc());
    return finish_convolution<dnnl::convolution_forward>(plan, x, shape, bias, posts);
  });
}

PrimitivePtr inner_product(const Layout& x, const Shape& weight, bool bias,
                           std::span<const Post> posts) {
  return prepared([&]() -> PrimitivePtr {
    const Shape output{x.shape()[0], weight[0]};
    const memory::desc shift =
        bias ? memory::desc({weight[0]}, memory::data_type::f32, memory::format_tag::a)
             : memory::desc();
    const dnnl::inner_product_forward::primitive_desc plan(
        cpu(), kInference, desc_of(x), any_of(weight), shift, desc_of(Layout(output)),
        attributes_of(posts));
    if (is_slow(plan.impl_info_str())) return nullptr;
    std::vector<std::pair<int, Layout>> inputs;
    inputs.emplace_back(DNNL_ARG_SRC, x);
    inputs.emplace_back(DNNL_ARG_WEIGHTS, layout_of(plan.weights_desc(), weight));
    if (bias) inputs.emplace_back(DNNL_ARG_BIAS, Layout(Shape{weight[0]}));
    return wrap(dnnl::inner_product_forward(plan), std::move(inputs),
                {DNNL_ARG_DST, output_of(plan, output)}, plan.scratchpad_desc(), posts,
                plan.impl_info_str());
  });
}

PrimitivePtr matmul(const Layout& a, const Layout& b, const Layout& output,
                    std::span<const Post> posts) {
  return prepared([&]() -> PrimitivePtr {
    const dnnl::matmul::primitive_desc plan(cpu(), desc_of(a), desc_of(b), desc_of(output),
                                            attributes_of(posts));
    if (is_slow(plan.impl_info_str())) return nullptr;
    return wrap(dnnl::matmul(plan), {{DNNL_ARG_SRC, a}, {DNNL_ARG_WEIGHTS, b}},
                {DNNL_ARG_DST, output}, plan.scratchpad_desc(), posts, plan.impl_info_str());
  });
}

PrimitivePtr pool(const Layout& x, const PoolShape& shape) {
  return prepared([&]() -> PrimitivePtr {
    const auto kind = shape.maximum         ? algorithm::pooling_max
                      : shape.count_padding ? algorithm::pooling_avg_include_padding
                                            : algorithm::pooling_avg_exclude_padding;
    const dnnl::pooling_forward::primitive_desc plan(
        cpu(), kInference, kind, desc_of(x), any_of(shape.output), shape.stride, shape.kernel,
        minus_one(shape.dilation), shape.before, shape.after, attributes_of({}));
    if (is_slow(plan.impl_info_str())) return nullptr;
    return wrap(dnnl::pooling_forward(plan), {{DNNL_ARG_SRC, x}},
                {DNNL_ARG_DST, output_of(plan, shape.output)}, plan.scratchpad_desc(), {},
                plan.impl_info_str());
  });
}

PrimitivePtr elementwise(const Layout& x, std::span<const Post> posts) {
  return prepared([&]() -> PrimitivePtr {
    const Post& first = posts.front();
    const std::span<const Post> rest = posts.subspan(1);
    if (is_binary(first.algorithm)) {
      const dnnl::binary::primitive_desc plan(cpu(), algorithm_of(first.algorithm), desc_of(x),
                                              desc_of(first.operand), desc_of(x),
                                              attributes_of(rest));
      if (is_slow(plan.impl_info_str())) return nullptr;
      return wrap(dnnl::binary(plan), {{DNNL_ARG_SRC_0, x}, {DNNL_ARG_SRC_1, first.operand}},
                  {DNNL_ARG_DST, x}, plan.scratchpad_desc(), rest, plan.impl_info_str(), true);
    }
    const dnnl::eltwise_forward::primitive_desc plan(
        cpu(), kInference, algorithm_of(first.algorithm), desc_of(x), desc_of(x), first.a, first.b,
        attributes_of(rest));
    if (is_slow(plan.impl_info_str())) return nullptr;
    return wrap(dnnl::eltwise_forward(plan), {{DNNL_ARG_SRC, x}}, {DNNL_ARG_DST, x},
                plan.scratchpad_desc(), rest, plan.impl_info_str(), true);
  });
}

PrimitivePtr softmax(const Layout& x, int axis, bool logarithm) {
  return prepared([&]() -> PrimitivePtr {
    const dnnl::softmax_forward::primitive_desc plan(
        cpu(), kInference, logarithm ? algorithm::softmax_log : algorithm::softmax_accurate,
        desc_of(x), desc_of(x), axis, attributes_of({}));
    if (is_slow(plan.impl_info_str())) return nullptr;
    return wrap(dnnl::softmax_forward(plan), {{DNNL_ARG_SRC, x}}, {DNNL_ARG_DST, x},
                plan.scratchpad_desc(), {}, plan.impl_info_str(), true);
  });
}

PrimitivePtr layer_norm(const Layout& x, float epsilon, bool bias) {
  return prepared([&]() -> PrimitivePtr {
    auto flags = dnnl::normalization_flags::use_scale;
    if (bias) flags |= dnnl::normalization_flags::use_shift;
    const dnnl::layer_normalization_forward::primitive_desc plan(
        cpu(), kInference, desc_of(x), desc_of(x), epsilon, flags, attributes_of({}));
    if (is_slow(plan.impl_info_str())) return nullptr;
    const Layout scale(Shape{x.shape().back()});
    std::vector<std::pair<int, Layout>> inputs{{DNNL_ARG_SRC, x}, {DNNL_ARG_SCALE, scale}};
    if (bias) inputs.emplace_back(DNNL_ARG_SHIFT, scale);
    return wrap(dnnl::layer_normalization_forward(plan), std::move(inputs), {DNNL_ARG_DST, x},
                plan.scratchpad_desc(), {}, plan.impl_info_str());
  });
}

PrimitivePtr batch_norm(const Layout& x, float epsilon, bool relu) {
  return prepared([&]() -> PrimitivePtr {
    auto flags = dnnl::normalization_flags::use_scale | dnnl::normalization_flags::use_shift |
                 dnnl::normalization_flags::use_global_stats;
    if (relu) flags |= dnnl::normalization_flags::fuse_norm_relu;
    const dnnl::batch_normalization_forward::primitive_desc plan(
        cpu(), kInference, desc_of(x), desc_of(x), epsilon, flags, attributes_of({}));
    if (is_slow(plan.impl_info_str())) return nullptr;
    const Layout channel(Shape{x.shape()[1]});
    return wrap(dnnl::batch_normalization_forward(plan),
                {{DNNL_ARG_SRC, x},
                 {DNNL_ARG_SCALE, channel},
                 {DNNL_ARG_SHIFT, channel},
                 {DNNL_ARG_MEAN, channel},
                 {DNNL_ARG_VARIANCE, channel}},
                {DNNL_ARG_DST, x}, plan.scratchpad_desc(), {}, plan.impl_info_str());
  });
}

PrimitivePtr concat(std::span<const Layout> layouts, int axis) {
  return prepared([&]() -> PrimitivePtr {
    std::vector<memory::desc> sources;
    std::vector<std::pair<int, Layout>> inputs;
    Shape shape = layouts[0].shape();
    shape[axis] = 0;
    for (std::size_t i = 0; i < layouts.size(); ++i) {
      sources.push_back(desc_of(layouts[i]));
      inputs.emplace_back(DNNL_ARG_MULTIPLE_SRC + static_cast<int>(i), layouts[i]);
      shape[axis] += layouts[i].shape()[axis];
    }
    const dnnl::concat::primitive_desc plan(cpu(), axis, sources, attributes_of({}));
    return wrap(dnnl::concat(plan), std::move(inputs), {DNNL_ARG_DST, output_of(plan, shape)},
                plan.scratchpad_desc(), {}, plan.impl_info_str());
  });
}

PrimitivePtr mean(const Layout& x, const Shape& output) {
  return prepared([&]() -> PrimitivePtr {
    const dnnl::reduction::primitive_desc plan(cpu(), algorithm::reduction_mean, desc_of(x),
                                               any_of(output), 0, 0, attributes_of({}));
    if (is_slow(plan.impl_info_str())) return nullptr;
    return wrap(dnnl::reduction(plan), {{DNNL_ARG_SRC, x}}, {DNNL_ARG_DST, output_of(plan, output)},
                plan.scratchpad_desc(), {}, plan.impl_info_str());
  });
}

PrimitivePtr resample(const Layout& x, const Shape& output, bool linear) {
  return prepared([&]() -> PrimitivePtr {
    const dnnl::resampling_forward::primitive_desc plan(
        cpu(), kInference, linear ? algorithm::resampling_linear : algorithm::resampling_nearest,
        desc_of(x), any_of(output), attributes_of({}));
    if (is_slow(plan.impl_info_str())) return nullptr;
    return wrap(dnnl::resampling_forward(plan), {{DNNL_ARG_SRC, x}},
                {DNNL_ARG_DST, output_of(plan, output)}, plan.scratchpad_desc(), {},
                plan.impl_info_str());
  });
}

PrimitivePtr reorder(const Layout& from, const Layout& to) {
  return prepared([&]() -> PrimitivePtr {
    const dnnl::reorder::primitive_desc plan(cpu(), desc_of(from), cpu(), desc_of(to),
                                             attributes_of({}));
    return wrap(dnnl::reorder(plan), {{DNNL_ARG_SRC, from}}, {DNNL_ARG_DST, to},
                plan.scratchpad_desc(), {}, plan.impl_info_str());
  });
}

void reorder(const Layout& from, const void* src, const Layout& to, void* dst) {
  const PrimitivePtr plan = reorder(from, to);
  if (plan == nullptr) throw std::runtime_error("no reorder between two layouts");
  std::vector<std::byte> scratch(static_cast<std::size_t>(plan->scratch_bytes + 64));
  void* const buffers[] = {const_cast<void*>(src), dst, scratch.data()};
  plan->bind()->run(buffers);
}

}  // namespace moptcore::inline v0::kernels::onednn

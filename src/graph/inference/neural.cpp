// SPDX-License-Identifier: Apache-2.0
// Operators of neural networks: windows, normalizations, recurrences, attention, images.
#include <algorithm>
#include <cmath>

#include <moptcore/graph/geometry.hpp>

#include "graph/inference/rule.hpp"

namespace moptcore::inline v0::graph {
namespace {

void same(Inference& call) { call.set(0, call.element(0), call.dims(0)); }

// The output of one axis of a convolution or pooling.
Extent window(Inference& call, const WindowAttributes& attributes, int axis, Extent input) {
  const auto known = call.x.value(input);
  if (known) {
    return call.k(window_axis(attributes, axis, *known, call.node().op_type).output);
  }
  const std::int64_t stride = attributes.strides[axis];
  const std::int64_t extent = attributes.dilations[axis] * (attributes.kernel[axis] - 1) + 1;
  if (attributes.auto_pad == AutoPad::same_upper || attributes.auto_pad == AutoPad::same_lower) {
    return call.x.ceil_divide(input, call.k(stride));
  }
  const std::int64_t begin = attributes.begins[axis];
  const Extent room = call.x.add(input, begin + attributes.ends[axis] - extent);
  if (!attributes.ceil_mode) return call.x.add(call.x.floor_divide(room, stride), 1);
  const Extent windows = call.x.add(call.x.ceil_divide(room, call.k(stride)), 1);
  // The last window begins within the input or the padding before it.
  const Extent starts = call.x.ceil_divide(call.x.add(input, begin), call.k(stride));
  return call.x.minimum(windows, starts);
}

// Spatial extents of the weights, where all are known.
std::vector<std::int64_t> kernel_of(Inference& call, int weights) {
  std::vector<std::int64_t> kernel;
  if (!call.dims(weights)) return {};
  for (std::size_t i = 2; i < call.dims(weights)->size(); ++i) {
    const auto value = call.x.value((*call.dims(weights))[i]);
    if (!value) return {};
    kernel.push_back(*value);
  }
  return kernel;
}

void convolve(Inference& call, int input, int weights, ElementType element) {
  if (!call.must_have_rank_from(input, 2)) {
    std::optional<Extents> dims;
    if (call.dims(weights)) {
      dims = call.fresh(call.rank(weights));
      if (dims->size() >= 2) (*dims)[1] = (*call.dims(weights))[0];
    }
    call.set(0, element, dims);
    return;
  }
  const Extents& in = *call.dims(input);
  const int spatial = call.rank(input) - 2;
  Extents dims{in[0], call.x.fresh()};
  if (call.dims(weights)) {
    call.must_have_rank(weights, call.rank(input));
    const Extents& w = *call.dims(weights);
    dims[1] = w[0];
    const auto group = call.attribute<std::int64_t>("group", 1);
    call.require(group > 0 && group < (1 << 30), "group must be > 0", group);
    (void)call.equal(in[1], call.x.multiply(w[1], group),
                     "channels of input and weights must agree");
    const auto out = call.x.value(w[0]);
    call.require(!out || *out % group == 0, "output channels must be a multiple of group",
                 out.value_or(0));
  }
  const auto kernel = kernel_of(call, weights);
  if (kernel.empty() && spatial > 0 && call.node().find("kernel_shape") == nullptr) {
    for (int i = 0; i < spatial; ++i) dims.push_back(call.x.fresh());
  } else {
    const WindowAttributes attributes = read_window(call.node(), spatial, kernel);
    for (int i = 0; i < spatial; ++i) dims.push_back(window(call, attributes, i, in[2 + i]));
  }
  call.set(0, element, dims);
}

void conv(Inference& call) { convolve(call, 0, 1, call.element(0)); }
void conv_integer(Inference& call) { convolve(call, 0, 1, ElementType::int32); }
void qlinear_conv(Inference& call) { convolve(call, 0, 3, call.element(7)); }
void deform_conv(Inference& call) { convolve(call, 0, 1, call.element(0)); }

void conv_transpose(Inference& call) {
  if (!call.must_have_rank_from(0, 2)) {
    call.set(0, call.element(0));
    return;
  }
  const Extents& in = *call.dims(0);
  const int spatial = call.rank(0) - 2;
  Extents dims{in[0], call.x.fresh()};
  if (call.dims(1)) {
    call.must_have_rank(1, call.rank(0));
    const auto group = call.attribute<std::int64_t>("group", 1);
    call.require(group > 0 && group < (1 << 30), "group must be > 0", group);
    (void)call.equal(in[1], (*call.dims(1))[0], "channels of input and weights must agree");
    dims[1] = call.x.multiply((*call.dims(1))[1], group);
  }
  const auto kernel = kernel_of(call, 1);
  const bool open = kernel.empty() && spatial > 0 && call.node().find("kernel_shape") == nullptr;
  if (open) {
    for (int i = 0; i < spatial; ++i) dims.push_back(call.x.fresh());
    call.set(0, call.element(0), dims);
    return;
  }
  const WindowAttributes attributes = read_window(call.node(), spatial, kernel);
  for (int i = 0; i < spatial; ++i) {
    const auto known = call.x.value(in[2 + i]);
    if (known) {
      // Of a transposed convolution the input is what comes out.
      dims.push_back(call.k(transposed_axis(attributes, i, *known, call.node().op_type).input));
    } else if (!attributes.output_shape.empty()) {
      dims.push_back(call.k(attributes.output_shape[i]));
    } else if (attributes.auto_pad == AutoPad::same_upper ||
               attributes.auto_pad == AutoPad::same_lower) {
      dims.push_back(call.x.multiply(in[2 + i], attributes.strides[i]));
    } else {
      const std::int64_t extent = attributes.dilations[i] * (attributes.kernel[i] - 1) + 1;
      const std::int64_t more =
          attributes.output_padding.empty() ? 0 : attributes.output_padding[i];
      const Extent first = call.x.multiply(call.x.add(in[2 + i], -1), attributes.strides[i]);
      dims.push_back(call.x.add(first, extent + more - attributes.begins[i] - attributes.ends[i]));
    }
  }
  call.set(0, call.element(0), dims);
}

void pool(Inference& call) {
  if (!call.must_have_rank_from(0, 2)) {
    call.set(0, call.element(0));
    call.set(1, ElementType::int64);
    return;
  }
  Extents dims = *call.dims(0);
  const int spatial = call.rank(0) - 2;
  const WindowAttributes attributes = read_window(call.node(), spatial);
  for (int i = 0; i < spatial; ++i) dims[2 + i] = window(call, attributes, i, dims[2 + i]);
  call.set(0, call.element(0), dims);
  call.set(1, ElementType::int64, dims);
}

void global_pool(Inference& call) {
  std::optional<Extents> dims = call.dims(0);
  if (dims) {
    for (std::size_t i = 2; i < dims->size(); ++i) (*dims)[i] = call.k(1);
  }
  call.set(0, call.element(0), dims);
}

void max_unpool(Inference& call) {
  if (!call.must_have_rank_from(0, 2)) {
    call.set(0, call.element(0));
    return;
  }
  Extents dims = *call.dims(0);
  if (call.has(2)) {
    const auto shape = call.content(2);
    if (shape && shape->size() == dims.size()) {
      dims = *shape;
      for (Extent& extent : dims) {
        if (call.x.lower_bound(extent).value_or(-1) < 0) extent = call.x.fresh();
      }
    } else {
      dims = call.fresh(call.rank(0));
    }
  } else {
    const WindowAttributes attributes = read_window(call.node(), call.rank(0) - 2);
    for (int i = 0; i < attributes.rank(); ++i) {
      const Extent first = call.x.multiply(call.x.add(dims[2 + i], -1), attributes.strides[i]);
      dims[2 + i] =
          call.x.add(first, attributes.kernel[i] - attributes.begins[i] - attributes.ends[i]);
    }
  }
  call.set(0, call.element(0), dims);
}

void max_roi_pool(Inference& call) {
  const auto pooled = call.ints("pooled_shape");
  if (pooled.size() != 2) {
    call.set(0, call.element(0), call.fresh(4));
    return;
  }
  call.set(0, call.element(0),
           Extents{call.rank(1) >= 1 ? (*call.dims(1))[0] : call.x.fresh(),
                   call.rank(0) >= 2 ? (*call.dims(0))[1] : call.x.fresh(), call.k(pooled[0]),
                   call.k(pooled[1])});
}

void roi_align(Inference& call) {
  call.set(0, call.element(0),
           Extents{call.rank(1) >= 1 ? (*call.dims(1))[0] : call.x.fresh(),
                   call.rank(0) >= 2 ? (*call.dims(0))[1] : call.x.fresh(),
                   call.k(call.attribute<std::int64_t>("output_height", 1)),
                   call.k(call.attribute<std::int64_t>("output_width", 1))});
}

void batch_normalization(Inference& call) {
  if (call.rank(0) >= 2) {
    for (int i = 1; i < call.input_count(); ++i) {
      if (call.rank(i) == 1) {
        (void)call.equal((*call.dims(i))[0], (*call.dims(0))[1],
                         "scale, B, mean and var must have one element for each channel");
      }
    }
  }
  same(call);
  for (int i = 1; i < call.output_count(); ++i) {
    call.set(i, call.element(i < 3 ? 2 + i : 3), call.dims(i < 3 ? 2 + i : 3));
  }
}

void layer_normalization(Inference& call) {
  same(call);
  std::optional<Extents> dims = call.dims(0);
  if (dims) {
    const int axis = call.axis(call.attribute<std::int64_t>("axis", -1), call.rank(0));
    for (std::size_t i = static_cast<std::size_t>(axis); i < dims->size(); ++i) {
      (*dims)[i] = call.k(1);
    }
  }
  const auto stash = call.type_attribute("stash_type", ElementType::float32);
  call.set(1, stash, dims);
  call.set(2, stash, dims);
}

void rms_normalization(Inference& call) {
  call.set(0, call.element(1) == ElementType::undefined ? call.element(0) : call.element(1),
           call.dims(0));
}

// RNN, GRU and LSTM.
void recurrent(Inference& call) {
  const bool batch_first = call.attribute<std::int64_t>("layout", 0) != 0;
  const bool both = call.text("direction", "forward") == "bidirectional";
  Extent steps = call.x.fresh();
  Extent batch = call.x.fresh();
  if (call.must_have_rank(0, 3)) {
    steps = (*call.dims(0))[batch_first ? 1 : 0];
    batch = (*call.dims(0))[batch_first ? 0 : 1];
  }
  Extent hidden = call.x.fresh();
  if (call.node().find("hidden_size") != nullptr) {
    hidden = call.k(call.attribute<std::int64_t>("hidden_size", 0));
  } else if (call.must_have_rank(2, 3)) {
    hidden = (*call.dims(2))[2];
  }
  const Extent directions = call.k(both ? 2 : 1);
  call.set(0, call.element(0),
           batch_first ? Extents{batch, steps, directions, hidden}
                       : Extents{steps, directions, batch, hidden});
  for (int i = 1; i < call.output_count(); ++i) {
    call.set(i, call.element(0),
             batch_first ? Extents{batch, directions, hidden} : Extents{directions, batch, hidden});
  }
}

void attention(Inference& call) {
  const auto finish = [&](std::optional<Extents> y, std::optional<Extents> key,
                          std::optional<Extents> value, std::optional<Extents> scores) {
    call.set(0, call.element(0), std::move(y));
    call.set(1, call.has(4) ? call.element(4) : call.element(1), std::move(key));
    call.set(2, call.has(5) ? call.element(5) : call.element(2), std::move(value));
    call.set(3, call.element(0), std::move(scores));
  };
  const int rank = call.rank(0);
  if (rank < 0 || call.rank(1) < 0 || call.rank(2) < 0) return finish({}, {}, {}, {});
  call.require(rank == 3 || rank == 4, "Q must have rank 3 or 4", rank);
  call.must_have_rank(1, rank);
  call.must_have_rank(2, rank);
  const Extents& q = *call.dims(0);
  const Extents& k = *call.dims(1);
  const Extents& v = *call.dims(2);
  Extent heads = q[1];
  Extent kv_heads = k[1];
  Extent head_size = k.back();
  Extent value_size = v.back();
  const Extent queries = q[rank == 3 ? 1 : 2];
  const Extent keys = k[rank == 3 ? 1 : 2];
  if (rank == 3) {
    const auto qn = call.attribute<std::int64_t>("q_num_heads", 0);
    const auto kn = call.attribute<std::int64_t>("kv_num_heads", 0);
    call.require(qn > 0 && kn > 0, "q_num_heads and kv_num_heads must be > 0", qn);
    heads = call.k(qn);
    kv_heads = call.k(kn);
    head_size = call.x.floor_divide(k.back(), kn);
    value_size = call.x.floor_divide(v.back(), kn);
  }
  Extent total = keys;
  if (call.has(4)) {
    total = call.rank(4) == 4 ? call.x.add((*call.dims(4))[2], keys) : call.x.fresh();
  }
  finish(rank == 3 ? Extents{q[0], queries, call.x.multiply(heads, value_size)}
                   : Extents{q[0], heads, queries, value_size},
         Extents{q[0], kv_heads, total, head_size}, Extents{q[0], kv_heads, total, value_size},
         Extents{q[0], heads, queries, total});
}

void linear_attention(Inference& call) {
  const auto q_heads = call.attribute<std::int64_t>("q_num_heads", 0);
  const auto kv_heads = call.attribute<std::int64_t>("kv_num_heads", 0);
  const ElementType state = call.has(3) ? call.element(3) : call.element(0);
  if (q_heads <= 0 || kv_heads <= 0 || !call.must_have_rank(0, 3) || !call.must_have_rank(1, 3) ||
      !call.must_have_rank(2, 3)) {
    call.set(0, call.element(0), call.fresh(3));
    call.set(1, state, call.fresh(4));
    return;
  }
  const Extents& q = *call.dims(0);
  const Extent key_size = call.x.floor_divide((*call.dims(1))[2], kv_heads);
  const Extent value_size = call.x.floor_divide((*call.dims(2))[2], kv_heads);
  call.set(0, call.element(0), Extents{q[0], q[1], call.x.multiply(value_size, q_heads)});
  call.set(1, state, Extents{q[0], call.k(kv_heads), key_size, value_size});
}

void causal_conv(Inference& call) {
  same(call);
  std::optional<Extents> state;
  if (call.must_have_rank(0, 3)) {
    const Extent kernel = call.rank(1) == 3 ? (*call.dims(1))[2] : call.x.fresh();
    state = Extents{(*call.dims(0))[0], (*call.dims(0))[1], call.x.add(kernel, -1)};
  }
  call.set(1, call.element(0), state);
}

void flex_attention(Inference& call) {
  std::optional<Extents> dims = call.dims(0);
  if (call.must_have_rank(0, 4)) {
    (*dims)[3] = call.rank(2) == 4 ? (*call.dims(2))[3] : call.x.fresh();
  }
  call.set(0, call.element(0), dims);
}

// Extents of an axis scaled by a number: floor(extent * scale), as Resize has it.
Extent scaled(Inference& call, Extent extent, double scale) {
  call.require(scale > 0 && scale < 1e9, "scales must be > 0", scale);
  if (const auto known = call.x.value(extent)) {
    return call.k(static_cast<std::int64_t>(std::floor(static_cast<double>(*known) * scale)));
  }
  if (scale == std::floor(scale)) return call.x.multiply(extent, static_cast<std::int64_t>(scale));
  const double inverse = 1.0 / scale;
  // Powers of two only: other quotients need not round as the product does.
  for (std::int64_t divisor = 2; divisor <= 64; divisor *= 2) {
    if (inverse == static_cast<double>(divisor)) return call.x.floor_divide(extent, divisor);
  }
  return call.x.fresh();
}

void resize(Inference& call) {
  if (!call.dims(0)) {
    call.set(0, call.element(0));
    return;
  }
  Extents dims = *call.dims(0);
  const bool early = call.version() < 11;
  const int scales_at = early ? 1 : 2;
  std::vector<std::int64_t> axes = call.ints("axes");
  if (call.node().find("axes") == nullptr) {
    for (int i = 0; i < call.rank(0); ++i) axes.push_back(i);
  }
  const bool crops = call.text("coordinate_transformation_mode", "") == "tf_crop_and_resize";
  const std::string policy = call.text("keep_aspect_ratio_policy", "stretch");
  std::optional<std::vector<double>> scales;
  if (call.has(scales_at)) scales = call.numbers(scales_at);
  if (scales && scales->empty()) scales.reset();
  const auto sizes = early ? std::nullopt : call.content(3);
  const auto known_sizes = early ? std::nullopt : call.integers(3);
  const auto give_up = [&] {
    for (const std::int64_t axis : axes) dims[call.axis(axis, call.rank(0))] = call.x.fresh();
    call.set(0, call.element(0), dims);
  };
  if (!early && call.has(3) && sizes && !sizes->empty()) {
    call.require(sizes->size() == axes.size(), "sizes must be one for each axis", sizes->size());
    if (policy == "stretch") {
      for (std::size_t i = 0; i < axes.size(); ++i) {
        const bool usable = call.x.lower_bound((*sizes)[i]).value_or(-1) >= 0;
        dims[call.axis(axes[i], call.rank(0))] = usable ? (*sizes)[i] : call.x.fresh();
      }
      call.set(0, call.element(0), dims);
      return;
    }
    // One scale for all axes: the least or the greatest that the sizes ask for.
    if (!known_sizes) return give_up();
    double scale = 0;
    for (std::size_t i = 0; i < axes.size(); ++i) {
      const auto extent = call.x.value(dims[call.axis(axes[i], call.rank(0))]);
      if (!extent || *extent <= 0) return give_up();
      const double own = static_cast<double>((*known_sizes)[i]) / static_cast<double>(*extent);
      scale = i == 0 ? own : policy == "not_larger" ? std::min(scale, own) : std::max(scale, own);
    }
    for (const std::int64_t axis : axes) {
      Extent& extent = dims[call.axis(axis, call.rank(0))];
      const double target = static_cast<double>(*call.x.value(extent)) * scale;
      extent = call.k(static_cast<std::int64_t>(std::floor(target + 0.5)));
    }
    call.set(0, call.element(0), dims);
    return;
  }
  if (!scales) return give_up();
  call.require(scales->size() == axes.size(), "scales must be one for each axis", scales->size());
  std::optional<std::vector<double>> region;
  if (crops) {
    region = call.numbers(1);
    if (!region || region->size() != 2 * axes.size()) return give_up();
  }
  for (std::size_t i = 0; i < axes.size(); ++i) {
    Extent& extent = dims[call.axis(axes[i], call.rank(0))];
    if (crops && ((*region)[i] != 0.0 || (*region)[i + axes.size()] != 1.0)) {
      extent = call.x.fresh();
    } else {
      extent = scaled(call, extent, (*scales)[i]);
    }
  }
  call.set(0, call.element(0), dims);
}

void upsample(Inference& call) {
  if (!call.dims(0)) {
    call.set(0, call.element(0));
    return;
  }
  Extents dims = *call.dims(0);
  std::optional<std::vector<double>> scales;
  if (call.version() >= 9) {
    scales = call.numbers(1);
  } else {
    const auto given = call.attribute<std::vector<float>>("scales", {});
    scales.emplace(given.begin(), given.end());
  }
  if (!scales || scales->size() != dims.size()) {
    call.require(!scales, "scales must be one for each axis", scales ? scales->size() : 0);
    dims = call.fresh(call.rank(0));
  } else {
    for (std::size_t i = 0; i < dims.size(); ++i) dims[i] = scaled(call, dims[i], (*scales)[i]);
  }
  call.set(0, call.element(0), dims);
}

void grid_sample(Inference& call) {
  if (!call.dims(0) || !call.dims(1) || call.rank(0) < 3) {
    call.set(0, call.element(0));
    return;
  }
  const Extents& grid = *call.dims(1);
  call.must_have_rank(1, call.rank(0));
  Extents dims{(*call.dims(0))[0], (*call.dims(0))[1]};
  dims.insert(dims.end(), grid.begin() + 1, grid.end() - 1);
  call.set(0, call.element(0), dims);
}

void affine_grid(Inference& call) {
  const auto size = call.content(1);
  if (!size || (size->size() != 4 && size->size() != 5)) {
    call.set(0, call.element(0));
    return;
  }
  Extents dims{(*size)[0]};
  dims.insert(dims.end(), size->begin() + 2, size->end());
  dims.push_back(call.k(static_cast<std::int64_t>(size->size()) - 2));
  for (Extent& extent : dims) {
    if (call.x.lower_bound(extent).value_or(-1) < 0) extent = call.x.fresh();
  }
  call.set(0, call.element(0), dims);
}

void col2im(Inference& call) {
  const auto image = call.content(1);
  const auto block = call.content(2);
  if (!call.must_have_rank(0, 3) || !image) {
    call.set(0, call.element(0));
    return;
  }
  Extent channels = call.x.fresh();
  if (block) {
    const Extent size = call.x.product(*block);
    if (!call.x.is(size, 0)) channels = call.x.floor_divide((*call.dims(0))[1], size);
  }
  Extents dims{(*call.dims(0))[0], channels};
  for (const Extent extent : *image) {
    dims.push_back(call.x.lower_bound(extent).value_or(-1) >= 0 ? extent : call.x.fresh());
  }
  call.set(0, call.element(0), dims);
}

void non_max_suppression(Inference& call) {
  call.set(0, ElementType::int64, Extents{call.x.fresh(), call.k(3)});
}

std::optional<Extents> unreduced(Inference& call) {
  const std::string reduction = call.text("reduction", "mean");
  if (reduction == "none") return call.dims(1);
  return Extents{};
}

void negative_log_likelihood(Inference& call) { call.set(0, call.element(0), unreduced(call)); }

void softmax_cross_entropy(Inference& call) {
  call.set(0, call.element(0), unreduced(call));
  call.set(1, call.element(0), call.dims(0));
}

constexpr Rule kRules[] = {
    {"", "AffineGrid", affine_grid},
    {"", "Attention", attention},
    {"", "AveragePool", pool},
    {"", "BatchNormalization", batch_normalization},
    {"", "CausalConvWithState", causal_conv},
    {"", "Col2Im", col2im},
    {"", "Conv", conv},
    {"", "ConvInteger", conv_integer},
    {"", "ConvTranspose", conv_transpose},
    {"", "DeformConv", deform_conv},
    {"", "GRU", recurrent},
    {"", "GlobalAveragePool", global_pool},
    {"", "GlobalLpPool", global_pool},
    {"", "GlobalMaxPool", global_pool},
    {"", "GridSample", grid_sample},
    {"", "GroupNormalization", same},
    {"", "InstanceNormalization", same},
    {"", "LRN", same},
    {"", "LSTM", recurrent},
    {"", "LayerNormalization", layer_normalization},
    {"", "LinearAttention", linear_attention},
    {"", "LpNormalization", same},
    {"", "LpPool", pool},
    {"", "MaxPool", pool},
    {"", "MaxRoiPool", max_roi_pool},
    {"", "MaxUnpool", max_unpool},
    {"", "MeanVarianceNormalization", same},
    {"", "NegativeLogLikelihoodLoss", negative_log_likelihood},
    {"", "NonMaxSuppression", non_max_suppression},
    {"", "QLinearConv", qlinear_conv},
    {"", "RMSNormalization", rms_normalization},
    {"", "RNN", recurrent},
    {"", "Resize", resize},
    {"", "RoiAlign", roi_align},
    {"", "RotaryEmbedding", same},
    {"", "SoftmaxCrossEntropyLoss", softmax_cross_entropy},
    {"", "Upsample", upsample},
    {"ai.onnx.preview", "FlexAttention", flex_attention},
};

}  // namespace

std::span<const Rule> neural_rules() noexcept { return kRules; }

}  // namespace moptcore::inline v0::graph

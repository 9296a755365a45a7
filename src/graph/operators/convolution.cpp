// SPDX-License-Identifier: Apache-2.0
// Convolutions of any number of spatial axes: columns of taps times the matrix of the weights.
#include <cmath>
#include <cstring>
#include <limits>

#include <moptcore/graph/operator.hpp>

#include "graph/operators/gemm.hpp"
#include "graph/operators/widen.hpp"
#include "graph/operators/window.hpp"
#include "kernels/quantize.hpp"

namespace moptcore::inline v0::graph {
namespace {

// Elements of the columns that one block of work gathers.
constexpr std::int64_t kColumnBudget = 1 << 17;
constexpr std::int64_t kColumnStep = 32;
// Fewer output channels a group than this are summed tap by tap.
constexpr std::int64_t kDirectChannels = 4;
constexpr std::int64_t kSteps = 512;  // sums that are quantized together

struct Convolution {
  std::int64_t batch = 0;
  std::int64_t group = 1;
  std::int64_t inner = 0;  // input channels of a group
  std::int64_t outer = 0;  // output channels of a group
  Windows windows;
  Shape output;
};

std::vector<std::int64_t> spatial(const Shape& shape) { return {shape.begin() + 2, shape.end()}; }

Convolution read_convolution(const Call& call, const Shape& x, const Shape& w) {
  call.require(x.rank() >= 3, "the input must have 3 or more dimensions, shape", x);
  call.require(w.rank() == x.rank(), "weights must have as many dimensions as the input, shape", w);
  Convolution conv;
  conv.batch = x[0];
  conv.group = call.attribute<std::int64_t>("group", 1);
  call.require(conv.group >= 1, "group must be >= 1", conv.group);
  call.require(x[1] % conv.group == 0 && x[1] / conv.group == w[1],
               "weights must have the input's channels / group in axis 1, shape", w);
  call.require(w[0] % conv.group == 0, "output channels must be a multiple of group", w[0]);
  conv.inner = w[1];
  conv.outer = w[0] / conv.group;
  const WindowAttributes window = read_window(call.node(), x.rank() - 2, spatial(w));
  conv.output = Shape{x[0], w[0]};
  for (int axis = 0; axis < window.rank(); ++axis) {
    conv.windows.axes.push_back(window_axis(window, axis, x[axis + 2], call.where()));
    conv.output.push_back(conv.windows.axes.back().output);
  }
  conv.windows.measure();
  return conv;
}

// The windows of one block of work, at most `budget` elements of `depth` rows.
std::int64_t tile_width(std::int64_t windows, std::int64_t depth, std::int64_t planes) {
  depth = std::max<std::int64_t>(depth, 1);
  if (depth * kColumnStep > 32 * kColumnBudget)
    return std::max<std::int64_t>(kColumnBudget / depth, 1);
  std::int64_t width = std::max(kColumnBudget / depth, kColumnStep);
  // Small images are cut further, so that there is work for several threads.
  const std::int64_t wanted = planes >= 8 ? 1 : 8 / std::max<std::int64_t>(planes, 1);
  width = std::min(width, std::max(block_count(windows, wanted), kColumnStep));
  width = (width + kColumnStep - 1) / kColumnStep * kColumnStep;
  return std::min(width, std::max<std::int64_t>(windows, 1));
}

// Rows (channel, tap) of `columns`: what that tap reads in each window.
template <class T>
void gather(const Windows& windows, const WindowRuns& runs, const T* planes, std::int64_t channels,
            std::int64_t width, T* columns) {
  if (windows.has_gaps()) std::fill_n(columns, channels * windows.taps * width, T(0));
  const std::int64_t stride = windows.axes.back().stride;
  for_each_tap(windows, [&](std::int64_t index, const Odometer& tap) {
    runs.visit(tap, [&](std::int64_t column, std::int64_t count, std::int64_t offset) {
      for (std::int64_t channel = 0; channel < channels; ++channel) {
        const T* from = planes + channel * windows.inputs + offset;
        T* to = columns + (channel * windows.taps + index) * width + column;
        if (stride == 1) {
          std::copy_n(from, count, to);
        } else {
          for (std::int64_t i = 0; i < count; ++i) to[i] = from[i * stride];
        }
      }
    });
  });
}

// y += w * x, y holds the bias. Sums of integers wrap around.
template <class T, class Sum>
void convolve_products(const Convolution& conv, const T* x, const T* w, Sum* y) {
  const Windows& windows = conv.windows;
  const std::int64_t depth = conv.inner * windows.taps;
  const std::int64_t planes = conv.batch * conv.group;
  const bool identity = windows.is_identity();
  const std::int64_t tile = tile_width(windows.outputs, identity ? conv.inner : depth, planes);
  const std::int64_t tiles = block_count(windows.outputs, tile);
  parallel_for(planes * tiles, 1, [&](std::int64_t first, std::int64_t last) {
    std::vector<T> columns(identity ? 0 : static_cast<std::size_t>(depth * tile));
    for (std::int64_t job = first; job < last; ++job) {
      const std::int64_t plane = job / tiles;
      const std::int64_t begin = job % tiles * tile;
      const std::int64_t end = std::min(begin + tile, windows.outputs);
      const std::int64_t width = end - begin;
      const T* from = x + plane * conv.inner * windows.inputs;
      const T* weights = w + plane % conv.group * conv.outer * depth;
      Sum* to = y + plane * conv.outer * windows.outputs + begin;
      Matrix<const T> b{from + begin, windows.inputs, 1};
      if (!identity) {
        const WindowRuns runs(windows, begin, end);
        gather(windows, runs, from, conv.inner, width, columns.data());
        b = {columns.data(), width, 1};
      }
      gemm(conv.outer, width, depth, Matrix<const T>{weights, depth, 1}, b,
           Matrix<Sum>{to, windows.outputs, 1});
    }
  });
}

template <class Sum, class T>
Sum plus_product(Sum sum, T a, T b) {
  if constexpr (std::is_integral_v<T>) {
    return static_cast<Sum>(static_cast<std::uint32_t>(sum) + static_cast<std::uint32_t>(a * b));
  } else {
    return sum + a * b;
  }
}

template <class T, class Sum>
void convolve_direct(const Convolution& conv, const T* x, const T* w, Sum* y) {
  const Windows& windows = conv.windows;
  const std::int64_t channels = conv.group * conv.outer;
  const std::int64_t stride = windows.axes.back().stride;
  for_each_piece(windows, conv.batch * channels,
                 [&](std::int64_t plane, std::int64_t begin, std::int64_t, const WindowRuns& runs) {
                   const std::int64_t channel = plane % channels;
                   const std::int64_t input = plane / channels * conv.group + channel / conv.outer;
                   Sum* to = y + plane * windows.outputs + begin;
                   for (std::int64_t c = 0; c < conv.inner; ++c) {
                     const T* read = x + (input * conv.inner + c) * windows.inputs;
                     const T* weights = w + (channel * conv.inner + c) * windows.taps;
                     for_each_tap(windows, [&](std::int64_t index, const Odometer& tap) {
                       const T weight = weights[index];
                       runs.visit(
                           tap, [&](std::int64_t column, std::int64_t count, std::int64_t offset) {
                             const T* from = read + offset;
                             Sum* sum = to + column;
                             if (stride == 1) {
                               for (std::int64_t i = 0; i < count; ++i)
                                 sum[i] = plus_product(sum[i], weight, from[i]);
                             } else {
                               for (std::int64_t i = 0; i < count; ++i)
                                 sum[i] = plus_product(sum[i], weight, from[i * stride]);
                             }
                           });
                     });
                   }
                 });
}

template <class T, class Sum>
void convolve(const Convolution& conv, const T* x, const T* w, Sum* y) {
  if (conv.windows.outputs == 0 || conv.windows.inputs == 0) return;
  if (conv.inner == 0 || conv.outer == 0) return;
  if (conv.outer < kDirectChannels) convolve_direct(conv, x, w, y);
  else convolve_products(conv, x, w, y);
}

// Planes of `y` filled with the bias of their channel, or 0.
template <class T>
void fill_bias(const Call& call, const std::optional<Tensor>& bias, std::int64_t channels,
               Tensor& y) {
  T* out = y.mutable_data<T>();
  if (!bias) {
    std::fill_n(out, y.size(), T(0));
    return;
  }
  call.require(bias->rank() == 1 && bias->size() == channels,
               "the bias must have an element for each output channel, shape", bias->shape());
  const T* values = bias->data<T>();
  if (y.size() == 0) return;
  const std::int64_t planes = y.shape()[0] * channels;
  const std::int64_t plane = y.size() / planes;
  for (std::int64_t i = 0; i < planes; ++i)
    std::fill_n(out + i * plane, plane, values[i % channels]);
}

void require_same_type(const Call& call, std::initializer_list<int> inputs) {
  const ElementType type = call.input(0).type();
  for (const int index : inputs) {
    if (call.has(index)) static_cast<void>(call.input(index, type));
  }
}

void conv(Call& call) {
  require_same_type(call, {1, 2});
  const ElementType type = call.input(0).type();
  const Convolution conv = read_convolution(call, call.input(0).shape(), call.input(1).shape());
  const Tensor x = widened(call, call.input(0));
  const Tensor w = widened(call, call.input(1));
  const std::optional<Tensor> bias = widened_input(call, 2);
  Tensor y = call.environment().allocate(x.type(), conv.output);
  visit_wide(call, x.type(), [&]<class T> {
    fill_bias<T>(call, bias, w.shape()[0], y);
    convolve(conv, x.data<T>(), w.data<T>(), y.mutable_data<T>());
  });
  set_rounded(call, 0, y, type);
}

// Adds what each element of the input spreads over the output. `windows` is the convolution that
// leads back: its windows are the elements of the input, what it reads is the output.
template <class T>
void spread(const Convolution& conv, const T* x, const T* w, T* y) {
  constexpr std::int64_t kChannels = 8;
  const Windows& windows = conv.windows;
  if (windows.outputs == 0 || windows.inputs == 0 || conv.inner == 0) return;
  const std::int64_t parts = block_count(conv.outer, kChannels);
  const std::int64_t row = conv.outer * windows.taps;
  const std::int64_t stride = windows.axes.back().stride;
  const std::int64_t tile =
      tile_width(windows.outputs, std::min(conv.outer, kChannels) * windows.taps, 8);
  parallel_for(conv.batch * conv.group * parts, 1, [&](std::int64_t first, std::int64_t last) {
    std::vector<T> columns(
        static_cast<std::size_t>(std::min(conv.outer, kChannels) * windows.taps * tile));
    for (std::int64_t begin = 0; begin < windows.outputs; begin += tile) {
      const std::int64_t end = std::min(begin + tile, windows.outputs);
      const std::int64_t width = end - begin;
      const WindowRuns runs(windows, begin, end);
      for (std::int64_t job = first; job < last; ++job) {
        const std::int64_t plane = job / parts;
        const std::int64_t channel = job % parts * kChannels;
        const std::int64_t channels = std::min(kChannels, conv.outer - channel);
        const std::int64_t rows = channels * windows.taps;
        const T* from = x + plane * conv.inner * windows.outputs + begin;
        const T* weights = w + plane % conv.group * conv.inner * row + channel * windows.taps;
        std::fill_n(columns.data(), rows * width, T(0));
        gemm(rows, width, conv.inner, Matrix<const T>{weights, 1, row},
             Matrix<const T>{from, windows.outputs, 1}, Matrix<T>{columns.data(), width, 1});
        T* to = y + (plane * conv.outer + channel) * windows.inputs;
        for_each_tap(windows, [&](std::int64_t index, const Odometer& tap) {
          runs.visit(tap, [&](std::int64_t column, std::int64_t count, std::int64_t offset) {
            for (std::int64_t c = 0; c < channels; ++c) {
              const T* term = columns.data() + (c * windows.taps + index) * width + column;
              T* sum = to + c * windows.inputs + offset;
              if (stride == 1) {
                for (std::int64_t i = 0; i < count; ++i) sum[i] += term[i];
              } else {
                for (std::int64_t i = 0; i < count; ++i) sum[i * stride] += term[i];
              }
            }
          });
        });
      }
    }
  });
}

void conv_transpose(Call& call) {
  require_same_type(call, {1, 2});
  const ElementType type = call.input(0).type();
  const Shape& xs = call.input(0).shape();
  const Shape& ws = call.input(1).shape();
  call.require(xs.rank() >= 3, "the input must have 3 or more dimensions, shape", xs);
  call.require(ws.rank() == xs.rank(), "weights must have as many dimensions as the input, shape",
               ws);
  Convolution conv;
  conv.batch = xs[0];
  conv.group = call.attribute<std::int64_t>("group", 1);
  call.require(conv.group >= 1, "group must be >= 1", conv.group);
  call.require(ws[0] == xs[1] && ws[0] % conv.group == 0,
               "weights must have the input's channels, a multiple of group, in axis 0, shape", ws);
  conv.inner = ws[0] / conv.group;
  conv.outer = ws[1];
  call.require(conv.outer <= std::numeric_limits<std::int64_t>::max() / conv.group,
               "output channels must fit in 63 bits, of a group", conv.outer);
  conv.output = Shape{xs[0], conv.outer * conv.group};
  const WindowAttributes window = read_window(call.node(), xs.rank() - 2, spatial(ws));
  for (int axis = 0; axis < window.rank(); ++axis) {
    conv.windows.axes.push_back(transposed_axis(window, axis, xs[axis + 2], call.where()));
    conv.output.push_back(conv.windows.axes.back().input);
  }
  conv.windows.measure();
  const Tensor x = widened(call, call.input(0));
  const Tensor w = widened(call, call.input(1));
  const std::optional<Tensor> bias = widened_input(call, 2);
  Tensor y = call.environment().allocate(x.type(), conv.output);
  visit_wide(call, x.type(), [&]<class T> {
    fill_bias<T>(call, bias, conv.output[1], y);
    spread(conv, x.data<T>(), w.data<T>(), y.mutable_data<T>());
  });
  set_rounded(call, 0, y, type);
}

// 8-bit integers less their zero points.
Tensor centered(Call& call, int index, int zero_index, bool along_axis) {
  const Tensor& tensor = call.input(index);
  const ElementType type = tensor.type();
  if (type != ElementType::int8 && type != ElementType::uint8) {
    refuse_type(call, "elements must be int8 or uint8", type);
  }
  Tensor result = call.environment().allocate(ElementType::int16, tensor.shape());
  const auto run = [&]<class T> {
    const T* from = tensor.data<T>();
    auto* to = result.mutable_data<std::int16_t>();
    const Tensor zeros =
        call.has(zero_index) ? call.input(zero_index, type) : Tensor::scalar<T>(T(0));
    const std::int64_t rows = tensor.rank() == 0 ? 1 : tensor.shape()[0];
    call.require(zeros.size() == 1 || (along_axis && zeros.rank() == 1 && zeros.size() == rows),
                 along_axis ? "a zero point must be a scalar, or one for each output channel, shape"
                            : "a zero point must be a scalar, shape",
                 zeros.shape());
    const std::int64_t parts = zeros.size();
    if (tensor.size() == 0) return;
    const std::int64_t length = tensor.size() / parts;
    for (std::int64_t part = 0; part < parts; ++part) {
      const T zero = zeros.data<T>()[part];
      for (std::int64_t i = part * length; i < (part + 1) * length; ++i) {
        to[i] = static_cast<std::int16_t>(from[i] - zero);
      }
    }
  };
  if (type == ElementType::int8) run.template operator()<std::int8_t>();
  else run.template operator()<std::uint8_t>();
  return result;
}

void convolve_integers(const Convolution& conv, const Tensor& x, const Tensor& w, Tensor& sums) {
  auto* to = sums.mutable_data<std::int32_t>();
  std::fill_n(to, sums.size(), 0);
  convolve(conv, x.data<std::int16_t>(), w.data<std::int16_t>(), to);
}

void conv_integer(Call& call) {
  const Convolution conv = read_convolution(call, call.input(0).shape(), call.input(1).shape());
  const Tensor x = centered(call, 0, 2, false);
  const Tensor w = centered(call, 1, 3, true);
  convolve_integers(conv, x, w, call.output(0, ElementType::int32, conv.output));
}

float scale_of(const Call& call, int index) {
  const Tensor& scale = call.input(index, ElementType::float32);
  call.require(scale.size() == 1, "a scale must have one element, shape", scale.shape());
  return scale.data<float>()[0];
}

void qlinear_conv(Call& call) {
  const Convolution conv = read_convolution(call, call.input(0).shape(), call.input(3).shape());
  const float x_scale = scale_of(call, 1);
  const float y_scale = scale_of(call, 6);
  const Tensor& w_scale = call.input(4, ElementType::float32);
  const std::int64_t channels = conv.output[1];
  call.require(w_scale.size() == 1 || (w_scale.rank() == 1 && w_scale.size() == channels),
               "w_scale must be a scalar, or one for each output channel, shape", w_scale.shape());
  const Tensor& y_zero = call.input(7);
  call.require(y_zero.size() == 1, "y_zero_point must have one element, shape", y_zero.shape());
  const Tensor x = centered(call, 0, 2, false);
  const Tensor w = centered(call, 3, 5, true);
  Tensor sums = call.environment().allocate(ElementType::int32, conv.output);
  convolve_integers(conv, x, w, sums);
  std::vector<std::int32_t> bias(static_cast<std::size_t>(sums.size() == 0 ? 0 : channels), 0);
  if (call.has(8) && sums.size() > 0) {
    const Tensor& given = call.input(8, ElementType::int32);
    call.require(given.rank() == 1 && given.size() == channels,
                 "the bias must have an element for each output channel, shape", given.shape());
    std::copy_n(given.data<std::int32_t>(), channels, bias.begin());
  }
  const auto run = [&]<class T> {
    Tensor& y = call.output(0, y_zero.type(), conv.output);
    const auto* from = sums.data<std::int32_t>();
    T* to = y.mutable_data<T>();
    const auto zero = static_cast<float>(y_zero.data<T>()[0]);
    if (y.size() == 0) return;
    const std::int64_t plane = conv.windows.outputs;
    const kernels::GridStep<float> grid{
        1.0f, 1.0f, static_cast<float>(std::numeric_limits<T>::min()) - zero,
        static_cast<float>(std::numeric_limits<T>::max()) - zero, zero};
    // NaN, of a scale that is not finite, becomes the zero point.
    constexpr kernels::GridRule kRule{kernels::Rounding::multiply_even, kernels::NanPosition::zero};
    constexpr auto kType = std::is_signed_v<T> ? kernels::Integer::int8 : kernels::Integer::uint8;
    const std::int64_t grain = std::max<std::int64_t>(1, kGrain / plane);
    parallel_for(conv.batch * channels, grain, [&](std::int64_t begin, std::int64_t end) {
      float steps[kSteps];
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t channel = i % channels;
        const float scale =
            x_scale * w_scale.data<float>()[w_scale.size() == 1 ? 0 : channel] / y_scale;
        const auto added = static_cast<std::uint32_t>(bias[channel]);
        for (std::int64_t j = i * plane; j < (i + 1) * plane; j += kSteps) {
          const std::int64_t count = std::min(kSteps, (i + 1) * plane - j);
          for (std::int64_t k = 0; k < count; ++k) {
            const auto sum =
                static_cast<std::int32_t>(static_cast<std::uint32_t>(from[j + k]) + added);
            steps[k] = static_cast<float>(sum) * scale;
          }
          kernels::quantize_f32(steps, count, grid, kRule, kType, to + j);
        }
      }
    });
  };
  if (y_zero.type() == ElementType::int8) run.template operator()<std::int8_t>();
  else if (y_zero.type() == ElementType::uint8) run.template operator()<std::uint8_t>();
  else refuse_type(call, "y_zero_point must be int8 or uint8", y_zero.type());
}

void causal_conv(Call& call) {
  require_same_type(call, {1, 2, 3});
  const ElementType type = call.input(0).type();
  const Shape& xs = call.input(0).shape();
  const Shape& ws = call.input(1).shape();
  call.require(xs.rank() == 3, "the input must have the axes (batch, channels, length), shape", xs);
  call.require(ws.rank() == 3 && ws[0] == xs[1] && ws[1] == 1 && ws[2] >= 1,
               "the weights must have the shape (channels, 1, kernel)", ws);
  const std::string activation = call.text("activation", "none");
  const bool silu = activation == "silu" || activation == "swish";
  call.require(silu || activation == "none", "activation must be none, silu or swish", activation);
  const std::int64_t channels = xs[1];
  const std::int64_t length = xs[2];
  const std::int64_t kernel = ws[2];
  const std::int64_t kept = kernel - 1;
  const Shape state{xs[0], channels, kept};
  const Tensor x = widened(call, call.input(0));
  const Tensor w = widened(call, call.input(1));
  const std::optional<Tensor> bias = widened_input(call, 2);
  const std::optional<Tensor> past = widened_input(call, 3);
  if (past) {
    call.require(past->shape() == state, "past_state must have the shape (batch, channels, k - 1)",
                 past->shape());
  }
  Tensor y = call.environment().allocate(x.type(), xs);
  Tensor present = call.environment().allocate(x.type(), state);
  visit_wide(call, x.type(), [&]<class T> {
    fill_bias<T>(call, bias, channels, y);
    const T* in = x.data<T>();
    const T* taps = w.data<T>();
    const T* before = past ? past->data<T>() : nullptr;
    T* out = y.mutable_data<T>();
    T* after = present.mutable_data<T>();
    if (y.size() == 0 && present.size() == 0) return;
    parallel_for(xs[0] * channels, 8, [&](std::int64_t first, std::int64_t last) {
      std::vector<T> row(static_cast<std::size_t>(length + kept), T(0));
      for (std::int64_t job = first; job < last; ++job) {
        if (before != nullptr) std::copy_n(before + job * kept, kept, row.data());
        std::copy_n(in + job * length, length, row.data() + kept);
        T* sums = out + job * length;
        for (std::int64_t k = 0; k < kernel; ++k) {
          const T weight = taps[job % channels * kernel + k];
          for (std::int64_t i = 0; i < length; ++i) sums[i] += weight * row[i + k];
        }
        if (silu) {
          for (std::int64_t i = 0; i < length; ++i) sums[i] /= T(1) + std::exp(-sums[i]);
        }
        std::copy_n(row.data() + length, kept, after + job * kept);
      }
    });
  });
  set_rounded(call, 0, y, type);
  if (call.wants(1)) set_rounded(call, 1, present, type);
}

constexpr Operator kOperators[] = {
    {"", "CausalConvWithState", 27, causal_conv}, {"", "Conv", 1, conv},
    {"", "ConvInteger", 10, conv_integer},        {"", "ConvTranspose", 1, conv_transpose},
    {"", "QLinearConv", 10, qlinear_conv},
};

}  // namespace

std::span<const Operator> convolution_operators() noexcept { return kOperators; }

}  // namespace moptcore::inline v0::graph

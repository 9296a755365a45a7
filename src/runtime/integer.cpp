// SPDX-License-Identifier: Apache-2.0
#include <moptcore/runtime/integer.hpp>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include <moptcore/core/parallel.hpp>
#include <moptcore/core/pool.hpp>
#include <moptcore/quant/quantize.hpp>

#include "kernels/integer.hpp"
#include "kernels/onednn/integer.hpp"
#include "runtime/refusal.hpp"

namespace moptcore::inline v0::runtime {
namespace {

// Rows of a linear layer that share a pass over its weights; they fit in the second cache.
constexpr std::int64_t kRows = 96;

template <class T>
void check_tensor(const AnyView& view, const char* where, const char* argument) {
  check<DTypeError>(view.dtype() == dtype_of<T>(), where,
                    std::string(argument) + " must have dtype " + std::string(name(dtype_of<T>())),
                    name(view.dtype()));
  check<UnsupportedError>(view.is_contiguous(), where,
                          std::string(argument) + " must be contiguous, strides", view.strides());
}

void check_shape(const Shape& got, const Shape& expected, const char* where, const char* argument) {
  if (got == expected) return;
  std::ostringstream rule;
  rule << argument << " must have shape " << expected;
  throw Error(error_text(where, rule.str(), got));
}

kernels::InputGrid grid_of(const QParams& params, const char* where) {
  check<UnsupportedError>(params.dtype() == DType::int8 || params.dtype() == DType::uint8, where,
                          "input must be a grid of int8 or uint8", name(params.dtype()));
  check<UnsupportedError>(!params.axis(), where, "input must be one grid for the whole tensor");
  return {params.scale()[0], params.zero_point()[0], params.qmin(), params.qmax()};
}

// The scales of the sums, and the biases beside them.
struct Results {
  std::vector<float> scale;
  kernels::Outputs outputs;
};

Results results_of(const QParams& input, std::span<const float> weight_scale,
                   const std::optional<AnyView>& bias, const Shape& weight, std::int64_t depth,
                   const char* where) {
  check(static_cast<std::int64_t>(weight_scale.size()) == weight[0], where,
        "weight_scale must have one element per output (" + std::to_string(weight[0]) + ")",
        weight_scale.size());
  check<UnsupportedError>(
      depth <= kIntegerDepth, where,
      "weight must have at most " + std::to_string(kIntegerDepth) + " elements per output", depth);
  Results results;
  for (const float scale : weight_scale) results.scale.push_back(input.scale()[0] * scale);
  results.outputs = {nullptr, nullptr, false};
  if (bias) {
    check_tensor<std::int32_t>(*bias, where, "bias");
    check_shape(bias->shape(), {weight[0]}, where, "bias");
    const auto* values = static_cast<const std::int32_t*>(bias->data());
    const std::int64_t most = std::numeric_limits<std::int32_t>::max() - 255 * 128 * depth;
    results.outputs.bias = values;
    results.outputs.wide = std::any_of(
        values, values + weight[0], [&](std::int64_t each) { return each > most || each < -most; });
  }
  return results;
}

void check_operands(const AnyView& x, const AnyView& weight, const MutableAnyView& out,
                    const char* where) {
  check_tensor<float>(x, where, "x");
  check_tensor<std::int8_t>(weight, where, "weight");
  check_tensor<float>(out, where, "out");
  const auto [x_first, x_last] = extent_of(x);
  const auto [out_first, out_last] = extent_of(out);
  check(x_last <= out_first || out_last <= x_first, where, "out must not overlap x");
}

void refuse_nan(const std::atomic<bool>& numbers, const char* where) {
  check<NonFiniteError>(numbers, where, "x must not contain NaN");
}

kernels::Convolution geometry(const Shape& x, const Shape& weight,
                              const ConvolutionOptions& options) {
  constexpr auto where = "runtime.integer_convolution";
  check(x.rank() == 3 || x.rank() == 4, where, "x must have 3 or 4 dimensions", x);
  check(weight.rank() == x.rank(), where,
        "weight must have as many dimensions as x (" + std::to_string(x.rank()) + ")", weight);
  const bool plane = x.rank() == 4;
  const int last = x.rank() - 1;
  const auto row = [&](const std::array<std::int64_t, 2>& pair, std::int64_t flat) {
    return plane ? pair[0] : flat;
  };
  kernels::Convolution c{};
  c.channels = x[1];
  c.height = plane ? x[2] : 1;
  c.width = x[last];
  c.outputs = weight[0];
  c.kernel_height = plane ? weight[2] : 1;
  c.kernel_width = weight[last];
  c.stride_height = row(options.stride, 1);
  c.stride_width = options.stride[1];
  c.pad_top = row(options.before, 0);
  c.pad_left = options.before[1];
  c.pad_bottom = row(options.after, 0);
  c.pad_right = options.after[1];
  c.dilation_height = row(options.dilation, 1);
  c.dilation_width = options.dilation[1];
  c.groups = options.groups;
  check(c.groups >= 1 && c.channels % c.groups == 0 && c.outputs % c.groups == 0, where,
        "groups must be >= 1 and divide the channels of x and weight", c.groups);
  check(weight[1] * c.groups == c.channels, where,
        "weight must have " + std::to_string(c.channels / c.groups) + " channels", weight[1]);
  check(c.stride_height >= 1 && c.stride_width >= 1, where, "stride must be >= 1",
        std::min(c.stride_height, c.stride_width));
  check(c.dilation_height >= 1 && c.dilation_width >= 1, where, "dilation must be >= 1",
        std::min(c.dilation_height, c.dilation_width));
  const std::int64_t padding = std::min({c.pad_top, c.pad_left, c.pad_bottom, c.pad_right});
  check(padding >= 0, where, "padding must be >= 0", padding);
  const std::int64_t tall = c.height + c.pad_top + c.pad_bottom;
  const std::int64_t broad = c.width + c.pad_left + c.pad_right;
  const std::int64_t reach_down = c.dilation_height * (c.kernel_height - 1) + 1;
  const std::int64_t reach_right = c.dilation_width * (c.kernel_width - 1) + 1;
  check(c.kernel_height >= 1 && c.kernel_width >= 1 && tall >= reach_down && broad >= reach_right,
        where, "weight must not reach beyond the padded x", weight);
  c.out_height = (tall - reach_down) / c.stride_height + 1;
  c.out_width = (broad - reach_right) / c.stride_width + 1;
  return c;
}

// Of two bytes and two weights the sum is at most 255 * (64 + 64) = 32640 in magnitude, below the
// 32767 of 16 bit, whichever two it is that oneDNN adds; with 65 it is 33150.
constexpr int kExactWeight = 64;

void check_exact(std::span<const std::int8_t> weight, const char* where) {
  if (kernels::onednn::sums_bytes_exactly()) return;
  int largest = 0;
  for (const std::int8_t value : weight) largest = std::max(largest, std::abs(int{value}));
  check<UnsupportedError>(
      largest <= kExactWeight, where,
      "backend onednn takes weights in [-64, 64] only: oneDNN finds no AVX512_VNNI on this CPU and "
      "adds pairs of products in 16 bit, which saturate for larger ones;",
      largest);
}

// float(sum - zero_point * sum of weights + bias) * scale of the products of whole bytes.
class Finish {
 public:
  Finish(std::int64_t outputs, std::int64_t inputs, const std::int8_t* weight,
         std::int32_t zero_point, const kernels::Outputs& results)
      : outputs_(outputs), results_(results), shift_(static_cast<std::size_t>(outputs)) {
    for (std::int64_t o = 0; o < outputs; ++o) {
      std::int32_t sum = 0;
      for (std::int64_t k = 0; k < inputs; ++k) sum += weight[o * inputs + k];
      const std::int64_t bias = results.bias == nullptr ? 0 : results.bias[o];
      shift_[static_cast<std::size_t>(o)] = bias - std::int64_t{zero_point} * sum;
    }
    // Modulo 2^32: what they are added to may leave 32 bit, the result does not unless it is wide.
    for (const std::int64_t each : shift_) narrow_.push_back(static_cast<std::uint32_t>(each));
  }

  void operator()(std::int64_t rows, const std::int32_t* sums, float* y) const {
    const float* scale = results_.scale;
    for (std::int64_t r = 0; r < rows; ++r, sums += outputs_, y += outputs_) {
      if (results_.wide) {
        const std::int64_t* shift = shift_.data();
        for (std::int64_t o = 0; o < outputs_; ++o) {
          y[o] = static_cast<float>(sums[o] + shift[o]) * scale[o];
        }
      } else {
        const std::uint32_t* shift = narrow_.data();
        for (std::int64_t o = 0; o < outputs_; ++o) {
          const std::uint32_t sum = static_cast<std::uint32_t>(sums[o]) + shift[o];
          y[o] = static_cast<float>(static_cast<std::int32_t>(sum)) * scale[o];
        }
      }
    }
  }

 private:
  std::int64_t outputs_;
  kernels::Outputs results_;
  std::vector<std::int64_t> shift_;
  std::vector<std::uint32_t> narrow_;
};

// Rows of x as bytes, [rows, inputs]; an int8 grid 128 higher, where it is one of uint8.
PoolBuffer bytes_of(const AnyView& x, const QParams& input, const char* where) {
  PoolBuffer bytes = pool_allocate(x.size());
  try {
    quant::quantize(x, input, MutableAnyView(bytes.get(), input.dtype(), x.shape()));
  } catch (const NonFiniteError&) {
    refuse_nan(false, where);
  }
  if (input.dtype() == DType::int8) {
    auto* const data = static_cast<std::uint8_t*>(bytes.get());
    parallel_for(x.size(), 1 << 16, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t i = first; i < last; ++i) data[i] ^= 0x80;
    });
  }
  return bytes;
}

void onednn_linear(const AnyView& x, const QParams& input, std::int64_t outputs,
                   std::int64_t inputs, const std::int8_t* weight, const kernels::Outputs& results,
                   float* out, const char* where) {
  // Rows of one product: their sums stay in the second cache.
  constexpr std::int64_t kMost = 256;
  const std::int64_t rows = x.size() / inputs;
  const std::int64_t grain = std::min(rows, kMost);
  check_exact({weight, static_cast<std::size_t>(outputs * inputs)}, where);
  const PoolBuffer bytes = bytes_of(x, input, where);
  const std::int32_t zero_point = input.zero_point()[0] + (input.dtype() == DType::int8 ? 128 : 0);
  const Finish finish(outputs, inputs, weight, zero_point, results);
  or_refusal(where, [&] {
    const kernels::onednn::ByteProduct product(grain, inputs, outputs, weight);
    parallel_for(rows, grain, [&](std::int64_t first, std::int64_t last) {
      const std::int64_t count = last - first;
      const PoolBuffer memory = pool_allocate(4 * count * outputs);
      auto* const sums = static_cast<std::int32_t*>(memory.get());
      product.multiply(count, static_cast<const std::uint8_t*>(bytes.get()) + first * inputs, sums);
      finish(count, sums, out + first * outputs);
    });
  });
}

}  // namespace

Shape convolution_shape(const Shape& x, const Shape& weight, const ConvolutionOptions& options) {
  const kernels::Convolution c = geometry(x, weight, options);
  Shape shape = x;
  shape[1] = c.outputs;
  if (x.rank() == 4) shape[2] = c.out_height;
  shape[x.rank() - 1] = c.out_width;
  return shape;
}

void integer_linear(const AnyView& x, const QParams& input, const AnyView& weight,
                    std::span<const float> weight_scale, const std::optional<AnyView>& bias,
                    const MutableAnyView& out, IntegerBackend backend) {
  constexpr auto where = "runtime.integer_linear";
  check_operands(x, weight, out, where);
  check(weight.rank() == 2, where, "weight must have 2 dimensions", weight.shape());
  check(x.rank() >= 1 && x.shape().back() == weight.shape()[1], where,
        "x must have " + std::to_string(weight.shape()[1]) + " elements in its last dimension",
        x.shape());
  Shape expected = x.shape();
  expected[x.rank() - 1] = weight.shape()[0];
  check_shape(out.shape(), expected, where, "out");
  const kernels::InputGrid grid = grid_of(input, where);
  const std::int64_t inputs = weight.shape()[1];
  Results results = results_of(input, weight_scale, bias, weight.shape(), inputs, where);
  results.outputs.scale = results.scale.data();
  if (out.empty()) return;
  const std::int64_t outputs = weight.shape()[0];
  // Without inputs there is nothing to multiply.
  if (backend == IntegerBackend::onednn && inputs > 0) {
    onednn_linear(x, input, outputs, inputs, static_cast<const std::int8_t*>(weight.data()),
                  results.outputs, static_cast<float*>(out.data()), where);
    return;
  }
  const std::int64_t rows = out.size() / outputs;
  const std::vector<std::int32_t> packed =
      kernels::pack_linear(outputs, inputs, static_cast<const std::int8_t*>(weight.data()));
  std::atomic<bool> numbers = true;
  parallel_for(rows, kRows, [&](std::int64_t first, std::int64_t last) {
    const PoolBuffer workspace =
        pool_allocate(4 * kernels::multiply_workspace(last - first, inputs));
    if (!kernels::multiply(last - first, inputs, outputs, grid,
                           static_cast<const float*>(x.data()) + first * inputs, packed.data(),
                           results.outputs, static_cast<std::int32_t*>(workspace.get()),
                           static_cast<float*>(out.data()) + first * outputs)) {
      numbers = false;
    }
  });
  refuse_nan(numbers, where);
}

void integer_convolution(const AnyView& x, const QParams& input, const AnyView& weight,
                         std::span<const float> weight_scale, const std::optional<AnyView>& bias,
                         const ConvolutionOptions& options, const MutableAnyView& out) {
  constexpr auto where = "runtime.integer_convolution";
  check_operands(x, weight, out, where);
  check_shape(out.shape(), convolution_shape(x.shape(), weight.shape(), options), where, "out");
  const kernels::Convolution c = geometry(x.shape(), weight.shape(), options);
  const kernels::InputGrid grid = grid_of(input, where);
  const std::int64_t depth = c.channels / c.groups * c.kernel_height * c.kernel_width;
  Results results = results_of(input, weight_scale, bias, weight.shape(), depth, where);
  results.outputs.scale = results.scale.data();
  check<UnsupportedError>(
      c.groups * c.pairs() * c.plane() < std::numeric_limits<std::int32_t>::max(), where,
      "one image must have less than 2^31 padded pixels", x.shape());
  if (out.empty()) return;
  const std::vector<std::int32_t> packed =
      kernels::pack_convolution(c, static_cast<const std::int8_t*>(weight.data()));
  const std::int64_t words = kernels::convolve_workspace(c);
  const std::int64_t from = c.channels * c.height * c.width;
  const std::int64_t to = c.outputs * c.out_height * c.out_width;
  const std::int64_t images = x.shape()[0];
  std::atomic<bool> numbers = true;
  parallel_for(
      images, std::max<std::int64_t>(1, images / 16), [&](std::int64_t first, std::int64_t last) {
        const PoolBuffer workspace = pool_allocate(4 * words);
        std::memset(workspace.get(), 0, static_cast<std::size_t>(4 * words));
        for (std::int64_t image = first; image < last; ++image) {
          if (!kernels::convolve(c, grid, static_cast<const float*>(x.data()) + image * from,
                                 packed.data(), results.outputs,
                                 static_cast<std::int32_t*>(workspace.get()),
                                 static_cast<float*>(out.data()) + image * to)) {
            numbers = false;
          }
        }
      });
  refuse_nan(numbers, where);
}

}  // namespace moptcore::inline v0::runtime

// SPDX-License-Identifier: Apache-2.0
// Real numbers to few bits and back, by scales of a tensor, an axis or blocks.
#include <array>
#include <cmath>
#include <limits>

#include <moptcore/graph/small_float.hpp>

#include <moptcore/graph/operator.hpp>
#include "graph/operators/gemm.hpp"
#include "graph/operators/widen.hpp"
#include "kernels/minmax.hpp"
#include "kernels/product.hpp"
#include "kernels/quantize.hpp"

namespace moptcore::inline v0::graph {
namespace {

using List = std::vector<std::int64_t>;

struct IntegerRange {
  std::int32_t low = 0;
  std::int32_t high = 0;
};

std::optional<IntegerRange> integer_range(ElementType type) {
  switch (type) {
    case ElementType::uint8: return IntegerRange{0, 255};
    case ElementType::int8: return IntegerRange{-128, 127};
    case ElementType::uint16: return IntegerRange{0, 65535};
    case ElementType::int16: return IntegerRange{-32768, 32767};
    case ElementType::uint4: return IntegerRange{0, 15};
    case ElementType::int4: return IntegerRange{-8, 7};
    case ElementType::uint2: return IntegerRange{0, 3};
    case ElementType::int2: return IntegerRange{-2, 1};
    default: return std::nullopt;
  }
}

// Element `index` of packed bits, its sign extended for int4 and int2.
int packed_code(const std::uint8_t* bytes, std::int64_t index, int bits, bool is_signed) {
  const int shift = static_cast<int>(index * bits % 8);
  const int code = (bytes[index * bits / 8] >> shift) & ((1 << bits) - 1);
  const int sign = 1 << (bits - 1);
  return is_signed ? (code ^ sign) - sign : code;
}

// The numbers that the elements of a quantized tensor stand for before scale and zero point, as
// float32, or float64 for int32, in which they are exact.
Tensor numbers(Call& call, const Tensor& tensor) {
  const ElementType type = tensor.type();
  const bool wide = type == ElementType::int32;
  Tensor result = call.environment().allocate(wide ? ElementType::float64 : ElementType::float32,
                                              tensor.shape());
  const auto copy = [&]<class From, class To> {
    const From* from = static_cast<const From*>(tensor.raw());
    To* to = result.mutable_data<To>();
    parallel_for(tensor.size(), kGrain, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t i = first; i < last; ++i) to[i] = static_cast<To>(from[i]);
    });
  };
  const auto* bytes = static_cast<const std::uint8_t*>(tensor.raw());
  switch (type) {
    case ElementType::uint8: copy.template operator()<std::uint8_t, float>(); break;
    case ElementType::int8: copy.template operator()<std::int8_t, float>(); break;
    case ElementType::uint16: copy.template operator()<std::uint16_t, float>(); break;
    case ElementType::int16: copy.template operator()<std::int16_t, float>(); break;
    case ElementType::int32: copy.template operator()<std::int32_t, double>(); break;
    case ElementType::uint4:
    case ElementType::int4:
    case ElementType::uint2:
    case ElementType::int2: {
      const bool is_signed = type == ElementType::int4 || type == ElementType::int2;
      float* to = result.mutable_data<float>();
      for (std::int64_t i = 0; i < tensor.size(); ++i) {
        to[i] = static_cast<float>(packed_code(bytes, i, bit_width(type), is_signed));
      }
      break;
    }
    default: {
      const SmallFloat* format = small_float_of(type);
      if (format == nullptr) {
        refuse_type(call,
                    "quantized elements must be integers of 2 to 16 bits, int32, float8 or "
                    "float4",
                    type);
      }
      std::array<float, 256> values{};
      for (int code = 0; code < 256; ++code) {
        values[code] = decode(*format, static_cast<std::uint8_t>(code));
      }
      float* to = result.mutable_data<float>();
      for (std::int64_t i = 0; i < tensor.size(); ++i) {
        to[i] =
            values[type == ElementType::float4e2m1 ? packed_code(bytes, i, 4, false) : bytes[i]];
      }
    }
  }
  return result;
}

// Scales of any float type, int32 or e8m0, as float32.
Tensor scales(Call& call, const Tensor& tensor) {
  if (tensor.type() == ElementType::float8e8m0) {
    Tensor result = call.environment().allocate(ElementType::float32, tensor.shape());
    const auto* bytes = static_cast<const std::uint8_t*>(tensor.raw());
    std::transform(bytes, bytes + tensor.size(), result.mutable_data<float>(), decode_e8m0);
    return result;
  }
  if (tensor.type() == ElementType::int32) {
    Tensor result = call.environment().allocate(ElementType::float32, tensor.shape());
    const auto all = tensor.values<std::int32_t>();
    std::transform(all.begin(), all.end(), result.mutable_data<float>(),
                   [](std::int32_t value) { return static_cast<float>(value); });
    return result;
  }
  if (tensor.type() == ElementType::float64) {
    refuse_type(call, "scales must be float32, float16, bfloat16, int32 or float8_e8m0fnu",
                tensor.type());
  }
  return widened(call, tensor);
}

// Which scale an element has.
class Granularity {
 public:
  Granularity(const Call& call, const Shape& x, const Shape& scale) {
    const std::int64_t block = call.attribute<std::int64_t>("block_size", 0);
    call.require(block >= 0, "block_size must be >= 0", block);
    const std::int64_t count = element_count(scale);
    if (count == 1 && scale.rank() <= 1) {
      inner_ = element_count(x);
      return;
    }
    auto given = call.attribute<std::int64_t>("axis", 1);
    // Of a vector there is one axis only, whatever the default says.
    if (x.rank() == 1 && given == 1) given = 0;
    call.require(
        given >= -x.rank() && given < x.rank(),
        "axis must be in [-" + std::to_string(x.rank()) + ", " + std::to_string(x.rank()) + ")",
        given);
    const int axis = static_cast<int>(given < 0 ? given + x.rank() : given);
    Shape before;
    Shape after;
    for (int i = 0; i < axis; ++i) before.push_back(x[i]);
    for (int i = axis + 1; i < x.rank(); ++i) after.push_back(x[i]);
    if (element_count(x) == 0) outer_ = 0;
    else outer_ = element_count(before);
    inner_ = element_count(after);
    extent_ = x[axis];
    if (block == 0) {
      call.require(scale.rank() == 1 && scale[0] == extent_,
                   "scales must be one, or one for each index of the axis, shape", scale);
      per_axis_ = true;
      return;
    }
    block_ = block;
    parts_ = extent_ == 0 ? 0 : (extent_ - 1) / block + 1;
    Shape wanted = x;
    wanted[axis] = parts_;
    call.require(scale == wanted,
                 "scales of blocks must have the shape of the input but for the axis", scale);
  }

  // f(offset, count, scale, step): elements [offset, offset + count) have the scales scale + i *
  // step.
  template <class F>
  void for_each_run(F&& f) const {
    if (block_ == 0 && !per_axis_) {
      parallel_for(inner_, kGrain, [&](std::int64_t first, std::int64_t last) {
        f(first, last - first, std::int64_t{0}, std::int64_t{0});
      });
      return;
    }
    if (outer_ == 0) return;
    const std::int64_t length = inner_ * extent_;
    parallel_for(outer_, std::max<std::int64_t>(kGrain / length, 1),
                 [&](std::int64_t first, std::int64_t last) {
                   for (std::int64_t o = first; o < last; ++o) run(o, f);
                 });
  }

 private:
  template <class F>
  void run(std::int64_t o, F&& f) const {
    const std::int64_t start = o * extent_ * inner_;
    if (per_axis_ && inner_ == 1) return f(start, extent_, std::int64_t{0}, std::int64_t{1});
    if (per_axis_) {
      for (std::int64_t d = 0; d < extent_; ++d) {
        f(start + d * inner_, inner_, d, std::int64_t{0});
      }
      return;
    }
    if (inner_ == 1) {
      for (std::int64_t part = 0; part < parts_; ++part) {
        const std::int64_t begin = part * block_;
        f(start + begin, std::min(block_, extent_ - begin), o * parts_ + part, std::int64_t{0});
      }
      return;
    }
    for (std::int64_t d = 0; d < extent_; ++d) {
      f(start + d * inner_, inner_, (o * parts_ + d / block_) * inner_, std::int64_t{1});
    }
  }

  std::int64_t outer_ = 1;
  std::int64_t extent_ = 1;
  std::int64_t inner_ = 1;
  std::int64_t block_ = 0;
  std::int64_t parts_ = 1;
  bool per_axis_ = false;
};

// Zero points as numbers; one for each scale.
std::optional<Tensor> zero_points(Call& call, int index, ElementType type, const Shape& scale) {
  if (!call.has(index)) return std::nullopt;
  const Tensor& given = call.input(index, type);
  const bool fits = given.shape() == scale ||
                    (given.size() == 1 && element_count(scale) == 1 && given.rank() <= 1);
  call.require(fits, "zero points must have the shape of the scales", given.shape());
  return numbers(call, given);
}

// What the kernels of quantization call a type, where they have it.
std::optional<kernels::Integer> kernel_integer(ElementType type) {
  switch (type) {
    case ElementType::uint8: return kernels::Integer::uint8;
    case ElementType::int8: return kernels::Integer::int8;
    case ElementType::uint16: return kernels::Integer::uint16;
    case ElementType::int16: return kernels::Integer::int16;
    default: return std::nullopt;
  }
}

// The grids of all scales, as the kernels take them.
class Grids {
 public:
  Grids(const Tensor& scale, const std::optional<Tensor>& zeros, const IntegerRange& range)
      : scales_(scale.data<float>()) {
    const auto count = static_cast<std::size_t>(scale.size());
    zeros_.assign(count, 0.0f);
    if (zeros) std::copy_n(zeros->data<float>(), count, zeros_.data());
    lows_.resize(count);
    highs_.resize(count);
    for (std::size_t i = 0; i < count; ++i) {
      lows_[i] = static_cast<float>(range.low) - zeros_[i];
      highs_[i] = static_cast<float>(range.high) - zeros_[i];
    }
  }

  [[nodiscard]] kernels::GridStep<float> one(std::int64_t at) const {
    return {scales_[at], scales_[at], lows_[at], highs_[at], zeros_[at]};
  }
  [[nodiscard]] kernels::GridTable<float> from(std::int64_t at) const {
    return {scales_ + at, scales_ + at, lows_.data() + at, highs_.data() + at, zeros_.data() + at};
  }

 private:
  const float* scales_;
  std::vector<float> zeros_;
  std::vector<float> lows_;
  std::vector<float> highs_;
};

// By the quotient, half to even; NaN becomes the zero point.
constexpr kernels::GridRule kQuotientRule{kernels::Rounding::divide_even,
                                          kernels::NanPosition::zero};

ElementType type_attribute(const Call& call, std::string_view attribute, ElementType fallback) {
  const std::int64_t value = call.attribute<std::int64_t>(attribute, 0);
  if (value == 0) return fallback;
  call.require<DTypeError>(value > 0 && value < kElementTypeCount,
                           std::string(attribute) + " must be a type that moptcore has", value);
  return static_cast<ElementType>(value);
}

void dequantize_linear(Call& call) {
  const Tensor& x = call.input(0);
  const Tensor& scale = call.input(1);
  const Granularity granularity(call, x.shape(), scale.shape());
  const ElementType fallback =
      scale.type() == ElementType::float8e8m0 || scale.type() == ElementType::int32
          ? ElementType::float32
          : scale.type();
  const ElementType type = type_attribute(call, "output_dtype", fallback);
  if (type != ElementType::float32 && !is_half(type)) {
    refuse_type(call, "output_dtype must be float32, float16 or bfloat16", type);
  }
  const Tensor factors = scales(call, scale);
  const auto zeros = zero_points(call, 2, x.type(), scale.shape());
  if (const auto integer = kernel_integer(x.type())) {
    Tensor values = call.environment().allocate(ElementType::float32, x.shape());
    const Grids grids(factors, zeros, *integer_range(x.type()));
    const auto* from = static_cast<const std::byte*>(x.raw());
    float* to = values.mutable_data<float>();
    const std::int64_t width = bit_width(x.type()) / 8;
    granularity.for_each_run(
        [&](std::int64_t offset, std::int64_t count, std::int64_t at, std::int64_t step) {
          const std::byte* run = from + offset * width;
          if (step == 0) {
            kernels::dequantize_f32(run, *integer, count, grids.one(at), to + offset);
          } else {
            kernels::dequantize_f32(run, *integer, count, grids.from(at), to + offset);
          }
        });
    return set_rounded(call, 0, values, type);
  }
  const Tensor codes = numbers(call, x);
  Tensor y = call.environment().allocate(ElementType::float32, x.shape());
  const float* s = factors.data<float>();
  float* out = y.mutable_data<float>();
  visit_wide(call, codes.type(), [&]<class T> {
    const T* in = codes.data<T>();
    const T* z = zeros ? zeros->data<T>() : nullptr;
    granularity.for_each_run(
        [&](std::int64_t offset, std::int64_t count, std::int64_t at, std::int64_t step) {
          if (step == 0) {
            const T zero = z == nullptr ? T(0) : z[at];
            const float factor = s[at];
            for (std::int64_t i = offset; i < offset + count; ++i) {
              out[i] = static_cast<float>(in[i] - zero) * factor;
            }
            return;
          }
          for (std::int64_t i = 0; i < count; ++i) {
            const T zero = z == nullptr ? T(0) : z[at + i];
            out[offset + i] = static_cast<float>(in[offset + i] - zero) * s[at + i];
          }
        });
  });
  set_rounded(call, 0, y, type);
}

// Rounds to the precision in which a quotient is to be computed.
float in_precision(float value, ElementType precision) {
  if (precision == ElementType::float16) return static_cast<float>(float16(value));
  if (precision == ElementType::bfloat16) return static_cast<float>(bfloat16(value));
  return value;
}

// clamp(rint(quotient) + zero), saturated in float; NaN becomes the zero point.
std::int32_t to_integer(float quotient, float zero, const IntegerRange& range) {
  const float steps = std::nearbyint(quotient);
  if (std::isnan(steps)) return static_cast<std::int32_t>(zero);
  const float low = static_cast<float>(range.low) - zero;
  const float high = static_cast<float>(range.high) - zero;
  return static_cast<std::int32_t>(std::clamp(steps, low, high) + zero);
}

template <class T, class F>
void write_each(const Granularity& granularity, T* out, F&& f) {
  granularity.for_each_run(
      [&](std::int64_t offset, std::int64_t count, std::int64_t at, std::int64_t step) {
        for (std::int64_t i = 0; i < count; ++i) {
          out[offset + i] = static_cast<T>(f(offset + i, at + i * step));
        }
      });
}

// Packs one code a byte.
void pack(const std::vector<std::uint8_t>& codes, int bits, Tensor& y) {
  auto* bytes = static_cast<std::uint8_t*>(y.mutable_raw());
  std::fill_n(bytes, y.bytes(), std::uint8_t{0});
  const int mask = (1 << bits) - 1;
  for (std::size_t i = 0; i < codes.size(); ++i) {
    const std::size_t at = i * static_cast<std::size_t>(bits);
    bytes[at / 8] = static_cast<std::uint8_t>(bytes[at / 8] | ((codes[i] & mask) << at % 8));
  }
}

// Codes of `type` for quotients: quotient(i, at) is x[i] / scale[at].
template <class F>
void write_codes(Call& call, const Granularity& granularity, const std::optional<Tensor>& zeros,
                 ElementType type, const Shape& shape, F&& quotient) {
  const bool saturate = call.attribute<std::int64_t>("saturate", 1) != 0;
  const float* z = zeros ? zeros->data<float>() : nullptr;
  Tensor& y = call.output(0, type, shape);
  const auto range = integer_range(type);
  const auto zero = [z](std::int64_t at) { return z == nullptr ? 0.0f : z[at]; };
  const auto integer = [&](std::int64_t i, std::int64_t at) {
    return to_integer(quotient(i, at), zero(at), *range);
  };
  switch (type) {
    case ElementType::uint8:
      return write_each(granularity, y.mutable_data<std::uint8_t>(), integer);
    case ElementType::int8: return write_each(granularity, y.mutable_data<std::int8_t>(), integer);
    case ElementType::uint16:
      return write_each(granularity, y.mutable_data<std::uint16_t>(), integer);
    case ElementType::int16:
      return write_each(granularity, y.mutable_data<std::int16_t>(), integer);
    default: break;
  }
  std::vector<std::uint8_t> codes;
  if (is_packed(type)) codes.resize(static_cast<std::size_t>(y.size()));
  auto* to = is_packed(type) ? codes.data() : static_cast<std::uint8_t*>(y.mutable_raw());
  if (range) {
    write_each(granularity, to, integer);
  } else {
    const SmallFloat& format = *small_float_of(type);
    write_each(granularity, to, [&](std::int64_t i, std::int64_t at) {
      const float value = quotient(i, at);
      // A sum with 0 would lose the sign of -0.
      return encode(format, z == nullptr ? value : value + z[at], saturate);
    });
  }
  if (is_packed(type)) pack(codes, bit_width(type), y);
}

void require_target(const Call& call, ElementType type) {
  if (!integer_range(type) && small_float_of(type) == nullptr) {
    refuse_type(call, "quantized elements must be integers of 2 to 16 bits, float8 or float4",
                type);
  }
}

void quantize_linear(Call& call) {
  const Tensor& input = call.input(0);
  const Tensor& scale = call.input(1);
  const Granularity granularity(call, input.shape(), scale.shape());
  ElementType type = type_attribute(call, "output_dtype", ElementType::undefined);
  if (call.has(2)) {
    const ElementType zero_type = call.input(2).type();
    call.require<DTypeError>(type == ElementType::undefined || type == zero_type,
                             "output_dtype must be the type of the zero point", name(type));
    type = zero_type;
  }
  if (type == ElementType::undefined) type = ElementType::uint8;
  require_target(call, type);
  const auto zeros = zero_points(call, 2, type, scale.shape());
  ElementType precision = type_attribute(call, "precision", ElementType::undefined);
  if (precision == ElementType::undefined) {
    precision = is_half(scale.type()) ? scale.type() : ElementType::float32;
  }
  if (precision != ElementType::float32 && !is_half(precision)) {
    refuse_type(call, "precision must be float32, float16 or bfloat16", precision);
  }
  const Tensor factors = scales(call, scale);
  const float* s = factors.data<float>();
  Tensor x;
  if (input.type() == ElementType::int32) {
    x = call.environment().allocate(ElementType::float32, input.shape());
    const auto all = input.values<std::int32_t>();
    std::transform(all.begin(), all.end(), x.mutable_data<float>(),
                   [](std::int32_t value) { return static_cast<float>(value); });
  } else {
    if (input.type() == ElementType::float64) {
      refuse_type(call, "the input must be float32, float16, bfloat16 or int32", input.type());
    }
    x = widened(call, input);
  }
  const float* in = x.data<float>();
  if (const auto integer = kernel_integer(type); integer && precision == ElementType::float32) {
    Tensor& y = call.output(0, type, input.shape());
    const Grids grids(factors, zeros, *integer_range(type));
    auto* to = static_cast<std::byte*>(y.mutable_raw());
    const std::int64_t width = bit_width(type) / 8;
    return granularity.for_each_run(
        [&](std::int64_t offset, std::int64_t count, std::int64_t at, std::int64_t step) {
          std::byte* run = to + offset * width;
          if (step == 0) {
            kernels::quantize_f32(in + offset, count, grids.one(at), kQuotientRule, *integer, run);
          } else {
            kernels::quantize_f32(in + offset, count, grids.from(at), kQuotientRule, *integer, run);
          }
        });
  }
  if (precision == ElementType::float32) {
    return write_codes(call, granularity, zeros, type, input.shape(),
                       [in, s](std::int64_t i, std::int64_t at) { return in[i] / s[at]; });
  }
  write_codes(call, granularity, zeros, type, input.shape(),
              [in, s, precision](std::int64_t i, std::int64_t at) {
                const float divisor = in_precision(s[at], precision);
                return in_precision(in_precision(in[i], precision) / divisor, precision);
              });
}

// The least and greatest of x and 0; NaN does not count.
std::pair<float, float> range_with_zero(const float* x, std::int64_t count) {
  std::vector<kernels::MinMax<float>> parts(static_cast<std::size_t>(block_count(count, kGrain)));
  parallel_blocks(count, kGrain, [&](std::int64_t block, std::int64_t first, std::int64_t last) {
    parts[static_cast<std::size_t>(block)] = kernels::min_max_f32(x + first, last - first);
  });
  float low = 0;
  float high = 0;
  for (const kernels::MinMax<float>& part : parts) {
    low = std::min(low, part.min);
    high = std::max(high, part.max);
    if (part.finite) continue;
    // The kernel leaves infinities out.
    const std::int64_t first = (&part - parts.data()) * kGrain;
    for (std::int64_t i = first; i < std::min(first + kGrain, count); ++i) {
      low = std::min(low, x[i]);
      high = std::max(high, x[i]);
    }
  }
  return {low, high};
}

void dynamic_quantize_linear(Call& call) {
  const Tensor& x = call.input(0, ElementType::float32);
  const float* in = x.data<float>();
  const auto [low, high] = range_with_zero(in, x.size());
  // Nothing but zeros has no range.
  const float scale = high == low ? 1.0f : (high - low) / 255.0f;
  const float quotient = -low / scale;
  const float zero =
      std::isnan(quotient) ? 0.0f : std::nearbyint(std::clamp(quotient, 0.0f, 255.0f));
  Tensor& y = call.output(0, ElementType::uint8, x.shape());
  auto* out = y.mutable_data<std::uint8_t>();
  const kernels::GridStep<float> grid{scale, scale, 0.0f - zero, 255.0f - zero, zero};
  parallel_for(x.size(), kGrain, [&](std::int64_t first, std::int64_t last) {
    kernels::quantize_f32(in + first, last - first, grid, kQuotientRule, kernels::Integer::uint8,
                          out + first);
  });
  if (call.wants(1)) call.set(1, Tensor::scalar(scale));
  if (call.wants(2)) call.set(2, Tensor::scalar(static_cast<std::uint8_t>(zero)));
}

// A scale or zero point of the rows of A or the columns of B: one number, a vector, or a tensor
// like the matrix with 1 in place of the other axis.
class LineParameter {
 public:
  LineParameter(const Call& call, Tensor values, const Shape& matrix, int axis)
      : values_(std::move(values)) {
    const std::int64_t lines = matrix[matrix.rank() - axis];
    if (values_.size() == 1) return;
    bool fits = false;
    if (values_.rank() == 1) {
      fits = values_.size() == lines;
    } else {
      Shape wanted = matrix;
      wanted[matrix.rank() - (3 - axis)] = 1;
      fits = values_.shape() == wanted;
      batch_step_ = lines;
    }
    call.require(fits,
                 "scales and zero points must be one, or one for each row of a or column of "
                 "b, shape",
                 values_.shape());
    step_ = 1;
  }
  [[nodiscard]] bool is_one() const { return step_ == 0; }
  [[nodiscard]] double at(std::int64_t batch, std::int64_t line) const {
    return values_.data<float>()[batch * batch_step_ + line * step_];
  }

 private:
  Tensor values_;
  std::int64_t step_ = 0;
  std::int64_t batch_step_ = 0;
};

// A quantized matrix less its zero points as `Wide`, which holds their differences exactly.
template <class Wide>
Tensor centered(Call& call, int index, int zero_index, int axis, const Shape& matrix) {
  const Tensor& given = call.input(index);
  const ElementType type = given.type();
  const bool small = small_float_of(type) != nullptr && type != ElementType::float4e2m1;
  if (type != ElementType::int8 && type != ElementType::uint8 && !small) {
    refuse_type(call, "elements must be int8, uint8 or float8", type);
  }
  const Tensor zeros =
      call.has(zero_index) ? numbers(call, call.input(zero_index, type)) : Tensor::scalar(0.0f);
  const LineParameter zero(call, zeros, matrix, axis);
  Tensor result = call.environment().allocate(type_of<Wide>(), matrix);
  const std::int64_t rows = matrix[matrix.rank() - 2];
  const std::int64_t columns = matrix.back();
  Wide* out = result.mutable_data<Wide>();
  if (result.size() == 0) return result;
  const auto run = [&]<class Code>(const Code* in) {
    const std::int64_t grain = std::max<std::int64_t>(1, kGrain / columns);
    parallel_for(result.size() / columns, grain, [&](std::int64_t first, std::int64_t last) {
      std::vector<Wide> points(static_cast<std::size_t>(columns));
      for (std::int64_t row = first; row < last; ++row) {
        // Those of columns change from batch to batch, those of rows from row to row.
        if (row == first || axis == 2 || row % rows == 0) {
          for (std::int64_t column = 0; column < columns; ++column) {
            if (axis == 2 && column > 0) points[column] = points[0];
            else
              points[column] =
                  static_cast<Wide>(zero.at(row / rows, axis == 2 ? row % rows : column));
          }
        }
        const Code* from = in + row * columns;
        Wide* to = out + row * columns;
        for (std::int64_t column = 0; column < columns; ++column) {
          to[column] = static_cast<Wide>(static_cast<Wide>(from[column]) - points[column]);
        }
      }
    });
  };
  if (std::is_same_v<Wide, double>) run(numbers(call, given).template data<float>());
  else if (type == ElementType::int8) run(given.data<std::int8_t>());
  else run(given.data<std::uint8_t>());
  return result;
}

void qlinear_matmul(Call& call) {
  const Tensor& a = call.input(0);
  const Tensor& b = call.input(3);
  call.require(a.rank() >= 1 && b.rank() >= 1, "matrices must have 1 or more dimensions, shape",
               a.rank() == 0 ? a.shape() : b.shape());
  // A vector is a matrix of one row (a) or column (b), which the result loses again.
  Shape as = a.shape();
  Shape bs = b.shape();
  if (a.rank() == 1) as = Shape{1, a.shape()[0]};
  if (b.rank() == 1) bs = Shape{b.shape()[0], 1};
  const std::int64_t rows = as[as.rank() - 2];
  const std::int64_t depth = as.back();
  const std::int64_t columns = bs.back();
  call.require(bs[bs.rank() - 2] == depth, "b must have as many rows as a has columns, shape",
               b.shape());
  const int batch_rank = std::max(as.rank(), bs.rank()) - 2;
  Shape batch;
  Shape a_strides;
  Shape b_strides;
  for (int i = 0; i < batch_rank; ++i) {
    const int from_a = i - (batch_rank - (as.rank() - 2));
    const int from_b = i - (batch_rank - (bs.rank() - 2));
    const std::int64_t x = from_a < 0 ? 1 : as[from_a];
    const std::int64_t y = from_b < 0 ? 1 : bs[from_b];
    call.require(x == y || x == 1 || y == 1, "batch dimensions must be equal or 1, shape", bs);
    batch.push_back(x == 1 ? y : x);
    a_strides.push_back(x == 1 ? 0 : 1);
    b_strides.push_back(y == 1 ? 0 : 1);
  }
  Shape output = batch;
  if (a.rank() > 1) output.push_back(rows);
  if (b.rank() > 1) output.push_back(columns);

  const LineParameter a_scale(call, scales(call, call.input(1)), as, 2);
  const LineParameter b_scale(call, scales(call, call.input(4)), bs, 1);
  const Tensor y_scale = scales(call, call.input(6));
  const Tensor& y_zero = call.input(7);
  call.require(y_scale.size() == 1 && y_zero.size() == 1,
               "y_scale and y_zero_point must have one element, shape", y_zero.shape());
  const ElementType type = y_zero.type();
  const bool small = small_float_of(type) != nullptr && type != ElementType::float4e2m1;
  if (type != ElementType::int8 && type != ElementType::uint8 && !small) {
    refuse_type(call, "y_zero_point must be int8, uint8 or float8", type);
  }
  const float zero = numbers(call, y_zero).data<float>()[0];
  const double divisor = y_scale.data<float>()[0];
  Tensor& y = call.output(0, type, output);
  if (y.size() == 0) return;
  std::int64_t a_step = 1;
  std::int64_t b_step = 1;
  for (int i = batch_rank - 1; i >= 0; --i) {
    if (a_strides[i] != 0) {
      a_strides[i] = a_step;
      a_step *= batch[i];
    }
    if (b_strides[i] != 0) {
      b_strides[i] = b_step;
      b_step *= batch[i];
    }
  }
  auto* out = static_cast<std::uint8_t*>(y.mutable_raw());
  const std::optional<kernels::Integer> integer = kernel_integer(type);
  const IntegerRange range = integer_range(type).value_or(IntegerRange());
  const kernels::GridStep<float> grid{1.0f, 1.0f, static_cast<float>(range.low) - zero,
                                      static_cast<float>(range.high) - zero, zero};
  const SmallFloat* format = small_float_of(type);
  const std::int64_t tile = std::max<std::int64_t>(kGrain / columns, 4);
  const std::int64_t tiles = block_count(rows, tile);
  const auto run = [&]<class Wide, class Sum> {
    const Tensor left = centered<Wide>(call, 0, 2, 2, as);
    const Tensor right = centered<Wide>(call, 3, 5, 1, bs);
    parallel_for(element_count(batch) * tiles, 1, [&](std::int64_t first, std::int64_t last) {
      std::vector<Sum> sums(static_cast<std::size_t>(std::min(tile, rows) * columns));
      std::vector<double> factors(static_cast<std::size_t>(columns));
      std::vector<float> quotients(static_cast<std::size_t>(columns));
      for (std::int64_t job = first; job < last; ++job) {
        const std::int64_t begin = job % tiles * tile;
        const std::int64_t end = std::min(begin + tile, rows);
        std::int64_t a_at = 0;
        std::int64_t b_at = 0;
        std::int64_t rest = job / tiles;
        for (int i = batch_rank - 1; i >= 0; --i) {
          a_at += rest % batch[i] * a_strides[i];
          b_at += rest % batch[i] * b_strides[i];
          rest /= batch[i];
        }
        std::fill(sums.begin(), sums.end(), Sum(0));
        gemm(end - begin, columns, depth,
             Matrix<const Wide>{left.data<Wide>() + (a_at * rows + begin) * depth, depth, 1},
             Matrix<const Wide>{right.data<Wide>() + b_at * depth * columns, columns, 1},
             Matrix<Sum>{sums.data(), columns, 1});
        std::uint8_t* to = out + (job / tiles * rows + begin) * columns;
        for (std::int64_t row = begin; row < end; ++row, to += columns) {
          if (row == begin || !a_scale.is_one()) {
            for (std::int64_t column = 0; column < columns; ++column) {
              factors[column] = a_scale.at(a_at, row) * b_scale.at(b_at, column) / divisor;
            }
          }
          const Sum* line = sums.data() + (row - begin) * columns;
          for (std::int64_t column = 0; column < columns; ++column) {
            quotients[column] =
                static_cast<float>(static_cast<double>(line[column]) * factors[column]);
          }
          if (integer) {
            kernels::quantize_f32(quotients.data(), columns, grid, kQuotientRule, *integer, to);
            continue;
          }
          for (std::int64_t column = 0; column < columns; ++column) {
            to[column] = encode(*format, quotients[column] + zero, true);
          }
        }
      }
    });
  };
  // Sums of products of 9 bits that fit in 32.
  const bool fits = depth <= std::numeric_limits<std::int32_t>::max() / (255 * 255);
  if (fits && integer_range(a.type()) && integer_range(b.type())) {
    run.template operator()<std::int16_t, std::int32_t>();
  } else {
    run.template operator()<double, double>();
  }
}

constexpr Operator kOperators[] = {
    {"", "DequantizeLinear", 10, dequantize_linear},
    {"", "DynamicQuantizeLinear", 11, dynamic_quantize_linear},
    {"", "QLinearMatMul", 10, qlinear_matmul},
    {"", "QuantizeLinear", 10, quantize_linear},
};

}  // namespace

std::span<const Operator> quantization_operators() noexcept { return kOperators; }

}  // namespace moptcore::inline v0::graph

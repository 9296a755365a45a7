// SPDX-License-Identifier: Apache-2.0
#include <moptcore/quant/learned.hpp>

#include <sstream>
#include <string>
#include <vector>

#include <moptcore/core/parallel.hpp>

#include "kernels/float_mode.hpp"
#include "kernels/learned.hpp"
#include "kernels/strided.hpp"
#include "quant/grids.hpp"
#include "quant/transform.hpp"

namespace moptcore::inline v0::quant {
namespace {

using kernels::GridStep;
using kernels::GridTable;
using kernels::kScratch;
using kernels::Learned;

template <class... Args>
void forward(const float* src, Args&&... args) noexcept {
  kernels::learned_f32(src, args...);
}

template <class... Args>
auto backward(const float* grad, Args&&... args) noexcept {
  return kernels::learned_backward_f32(grad, args...);
}

template <class... Args>
void forward(const float16* src, Args&&... args) noexcept {
  kernels::learned_f16(src, args...);
}

template <class... Args>
auto backward(const float16* grad, Args&&... args) noexcept {
  return kernels::learned_backward_f16(grad, args...);
}

template <class... Args>
void forward(const bfloat16* src, Args&&... args) noexcept {
  kernels::learned_bf16(src, args...);
}

template <class... Args>
auto backward(const bfloat16* grad, Args&&... args) noexcept {
  return kernels::learned_backward_bf16(grad, args...);
}

template <class... Args>
void forward(const double* src, Args&&... args) noexcept {
  kernels::learned_f64(src, args...);
}

template <class... Args>
auto backward(const double* grad, Args&&... args) noexcept {
  return kernels::learned_backward_f64(grad, args...);
}

std::string text(const Shape& shape) {
  std::ostringstream out;
  out << shape;
  return out.str();
}

// The grids of a tensor: one, or one for each index of the axis.
template <class T>
struct Grids {
  std::vector<GridStep<T>> steps;
  std::optional<std::int64_t> axis;

  [[nodiscard]] GridSteps<T> on(const Shape& shape, const char* where, const char* argument) const {
    if (!axis) return GridSteps<T>(steps.front());
    return {steps, *axis, shape, where, argument};
  }
};

// Checks that `values` are one finite number, or a vector of the axis' extent.
std::vector<double> numbers(const AnyView& values, const Shape& shape,
                            const std::optional<std::int64_t>& axis, const char* where,
                            const std::string& argument) {
  check<DTypeError>(is_floating(values.dtype()), where,
                    argument + " must be float64, float32, float16 or bfloat16",
                    name(values.dtype()));
  if (axis) {
    check(shape.rank() > 0, where, "x must have at least 1 dimension where axis is given",
          "shape ()");
    const std::int64_t extent = shape[normalize_axis(*axis, shape.rank(), where)];
    check(values.rank() == 1 && values.size() == extent, where,
          argument + " must be a vector of " + std::to_string(extent) + ", the extent of axis " +
              std::to_string(*axis),
          text(values.shape()));
  } else {
    check(values.size() == 1, where, argument + " must be one number where axis is None",
          text(values.shape()));
  }
  std::vector<double> result(static_cast<std::size_t>(values.size()));
  kernels::load(values, 0, values.size(), result.data());
  for (const double value : result) {
    check(std::isfinite(value), where, argument + " must be finite", value);
  }
  return result;
}

// Throws unless every number is > 0 and finite also in the precision of the arithmetic.
void check_positive(const std::vector<double>& values, bool wide, const char* where,
                    const char* rule) {
  for (const double value : values) {
    const double used = wide ? value : static_cast<double>(static_cast<float>(value));
    check(used > 0.0 && std::isfinite(used), where, rule, value);
  }
}

void check_gradient(const MutableAnyView& grad, const AnyView& of, const char* where,
                    const std::string& argument) {
  check<DTypeError>(is_floating(grad.dtype()), where,
                    "the gradient of " + argument + " must be floating", name(grad.dtype()));
  check(grad.shape() == of.shape(), where,
        "the gradient of " + argument + " must have its shape " + text(of.shape()), grad.shape());
}

void check_grad(const AnyView& grad, const AnyView& x, const MutableAnyView& dst,
                const char* where) {
  check<DTypeError>(grad.dtype() == x.dtype(), where, "grad must have the dtype of x",
                    name(grad.dtype()));
  check(grad.shape() == x.shape(), where, "grad must have the shape of x " + text(x.shape()),
        grad.shape());
  check_no_partial_overlap(grad, dst, where, "out");
}

template <class T>
Grids<T> lsq_grids(const AnyView& scale, const std::optional<AnyView>& shift, const Shape& shape,
                   const LsqOptions& o, const char* where) {
  using Shift = LsqOptions::Shift;
  check(o.qmin < o.qmax && o.qmin >= -32768 && o.qmax <= 65535, where,
        "qmin and qmax must be in [-32768, 65535] with qmin < qmax",
        std::to_string(o.qmin) + " and " + std::to_string(o.qmax));
  const auto scales = numbers(scale, shape, o.axis, where, "scale");
  check_positive(scales, std::same_as<T, double>, where, "scale must be finite and > 0");
  std::vector<double> shifts(scales.size());
  if (shift) {
    shifts =
        numbers(*shift, shape, o.axis, where, o.shift == Shift::offset ? "offset" : "zero_point");
  }
  Grids<T> grids{{}, o.axis};
  const double low = o.qmin;
  const double high = o.qmax;
  for (std::size_t c = 0; c < scales.size(); ++c) {
    const bool offset = o.shift == Shift::offset;
    const double zero = offset || !shift ? 0.0 : std::clamp(std::nearbyint(shifts[c]), low, high);
    const T step = static_cast<T>(scales[c]);
    grids.steps.push_back({step, step, static_cast<T>(low - zero), static_cast<T>(high - zero),
                           offset ? static_cast<T>(shifts[c]) : T(0)});
  }
  return grids;
}

// With `levels` the grid that values are rounded to; without, alpha itself for the gradient.
template <class T>
Grids<T> pact_grids(const AnyView& alpha, const Shape& shape, const PactOptions& o, bool levels,
                    const char* where) {
  check(o.bits >= 1 && o.bits <= 16, where, "bits must be in [1, 16]", o.bits);
  const auto alphas = numbers(alpha, shape, o.axis, where, "alpha");
  check_positive(alphas, std::same_as<T, double>, where, "alpha must be finite and > 0");
  const T top = static_cast<T>((1 << o.bits) - 1);
  Grids<T> grids{{}, o.axis};
  for (const double value : alphas) {
    const T level = static_cast<T>(value);
    const T step = level / top;
    check(!levels || step > T(0), where, "alpha must leave a step > 0", value);
    grids.steps.push_back(levels ? GridStep<T>{step, step, T(0), top, T(0)}
                                 : GridStep<T>{T(1), T(1), T(0), level, T(0)});
  }
  return grids;
}

template <class T>
void apply(const AnyView& x, const Grids<T>& grids, const MutableAnyView& dst, const char* where,
           const char* argument) {
  transform(x, dst, {}, grids.on(x.shape(), where, argument),
            []<class S>(const S* from, std::int64_t n, const auto& grid, S* to, std::uint8_t*,
                        bool stream) { forward(from, n, grid, to, stream); });
}

struct Sums {
  std::vector<double> scale;
  std::vector<double> offset;

  explicit Sums(std::int64_t n)
      : scale(static_cast<std::size_t>(n)), offset(static_cast<std::size_t>(n)) {}

  void add(std::int64_t to, const Sums& other, std::int64_t from) noexcept {
    scale[static_cast<std::size_t>(to)] += other.scale[static_cast<std::size_t>(from)];
    offset[static_cast<std::size_t>(to)] += other.offset[static_cast<std::size_t>(from)];
  }
};

// grad and x in, their gradient out, a stretch of at most kScratch elements at a time.
template <class T>
class Stretch {
 public:
  Stretch(const AnyView& grad, const AnyView& x, const MutableAnyView& dst)
      : grad_(grad), x_(x), dst_(dst) {}

  // Calls run(grad, x, dst) for elements [at, at + n).
  template <class Run>
  void visit(std::int64_t at, std::int64_t n, Run&& run) {
    T* to = kernels::writable_block(dst_, at, scratch_[2]);
    run(kernels::block(grad_, at, n, scratch_[0]), kernels::block(x_, at, n, scratch_[1]), to);
    if (to == scratch_[2]) kernels::store(to, at, n, dst_);
  }

 private:
  const AnyView& grad_;
  const AnyView& x_;
  const MutableAnyView& dst_;
  alignas(64) T scratch_[3][kScratch];
};

// Calls run(at, count, grad, x, dst, stream) for stretches of elements [first, last), cut at
// multiples of kScratch: of their own type where all is contiguous, else as values of T.
template <class T, class Run>
void for_each_stretch(const AnyView& grad, const AnyView& x, const MutableAnyView& dst,
                      std::int64_t first, std::int64_t last, bool stream, Run&& run) {
  const auto direct = [&]<class S>(S) {
    for (std::int64_t at = first; at < last; at += kScratch) {
      run(at, std::min(kScratch, last - at), static_cast<const S*>(grad.data()) + at,
          static_cast<const S*>(x.data()) + at, static_cast<S*>(dst.data()) + at, stream);
    }
    if (stream) kernels::stream_fence();
  };
  if (grad.is_contiguous() && x.is_contiguous() && dst.is_contiguous()) {
    if constexpr (std::same_as<T, float>) {
      if (x.dtype() == DType::float16) return direct(float16());
      if (x.dtype() == DType::bfloat16) return direct(bfloat16());
    }
    return direct(T());
  }
  Stretch<T> stretch(grad, x, dst);
  for (std::int64_t at = first; at < last; at += kScratch) {
    const std::int64_t count = std::min(kScratch, last - at);
    stretch.visit(at, count,
                  [&](const T* g, const T* from, T* to) { run(at, count, g, from, to, false); });
  }
}

// Rows of `inner` elements that share a grid. Rows are cut at multiples of kScratch and of kGrain,
// so that sums depend neither on the layout in memory nor on the threads.
template <class T>
Sums differentiate_rows(const AnyView& grad, const AnyView& x, const Grids<T>& grids,
                        std::int64_t inner, Learned what, const MutableAnyView& dst) {
  const auto channels = static_cast<std::int64_t>(grids.steps.size());
  const std::int64_t n = x.size();
  const std::int64_t blocks = block_count(n, kGrain);
  const bool stream =
      is_streamed(x, dst) && grad.data() != dst.data() && (inner % 8 == 0 || !grids.axis);
  // Block b meets row r at most once, and (r, b) grow together: r + b names the meeting.
  Sums parts(n / inner + blocks);
  parallel_blocks(n, kGrain, [&](std::int64_t block, std::int64_t first, std::int64_t last) {
    const kernels::FloatMode mode;
    for_each_stretch<T>(
        grad, x, dst, first, last, stream,
        [&]<class S>(std::int64_t at, std::int64_t count, const S* g, const S* from, S* to,
                     bool past) {
          for (std::int64_t done = 0; done < count;) {
            const std::int64_t row = (at + done) / inner;
            const std::int64_t run = std::min((row + 1) * inner - at - done, count - done);
            const auto& step = grids.steps[static_cast<std::size_t>(row % channels)];
            const auto sums = backward(g + done, from + done, run, step, what, to + done, past);
            parts.scale[static_cast<std::size_t>(row + block)] += sums.scale;
            parts.offset[static_cast<std::size_t>(row + block)] += sums.offset;
            done += run;
          }
        });
  });
  Sums total(channels);
  for (std::int64_t block = 0; block < blocks; ++block) {
    const std::int64_t last = std::min((block + 1) * kGrain, n);
    for (std::int64_t row = block * kGrain / inner; row * inner < last; ++row) {
      total.add(row % channels, parts, row + block);
    }
  }
  return total;
}

// Rows too short for a kernel call each: the tensor as lines of `width` elements, each column of
// which has a grid of its own.
template <class T>
Sums differentiate_columns(const AnyView& grad, const AnyView& x, const Grids<T>& grids,
                           const ChannelLayout& layout, Learned what, const MutableAnyView& dst) {
  const std::int64_t n = x.size();
  const std::int64_t width = layout.table_size();
  std::vector<T> table(static_cast<std::size_t>(5 * width));
  for (std::int64_t i = 0; i < width; ++i) {
    const auto& step = grids.steps[static_cast<std::size_t>(i / layout.inner % layout.channels)];
    T* at = table.data() + i;
    at[0] = step.factor;
    at[width] = step.scale;
    at[2 * width] = step.low;
    at[3 * width] = step.high;
    at[4 * width] = step.zero;
  }
  constexpr std::int64_t kSums = std::int64_t{1} << 18;  // bounds the memory of partial sums
  const std::int64_t lines = block_count(n, width);
  const std::int64_t groups = std::clamp<std::int64_t>(kSums / width, 1, 64);
  const std::int64_t depth = std::max<std::int64_t>(block_count(lines, groups), 1);
  const std::int64_t strips = block_count(width, kScratch);
  const std::int64_t used = block_count(lines, depth);
  Sums parts(used * width);
  parallel_for(used * strips, 1, [&](std::int64_t task, std::int64_t) {
    const kernels::FloatMode mode;
    Stretch<T> stretch(grad, x, dst);
    const std::int64_t group = task / strips;
    const std::int64_t column = task % strips * kScratch;
    double* scale = parts.scale.data() + group * width + column;
    double* offset = parts.offset.data() + group * width + column;
    const T* grid = table.data() + column;
    const GridTable<T> grids_here{grid, grid + width, grid + 2 * width, grid + 3 * width,
                                  grid + 4 * width};
    const std::int64_t last = std::min(lines, (group + 1) * depth);
    for (std::int64_t line = group * depth; line < last; ++line) {
      const std::int64_t at = line * width + column;
      const std::int64_t count = std::min(std::min(kScratch, width - column), n - at);
      if (count <= 0) continue;
      stretch.visit(at, count, [&](const T* g, const T* from, T* to) {
        backward(g, from, count, grids_here, what, to, scale, offset);
      });
    }
  });
  Sums total(layout.channels);
  for (std::int64_t i = 0; i < used * width; ++i) {
    total.add(i % width / layout.inner % layout.channels, parts, i);
  }
  return total;
}

template <class T>
Sums differentiate(const AnyView& grad, const AnyView& x, const Grids<T>& grids, Learned what,
                   const MutableAnyView& dst, const char* where) {
  if (x.empty()) return Sums(static_cast<std::int64_t>(grids.steps.size()));
  if (!grids.axis) return differentiate_rows(grad, x, grids, x.size(), what, dst);
  const ChannelLayout layout(x.shape(), normalize_axis(*grids.axis, x.rank(), where));
  if (layout.has_rows()) return differentiate_rows(grad, x, grids, layout.inner, what, dst);
  return differentiate_columns(grad, x, grids, layout, what, dst);
}

template <class T>
void lsq_backward_as(const AnyView& grad, const AnyView& x, const AnyView& scale,
                     const std::optional<AnyView>& shift, const MutableAnyView& dst,
                     const MutableAnyView& scale_grad,
                     const std::optional<MutableAnyView>& shift_grad, const LsqOptions& o,
                     const char* where) {
  const auto grids = lsq_grids<T>(scale, shift, x.shape(), o, where);
  Sums sums = differentiate(grad, x, grids, Learned::step, dst, where);
  const auto channels = static_cast<std::int64_t>(grids.steps.size());
  const double shared = static_cast<double>(x.size()) / static_cast<double>(channels);
  const double bound = std::max(o.qmax, 1);
  const double factor = o.grad_scale.value_or(x.empty() ? 0.0 : 1.0 / std::sqrt(shared * bound));
  for (std::size_t c = 0; c < sums.scale.size(); ++c) {
    sums.scale[c] *= factor;
    sums.offset[c] *= factor;
    if (o.shift == LsqOptions::Shift::zero_point) {
      sums.offset[c] *= -static_cast<double>(grids.steps[c].scale);
    }
  }
  kernels::store(sums.scale.data(), 0, channels, scale_grad);
  if (shift_grad) kernels::store(sums.offset.data(), 0, channels, *shift_grad);
}

bool is_wide(const AnyView& x) noexcept { return x.dtype() == DType::float64; }

}  // namespace

void lsq(const AnyView& x, const AnyView& scale, const std::optional<AnyView>& shift,
         const MutableAnyView& dst, const LsqOptions& options) {
  constexpr auto where = "quant.lsq";
  check_same(x, dst, where, "x");
  if (is_wide(x)) {
    apply(x, lsq_grids<double>(scale, shift, x.shape(), options, where), dst, where, "scale");
  } else {
    apply(x, lsq_grids<float>(scale, shift, x.shape(), options, where), dst, where, "scale");
  }
}

void lsq_backward(const AnyView& grad, const AnyView& x, const AnyView& scale,
                  const std::optional<AnyView>& shift, const MutableAnyView& dst,
                  const MutableAnyView& scale_grad, const std::optional<MutableAnyView>& shift_grad,
                  const LsqOptions& options) {
  constexpr auto where = "quant.lsq_backward";
  check_same(x, dst, where, "x");
  check_grad(grad, x, dst, where);
  check_gradient(scale_grad, scale, where, "scale");
  check(shift.has_value() == shift_grad.has_value(), where,
        "a shift and its gradient must be given together");
  if (shift) check_gradient(*shift_grad, *shift, where, "the shift");
  check(!options.grad_scale || std::isfinite(*options.grad_scale), where,
        "grad_scale must be finite", options.grad_scale.value_or(0.0));
  if (is_wide(x)) {
    lsq_backward_as<double>(grad, x, scale, shift, dst, scale_grad, shift_grad, options, where);
  } else {
    lsq_backward_as<float>(grad, x, scale, shift, dst, scale_grad, shift_grad, options, where);
  }
}

void pact(const AnyView& x, const AnyView& alpha, const MutableAnyView& dst,
          const PactOptions& options) {
  constexpr auto where = "quant.pact";
  check_same(x, dst, where, "x");
  if (is_wide(x)) {
    apply(x, pact_grids<double>(alpha, x.shape(), options, true, where), dst, where, "alpha");
  } else {
    apply(x, pact_grids<float>(alpha, x.shape(), options, true, where), dst, where, "alpha");
  }
}

void pact_backward(const AnyView& grad, const AnyView& x, const AnyView& alpha,
                   const MutableAnyView& dst, const MutableAnyView& alpha_grad,
                   const PactOptions& options) {
  constexpr auto where = "quant.pact_backward";
  check_same(x, dst, where, "x");
  check_grad(grad, x, dst, where);
  check_gradient(alpha_grad, alpha, where, "alpha");
  const auto run = [&]<class T>() {
    const auto grids = pact_grids<T>(alpha, x.shape(), options, false, where);
    const Sums sums = differentiate(grad, x, grids, Learned::clip, dst, where);
    kernels::store(sums.scale.data(), 0, alpha_grad.size(), alpha_grad);
  };
  if (is_wide(x)) {
    run.template operator()<double>();
  } else {
    run.template operator()<float>();
  }
}

}  // namespace moptcore::inline v0::quant

// SPDX-License-Identifier: Apache-2.0
// Poolings over windows of any number of spatial axes, and over whole planes.
#include <cmath>
#include <limits>

#include <moptcore/graph/operator.hpp>

#include "graph/operators/lane_sum.hpp"
#include "graph/operators/widen.hpp"
#include "graph/operators/window.hpp"

namespace moptcore::inline v0::graph {
namespace {

struct Pooling {
  std::int64_t planes = 0;
  Windows windows;
  Shape output;
};

std::int64_t plane_count(const Shape& shape) { return element_count(Shape{shape[0], shape[1]}); }

Pooling read_pooling(const Call& call, const Shape& x) {
  call.require(x.rank() >= 3, "the input must have 3 or more dimensions, shape", x);
  const WindowAttributes window = read_window(call.node(), x.rank() - 2);
  Pooling pooling;
  pooling.planes = plane_count(x);
  pooling.output = Shape{x[0], x[1]};
  for (int axis = 0; axis < window.rank(); ++axis) {
    pooling.windows.axes.push_back(window_axis(window, axis, x[axis + 2], call.where()));
    pooling.output.push_back(pooling.windows.axes.back().output);
  }
  pooling.windows.measure();
  // What a huge kernel costs shows in no output.
  double visits = static_cast<double>(pooling.planes) *
                  static_cast<double>(block_count(pooling.windows.outputs, kWindowPiece));
  for (const WindowAxis& axis : pooling.windows.axes) {
    const auto [low, high] = reading_taps(axis);
    visits *= static_cast<double>(high - low);
  }
  call.environment().spend(static_cast<std::int64_t>(std::min(visits / 16, 0x1p62)));
  return pooling;
}

// Strides of one plane's elements with the first axis fastest.
Shape column_major(const Windows& windows) {
  Shape strides;
  std::int64_t step = 1;
  for (const WindowAxis& axis : windows.axes) {
    strides.push_back(step);
    step *= axis.input;
  }
  return strides;
}

template <class T>
T lowest() {
  if constexpr (std::is_floating_point_v<T>) return -std::numeric_limits<T>::infinity();
  else return std::numeric_limits<T>::lowest();
}

// NaN wins, as in PyTorch.
template <class T>
bool exceeds(T value, T best) {
  return value > best || value != value;
}

template <class T>
void max_pool_values(const Pooling& pooling, const T* x, T* y) {
  const Windows& windows = pooling.windows;
  const std::int64_t stride = windows.axes.back().stride;
  for_each_piece(
      windows, pooling.planes,
      [&](std::int64_t plane, std::int64_t begin, std::int64_t end, const WindowRuns& runs) {
        const T* read = x + plane * windows.inputs;
        T* best = y + plane * windows.outputs + begin;
        std::fill_n(best, end - begin, lowest<T>());
        if (windows.inputs == 0) return;
        for_each_reading_tap(windows, [&](const auto& tap) {
          runs.visit(tap, [&](std::int64_t column, std::int64_t count, std::int64_t offset) {
            const T* from = read + offset;
            T* to = best + column;
            if (stride == 1) {
              for (std::int64_t i = 0; i < count; ++i)
                to[i] = exceeds(from[i], to[i]) ? from[i] : to[i];
            } else {
              for (std::int64_t i = 0; i < count; ++i) {
                const T value = from[i * stride];
                to[i] = exceeds(value, to[i]) ? value : to[i];
              }
            }
          });
        });
      });
}

template <class T>
void max_pool_indices(const Pooling& pooling, bool by_columns, const T* x, T* y,
                      std::int64_t* indices) {
  const Windows& windows = pooling.windows;
  const std::int64_t stride = windows.axes.back().stride;
  for_each_piece(
      windows, pooling.planes,
      [&](std::int64_t plane, std::int64_t begin, std::int64_t end, const WindowRuns& runs) {
        const std::int64_t base = plane * windows.inputs;
        T* best = y + plane * windows.outputs + begin;
        std::int64_t* where = indices + plane * windows.outputs + begin;
        std::fill_n(best, end - begin, lowest<T>());
        std::fill_n(where, end - begin, -1);
        if (windows.inputs == 0) return;
        for_each_reading_tap(windows, [&](const auto& tap) {
          runs.visit(tap, [&](std::int64_t column, std::int64_t count, std::int64_t offset) {
            for (std::int64_t i = 0; i < count; ++i) {
              const std::int64_t at = base + offset + i * stride;
              if (where[column + i] < 0 || exceeds(x[at], best[column + i])) {
                best[column + i] = x[at];
                where[column + i] = at;
              }
            }
          });
        });
        if (!by_columns) return;
        const Shape strides = column_major(windows);
        for (std::int64_t i = 0; i < end - begin; ++i) {
          if (where[i] < 0) continue;
          std::int64_t rest = where[i] - base;
          std::int64_t moved = base;
          for (int axis = windows.rank() - 1; axis >= 0; --axis) {
            moved += rest % windows.axes[axis].input * strides[axis];
            rest /= windows.axes[axis].input;
          }
          where[i] = moved;
        }
      });
}

void max_pool(Call& call) {
  const ElementType type = call.input(0).type();
  const Pooling pooling = read_pooling(call, call.input(0).shape());
  const std::int64_t order = call.attribute<std::int64_t>("storage_order", 0);
  call.require(order == 0 || order == 1, "storage_order must be 0 or 1", order);
  const bool integers = type == ElementType::int8 || type == ElementType::uint8;
  const Tensor x = integers ? call.input(0) : widened(call, call.input(0));
  Tensor y = call.environment().allocate(x.type(), pooling.output);
  const auto run = [&]<class T> {
    if (call.wants(1)) {
      Tensor& indices = call.output(1, ElementType::int64, pooling.output);
      max_pool_indices(pooling, order == 1, x.data<T>(), y.mutable_data<T>(),
                       indices.mutable_data<std::int64_t>());
    } else {
      max_pool_values(pooling, x.data<T>(), y.mutable_data<T>());
    }
  };
  if (type == ElementType::int8) run.template operator()<std::int8_t>();
  else if (type == ElementType::uint8) run.template operator()<std::uint8_t>();
  else visit_wide(call, x.type(), run);
  if (integers) call.set(0, y);
  else set_rounded(call, 0, y, type);
}

// y += f(x) over the taps of each window.
template <class T, class F>
void accumulate(const Pooling& pooling, const T* x, T* y, F&& f) {
  const Windows& windows = pooling.windows;
  const std::int64_t stride = windows.axes.back().stride;
  for_each_piece(
      windows, pooling.planes,
      [&](std::int64_t plane, std::int64_t begin, std::int64_t end, const WindowRuns& runs) {
        const T* read = x + plane * windows.inputs;
        T* sums = y + plane * windows.outputs + begin;
        std::fill_n(sums, end - begin, T(0));
        if (windows.inputs == 0) return;
        for_each_reading_tap(windows, [&](const auto& tap) {
          runs.visit(tap, [&](std::int64_t column, std::int64_t count, std::int64_t offset) {
            const T* from = read + offset;
            T* to = sums + column;
            if (stride == 1) {
              for (std::int64_t i = 0; i < count; ++i) to[i] += f(from[i]);
            } else {
              for (std::int64_t i = 0; i < count; ++i) to[i] += f(from[i * stride]);
            }
          });
        });
      });
}

// Taps of each window along one axis that count: those in the input, or in the padded input.
std::vector<double> tap_counts(const WindowAxis& axis, bool padded) {
  std::vector<double> counts(static_cast<std::size_t>(axis.output));
  const std::int64_t low = padded ? -axis.pad_begin : 0;
  const std::int64_t high = axis.input + (padded ? axis.pad_end : 0);
  for (std::int64_t i = 0; i < axis.output; ++i) {
    const std::int64_t start = i * axis.stride - axis.pad_begin;
    const std::int64_t first =
        start >= low ? 0 : std::min((low - start - 1) / axis.dilation + 1, axis.kernel);
    const std::int64_t last =
        start >= high ? 0 : std::min((high - start - 1) / axis.dilation + 1, axis.kernel);
    counts[i] = static_cast<double>(std::max<std::int64_t>(last - first, 0));
  }
  return counts;
}

void average_pool(Call& call) {
  const ElementType type = call.input(0).type();
  const Pooling pooling = read_pooling(call, call.input(0).shape());
  const bool padded = call.attribute<std::int64_t>("count_include_pad", 0) != 0;
  const Tensor x = widened(call, call.input(0));
  Tensor y = call.environment().allocate(x.type(), pooling.output);
  if (y.size() == 0) return set_rounded(call, 0, y, type);
  std::vector<std::vector<double>> counts;
  Shape outer;
  for (const WindowAxis& axis : pooling.windows.axes) counts.push_back(tap_counts(axis, padded));
  const int inner = pooling.windows.rank() - 1;
  for (int axis = 0; axis < inner; ++axis) outer.push_back(pooling.windows.axes[axis].output);
  const std::int64_t rows = element_count(outer);
  const std::int64_t width = pooling.windows.axes[inner].output;
  visit_wide(call, x.type(), [&]<class T> {
    T* out = y.mutable_data<T>();
    accumulate(pooling, x.data<T>(), out, [](T value) { return value; });
    const std::int64_t grain = std::max<std::int64_t>(kGrain / width, 1);
    parallel_for(pooling.planes * rows, grain, [&](std::int64_t first, std::int64_t last) {
      Odometer row(outer);
      row.seek(first % rows);
      for (std::int64_t job = first; job < last; ++job) {
        double count = 1;
        for (int axis = 0; axis < inner; ++axis) count *= counts[axis][row[axis]];
        row.next();
        T* sums = out + job * width;
        for (std::int64_t i = 0; i < width; ++i) {
          // A window that lies in the padding has an empty sum.
          sums[i] /= static_cast<T>(std::max(count * counts[inner][i], 1.0));
        }
      }
    });
  });
  set_rounded(call, 0, y, type);
}

std::int64_t order_of_norm(const Call& call) {
  const std::int64_t p = call.attribute<std::int64_t>("p", 2);
  call.require(p >= 1, "p must be >= 1", p);
  return p;
}

void lp_pool(Call& call) {
  const ElementType type = call.input(0).type();
  const Pooling pooling = read_pooling(call, call.input(0).shape());
  const std::int64_t p = order_of_norm(call);
  const Tensor x = widened(call, call.input(0));
  Tensor y = call.environment().allocate(x.type(), pooling.output);
  visit_wide(call, x.type(), [&]<class T> {
    T* out = y.mutable_data<T>();
    const T power = static_cast<T>(p);
    if (p == 1) {
      accumulate(pooling, x.data<T>(), out, [](T value) { return std::abs(value); });
    } else if (p == 2) {
      accumulate(pooling, x.data<T>(), out, [](T value) { return value * value; });
    } else {
      accumulate(pooling, x.data<T>(), out,
                 [power](T value) { return std::pow(std::abs(value), power); });
    }
    if (p == 1) return;
    for (std::int64_t i = 0; i < y.size(); ++i) {
      out[i] = p == 2 ? std::sqrt(out[i]) : std::pow(out[i], T(1) / power);
    }
  });
  set_rounded(call, 0, y, type);
}

// f(values, count) of each plane.
template <class F>
void over_planes(Call& call, F&& f) {
  const Tensor& input = call.input(0);
  const Shape& shape = input.shape();
  call.require(shape.rank() >= 2, "the input must have 2 or more dimensions, shape", shape);
  Shape reduced = shape;
  Shape plane;
  for (int axis = 2; axis < shape.rank(); ++axis) {
    reduced[axis] = 1;
    plane.push_back(shape[axis]);
  }
  const Tensor x = widened(call, input);
  Tensor y = call.environment().allocate(x.type(), reduced);
  const std::int64_t length = element_count(plane);
  visit_wide(call, x.type(), [&]<class T> {
    const T* in = x.data<T>();
    T* out = y.mutable_data<T>();
    const std::int64_t grain =
        std::max<std::int64_t>(kGrain / std::max<std::int64_t>(length, 1), 1);
    parallel_for(y.size(), grain, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t i = first; i < last; ++i) out[i] = f(in + i * length, length);
    });
  });
  set_rounded(call, 0, y, input.type());
}

void global_average_pool(Call& call) {
  over_planes(call, []<class T>(const T* values, std::int64_t count) {
    const double sum = lane_sum(values, count, [](double value) { return value; });
    return static_cast<T>(sum / static_cast<double>(std::max<std::int64_t>(count, 1)));
  });
}

void global_max_pool(Call& call) {
  over_planes(call, []<class T>(const T* values, std::int64_t count) {
    T best = lowest<T>();
    for (std::int64_t i = 0; i < count; ++i) best = exceeds(values[i], best) ? values[i] : best;
    return best;
  });
}

void global_lp_pool(Call& call) {
  const auto p = static_cast<double>(order_of_norm(call));
  over_planes(call, [p]<class T>(const T* values, std::int64_t count) {
    if (p == 1) {
      return static_cast<T>(lane_sum(values, count, [](double value) { return std::abs(value); }));
    }
    if (p == 2) {
      const double sum = lane_sum(values, count, [](double value) { return value * value; });
      return static_cast<T>(std::sqrt(sum));
    }
    const double sum =
        lane_sum(values, count, [p](double value) { return std::pow(std::abs(value), p); });
    return static_cast<T>(std::pow(sum, 1.0 / p));
  });
}

void max_unpool(Call& call) {
  const Tensor& x = call.input(0);
  const Tensor& indices = call.input(1, ElementType::int64);
  call.require(x.rank() >= 3, "the input must have 3 or more dimensions, shape", x.shape());
  call.require(indices.shape() == x.shape(), "indices must have the shape of the input",
               indices.shape());
  const WindowAttributes window = read_window(call.node(), x.rank() - 2);
  Shape natural{x.shape()[0], x.shape()[1]};
  for (int axis = 0; axis < window.rank(); ++axis) {
    natural.push_back(transposed_axis(window, axis, x.shape()[axis + 2], call.where()).input);
  }
  Shape shape = natural;
  if (call.has(2)) {
    shape = Shape(call.integers(2));
    bool fits = shape.rank() == natural.rank();
    for (int axis = 0; fits && axis < shape.rank(); ++axis) {
      fits = shape[axis] >= natural[axis] && (axis >= 2 || shape[axis] == natural[axis]);
    }
    call.require(fits, "output_shape must not be smaller than what strides and pads make", shape);
  }
  const std::int64_t reach = element_count(natural);
  Tensor& y = call.output(0, x.type(), shape);
  // Indices count elements of the natural shape, which lies in the front corner of a larger one.
  const bool same = shape == natural;
  const Shape strides = contiguous_strides(shape);
  visit_floats(call, x.type(), [&]<class T> {
    T* out = y.mutable_data<T>();
    std::fill_n(out, y.size(), T{});
    const T* in = x.data<T>();
    const std::int64_t* at = indices.data<std::int64_t>();
    for (std::int64_t i = 0; i < x.size(); ++i) {
      if (at[i] < 0 || at[i] >= reach) {
        call.require(false, "indices must be in [0, " + std::to_string(reach) + ")", at[i]);
      }
      std::int64_t to = at[i];
      if (!same) {
        std::int64_t rest = at[i];
        to = 0;
        for (int axis = shape.rank() - 1; axis >= 0; --axis) {
          to += rest % natural[axis] * strides[axis];
          rest /= natural[axis];
        }
      }
      out[to] = in[i];
    }
  });
}

constexpr Operator kOperators[] = {
    {"", "AveragePool", 1, average_pool},
    {"", "GlobalAveragePool", 1, global_average_pool},
    {"", "GlobalLpPool", 2, global_lp_pool},
    {"", "GlobalMaxPool", 1, global_max_pool},
    {"", "LpPool", 2, lp_pool},
    {"", "MaxPool", 1, max_pool},
    {"", "MaxUnpool", 9, max_unpool},
};

}  // namespace

std::span<const Operator> pooling_operators() noexcept { return kOperators; }

}  // namespace moptcore::inline v0::graph

// SPDX-License-Identifier: Apache-2.0
// Resize and Upsample: one axis after the other, each by a table of taps and weights.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include <moptcore/graph/operator.hpp>
#include "graph/operators/widen.hpp"

namespace moptcore::inline v0::graph {
namespace {

constexpr std::int64_t kMaxExtent = (std::int64_t{1} << 48) - 1;

enum class Mode : std::uint8_t { nearest, linear, cubic };
enum class Rounding : std::uint8_t { prefer_floor, prefer_ceil, floor, ceil };
enum class Coordinates : std::uint8_t {
  half_pixel,
  half_pixel_symmetric,
  pytorch_half_pixel,
  tf_half_pixel_for_nn,
  align_corners,
  asymmetric,
  crop
};

// What attributes say of all axes.
struct Method {
  Mode mode = Mode::nearest;
  Rounding rounding = Rounding::prefer_floor;
  Coordinates coordinates = Coordinates::half_pixel;
  double cubic = -0.75;
  double extrapolation = 0;
  bool exclude_outside = false;
  bool antialias = false;
};

// What happens along one axis.
struct AxisPlan {
  std::int64_t input = 0;
  std::int64_t output = 0;
  double scale = 1;
  double start = 0;  // the region of interest, where coordinates are those of a crop
  double end = 1;
};

// `count` taps for each output: elements taps[i * count + k] times weights[i * count + k]. No tap
// (-1) of the first: the extrapolation value.
struct Table {
  std::int64_t count = 1;
  std::vector<std::int64_t> taps;
  std::vector<double> weights;
};

Mode read_mode(const Call& call) {
  const std::string text = call.text("mode", "nearest");
  if (text == "nearest") return Mode::nearest;
  if (text == "linear" || text == "bilinear") return Mode::linear;
  call.require(text == "cubic", "mode must be nearest, linear or cubic", text);
  return Mode::cubic;
}

Method read_method(const Call& call) {
  Method method;
  method.mode = read_mode(call);
  if (call.version() < 11) {
    // Before the attribute existed.
    method.coordinates = Coordinates::asymmetric;
    method.rounding = Rounding::floor;
    return method;
  }
  const std::string coordinates = call.text("coordinate_transformation_mode", "half_pixel");
  if (coordinates == "half_pixel") method.coordinates = Coordinates::half_pixel;
  else if (coordinates == "half_pixel_symmetric")
    method.coordinates = Coordinates::half_pixel_symmetric;
  else if (coordinates == "pytorch_half_pixel")
    method.coordinates = Coordinates::pytorch_half_pixel;
  else if (coordinates == "tf_half_pixel_for_nn")
    method.coordinates = Coordinates::tf_half_pixel_for_nn;
  else if (coordinates == "align_corners") method.coordinates = Coordinates::align_corners;
  else if (coordinates == "asymmetric") method.coordinates = Coordinates::asymmetric;
  else if (coordinates == "tf_crop_and_resize") method.coordinates = Coordinates::crop;
  else call.require(false, "coordinate_transformation_mode must be one that ONNX has", coordinates);
  const std::string rounding = call.text("nearest_mode", "round_prefer_floor");
  if (rounding == "round_prefer_floor" || rounding.empty())
    method.rounding = Rounding::prefer_floor;
  else if (rounding == "round_prefer_ceil") method.rounding = Rounding::prefer_ceil;
  else if (rounding == "floor") method.rounding = Rounding::floor;
  else if (rounding == "ceil") method.rounding = Rounding::ceil;
  else call.require(false, "nearest_mode must be one that ONNX has", rounding);
  method.cubic = call.attribute<float>("cubic_coeff_a", -0.75f);
  method.extrapolation = call.attribute<float>("extrapolation_value", 0.0f);
  method.exclude_outside = call.attribute<std::int64_t>("exclude_outside", 0) != 0;
  method.antialias = call.attribute<std::int64_t>("antialias", 0) != 0;
  call.require(!method.antialias || method.mode != Mode::nearest,
               "antialias must be 0 in mode nearest", 1);
  return method;
}

// Where output `i` lies among the elements of the input.
double source(const Method& method, const AxisPlan& axis, std::int64_t i) {
  const double width = axis.scale * static_cast<double>(axis.input);
  const auto last = static_cast<double>(axis.input - 1);
  const auto at = static_cast<double>(i);
  switch (method.coordinates) {
    case Coordinates::half_pixel: return (at + 0.5) / axis.scale - 0.5;
    case Coordinates::half_pixel_symmetric: {
      const double center = static_cast<double>(axis.input) / 2;
      const double offset = center * (1 - static_cast<double>(axis.output) / width);
      return offset + (at + 0.5) / axis.scale - 0.5;
    }
    case Coordinates::pytorch_half_pixel: return width == 1 ? -0.5 : (at + 0.5) / axis.scale - 0.5;
    case Coordinates::tf_half_pixel_for_nn: return (at + 0.5) / axis.scale;
    case Coordinates::align_corners: return width == 1 ? 0.0 : at * last / (width - 1);
    case Coordinates::asymmetric: return at / axis.scale;
    case Coordinates::crop: break;
  }
  const double span = (axis.end - axis.start) * last;
  return axis.start * last + (width == 1 ? span / 2 : at * span / (width - 1));
}

double cubic_weight(double distance, double a) {
  const double x = std::abs(distance);
  if (x <= 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
  return 0;
}

std::int64_t nearest_tap(const Method& method, double x) {
  switch (method.rounding) {
    case Rounding::prefer_floor: return static_cast<std::int64_t>(std::ceil(x - 0.5));
    case Rounding::prefer_ceil: return static_cast<std::int64_t>(std::floor(x + 0.5));
    case Rounding::floor: return static_cast<std::int64_t>(std::floor(x));
    case Rounding::ceil: break;
  }
  return static_cast<std::int64_t>(std::ceil(x));
}

Table make_table(const Method& method, const AxisPlan& axis) {
  Table table;
  const double radius = method.mode == Mode::cubic ? 2 : 1;
  const double shrink = method.antialias ? std::min(axis.scale, 1.0) : 1.0;
  // Taps begin - base ... 1 - begin around the element to the left of the source.
  const auto begin = static_cast<std::int64_t>(std::floor(-radius / shrink)) + 1;
  if (method.mode != Mode::nearest) table.count = 2 - 2 * begin;
  const auto size = static_cast<std::size_t>(table.count * axis.output);
  table.taps.resize(size);
  table.weights.resize(size, 1.0);
  for (std::int64_t i = 0; i < axis.output; ++i) {
    double x = source(method, axis, i);
    std::int64_t* taps = table.taps.data() + i * table.count;
    double* weights = table.weights.data() + i * table.count;
    const bool inside = x >= 0 && x <= static_cast<double>(axis.input - 1);
    if (method.coordinates == Coordinates::crop && !inside) {
      std::fill_n(taps, table.count, -1);
      continue;
    }
    // Far outside all taps are the edge; the bound keeps the cast below defined.
    x = std::isnan(x) ? 0.0 : std::clamp(x, -0x1p50, 0x1p50);
    if (method.mode == Mode::nearest) {
      taps[0] = std::clamp<std::int64_t>(nearest_tap(method, x), 0, axis.input - 1);
      continue;
    }
    // The element on the left is preferred: the ratio is in (0, 1].
    const std::int64_t left = static_cast<std::int64_t>(std::ceil(x)) - 1;
    const double ratio = x - static_cast<double>(left);
    double sum = 0;
    for (std::int64_t k = 0; k < table.count; ++k) {
      const std::int64_t at = left + begin + k;
      const double distance = shrink * (static_cast<double>(begin + k) - ratio);
      double weight = method.mode == Mode::cubic ? cubic_weight(distance, method.cubic)
                                                 : std::max(1 - std::abs(distance), 0.0);
      if (method.exclude_outside && (at < 0 || at >= axis.input)) weight = 0;
      taps[k] = std::clamp<std::int64_t>(at, 0, axis.input - 1);
      weights[k] = weight;
      sum += weight;
    }
    if (!method.antialias && !method.exclude_outside) continue;
    if (sum == 0) sum = 1;
    for (std::int64_t k = 0; k < table.count; ++k) weights[k] /= sum;
  }
  return table;
}

// Elements in front of an axis and behind it.
struct Split {
  std::int64_t outer = 1;
  std::int64_t inner = 1;
};

Split split_at(const Shape& shape, int axis) {
  Shape before;
  Shape after;
  for (int i = 0; i < axis; ++i) before.push_back(shape[i]);
  for (int i = axis + 1; i < shape.rank(); ++i) after.push_back(shape[i]);
  return {element_count(before), element_count(after)};
}

template <class T>
void interpolate(const Table& table, const Split& split, std::int64_t input, std::int64_t output,
                 double extrapolation, const T* x, T* y) {
  const std::int64_t inner = split.inner;
  std::vector<T> weights(table.weights.size());
  std::transform(table.weights.begin(), table.weights.end(), weights.begin(),
                 [](double weight) { return static_cast<T>(weight); });
  const std::int64_t grain = std::max<std::int64_t>(kGrain / (output * inner), 1);
  parallel_for(split.outer, grain, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t o = first; o < last; ++o) {
      const T* from = x + o * input * inner;
      T* to = y + o * output * inner;
      for (std::int64_t i = 0; i < output; ++i, to += inner) {
        const std::int64_t* taps = table.taps.data() + i * table.count;
        const T* weight = weights.data() + i * table.count;
        if (taps[0] < 0) {
          std::fill_n(to, inner, static_cast<T>(extrapolation));
          continue;
        }
        if (inner == 1) {
          T sum = 0;
          for (std::int64_t k = 0; k < table.count; ++k) sum += weight[k] * from[taps[k]];
          *to = sum;
          continue;
        }
        std::fill_n(to, inner, T(0));
        for (std::int64_t k = 0; k < table.count; ++k) {
          const T* row = from + taps[k] * inner;
          const T w = weight[k];
          for (std::int64_t j = 0; j < inner; ++j) to[j] += w * row[j];
        }
      }
    }
  });
}

// How often each element of the input follows itself, where that is all that happens; else 0.
std::int64_t repeats_of(const Table& table, std::int64_t input, std::int64_t output) {
  if (input == 0 || output % input != 0) return 0;
  const std::int64_t repeats = output / input;
  for (std::int64_t i = 0; i < output; ++i) {
    if (table.taps[i] != i / repeats) return 0;
  }
  return repeats;
}

// Copies rows of `inner` elements; `fill` where there is no tap.
template <class T>
void gather(const Table& table, const Split& split, std::int64_t input, std::int64_t output,
            const T& fill, const T* x, T* y) {
  const std::int64_t inner = split.inner;
  const std::int64_t grain = std::max<std::int64_t>(kGrain / (output * inner), 1);
  const std::int64_t repeats = inner == 1 ? repeats_of(table, input, output) : 0;
  parallel_for(split.outer, grain, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t o = first; o < last; ++o) {
      const T* from = x + o * input * inner;
      T* to = y + o * output * inner;
      if (repeats == 2) {
        for (std::int64_t i = 0; i < input; ++i) to[2 * i] = to[2 * i + 1] = from[i];
        continue;
      }
      if (repeats > 0) {
        for (std::int64_t i = 0; i < input; ++i, to += repeats) std::fill_n(to, repeats, from[i]);
        continue;
      }
      for (std::int64_t i = 0; i < output; ++i, to += inner) {
        if (table.taps[i] < 0) std::fill_n(to, inner, fill);
        else if (inner == 1) *to = from[table.taps[i]];
        else std::copy_n(from + table.taps[i] * inner, inner, to);
      }
    }
  });
}

// The bytes of the number `value` in an element type of 8 bits and more.
std::array<std::uint8_t, 16> element_of(const Call& call, ElementType type, double value) {
  std::array<std::uint8_t, 16> bytes{};
  if (value == 0 || type == ElementType::boolean || type == ElementType::complex64 ||
      type == ElementType::complex128) {
    return bytes;
  }
  visit_numbers(call, type, [&]<class T> {
    T element{};
    if constexpr (std::is_integral_v<T>) {
      const auto low = static_cast<double>(std::numeric_limits<T>::min());
      const auto high = static_cast<double>(std::numeric_limits<T>::max());
      const double rounded = std::nearbyint(value);
      // 2^63 and 2^64 are no element, so the bound itself is tested.
      if (rounded >= high) element = std::numeric_limits<T>::max();
      else if (rounded >= low) element = static_cast<T>(rounded);
      else element = std::numeric_limits<T>::min();
    } else {
      element = T(static_cast<Arithmetic<T>>(value));
    }
    std::memcpy(bytes.data(), &element, sizeof element);
  });
  return bytes;
}

// One axis after the other: f(table, split, plan of the axis, from, to) fills what is not empty.
template <class F>
Tensor resize_axes(Call& call, const Method& method, const std::vector<AxisPlan>& plan,
                   const Tensor& input, const std::vector<int>& order, F&& f) {
  Tensor x = input;
  for (const int axis : order) {
    Shape shape = x.shape();
    shape[axis] = plan[axis].output;
    Tensor y = call.environment().allocate(x.type(), shape);
    if (y.size() > 0) f(make_table(method, plan[axis]), split_at(shape, axis), plan[axis], x, y);
    x = y;
  }
  return x;
}

std::vector<int> in_order(const std::vector<bool>& changed) {
  std::vector<int> order;
  for (int axis = 0; axis < static_cast<int>(changed.size()); ++axis) {
    if (changed[axis]) order.push_back(axis);
  }
  return order;
}

// Where the result does not depend on the order: first what shrinks, then what grows from the last
// axis on, so that most elements are copied in long rows.
std::vector<int> by_size(const std::vector<bool>& changed, const std::vector<AxisPlan>& plan) {
  std::vector<int> order = in_order(changed);
  const auto grows = [&](int axis) { return plan[axis].output > plan[axis].input; };
  const auto growing =
      std::stable_partition(order.begin(), order.end(), [&](int axis) { return !grows(axis); });
  std::reverse(growing, order.end());
  return order;
}

Tensor resize_nearest(Call& call, const Method& method, const std::vector<AxisPlan>& plan,
                      const Tensor& input, const std::vector<bool>& changed) {
  return resize_axes(call, method, plan, input, by_size(changed, plan),
                     [&](const Table& table, const Split& split, const AxisPlan& axis,
                         const Tensor& x, Tensor& y) {
                       if (x.type() == ElementType::string) {
                         gather(table, split, axis.input, axis.output, std::string(),
                                x.strings().data(), y.mutable_strings().data());
                         return;
                       }
                       const auto fill = element_of(call, x.type(), method.extrapolation);
                       visit_width(call, x.type(), [&]<class T> {
                         T value{};
                         std::memcpy(&value, fill.data(), sizeof value);
                         gather(table, split, axis.input, axis.output, value,
                                static_cast<const T*>(x.raw()), static_cast<T*>(y.mutable_raw()));
                       });
                     });
}

Tensor resize_smooth(Call& call, const Method& method, const std::vector<AxisPlan>& plan,
                     const Tensor& input, const std::vector<bool>& changed) {
  return resize_axes(call, method, plan, input, in_order(changed),
                     [&](const Table& table, const Split& split, const AxisPlan& axis,
                         const Tensor& x, Tensor& y) {
                       visit_wide(call, x.type(), [&]<class T> {
                         interpolate(table, split, axis.input, axis.output, method.extrapolation,
                                     x.data<T>(), y.mutable_data<T>());
                       });
                     });
}

// Integers are interpolated in double and rounded.
void resize_integers(Call& call, const Method& method, const std::vector<AxisPlan>& plan,
                     const Tensor& input, const std::vector<bool>& changed) {
  Tensor wide = call.environment().allocate(ElementType::float64, input.shape());
  visit_integers(call, input.type(), [&]<class T> {
    const auto all = input.values<T>();
    std::transform(all.begin(), all.end(), wide.mutable_data<double>(),
                   [](T value) { return static_cast<double>(value); });
  });
  const Tensor result = resize_smooth(call, method, plan, wide, changed);
  Tensor& y = call.output(0, input.type(), result.shape());
  visit_integers(call, input.type(), [&]<class T> {
    const double* from = result.data<double>();
    T* to = y.mutable_data<T>();
    constexpr auto kLow = static_cast<double>(std::numeric_limits<T>::min());
    constexpr auto kHigh = static_cast<double>(std::numeric_limits<T>::max());
    for (std::int64_t i = 0; i < y.size(); ++i) {
      const double value = std::nearbyint(from[i]);
      if (value >= kHigh) to[i] = std::numeric_limits<T>::max();
      else if (value >= kLow) to[i] = static_cast<T>(value);
      else to[i] = std::numeric_limits<T>::min();
    }
  });
}

void run(Call& call, const Method& method, const std::vector<AxisPlan>& plan) {
  const Tensor& input = call.input(0);
  std::vector<bool> changed;
  for (const AxisPlan& axis : plan) {
    call.require(axis.output == 0 || axis.input > 0,
                 "an axis without elements must stay empty, got extent", axis.output);
    const bool whole =
        method.coordinates != Coordinates::crop || (axis.start == 0 && axis.end == 1);
    changed.push_back(!(axis.scale == 1 && axis.input == axis.output && whole));
  }
  const ElementType type = input.type();
  if (method.mode == Mode::nearest) {
    return call.set(0, resize_nearest(call, method, plan, input, changed));
  }
  if (type == ElementType::float32 || type == ElementType::float64 || is_half(type)) {
    return set_rounded(call, 0, resize_smooth(call, method, plan, widened(call, input), changed),
                       type);
  }
  resize_integers(call, method, plan, input, changed);
}

// Floats of an input, or none where it is left out or empty.
std::vector<double> floats(Call& call, int index) {
  if (!call.has(index)) return {};
  const Tensor& given = call.input(index);
  if (given.size() == 0) return {};
  const Tensor wide = widened(call, given);
  std::vector<double> values;
  visit_wide(call, wide.type(), [&]<class T> {
    const auto all = wide.values<T>();
    values.assign(all.begin(), all.end());
  });
  return values;
}

std::int64_t scaled_extent(const Call& call, double scale, std::int64_t input) {
  call.require(std::isfinite(scale) && scale > 0, "scales must be finite and > 0", scale);
  const double extent = std::floor(scale * static_cast<double>(input));
  call.require(extent <= static_cast<double>(kMaxExtent), "extents must be below 2^48", extent);
  return static_cast<std::int64_t>(extent);
}

std::vector<AxisPlan> plan_by_scales(const Call& call, const Shape& shape,
                                     const std::vector<int>& axes,
                                     const std::vector<double>& scales) {
  call.require(scales.size() == axes.size(),
               "scales must be " + std::to_string(axes.size()) + ", one for each axis",
               scales.size());
  std::vector<AxisPlan> plan;
  for (const std::int64_t extent : shape) plan.push_back({extent, extent, 1, 0, 1});
  for (std::size_t i = 0; i < axes.size(); ++i) {
    AxisPlan& axis = plan[axes[i]];
    axis.output = scaled_extent(call, scales[i], axis.input);
    axis.scale = scales[i];
  }
  return plan;
}

std::vector<AxisPlan> plan_by_sizes(const Call& call, const Shape& shape,
                                    const std::vector<int>& axes,
                                    const std::vector<std::int64_t>& sizes) {
  call.require(sizes.size() == axes.size(),
               "sizes must be " + std::to_string(axes.size()) + ", one for each axis",
               sizes.size());
  std::vector<AxisPlan> plan;
  for (const std::int64_t extent : shape) plan.push_back({extent, extent, 1, 0, 1});
  double least = std::numeric_limits<double>::infinity();
  double greatest = 0;
  for (std::size_t i = 0; i < axes.size(); ++i) {
    AxisPlan& axis = plan[axes[i]];
    call.require(sizes[i] >= 0 && sizes[i] <= kMaxExtent, "sizes must be in [0, 2^48)", sizes[i]);
    call.require(sizes[i] == 0 || axis.input > 0,
                 "an axis without elements must stay empty, got extent", sizes[i]);
    axis.output = sizes[i];
    if (axis.input > 0)
      axis.scale = static_cast<double>(sizes[i]) / static_cast<double>(axis.input);
    least = std::min(least, axis.scale);
    greatest = std::max(greatest, axis.scale);
  }
  const std::string policy = call.text("keep_aspect_ratio_policy", "stretch");
  call.require(policy == "stretch" || policy == "not_larger" || policy == "not_smaller",
               "keep_aspect_ratio_policy must be stretch, not_larger or not_smaller", policy);
  if (policy == "stretch") return plan;
  const double scale = policy == "not_larger" ? least : greatest;
  for (const int index : axes) {
    AxisPlan& axis = plan[index];
    const double extent = std::floor(scale * static_cast<double>(axis.input) + 0.5);
    call.require(extent <= static_cast<double>(kMaxExtent), "extents must be below 2^48", extent);
    axis.output = static_cast<std::int64_t>(extent);
    axis.scale = scale;
  }
  return plan;
}

std::vector<int> read_axes(const Call& call, int rank) {
  std::vector<int> axes;
  const auto* found = call.node().find("axes");
  if (found == nullptr || call.version() < 18) {
    for (int axis = 0; axis < rank; ++axis) axes.push_back(axis);
    return axes;
  }
  std::vector<bool> seen(static_cast<std::size_t>(rank), false);
  for (const std::int64_t given : call.attribute<std::vector<std::int64_t>>("axes", {})) {
    call.require(given >= -rank && given < rank,
                 "axes must be in [-" + std::to_string(rank) + ", " + std::to_string(rank) + ")",
                 given);
    const int axis = static_cast<int>(given < 0 ? given + rank : given);
    call.require(!seen[axis], "axes must be named once each", given);
    seen[axis] = true;
    axes.push_back(axis);
  }
  return axes;
}

void resize(Call& call) {
  const Shape& shape = call.input(0).shape();
  const Method method = read_method(call);
  const bool early = call.version() < 11;
  const std::vector<int> axes = read_axes(call, shape.rank());
  const std::vector<double> scales = floats(call, early ? 1 : 2);
  const bool by_sizes = !early && call.has(3) && call.input(3).size() > 0;
  call.require(scales.empty() != !by_sizes || shape.rank() == 0,
               "one of scales and sizes must be given, scales are", scales.size());
  std::vector<AxisPlan> plan = by_sizes ? plan_by_sizes(call, shape, axes, call.integers(3))
                                        : plan_by_scales(call, shape, axes, scales);
  if (method.coordinates == Coordinates::crop) {
    const std::vector<double> roi = floats(call, 1);
    call.require(roi.size() == 2 * axes.size(),
                 "roi must have a start and an end for each axis, elements", roi.size());
    for (std::size_t i = 0; i < axes.size(); ++i) {
      plan[axes[i]].start = roi[i];
      plan[axes[i]].end = roi[axes.size() + i];
    }
  }
  run(call, method, plan);
}

void upsample(Call& call) {
  const Shape& shape = call.input(0).shape();
  Method method;
  method.mode = read_mode(call);
  method.coordinates = Coordinates::asymmetric;
  method.rounding = Rounding::floor;
  std::vector<double> scales;
  if (call.version() >= 9) {
    scales = floats(call, 1);
  } else {
    const auto& given = call.required<std::vector<float>>("scales");
    scales.assign(given.begin(), given.end());
  }
  std::vector<int> axes;
  for (int axis = 0; axis < shape.rank(); ++axis) axes.push_back(axis);
  run(call, method, plan_by_scales(call, shape, axes, scales));
}

constexpr Operator kOperators[] = {
    {"", "Resize", 10, resize},
    {"", "Upsample", 7, upsample},
};

}  // namespace

std::span<const Operator> resize_operators() noexcept { return kOperators; }

}  // namespace moptcore::inline v0::graph

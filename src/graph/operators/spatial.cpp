// SPDX-License-Identifier: Apache-2.0
// Samples between the elements of an image: grids, regions, deformed windows; columns to images.
#include <cmath>
#include <complex>
#include <limits>

#include <moptcore/graph/operator.hpp>

#include "graph/operators/gemm.hpp"
#include "graph/operators/widen.hpp"
#include "graph/operators/window.hpp"

namespace moptcore::inline v0::graph {
namespace {

enum class Padding : std::uint8_t { zeros, border, reflection };
enum class Sampling : std::uint8_t { nearest, linear, cubic };

// A source coordinate as integer and rest; far out all the same, so that casts are defined.
double bounded(double x) { return std::isnan(x) ? -0x1p40 : std::clamp(x, -0x1p40, 0x1p40); }

// Reflected at `low` and `high` until it lies between them.
double reflect(double x, double low, double high) {
  const double range = high - low;
  if (range <= 0) return low;
  if (x < low) {
    const double distance = low - x;
    const double turns = std::floor(distance / range);
    const double rest = distance - turns * range;
    return std::fmod(turns, 2) == 0 ? low + rest : high - rest;
  }
  if (x > high) {
    const double distance = x - high;
    const double turns = std::floor(distance / range);
    const double rest = distance - turns * range;
    return std::fmod(turns, 2) == 0 ? high - rest : low + rest;
  }
  return x;
}

void cubic_weights(double t, double* weights) {
  constexpr double kA = -0.75;
  const auto outer = [](double x) { return ((kA * x - 5 * kA) * x + 8 * kA) * x - 4 * kA; };
  const auto inner = [](double x) { return ((kA + 2) * x - (kA + 3)) * x * x + 1; };
  weights[0] = outer(t + 1);
  weights[1] = inner(t);
  weights[2] = inner(1 - t);
  weights[3] = outer(2 - t);
}

// Taps of one axis: elements and weights, -1 for an element that counts as 0.
struct Taps {
  int count = 1;
  std::int64_t at[4] = {};
  double weight[4] = {1, 0, 0, 0};
};

struct GridMethod {
  Sampling sampling = Sampling::linear;
  Padding padding = Padding::zeros;
  bool aligned = false;
};

// In the precision of the grid: ties of nearest fall as they do elsewhere.
template <class G>
Taps taps_of(const GridMethod& method, G normalized, std::int64_t extent) {
  const auto size = static_cast<double>(extent);
  const double low = method.aligned ? 0 : -0.5;
  const double high = method.aligned ? size - 1 : size - 0.5;
  const auto width = static_cast<G>(extent);
  double x = bounded(method.aligned ? (normalized + 1) / 2 * (width - 1)
                                    : ((normalized + 1) * width - 1) / 2);
  if (method.sampling == Sampling::nearest) x = std::nearbyint(x);
  if (x < low || x > high) {
    if (method.padding == Padding::border) x = std::clamp(x, 0.0, size - 1);
    if (method.padding == Padding::reflection) x = reflect(x, low, high);
  }
  Taps taps;
  auto first = static_cast<std::int64_t>(std::floor(x));
  const double rest = x - static_cast<double>(first);
  if (method.sampling == Sampling::linear) {
    taps.count = 2;
    taps.weight[0] = 1 - rest;
    taps.weight[1] = rest;
  } else if (method.sampling == Sampling::cubic) {
    taps.count = 4;
    cubic_weights(rest, taps.weight);
    --first;
  }
  for (int k = 0; k < taps.count; ++k) {
    std::int64_t at = first + k;
    if (at < 0 || at >= extent) {
      if (method.padding == Padding::zeros) {
        at = -1;
      } else if (method.padding == Padding::border) {
        at = std::clamp<std::int64_t>(at, 0, extent - 1);
      } else {
        at = static_cast<std::int64_t>(reflect(static_cast<double>(at), low, high));
        at = std::clamp<std::int64_t>(at, 0, extent - 1);
      }
    }
    taps.at[k] = at;
  }
  return taps;
}

// Offsets in a plane and weights of a point's taps: the products over the axes.
struct Point {
  std::vector<std::int64_t> offsets;
  std::vector<double> weights;
};

void combine(const std::vector<Taps>& axes, const Shape& image, Point& point) {
  point.offsets.assign(1, 0);
  point.weights.assign(1, 1.0);
  for (std::size_t axis = 0; axis < axes.size(); ++axis) {
    const std::size_t before = point.offsets.size();
    const std::int64_t extent = image[static_cast<int>(axis) + 2];
    std::vector<std::int64_t> offsets;
    std::vector<double> weights;
    for (std::size_t i = 0; i < before; ++i) {
      for (int k = 0; k < axes[axis].count; ++k) {
        if (axes[axis].at[k] < 0) continue;
        offsets.push_back(point.offsets[i] * extent + axes[axis].at[k]);
        weights.push_back(point.weights[i] * axes[axis].weight[k]);
      }
    }
    point.offsets = std::move(offsets);
    point.weights = std::move(weights);
  }
}

GridMethod read_grid_method(const Call& call) {
  GridMethod method;
  const std::string mode = call.text("mode", "linear");
  if (mode == "nearest") method.sampling = Sampling::nearest;
  else if (mode == "linear" || mode == "bilinear") method.sampling = Sampling::linear;
  else if (mode == "cubic" || mode == "bicubic") method.sampling = Sampling::cubic;
  else call.require(false, "mode must be nearest, linear or cubic", mode);
  const std::string padding = call.text("padding_mode", "zeros");
  if (padding == "zeros") method.padding = Padding::zeros;
  else if (padding == "border") method.padding = Padding::border;
  else if (padding == "reflection") method.padding = Padding::reflection;
  else call.require(false, "padding_mode must be zeros, border or reflection", padding);
  method.aligned = call.attribute<std::int64_t>("align_corners", 0) != 0;
  return method;
}

void grid_sample(Call& call) {
  const Tensor& input = call.input(0);
  const Shape& shape = input.shape();
  call.require(shape.rank() >= 3, "the input must have 3 or more dimensions, shape", shape);
  const int axes = shape.rank() - 2;
  const Tensor grid = widened(call, call.input(1));
  const Shape& points = grid.shape();
  call.require(points.rank() == shape.rank() && points[0] == shape[0] && points.back() == axes,
               "the grid must have the shape (batch, output extents, " + std::to_string(axes) + ")",
               points);
  // Each axis more multiplies the taps of a point by up to 4.
  call.require<UnsupportedError>(axes <= 5, "grids must have at most 5 axes", axes);
  const GridMethod method = read_grid_method(call);
  Shape output{shape[0], shape[1]};
  Shape plane;
  Shape places;
  for (int axis = 0; axis < axes; ++axis) {
    output.push_back(points[axis + 1]);
    places.push_back(points[axis + 1]);
    plane.push_back(shape[axis + 2]);
  }
  const std::int64_t inside = element_count(plane);
  const std::int64_t count = element_count(places);
  const ElementType type = input.type();
  const bool floating =
      is_half(type) || type == ElementType::float32 || type == ElementType::float64;
  Tensor x = input;
  if (floating) {
    x = widened(call, input);
  } else {
    x = call.environment().allocate(ElementType::float64, shape);
    visit_integers(call, type, [&]<class T> {
      const auto all = input.values<T>();
      std::transform(all.begin(), all.end(), x.mutable_data<double>(),
                     [](T value) { return static_cast<double>(value); });
    });
  }
  Tensor y = call.environment().allocate(x.type(), output);
  if (y.size() > 0) {
    call.require(inside > 0, "the input must have elements to sample, shape", shape);
    const std::int64_t channels = shape[1];
    visit_wide(call, x.type(), [&]<class T> {
      const T* in = x.data<T>();
      T* out = y.mutable_data<T>();
      parallel_for(shape[0] * count, 64, [&](std::int64_t first, std::int64_t last) {
        std::vector<Taps> taps(static_cast<std::size_t>(axes));
        Point point;
        for (std::int64_t job = first; job < last; ++job) {
          const std::int64_t n = job / count;
          for (int axis = 0; axis < axes; ++axis) {
            // The last coordinate of a point is that of the first axis.
            const std::int64_t at = job * axes + (axes - 1 - axis);
            taps[axis] = visit_wide(call, grid.type(), [&]<class G> {
              return taps_of(method, grid.data<G>()[at], shape[axis + 2]);
            });
          }
          combine(taps, shape, point);
          for (std::int64_t c = 0; c < channels; ++c) {
            const T* from = in + (n * channels + c) * inside;
            T sum = 0;
            for (std::size_t k = 0; k < point.offsets.size(); ++k) {
              sum += static_cast<T>(point.weights[k]) * from[point.offsets[k]];
            }
            out[(n * channels + c) * count + job % count] = sum;
          }
        }
      });
    });
  }
  if (floating) return set_rounded(call, 0, y, type);
  Tensor& result = call.output(0, type, output);
  visit_integers(call, type, [&]<class T> {
    const double* from = y.data<double>();
    T* to = result.mutable_data<T>();
    constexpr auto kLow = static_cast<double>(std::numeric_limits<T>::min());
    constexpr auto kHigh = static_cast<double>(std::numeric_limits<T>::max());
    for (std::int64_t i = 0; i < y.size(); ++i) {
      // Cast to integer, as the definition says.
      if (from[i] >= kHigh) to[i] = std::numeric_limits<T>::max();
      else if (from[i] >= kLow) to[i] = static_cast<T>(from[i]);
      else to[i] = std::numeric_limits<T>::min();
    }
  });
}

void affine_grid(Call& call) {
  const Tensor& given = call.input(0);
  const std::vector<std::int64_t> size = call.integers(1);
  call.require(size.size() == 4 || size.size() == 5, "size must have 4 or 5 elements", size.size());
  const int axes = static_cast<int>(size.size()) - 2;
  call.require(given.shape() == Shape({size[0], axes, axes + 1}),
               "theta must have the shape (batch, axes, axes + 1)", given.shape());
  const bool aligned = call.attribute<std::int64_t>("align_corners", 0) != 0;
  const Tensor theta = widened(call, given);
  Shape shape{size[0]};
  for (int axis = 0; axis < axes; ++axis) shape.push_back(size[axis + 2]);
  shape.push_back(axes);
  Tensor y = call.environment().allocate(theta.type(), shape);
  visit_wide(call, theta.type(), [&]<class T> {
    if (y.size() == 0) return;
    T* out = y.mutable_data<T>();
    std::int64_t at[3] = {};
    const std::int64_t count = y.size() / axes / size[0];
    for (std::int64_t n = 0; n < size[0]; ++n) {
      const T* matrix = theta.data<T>() + n * axes * (axes + 1);
      for (std::int64_t i = 0; i < count; ++i) {
        // x first: the coordinate of the last axis.
        double position[4] = {1, 1, 1, 1};
        for (int axis = 0; axis < axes; ++axis) {
          const auto extent = static_cast<double>(size[axis + 2]);
          const auto where = static_cast<double>(at[axis]);
          // One aligned element lies where the first one does.
          position[axes - 1 - axis] = aligned ? (extent == 1 ? -1 : -1 + 2 * where / (extent - 1))
                                              : -1 + (2 * where + 1) / extent;
        }
        for (int row = 0; row < axes; ++row) {
          double sum = 0;
          for (int k = 0; k <= axes; ++k) {
            sum +=
                static_cast<double>(matrix[row * (axes + 1) + k]) * (k == axes ? 1.0 : position[k]);
          }
          *out++ = static_cast<T>(sum);
        }
        for (int axis = axes - 1; axis >= 0; --axis) {
          if (++at[axis] < size[axis + 2]) break;
          at[axis] = 0;
        }
      }
    }
  });
  set_rounded(call, 0, y, given.type());
}

// Indices of batch elements, one for each region.
std::vector<std::int64_t> batch_indices(const Call& call, std::vector<std::int64_t> indices,
                                        std::int64_t regions, std::int64_t batch) {
  call.require(static_cast<std::int64_t>(indices.size()) == regions,
               "batch_indices must be one for each region", indices.size());
  for (const std::int64_t index : indices) {
    if (index < 0 || index >= batch) {
      call.require(false, "batch indices must be in [0, " + std::to_string(batch) + ")", index);
    }
  }
  return indices;
}

std::vector<double> as_doubles(Call& call, const Tensor& tensor) {
  const Tensor wide = widened(call, tensor);
  std::vector<double> values;
  visit_wide(call, wide.type(), [&]<class T> {
    const auto all = wide.values<T>();
    values.assign(all.begin(), all.end());
  });
  return values;
}

void require_pooled(const Call& call, std::int64_t height, std::int64_t width) {
  call.require(height >= 1 && height <= 1 << 20, "pooled extents must be in [1, 2^20]", height);
  call.require(width >= 1 && width <= 1 << 20, "pooled extents must be in [1, 2^20]", width);
}

// Four elements around a point of a plane and their weights; no weight outside.
struct Corners {
  std::int64_t at[4] = {};
  double weight[4] = {};
};

Corners corners_of(double y, double x, std::int64_t height, std::int64_t width) {
  Corners corners;
  const auto h = static_cast<double>(height);
  const auto w = static_cast<double>(width);
  // Written so that NaN is outside.
  if (!(y >= -1 && y <= h && x >= -1 && x <= w)) return corners;
  y = std::max(y, 0.0);
  x = std::max(x, 0.0);
  auto top = static_cast<std::int64_t>(y);
  auto left = static_cast<std::int64_t>(x);
  std::int64_t bottom = top + 1;
  std::int64_t right = left + 1;
  if (top >= height - 1) {
    top = bottom = height - 1;
    y = static_cast<double>(top);
  }
  if (left >= width - 1) {
    left = right = width - 1;
    x = static_cast<double>(left);
  }
  const double down = y - static_cast<double>(top);
  const double over = x - static_cast<double>(left);
  corners.at[0] = top * width + left;
  corners.at[1] = top * width + right;
  corners.at[2] = bottom * width + left;
  corners.at[3] = bottom * width + right;
  corners.weight[0] = (1 - down) * (1 - over);
  corners.weight[1] = (1 - down) * over;
  corners.weight[2] = down * (1 - over);
  corners.weight[3] = down * over;
  return corners;
}

void roi_align(Call& call) {
  const Tensor& input = call.input(0);
  const Shape& shape = input.shape();
  call.require(shape.rank() == 4, "the input must have 4 dimensions, shape", shape);
  const Tensor& rois = call.input(1, input.type());
  call.require(rois.rank() == 2 && rois.shape()[1] == 4, "rois must have the shape (regions, 4)",
               rois.shape());
  const std::int64_t regions = rois.shape()[0];
  const auto indices = batch_indices(call, call.integers(2), regions, shape[0]);
  const std::int64_t height = call.attribute<std::int64_t>("output_height", 1);
  const std::int64_t width = call.attribute<std::int64_t>("output_width", 1);
  require_pooled(call, height, width);
  const std::int64_t ratio = call.attribute<std::int64_t>("sampling_ratio", 0);
  call.require(ratio >= 0, "sampling_ratio must be >= 0", ratio);
  const double scale = call.attribute<float>("spatial_scale", 1.0f);
  const std::string mode = call.text("mode", "avg");
  call.require(mode == "avg" || mode == "max", "mode must be avg or max", mode);
  const std::string coordinates = call.text(
      "coordinate_transformation_mode", call.version() >= 16 ? "half_pixel" : "output_half_pixel");
  call.require(coordinates == "half_pixel" || coordinates == "output_half_pixel",
               "coordinate_transformation_mode must be half_pixel or output_half_pixel",
               coordinates);
  const bool half = coordinates == "half_pixel";
  const bool averaged = mode == "avg";
  const std::vector<double> boxes = as_doubles(call, rois);
  const Tensor x = widened(call, input);
  Tensor y = call.environment().allocate(x.type(), Shape{regions, shape[1], height, width});
  const std::int64_t channels = shape[1];
  const std::int64_t plane = element_count(Shape{shape[2], shape[3]});
  if (y.size() > 0) {
    call.require(plane > 0, "the input must have elements to pool, shape", shape);
    for (std::int64_t r = 0; r < regions; ++r) {
      const double* box = boxes.data() + r * 4;
      const double offset = half ? 0.5 : 0.0;
      const double left = box[0] * scale - offset;
      const double top = box[1] * scale - offset;
      double wide = box[2] * scale - offset - left;
      double high = box[3] * scale - offset - top;
      if (!half) {
        wide = std::max(wide, 1.0);
        high = std::max(high, 1.0);
      }
      const double bin_height = high / static_cast<double>(height);
      const double bin_width = wide / static_cast<double>(width);
      const auto samples = [&](double bin) {
        if (ratio > 0) return ratio;
        const double count = std::ceil(bin);
        call.require(count <= 0x1p31, "regions must be finite, samples", count);
        return std::isnan(count) ? std::int64_t{0}
                                 : static_cast<std::int64_t>(std::max(count, 0.0));
      };
      const std::int64_t rows = samples(bin_height);
      const std::int64_t columns = samples(bin_width);
      const double points = static_cast<double>(rows) * static_cast<double>(columns) *
                            static_cast<double>(height * width);
      call.require(static_cast<double>(rows) * static_cast<double>(columns) <= 0x1p20,
                   "regions must take at most 2^20 samples an output, rows are", rows);
      call.environment().spend(static_cast<std::int64_t>(std::min(points, 0x1p62)));
      std::vector<Corners> corners(static_cast<std::size_t>(rows * columns));
      const auto count = static_cast<double>(std::max<std::int64_t>(rows * columns, 1));
      for (std::int64_t ph = 0; ph < height; ++ph) {
        for (std::int64_t pw = 0; pw < width; ++pw) {
          for (std::int64_t i = 0; i < rows; ++i) {
            const double at_y =
                top + static_cast<double>(ph) * bin_height +
                (static_cast<double>(i) + 0.5) * bin_height / static_cast<double>(rows);
            for (std::int64_t j = 0; j < columns; ++j) {
              const double at_x =
                  left + static_cast<double>(pw) * bin_width +
                  (static_cast<double>(j) + 0.5) * bin_width / static_cast<double>(columns);
              corners[i * columns + j] = corners_of(at_y, at_x, shape[2], shape[3]);
            }
          }
          visit_wide(call, x.type(), [&]<class T> {
            const T* from = x.data<T>() + indices[r] * channels * plane;
            T* to = y.mutable_data<T>() + (r * channels * height + ph) * width + pw;
            for (std::int64_t c = 0; c < channels; ++c) {
              const T* read = from + c * plane;
              double sum = 0;
              double best = 0;
              bool first = true;
              for (const Corners& corner : corners) {
                // The maximum is of weighted elements, as the operator has it.
                double most = -std::numeric_limits<double>::infinity();
                for (int k = 0; k < 4; ++k) {
                  const double term = corner.weight[k] * static_cast<double>(read[corner.at[k]]);
                  sum += term;
                  most = std::max(most, term);
                }
                best = first ? most : std::max(best, most);
                first = false;
              }
              to[c * height * width] = static_cast<T>(averaged ? sum / count : best);
            }
          });
        }
      }
    }
  }
  set_rounded(call, 0, y, input.type());
}

void max_roi_pool(Call& call) {
  const Tensor& input = call.input(0);
  const Shape& shape = input.shape();
  call.require(shape.rank() == 4, "the input must have 4 dimensions, shape", shape);
  const Tensor& rois = call.input(1, input.type());
  call.require(rois.rank() == 2 && rois.shape()[1] == 5, "rois must have the shape (regions, 5)",
               rois.shape());
  const auto& pooled = call.required<std::vector<std::int64_t>>("pooled_shape");
  call.require(pooled.size() == 2, "pooled_shape must have 2 elements", pooled.size());
  require_pooled(call, pooled[0], pooled[1]);
  const double scale = call.attribute<float>("spatial_scale", 1.0f);
  const std::vector<double> boxes = as_doubles(call, rois);
  const std::int64_t regions = rois.shape()[0];
  std::vector<std::int64_t> indices;
  for (std::int64_t r = 0; r < regions; ++r) {
    indices.push_back(static_cast<std::int64_t>(bounded(boxes[r * 5])));
  }
  indices = batch_indices(call, indices, regions, shape[0]);
  const Tensor x = widened(call, input);
  const std::int64_t channels = shape[1];
  Tensor y = call.environment().allocate(x.type(), Shape{regions, channels, pooled[0], pooled[1]});
  const std::int64_t plane = element_count(Shape{shape[2], shape[3]});
  visit_wide(call, x.type(), [&]<class T> {
    if (y.size() == 0) return;
    T* to = y.mutable_data<T>();
    for (std::int64_t r = 0; r < regions; ++r) {
      const auto edge = [&](int which) {
        return static_cast<std::int64_t>(std::round(bounded(boxes[r * 5 + which] * scale)));
      };
      const std::int64_t left = edge(1);
      const std::int64_t top = edge(2);
      const double bins[2] = {static_cast<double>(std::max<std::int64_t>(edge(4) - top + 1, 1)) /
                                  static_cast<double>(pooled[0]),
                              static_cast<double>(std::max<std::int64_t>(edge(3) - left + 1, 1)) /
                                  static_cast<double>(pooled[1])};
      const auto range = [&](int axis, std::int64_t bin, std::int64_t start) {
        const double first = std::floor(static_cast<double>(bin) * bins[axis]);
        const double last = std::ceil(static_cast<double>(bin + 1) * bins[axis]);
        const std::int64_t extent = shape[axis + 2];
        return std::pair(
            std::clamp<std::int64_t>(static_cast<std::int64_t>(first) + start, 0, extent),
            std::clamp<std::int64_t>(static_cast<std::int64_t>(last) + start, 0, extent));
      };
      for (std::int64_t c = 0; c < channels; ++c) {
        const T* from = x.data<T>() + (indices[r] * channels + c) * plane;
        for (std::int64_t ph = 0; ph < pooled[0]; ++ph) {
          const auto [y0, y1] = range(0, ph, top);
          for (std::int64_t pw = 0; pw < pooled[1]; ++pw) {
            const auto [x0, x1] = range(1, pw, left);
            T best = T(0);
            bool first = true;
            for (std::int64_t i = y0; i < y1; ++i) {
              for (std::int64_t j = x0; j < x1; ++j) {
                const T value = from[i * shape[3] + j];
                best = first ? value : std::max(best, value);
                first = false;
              }
            }
            *to++ = best;
          }
        }
      }
    }
  });
  set_rounded(call, 0, y, input.type());
}

// What a plane holds at a fractional place: linear between elements, 0 outside.
template <class T>
T sample(const T* plane, const Windows& windows, const double* place) {
  const int rank = windows.rank();
  std::int64_t low[kMaxRank];
  double rest[kMaxRank];
  for (int axis = 0; axis < rank; ++axis) {
    const double x = bounded(place[axis]);
    if (x <= -1 || x >= static_cast<double>(windows.axes[axis].input)) return T(0);
    low[axis] = static_cast<std::int64_t>(std::floor(x));
    rest[axis] = x - static_cast<double>(low[axis]);
  }
  double sum = 0;
  for (int corner = 0; corner < 1 << rank; ++corner) {
    double weight = 1;
    std::int64_t offset = 0;
    bool inside = true;
    for (int axis = 0; axis < rank; ++axis) {
      const int up = (corner >> axis) & 1;
      const std::int64_t at = low[axis] + up;
      weight *= up == 1 ? rest[axis] : 1 - rest[axis];
      inside = inside && at >= 0 && at < windows.axes[axis].input;
      offset = offset * windows.axes[axis].input + at;
    }
    if (inside && weight != 0) sum += weight * static_cast<double>(plane[offset]);
  }
  return static_cast<T>(sum);
}

void deform_conv(Call& call) {
  const Tensor& input = call.input(0);
  const ElementType type = input.type();
  for (const int index : {1, 2, 3, 4}) {
    if (call.has(index) || index < 3) static_cast<void>(call.input(index, type));
  }
  const Shape& xs = input.shape();
  const Shape& ws = call.input(1).shape();
  call.require(xs.rank() >= 3 && xs.rank() <= 7, "the input must have 3 to 7 dimensions, shape",
               xs);
  call.require(ws.rank() == xs.rank(), "weights must have as many dimensions as the input, shape",
               ws);
  const auto group = call.attribute<std::int64_t>("group", 1);
  const auto parts = call.attribute<std::int64_t>("offset_group", 1);
  call.require(group >= 1 && xs[1] % group == 0 && xs[1] / group == ws[1],
               "weights must have the input's channels / group in axis 1, shape", ws);
  call.require(ws[0] % group == 0, "output channels must be a multiple of group", ws[0]);
  call.require(parts >= 1 && xs[1] % parts == 0, "offset_group must divide the channels", parts);
  const std::vector<std::int64_t> kernel(ws.begin() + 2, ws.end());
  const WindowAttributes window = read_window(call.node(), xs.rank() - 2, kernel);
  Windows windows;
  Shape output{xs[0], ws[0]};
  for (int axis = 0; axis < window.rank(); ++axis) {
    windows.axes.push_back(window_axis(window, axis, xs[axis + 2], call.where()));
    output.push_back(windows.axes.back().output);
  }
  windows.measure();
  const int rank = windows.rank();
  const std::int64_t taps = windows.taps;
  Shape offsets_shape = output;
  offsets_shape[1] = element_count(Shape{parts, taps, rank});
  call.require(call.input(2).shape() == offsets_shape,
               "offsets must have the shape (batch, offset_group * taps * axes, output extents)",
               call.input(2).shape());
  Shape mask_shape = output;
  mask_shape[1] = element_count(Shape{parts, taps});
  if (call.has(4)) {
    call.require(call.input(4).shape() == mask_shape,
                 "the mask must have the shape (batch, offset_group * taps, output extents)",
                 call.input(4).shape());
  }
  const Tensor x = widened(call, input);
  const Tensor w = widened(call, call.input(1));
  const Tensor offsets = widened(call, call.input(2));
  const std::optional<Tensor> bias = widened_input(call, 3);
  const std::optional<Tensor> mask = widened_input(call, 4);
  if (bias) {
    call.require(bias->shape() == Shape({ws[0]}),
                 "the bias must have an element for each output channel, shape", bias->shape());
  }
  Tensor y = call.environment().allocate(x.type(), output);
  visit_wide(call, x.type(), [&]<class T> {
    T* out = y.mutable_data<T>();
    if (y.size() == 0) return;
    const std::int64_t plane = windows.outputs;
    for (std::int64_t i = 0; i < y.size() / plane; ++i) {
      std::fill_n(out + i * plane, plane, bias ? bias->data<T>()[i % ws[0]] : T(0));
    }
    const std::int64_t inner = ws[1];
    const std::int64_t outer = ws[0] / group;
    const std::int64_t depth = inner * taps;
    if (depth == 0) return;
    const std::int64_t width = std::clamp<std::int64_t>((1 << 16) / depth, 1, plane);
    const std::int64_t tiles = block_count(plane, width);
    Shape places;
    for (const WindowAxis& axis : windows.axes) places.push_back(axis.output);
    parallel_for(xs[0] * group * tiles, 1, [&](std::int64_t first, std::int64_t last) {
      std::vector<T> columns(static_cast<std::size_t>(depth * width));
      for (std::int64_t job = first; job < last; ++job) {
        const std::int64_t n = job / tiles / group;
        const std::int64_t g = job / tiles % group;
        const std::int64_t begin = job % tiles * width;
        const std::int64_t count = std::min(width, plane - begin);
        for (std::int64_t c = 0; c < inner; ++c) {
          const std::int64_t channel = g * inner + c;
          const std::int64_t part = channel / (xs[1] / parts);
          const T* read = x.data<T>() + (n * xs[1] + channel) * windows.inputs;
          for_each_tap(windows, [&](std::int64_t k, const Odometer& tap) {
            const std::int64_t row = (n * parts + part) * taps + k;
            T* to = columns.data() + (c * taps + k) * count;
            Odometer place(places);
            place.seek(begin);
            for (std::int64_t i = 0; i < count; ++i) {
              double where[kMaxRank];
              for (int axis = 0; axis < rank; ++axis) {
                const WindowAxis& a = windows.axes[axis];
                const T moved = offsets.data<T>()[(row * rank + axis) * plane + begin + i];
                where[axis] = static_cast<double>(place[axis] * a.stride - a.pad_begin +
                                                  tap[axis] * a.dilation) +
                              static_cast<double>(moved);
              }
              T value = windows.inputs == 0 ? T(0) : sample(read, windows, where);
              if (mask) value *= mask->data<T>()[row * plane + begin + i];
              to[i] = value;
              place.next();
            }
          });
        }
        gemm(outer, count, depth, Matrix<const T>{w.data<T>() + g * outer * depth, depth, 1},
             Matrix<const T>{columns.data(), count, 1},
             Matrix<T>{out + (n * ws[0] + g * outer) * plane + begin, plane, 1});
      }
    });
  });
  set_rounded(call, 0, y, type);
}

template <class T>
void add_columns(const Windows& windows, std::int64_t planes, const T* columns, T* images) {
  const std::int64_t stride = windows.axes.back().stride;
  parallel_for(planes, 1, [&](std::int64_t first, std::int64_t last) {
    const WindowRuns runs(windows, 0, windows.outputs);
    for (std::int64_t plane = first; plane < last; ++plane) {
      T* image = images + plane * windows.inputs;
      const T* block = columns + plane * windows.taps * windows.outputs;
      for_each_tap(windows, [&](std::int64_t index, const Odometer& tap) {
        runs.visit(tap, [&](std::int64_t column, std::int64_t count, std::int64_t offset) {
          const T* from = block + index * windows.outputs + column;
          for (std::int64_t i = 0; i < count; ++i) {
            T& sum = image[offset + i * stride];
            if constexpr (std::is_integral_v<T>) {
              // Sums of integers wrap.
              using Unsigned = std::make_unsigned_t<T>;
              sum = static_cast<T>(static_cast<Unsigned>(static_cast<Unsigned>(sum) +
                                                         static_cast<Unsigned>(from[i])));
            } else {
              sum += from[i];
            }
          }
        });
      });
    }
  });
}

void col2im(Call& call) {
  const Tensor& input = call.input(0);
  const Shape& shape = input.shape();
  call.require(shape.rank() == 3, "the input must have 3 dimensions, shape", shape);
  const std::vector<std::int64_t> image = call.integers(1);
  const std::vector<std::int64_t> block = call.integers(2);
  const int rank = static_cast<int>(std::min<std::size_t>(image.size(), kMaxRank));
  call.require(block.size() == image.size(), "block_shape must be as long as image_shape",
               block.size());
  const WindowAttributes window = read_window(call.node(), rank, block);
  Windows windows;
  for (int axis = 0; axis < rank; ++axis) {
    windows.axes.push_back(window_axis(window, axis, image[axis], call.where()));
  }
  windows.measure();
  call.require(shape[1] % windows.taps == 0,
               "columns must be a multiple of the elements of a block", shape[1]);
  call.require(shape[2] == windows.outputs,
               "blocks must be as many as fit into the image, " + std::to_string(windows.outputs),
               shape[2]);
  const std::int64_t channels = shape[1] / windows.taps;
  Shape output{shape[0], channels};
  for (const std::int64_t extent : image) output.push_back(extent);
  const ElementType type = input.type();
  const auto run = [&]<class T>(const Tensor& x, Tensor& y) {
    T* images = y.template mutable_data<T>();
    std::fill_n(images, y.size(), T(0));
    if (y.size() == 0 || x.size() == 0) return;
    add_columns(windows, shape[0] * channels, x.template data<T>(), images);
  };
  if (is_half(type)) {
    const Tensor x = widened(call, input);
    Tensor y = call.environment().allocate(ElementType::float32, output);
    run.template operator()<float>(x, y);
    return set_rounded(call, 0, y, type);
  }
  Tensor& y = call.output(0, type, output);
  switch (type) {
    case ElementType::float32: return run.template operator()<float>(input, y);
    case ElementType::float64: return run.template operator()<double>(input, y);
    case ElementType::complex64: return run.template operator()<std::complex<float>>(input, y);
    case ElementType::complex128: return run.template operator()<std::complex<double>>(input, y);
    default: break;
  }
  visit_integers(call, type, [&]<class T> { run.template operator()<T>(input, y); });
}

constexpr Operator kOperators[] = {
    {"", "AffineGrid", 20, affine_grid}, {"", "Col2Im", 18, col2im},
    {"", "DeformConv", 19, deform_conv}, {"", "GridSample", 16, grid_sample},
    {"", "MaxRoiPool", 1, max_roi_pool}, {"", "RoiAlign", 10, roi_align},
};

}  // namespace

std::span<const Operator> spatial_operators() noexcept { return kOperators; }

}  // namespace moptcore::inline v0::graph

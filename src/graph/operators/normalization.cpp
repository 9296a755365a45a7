// SPDX-License-Identifier: Apache-2.0
// Normalizations: moments are summed in double, in two passes.
#include <cmath>
#include <limits>

#include <moptcore/graph/operator.hpp>

#include "graph/operators/lane_sum.hpp"
#include "graph/operators/widen.hpp"

namespace moptcore::inline v0::graph {
namespace {

// Rows of `length` elements that one block of work takes.
std::int64_t row_grain(std::int64_t length) {
  return std::max<std::int64_t>(kGrain / std::max<std::int64_t>(length, 1), 1);
}

std::int64_t count_from(const Shape& shape, int axis) {
  Shape tail;
  for (int i = axis; i < shape.rank(); ++i) tail.push_back(shape[i]);
  return element_count(tail);
}

std::int64_t count_before(const Shape& shape, int axis) {
  Shape head;
  for (int i = 0; i < axis; ++i) head.push_back(shape[i]);
  return element_count(head);
}

double epsilon_of(const Call& call) {
  return static_cast<double>(call.attribute<float>("epsilon", 1e-5f));
}

// An input of `count` floats of any width.
std::vector<double> parameters(Call& call, int index, std::int64_t count) {
  const Tensor wide = widened(call, call.input(index));
  call.require(
      wide.size() == count,
      "input " + std::to_string(index) + " must have " + std::to_string(count) + " elements, shape",
      wide.shape());
  std::vector<double> values;
  visit_wide(call, wide.type(), [&]<class T> {
    const auto all = wide.values<T>();
    values.assign(all.begin(), all.end());
  });
  return values;
}

struct Moments {
  double mean = 0;
  double variance = 0;
};

// Of `parts` runs of `length` elements, `step` apart.
template <class T>
Moments moments(const T* x, std::int64_t parts, std::int64_t step, std::int64_t length) {
  const double count = static_cast<double>(parts) * static_cast<double>(length);
  double sum = 0;
  for (std::int64_t i = 0; i < parts; ++i) {
    sum += lane_sum(x + i * step, length, [](double value) { return value; });
  }
  Moments result;
  result.mean = sum / count;
  double squares = 0;
  for (std::int64_t i = 0; i < parts; ++i) {
    squares += lane_sum(x + i * step, length, [mean = result.mean](double value) {
      return (value - mean) * (value - mean);
    });
  }
  result.variance = squares / count;
  return result;
}

// y = (x - mean) * factor + offset
template <class T>
void shift_and_scale(const T* x, T* y, std::int64_t count, double mean, double factor,
                     double offset) {
  const T m = static_cast<T>(mean);
  const T a = static_cast<T>(factor);
  const T b = static_cast<T>(offset);
  for (std::int64_t i = 0; i < count; ++i) y[i] = (x[i] - m) * a + b;
}

void set_statistics(Call& call, int index, const std::vector<double>& values, const Shape& shape,
                    ElementType type) {
  if (!call.wants(index)) return;
  Tensor wide = call.environment().allocate(ElementType::float64, shape);
  std::copy(values.begin(), values.end(), wide.mutable_data<double>());
  set_rounded(call, index, wide, type);
}

void batch_normalization(Call& call) {
  const Tensor& input = call.input(0);
  const Shape& shape = input.shape();
  call.require(shape.rank() >= 1, "the input must have 1 or more dimensions, shape", shape);
  const bool spatial = call.version() >= 9 || call.attribute<std::int64_t>("spatial", 1) != 0;
  const std::int64_t batch = shape[0];
  const std::int64_t whole = shape.rank() == 1 ? 1 : shape[1];
  const std::int64_t volume = count_from(shape, std::min(shape.rank(), 2));
  const std::int64_t channels = spatial ? whole : element_count(Shape{whole, volume});
  const std::int64_t plane = spatial ? volume : 1;
  const double epsilon = epsilon_of(call);
  const bool training = call.version() >= 14
                            ? call.attribute<std::int64_t>("training_mode", 0) != 0
                            : call.wants(1) || call.wants(2) || call.wants(3) || call.wants(4);
  const std::vector<double> scale = parameters(call, 1, channels);
  const std::vector<double> bias = parameters(call, 2, channels);
  std::vector<double> mean = parameters(call, 3, channels);
  std::vector<double> variance = parameters(call, 4, channels);
  const Tensor x = widened(call, input);
  if (training) {
    call.require(input.size() > 0, "the input must have elements in training mode, shape", shape);
    const double momentum = static_cast<double>(call.attribute<float>("momentum", 0.9f));
    std::vector<double> running_mean = mean;
    std::vector<double> running_variance = variance;
    visit_wide(call, x.type(), [&]<class T> {
      const T* in = x.data<T>();
      parallel_for(channels, row_grain(batch * plane), [&](std::int64_t first, std::int64_t last) {
        for (std::int64_t c = first; c < last; ++c) {
          const Moments now = moments(in + c * plane, batch, channels * plane, plane);
          running_mean[c] = running_mean[c] * momentum + now.mean * (1 - momentum);
          running_variance[c] = running_variance[c] * momentum + now.variance * (1 - momentum);
          mean[c] = now.mean;
          variance[c] = now.variance;
        }
      });
    });
    const Shape& given = call.input(3).shape();
    set_statistics(call, 1, running_mean, given, call.input(3).type());
    set_statistics(call, 2, running_variance, given, call.input(4).type());
    set_statistics(call, 3, mean, given, call.input(3).type());
    set_statistics(call, 4, variance, given, call.input(4).type());
  } else {
    call.require(!call.wants(1) && !call.wants(2),
                 "running statistics are outputs in training mode only, training_mode", 0);
  }
  Tensor y = call.environment().allocate(x.type(), shape);
  visit_wide(call, x.type(), [&]<class T> {
    if (x.size() == 0) return;
    const T* in = x.data<T>();
    T* out = y.mutable_data<T>();
    if (plane == 1) {
      std::vector<T> means(static_cast<std::size_t>(channels));
      std::vector<T> factors(static_cast<std::size_t>(channels));
      std::vector<T> offsets(static_cast<std::size_t>(channels));
      for (std::int64_t c = 0; c < channels; ++c) {
        means[c] = static_cast<T>(mean[c]);
        factors[c] = static_cast<T>(scale[c] / std::sqrt(variance[c] + epsilon));
        offsets[c] = static_cast<T>(bias[c]);
      }
      parallel_for(batch, row_grain(channels), [&](std::int64_t first, std::int64_t last) {
        for (std::int64_t n = first; n < last; ++n) {
          const T* from = in + n * channels;
          T* to = out + n * channels;
          for (std::int64_t c = 0; c < channels; ++c) {
            to[c] = (from[c] - means[c]) * factors[c] + offsets[c];
          }
        }
      });
      return;
    }
    parallel_for(batch * channels, row_grain(plane), [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t i = first; i < last; ++i) {
        const std::int64_t c = i % channels;
        shift_and_scale(in + i * plane, out + i * plane, plane, mean[c],
                        scale[c] / std::sqrt(variance[c] + epsilon), bias[c]);
      }
    });
  });
  set_rounded(call, 0, y, input.type());
}

// Each of batch x groups is normalized over the channels of the group, then scaled by channel.
void normalize_groups(Call& call, std::int64_t groups, const std::vector<double>& scale,
                      const std::vector<double>& bias) {
  const Tensor& input = call.input(0);
  const Shape& shape = input.shape();
  const std::int64_t channels = shape[1];
  const double epsilon = epsilon_of(call);
  const Tensor x = widened(call, input);
  Tensor y = call.environment().allocate(x.type(), shape);
  if (x.size() > 0) {
    const std::int64_t plane = count_from(shape, 2);
    const std::int64_t width = channels / groups;
    visit_wide(call, x.type(), [&]<class T> {
      const T* in = x.data<T>();
      T* out = y.mutable_data<T>();
      parallel_for(shape[0] * groups, row_grain(width * plane),
                   [&](std::int64_t first, std::int64_t last) {
                     for (std::int64_t job = first; job < last; ++job) {
                       const std::int64_t start = job * width * plane;
                       const Moments now = moments(in + start, 1, 0, width * plane);
                       const double factor = 1 / std::sqrt(now.variance + epsilon);
                       for (std::int64_t c = 0; c < width; ++c) {
                         const std::int64_t channel = job % groups * width + c;
                         const std::int64_t at = start + c * plane;
                         shift_and_scale(in + at, out + at, plane, now.mean,
                                         factor * scale[channel], bias[channel]);
                       }
                     }
                   });
    });
  }
  set_rounded(call, 0, y, input.type());
}

void instance_normalization(Call& call) {
  const Shape& shape = call.input(0).shape();
  call.require(shape.rank() >= 2, "the input must have 2 or more dimensions, shape", shape);
  normalize_groups(call, std::max<std::int64_t>(shape[1], 1), parameters(call, 1, shape[1]),
                   parameters(call, 2, shape[1]));
}

void group_normalization(Call& call) {
  const Shape& shape = call.input(0).shape();
  call.require(shape.rank() >= 2, "the input must have 2 or more dimensions, shape", shape);
  const std::int64_t channels = shape[1];
  const auto groups = call.required<std::int64_t>("num_groups");
  call.require(groups >= 1 && channels % groups == 0,
               "num_groups must be >= 1 and divide the channels", groups);
  if (call.version() >= 21) {
    return normalize_groups(call, groups, parameters(call, 1, channels),
                            parameters(call, 2, channels));
  }
  const std::vector<double> group_scale = parameters(call, 1, groups);
  const std::vector<double> group_bias = parameters(call, 2, groups);
  if (call.input(0).size() == 0) return normalize_groups(call, groups, {}, {});
  std::vector<double> scale(static_cast<std::size_t>(channels));
  std::vector<double> bias(static_cast<std::size_t>(channels));
  for (std::int64_t c = 0; c < channels; ++c) {
    scale[c] = group_scale[c / (channels / groups)];
    bias[c] = group_bias[c / (channels / groups)];
  }
  normalize_groups(call, groups, scale, bias);
}

// y = f(y, parameter) element by element, the parameter broadcast to the shape of y.
template <class T, class F>
void broadcast_into(const Call& call, const Tensor& parameter, Tensor& y, F&& f) {
  const Shape& shape = y.shape();
  const int missing = shape.rank() - parameter.rank();
  bool fits = missing >= 0;
  Shape strides = shape;
  std::int64_t step = 1;
  for (int axis = shape.rank() - 1; fits && axis >= 0; --axis) {
    const std::int64_t extent = axis < missing ? 1 : parameter.shape()[axis - missing];
    fits = extent == 1 || extent == shape[axis];
    strides[axis] = extent == 1 ? 0 : step;
    step *= extent;
  }
  call.require(fits, "scale and bias must be broadcastable to the input, shape", parameter.shape());
  if (y.size() == 0) return;
  const T* values = parameter.data<T>();
  T* out = y.mutable_data<T>();
  if (shape.rank() == 0) {
    out[0] = f(out[0], values[0]);
    return;
  }
  const std::int64_t width = shape.back();
  const std::int64_t stride = strides.back();
  std::int64_t at[kMaxRank] = {};
  std::int64_t offset = 0;
  for (std::int64_t row = 0; row < y.size() / width; ++row) {
    T* to = out + row * width;
    if (stride == 1) {
      for (std::int64_t i = 0; i < width; ++i) to[i] = f(to[i], values[offset + i]);
    } else {
      for (std::int64_t i = 0; i < width; ++i) to[i] = f(to[i], values[offset]);
    }
    for (int axis = shape.rank() - 2; axis >= 0; --axis) {
      offset += strides[axis];
      if (++at[axis] < shape[axis]) break;
      offset -= strides[axis] * shape[axis];
      at[axis] = 0;
    }
  }
}

ElementType stash_type(const Call& call) {
  const auto stash = call.attribute<std::int64_t>("stash_type", 1);
  for (const ElementType type :
       {ElementType::float32, ElementType::float64, ElementType::float16, ElementType::bfloat16}) {
    if (stash == static_cast<std::int64_t>(type)) return type;
  }
  throw DTypeError(error_text(call.where(), "stash_type must be a float type", stash));
}

// LayerNormalization, and RMSNormalization where the mean is left in.
void normalize_rows(Call& call, bool centered) {
  const Tensor& input = call.input(0);
  const Shape& shape = input.shape();
  const auto given = call.attribute<std::int64_t>("axis", -1);
  call.require(given >= -shape.rank() && given < shape.rank(),
               "axis must be in [-" + std::to_string(shape.rank()) + ", " +
                   std::to_string(shape.rank()) + ")",
               given);
  const int axis = static_cast<int>(given < 0 ? given + shape.rank() : given);
  const ElementType stash = stash_type(call);
  const double epsilon = epsilon_of(call);
  Shape reduced = shape;
  for (int i = axis; i < shape.rank(); ++i) reduced[i] = 1;
  const std::int64_t rows = count_before(shape, axis);
  const std::int64_t length = count_from(shape, axis);
  Tensor x = widened(call, input);
  Tensor scale = widened(call, call.input(1));
  std::optional<Tensor> bias = centered ? widened_input(call, 2) : std::nullopt;
  // RMSNormalization may have a scale of another width than its input, whose width the output has.
  const ElementType type = centered ? input.type() : call.input(1).type();
  const auto as_wide_as = [&](Tensor& tensor, ElementType wanted) {
    if (tensor.type() == wanted) return;
    Tensor converted = call.environment().allocate(wanted, tensor.shape());
    visit_wide(call, wanted, [&]<class T> {
      visit_wide(call, tensor.type(), [&]<class From> {
        const auto all = tensor.values<From>();
        std::transform(all.begin(), all.end(), converted.mutable_data<T>(),
                       [](From value) { return static_cast<T>(value); });
      });
    });
    tensor = converted;
  };
  const bool wide = x.type() == ElementType::float64 || scale.type() == ElementType::float64;
  const ElementType computed = wide ? ElementType::float64 : ElementType::float32;
  as_wide_as(x, computed);
  as_wide_as(scale, computed);
  if (bias) as_wide_as(*bias, computed);

  Tensor y = call.environment().allocate(computed, shape);
  const bool stats = centered && (call.wants(1) || call.wants(2)) && x.size() > 0;
  std::vector<double> means(static_cast<std::size_t>(stats ? rows : 0));
  std::vector<double> factors(static_cast<std::size_t>(stats ? rows : 0));
  visit_wide(call, computed, [&]<class T> {
    if (x.size() > 0) {
      const T* in = x.data<T>();
      T* out = y.mutable_data<T>();
      parallel_for(rows, row_grain(length), [&](std::int64_t first, std::int64_t last) {
        for (std::int64_t row = first; row < last; ++row) {
          const T* from = in + row * length;
          Moments now;
          if (centered) {
            now = moments(from, 1, 0, length);
          } else {
            now.variance = lane_sum(from, length, [](double value) { return value * value; }) /
                           static_cast<double>(length);
          }
          const double factor = 1 / std::sqrt(now.variance + epsilon);
          shift_and_scale(from, out + row * length, length, now.mean, factor, 0);
          if (stats) {
            means[row] = now.mean;
            factors[row] = factor;
          }
        }
      });
    }
    broadcast_into<T>(call, scale, y, [](T a, T b) { return a * b; });
    if (bias) broadcast_into<T>(call, *bias, y, [](T a, T b) { return a + b; });
  });
  set_rounded(call, 0, y, type);
  if (!centered) return;
  if (!stats) {
    means.assign(static_cast<std::size_t>(call.wants(1) ? element_count(reduced) : 0), 0.0);
    factors.assign(static_cast<std::size_t>(call.wants(2) ? element_count(reduced) : 0), 0.0);
  }
  set_statistics(call, 1, means, reduced, stash);
  set_statistics(call, 2, factors, reduced, stash);
}

void layer_normalization(Call& call) { normalize_rows(call, true); }
void rms_normalization(Call& call) { normalize_rows(call, false); }

void lrn(Call& call) {
  const Tensor& input = call.input(0);
  const Shape& shape = input.shape();
  call.require(shape.rank() >= 2, "the input must have 2 or more dimensions, shape", shape);
  const auto size = call.required<std::int64_t>("size");
  call.require(size >= 1, "size must be >= 1", size);
  const double alpha = call.attribute<float>("alpha", 1e-4f);
  const double beta = call.attribute<float>("beta", 0.75f);
  const double bias = call.attribute<float>("bias", 1.0f);
  const Tensor x = widened(call, input);
  Tensor y = call.environment().allocate(x.type(), shape);
  if (x.size() > 0) {
    const std::int64_t channels = shape[1];
    const std::int64_t plane = count_from(shape, 2);
    const std::int64_t before = std::min((size - 1) / 2, channels);
    const std::int64_t after = std::min(size - 1 - (size - 1) / 2, channels);
    visit_wide(call, x.type(), [&]<class T> {
      const T* in = x.data<T>();
      T* out = y.mutable_data<T>();
      parallel_for(
          shape[0] * channels, row_grain(plane), [&](std::int64_t first, std::int64_t last) {
            for (std::int64_t job = first; job < last; ++job) {
              const std::int64_t c = job % channels;
              T* sums = out + job * plane;
              std::fill_n(sums, plane, T(0));
              const std::int64_t low = job - std::min(c, before);
              const std::int64_t high = job + std::min(channels - 1 - c, after);
              for (std::int64_t other = low; other <= high; ++other) {
                const T* from = in + other * plane;
                for (std::int64_t i = 0; i < plane; ++i) sums[i] += from[i] * from[i];
              }
              const T* from = in + job * plane;
              const T factor = static_cast<T>(alpha / static_cast<double>(size));
              for (std::int64_t i = 0; i < plane; ++i) {
                sums[i] = from[i] /
                          std::pow(static_cast<T>(bias) + factor * sums[i], static_cast<T>(beta));
              }
            }
          });
    });
  }
  set_rounded(call, 0, y, input.type());
}

void lp_normalization(Call& call) {
  const Tensor& input = call.input(0);
  const Shape& shape = input.shape();
  const auto p = call.attribute<std::int64_t>("p", 2);
  call.require(p == 1 || p == 2, "p must be 1 or 2", p);
  const auto given = call.attribute<std::int64_t>("axis", -1);
  call.require(given >= -shape.rank() && given < shape.rank(),
               "axis must be in [-" + std::to_string(shape.rank()) + ", " +
                   std::to_string(shape.rank()) + ")",
               given);
  const int axis = static_cast<int>(given < 0 ? given + shape.rank() : given);
  const Tensor x = widened(call, input);
  Tensor y = call.environment().allocate(x.type(), shape);
  if (x.size() > 0) {
    const std::int64_t outer = count_before(shape, axis);
    const std::int64_t inner = count_from(shape, axis + 1);
    const std::int64_t length = shape[axis];
    visit_wide(call, x.type(), [&]<class T> {
      const T* in = x.data<T>();
      T* out = y.mutable_data<T>();
      parallel_for(outer, row_grain(length * inner), [&](std::int64_t first, std::int64_t last) {
        std::vector<double> norms(static_cast<std::size_t>(inner));
        for (std::int64_t o = first; o < last; ++o) {
          std::fill(norms.begin(), norms.end(), 0.0);
          const T* from = in + o * length * inner;
          T* to = out + o * length * inner;
          for (std::int64_t k = 0; k < length; ++k) {
            for (std::int64_t i = 0; i < inner; ++i) {
              const double value = from[k * inner + i];
              norms[i] += p == 1 ? std::abs(value) : value * value;
            }
          }
          for (double& norm : norms) norm = p == 1 ? norm : std::sqrt(norm);
          for (std::int64_t k = 0; k < length; ++k) {
            for (std::int64_t i = 0; i < inner; ++i) {
              const double value = from[k * inner + i];
              to[k * inner + i] = norms[i] == 0 ? T(0) : static_cast<T>(value / norms[i]);
            }
          }
        }
      });
    });
  }
  set_rounded(call, 0, y, input.type());
}

void mean_variance_normalization(Call& call) {
  const Tensor& input = call.input(0);
  const Shape& shape = input.shape();
  const auto axes = call.attribute<std::vector<std::int64_t>>("axes", {0, 2, 3});
  std::vector<bool> reduced(static_cast<std::size_t>(shape.rank()), false);
  for (const std::int64_t axis : axes) {
    call.require(axis >= -shape.rank() && axis < shape.rank(),
                 "axes must be in [-" + std::to_string(shape.rank()) + ", " +
                     std::to_string(shape.rank()) + ")",
                 axis);
    reduced[static_cast<std::size_t>(axis < 0 ? axis + shape.rank() : axis)] = true;
  }
  const Tensor x = widened(call, input);
  Tensor y = call.environment().allocate(x.type(), shape);
  if (x.size() > 0) {
    // Where an element's statistics lie: strides over the axes that stay.
    Shape strides = shape;
    std::int64_t kept = 1;
    for (int axis = shape.rank() - 1; axis >= 0; --axis) {
      strides[axis] = reduced[axis] ? 0 : kept;
      if (!reduced[axis]) kept *= shape[axis];
    }
    const double count = static_cast<double>(x.size()) / static_cast<double>(kept);
    const auto each = [&](const auto& f) {
      std::int64_t at[kMaxRank] = {};
      std::int64_t offset = 0;
      for (std::int64_t i = 0; i < x.size(); ++i) {
        f(i, offset);
        for (int axis = shape.rank() - 1; axis >= 0; --axis) {
          offset += strides[axis];
          if (++at[axis] < shape[axis]) break;
          offset -= strides[axis] * shape[axis];
          at[axis] = 0;
        }
      }
    };
    visit_wide(call, x.type(), [&]<class T> {
      const T* in = x.data<T>();
      T* out = y.mutable_data<T>();
      std::vector<double> means(static_cast<std::size_t>(kept), 0.0);
      std::vector<double> deviations(static_cast<std::size_t>(kept), 0.0);
      each([&](std::int64_t i, std::int64_t at) { means[at] += static_cast<double>(in[i]); });
      for (double& mean : means) mean /= count;
      each([&](std::int64_t i, std::int64_t at) {
        const double distance = static_cast<double>(in[i]) - means[at];
        deviations[at] += distance * distance;
      });
      // The addend is that of the operator's definition.
      for (double& deviation : deviations) deviation = std::sqrt(deviation / count) + 1e-9;
      each([&](std::int64_t i, std::int64_t at) {
        out[i] = static_cast<T>((static_cast<double>(in[i]) - means[at]) / deviations[at]);
      });
    });
  }
  set_rounded(call, 0, y, input.type());
}

constexpr Operator kOperators[] = {
    {"", "BatchNormalization", 7, batch_normalization},
    {"", "GroupNormalization", 18, group_normalization},
    {"", "InstanceNormalization", 6, instance_normalization},
    {"", "LRN", 1, lrn},
    {"", "LayerNormalization", 17, layer_normalization},
    {"", "LpNormalization", 1, lp_normalization},
    {"", "MeanVarianceNormalization", 9, mean_variance_normalization},
    {"", "RMSNormalization", 23, rms_normalization},
};

}  // namespace

std::span<const Operator> normalization_operators() noexcept { return kOperators; }

}  // namespace moptcore::inline v0::graph

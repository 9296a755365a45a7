// SPDX-License-Identifier: Apache-2.0
// Operators that make one element of many: Reduce*, ArgMax and ArgMin, CumSum and CumProd.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <type_traits>

#include <moptcore/core/parallel.hpp>

#include <moptcore/graph/operator.hpp>
#include "graph/operators/along_axis.hpp"
#include "graph/operators/cast.hpp"
#include "graph/operators/chunk.hpp"
#include "graph/operators/types.hpp"
#include "kernels/fold.hpp"

namespace moptcore::inline v0::graph {
namespace {

constexpr int kLanes = 8;                // partial results of one contiguous run
constexpr std::int64_t kStrip = 256;     // neighbouring outputs that are made together
constexpr std::int64_t kWork = 1 << 15;  // elements that are worth a block of threads

// Floats are summed in double, integers in 64 bits, where they wrap around.
template <class T>
using Sums = std::conditional_t<std::is_floating_point_v<T>, double, std::uint64_t>;

template <class T>
double as_double(T value) {
  return static_cast<double>(value);
}

// An operator starts from `first`, takes elements with `add`, joins two partial results with
// `join`, and `last` makes the result of what `count` elements gave.
struct Plus {
  template <class A>
  static A join(A a, A b) {
    return a + b;
  }
};

struct Sum : Plus {
  template <class T>
  using State = Sums<T>;
  template <class T>
  static State<T> first() {
    return 0;
  }
  template <class T>
  static State<T> add(State<T> sum, T x) {
    return sum + static_cast<State<T>>(x);
  }
  template <class T>
  static T last(State<T> sum, std::int64_t) {
    return static_cast<T>(sum);
  }
};

struct Mean : Sum {
  template <class T>
  static T last(State<T> sum, std::int64_t count) {
    if constexpr (std::is_floating_point_v<T>) return static_cast<T>(sum / as_double(count));
    else if constexpr (std::is_signed_v<T>) {
      return static_cast<T>(static_cast<std::int64_t>(sum) / count);
    } else {
      return static_cast<T>(sum / static_cast<std::uint64_t>(count));
    }
  }
};

struct SumSquare : Sum {
  template <class T>
  static State<T> add(State<T> sum, T x) {
    const auto wide = static_cast<State<T>>(x);
    return sum + wide * wide;
  }
};

struct L1 : Sum {
  template <class T>
  static State<T> add(State<T> sum, T x) {
    if constexpr (std::is_floating_point_v<T>) return sum + std::abs(static_cast<double>(x));
    else {
      const auto wide = static_cast<std::uint64_t>(x);
      return sum + (x < T(0) ? 0 - wide : wide);
    }
  }
};

// Of a result in double; an integer that it does not fit is the nearest.
template <class T>
T from_double(double value) {
  if constexpr (std::is_floating_point_v<T>) return static_cast<T>(value);
  else {
    using Limits = std::numeric_limits<T>;
    if (!(value > static_cast<double>(Limits::lowest()))) return Limits::lowest();
    if (value >= static_cast<double>(Limits::max())) return Limits::max();
    return static_cast<T>(value);
  }
}

struct SumOfDoubles : Plus {
  template <class T>
  using State = double;
  template <class T>
  static double first() {
    return 0;
  }
};

struct L2 : SumOfDoubles {
  template <class T>
  static double add(double sum, T x) {
    return sum + as_double(x) * as_double(x);
  }
  template <class T>
  static T last(double sum, std::int64_t) {
    return from_double<T>(std::sqrt(sum));
  }
};

struct LogSum : SumOfDoubles {
  template <class T>
  static double add(double sum, T x) {
    return sum + as_double(x);
  }
  template <class T>
  static T last(double sum, std::int64_t) {
    return from_double<T>(std::log(sum));
  }
};

// The greatest so far and the sum of exp(x - greatest): never overflows.
struct LogSumExp {
  struct Pair {
    double greatest;
    double sum;
  };
  template <class T>
  using State = Pair;
  template <class T>
  static Pair first() {
    return {-std::numeric_limits<double>::infinity(), 0};
  }
  template <class T>
  static Pair add(Pair pair, T x) {
    return join(pair, Pair{as_double(x), 1});
  }
  static Pair join(Pair a, Pair b) {
    if (a.sum == 0) return b;
    if (b.sum == 0) return a;
    if (a.greatest == b.greatest) return {a.greatest, a.sum + b.sum};
    if (a.greatest < b.greatest) std::swap(a, b);
    return {a.greatest, a.sum + b.sum * std::exp(b.greatest - a.greatest)};
  }
  template <class T>
  static T last(Pair pair, std::int64_t) {
    return from_double<T>(pair.sum == 0 ? -std::numeric_limits<double>::infinity()
                                        : pair.greatest + std::log(pair.sum));
  }
};

struct Prod {
  template <class T>
  using State = Sums<T>;
  template <class T>
  static State<T> first() {
    return 1;
  }
  template <class T>
  static State<T> add(State<T> product, T x) {
    return product * static_cast<State<T>>(x);
  }
  template <class A>
  static A join(A a, A b) {
    return a * b;
  }
  template <class T>
  static T last(State<T> product, std::int64_t) {
    return static_cast<T>(product);
  }
};

// A NaN among the elements is the result.
struct Max {
  template <class T>
  using State = T;
  template <class T>
  static T first() {
    if constexpr (std::is_floating_point_v<T>) return -std::numeric_limits<T>::infinity();
    else return std::numeric_limits<T>::lowest();
  }
  template <class T>
  static T add(T greatest, T x) {
    return x > greatest || x != x ? x : greatest;
  }
  template <class T>
  static T join(T a, T b) {
    return a > b || a != a ? a : b;
  }
  template <class T>
  static T last(T greatest, std::int64_t) {
    return greatest;
  }
};

struct Min {
  template <class T>
  using State = T;
  template <class T>
  static T first() {
    if constexpr (std::is_floating_point_v<T>) return std::numeric_limits<T>::infinity();
    else return std::numeric_limits<T>::max();
  }
  template <class T>
  static T add(T least, T x) {
    return x < least || x != x ? x : least;
  }
  template <class T>
  static T join(T a, T b) {
    return a < b || a != a ? a : b;
  }
  template <class T>
  static T last(T least, std::int64_t) {
    return least;
  }
};

template <class Op, class... Others>
constexpr bool kIsOneOf = (std::is_same_v<Op, Others> || ...);

// What has a kernel for float32: sums in double, extremes.
template <class Op, class T>
constexpr bool kFoldsSums =
    std::is_same_v<T, float> && kIsOneOf<Op, Sum, Mean, LogSum, SumSquare, L2, L1>;
template <class Op, class T>
constexpr bool kFoldsExtremes = std::is_same_v<T, float> && kIsOneOf<Op, Max, Min>;

template <class Op>
constexpr kernels::Sum kSumOf = kIsOneOf<Op, SumSquare, L2> ? kernels::Sum::squares
                                : std::is_same_v<Op, L1>    ? kernels::Sum::magnitudes
                                                            : kernels::Sum::values;
template <class Op>
constexpr kernels::Extreme kExtremeOf =
    std::is_same_v<Op, Max> ? kernels::Extreme::greatest : kernels::Extreme::least;

// Axes of one kind that lie one behind the other made one; those of extent 1 left out.
struct Axes {
  int count = 0;
  std::array<std::int64_t, kMaxRank> extents{};
  std::array<std::int64_t, kMaxRank> strides{};

  [[nodiscard]] std::int64_t size() const noexcept {
    std::int64_t product = 1;
    for (int i = 0; i < count; ++i) product *= extents[i];
    return product;
  }
  // Where element `index`, counted row-major, lies.
  [[nodiscard]] std::int64_t offset(std::int64_t index) const noexcept {
    std::int64_t place = 0;
    for (int i = count - 1; i >= 0; --i) {
      place += index % extents[i] * strides[i];
      index /= extents[i];
    }
    return place;
  }
};

struct Plan {
  Axes kept;
  Axes reduced;
  bool rows = true;  // the innermost axis is reduced: runs are contiguous
};

Plan plan_of(const Shape& shape, const std::array<bool, kMaxRank>& is_reduced) {
  Plan plan;
  const Shape strides = contiguous_strides(shape);
  int last_kind = -1;
  for (int axis = 0; axis < shape.rank(); ++axis) {
    if (shape[axis] == 1) continue;
    const int kind = is_reduced[axis] ? 1 : 0;
    Axes& axes = kind == 1 ? plan.reduced : plan.kept;
    if (kind == last_kind) {
      axes.extents[axes.count - 1] *= shape[axis];
    } else {
      axes.extents[axes.count++] = shape[axis];
    }
    axes.strides[axes.count - 1] = strides[axis];
    last_kind = kind;
    plan.rows = kind == 1;
  }
  if (last_kind < 0) plan.rows = true;
  return plan;
}

// Calls f(offset, count) for the contiguous or strided runs of the reduced axes.
template <class F>
void for_each_reduced_run(const Axes& axes, F&& f) {
  if (axes.count == 0) return f(std::int64_t{0}, std::int64_t{1});
  const int inner = axes.count - 1;
  std::array<std::int64_t, kMaxRank> at{};
  std::int64_t offset = 0;
  while (true) {
    f(offset, axes.extents[inner]);
    int axis = inner - 1;
    for (; axis >= 0; --axis) {
      offset += axes.strides[axis];
      if (++at[axis] < axes.extents[axis]) break;
      offset -= axes.extents[axis] * axes.strides[axis];
      at[axis] = 0;
    }
    if (axis < 0) return;
  }
}

// Outputs [first, last) by the kernels, where each is made of one row and the rows follow each
// other.
template <class Op>
void fold_rows(std::int64_t first, std::int64_t last, std::int64_t count, const float* x,
               float* y) {
  if constexpr (kFoldsExtremes<Op, float>) {
    kernels::extreme_rows_f32(kExtremeOf<Op>, x + first * count, last - first, count, y + first);
  } else {
    double sums[kStrip];
    for (; first < last; first += kStrip) {
      const std::int64_t rows = std::min(kStrip, last - first);
      kernels::sum_rows_f32(kSumOf<Op>, x + first * count, rows, count, sums);
      for (std::int64_t i = 0; i < rows; ++i) {
        y[first + i] = Op::template last<float>(sums[i], count);
      }
    }
  }
}

// One output of the runs that `reduced` has from x on.
template <class Op>
float fold_runs(const Axes& reduced, std::int64_t count, const float* x) {
  if constexpr (kFoldsExtremes<Op, float>) {
    float best = Op::template first<float>();
    for_each_reduced_run(reduced, [&](std::int64_t offset, std::int64_t run) {
      float of_run = 0;
      kernels::extreme_rows_f32(kExtremeOf<Op>, x + offset, 1, run, &of_run);
      best = Op::template add<float>(best, of_run);
    });
    return best;
  } else {
    double lanes[kernels::kFoldLanes] = {};
    for_each_reduced_run(reduced, [&](std::int64_t offset, std::int64_t run) {
      kernels::sum_lanes_f32(kSumOf<Op>, x + offset, run, lanes);
    });
    for (std::int64_t width = kernels::kFoldLanes / 2; width > 0; width /= 2) {
      for (std::int64_t lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
    }
    return Op::template last<float>(lanes[0], count);
  }
}

template <class Op, class T>
void reduce_rows(const Plan& plan, std::int64_t outputs, std::int64_t count, const T* x, T* y) {
  using State = typename Op::template State<T>;
  const std::int64_t grain = std::max<std::int64_t>(1, kWork / count);
  if constexpr (kFoldsSums<Op, T> || kFoldsExtremes<Op, T>) {
    const bool follow = plan.reduced.count == 1 && plan.kept.count <= 1;
    parallel_for(outputs, grain, [&](std::int64_t first, std::int64_t last) {
      if (follow) return fold_rows<Op>(first, last, count, x, y);
      for (std::int64_t i = first; i < last; ++i) {
        y[i] = fold_runs<Op>(plan.reduced, count, x + plan.kept.offset(i));
      }
    });
    return;
  }
  parallel_for(outputs, grain, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      const T* from = x + plan.kept.offset(i);
      State lanes[kLanes];
      for (State& lane : lanes) lane = Op::template first<T>();
      for_each_reduced_run(plan.reduced, [&](std::int64_t offset, std::int64_t run) {
        const T* row = from + offset;
        std::int64_t k = 0;
        for (; k + kLanes <= run; k += kLanes) {
          for (int lane = 0; lane < kLanes; ++lane) {
            lanes[lane] = Op::template add<T>(lanes[lane], row[k + lane]);
          }
        }
        for (; k < run; ++k) lanes[0] = Op::template add<T>(lanes[0], row[k]);
      });
      for (int width = kLanes / 2; width > 0; width /= 2) {
        for (int lane = 0; lane < width; ++lane) {
          lanes[lane] = Op::join(lanes[lane], lanes[lane + width]);
        }
      }
      y[i] = Op::template last<T>(lanes[0], count);
    }
  });
}

template <class Op, class T>
void reduce_columns(const Plan& plan, std::int64_t outputs, std::int64_t count, const T* x, T* y) {
  using State = typename Op::template State<T>;
  const std::int64_t width = plan.kept.extents[plan.kept.count - 1];  // contiguous outputs
  const std::int64_t strips = block_count(width, kStrip);
  const std::int64_t step = std::min(width, kStrip) * count;
  const std::int64_t grain = std::max<std::int64_t>(1, kWork / step);
  const Axes& reduced = plan.reduced;
  const std::int64_t inner = reduced.count == 0 ? 0 : reduced.strides[reduced.count - 1];
  parallel_for(outputs / width * strips, grain, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t strip = first; strip < last; ++strip) {
      const std::int64_t column = strip % strips * kStrip;
      const std::int64_t many = std::min(kStrip, width - column);
      const std::int64_t output = strip / strips * width + column;
      const T* from = x + plan.kept.offset(output);
      State states[kStrip];
      for (std::int64_t j = 0; j < many; ++j) states[j] = Op::template first<T>();
      for_each_reduced_run(reduced, [&](std::int64_t offset, std::int64_t run) {
        if constexpr (kFoldsSums<Op, T>) {
          return kernels::sum_columns_f32(kSumOf<Op>, from + offset, run, inner, many, states);
        } else if constexpr (kFoldsExtremes<Op, T>) {
          return kernels::extreme_columns_f32(kExtremeOf<Op>, from + offset, run, inner, many,
                                              states);
        }
        for (std::int64_t k = 0; k < run; ++k) {
          const T* row = from + offset + k * inner;
          for (std::int64_t j = 0; j < many; ++j) {
            states[j] = Op::template add<T>(states[j], row[j]);
          }
        }
      });
      for (std::int64_t j = 0; j < many; ++j) {
        y[output + j] = Op::template last<T>(states[j], count);
      }
    }
  });
}

// Which axes to reduce: an attribute, or input 1 from version `input_since` on.
std::array<bool, kMaxRank> axes_of(const Call& call, int rank, std::int64_t input_since) {
  std::vector<std::int64_t> axes;
  if (call.version() < input_since) {
    axes = call.attribute<std::vector<std::int64_t>>("axes", {});
  } else if (call.has(1)) {
    axes = call.integers(1);
  }
  std::array<bool, kMaxRank> reduced{};
  const bool none = call.attribute<std::int64_t>("noop_with_empty_axes", 0) != 0;
  if (axes.empty() && !none) std::fill_n(reduced.begin(), rank, true);
  call.require(static_cast<std::int64_t>(axes.size()) <= kMaxRank, "axes must be at most 16",
               axes.size());
  for (const std::int64_t axis : axes) reduced[checked_axis(call, axis, rank)] = true;
  return reduced;
}

Shape reduced_shape(const Shape& shape, const std::array<bool, kMaxRank>& reduced, bool keeps) {
  Shape result;
  for (int axis = 0; axis < shape.rank(); ++axis) {
    if (!reduced[axis]) result.push_back(shape[axis]);
    else if (keeps) result.push_back(1);
  }
  return result;
}

template <class Op, class T>
void run_reduction(const Call& call, const Tensor& x, const std::array<bool, kMaxRank>& axes,
                   Tensor& y) {
  if (y.size() == 0) return;
  T* const to = static_cast<T*>(y.mutable_raw());
  if (x.size() == 0) {
    if constexpr (std::is_same_v<Op, Mean> && std::is_integral_v<T>) {
      call.require(false, "the mean of no integers has no value, shape", x.shape());
    }
    std::fill_n(to, y.size(), Op::template last<T>(Op::template first<T>(), 0));
    return;
  }
  const Plan plan = plan_of(x.shape(), axes);
  const std::int64_t count = x.size() / y.size();
  const T* const from = static_cast<const T*>(x.raw());
  if (plan.rows) reduce_rows<Op>(plan, y.size(), count, from, to);
  else reduce_columns<Op>(plan, y.size(), count, from, to);
}

// The type in which elements are reduced: one instantiation for all integers of a sign.
ElementType wide_type(const Call& call, ElementType type, bool is_extreme) {
  switch (type) {
    case ElementType::float32:
    case ElementType::float64:
    case ElementType::int64:
    case ElementType::uint64: return type;
    case ElementType::float16:
    case ElementType::bfloat16: return ElementType::float32;
    case ElementType::int32: return ElementType::int64;
    case ElementType::uint32: return ElementType::uint64;
    case ElementType::int8:
      if (is_extreme) return ElementType::int64;
      break;
    case ElementType::uint8:
    case ElementType::boolean:
      if (is_extreme) return ElementType::uint64;
      break;
    default: break;
  }
  refuse_type(call, "elements must be of a type that it can reduce", type);
}

template <class Op, std::int64_t kInputSince>
void reduce(Call& call) {
  constexpr bool kExtreme = std::is_same_v<Op, Max> || std::is_same_v<Op, Min>;
  const Tensor& given = call.input(0);
  const auto axes = axes_of(call, given.rank(), kInputSince);
  const bool keeps = call.attribute<std::int64_t>("keepdims", 1) != 0;
  const Shape shape = reduced_shape(given.shape(), axes, keeps);
  const ElementType type = given.type();
  const ElementType wide = wide_type(call, type, kExtreme);
  const Tensor x = cast_tensor(call, given, wide);
  Tensor result = call.environment().allocate(wide, shape);
  // Signed and unsigned sums have the same bits.
  constexpr bool kSameBits =
      std::is_same_v<Op, Sum> || std::is_same_v<Op, SumSquare> || std::is_same_v<Op, Prod>;
  using Signed = std::conditional_t<kSameBits, std::uint64_t, std::int64_t>;
  if (wide == ElementType::float32) run_reduction<Op, float>(call, x, axes, result);
  else if (wide == ElementType::float64) run_reduction<Op, double>(call, x, axes, result);
  else if (wide == ElementType::int64) run_reduction<Op, Signed>(call, x, axes, result);
  else run_reduction<Op, std::uint64_t>(call, x, axes, result);
  if (type == ElementType::boolean && x.size() == 0) {
    // The least and greatest of 64 bits are not those of truth values.
    std::fill_n(result.mutable_data<std::uint64_t>(), result.size(), std::is_same_v<Op, Min>);
  }
  if (kExtreme && x.size() == 0 && wide == ElementType::int64 && bit_width(type) < 64) {
    // Cut to its low bits, the least int64 would be 0 and the greatest -1.
    const std::int64_t end = std::int64_t{1} << (bit_width(type) - 1);
    std::fill_n(result.mutable_data<std::int64_t>(), result.size(),
                std::is_same_v<Op, Min> ? end - 1 : -end);
  }
  call.set(0, cast_tensor(call, result, type));
}

// The first or last of the greatest elements of each line; NaN is greater than all.
template <bool kGreatest, bool kLast, class T>
void rank_lines(const AlongAxis& cut, const T* x, std::int64_t* y) {
  const auto beats = [](T a, T b) {
    if (kLast ? !(kGreatest ? a < b : a > b) : (kGreatest ? a > b : a < b)) {
      return kLast ? b == b || a != a : true;
    }
    return a != a && (kLast || b == b);
  };
  const std::int64_t strips = block_count(cut.inner, kStrip);
  const std::int64_t grain =
      std::max<std::int64_t>(1, kWork / (std::min(cut.inner, kStrip) * cut.extent));
  parallel_for(cut.outer * strips, grain, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t strip = first; strip < last; ++strip) {
      const std::int64_t column = strip % strips * kStrip;
      const std::int64_t width = std::min(kStrip, cut.inner - column);
      const T* from = x + strip / strips * cut.extent * cut.inner + column;
      std::int64_t* to = y + strip / strips * cut.inner + column;
      T best[kStrip];
      for (std::int64_t j = 0; j < width; ++j) {
        best[j] = from[j];
        to[j] = 0;
      }
      for (std::int64_t i = 1; i < cut.extent; ++i) {
        const T* row = from + i * cut.inner;
        for (std::int64_t j = 0; j < width; ++j) {
          if (beats(row[j], best[j])) {
            best[j] = row[j];
            to[j] = i;
          }
        }
      }
    }
  });
}

// The same of lines that follow each other, by the kernel that finds the extreme.
template <bool kGreatest, bool kLast>
void rank_rows(std::int64_t rows, std::int64_t count, const float* x, std::int64_t* y) {
  constexpr auto kExtreme = kGreatest ? kernels::Extreme::greatest : kernels::Extreme::least;
  parallel_for(rows, std::max<std::int64_t>(1, kWork / count),
               [&](std::int64_t first, std::int64_t last) {
                 for (std::int64_t row = first; row < last; ++row) {
                   const float* line = x + row * count;
                   float best = 0;
                   kernels::extreme_rows_f32(kExtreme, line, 1, count, &best);
                   std::int64_t at = kLast ? count - 1 : 0;
                   const auto found = [&] { return line[at] == best || line[at] != line[at]; };
                   while (!found()) at += kLast ? -1 : 1;
                   y[row] = at;
                 }
               });
}

template <bool kGreatest>
void arg_extreme(Call& call) {
  const Tensor& given = call.input(0);
  const Shape& shape = given.shape();
  const bool scalar = shape.rank() == 0;
  const int axis =
      checked_axis(call, call.attribute<std::int64_t>("axis", 0), std::max(1, shape.rank()));
  const bool keeps = call.attribute<std::int64_t>("keepdims", 1) != 0;
  const bool last = call.attribute<std::int64_t>("select_last_index", 0) != 0;
  std::array<bool, kMaxRank> reduced{};
  reduced[axis] = true;
  const Shape to = reduced_shape(shape, reduced, keeps);
  visit_numbers(call, given.type(), []<class T>() {});
  Tensor& out = call.output(0, ElementType::int64, to);
  if (out.size() == 0) return;
  call.require(scalar || shape[axis] > 0, "the axis must have elements, shape", shape);
  const AlongAxis cut = scalar ? AlongAxis() : along_axis(shape, axis);
  const auto run = [&]<class T>(ElementType wide) {
    const Tensor x = cast_tensor(call, given, wide);
    std::int64_t* const y = out.mutable_data<std::int64_t>();
    if constexpr (std::is_same_v<T, float>) {
      if (cut.inner == 1 && cut.extent > 1) {
        if (last) rank_rows<kGreatest, true>(cut.outer, cut.extent, x.template data<float>(), y);
        else rank_rows<kGreatest, false>(cut.outer, cut.extent, x.template data<float>(), y);
        return;
      }
    }
    if (last) rank_lines<kGreatest, true>(cut, x.data<T>(), y);
    else rank_lines<kGreatest, false>(cut, x.data<T>(), y);
  };
  switch (arithmetic_type(given.type())) {
    case ElementType::float32: return run.template operator()<float>(ElementType::float32);
    case ElementType::float64: return run.template operator()<double>(ElementType::float64);
    case ElementType::uint64: return run.template operator()<std::uint64_t>(ElementType::uint64);
    default: return run.template operator()<std::int64_t>(ElementType::int64);
  }
}

template <class Op>
void cumulate(Call& call) {
  const Tensor& given = call.input(0);
  const bool exclusive = call.attribute<std::int64_t>("exclusive", 0) != 0;
  const bool reverse = call.attribute<std::int64_t>("reverse", 0) != 0;
  const ElementType type = given.type();
  const std::int64_t chosen = call.integer(1);
  const int axis = checked_axis(call, chosen, std::max(1, given.rank()));
  visit_numbers(call, type, []<class T>() {});
  if (given.size() == 0) {
    call.output(0, type, given.shape());
    return;
  }
  const AlongAxis cut = given.rank() == 0 ? AlongAxis() : along_axis(given.shape(), axis);
  const auto run = [&]<class T>(ElementType wide) {
    const Tensor x = cast_tensor(call, given, wide);
    Tensor result = call.environment().allocate(wide, given.shape());
    const T* const from = static_cast<const T*>(x.raw());
    T* const to = static_cast<T*>(result.mutable_raw());
    const std::int64_t step = reverse ? -cut.inner : cut.inner;
    const std::int64_t grain = std::max<std::int64_t>(1, kWork / cut.extent);
    parallel_for(cut.lines(), grain, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t line = first; line < last; ++line) {
        std::int64_t at = cut.start(line) + (reverse ? (cut.extent - 1) * cut.inner : 0);
        auto state = Op::template first<T>();
        for (std::int64_t i = 0; i < cut.extent; ++i, at += step) {
          if (exclusive) to[at] = Op::template last<T>(state, i);
          state = Op::template add<T>(state, from[at]);
          if (!exclusive) to[at] = Op::template last<T>(state, i);
        }
      }
    });
    call.set(0, cast_tensor(call, result, type));
  };
  switch (arithmetic_type(type)) {
    case ElementType::float32: return run.template operator()<float>(ElementType::float32);
    case ElementType::float64: return run.template operator()<double>(ElementType::float64);
    case ElementType::uint64: return run.template operator()<std::uint64_t>(ElementType::uint64);
    default: return run.template operator()<std::uint64_t>(ElementType::int64);
  }
}

constexpr Operator kOperators[] = {
    {"", "ReduceSum", 1, reduce<Sum, 13>},
    {"", "ReduceMean", 1, reduce<Mean, 18>},
    {"", "ReduceMax", 1, reduce<Max, 18>},
    {"", "ReduceMin", 1, reduce<Min, 18>},
    {"", "ReduceProd", 1, reduce<Prod, 18>},
    {"", "ReduceL1", 1, reduce<L1, 18>},
    {"", "ReduceL2", 1, reduce<L2, 18>},
    {"", "ReduceLogSum", 1, reduce<LogSum, 18>},
    {"", "ReduceLogSumExp", 1, reduce<LogSumExp, 18>},
    {"", "ReduceSumSquare", 1, reduce<SumSquare, 18>},
    {"", "ArgMax", 1, arg_extreme<true>},
    {"", "ArgMin", 1, arg_extreme<false>},
    {"", "CumSum", 11, cumulate<Sum>},
    {"", "CumProd", 26, cumulate<Prod>},
};

}  // namespace

std::span<const Operator> reduce_operators() noexcept { return kOperators; }

}  // namespace moptcore::inline v0::graph

// SPDX-License-Identifier: Apache-2.0
// Operators that normalize or rank along an axis: Softmax, LogSoftmax, Hardmax.
#include <algorithm>
#include <cmath>

#include <moptcore/core/parallel.hpp>

#include <moptcore/graph/operator.hpp>
#include "graph/operators/along_axis.hpp"
#include "graph/operators/cast.hpp"
#include "graph/operators/chunk.hpp"
#include "graph/operators/types.hpp"

namespace moptcore::inline v0::graph {
namespace {

constexpr std::int64_t kStrip = 64;  // neighbouring lines that go together where they interleave

struct Softmax {
  template <class T>
  static void line(const T* x, T* y, std::int64_t count) {
    const T greatest = *std::max_element(x, x + count);
    double sum = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      y[i] = std::exp(x[i] - greatest);
      sum += y[i];
    }
    const T factor = static_cast<T>(1 / sum);
    for (std::int64_t i = 0; i < count; ++i) y[i] *= factor;
  }
};

struct LogSoftmax {
  template <class T>
  static void line(const T* x, T* y, std::int64_t count) {
    const T greatest = *std::max_element(x, x + count);
    double sum = 0;
    for (std::int64_t i = 0; i < count; ++i) sum += std::exp(x[i] - greatest);
    const T shift = greatest;
    const T log = static_cast<T>(std::log(sum));
    for (std::int64_t i = 0; i < count; ++i) y[i] = x[i] - shift - log;
  }
};

struct Hardmax {
  template <class T>
  static void line(const T* x, T* y, std::int64_t count) {
    const std::int64_t first = std::max_element(x, x + count) - x;
    std::fill_n(y, count, T(0));
    y[first] = T(1);
  }
};

// Lines that interleave are copied out a strip at a time, so that memory is read in order.
template <class Op, class T>
void run_lines(const AlongAxis& cut, const T* x, T* y) {
  const std::int64_t count = cut.extent;
  if (cut.inner == 1) {
    const std::int64_t grain = std::max<std::int64_t>(1, (1 << 13) / count);
    parallel_for(cut.outer, grain, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t i = first; i < last; ++i) Op::line(x + i * count, y + i * count, count);
    });
    return;
  }
  const std::int64_t strips = block_count(cut.inner, kStrip);
  parallel_for(cut.outer * strips, 1, [&](std::int64_t index, std::int64_t) {
    const std::int64_t first = index % strips * kStrip;
    const std::int64_t width = std::min(kStrip, cut.inner - first);
    const std::int64_t base = index / strips * count * cut.inner + first;
    std::vector<T> lines(width * count);
    std::vector<T> results(width * count);
    for (std::int64_t i = 0; i < count; ++i) {
      for (std::int64_t j = 0; j < width; ++j) lines[j * count + i] = x[base + i * cut.inner + j];
    }
    for (std::int64_t j = 0; j < width; ++j) {
      Op::line(lines.data() + j * count, results.data() + j * count, count);
    }
    for (std::int64_t i = 0; i < count; ++i) {
      for (std::int64_t j = 0; j < width; ++j) y[base + i * cut.inner + j] = results[j * count + i];
    }
  });
}

template <class Op>
void normalize(Call& call) {
  const Tensor& given = call.input(0);
  const ElementType wide = arithmetic_type(given.type());
  visit_floats(call, given.type(), []<class T>() {});
  // Before opset 13 the axis and all behind it are one.
  const bool flattens = call.version() < 13;
  const int rank = given.rank();
  AlongAxis cut;
  if (rank > 0 || flattens) {
    const auto chosen = call.attribute<std::int64_t>("axis", flattens ? 1 : -1);
    const bool behind = flattens && chosen == rank;
    const int axis = behind ? rank : checked_axis(call, chosen, rank);
    if (given.size() > 0) {
      if (behind) cut.outer = given.size();
      else cut = along_axis(given.shape(), axis);
      if (flattens) {
        cut.extent *= cut.inner;
        cut.inner = 1;
      }
    }
  }
  if (given.size() == 0) {
    call.output(0, given.type(), given.shape());
    return;
  }
  const Tensor x = cast_tensor(call, given, wide);
  Tensor result = call.environment().allocate(wide, given.shape());
  visit_floats(call, wide, [&]<class T>() {
    if constexpr (!kIsHalf<T>) run_lines<Op, T>(cut, x.data<T>(), result.mutable_data<T>());
  });
  call.set(0, cast_tensor(call, result, given.type()));
}

constexpr Operator kOperators[] = {
    {"", "Softmax", 1, normalize<Softmax>},
    {"", "LogSoftmax", 1, normalize<LogSoftmax>},
    {"", "Hardmax", 1, normalize<Hardmax>},
};

}  // namespace

std::span<const Operator> softmax_operators() noexcept { return kOperators; }

}  // namespace moptcore::inline v0::graph

// SPDX-License-Identifier: Apache-2.0
// Operators that compare elements: the greatest, the different ones, boxes that overlap.
#include <algorithm>
#include <cmath>
#include <numeric>

#include <moptcore/core/parallel.hpp>

#include <moptcore/graph/operator.hpp>
#include "graph/operators/moving.hpp"

namespace moptcore::inline v0::graph {
namespace {

using Integers = std::vector<std::int64_t>;

// Negative, 0 or positive as a is before, equal to or behind b. NaN is equal to itself and behind
// every number, as where NumPy sorts; complex numbers go by their real parts first.
template <class T>
int compared(const T& a, const T& b) {
  if constexpr (std::is_same_v<T, std::complex<float>> || std::is_same_v<T, std::complex<double>>) {
    const int real = compared(a.real(), b.real());
    return real != 0 ? real : compared(a.imag(), b.imag());
  } else if constexpr (kIsHalf<T>) {
    return compared(static_cast<float>(a), static_cast<float>(b));
  } else {
    if (a < b) return -1;
    if (b < a) return 1;
    if constexpr (std::is_floating_point_v<T>) return std::isnan(a) - std::isnan(b);
    return 0;
  }
}

template <class T>
struct Ranked {
  T value;
  std::int64_t index;
};

template <class T>
void top_of_lane(const T* in, std::int64_t extent, std::int64_t step, bool largest, bool sorted,
                 std::int64_t k, std::vector<Ranked<T>>& lane, T* values, std::int64_t* indices) {
  const auto before = [largest](const Ranked<T>& a, const Ranked<T>& b) {
    const int order = compared(a.value, b.value);
    if (order == 0) return a.index < b.index;
    return largest ? order > 0 : order < 0;
  };
  if (k <= extent / 16) {
    // A heap of the first ones so far, the last of them on top, which few elements get past.
    lane.resize(static_cast<std::size_t>(k));
    for (std::int64_t i = 0; i < k; ++i) lane[i] = {in[i * step], i};
    std::make_heap(lane.begin(), lane.end(), before);
    for (std::int64_t i = k; i < extent; ++i) {
      const Ranked<T> next{in[i * step], i};
      if (!before(next, lane.front())) continue;
      std::pop_heap(lane.begin(), lane.end(), before);
      lane.back() = next;
      std::push_heap(lane.begin(), lane.end(), before);
    }
  } else {
    lane.resize(static_cast<std::size_t>(extent));
    for (std::int64_t i = 0; i < extent; ++i) lane[i] = {in[i * step], i};
    if (k < extent) std::nth_element(lane.begin(), lane.begin() + k, lane.end(), before);
  }
  if (sorted) std::sort(lane.begin(), lane.begin() + k, before);
  for (std::int64_t i = 0; i < k; ++i) {
    values[i * step] = lane[i].value;
    indices[i * step] = lane[i].index;
  }
}

void top_k(Call& call) {
  const Tensor& data = call.input(0);
  const int axis = axis_of(call, call.attribute<std::int64_t>("axis", -1), data.rank());
  const std::int64_t k = call.version() < 10 ? call.required<std::int64_t>("k") : call.integer(1);
  const std::int64_t extent = data.shape()[axis];
  call.require(k >= 0 && k <= extent, "k must be in [0, " + std::to_string(extent) + "]", k);
  const bool largest = call.attribute<std::int64_t>("largest", 1) != 0;
  const bool sorted = call.attribute<std::int64_t>("sorted", 1) != 0;
  Shape extents = data.shape();
  extents[axis] = k;
  Tensor& values = call.output(0, data.type(), extents);
  Tensor unwanted;
  if (!call.wants(1)) unwanted = call.environment().allocate(ElementType::int64, extents);
  Tensor& indices = call.wants(1) ? call.output(1, ElementType::int64, extents) : unwanted;
  if (values.size() == 0) return;
  const Around all = around(data.shape(), axis);
  visit_numbers(call, data.type(), [&]<class T>() {
    const T* in = data.data<T>();
    T* out = values.mutable_data<T>();
    auto* at = indices.mutable_data<std::int64_t>();
    const std::int64_t grain = std::max<std::int64_t>((1 << 14) / extent, 1);
    parallel_for(all.outer * all.inner, grain, [&](std::int64_t first, std::int64_t last) {
      std::vector<Ranked<T>> lane;
      for (std::int64_t i = first; i < last; ++i) {
        const std::int64_t o = i / all.inner;
        const std::int64_t from = o * extent * all.inner + i % all.inner;
        const std::int64_t to = o * k * all.inner + i % all.inner;
        top_of_lane(in + from, extent, all.inner, largest, sorted, k, lane, out + to, at + to);
      }
    });
  });
}

// Groups of equal slices: for each group, in the order of the output, its members in the order of
// the input.
struct Groups {
  Integers order;   // of all slices, group by group
  Integers starts;  // of each group in `order`, and the end
};

template <class T>
Groups grouped(const T* slices, std::int64_t count, std::int64_t length, bool sorted) {
  Groups groups;
  groups.order.resize(static_cast<std::size_t>(count));
  std::iota(groups.order.begin(), groups.order.end(), 0);
  const auto compare = [&](std::int64_t a, std::int64_t b) {
    for (std::int64_t i = 0; i < length; ++i) {
      const int order = compared(slices[a * length + i], slices[b * length + i]);
      if (order != 0) return order;
    }
    return 0;
  };
  std::stable_sort(groups.order.begin(), groups.order.end(),
                   [&](std::int64_t a, std::int64_t b) { return compare(a, b) < 0; });
  for (std::int64_t i = 0; i < count; ++i) {
    if (i == 0 || compare(groups.order[i - 1], groups.order[i]) != 0) groups.starts.push_back(i);
  }
  if (!sorted) {
    Integers by_first(groups.starts.size());
    std::iota(by_first.begin(), by_first.end(), 0);
    std::sort(by_first.begin(), by_first.end(), [&](std::int64_t a, std::int64_t b) {
      return groups.order[groups.starts[a]] < groups.order[groups.starts[b]];
    });
    groups.starts.push_back(count);
    Groups result;
    for (const std::int64_t group : by_first) {
      result.starts.push_back(static_cast<std::int64_t>(result.order.size()));
      result.order.insert(result.order.end(), groups.order.begin() + groups.starts[group],
                          groups.order.begin() + groups.starts[group + 1]);
    }
    groups = std::move(result);
  }
  groups.starts.push_back(count);
  return groups;
}

Groups groups_of(const Call& call, const Tensor& slices, std::int64_t count, std::int64_t length,
                 bool sorted) {
  const auto group = [&]<class T>() { return grouped(units<T>(slices), count, length, sorted); };
  switch (slices.type()) {
    case ElementType::string: return group.operator()<std::string>();
    case ElementType::boolean: return group.operator()<std::uint8_t>();
    case ElementType::complex64: return group.operator()<std::complex<float>>();
    case ElementType::complex128: return group.operator()<std::complex<double>>();
    default: return visit_numbers(call, slices.type(), group);
  }
}

void unique(Call& call) {
  const Tensor& data = call.input(0);
  const bool flat = call.node().find("axis") == nullptr;
  const bool sorted = call.attribute<std::int64_t>("sorted", 1) != 0;
  const int axis = flat ? 0 : axis_of(call, call.attribute<std::int64_t>("axis", 0), data.rank());
  const Around all = flat ? Around{1, data.size(), 1} : around(data.shape(), axis);
  const std::int64_t length = all.outer * all.inner;
  // Slices one behind the other.
  Tensor slices = data;
  if (all.outer > 1 && data.size() > 0) {
    slices = call.environment().allocate(data.type(), data.shape());
    visit_units(call, data.type(), [&]<class T>() {
      const StridedAxis axes[] = {{all.extent, all.inner, length},
                                  {all.outer, all.extent * all.inner, all.inner},
                                  {all.inner, 1, 1}};
      copy_strided<T>(mutable_units<T>(slices), units<T>(data), axes);
    });
  }
  const Groups groups = groups_of(call, slices, all.extent, length, sorted);
  const auto count = static_cast<std::int64_t>(groups.starts.size()) - 1;
  Shape extents = flat ? Shape{0} : data.shape();
  extents[axis] = count;
  if (call.wants(0)) {
    Tensor& out = call.output(0, data.type(), extents);
    if (out.size() > 0) {
      visit_units(call, data.type(), [&]<class T>() {
        const T* source = units<T>(data);
        T* target = mutable_units<T>(out);
        for (std::int64_t o = 0; o < all.outer; ++o, source += all.extent * all.inner) {
          for (std::int64_t i = 0; i < count; ++i, target += all.inner) {
            copy_run<T>(target, source + groups.order[groups.starts[i]] * all.inner, all.inner);
          }
        }
      });
    }
  }
  const auto longs = [&](int index, std::int64_t size) {
    return call.output(index, ElementType::int64, Shape{size}).mutable_data<std::int64_t>();
  };
  if (call.wants(1)) {
    auto* first = longs(1, count);
    for (std::int64_t i = 0; i < count; ++i) first[i] = groups.order[groups.starts[i]];
  }
  if (call.wants(2)) {
    auto* inverse = longs(2, all.extent);
    for (std::int64_t i = 0; i < count; ++i) {
      for (std::int64_t at = groups.starts[i]; at < groups.starts[i + 1]; ++at) {
        inverse[groups.order[at]] = i;
      }
    }
  }
  if (call.wants(3)) {
    auto* counts = longs(3, count);
    for (std::int64_t i = 0; i < count; ++i) counts[i] = groups.starts[i + 1] - groups.starts[i];
  }
}

struct Box {
  float y1, x1, y2, x2;
};

Box box_at(const float* numbers, bool centered) {
  if (centered) {
    const float x = numbers[0];
    const float y = numbers[1];
    const float width = numbers[2] / 2;
    const float height = numbers[3] / 2;
    return {y - height, x - width, y + height, x + width};
  }
  // Any two opposite corners.
  return {std::min(numbers[0], numbers[2]), std::min(numbers[1], numbers[3]),
          std::max(numbers[0], numbers[2]), std::max(numbers[1], numbers[3])};
}

float overlap(const Box& a, const Box& b) {
  const float height = std::min(a.y2, b.y2) - std::max(a.y1, b.y1);
  const float width = std::min(a.x2, b.x2) - std::max(a.x1, b.x1);
  if (!(height > 0) || !(width > 0)) return 0.0f;
  const float both = height * width;
  const float either = (a.y2 - a.y1) * (a.x2 - a.x1) + (b.y2 - b.y1) * (b.x2 - b.x1) - both;
  return either > 0 ? both / either : 0.0f;
}

float threshold(const Call& call, int input, float fallback) {
  if (!call.has(input)) return fallback;
  const Tensor& given = call.input(input, ElementType::float32);
  call.require(given.size() == 1, "thresholds must have one element, shape", given.shape());
  return *given.data<float>();
}

void non_max_suppression(Call& call) {
  const Tensor& boxes = call.input(0, ElementType::float32);
  const Tensor& scores = call.input(1, ElementType::float32);
  call.require(boxes.rank() == 3 && boxes.shape()[2] == 4,
               "boxes must have the shape (batch, boxes, 4), shape", boxes.shape());
  call.require(scores.rank() == 3 && scores.shape()[0] == boxes.shape()[0] &&
                   scores.shape()[2] == boxes.shape()[1],
               "scores must have the shape (batch, classes, boxes), shape", scores.shape());
  const std::int64_t centered = call.attribute<std::int64_t>("center_point_box", 0);
  call.require(centered == 0 || centered == 1, "center_point_box must be 0 or 1", centered);
  const std::int64_t most = call.has(2) ? call.integer(2) : 0;
  const float iou = threshold(call, 3, 0.0f);
  call.require(iou >= 0.0f && iou <= 1.0f, "iou_threshold must be in [0, 1]", iou);
  const bool bounded = call.has(4);
  const float least = threshold(call, 4, 0.0f);
  const std::int64_t count = boxes.shape()[1];
  const std::int64_t classes = scores.shape()[1];
  Integers selected;
  const std::int64_t lanes = count == 0 || most <= 0 ? 0 : scores.size() / count;
  for (std::int64_t lane = 0; lane < lanes; ++lane) {
    const std::int64_t batch = lane / classes;
    const float* score = scores.data<float>() + lane * count;
    const float* corners = boxes.data<float>() + batch * count * 4;
    Integers order;
    for (std::int64_t i = 0; i < count; ++i) {
      if (!bounded || score[i] > least) order.push_back(i);
    }
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
      return compared(score[b], score[a]) < 0;
    });
    std::vector<Box> kept;
    for (const std::int64_t i : order) {
      if (static_cast<std::int64_t>(kept.size()) >= most) break;
      const Box box = box_at(corners + i * 4, centered != 0);
      call.environment().spend(static_cast<std::int64_t>(kept.size()) / 64);
      const bool covered =
          std::ranges::any_of(kept, [&](const Box& other) { return overlap(box, other) > iou; });
      if (covered) continue;
      kept.push_back(box);
      selected.insert(selected.end(), {batch, lane % classes, i});
    }
  }
  const auto rows = static_cast<std::int64_t>(selected.size()) / 3;
  std::ranges::copy(
      selected, call.output(0, ElementType::int64, Shape{rows, 3}).mutable_data<std::int64_t>());
}

constexpr Operator kOperators[] = {
    {"", "TopK", 1, top_k},
    {"", "Unique", 11, unique},
    {"", "NonMaxSuppression", 10, non_max_suppression},
};

}  // namespace

std::span<const Operator> ordering_operators() noexcept { return kOperators; }

}  // namespace moptcore::inline v0::graph

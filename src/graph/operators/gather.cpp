// SPDX-License-Identifier: Apache-2.0
// Operators that read and write where indices say.
#include <cmath>
#include <limits>

#include <moptcore/core/parallel.hpp>

#include <moptcore/graph/operator.hpp>
#include "graph/operators/moving.hpp"

namespace moptcore::inline v0::graph {
namespace {

using Integers = std::vector<std::int64_t>;

// Elements that one thread should move at least.
constexpr std::int64_t kGrain = 1 << 14;

// Indices counted from the front, each checked against `extent`.
Integers indices_of(const Call& call, int input, std::int64_t extent) {
  Integers indices = call.integers(input);
  for (std::int64_t& index : indices) index = index_of(call, index, extent);
  return indices;
}

void gather(Call& call) {
  const Tensor& data = call.input(0);
  const Shape& places = call.input(1).shape();
  const int axis = axis_of(call, call.attribute<std::int64_t>("axis", 0), data.rank());
  const Integers indices = indices_of(call, 1, data.shape()[axis]);
  Shape extents;
  for (int i = 0; i < axis; ++i) extents.push_back(data.shape()[i]);
  for (const std::int64_t extent : places) extents.push_back(extent);
  for (int i = axis + 1; i < data.rank(); ++i) extents.push_back(data.shape()[i]);
  Tensor& out = call.output(0, data.type(), extents);
  if (out.size() == 0) return;
  const Around all = around(data.shape(), axis);
  const auto count = static_cast<std::int64_t>(indices.size());
  visit_units(call, data.type(), [&]<class T>() {
    const T* source = units<T>(data);
    T* target = mutable_units<T>(out);
    const std::int64_t grain = std::max<std::int64_t>(kGrain / all.inner, 1);
    parallel_for(all.outer * count, grain, [&](std::int64_t first, std::int64_t last) {
      const T* block = source + first / count * all.extent * all.inner;
      std::int64_t i = first % count;
      T* to = target + first * all.inner;
      for (std::int64_t row = first; row < last; ++row, to += all.inner) {
        const T* from = block + indices[i] * all.inner;
        if (all.inner == 1) *to = *from;
        else copy_run<T>(to, from, all.inner);
        if (++i == count) {
          i = 0;
          block += all.extent * all.inner;
        }
      }
    });
  });
}

// Walks over `shape` row by row along the last axis: f(place in the shape, place in a tensor with
// `strides`, length). A rank of 0 is a row of one.
template <class F>
void for_each_row(const Shape& shape, const Shape& strides, F&& f) {
  const int last = shape.rank() - 1;
  const std::int64_t length = last < 0 ? 1 : shape[last];
  std::array<std::int64_t, kMaxRank> index{};
  std::int64_t place = 0;
  std::int64_t base = 0;
  while (true) {
    f(place, base, length);
    place += length;
    int axis = last - 1;
    for (; axis >= 0; --axis) {
      base += strides[axis];
      if (++index[axis] < shape[axis]) break;
      base -= strides[axis] * shape[axis];
      index[axis] = 0;
    }
    if (axis < 0) return;
  }
}

// Of GatherElements and ScatterElements: calls f(place among the indices, place in the data). The
// indices lie at the front of every axis but one.
template <class F>
void for_each_element(const Call& call, const Tensor& data, int axis, F&& f) {
  const Shape& shape = call.input(1).shape();
  call.require(shape.rank() == data.rank(), "indices must have as many dimensions as data, shape",
               shape);
  for (int i = 0; i < data.rank(); ++i) {
    call.require(i == axis || shape[i] <= data.shape()[i],
                 "indices must not exceed data but along axis, shape", shape);
  }
  const Integers indices = indices_of(call, 1, data.shape()[axis]);
  if (indices.empty()) return;
  Shape strides = contiguous_strides(data.shape());
  const std::int64_t along = strides[axis];
  // Along the axis the index says where, so that walking along it moves nothing.
  strides[axis] = 0;
  const std::int64_t step = strides[data.rank() - 1];
  for_each_row(shape, strides, [&](std::int64_t place, std::int64_t base, std::int64_t length) {
    for (std::int64_t i = 0; i < length; ++i) {
      f(place + i, base + i * step + indices[place + i] * along);
    }
  });
}

void gather_elements(Call& call) {
  const Tensor& data = call.input(0);
  const int axis = axis_of(call, call.attribute<std::int64_t>("axis", 0), data.rank());
  Tensor& out = call.output(0, data.type(), call.input(1).shape());
  visit_units(call, data.type(), [&]<class T>() {
    const T* source = units<T>(data);
    T* target = mutable_units<T>(out);
    for_each_element(call, data, axis,
                     [&](std::int64_t to, std::int64_t from) { target[to] = source[from]; });
  });
}

void gather_nd(Call& call) {
  const Tensor& data = call.input(0);
  const Tensor& indices = call.input(1);
  const std::int64_t batch = call.attribute<std::int64_t>("batch_dims", 0);
  call.require(batch >= 0 && batch < indices.rank() && batch <= data.rank(),
               "batch_dims must be less than the dimensions of indices", batch);
  Shape extents;
  for (int axis = 0; axis < batch; ++axis) {
    call.require(data.shape()[axis] == indices.shape()[axis],
                 "data and indices must agree in batch_dims, shape", indices.shape());
  }
  const int last = indices.rank() - 1;
  const std::int64_t tuple = indices.shape()[last];
  call.require(tuple <= data.rank() - batch,
               "tuples of indices must not be longer than data has "
               "dimensions behind batch_dims, length",
               tuple);
  const int inner_axis = static_cast<int>(batch + tuple);
  for (int axis = 0; axis < last; ++axis) extents.push_back(indices.shape()[axis]);
  for (int axis = inner_axis; axis < data.rank(); ++axis) extents.push_back(data.shape()[axis]);
  const Integers all = call.integers(1);
  Tensor& out = call.output(0, data.type(), extents);
  if (out.size() == 0) return;
  std::int64_t inner = 1;
  std::int64_t rows = 1;
  std::int64_t batches = 1;
  for (int axis = inner_axis; axis < data.rank(); ++axis) inner *= data.shape()[axis];
  for (int axis = 0; axis < last; ++axis) rows *= indices.shape()[axis];
  for (int axis = 0; axis < batch; ++axis) batches *= data.shape()[axis];
  call.require(data.size() > 0, "data must have elements for indices to name, shape", data.shape());
  Shape strides = data.shape();
  std::int64_t step = inner;
  for (int axis = inner_axis - 1; axis >= static_cast<int>(batch); --axis) {
    strides[axis] = step;
    step *= data.shape()[axis];
  }
  const std::int64_t each = rows / batches;
  visit_units(call, data.type(), [&]<class T>() {
    const T* source = units<T>(data);
    T* target = mutable_units<T>(out);
    const std::int64_t* at = all.data();
    for (std::int64_t row = 0; row < rows; ++row) {
      std::int64_t from = row / each * step;
      for (int axis = static_cast<int>(batch); axis < inner_axis; ++axis, ++at) {
        from += index_of(call, *at, data.shape()[axis]) * strides[axis];
      }
      copy_run<T>(target + row * inner, source + from, inner);
    }
  });
}

enum class Reduction : std::uint8_t { none, add, mul, min, max };

Reduction reduction_of(const Call& call) {
  const std::string given = call.text("reduction", "none");
  if (given == "none") return Reduction::none;
  if (given == "add") return Reduction::add;
  if (given == "mul") return Reduction::mul;
  if (given == "min") return Reduction::min;
  if (given == "max") return Reduction::max;
  throw Error(error_text(call.where(), "reduction must be none, add, mul, min or max", given));
}

// Sums of integers wrap around as those of unsigned ones do.
template <class T>
T reduced(Reduction reduction, T a, T b) {
  if constexpr (std::is_same_v<T, bool>) {
    const bool either = reduction == Reduction::add || reduction == Reduction::max;
    return either ? a || b : a && b;
  } else if constexpr (std::is_integral_v<T>) {
    // In 64 bits: the product of two uint16 would overflow the int that it becomes.
    const auto x = static_cast<std::uint64_t>(a);
    const auto y = static_cast<std::uint64_t>(b);
    switch (reduction) {
      case Reduction::add: return static_cast<T>(x + y);
      case Reduction::mul: return static_cast<T>(x * y);
      case Reduction::min: return std::min(a, b);
      default: return std::max(a, b);
    }
  } else if constexpr (std::is_same_v<T, std::complex<float>> ||
                       std::is_same_v<T, std::complex<double>>) {
    return reduction == Reduction::add ? a + b : a * b;
  } else {
    const auto x = static_cast<Arithmetic<T>>(a);
    const auto y = static_cast<Arithmetic<T>>(b);
    switch (reduction) {
      case Reduction::add: return static_cast<T>(x + y);
      case Reduction::mul: return static_cast<T>(x * y);
      // NaN wins, as it does in NumPy's minimum and maximum.
      case Reduction::min: return std::isnan(x) || x < y ? a : b;
      default: return std::isnan(x) || x > y ? a : b;
    }
  }
}

// f.operator()<T>() with the type that `reduction` computes in.
template <class F>
void visit_reduced(const Call& call, ElementType type, Reduction reduction, F&& f) {
  const bool ordered = reduction == Reduction::min || reduction == Reduction::max;
  if (type == ElementType::boolean) return f.template operator()<bool>();
  if (!ordered && type == ElementType::complex64)
    return f.template operator()<std::complex<float>>();
  if (!ordered && type == ElementType::complex128) {
    return f.template operator()<std::complex<double>>();
  }
  visit_numbers(call, type, f);
}

// A copy of input 0 as output 0.
Tensor& copied_output(Call& call, const Tensor& data) {
  Tensor& out = call.output(0, data.type(), data.shape());
  visit_units(call, data.type(),
              [&]<class T>() { copy_run<T>(mutable_units<T>(out), units<T>(data), data.size()); });
  return out;
}

const Tensor& updates_of(const Call& call, const Tensor& data, int input) {
  const Tensor& updates = call.input(input);
  call.require<DTypeError>(updates.type() == data.type(), "updates must be of data's type",
                           name(updates.type()));
  return updates;
}

void scatter_elements(Call& call) {
  const Tensor& data = call.input(0);
  const Tensor& updates = updates_of(call, data, 2);
  const int axis = axis_of(call, call.attribute<std::int64_t>("axis", 0), data.rank());
  const Reduction reduction = reduction_of(call);
  call.require(updates.shape() == call.input(1).shape(),
               "updates must have the shape of indices, shape", updates.shape());
  Tensor& out = copied_output(call, data);
  if (reduction == Reduction::none) {
    return visit_units(call, data.type(), [&]<class T>() {
      const T* source = units<T>(updates);
      T* target = mutable_units<T>(out);
      for_each_element(call, data, axis,
                       [&](std::int64_t from, std::int64_t to) { target[to] = source[from]; });
    });
  }
  visit_reduced(call, data.type(), reduction, [&]<class T>() {
    const T* source = static_cast<const T*>(updates.raw());
    T* target = static_cast<T*>(out.mutable_raw());
    for_each_element(call, data, axis, [&](std::int64_t from, std::int64_t to) {
      target[to] = reduced<T>(reduction, target[to], source[from]);
    });
  });
}

void scatter_nd(Call& call) {
  const Tensor& data = call.input(0);
  const Tensor& indices = call.input(1);
  const Tensor& updates = updates_of(call, data, 2);
  const Reduction reduction = reduction_of(call);
  call.require(indices.rank() >= 1, "indices must have a dimension at least, rank", indices.rank());
  const int last = indices.rank() - 1;
  const std::int64_t tuple = indices.shape()[last];
  call.require(tuple <= data.rank(),
               "tuples of indices must not be longer than data has dimensions, length", tuple);
  Shape expected;
  for (int axis = 0; axis < last; ++axis) expected.push_back(indices.shape()[axis]);
  for (int axis = static_cast<int>(tuple); axis < data.rank(); ++axis) {
    expected.push_back(data.shape()[axis]);
  }
  call.require(updates.shape() == expected,
               "updates must have the shape that data and indices give, shape", updates.shape());
  const Integers all = call.integers(1);
  Tensor& out = copied_output(call, data);
  if (updates.size() == 0) return;
  call.require(data.size() > 0, "data must have elements for indices to name, shape", data.shape());
  std::int64_t inner = 1;
  for (int axis = static_cast<int>(tuple); axis < data.rank(); ++axis) inner *= data.shape()[axis];
  const std::int64_t rows = updates.size() / inner;
  Shape strides = data.shape();
  std::int64_t step = inner;
  for (int axis = static_cast<int>(tuple) - 1; axis >= 0; --axis) {
    strides[axis] = step;
    step *= data.shape()[axis];
  }
  const auto each = [&](auto&& move) {
    const std::int64_t* at = all.data();
    for (std::int64_t row = 0; row < rows; ++row) {
      std::int64_t to = 0;
      for (int axis = 0; axis < tuple; ++axis, ++at) {
        to += index_of(call, *at, data.shape()[axis]) * strides[axis];
      }
      move(to, row * inner);
    }
  };
  if (reduction == Reduction::none) {
    return visit_units(call, data.type(), [&]<class T>() {
      const T* source = units<T>(updates);
      T* target = mutable_units<T>(out);
      each([&](std::int64_t to, std::int64_t from) {
        copy_run<T>(target + to, source + from, inner);
      });
    });
  }
  visit_reduced(call, data.type(), reduction, [&]<class T>() {
    const T* source = static_cast<const T*>(updates.raw());
    T* target = static_cast<T*>(out.mutable_raw());
    each([&](std::int64_t to, std::int64_t from) {
      for (std::int64_t i = 0; i < inner; ++i) {
        target[to + i] = reduced<T>(reduction, target[to + i], source[from + i]);
      }
    });
  });
}

void tensor_scatter(Call& call) {
  const Tensor& past = call.input(0);
  const Tensor& update = updates_of(call, past, 1);
  const int axis = axis_of(call, call.attribute<std::int64_t>("axis", -2), past.rank());
  call.require(axis > 0, "axis must not be that of the batch, axis", axis);
  const std::string mode = call.text("mode", "linear");
  call.require(mode == "linear" || mode == "circular", "mode must be linear or circular", mode);
  call.require(update.rank() == past.rank(),
               "update must have as many dimensions as the cache, shape", update.shape());
  for (int i = 0; i < past.rank(); ++i) {
    call.require(
        i == axis ? update.shape()[i] <= past.shape()[i] : update.shape()[i] == past.shape()[i],
        "update must agree with the cache but along axis, shape", update.shape());
  }
  const std::int64_t batch = past.shape()[0];
  const std::int64_t places = past.shape()[axis];
  const std::int64_t length = update.shape()[axis];
  Integers starts;
  if (call.has(2)) starts = call.integers(2);
  call.require(!call.has(2) || static_cast<std::int64_t>(starts.size()) == batch,
               "write_indices must be one for each of the batch, indices", starts.size());
  for (std::int64_t& start : starts) {
    call.require(start >= 0, "write_indices must be >= 0", start);
    if (mode == "circular") start = places == 0 ? 0 : start % places;
    else
      call.require(start <= places - length, "write_indices must leave room for the update", start);
  }
  Tensor& out = copied_output(call, past);
  if (update.size() == 0) return;
  const Around all = around(past.shape(), axis);
  const std::int64_t each = all.outer / batch;
  visit_units(call, past.type(), [&]<class T>() {
    const T* source = units<T>(update);
    T* target = mutable_units<T>(out);
    for (std::int64_t prefix = 0; prefix < all.outer; ++prefix) {
      const std::int64_t start = starts.empty() ? 0 : starts[prefix / each];
      const std::int64_t front = std::min(length, places - start);
      const T* from = source + prefix * length * all.inner;
      T* to = target + prefix * places * all.inner;
      copy_run<T>(to + start * all.inner, from, front * all.inner);
      copy_run<T>(to, from + front * all.inner, (length - front) * all.inner);
    }
  });
}

void compress(Call& call) {
  const Tensor& data = call.input(0);
  const Tensor& condition = call.input(1, ElementType::boolean);
  call.require(condition.rank() == 1, "condition must have one dimension, shape",
               condition.shape());
  const bool flat = call.node().find("axis") == nullptr;
  const int axis = flat ? 0 : axis_of(call, call.attribute<std::int64_t>("axis", 0), data.rank());
  const Around all = flat ? Around{1, data.size(), 1} : around(data.shape(), axis);
  Integers kept;
  for (std::int64_t i = 0; i < std::min(condition.size(), all.extent); ++i) {
    if (condition.data<bool>()[i]) kept.push_back(i);
  }
  Shape extents = flat ? Shape{0} : data.shape();
  extents[axis] = static_cast<std::int64_t>(kept.size());
  Tensor& out = call.output(0, data.type(), extents);
  if (out.size() == 0) return;
  visit_units(call, data.type(), [&]<class T>() {
    const T* source = units<T>(data);
    T* target = mutable_units<T>(out);
    for (std::int64_t o = 0; o < all.outer; ++o, source += all.extent * all.inner) {
      for (const std::int64_t i : kept) {
        copy_run<T>(target, source + i * all.inner, all.inner);
        target += all.inner;
      }
    }
  });
}

// Numbers as int64: floats lose what is behind the point, and what does not fit becomes a number
// that no depth reaches.
Integers as_int64(const Call& call, const Tensor& numbers) {
  Integers result(static_cast<std::size_t>(numbers.size()));
  visit_numbers(call, numbers.type(), [&]<class T>() {
    const T* values = numbers.data<T>();
    for (std::size_t i = 0; i < result.size(); ++i) {
      if constexpr (kIsFloating<T>) {
        const auto value = static_cast<double>(static_cast<Arithmetic<T>>(values[i]));
        const bool fits = value > -9.2e18 && value < 9.2e18;  // false for NaN
        result[i] =
            fits ? static_cast<std::int64_t>(value) : std::numeric_limits<std::int64_t>::min();
      } else if constexpr (std::is_same_v<T, std::uint64_t>) {
        const bool fits = values[i] <= static_cast<std::uint64_t>(INT64_MAX);
        result[i] = fits ? static_cast<std::int64_t>(values[i]) : INT64_MIN;
      } else {
        result[i] = static_cast<std::int64_t>(values[i]);
      }
    }
  });
  return result;
}

void one_hot(Call& call) {
  const Tensor& indices = call.input(0);
  const Tensor& values = call.input(2);
  call.require(call.input(1).size() == 1, "depth must have one element, shape",
               call.input(1).shape());
  call.require(values.size() == 2, "values must be the two for off and on, shape", values.shape());
  const std::int64_t depth = as_int64(call, call.input(1)).front();
  call.require(depth >= 0, "depth must be >= 0 and fit in 63 bits", depth);
  const int axis = axis_of(call, call.attribute<std::int64_t>("axis", -1), indices.rank() + 1);
  Shape extents;
  for (int i = 0; i <= indices.rank(); ++i) {
    extents.push_back(i < axis ? indices.shape()[i] : i == axis ? depth : indices.shape()[i - 1]);
  }
  const Integers hot = as_int64(call, indices);
  Tensor& out = call.output(0, values.type(), extents);
  if (out.size() == 0) return;
  const Around all = around(extents, axis);
  visit_units(call, values.type(), [&]<class T>() {
    const T* choice = units<T>(values);
    T* target = mutable_units<T>(out);
    fill_run<T>(target, choice[0], out.size());
    std::size_t place = 0;
    for (std::int64_t o = 0; o < all.outer; ++o, target += depth * all.inner) {
      for (std::int64_t i = 0; i < all.inner; ++i, ++place) {
        const std::int64_t at = hot[place];
        if (at < -depth || at >= depth) continue;
        target[(at < 0 ? at + depth : at) * all.inner + i] = choice[1];
      }
    }
  });
}

void non_zero(Call& call) {
  const Tensor& data = call.input(0);
  std::vector<bool> marked(static_cast<std::size_t>(data.size()));
  std::int64_t count = 0;
  const auto mark = [&](std::int64_t i, bool is) {
    marked[i] = is;
    count += is;
  };
  const auto numbers = [&]<class T>() {
    const T* values = static_cast<const T*>(data.raw());
    for (std::int64_t i = 0; i < data.size(); ++i) {
      if constexpr (kIsHalf<T>) mark(i, static_cast<float>(values[i]) != 0.0f);
      else mark(i, values[i] != T{});
    }
  };
  switch (data.type()) {
    case ElementType::string:
      for (std::int64_t i = 0; i < data.size(); ++i) mark(i, !data.strings()[i].empty());
      break;
    case ElementType::boolean: numbers.operator()<std::uint8_t>(); break;
    case ElementType::complex64: numbers.operator()<std::complex<float>>(); break;
    case ElementType::complex128: numbers.operator()<std::complex<double>>(); break;
    default: visit_numbers(call, data.type(), numbers);
  }
  const std::int64_t rank = data.rank();
  Tensor& out = call.output(0, ElementType::int64, Shape{rank, count});
  auto* target = out.mutable_data<std::int64_t>();
  std::array<std::int64_t, kMaxRank> index{};
  std::int64_t found = 0;
  for (std::int64_t i = 0; i < data.size(); ++i) {
    if (marked[i]) {
      for (int axis = 0; axis < rank; ++axis) target[axis * count + found] = index[axis];
      ++found;
    }
    for (int axis = data.rank() - 1; axis >= 0; --axis) {
      if (++index[axis] < data.shape()[axis]) break;
      index[axis] = 0;
    }
  }
}

constexpr Operator kOperators[] = {
    {"", "Gather", 1, moving<gather>},
    {"", "GatherElements", 11, moving<gather_elements>},
    {"", "GatherND", 11, moving<gather_nd>},
    {"", "Scatter", 9, moving<scatter_elements>},
    {"", "ScatterElements", 11, scatter_elements},
    {"", "ScatterND", 11, scatter_nd},
    {"", "TensorScatter", 24, moving<tensor_scatter>},
    {"", "Compress", 9, moving<compress>},
    {"", "OneHot", 9, one_hot},
    {"", "NonZero", 9, non_zero},
};

}  // namespace

std::span<const Operator> gather_operators() noexcept { return kOperators; }

}  // namespace moptcore::inline v0::graph

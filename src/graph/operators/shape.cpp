// SPDX-License-Identifier: Apache-2.0
// Operators on shapes: they share the elements of their input, or make elements from an extent.
#include <cstring>

#include <moptcore/graph/operator.hpp>
#include "graph/operators/moving.hpp"

namespace moptcore::inline v0::graph {
namespace {

using Integers = std::vector<std::int64_t>;

void shape(Call& call) {
  const Shape& extents = call.input(0).shape();
  const std::int64_t rank = extents.rank();
  const auto clamp = [&](std::int64_t at) {
    return std::clamp<std::int64_t>(at < 0 ? at + rank : at, 0, rank);
  };
  const std::int64_t start = clamp(call.attribute<std::int64_t>("start", 0));
  const std::int64_t end = clamp(call.attribute<std::int64_t>("end", rank));
  const std::int64_t count = std::max<std::int64_t>(end - start, 0);
  auto* out = call.output(0, ElementType::int64, Shape{count}).mutable_data<std::int64_t>();
  std::copy_n(extents.begin() + start, count, out);
}

void size(Call& call) {
  const std::int64_t count = call.input(0).size();
  *call.output(0, ElementType::int64, Shape{}).mutable_data<std::int64_t>() = count;
}

void reshape(Call& call) {
  const Tensor& data = call.input(0);
  const bool given = call.version() >= 5;
  if (given) {
    const Tensor& wanted = call.input(1, ElementType::int64);
    call.require(wanted.rank() <= 1, "shape must have one dimension", wanted.shape());
  }
  Shape result(
      std::span<const std::int64_t>(given ? call.integers(1) : call.required<Integers>("shape")));
  const bool zeros = call.attribute<std::int64_t>("allowzero", 0) != 0;
  const Shape wanted = result;
  int inferred = -1;
  for (int axis = 0; axis < result.rank(); ++axis) {
    if (result[axis] == 0 && !zeros) {
      call.require(axis < data.rank(), "shape must copy extents that the input has, shape", wanted);
      result[axis] = data.shape()[axis];
    } else if (result[axis] == -1) {
      call.require(inferred < 0, "shape must hold -1 once at most", wanted);
      inferred = axis;
    } else {
      call.require(result[axis] >= 0, "shape must hold extents, 0 or -1", wanted);
    }
  }
  if (inferred >= 0) {
    result[inferred] = 1;
    const std::int64_t known = element_count(result);
    call.require(known > 0 && data.size() % known == 0,
                 "the elements must fill the extent that is -1, shape", wanted);
    result[inferred] = data.size() / known;
  }
  call.require(element_count(result) == data.size(),
               "shape must have as many elements as the input, shape", result);
  call.set(0, data.reshaped(result));
}

void flatten(Call& call) {
  const Tensor& data = call.input(0);
  std::int64_t axis = call.attribute<std::int64_t>("axis", 1);
  // Unlike elsewhere the rank itself is allowed.
  call.require(axis >= -data.rank() && axis <= data.rank(), "axis must be in [-rank, rank]", axis);
  if (axis < 0) axis += data.rank();
  Shape front;
  Shape back;
  for (int i = 0; i < data.rank(); ++i) (i < axis ? front : back).push_back(data.shape()[i]);
  call.set(0, data.reshaped(Shape{element_count(front), element_count(back)}));
}

// Axes are an attribute before opset 13, an input since. False where neither is given.
bool given_axes(const Call& call, Integers& axes) {
  if (call.version() >= 13) {
    if (!call.has(1)) return false;
    axes = call.integers(1);
    return true;
  }
  if (call.node().find("axes") == nullptr) return false;
  axes = call.required<Integers>("axes");
  return true;
}

void squeeze(Call& call) {
  const Tensor& data = call.input(0);
  std::array<bool, kMaxRank> removed{};
  Integers axes;
  if (given_axes(call, axes)) {
    for (const int axis : axes_of(call, axes, data.rank())) {
      call.require(data.shape()[axis] == 1, "axes must have extent 1, shape", data.shape());
      removed[axis] = true;
    }
  } else {
    for (int axis = 0; axis < data.rank(); ++axis) removed[axis] = data.shape()[axis] == 1;
  }
  Shape result;
  for (int axis = 0; axis < data.rank(); ++axis) {
    if (!removed[axis]) result.push_back(data.shape()[axis]);
  }
  call.set(0, data.reshaped(result));
}

void unsqueeze(Call& call) {
  const Tensor& data = call.input(0);
  Integers axes;
  call.require<FormatError>(given_axes(call, axes), "axes must be given, inputs",
                            call.input_count());
  call.require<UnsupportedError>(axes.size() + data.shape().size() <= kMaxRank,
                                 "a tensor must have at most 16 dimensions", axes.size());
  const int rank = data.rank() + static_cast<int>(axes.size());
  std::array<bool, kMaxRank> added{};
  for (const int axis : axes_of(call, axes, rank)) added[axis] = true;
  Shape result;
  int next = 0;
  for (int axis = 0; axis < rank; ++axis) {
    result.push_back(added[axis] ? 1 : data.shape()[next++]);
  }
  call.set(0, data.reshaped(result));
}

void constant_of_shape(Call& call) {
  const Tensor& extents = call.input(0, ElementType::int64);
  call.require(extents.rank() <= 1, "shape must have one dimension", extents.shape());
  const Shape result(extents.values<std::int64_t>());
  const Tensor value =
      call.node().find("value") == nullptr ? Tensor::scalar(0.0f) : call.required<Tensor>("value");
  call.require(value.size() == 1, "value must have one element, shape", value.shape());
  Tensor& out = call.output(0, value.type(), result);
  if (is_packed(value.type())) {
    const int bits = bit_width(value.type());
    int byte = *static_cast<const std::uint8_t*>(value.raw()) & ((1 << bits) - 1);
    for (int filled = bits; filled < 8; filled *= 2) byte |= byte << filled;
    std::memset(out.mutable_raw(), byte, static_cast<std::size_t>(out.bytes()));
    return;
  }
  visit_units(call, value.type(),
              [&]<class T>() { fill_run<T>(mutable_units<T>(out), *units<T>(value), out.size()); });
}

void eye_like(Call& call) {
  const Tensor& like = call.input(0);
  call.require(like.rank() == 2, "input must have two dimensions, shape", like.shape());
  const std::int64_t code = call.attribute<std::int64_t>("dtype", 0);
  call.require<FormatError>(code >= 0 && code < kElementTypeCount,
                            "dtype must be a type of ONNX's tensors", code);
  const ElementType type = code == 0 ? like.type() : static_cast<ElementType>(code);
  const std::int64_t rows = like.shape()[0];
  const std::int64_t columns = like.shape()[1];
  const std::int64_t k =
      std::clamp<std::int64_t>(call.attribute<std::int64_t>("k", 0), -rows, columns);
  const auto fill = [&]<class T>() {
    Tensor& out = call.output(0, type, like.shape());
    T* values = static_cast<T*>(out.mutable_raw());
    if (out.size() > 0) std::memset(out.mutable_raw(), 0, static_cast<std::size_t>(out.bytes()));
    for (std::int64_t row = std::max<std::int64_t>(0, -k); row < rows && row + k < columns; ++row) {
      values[row * columns + row + k] = static_cast<T>(1.0f);
    }
  };
  if (type == ElementType::boolean) return fill.operator()<bool>();
  visit_numbers(call, type, fill);
}

constexpr Operator kOperators[] = {
    {"", "Shape", 1, shape},
    {"", "Size", 1, size},
    {"", "Reshape", 1, reshape},
    {"", "Flatten", 1, flatten},
    {"", "Squeeze", 1, squeeze},
    {"", "Unsqueeze", 1, unsqueeze},
    {"", "ConstantOfShape", 9, constant_of_shape},
    {"", "EyeLike", 9, eye_like},
};

}  // namespace

std::span<const Operator> shape_operators() noexcept { return kOperators; }

}  // namespace moptcore::inline v0::graph

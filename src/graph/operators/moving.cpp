// SPDX-License-Identifier: Apache-2.0
#include "graph/operators/moving.hpp"

#include <array>

namespace moptcore::inline v0::graph {
Tensor unpacked(const Call& call, const Tensor& tensor) {
  if (!is_packed(tensor.type())) return tensor;
  const int bits = bit_width(tensor.type());
  const int each = 8 / bits;
  const int mask = (1 << bits) - 1;
  const auto* in = static_cast<const std::uint8_t*>(tensor.raw());
  Tensor result = call.environment().allocate(ElementType::uint8, tensor.shape());
  auto* out = result.mutable_data<std::uint8_t>();
  for (std::int64_t i = 0; i < tensor.size(); ++i) {
    out[i] = static_cast<std::uint8_t>(in[i / each] >> (i % each * bits) & mask);
  }
  return result;
}

Tensor packed(const Call& call, const Tensor& bytes, ElementType type) {
  if (!is_packed(type)) return bytes;
  const int bits = bit_width(type);
  const int each = 8 / bits;
  const auto* in = bytes.data<std::uint8_t>();
  Tensor result = call.environment().allocate(type, bytes.shape());
  auto* out = static_cast<std::uint8_t*>(result.mutable_raw());
  for (std::int64_t i = 0; i < result.bytes(); ++i, in += each) {
    const std::int64_t count = std::min<std::int64_t>(each, result.size() - i * each);
    int value = 0;
    for (std::int64_t k = 0; k < count; ++k) value |= in[k] << (k * bits);
    out[i] = static_cast<std::uint8_t>(value);
  }
  return result;
}

void run_unpacked(Call& call, OperatorFunction op) {
  ElementType type = ElementType::undefined;
  const auto is_packed_input = [&](int i) {
    return call.has(i) && call.value(i).is_tensor() && is_packed(call.input(i).type());
  };
  for (int i = 0; i < call.input_count(); ++i) {
    if (is_packed_input(i)) type = call.input(i).type();
  }
  if (type == ElementType::undefined) return op(call);

  std::vector<Value> inputs(static_cast<std::size_t>(call.input_count()));
  std::vector<const Value*> given(inputs.size());
  for (int i = 0; i < call.input_count(); ++i) {
    if (!call.has(i)) continue;
    inputs[i] = call.value(i);
    if (is_packed_input(i)) {
      call.require<DTypeError>(call.input(i).type() == type, "inputs must be of one type",
                               name(call.input(i).type()));
      inputs[i] = unpacked(call, call.input(i));
    }
    given[i] = &inputs[i];
  }
  std::vector<Value> outputs(static_cast<std::size_t>(call.output_count()));
  Call inner(call.node(), call.version(), given, outputs, call.environment());
  op(inner);
  for (int i = 0; i < call.output_count(); ++i) {
    if (!outputs[i].has_value()) continue;
    const bool bytes = outputs[i].is_tensor() && outputs[i].tensor().type() == ElementType::uint8;
    call.set(i, bytes ? Value(packed(call, outputs[i].tensor(), type)) : std::move(outputs[i]));
  }
}

Tensor with_axis(const Tensor& tensor, int axis) {
  Shape shape;
  for (int i = 0; i < axis; ++i) shape.push_back(tensor.shape()[i]);
  shape.push_back(1);
  for (int i = axis; i < tensor.rank(); ++i) shape.push_back(tensor.shape()[i]);
  return tensor.reshaped(shape);
}

Tensor concatenated(const Call& call, std::span<const Tensor> parts, std::int64_t named) {
  call.require(!parts.empty(), "there must be a tensor at least, tensors", parts.size());
  const Tensor& first = parts.front();
  const int axis = axis_of(call, named, first.rank());
  Shape extents = first.shape();
  for (const Tensor& next : parts.subspan(1)) {
    call.require<DTypeError>(next.type() == first.type(), "tensors must be of one type",
                             name(next.type()));
    call.require(next.rank() == first.rank(), "tensors must have as many dimensions, shape",
                 next.shape());
    for (int other = 0; other < first.rank(); ++other) {
      if (other == axis) continue;
      call.require(next.shape()[other] == first.shape()[other],
                   "tensors must agree in all axes but one, shape", next.shape());
    }
    extents[axis] = checked_sum(call, extents[axis], next.shape()[axis]);
  }
  if (is_packed(first.type())) {
    std::vector<Tensor> bytes;
    for (const Tensor& part : parts) bytes.push_back(unpacked(call, part));
    return packed(call, concatenated(call, bytes, axis), first.type());
  }
  Tensor out = call.environment().allocate(first.type(), extents);
  if (out.size() == 0) return out;
  const Around all = around(extents, axis);
  visit_units(call, first.type(), [&]<class T>() {
    T* target = mutable_units<T>(out);
    for (const Tensor& next : parts) {
      const std::int64_t run = next.shape()[axis] * all.inner;
      const StridedAxis axes[] = {{all.outer, run, all.extent * all.inner}, {run, 1, 1}};
      if (run > 0) copy_strided<T>(target, units<T>(next), axes);
      target += run;
    }
  });
  return out;
}

std::vector<int> axes_of(const Call& call, const std::vector<std::int64_t>& axes, int rank) {
  std::vector<int> result;
  std::array<bool, kMaxRank> seen{};
  for (const std::int64_t given : axes) {
    const int axis = axis_of(call, given, rank);
    call.require(!seen[axis], "axes must not repeat one", given);
    seen[axis] = true;
    result.push_back(axis);
  }
  return result;
}

}  // namespace moptcore::inline v0::graph

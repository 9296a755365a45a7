// SPDX-License-Identifier: Apache-2.0
#include "graph/operators/binary.hpp"

#include <algorithm>
#include <cstring>

#include "graph/operators/chunk.hpp"

namespace moptcore::inline v0::graph {
namespace {

const std::byte* at(const void* data, std::int64_t element, std::int64_t width) {
  return static_cast<const std::byte*>(data) + element * width;
}

std::byte* at(void* data, std::int64_t element, std::int64_t width) {
  return static_cast<std::byte*>(data) + element * width;
}

void divide(ElementType type, void* data, std::int64_t count, std::int64_t divisor) {
  if (type == ElementType::float64) {
    auto* values = static_cast<double*>(data);
    for (std::int64_t i = 0; i < count; ++i) values[i] /= static_cast<double>(divisor);
  } else {
    auto* values = static_cast<float*>(data);
    for (std::int64_t i = 0; i < count; ++i) values[i] /= static_cast<float>(divisor);
  }
}

}  // namespace

std::pair<const Tensor&, const Tensor&> matching_inputs(const Call& call) {
  const Tensor& a = call.input(0);
  const Tensor& b = call.input(1);
  call.require<DTypeError>(a.type() == b.type(),
                           "input 1 must have the type of input 0, " + std::string(name(a.type())),
                           name(b.type()));
  return {a, b};
}

Tensor& run_binary(Call& call, const Tensor& a, const Tensor& b, ElementType out_type,
                   BinaryLoop loop, const void* context) {
  const Broadcast broadcast(call, {&a.shape(), &b.shape()});
  Tensor& out = call.output(0, out_type, broadcast.shape());
  const bool a_moves = broadcast.moves(0);
  const bool b_moves = broadcast.moves(1);
  const std::int64_t out_width = bit_width(out_type) / 8;
  void* const to = out.mutable_raw();
  if (is_half(a.type())) {
    broadcast.parallel_runs([&](std::int64_t first, std::int64_t count,
                                const std::int64_t* offsets) {
      float left[kChunk];
      float right[kChunk];
      float result[kChunk];
      for (std::int64_t done = 0; done < count; done += kChunk) {
        const std::int64_t n = std::min(kChunk, count - done);
        load_halves(a.type(), a.raw(), offsets[0] + (a_moves ? done : 0), a_moves ? n : 1, left);
        load_halves(b.type(), b.raw(), offsets[1] + (b_moves ? done : 0), b_moves ? n : 1, right);
        if (is_half(out_type)) {
          loop(left, a_moves, right, b_moves, result, n, context);
          store_halves(out_type, result, first + done, n, to);
        } else {
          loop(left, a_moves, right, b_moves, at(to, first + done, out_width), n, context);
        }
      }
    });
    return out;
  }
  const std::int64_t width = bit_width(a.type()) / 8;
  broadcast.parallel_runs([&](std::int64_t first, std::int64_t count, const std::int64_t* offsets) {
    loop(at(a.raw(), offsets[0], width), a_moves, at(b.raw(), offsets[1], width), b_moves,
         at(to, first, out_width), count, context);
  });
  return out;
}

void run_variadic(Call& call, BinaryLoop loop, std::int64_t divisor) {
  const int operands = call.input_count();
  call.require<FormatError>(operands >= 1, "inputs must be at least one", operands);
  const ElementType type = call.input(0).type();
  std::vector<const Shape*> shapes;
  std::vector<const Tensor*> inputs;
  for (int i = 0; i < operands; ++i) {
    inputs.push_back(&call.input(i, type));
    shapes.push_back(&inputs.back()->shape());
  }
  const Broadcast broadcast(call, shapes);
  Tensor& out = call.output(0, type, broadcast.shape());
  const ElementType arithmetic = arithmetic_type(type);
  const std::int64_t width = bit_width(type) / 8;
  const bool half = is_half(type);
  broadcast.parallel_runs([&](std::int64_t first, std::int64_t count, const std::int64_t* offsets) {
    float sums[kChunk];
    float loaded[kChunk];
    for (std::int64_t done = 0; done < count; done += kChunk) {
      const std::int64_t n = std::min(kChunk, count - done);
      void* const to = half ? static_cast<void*>(sums) : at(out.mutable_raw(), first + done, width);
      for (int i = 0; i < operands; ++i) {
        const bool moves = broadcast.moves(i);
        const std::int64_t offset = offsets[i] + (moves ? done : 0);
        const void* from = loaded;
        if (half) load_halves(type, inputs[i]->raw(), offset, moves ? n : 1, loaded);
        else from = at(inputs[i]->raw(), offset, width);
        if (i > 0) {
          loop(to, true, from, moves, to, n, nullptr);
        } else if (moves) {
          std::memcpy(to, from, n * (half ? sizeof(float) : width));
        } else {
          const std::int64_t step = half ? sizeof(float) : width;
          for (std::int64_t j = 0; j < n; ++j) std::memcpy(at(to, j, step), from, step);
        }
      }
      if (divisor != 1) divide(arithmetic, to, n, divisor);
      if (half) store_halves(type, sums, first + done, n, out.mutable_raw());
    }
  });
}

}  // namespace moptcore::inline v0::graph

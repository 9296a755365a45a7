// SPDX-License-Identifier: Apache-2.0
// Operators that are matrix products, and Det.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include <moptcore/graph/operator.hpp>
#include "graph/operators/broadcast.hpp"
#include "graph/operators/cast.hpp"
#include "graph/operators/chunk.hpp"
#include "graph/operators/gemm.hpp"
#include "graph/operators/types.hpp"

namespace moptcore::inline v0::graph {
namespace {

// What MatMul takes, as the unsigned integer or float in which it computes.
template <class F>
void visit_products(const Call& call, ElementType type, F&& f) {
  switch (type) {
    case ElementType::float32: return f.template operator()<float>();
    case ElementType::float64: return f.template operator()<double>();
    case ElementType::int32:
    case ElementType::uint32: return f.template operator()<std::uint32_t>();
    case ElementType::int64:
    case ElementType::uint64: return f.template operator()<std::uint64_t>();
    default: refuse_type(call, "elements must be floats or integers of 32 or 64 bits", type);
  }
}

// Batches of matrices, as NumPy's matmul sees two shapes.
struct Batches {
  std::int64_t m = 1;
  std::int64_t n = 1;
  std::int64_t depth = 1;
  Shape output;
  std::int64_t count = 1;
  std::vector<std::int64_t> a_offsets;
  std::vector<std::int64_t> b_offsets;
};

Batches batches_of(const Call& call, const Shape& a, const Shape& b) {
  call.require(a.rank() >= 1 && b.rank() >= 1, "inputs must have at least one dimension, shape",
               a.rank() == 0 ? a : b);
  Batches batches;
  const bool row = a.rank() == 1;
  const bool column = b.rank() == 1;
  batches.m = row ? 1 : a[a.rank() - 2];
  batches.depth = a.back();
  batches.n = column ? 1 : b.back();
  const std::int64_t met = column ? b[0] : b[b.rank() - 2];
  call.require(met == batches.depth,
               "the rows of input 1 must be as many as the columns of input 0, " +
                   std::to_string(batches.depth),
               met);
  const Shape a_batch(std::span(a.begin(), row ? 0 : a.size() - 2));
  const Shape b_batch(std::span(b.begin(), column ? 0 : b.size() - 2));
  const Shape* const shapes[] = {&a_batch, &b_batch};
  batches.output = broadcast_shape(call, shapes);
  if (!row) batches.output.push_back(batches.m);
  if (!column) batches.output.push_back(batches.n);
  if (element_count(batches.output) == 0 || batches.depth == 0) {
    batches.count = 0;
    return batches;
  }
  if (element_count(b_batch) == 1) {  // one b for all rows of a
    batches.m *= element_count(a_batch);
    batches.a_offsets = batches.b_offsets = {0};
    return batches;
  }
  const Broadcast broadcast(call, shapes);
  batches.count = broadcast.size();
  broadcast.for_each_run(
      0, batches.count, [&](std::int64_t, std::int64_t count, const std::int64_t* offsets) {
        for (std::int64_t i = 0; i < count; ++i) {
          batches.a_offsets.push_back((offsets[0] + (broadcast.moves(0) ? i : 0)) * batches.m *
                                      batches.depth);
          batches.b_offsets.push_back((offsets[1] + (broadcast.moves(1) ? i : 0)) * batches.depth *
                                      batches.n);
        }
      });
  return batches;
}

// `result` becomes the product; all three have the same type.
void multiply(const Call& call, const Batches& batches, const Tensor& a, const Tensor& b,
              Tensor& result) {
  visit_products(call, a.type(), [&]<class T>() {
    T* const to = static_cast<T*>(result.mutable_raw());
    std::fill_n(to, result.size(), T(0));
    if (batches.count == 0) return;
    batched_gemm<T>(batches.count, batches.m, batches.n, batches.depth,
                    {static_cast<const T*>(a.raw()), batches.depth, 1}, batches.a_offsets.data(),
                    {static_cast<const T*>(b.raw()), batches.n, 1}, batches.b_offsets.data(),
                    {to, batches.n, 1}, batches.m * batches.n);
  });
}

void matmul(Call& call) {
  const Tensor& a = call.input(0);
  const Tensor& b = call.input(1, a.type());
  const Batches batches = batches_of(call, a.shape(), b.shape());
  const ElementType wide = arithmetic_type(a.type());
  visit_products(call, wide, []<class T>() {});
  if (wide == a.type()) {
    multiply(call, batches, a, b, call.output(0, wide, batches.output));
    return;
  }
  Tensor result = call.environment().allocate(wide, batches.output);
  multiply(call, batches, cast_tensor(call, a, wide), cast_tensor(call, b, wide), result);
  call.set(0, cast_tensor(call, result, a.type()));
}

// Elements of 8 bits less their zero points.
Tensor centered(const Call& call, int index, int point_index, bool by_row) {
  const Tensor& given = call.input(index);
  call.require<DTypeError>(given.type() == ElementType::int8 || given.type() == ElementType::uint8,
                           "inputs must be int8 or uint8", name(given.type()));
  Tensor wide = call.environment().allocate(ElementType::int16, given.shape());
  auto* const to = wide.mutable_data<std::int16_t>();
  const auto run = [&]<class T>() {
    const T* const from = given.data<T>();
    const Tensor point =
        call.has(point_index) ? call.input(point_index, given.type()) : Tensor::scalar<T>(T(0));
    Shape shape = point.shape();
    // One value for each row of a is a column.
    if (by_row && shape.rank() == 1 && shape[0] != 1) shape.push_back(1);
    const Broadcast broadcast(call, {&wide.shape(), &shape});
    call.require(broadcast.shape() == wide.shape(),
                 "zero points must broadcast to their input, shape", point.shape());
    const T* const points = point.data<T>();
    const bool moves = broadcast.moves(1);
    broadcast.parallel_runs(
        [&](std::int64_t first, std::int64_t count, const std::int64_t* offsets) {
          const T* const zeros = points + offsets[1];
          std::int16_t* const run_to = to + first;
          const T* const run_from = from + first;
          if (moves) {
            for (std::int64_t i = 0; i < count; ++i) {
              run_to[i] = static_cast<std::int16_t>(run_from[i] - zeros[i]);
            }
          } else {
            const T zero = *zeros;
            for (std::int64_t i = 0; i < count; ++i) {
              run_to[i] = static_cast<std::int16_t>(run_from[i] - zero);
            }
          }
        });
  };
  if (given.type() == ElementType::int8) run.template operator()<std::int8_t>();
  else run.template operator()<std::uint8_t>();
  return wide;
}

void matmul_integer(Call& call) {
  const Tensor a = centered(call, 0, 2, true);
  const Tensor b = centered(call, 1, 3, false);
  const Batches batches = batches_of(call, a.shape(), b.shape());
  Tensor& sums = call.output(0, ElementType::int32, batches.output);
  auto* const to = sums.mutable_data<std::int32_t>();
  std::fill_n(to, sums.size(), 0);
  if (batches.count == 0) return;
  batched_gemm<std::int16_t, std::int32_t>(
      batches.count, batches.m, batches.n, batches.depth,
      {a.data<std::int16_t>(), batches.depth, 1}, batches.a_offsets.data(),
      {b.data<std::int16_t>(), batches.n, 1}, batches.b_offsets.data(), {to, batches.n, 1},
      batches.m * batches.n);
}

// A factor of 1 keeps integers exact.
template <class T>
T scaled(float factor, T value) {
  if constexpr (std::is_floating_point_v<T>) return static_cast<T>(factor) * value;
  else {
    using Signed = std::make_signed_t<T>;
    if (factor == 1) return value;
    const double product =
        static_cast<double>(factor) * static_cast<double>(static_cast<Signed>(value));
    if (!(product > -0x1p62 && product < 0x1p62)) return 0;
    return static_cast<T>(static_cast<std::int64_t>(product));
  }
}

void gemm_operator(Call& call) {
  const Tensor& given_a = call.input(0);
  const ElementType type = given_a.type();
  const Tensor& given_b = call.input(1, type);
  for (const Tensor* matrix : {&given_a, &given_b}) {
    call.require(matrix->rank() == 2, "inputs 0 and 1 must be matrices, shape", matrix->shape());
  }
  const float alpha = call.attribute("alpha", 1.0f);
  const float beta = call.attribute("beta", 1.0f);
  const bool flip_a = call.attribute<std::int64_t>("transA", 0) != 0;
  const bool flip_b = call.attribute<std::int64_t>("transB", 0) != 0;
  const std::int64_t m = given_a.shape()[flip_a ? 1 : 0];
  const std::int64_t depth = given_a.shape()[flip_a ? 0 : 1];
  const std::int64_t n = given_b.shape()[flip_b ? 0 : 1];
  const std::int64_t met = given_b.shape()[flip_b ? 1 : 0];
  call.require(met == depth, "the matrices must meet in an extent, " + std::to_string(depth), met);
  const ElementType wide = arithmetic_type(type);
  visit_products(call, wide, []<class T>() {});
  const Tensor a = cast_tensor(call, given_a, wide);
  const Tensor b = cast_tensor(call, given_b, wide);
  const Shape shape{m, n};
  Tensor bias;
  const bool biased = call.has(2);
  if (biased) {
    bias = cast_tensor(call, call.input(2, type), wide);
    const Shape* const shapes[] = {&shape, &bias.shape()};
    call.require(broadcast_shape(call, shapes) == shape,
                 "input 2 must broadcast to the shape of the product, shape", bias.shape());
  }
  Tensor result = call.environment().allocate(wide, shape);
  visit_products(call, wide, [&]<class T>() {
    T* const to = static_cast<T*>(result.mutable_raw());
    std::fill_n(to, result.size(), T(0));
    gemm(m, n, depth,
         Matrix<const T>{static_cast<const T*>(a.raw()), flip_a ? 1 : depth, flip_a ? m : 1},
         Matrix<const T>{static_cast<const T*>(b.raw()), flip_b ? 1 : n, flip_b ? depth : 1},
         Matrix<T>{to, n, 1});
    if (alpha != 1) {
      for (std::int64_t i = 0; i < result.size(); ++i) to[i] = scaled(alpha, to[i]);
    }
    if (!biased) return;
    const Broadcast broadcast(call, {&shape, &bias.shape()});
    const T* const from = static_cast<const T*>(bias.raw());
    const std::int64_t step = broadcast.moves(1) ? 1 : 0;
    broadcast.parallel_runs(
        [&](std::int64_t first, std::int64_t count, const std::int64_t* offsets) {
          const T* const row = from + offsets[1];
          for (std::int64_t i = 0; i < count; ++i) to[first + i] += scaled(beta, row[i * step]);
        });
  });
  call.set(0, cast_tensor(call, result, type));
}

// Of an n x n matrix that it overwrites: elimination with the greatest pivot of each column.
double determinant(double* matrix, std::int64_t n) {
  double product = 1;
  for (std::int64_t k = 0; k < n; ++k) {
    std::int64_t pivot = k;
    for (std::int64_t i = k + 1; i < n; ++i) {
      if (std::abs(matrix[i * n + k]) > std::abs(matrix[pivot * n + k])) pivot = i;
    }
    if (matrix[pivot * n + k] == 0) return 0;
    if (pivot != k) {
      std::swap_ranges(matrix + k * n, matrix + (k + 1) * n, matrix + pivot * n);
      product = -product;
    }
    product *= matrix[k * n + k];
    for (std::int64_t i = k + 1; i < n; ++i) {
      const double factor = matrix[i * n + k] / matrix[k * n + k];
      for (std::int64_t j = k + 1; j < n; ++j) matrix[i * n + j] -= factor * matrix[k * n + j];
    }
  }
  return product;
}

void det(Call& call) {
  const Tensor& x = call.input(0);
  const int rank = x.rank();
  visit_floats(call, x.type(), []<class T>() {});
  call.require(rank >= 2 && x.shape()[rank - 1] == x.shape()[rank - 2],
               "the input must hold square matrices, shape", x.shape());
  const std::int64_t n = x.shape()[rank - 1];
  Shape shape;
  for (int axis = 0; axis < rank - 2; ++axis) shape.push_back(x.shape()[axis]);
  Tensor matrices = cast_tensor(call, x, ElementType::float64);
  if (x.type() == ElementType::float64) matrices = matrices.clone();
  Tensor result = call.environment().allocate(ElementType::float64, shape);
  double* const values = matrices.mutable_data<double>();
  double* const to = result.mutable_data<double>();
  parallel_for(result.size(), 1,
               [&](std::int64_t i, std::int64_t) { to[i] = determinant(values + i * n * n, n); });
  call.set(0, cast_tensor(call, result, x.type()));
}

constexpr Operator kOperators[] = {
    {"", "MatMul", 1, matmul},
    {"", "MatMulInteger", 10, matmul_integer},
    {"", "Gemm", 7, gemm_operator},
    {"", "Det", 11, det},
};

}  // namespace

std::span<const Operator> matmul_operators() noexcept { return kOperators; }

}  // namespace moptcore::inline v0::graph

// SPDX-License-Identifier: Apache-2.0
// Operators that make a tensor of a few numbers: Range and the windows of signal processing.
#include <cmath>
#include <cstdint>
#include <numbers>

#include <moptcore/graph/operator.hpp>
#include "graph/operators/cast.hpp"
#include "graph/operators/chunk.hpp"
#include "graph/operators/types.hpp"

namespace moptcore::inline v0::graph {
namespace {

const Tensor& scalar(const Call& call, int index, ElementType type) {
  const Tensor& given = call.input(index, type);
  call.require(given.size() == 1, "inputs must have one element, shape", given.shape());
  return given;
}

void integer_range(Call& call, ElementType type) {
  std::int64_t numbers[3];
  for (int i = 0; i < 3; ++i) {
    numbers[i] = *cast_tensor(call, scalar(call, i, type), ElementType::int64).data<std::int64_t>();
  }
  const auto [start, limit, delta] = numbers;
  call.require(delta != 0, "delta must not be 0", delta);
  const auto from = static_cast<std::uint64_t>(delta > 0 ? start : limit);
  const auto to = static_cast<std::uint64_t>(delta > 0 ? limit : start);
  const bool empty = delta > 0 ? start >= limit : start <= limit;
  const auto step = static_cast<std::uint64_t>(delta);
  const std::uint64_t stride = delta > 0 ? step : 0 - step;
  const std::uint64_t count = empty ? 0 : (to - from - 1) / stride + 1;
  call.require(count < std::uint64_t{1} << 60, "the range must not be that long", count);
  Tensor result =
      call.environment().allocate(ElementType::int64, Shape{static_cast<std::int64_t>(count)});
  auto* const values = result.mutable_data<std::int64_t>();
  for (std::uint64_t i = 0; i < count; ++i) {
    values[i] = static_cast<std::int64_t>(static_cast<std::uint64_t>(start) + i * step);
  }
  call.set(0, cast_tensor(call, result, type));
}

void range(Call& call) {
  const ElementType type = call.input(0).type();
  switch (type) {
    case ElementType::int16:
    case ElementType::int32:
    case ElementType::int64: return integer_range(call, type);
    default: visit_floats(call, type, []<class T>() {});
  }
  if (is_half(type)) {
    const auto stash = call.attribute<std::int64_t>("stash_type", 1);
    call.require<UnsupportedError>(stash == 1, "stash_type must be 1", stash);
  }
  double numbers[3];
  for (int i = 0; i < 3; ++i) {
    numbers[i] = *cast_tensor(call, scalar(call, i, type), ElementType::float64).data<double>();
  }
  const auto [start, limit, delta] = numbers;
  const double length = std::ceil((limit - start) / delta);
  call.require(length < 0x1p60, "the range must have a finite length", length);
  const std::int64_t count = length > 0 ? static_cast<std::int64_t>(length) : 0;
  Tensor result = call.environment().allocate(ElementType::float64, Shape{count});
  auto* const values = result.mutable_data<double>();
  for (std::int64_t i = 0; i < count; ++i) values[i] = start + static_cast<double>(i) * delta;
  call.set(0, cast_tensor(call, result, type));
}

// a0 + a1 cos(x) + a2 cos(2x) over one period.
void window(Call& call, double a0, double a1, double a2) {
  const std::int64_t size = call.integer(0);
  call.require(size >= 0, "size must be >= 0", size);
  const ElementType type = element_type_attribute(call, "output_datatype", ElementType::float32);
  const bool periodic = call.attribute<std::int64_t>("periodic", 1) != 0;
  const double period = static_cast<double>(periodic ? size : size - 1);
  Tensor result = call.environment().allocate(ElementType::float64, Shape{size});
  auto* const values = result.mutable_data<double>();
  for (std::int64_t i = 0; i < size; ++i) {
    const double x = 2 * std::numbers::pi * static_cast<double>(i) / period;
    // A symmetric window of one value is its middle.
    values[i] = period == 0 ? 1 : a0 + a1 * std::cos(x) + a2 * std::cos(2 * x);
  }
  call.set(0, cast_tensor(call, result, type));
}

void hann(Call& call) { window(call, 0.5, -0.5, 0); }

void hamming(Call& call) { window(call, 25.0 / 46, -21.0 / 46, 0); }

void blackman(Call& call) { window(call, 0.42, -0.5, 0.08); }

constexpr Operator kOperators[] = {
    {"", "Range", 11, range},
    {"", "HannWindow", 17, hann},
    {"", "HammingWindow", 17, hamming},
    {"", "BlackmanWindow", 17, blackman},
};

}  // namespace

std::span<const Operator> generate_operators() noexcept { return kOperators; }

}  // namespace moptcore::inline v0::graph

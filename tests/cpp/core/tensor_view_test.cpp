// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/core/tensor_view.hpp>

#include <array>
#include <numeric>
#include <span>
#include <vector>

#include "kernels/strided.hpp"

using namespace moptcore;

namespace {

std::vector<float> counted(std::size_t n) {
  std::vector<float> values(n);
  std::iota(values.begin(), values.end(), 0.0f);
  return values;
}

// Every element in row-major order, by the definition of strides.
std::vector<float> elements(const AnyView& view) {
  const auto* data = static_cast<const float*>(view.data());
  std::vector<float> result;
  for (std::int64_t i = 0; i < view.size(); ++i) {
    std::int64_t rest = i;
    std::int64_t offset = 0;
    for (int axis = view.rank() - 1; axis >= 0; --axis) {
      offset += rest % view.shape()[axis] * view.strides()[axis];
      rest /= view.shape()[axis];
    }
    result.push_back(data[offset]);
  }
  return result;
}

std::int64_t size_of(const AnyView& view) { return view.size(); }
DType dtype_of_view(const AnyView& view) { return view.dtype(); }

}  // namespace

TEST_CASE("vectors, spans and arrays convert to views", "[core]") {
  std::vector<float> vector = counted(6);
  const std::vector<double> constant(4);
  std::array<std::int8_t, 5> array{};
  CHECK(size_of(vector) == 6);
  CHECK(size_of(std::span<const float>(vector).subspan(2)) == 4);
  CHECK(size_of(std::vector<float>(3)) == 3);
  CHECK(size_of(array) == 5);
  CHECK(dtype_of_view(constant) == DType::float64);
  CHECK(dtype_of_view(array) == DType::int8);
  CHECK(dtype_of_view(std::vector<bfloat16>(2)) == DType::bfloat16);
  const TensorView<const float> typed(vector);
  const MutableAnyView writable(vector);
  CHECK(typed.data() == vector.data());
  CHECK(writable.data() == vector.data());
  CHECK(AnyView(writable).data() == vector.data());
  CHECK(AnyView(TensorView<float>(vector)).dtype() == DType::float32);
  CHECK(size_of(AnyView()) == 0);
}

TEST_CASE("what is const or of another type does not become a writable view", "[core]") {
  STATIC_REQUIRE(std::is_convertible_v<std::vector<float>&, MutableAnyView>);
  STATIC_REQUIRE(!std::is_convertible_v<const std::vector<float>&, MutableAnyView>);
  STATIC_REQUIRE(!std::is_convertible_v<std::span<const float>, MutableAnyView>);
  STATIC_REQUIRE(!std::is_convertible_v<AnyView, MutableAnyView>);
  STATIC_REQUIRE(!std::is_convertible_v<std::vector<float>&, TensorView<const double>>);
  STATIC_REQUIRE(!std::is_convertible_v<std::vector<bool>&, AnyView>);
  STATIC_REQUIRE(!std::is_convertible_v<std::vector<std::vector<float>>&, AnyView>);
  const std::vector<double> values(2);
  CHECK_THROWS_AS(AnyView(values).as<float>(), DTypeError);
  CHECK(AnyView(values).as<double>().data() == values.data());
}

TEST_CASE("a layout knows whether it is row-major without gaps", "[core]") {
  CHECK(Layout(Shape{2, 3}).is_contiguous());
  CHECK(Layout(Shape{2, 3}, Shape{3, 1}).is_contiguous());
  CHECK_FALSE(Layout(Shape{2, 3}, Shape{1, 2}).is_contiguous());
  CHECK_FALSE(Layout(Shape{2, 3}, Shape{4, 1}).is_contiguous());
  CHECK_FALSE(Layout(Shape{2, 3}, Shape{0, 1}).is_contiguous());
  CHECK_FALSE(Layout(Shape{3}, Shape{-1}).is_contiguous());
  CHECK(Layout(Shape{2, 1, 3}, Shape{3, 0, 1}).is_contiguous());
  CHECK(Layout(Shape{2, 1, 3}, Shape{3, -77, 1}).is_contiguous());
  CHECK(Layout(Shape{0, 5}, Shape{9, 9}).is_contiguous());
  CHECK(Layout(Shape{}, Shape{}).is_contiguous());
  CHECK_THROWS_AS(Layout(Shape{2, 3}, Shape{1}), Error);
}

TEST_CASE("loading and storing follow any strides", "[core]") {
  const auto strides = GENERATE(values<Shape>(
      {{12, 4, 1}, {1, 2, 6}, {-12, 4, 1}, {12, -4, -1}, {0, 4, 1}, {0, 0, 0}, {24, 8, 2}}));
  const std::vector<float> memory = counted(64);
  const Shape shape{2, 3, 4};
  std::int64_t start = 0;  // so that negative strides stay inside
  for (int axis = 0; axis < 3; ++axis) {
    start += std::max<std::int64_t>(0, -(shape[axis] - 1) * strides[axis]);
  }
  const AnyView view(memory.data() + start, DType::float32, shape, strides);
  const std::vector<float> expected = elements(view);
  CAPTURE(strides);
  for (std::int64_t first : {0, 1, 5, 23}) {
    for (std::int64_t n = 0; first + n <= 24; n += 3) {
      std::vector<float> got(static_cast<std::size_t>(n));
      kernels::load(view, first, n, got.data());
      CHECK(got == std::vector<float>(expected.begin() + first, expected.begin() + first + n));
      std::vector<float> raw(static_cast<std::size_t>(n));
      kernels::gather(view, first, n, raw.data());
      CHECK(raw == got);
    }
  }
  if (strides[0] == 0) return;  // results that overlap have no answer
  std::vector<float> target(64, -1.0f);
  const MutableAnyView out(target.data() + start, DType::float32, shape, strides);
  const std::vector<float> values = counted(24);
  kernels::store(values.data(), 0, 10, out);
  kernels::scatter(values.data() + 10, 10, 14, out);
  CHECK(elements(out) == values);
  CHECK(std::count(target.begin(), target.end(), -1.0f) == 40);
}

TEST_CASE("loading converts every dtype and storing rounds to it", "[core]") {
  const std::vector<std::int8_t> bytes = {-128, 0, 127};
  std::vector<float> floats(3);
  kernels::load(bytes, 0, 3, floats.data());
  CHECK(floats == std::vector<float>{-128, 0, 127});
  std::vector<bfloat16> halves(3);
  const std::vector<double> values = {1.0 + 0x1p-8, 1.0 + 0x1.8p-7, -3e38};
  kernels::store(values.data(), 0, 3, halves);
  CHECK(static_cast<float>(halves[0]) == 1.0f);
  CHECK(static_cast<float>(halves[1]) == 1.0f + 0x1p-6f);
  std::vector<double> back(3);
  kernels::load(halves, 0, 3, back.data());
  CHECK(back[1] == 1.0 + 0x1p-6);
}

TEST_CASE("packed tensors must be contiguous", "[core]") {
  const std::vector<std::uint8_t> memory(6);
  CHECK_NOTHROW(AnyView(memory.data(), DType::int4, Shape{3, 4}));
  CHECK_THROWS_AS(AnyView(memory.data(), DType::int4, Shape{3, 2}, Shape{4, 1}), DTypeError);
}

TEST_CASE("overlap is refused unless the tensors are the same", "[core]") {
  std::vector<float> memory(20);
  const auto view = [&](std::int64_t offset, const Shape& shape, const Shape& strides) {
    return TensorView<float>(memory.data() + offset, shape, strides);
  };
  const auto check_pair = [](const AnyView& in, const AnyView& out) {
    check_no_partial_overlap(in, out, "test", "out");
  };
  CHECK_NOTHROW(check_pair(view(0, {5}, {1}), view(5, {5}, {1})));
  CHECK_NOTHROW(check_pair(view(0, {2, 3}, {3, 1}), view(0, {2, 3}, {3, 1})));
  CHECK_THROWS_WITH(check_pair(view(0, {5}, {1}), view(4, {5}, {1})),
                    "[test] out must not overlap an input unless it is the same array");
  CHECK_THROWS_AS(check_pair(view(0, {2, 3}, {3, 1}), view(0, {3, 2}, {1, 3})), Error);
  CHECK_THROWS_AS(check_pair(view(4, {5}, {-1}), view(0, {5}, {1})), Error);
  CHECK_NOTHROW(check_pair(view(4, {5}, {-1}), view(5, {5}, {1})));
  CHECK_NOTHROW(check_pair(view(0, {0}, {1}), view(0, {5}, {1})));
}

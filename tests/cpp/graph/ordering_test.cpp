// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "graph/one_node.hpp"

using namespace one_node;

namespace {

using Integers = std::vector<std::int64_t>;
using Floats = std::vector<float>;

const float kNan = std::numeric_limits<float>::quiet_NaN();

Op top(std::int64_t largest, std::int64_t axis = -1) {
  return {"TopK", 11, {{"largest", largest}, {"axis", axis}}, 2};
}

}  // namespace

TEST_CASE("TopK agrees with a sort of every lane", "[graph][ordering]") {
  std::mt19937 random(9);
  for (int trial = 0; trial < 200; ++trial) {
    const int rank = static_cast<int>(between(random, 1, 3));
    const int axis = static_cast<int>(between(random, 0, rank - 1));
    const Shape shape = random_shape(random, rank);
    Tensor x(ElementType::float32, shape);
    for (std::int64_t i = 0; i < x.size(); ++i) {
      x.mutable_data<float>()[i] = static_cast<float>(between(random, -2, 2));
    }
    const std::int64_t k = between(random, 0, shape[axis]);
    const bool largest = random() % 2 == 0;
    const auto results = run(top(largest, axis), {x, list({k})});
    const Tensor& values = results[0].tensor();
    Shape extents = shape;
    extents[axis] = k;
    REQUIRE(values.shape() == extents);
    for_each_index(extents, [&](const Integers& index) {
      std::vector<std::pair<float, std::int64_t>> lane;
      Integers from = index;
      for (from[axis] = 0; from[axis] < shape[axis]; ++from[axis]) {
        const float value = x.values<float>()[at(shape, from)];
        lane.emplace_back(largest ? -value : value, from[axis]);
      }
      std::sort(lane.begin(), lane.end());
      const auto [value, place] = lane[static_cast<std::size_t>(index[axis])];
      REQUIRE(values.values<float>()[at(extents, index)] == (largest ? -value : value));
      REQUIRE(longs_of(results[1].tensor())[at(extents, index)] == place);
    });
  }
}

TEST_CASE("TopK ranks NaN above every number, and equal ones by place", "[graph][ordering]") {
  const Tensor x = floats(Shape{4}, {1, kNan, 3, kNan});
  CHECK(longs_of(run(top(1), {x, list({3})})[1].tensor()) == Integers{1, 3, 2});
  CHECK(longs_of(run(top(0), {x, list({3})})[1].tensor()) == Integers{0, 2, 1});
  const Op old{"TopK", 1, {{"k", std::int64_t{1}}}, 2};
  CHECK(floats_of(run(old, {floats(Shape{3}, {1, 5, 5})})[0].tensor()) == Floats{5});
  const Tensor large = Tensor::of<std::uint64_t>(Shape{2}, {1, ~std::uint64_t{0}});
  CHECK(longs_of(run(top(1), {large, list({1})})[1].tensor()) == Integers{1});
}

TEST_CASE("TopK refuses more than there is", "[graph][ordering]") {
  CHECK_THROWS_WITH(run(top(1), {iota(Shape{3}), list({4})}),
                    "[graph.TopK] k must be in [0, 3], got 4");
  CHECK_THROWS_AS(run(top(1), {iota(Shape{3}), list({-1})}), Error);
  CHECK_THROWS_AS(run(top(1), {iota(Shape{}), list({1})}), Error);
  CHECK_THROWS_AS(run(top(1), {Tensor::of_strings(Shape{1}, {"a"}), list({1})}), DTypeError);
}

TEST_CASE("Unique tells first places, where each went and how many there are",
          "[graph][ordering]") {
  const auto check = [](const std::vector<Value>& got, const Integers& first,
                        const Integers& inverse, const Integers& counts) {
    CHECK(longs_of(got[1].tensor()) == first);
    CHECK(longs_of(got[2].tensor()) == inverse);
    CHECK(longs_of(got[3].tensor()) == counts);
  };
  const Tensor x = floats(Shape{6}, {2, 1, 1, 3, 4, 3});
  const auto unsorted = run({"Unique", 11, {{"sorted", std::int64_t{0}}}, 4}, {x});
  CHECK(floats_of(unsorted[0].tensor()) == Floats{2, 1, 3, 4});
  check(unsorted, {0, 1, 3, 4}, {0, 1, 1, 2, 3, 2}, {1, 2, 2, 1});
  const auto sorted = run({"Unique", 11, {}, 4}, {x});
  CHECK(floats_of(sorted[0].tensor()) == Floats{1, 2, 3, 4});
  check(sorted, {1, 0, 3, 4}, {1, 0, 0, 2, 3, 2}, {2, 1, 2, 1});

  const Tensor y = floats(Shape{2, 4, 2}, {1, 1, 0, 1, 2, 1, 0, 1, 1, 1, 0, 1, 2, 1, 0, 1});
  const auto slices = run({"Unique", 11, {{"axis", std::int64_t{1}}}, 4}, {y});
  CHECK(floats_of(slices[0].tensor()) == Floats{0, 1, 1, 1, 2, 1, 0, 1, 1, 1, 2, 1});
  check(slices, {1, 0, 2}, {1, 0, 2, 0}, {2, 1, 1});

  const auto text = run({"Unique", 11, {}, 1}, {Tensor::of_strings(Shape{3}, {"b", "a", "b"})});
  CHECK(strings_of(text[0].tensor()) == std::vector<std::string>{"a", "b"});
  const auto nans = run({"Unique", 11, {}, 1}, {floats(Shape{3}, {kNan, 1, kNan})});
  CHECK(nans[0].tensor().size() == 2);
  CHECK(run({"Unique", 11, {}, 1}, {iota(Shape{0})})[0].tensor().shape() == Shape{0});
}

TEST_CASE("NonMaxSuppression keeps boxes that no better one covers", "[graph][ordering]") {
  const Tensor boxes = floats(Shape{1, 3, 4}, {0, 0, 1, 1, 0, 0.1f, 1, 1.1f, 0, 10, 1, 11});
  const Tensor scores = floats(Shape{1, 1, 3}, {0.9f, 0.75f, 0.6f});
  const Op op{"NonMaxSuppression", 11};
  const auto run_with = [&](std::int64_t most, float overlap, float least) {
    return longs_of(first(
        op, {boxes, scores, list({most}), floats(Shape{1}, {overlap}), floats(Shape{1}, {least})}));
  };
  CHECK(run_with(3, 0.5f, 0.0f) == Integers{0, 0, 0, 0, 0, 2});
  CHECK(run_with(1, 0.5f, 0.0f) == Integers{0, 0, 0});
  CHECK(run_with(3, 0.9f, 0.7f) == Integers{0, 0, 0, 0, 0, 1});
  CHECK(first(op, {boxes, scores}).shape() == Shape{0, 3});
  CHECK_THROWS_WITH(run_with(3, 1.5f, 0.0f),
                    "[graph.NonMaxSuppression] iou_threshold must be in [0, 1], got 1.5");
  CHECK_THROWS_AS(first(op, {boxes, floats(Shape{1, 1, 2}, {1, 2})}), Error);
  CHECK_THROWS_AS(first(op, {iota(Shape{3, 4}), scores}), Error);
}

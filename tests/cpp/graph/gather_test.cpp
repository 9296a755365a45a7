// SPDX-License-Identifier: Apache-2.0
// Operators with indices against oracles that compute every place by hand.
#include <cmath>

#include "graph/one_node.hpp"

using namespace one_node;

namespace {

using Integers = std::vector<std::int64_t>;
using Floats = std::vector<float>;

Tensor random_indices(std::mt19937& random, const Shape& shape, std::int64_t extent) {
  Tensor indices(ElementType::int64, shape);
  for (std::int64_t i = 0; i < indices.size(); ++i) {
    indices.mutable_data<std::int64_t>()[i] = between(random, -extent, extent - 1);
  }
  return indices;
}

std::int64_t from_front(std::int64_t index, std::int64_t extent) {
  return index < 0 ? index + extent : index;
}

}  // namespace

TEST_CASE("Gather agrees with places looked up one by one", "[graph][gather]") {
  std::mt19937 random(5);
  for (int trial = 0; trial < 300; ++trial) {
    const int rank = static_cast<int>(between(random, 1, 4));
    const int axis = static_cast<int>(between(random, 0, rank - 1));
    const Tensor x = iota(random_shape(random, rank));
    const std::int64_t extent = x.shape()[axis];
    Shape places = random_shape(random, static_cast<int>(between(random, 0, 3)));
    if (extent == 0) places = Shape{0};
    const Tensor indices = random_indices(random, places, extent);
    const Tensor y = first({"Gather", 13, {{"axis", std::int64_t{axis - rank}}}}, {x, indices});
    Shape shape;
    for (int i = 0; i < axis; ++i) shape.push_back(x.shape()[i]);
    for (const std::int64_t i : places) shape.push_back(i);
    for (int i = axis + 1; i < rank; ++i) shape.push_back(x.shape()[i]);
    REQUIRE(y.shape() == shape);
    for_each_index(shape, [&](const Integers& index) {
      const Integers place(index.begin() + axis, index.begin() + axis + places.rank());
      Integers from(index.begin(), index.begin() + axis);
      from.push_back(from_front(indices.values<std::int64_t>()[at(places, place)], extent));
      from.insert(from.end(), index.begin() + axis + places.rank(), index.end());
      REQUIRE(y.values<float>()[at(shape, index)] == static_cast<float>(at(x.shape(), from)));
    });
  }
}

TEST_CASE("GatherElements agrees with places looked up one by one", "[graph][gather]") {
  std::mt19937 random(6);
  for (int trial = 0; trial < 300; ++trial) {
    const int rank = static_cast<int>(between(random, 1, 4));
    const int axis = static_cast<int>(between(random, 0, rank - 1));
    const Tensor x = iota(random_shape(random, rank));
    Shape shape = x.shape();
    for (int i = 0; i < rank; ++i) shape[i] = between(random, shape[i] > 0, shape[i]);
    shape[axis] = x.shape()[axis] == 0 ? 0 : between(random, 0, 6);
    const Tensor indices = random_indices(random, shape, x.shape()[axis]);
    const Tensor y = first({"GatherElements", 13, {{"axis", std::int64_t{axis}}}}, {x, indices});
    REQUIRE(y.shape() == shape);
    for_each_index(shape, [&](const Integers& index) {
      Integers from = index;
      from[axis] = from_front(indices.values<std::int64_t>()[at(shape, index)], x.shape()[axis]);
      REQUIRE(y.values<float>()[at(shape, index)] == static_cast<float>(at(x.shape(), from)));
    });
  }
}

TEST_CASE("GatherND and ScatterND agree with places looked up one by one", "[graph][gather]") {
  std::mt19937 random(7);
  for (int trial = 0; trial < 300; ++trial) {
    const int rank = static_cast<int>(between(random, 1, 4));
    Shape extents = random_shape(random, rank);
    for (int i = 0; i < rank; ++i) extents[i] = std::max<std::int64_t>(extents[i], 1);
    const Tensor x = iota(extents);
    const int batch = static_cast<int>(between(random, 0, rank - 1));
    const int tuple = static_cast<int>(between(random, 0, rank - batch));
    Shape places;
    for (int i = 0; i < batch; ++i) places.push_back(extents[i]);
    for (const std::int64_t i : random_shape(random, static_cast<int>(between(random, 0, 2)))) {
      places.push_back(i);
    }
    Shape shape = places;
    for (int i = batch + tuple; i < rank; ++i) shape.push_back(extents[i]);
    Shape tuples = places;
    tuples.push_back(tuple);
    Tensor indices(ElementType::int64, tuples);
    for (std::int64_t i = 0; i < indices.size(); ++i) {
      const std::int64_t extent = extents[batch + static_cast<int>(i % tuple)];
      indices.mutable_data<std::int64_t>()[i] = between(random, -extent, extent - 1);
    }
    const auto place_of = [&](const Integers& index, int skipped) {
      const Integers place(index.begin(), index.begin() + places.rank());
      const std::int64_t row = at(places, place);
      Integers from(index.begin(), index.begin() + skipped);
      for (int i = 0; i < tuple; ++i) {
        const std::int64_t given = indices.values<std::int64_t>()[row * tuple + i];
        from.push_back(from_front(given, extents[batch + i]));
      }
      from.insert(from.end(), index.begin() + places.rank(), index.end());
      return from;
    };
    const Tensor y = first({"GatherND", 13, {{"batch_dims", std::int64_t{batch}}}}, {x, indices});
    REQUIRE(y.shape() == shape);
    for_each_index(shape, [&](const Integers& index) {
      REQUIRE(y.values<float>()[at(shape, index)] ==
              static_cast<float>(at(extents, place_of(index, batch))));
    });
    if (batch > 0) continue;
    // Scattered in the order of the indices, sums in the same order.
    Tensor updates = iota(shape);
    std::vector<float> expected = floats_of(x);
    std::vector<float> sums = expected;
    for_each_index(shape, [&](const Integers& index) {
      const std::int64_t to = at(extents, place_of(index, 0));
      expected[to] = static_cast<float>(at(shape, index));
      sums[to] += static_cast<float>(at(shape, index));
    });
    CHECK(floats_of(first({"ScatterND", 18}, {x, indices, updates})) == expected);
    const Op add{"ScatterND", 18, {{"reduction", std::string("add")}}};
    CHECK(floats_of(first(add, {x, indices, updates})) == sums);
  }
}

TEST_CASE("ScatterElements agrees with places looked up one by one", "[graph][gather]") {
  std::mt19937 random(8);
  for (int trial = 0; trial < 300; ++trial) {
    const int rank = static_cast<int>(between(random, 1, 4));
    const int axis = static_cast<int>(between(random, 0, rank - 1));
    const Tensor x = iota(random_shape(random, rank));
    Shape shape = x.shape();
    for (int i = 0; i < rank; ++i) shape[i] = between(random, shape[i] > 0, shape[i]);
    const Tensor indices = random_indices(random, shape, x.shape()[axis]);
    Tensor updates = iota(shape);
    for (std::int64_t i = 0; i < updates.size(); ++i) updates.mutable_data<float>()[i] *= 3.0f;
    for (const char* reduction : {"none", "add", "mul", "min", "max"}) {
      std::vector<float> expected = floats_of(x);
      for_each_index(shape, [&](const Integers& index) {
        Integers to = index;
        to[axis] = from_front(indices.values<std::int64_t>()[at(shape, index)], x.shape()[axis]);
        float& value = expected[at(x.shape(), to)];
        const float update = 3.0f * static_cast<float>(at(shape, index));
        switch (reduction[1]) {
          case 'o': value = update; break;
          case 'd': value += update; break;
          case 'u': value *= update; break;
          case 'i': value = std::min(value, update); break;
          default: value = std::max(value, update);
        }
      });
      const Op op{"ScatterElements",
                  18,
                  {{"axis", std::int64_t{axis}}, {"reduction", std::string(reduction)}}};
      CHECK(floats_of(first(op, {x, indices, updates})) == expected);
    }
  }
}

TEST_CASE("scattered reductions follow the arithmetic of each type", "[graph][gather]") {
  const auto reduce = [](const char* how, const Tensor& data, const Tensor& updates) {
    return first({"ScatterElements", 18, {{"reduction", std::string(how)}}},
                 {data, list({0}), updates});
  };
  const auto shorts = [](std::uint16_t x) { return Tensor::of<std::uint16_t>(Shape{1}, {x}); };
  CHECK(*reduce("mul", shorts(65535), shorts(65535)).data<std::uint16_t>() == 1);
  const auto bytes8 = [](std::int8_t x) { return Tensor::of<std::int8_t>(Shape{1}, {x}); };
  CHECK(*reduce("add", bytes8(127), bytes8(1)).data<std::int8_t>() == -128);
  CHECK(*reduce("min", bytes8(127), bytes8(-1)).data<std::int8_t>() == -1);
  const auto truth = [](bool x) { return Tensor::of<bool>(Shape{1}, {x}); };
  CHECK(*reduce("add", truth(false), truth(true)).data<bool>());
  CHECK_FALSE(*reduce("mul", truth(false), truth(true)).data<bool>());
  const Tensor nan = floats(Shape{1}, {std::numeric_limits<float>::quiet_NaN()});
  CHECK(std::isnan(*reduce("max", floats(Shape{1}, {1}), nan).data<float>()));
  CHECK(std::isnan(*reduce("min", nan, floats(Shape{1}, {1})).data<float>()));
  const Tensor text = Tensor::of_strings(Shape{1}, {"a"});
  CHECK(strings_of(reduce("none", text, Tensor::of_strings(Shape{1}, {"b"})))[0] == "b");
  CHECK_THROWS_AS(reduce("add", text, text), DTypeError);
  const Tensor complex = Tensor::of<std::complex<float>>(Shape{1}, {{0, 1}});
  CHECK(*reduce("mul", complex, complex).data<std::complex<float>>() == std::complex<float>(-1, 0));
  CHECK_THROWS_AS(reduce("max", complex, complex), DTypeError);
  CHECK_THROWS_WITH(reduce("mean", nan, nan),
                    "[graph.ScatterElements] reduction must be none, add, mul, min or max, "
                    "got mean");
}

TEST_CASE("indices out of range are named", "[graph][gather]") {
  const Tensor x = iota(Shape{2, 3});
  CHECK_THROWS_WITH(first({"Gather"}, {x, list({2})}),
                    "[graph.Gather] indices must be in [-2, 2), got 2");
  CHECK_THROWS_WITH(first({"GatherElements"}, {x, longs(Shape{1, 1}, {-3})}),
                    "[graph.GatherElements] indices must be in [-2, 2), got -3");
  CHECK_THROWS_WITH(first({"GatherND"}, {x, longs(Shape{1, 2}, {0, 3})}),
                    "[graph.GatherND] indices must be in [-3, 3), got 3");
  const Tensor one = floats(Shape{1, 1}, {1});
  CHECK_THROWS_WITH(first({"ScatterElements"}, {x, longs(Shape{1, 1}, {2}), one}),
                    "[graph.ScatterElements] indices must be in [-2, 2), got 2");
  CHECK_THROWS_WITH(first({"ScatterND"}, {x, longs(Shape{1, 2}, {0, -4}), floats(Shape{1}, {1})}),
                    "[graph.ScatterND] indices must be in [-3, 3), got -4");
  CHECK_THROWS_AS(first({"Gather"}, {iota(Shape{0}), list({0})}), Error);
  CHECK_THROWS_AS(first({"GatherND"}, {iota(Shape{0}), longs(Shape{1, 1}, {0})}), Error);
  CHECK_THROWS_AS(first({"Gather"}, {iota(Shape{}), list({0})}), Error);
  CHECK_THROWS_AS(first({"Gather"}, {x, floats(Shape{1}, {0})}), DTypeError);
}

TEST_CASE("shapes of indices and updates that do not fit are refused", "[graph][gather]") {
  const Tensor x = iota(Shape{2, 3});
  CHECK_THROWS_WITH(first({"GatherElements"}, {x, list({0})}),
                    "[graph.GatherElements] indices must have as many dimensions as data, shape, "
                    "got (1,)");
  CHECK_THROWS_WITH(first({"GatherElements"}, {x, longs(Shape{1, 4}, {0, 0, 0, 0})}),
                    "[graph.GatherElements] indices must not exceed data but along axis, shape, "
                    "got (1, 4)");
  CHECK_THROWS_AS(first({"GatherND"}, {x, longs(Shape{3}, {0, 0, 0})}), Error);
  CHECK_THROWS_AS(first({"GatherND"}, {x, longs(Shape{}, {0})}), Error);
  CHECK_THROWS_AS(
      first({"GatherND", 13, {{"batch_dims", std::int64_t{1} << 32}}}, {x, longs(Shape{1}, {0})}),
      Error);
  CHECK_THROWS_AS(first({"ScatterElements"}, {x, longs(Shape{1, 1}, {0}), iota(Shape{1})}), Error);
  CHECK_THROWS_AS(first({"ScatterND"}, {x, longs(Shape{1, 1}, {0}), iota(Shape{1})}), Error);
  CHECK_THROWS_AS(first({"ScatterND"}, {x, longs(Shape{1, 1}, {0}), list({1, 2, 3})}), DTypeError);
}

TEST_CASE("TensorScatter writes behind what a cache holds", "[graph][gather]") {
  const Tensor cache = floats(Shape{2, 3, 1}, {0, 1, 2, 3, 4, 5});
  const Tensor update = floats(Shape{2, 2, 1}, {10, 11, 12, 13});
  CHECK(floats_of(first({"TensorScatter", 24}, {cache, update, list({1, 0})})) ==
        Floats{0, 10, 11, 12, 13, 5});
  CHECK(floats_of(first({"TensorScatter", 24}, {cache, update})) == Floats{10, 11, 2, 12, 13, 5});
  const Op circular{"TensorScatter", 24, {{"mode", std::string("circular")}}};
  CHECK(floats_of(first(circular, {cache, update, list({2, 5})})) == Floats{11, 1, 10, 13, 4, 12});
  CHECK_THROWS_WITH(first({"TensorScatter", 24}, {cache, update, list({2, 0})}),
                    "[graph.TensorScatter] write_indices must leave room for the update, got 2");
  CHECK_THROWS_AS(first({"TensorScatter", 24}, {cache, update, list({-1, 0})}), Error);
  CHECK_THROWS_AS(first({"TensorScatter", 24}, {cache, update, list({0})}), Error);
  CHECK_THROWS_AS(first({"TensorScatter", 24, {{"axis", std::int64_t{0}}}}, {cache, update}),
                  Error);
}

TEST_CASE("Compress, NonZero and OneHot turn truths into places and back", "[graph][gather]") {
  const Tensor x = iota(Shape{3, 2});
  const Tensor condition = Tensor::of<bool>(Shape{3}, {false, true, true});
  CHECK(floats_of(first({"Compress", 11, {{"axis", std::int64_t{0}}}}, {x, condition})) ==
        Floats{2, 3, 4, 5});
  CHECK(floats_of(first({"Compress", 11}, {x, condition})) == Floats{1, 2});
  CHECK_THROWS_AS(first({"Compress", 11}, {x, list({1})}), DTypeError);
  const Tensor y = first({"NonZero"}, {floats(Shape{2, 2}, {1, 0, -0.0f, 3})});
  CHECK(y.shape() == Shape{2, 2});
  CHECK(longs_of(y) == Integers{0, 1, 0, 1});
  CHECK(first({"NonZero"}, {floats(Shape{}, {2})}).shape() == Shape{0, 1});
  CHECK(longs_of(first({"NonZero"}, {Tensor::of<bool>(Shape{2}, {false, true})})) == Integers{1});

  const Tensor off_on = floats(Shape{2}, {-1, 5});
  CHECK(floats_of(first({"OneHot", 11}, {list({0, -1, 3}), longs(Shape{}, {3}), off_on})) ==
        Floats{5, -1, -1, -1, -1, 5, -1, -1, -1});
  const Op front{"OneHot", 11, {{"axis", std::int64_t{0}}}};
  CHECK(floats_of(first(front, {floats(Shape{2}, {1.9f, std::nanf("")}), list({2}), off_on})) ==
        Floats{-1, -1, 5, -1});
  CHECK_THROWS_WITH(first({"OneHot", 11}, {list({0}), list({-3}), off_on}),
                    "[graph.OneHot] depth must be >= 0 and fit in 63 bits, got -3");
  CHECK_THROWS_AS(first({"OneHot", 11}, {list({0}), floats(Shape{}, {1e30f}), off_on}), Error);
  CHECK_THROWS_AS(first({"OneHot", 11}, {list({0}), list({std::int64_t{1} << 60}), off_on}), Error);
  CHECK_THROWS_AS(first({"OneHot", 11}, {list({0}), list({2}), iota(Shape{3})}), Error);
}

TEST_CASE("Gather moves elements of every width", "[graph][gather]") {
  const Tensor text = Tensor::of_strings(Shape{3}, {"a", "b", "c"});
  CHECK(strings_of(first({"Gather"}, {text, list({2, 0})})) == std::vector<std::string>{"c", "a"});
  const Tensor packed = bytes(ElementType::uint4, Shape{3}, {0x21, 0x03});
  CHECK(bytes_of(first({"Gather"}, {packed, list({2, 2, 0})})) == std::vector<int>{0x33, 0x01});
  const Tensor indices = Tensor::of<std::int32_t>(Shape{1}, {-1});
  CHECK(floats_of(first({"Gather"}, {iota(Shape{3}), indices})) == Floats{2});
}

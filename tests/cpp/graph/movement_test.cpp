// SPDX-License-Identifier: Apache-2.0
// Closed forms on tiny tensors, refusals, and oracles that compute every index by hand.
#include "graph/one_node.hpp"

using namespace one_node;

namespace {

using Integers = std::vector<std::int64_t>;
using Floats = std::vector<float>;

constexpr std::int64_t kHuge = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t kTiny = std::numeric_limits<std::int64_t>::min();

}  // namespace

TEST_CASE("Transpose agrees with indices permuted one by one", "[graph][movement]") {
  std::mt19937 random(1);
  for (int trial = 0; trial < 300; ++trial) {
    const int rank = static_cast<int>(between(random, 0, 5));
    const Tensor x = iota(random_shape(random, rank));
    Integers perm(static_cast<std::size_t>(rank));
    std::iota(perm.begin(), perm.end(), 0);
    std::shuffle(perm.begin(), perm.end(), random);
    const Tensor y = first({"Transpose", 21, {{"perm", perm}}}, {x});
    Shape shape = x.shape();
    for (int axis = 0; axis < rank; ++axis) shape[axis] = x.shape()[static_cast<int>(perm[axis])];
    REQUIRE(y.shape() == shape);
    const auto got = y.values<float>();
    for_each_index(shape, [&](const Integers& index) {
      Integers from(index.size());
      for (int axis = 0; axis < rank; ++axis) from[perm[axis]] = index[axis];
      REQUIRE(got[at(shape, index)] == x.values<float>()[at(x.shape(), from)]);
    });
  }
}

TEST_CASE("Transpose moves large tensors tile by tile", "[graph][movement]") {
  // Extents that tiles of 16 do not divide, and more elements than one thread takes.
  for (const Shape& shape : {Shape{3, 257, 131}, Shape{1, 1031, 517}, Shape{40, 33, 65}}) {
    const Tensor x = iota(shape);
    for (const Integers& perm : {Integers{0, 2, 1}, Integers{2, 1, 0}, Integers{1, 0, 2},
                                 Integers{2, 0, 1}, Integers{1, 2, 0}}) {
      const Tensor y = first({"Transpose", 21, {{"perm", perm}}}, {x});
      const auto got = y.values<float>();
      std::int64_t wrong = 0;
      for_each_index(y.shape(), [&](const Integers& index) {
        Integers from(3);
        for (int axis = 0; axis < 3; ++axis) from[perm[axis]] = index[axis];
        wrong += got[at(y.shape(), index)] != static_cast<float>(at(shape, from));
      });
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("Transpose takes elements of every width", "[graph][movement]") {
  const Op op{"Transpose"};
  CHECK(strings_of(first(op, {Tensor::of_strings(Shape{2, 2}, {"a", "b", "c", "d"})})) ==
        std::vector<std::string>{"a", "c", "b", "d"});
  // uint4: 1 2 3 4 5 6 becomes 1 4 2 5 3 6.
  CHECK(bytes_of(first(op, {bytes(ElementType::uint4, Shape{2, 3}, {0x21, 0x43, 0x65})})) ==
        std::vector<int>{0x41, 0x52, 0x63});
  // int2: 0 1 2 3 1 2 becomes 0 3 1 1 2 2.
  CHECK(bytes_of(first(op, {bytes(ElementType::int2, Shape{2, 3}, {0xe4, 0x09})})) ==
        std::vector<int>{0x5c, 0x0a});
  CHECK(bytes_of(first(op, {bytes(ElementType::float8e4m3fn, Shape{2, 2}, {1, 2, 3, 4})})) ==
        std::vector<int>{1, 3, 2, 4});
  using Complex = std::complex<double>;
  const Tensor z = Tensor::of<Complex>(Shape{2, 2}, {{1, 2}, {3, 4}, {5, 6}, {7, 8}});
  CHECK(values_of<Complex>(first(op, {z}))[1] == Complex(5, 6));
}

TEST_CASE("Transpose of axes of extent 1 shares the elements", "[graph][movement]") {
  const Tensor x = iota(Shape{2, 1, 3});
  const Tensor y = first({"Transpose", 21, {{"perm", Integers{1, 0, 2}}}}, {x});
  CHECK(y.raw() == x.raw());
  CHECK(y.shape() == Shape{1, 2, 3});
}

TEST_CASE("Transpose refuses what is no permutation", "[graph][movement]") {
  const Tensor x = iota(Shape{2, 3});
  CHECK_THROWS_WITH(first({"Transpose", 21, {{"perm", Integers{0, 0}}}}, {x}),
                    "[graph.Transpose] axes must not repeat one, got 0");
  CHECK_THROWS_WITH(first({"Transpose", 21, {{"perm", Integers{0}}}}, {x}),
                    "[graph.Transpose] perm must name every axis, axes, got 1");
  CHECK_THROWS_WITH(first({"Transpose", 21, {{"perm", Integers{0, 2}}}}, {x}),
                    "[graph.Transpose] axis must be in [-2, 2), got 2");
}

TEST_CASE("Slice agrees with places counted one by one", "[graph][movement]") {
  std::mt19937 random(2);
  for (int trial = 0; trial < 500; ++trial) {
    const int rank = static_cast<int>(between(random, 1, 4));
    const Tensor x = iota(random_shape(random, rank));
    Integers starts;
    Integers ends;
    Integers steps;
    std::vector<Integers> places;
    Shape shape;
    for (int axis = 0; axis < rank; ++axis) {
      const std::int64_t extent = x.shape()[axis];
      starts.push_back(random() % 8 == 0 ? kHuge : between(random, -extent, extent + 2));
      ends.push_back(random() % 8 == 0 ? kTiny : between(random, -extent - 2, extent + 2));
      steps.push_back(random() % 8 == 0 ? kTiny : between(random, -2, 2));
      if (steps.back() == 0) steps.back() = 3;
      // The places of ONNX's rule: both ends counted from the front, then cut to the axis.
      const bool forward = steps.back() > 0;
      std::int64_t start = starts.back() < 0 ? starts.back() + extent : starts.back();
      std::int64_t end = ends.back() < 0 ? ends.back() + extent : ends.back();
      if (!forward) start = std::min(start, extent - 1);
      Integers here;
      const std::int64_t step = std::clamp<std::int64_t>(steps.back(), -100, 100);
      for (std::int64_t i = start; forward ? i < end && i < extent : i > end && i >= 0; i += step) {
        here.push_back(i);
      }
      shape.push_back(static_cast<std::int64_t>(here.size()));
      places.push_back(here);
    }
    const Tensor y = first({"Slice"}, {x, list(starts), list(ends), Value(), list(steps)});
    REQUIRE(y.shape() == shape);
    const auto got = y.values<float>();
    for_each_index(shape, [&](const Integers& index) {
      Integers from(index.size());
      for (int axis = 0; axis < rank; ++axis) from[axis] = places[axis][index[axis]];
      REQUIRE(got[at(shape, index)] == static_cast<float>(at(x.shape(), from)));
    });
  }
}

TEST_CASE("Slice reads attributes before opset 10 and axes after", "[graph][movement]") {
  const Tensor x = iota(Shape{3, 4});
  const Op old{"Slice", 9, {{"starts", Integers{1}}, {"ends", Integers{9}}, {"axes", Integers{0}}}};
  CHECK(floats_of(first(old, {x})) == Floats{4, 5, 6, 7, 8, 9, 10, 11});
  const Tensor y = first({"Slice"}, {x, list({-3}), list({-1}), list({-1})});
  CHECK(floats_of(y) == Floats{1, 2, 5, 6, 9, 10});
  CHECK(first({"Slice"}, {x, list({0}), list({kHuge})}).raw() == x.raw());
}

TEST_CASE("Slice refuses steps of 0, axes twice and lists of other lengths", "[graph][movement]") {
  const Tensor x = iota(Shape{3, 4});
  CHECK_THROWS_WITH(first({"Slice"}, {x, list({0}), list({1}), list({0}), list({0})}),
                    "[graph.Slice] steps must not be 0, got 0");
  CHECK_THROWS_WITH(first({"Slice"}, {x, list({0, 0}), list({1, 1}), list({1, -1})}),
                    "[graph.Slice] axes must not repeat one, got -1");
  CHECK_THROWS_WITH(first({"Slice"}, {x, list({0, 0}), list({1})}),
                    "[graph.Slice] starts, ends, axes and steps must be as many, starts, got 2");
  CHECK_THROWS_AS(first({"Slice"}, {x, list({0, 0, 0}), list({1, 1, 1})}), Error);
}

TEST_CASE("Pad agrees with places counted one by one", "[graph][movement]") {
  std::mt19937 random(3);
  for (int trial = 0; trial < 600; ++trial) {
    const int rank = static_cast<int>(between(random, 1, 4));
    const int mode = static_cast<int>(random() % 4);
    Shape extents = random_shape(random, rank);
    if (mode != 0) {
      for (int axis = 0; axis < rank; ++axis)
        extents[axis] = std::max<std::int64_t>(extents[axis], 1);
    }
    const Tensor x = iota(extents);
    Integers pads(static_cast<std::size_t>(2 * rank));
    Shape shape = extents;
    Shape low = extents;
    Shape high = extents;
    for (int axis = 0; axis < rank; ++axis) {
      const std::int64_t extent = extents[axis];
      pads[axis] = between(random, extent > 1 ? -1 : 0, 5);
      pads[axis + rank] = between(random, extent > 2 ? -1 : 0, 5);
      shape[axis] += pads[axis] + pads[axis + rank];
      low[axis] = std::max<std::int64_t>(0, -pads[axis]);
      high[axis] = extent + std::min<std::int64_t>(0, pads[axis + rank]);
    }
    const char* names[] = {"constant", "reflect", "edge", "wrap"};
    const Tensor y = first({"Pad", 21, {{"mode", std::string(names[mode])}}},
                           {x, list(pads), Tensor::scalar(-1.0f)});
    REQUIRE(y.shape() == shape);
    const auto got = y.values<float>();
    for_each_index(shape, [&](const Integers& index) {
      Integers from(index.size());
      bool outside = false;
      for (int axis = 0; axis < rank; ++axis) {
        std::int64_t i = index[axis] - pads[axis];
        // Walk to a place that is kept, step by step.
        while (i < low[axis] || i >= high[axis]) {
          const std::int64_t keep = high[axis] - low[axis];
          if (mode == 0) {
            outside = true;
            break;
          }
          if (mode == 2 || keep == 1) i = i < low[axis] ? low[axis] : high[axis] - 1;
          else if (mode == 3) i += i < low[axis] ? keep : -keep;
          else i = i < low[axis] ? 2 * low[axis] - i : 2 * (high[axis] - 1) - i;
        }
        from[axis] = i;
      }
      const float expected = outside ? -1.0f : static_cast<float>(at(extents, from));
      REQUIRE(got[at(shape, index)] == expected);
    });
  }
}

TEST_CASE("Pad takes axes, attributes and every type", "[graph][movement]") {
  const Tensor x = iota(Shape{2, 2});
  CHECK(floats_of(first({"Pad", 18}, {x, list({1, 0}), Value(), list({-1})})) ==
        Floats{0, 0, 1, 0, 2, 3});
  const Op old{"Pad", 2, {{"pads", Integers{0, 1, 0, 0}}, {"value", 7.0f}}};
  CHECK(floats_of(first(old, {x})) == Floats{7, 0, 1, 7, 2, 3});
  const Tensor packed = bytes(ElementType::int4, Shape{3}, {0x21, 0x03});
  CHECK(bytes_of(first({"Pad"}, {packed, list({1, 1})})) == std::vector<int>{0x10, 0x32, 0x00});
  const Tensor four = bytes(ElementType::int4, Shape{}, {0x0f});
  CHECK(bytes_of(first({"Pad"}, {packed, list({1, 0}), four})) == std::vector<int>{0x1f, 0x32});
  CHECK(strings_of(first({"Pad"}, {Tensor::of_strings(Shape{1}, {"a"}), list({1, 0})})) ==
        std::vector<std::string>{"", "a"});
}

TEST_CASE("Pad refuses what cuts or grows too much", "[graph][movement]") {
  const Tensor x = iota(Shape{2, 2});
  CHECK_THROWS_WITH(first({"Pad"}, {x, list({-2, 0, -1, 0})}),
                    "[graph.Pad] pads must not cut more than there is, got -1");
  CHECK_THROWS_WITH(first({"Pad"}, {x, list({-3, 0, 0, 0})}),
                    "[graph.Pad] pads must not cut more than there is, got -3");
  CHECK_THROWS_WITH(first({"Pad"}, {x, list({kHuge, 0, kHuge, 0})}),
                    "[graph.Pad] sizes must fit in 63 bits, got " + std::to_string(kHuge));
  CHECK_THROWS_AS(first({"Pad"}, {x, list({kTiny, 0, 0, 0})}), Error);
  CHECK_THROWS_AS(first({"Pad"}, {x, list({kHuge / 4, 0, 0, 0})}), Error);
  CHECK_THROWS_WITH(first({"Pad"}, {x, list({1, 1})}),
                    "[graph.Pad] pads must be two for each axis, pads, got 2");
  const Op mirror{"Pad", 21, {{"mode", std::string("mirror")}}};
  CHECK_THROWS_WITH(first(mirror, {x, list({0, 0, 0, 0})}),
                    "[graph.Pad] mode must be constant, reflect, edge or wrap, got mirror");
  const Op edge{"Pad", 21, {{"mode", std::string("edge")}}};
  CHECK_THROWS_AS(first(edge, {iota(Shape{0}), list({1, 1})}), Error);
  CHECK_THROWS_AS(first({"Pad"}, {x, list({0, 0, 0, 1}), longs(Shape{}, {1})}), DTypeError);
}

TEST_CASE("Expand and Tile repeat elements", "[graph][movement]") {
  const Tensor x = floats(Shape{2, 1}, {1, 2});
  CHECK(floats_of(first({"Expand"}, {x, list({3})})) == Floats{1, 1, 1, 2, 2, 2});
  const Tensor y = first({"Expand"}, {x, list({2, 1, 2})});
  CHECK(y.shape() == Shape{2, 2, 2});
  CHECK(floats_of(y) == Floats{1, 1, 2, 2, 1, 1, 2, 2});
  CHECK(first({"Expand"}, {x, list({1, 1})}).raw() == x.raw());
  CHECK(first({"Expand"}, {x, list({0})}).shape() == Shape{2, 0});
  CHECK_THROWS_WITH(first({"Expand"}, {x, list({3, 1})}),
                    "[graph.Expand] shape must agree with the input or one of them be 1, shape, "
                    "got (3, 1)");
  CHECK_THROWS_AS(first({"Expand"}, {x, list({-1, 1})}), Error);
  CHECK(floats_of(first({"Tile"}, {x, list({2, 3})})) ==
        Floats{1, 1, 1, 2, 2, 2, 1, 1, 1, 2, 2, 2});
  CHECK(floats_of(first({"Tile"}, {iota(Shape{2, 2}), list({1, 2})})) ==
        Floats{0, 1, 0, 1, 2, 3, 2, 3});
  CHECK(first({"Tile"}, {x, list({0, 3})}).shape() == Shape{0, 3});
  CHECK_THROWS_WITH(first({"Tile"}, {x, list({-1, 3})}),
                    "[graph.Tile] repeats must be >= 0, got -1");
  CHECK_THROWS_WITH(first({"Tile"}, {x, list({1})}),
                    "[graph.Tile] repeats must be one for each axis, repeats, got 1");
  CHECK_THROWS_AS(first({"Tile"}, {x, list({kHuge, kHuge})}), Error);
}

TEST_CASE("Split takes apart what Concat puts together", "[graph][movement]") {
  std::mt19937 random(4);
  for (int trial = 0; trial < 200; ++trial) {
    const int rank = static_cast<int>(between(random, 1, 4));
    const int axis = static_cast<int>(between(random, 0, rank - 1));
    Shape shape = random_shape(random, rank);
    std::vector<Value> parts;
    Integers sizes;
    std::int64_t total = 0;
    for (int part = 0; part < 3; ++part) {
      shape[axis] = between(random, 0, 3);
      Tensor x = iota(shape);
      for (std::int64_t i = 0; i < x.size(); ++i) {
        x.mutable_data<float>()[i] += 1000.0f * static_cast<float>(part);
      }
      parts.emplace_back(x);
      sizes.push_back(shape[axis]);
      total += shape[axis];
    }
    const std::int64_t named = random() % 2 == 0 ? axis : axis - rank;
    const Tensor y = first({"Concat", 13, {{"axis", named}}}, parts);
    shape[axis] = total;
    REQUIRE(y.shape() == shape);
    const auto got = y.values<float>();
    for_each_index(shape, [&](Integers index) {
      const float value = got[at(shape, index)];
      int part = 0;
      for (; index[axis] >= sizes[part]; ++part) index[axis] -= sizes[part];
      const Tensor& from = parts[part].tensor();
      REQUIRE(value == from.values<float>()[at(from.shape(), index)]);
    });
    const auto back = run({"Split", 13, {{"axis", named}}, 3}, {y, list(sizes)});
    for (int part = 0; part < 3; ++part) {
      CHECK(back[part].tensor().shape() == parts[part].tensor().shape());
      CHECK(floats_of(back[part].tensor()) == floats_of(parts[part].tensor()));
    }
  }
}

TEST_CASE("Split divides evenly, the last part being smaller since opset 18", "[graph][movement]") {
  const Tensor x = iota(Shape{7});
  const auto parts = run({"Split", 18, {{"num_outputs", std::int64_t{4}}}, 4}, {x});
  CHECK(floats_of(parts[0].tensor()) == Floats{0, 1});
  CHECK(floats_of(parts[3].tensor()) == Floats{6});
  // Parts of ceil(5 / 4) use the axis up before the last.
  const auto five = run({"Split", 18, {{"num_outputs", std::int64_t{4}}}, 4}, {iota(Shape{5})});
  CHECK(floats_of(five[2].tensor()) == Floats{4});
  CHECK(five[3].tensor().size() == 0);
  CHECK(floats_of(run({"Split", 11, {{"split", Integers{3, 4}}}, 2}, {x})[1].tensor()) ==
        Floats{3, 4, 5, 6});
  CHECK_THROWS_WITH(run({"Split", 13, {}, 2}, {x}),
                    "[graph.Split] the axis must divide into as many equal parts as outputs, "
                    "extent, got 7");
  CHECK_THROWS_WITH(run({"Split", 13, {}, 2}, {x, list({3, 3})}),
                    "[graph.Split] split must add up to the extent of the axis, got 6");
  CHECK_THROWS_WITH(run({"Split", 13, {}, 2}, {x, list({8, -1})}),
                    "[graph.Split] split must hold sizes >= 0, got -1");
  CHECK_THROWS_WITH(run({"Split", 13, {}, 2}, {x, list({7})}),
                    "[graph.Split] split must have a size for each output, sizes, got 1");
  CHECK_THROWS_AS(run({"Split", 13, {}, 2}, {x, list({kHuge, kHuge})}), Error);
}

TEST_CASE("Concat refuses tensors that do not fit together", "[graph][movement]") {
  const Op op{"Concat", 13, {{"axis", std::int64_t{0}}}};
  CHECK_THROWS_WITH(first(op, {iota(Shape{1, 2}), iota(Shape{1, 3})}),
                    "[graph.Concat] tensors must agree in all axes but one, shape, got (1, 3)");
  CHECK_THROWS_WITH(first(op, {iota(Shape{1, 2}), iota(Shape{2})}),
                    "[graph.Concat] tensors must have as many dimensions, shape, got (2,)");
  CHECK_THROWS_WITH(first(op, {iota(Shape{2}), list({1, 2})}),
                    "[graph.Concat] tensors must be of one type, got int64");
  CHECK_THROWS_AS(first(op, {iota(Shape{}), iota(Shape{})}), Error);
  CHECK_THROWS_AS(first({"Concat", 13}, {iota(Shape{2})}), FormatError);
}

TEST_CASE("Trilu keeps one side of a diagonal of every matrix", "[graph][movement]") {
  for (const bool upper : {false, true}) {
    for (const std::int64_t k :
         {kTiny, std::int64_t{-2}, std::int64_t{0}, std::int64_t{1}, kHuge}) {
      const Shape shape{2, 3, 4};
      const Tensor x = iota(shape);
      const Op op{"Trilu", 14, {{"upper", std::int64_t{upper}}}};
      const Tensor y = first(op, {x, longs(Shape{}, {k})});
      for_each_index(shape, [&](const Integers& index) {
        const std::int64_t distance = index[2] - index[1];
        const bool kept = upper ? distance >= k : distance <= k;
        const std::int64_t place = at(shape, index);
        CHECK(y.values<float>()[place] == (kept ? static_cast<float>(place) : 0.0f));
      });
    }
  }
  CHECK_THROWS_AS(first({"Trilu", 14}, {iota(Shape{3})}), Error);
}

TEST_CASE("DepthToSpace and SpaceToDepth undo each other in both orders", "[graph][movement]") {
  const Tensor x = iota(Shape{2, 12, 3, 2});
  for (const char* mode : {"DCR", "CRD"}) {
    const std::vector<std::pair<std::string, AttributeValue>> attributes = {
        {"blocksize", std::int64_t{2}}, {"mode", std::string(mode)}};
    const Tensor wide = first({"DepthToSpace", 13, attributes}, {x});
    const Shape shape{2, 3, 6, 4};
    REQUIRE(wide.shape() == shape);
    for_each_index(shape, [&](const Integers& i) {
      const std::int64_t inside = i[2] % 2 * 2 + i[3] % 2;
      const std::int64_t depth = mode[0] == 'D' ? inside * 3 + i[1] : i[1] * 4 + inside;
      REQUIRE(wide.values<float>()[at(shape, i)] ==
              static_cast<float>(at(x.shape(), {i[0], depth, i[2] / 2, i[3] / 2})));
    });
    const Tensor back = first({"SpaceToDepth", 28, attributes}, {wide});
    CHECK(back.shape() == x.shape());
    CHECK(floats_of(back) == floats_of(x));
  }
  const auto block = [](std::int64_t size) {
    return std::vector<std::pair<std::string, AttributeValue>>{{"blocksize", size}};
  };
  CHECK_THROWS_WITH(first({"DepthToSpace", 13, block(0)}, {x}),
                    "[graph.DepthToSpace] blocksize must be in [1, 2^31], got 0");
  CHECK_THROWS_WITH(first({"DepthToSpace", 13, block(5)}, {x}),
                    "[graph.DepthToSpace] blocksize^2 must divide the depth, shape, "
                    "got (2, 12, 3, 2)");
  CHECK_THROWS_AS(first({"DepthToSpace", 13, block(kHuge)}, {x}), Error);
  CHECK_THROWS_AS(first({"SpaceToDepth", 13, block(4)}, {x}), Error);
  CHECK_THROWS_AS(first({"SpaceToDepth", 13, block(2)}, {iota(Shape{2, 2})}), Error);
}

TEST_CASE("CenterCropPad cuts and fills around the middle", "[graph][movement]") {
  const Tensor x = iota(Shape{5});
  CHECK(floats_of(first({"CenterCropPad", 18}, {x, list({2})})) == Floats{1, 2});
  CHECK(floats_of(first({"CenterCropPad", 18}, {x, list({8})})) == Floats{0, 0, 1, 2, 3, 4, 0, 0});
  const Op columns{"CenterCropPad", 18, {{"axes", Integers{-1}}}};
  CHECK(floats_of(first(columns, {iota(Shape{2, 3}), list({1})})) == Floats{1, 4});
  CHECK_THROWS_AS(first(columns, {iota(Shape{2, 3}), list({1, 2})}), Error);
  CHECK_THROWS_AS(first(columns, {iota(Shape{2, 3}), list({-1})}), Error);
}

TEST_CASE("ReverseSequence turns the first elements of each sequence", "[graph][movement]") {
  const Tensor x = iota(Shape{3, 2});
  CHECK(floats_of(first({"ReverseSequence", 10}, {x, list({3, 2})})) == Floats{4, 3, 2, 1, 0, 5});
  const Op rows{
      "ReverseSequence", 10, {{"time_axis", std::int64_t{1}}, {"batch_axis", std::int64_t{0}}}};
  CHECK(floats_of(first(rows, {x, list({1, 2, 0})})) == Floats{0, 1, 3, 2, 4, 5});
  CHECK_THROWS_WITH(first({"ReverseSequence", 10}, {x, list({4, 2})}),
                    "[graph.ReverseSequence] sequence_lens must not exceed the time axis, got 4");
  CHECK_THROWS_AS(first({"ReverseSequence", 10}, {x, list({1})}), Error);
  CHECK_THROWS_AS(first({"ReverseSequence", 10, {{"time_axis", std::int64_t{1}}}}, {x, list({1})}),
                  Error);
}

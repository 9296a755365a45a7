// SPDX-License-Identifier: Apache-2.0
#include "graph/one_node.hpp"

using namespace one_node;

namespace {

using Integers = std::vector<std::int64_t>;

}  // namespace

TEST_CASE("Shape and Size tell extents of any type, clamped to start and end", "[graph][shape]") {
  const Tensor x = iota(Shape{2, 3, 4});
  CHECK(longs_of(first({"Shape"}, {x})) == Integers{2, 3, 4});
  CHECK(longs_of(first({"Shape", 15, {{"start", std::int64_t{-2}}}}, {x})) == Integers{3, 4});
  const Op both{"Shape", 15, {{"start", std::int64_t{-9}}, {"end", std::int64_t{-1}}}};
  CHECK(longs_of(first(both, {x})) == Integers{2, 3});
  const Op none{"Shape", 15, {{"start", std::int64_t{2}}, {"end", std::int64_t{1}}}};
  CHECK(longs_of(first(none, {x})).empty());
  CHECK(longs_of(first({"Size"}, {x})) == Integers{24});
  CHECK(longs_of(first({"Size"}, {Tensor::of_strings(Shape{2}, {"a", "b"})})) == Integers{2});
  CHECK(longs_of(first({"Shape"}, {bytes(ElementType::int4, Shape{3}, {1, 2})})) == Integers{3});
}

TEST_CASE("Reshape, Flatten, Squeeze and Unsqueeze share the elements", "[graph][shape]") {
  const Tensor x = iota(Shape{2, 1, 4});
  const auto shares = [&](const Tensor& y, const Shape& shape) {
    CHECK(y.raw() == x.raw());
    CHECK(y.shape() == shape);
  };
  shares(first({"Reshape"}, {x, list({4, -1})}), Shape{4, 2});
  shares(first({"Reshape"}, {x, list({0, 0, 2, 2})}), Shape{2, 1, 2, 2});
  shares(first({"Flatten"}, {x}), Shape{2, 4});
  shares(first({"Flatten", 21, {{"axis", std::int64_t{0}}}}, {x}), Shape{1, 8});
  shares(first({"Flatten", 21, {{"axis", std::int64_t{3}}}}, {x}), Shape{8, 1});
  shares(first({"Flatten", 21, {{"axis", std::int64_t{-1}}}}, {x}), Shape{2, 4});
  shares(first({"Squeeze"}, {x}), Shape{2, 4});
  shares(first({"Squeeze"}, {x, list({-2})}), Shape{2, 4});
  shares(first({"Squeeze", 11, {{"axes", Integers{1}}}}, {x}), Shape{2, 4});
  shares(first({"Unsqueeze"}, {x, list({0, -1})}), Shape{1, 2, 1, 4, 1});
  shares(first({"Unsqueeze", 11, {{"axes", Integers{4, 1}}}}, {x}), Shape{2, 1, 1, 4, 1});
}

TEST_CASE("Reshape takes 0 as an extent where allowzero says so", "[graph][shape]") {
  const Tensor empty = iota(Shape{0, 3});
  const Op zeros{"Reshape", 14, {{"allowzero", std::int64_t{1}}}};
  CHECK(first(zeros, {empty, list({5, 0})}).shape() == Shape{5, 0});
  CHECK_THROWS_WITH(first(zeros, {empty, list({0, -1})}),
                    "[graph.Reshape] the elements must fill the extent that is -1, shape, "
                    "got (0, -1)");
}

TEST_CASE("shapes that do not fit are refused", "[graph][shape]") {
  const Tensor x = iota(Shape{2, 3});
  CHECK_THROWS_WITH(first({"Reshape"}, {x, list({4, 2})}),
                    "[graph.Reshape] shape must have as many elements as the input, shape, "
                    "got (4, 2)");
  CHECK_THROWS_WITH(first({"Reshape"}, {x, list({-1, -1})}),
                    "[graph.Reshape] shape must hold -1 once at most, got (-1, -1)");
  CHECK_THROWS_WITH(first({"Reshape"}, {x, list({-2, 3})}),
                    "[graph.Reshape] shape must hold extents, 0 or -1, got (-2, 3)");
  CHECK_THROWS_WITH(first({"Reshape"}, {x, list({1, 1, 0})}),
                    "[graph.Reshape] shape must copy extents that the input has, shape, "
                    "got (1, 1, 0)");
  const std::int64_t huge = std::int64_t{1} << 62;
  CHECK_THROWS_AS(first({"Reshape"}, {x, list({huge, huge, -1})}), Error);
  CHECK_THROWS_AS(first({"Reshape"}, {x, list(Integers(17, 1))}), UnsupportedError);
  CHECK_THROWS_AS(first({"Reshape"}, {x, floats(Shape{1}, {6.0f})}), DTypeError);
  CHECK_THROWS_WITH(first({"Flatten", 21, {{"axis", std::int64_t{3}}}}, {x}),
                    "[graph.Flatten] axis must be in [-rank, rank], got 3");
  CHECK_THROWS_WITH(first({"Squeeze"}, {x, list({0})}),
                    "[graph.Squeeze] axes must have extent 1, shape, got (2, 3)");
  CHECK_THROWS_WITH(first({"Squeeze"}, {x, list({2})}),
                    "[graph.Squeeze] axis must be in [-2, 2), got 2");
  CHECK_THROWS_WITH(first({"Unsqueeze"}, {x, list({0, 0})}),
                    "[graph.Unsqueeze] axes must not repeat one, got 0");
  CHECK_THROWS_AS(first({"Unsqueeze"}, {x}), FormatError);
  CHECK_THROWS_AS(first({"Unsqueeze"}, {x, list(Integers(15, 0))}), UnsupportedError);
}

TEST_CASE("ConstantOfShape fills with one element of any type", "[graph][shape]") {
  CHECK(floats_of(first({"ConstantOfShape"}, {list({2, 2})})) == std::vector<float>(4, 0.0f));
  CHECK(first({"ConstantOfShape"}, {list({})}).shape() == Shape{});
  CHECK(first({"ConstantOfShape"}, {list({3, 0})}).shape() == Shape{3, 0});
  const Op ones{"ConstantOfShape", 21, {{"value", longs(Shape{1}, {-7})}}};
  CHECK(longs_of(first(ones, {list({3})})) == Integers{-7, -7, -7});
  const Op packed{"ConstantOfShape", 21, {{"value", bytes(ElementType::int4, Shape{1}, {0x0d})}}};
  CHECK(bytes_of(first(packed, {list({3})})) == std::vector<int>{0xdd, 0xdd});
  const Op two{"ConstantOfShape", 25, {{"value", bytes(ElementType::uint2, Shape{1}, {0x02})}}};
  CHECK(bytes_of(first(two, {list({5})})) == std::vector<int>{0xaa, 0xaa});
}

TEST_CASE("ConstantOfShape is bounded by the limits of the run", "[graph][shape]") {
  const std::int64_t huge = std::int64_t{1} << 40;
  CHECK_THROWS_AS(first({"ConstantOfShape"}, {list({huge})}), Error);
  CHECK_THROWS_AS(first({"ConstantOfShape"}, {list({huge, huge})}), Error);
  CHECK_THROWS_AS(first({"ConstantOfShape"}, {list({-1})}), Error);
  const Op two{"ConstantOfShape", 21, {{"value", list({1, 2})}}};
  CHECK_THROWS_WITH(first(two, {list({1})}),
                    "[graph.ConstantOfShape] value must have one element, shape, got (2,)");
}

TEST_CASE("EyeLike draws the diagonal that k names", "[graph][shape]") {
  const Tensor x = iota(Shape{2, 3});
  CHECK(floats_of(first({"EyeLike"}, {x})) == std::vector<float>{1, 0, 0, 0, 1, 0});
  const Op shifted{"EyeLike", 9, {{"k", std::int64_t{-1}}, {"dtype", std::int64_t{7}}}};
  CHECK(longs_of(first(shifted, {x})) == Integers{0, 0, 0, 1, 0, 0});
  const Op far{"EyeLike", 9, {{"k", std::numeric_limits<std::int64_t>::max()}}};
  CHECK(floats_of(first(far, {x})) == std::vector<float>(6, 0.0f));
  const Op boolean{"EyeLike", 9, {{"dtype", std::int64_t{9}}}};
  CHECK(bytes_of(first(boolean, {x})) == std::vector<int>{1, 0, 0, 0, 1, 0});
  CHECK_THROWS_WITH(first({"EyeLike"}, {iota(Shape{2})}),
                    "[graph.EyeLike] input must have two dimensions, shape, got (2,)");
  CHECK_THROWS_AS(first({"EyeLike", 9, {{"dtype", std::int64_t{8}}}}, {x}), DTypeError);
  CHECK_THROWS_AS(first({"EyeLike", 9, {{"dtype", std::int64_t{99}}}}, {x}), FormatError);
}

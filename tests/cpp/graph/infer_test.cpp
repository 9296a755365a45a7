// SPDX-License-Identifier: Apache-2.0
#include <moptcore/graph/infer.hpp>

#include "catch.hpp"
#include "graph/inference/extent.hpp"
#include "graph/models.hpp"

using namespace moptcore;
using namespace moptcore::graph;
using namespace moptcore::graph::testing;

TEST_CASE("equal expressions of extents are equal numbers", "[graph][infer]") {
  ExtentTable x;
  const Extent h = x.symbol("H");
  const Extent w = x.symbol("W");
  CHECK(x.add(h, w) == x.add(w, h));
  CHECK(x.multiply(x.add(h, 1), x.add(h, -1)) == x.add(x.multiply(h, h), -1));
  // (H - 1) // 2 + 1 and (H + 1) // 2 are the same number.
  CHECK(x.add(x.floor_divide(x.add(h, -1), 2), 1) == x.floor_divide(x.add(h, 1), 2));
  CHECK(x.ceil_divide(h, x.known(2)) == x.floor_divide(x.add(h, 1), 2));
  // Halved twice is a quarter.
  CHECK(x.floor_divide(x.floor_divide(h, 2), 2) == x.floor_divide(h, 4));
  CHECK(x.floor_divide(x.multiply(h, 6), 4) == x.floor_divide(x.multiply(h, 3), 2));
  CHECK(x.divide_exactly(x.multiply(x.add(h, 1), x.multiply(w, 12)),
                         x.multiply(x.add(h, 1), x.known(4))) == x.multiply(w, 3));
  CHECK_FALSE(x.divide_exactly(h, x.known(2)));
  CHECK(x.text(x.add(x.multiply(h, 2), 1)) == "2*H+1");
  CHECK(x.maximum(h, x.known(0)) == h);
  CHECK(x.differ(h, x.known(-1)));
  CHECK_FALSE(x.differ(h, x.known(3)));
}

TEST_CASE("quotients of extents are those of numbers", "[graph][infer]") {
  // Each normal form is evaluated: f(H) for H = 1 ... 40 against C++ arithmetic.
  for (std::int64_t factor = -5; factor <= 5; ++factor) {
    for (std::int64_t offset = -7; offset <= 7; ++offset) {
      for (std::int64_t divisor = 1; divisor <= 6; ++divisor) {
        for (std::int64_t value = 1; value <= 40; value += 3) {
          ExtentTable x;
          const auto form = [&](Extent h) {
            const Extent first = x.floor_divide(x.add(x.multiply(h, factor), offset), divisor);
            return x.floor_divide(x.add(first, 3), 2);
          };
          const Extent symbolic = form(x.symbol("H"));
          const Extent known = form(x.known(value));
          const auto floored = [](std::int64_t a, std::int64_t b) {
            return a >= 0 ? a / b : -((-a + b - 1) / b);
          };
          const std::int64_t expected = floored(floored(factor * value + offset, divisor) + 3, 2);
          REQUIRE(x.value(known) == expected);
          // The lower bound holds for every value of the symbol.
          const auto bound = x.lower_bound(symbolic);
          REQUIRE((!bound || *bound <= expected));
        }
      }
    }
  }
}

TEST_CASE("expressions that grow too large become one unknown extent", "[graph][infer]") {
  ExtentTable x;
  Extent a = x.symbol("H");
  for (int i = 0; i < 200; ++i) a = x.multiply(x.add(a, 1), x.add(a, x.symbol("W")));
  CHECK_FALSE(x.value(a));
  CHECK(x.add(a, 1) == x.add(a, 1));
  CHECK(x.text(a).size() < 4096);
}

TEST_CASE("infer_types keeps symbols through strided convolutions and joins", "[graph][infer]") {
  Model model;
  Graph& graph = model.graph;
  graph.inputs = {value("x", ElementType::float32, {"N", 3, "H", "W"})};
  graph.initializers["w"] = Tensor(ElementType::float32, Shape{8, 3, 3, 3});
  graph.initializers["s"] = Tensor(ElementType::float32, Shape{8, 3, 1, 1});
  graph.nodes = {
      node("Conv", {"x", "w"}, {"a"}, {{"strides", Ints{2, 2}}, {"pads", Ints{1, 1, 1, 1}}}),
      node("Conv", {"x", "s"}, {"b"}, {{"strides", Ints{2, 2}}}),
      node("Add", {"a", "b"}, {"c"}),
      node("Concat", {"a", "c"}, {"d"}, {{"axis", std::int64_t{1}}}),
      node("GlobalAveragePool", {"d"}, {"e"}),
      node("Flatten", {"e"}, {"f"}),
  };
  graph.outputs = {untyped("f")};
  infer_types(model);
  CHECK(type_text(graph, "a") == "float32 [N, 8, ((H+1)//(2)), ((W+1)//(2))]");
  CHECK(type_text(graph, "c") == type_text(graph, "a"));
  CHECK(type_text(graph, "d") == "float32 [N, 16, ((H+1)//(2)), ((W+1)//(2))]");
  CHECK(type_text(graph, "f") == "float32 [N, 16]");
}

TEST_CASE("infer_types follows shapes that a graph computes", "[graph][infer]") {
  Model model;
  Graph& graph = model.graph;
  graph.inputs = {value("x", ElementType::float32, {"B", "S", 12})};
  graph.initializers["zero"] = Tensor::scalar<std::int64_t>(0);
  graph.initializers["one"] = Tensor::scalar<std::int64_t>(1);
  graph.initializers["axis"] = ints({0});
  graph.initializers["heads"] = ints({3, -1});
  graph.initializers["two"] = Tensor::scalar<std::int64_t>(2);
  graph.nodes = {
      node("Shape", {"x"}, {"shape"}),
      node("Gather", {"shape", "zero"}, {"b"}),
      node("Gather", {"shape", "one"}, {"s"}),
      node("Unsqueeze", {"b", "axis"}, {"b1"}),
      node("Unsqueeze", {"s", "axis"}, {"s1"}),
      node("Concat", {"b1", "s1", "heads"}, {"target"}, {{"axis", std::int64_t{0}}}),
      node("Reshape", {"x", "target"}, {"split"}),
      node("Transpose", {"split"}, {"heads_first"}, {{"perm", Ints{0, 2, 1, 3}}}),
      node("Mul", {"s", "two"}, {"twice"}),
      node("Range", {"zero", "twice", "one"}, {"positions"}),
  };
  graph.outputs = {untyped("heads_first"), untyped("positions")};
  infer_types(model);
  CHECK(type_text(graph, "split") == "float32 [B, S, 3, 4]");
  CHECK(type_text(graph, "heads_first") == "float32 [B, 3, S, 4]");
  CHECK(type_text(graph, "positions") == "int64 [2*S]");
  const Model pinned = specialise(model, {{"x", {5, 7, 12}}});
  CHECK(type_text(pinned.graph, "heads_first") == "float32 [5, 3, 7, 4]");
  CHECK(type_text(pinned.graph, "positions") == "int64 [14]");
  // The original is as it was.
  CHECK(type_text(graph, "positions") == "int64 [2*S]");
}

TEST_CASE("infer_types names the node whose inputs contradict each other", "[graph][infer]") {
  Model model;
  model.graph.inputs = {value("x", ElementType::float32, {"N", 4}),
                        value("y", ElementType::float32, {5, 6})};
  model.graph.nodes = {node("MatMul", {"x", "y"}, {"z"})};
  model.graph.nodes[0].name = "head";
  model.graph.outputs = {untyped("z")};
  CHECK_THROWS_WITH(infer_types(model),
                    "[graph.infer_types] MatMul 'head' inner extents must agree, got 4 and 5");
  CHECK_THROWS_AS(specialise(model, {{"q", {1}}}), Error);
  CHECK_THROWS_AS(specialise(model, {{"x", {1}}}), Error);
  CHECK_THROWS_AS(specialise(model, {{"x", {3, 5}}}), Error);
}

TEST_CASE("infer_types joins branches and settles the state of loops", "[graph][infer]") {
  Model model;
  Graph& graph = model.graph;
  graph.inputs = {value("x", ElementType::float32, {"N", 4}), value("c", ElementType::boolean, {}),
                  value("n", ElementType::int64, {})};
  Graph yes;
  yes.nodes = {node("Relu", {"x"}, {"p"})};
  yes.outputs = {untyped("p")};
  Graph no;
  no.nodes = {node("Concat", {"x", "x"}, {"q"}, {{"axis", std::int64_t{1}}})};
  no.outputs = {untyped("q")};
  Graph body;
  body.inputs = {untyped("i"), untyped("go"), untyped("state"), untyped("other")};
  body.nodes = {node("Identity", {"go"}, {"goes"}), node("Relu", {"state"}, {"next"}),
                node("Concat", {"other", "state"}, {"longer"}, {{"axis", std::int64_t{0}}}),
                node("Transpose", {"state"}, {"seen"})};
  body.outputs = {untyped("goes"), untyped("next"), untyped("longer"), untyped("seen")};
  graph.nodes = {
      node("If", {"c"}, {"y"}, {{"then_branch", Subgraph(yes)}, {"else_branch", Subgraph(no)}}),
      node("Loop", {"n", "", "x", "x"}, {"last", "grown", "all"}, {{"body", Subgraph(body)}})};
  graph.outputs = {untyped("y"), untyped("last"), untyped("grown"), untyped("all")};
  infer_types(model);
  CHECK(type_text(graph, "y").starts_with("float32 [N, _d"));
  CHECK(type_text(graph, "last") == "float32 [N, 4]");
  CHECK(type_text(graph, "grown").ends_with(", 4]"));
  CHECK_FALSE(type_text(graph, "grown").starts_with("float32 [N"));
  CHECK(type_text(graph, "all").ends_with(", 4, N]"));
  const Subgraph& inner = std::get<Subgraph>(graph.nodes[1].attributes[0].value);
  CHECK(type_text(*inner, "next") == "float32 [N, 4]");
}

TEST_CASE("a branch that is never taken may contradict itself", "[graph][infer]") {
  Model model;
  Graph& graph = model.graph;
  graph.inputs = {value("x", ElementType::float32, {2, 4})};
  graph.initializers["c"] = Tensor::of<bool>(Shape{}, {true});
  Graph yes;
  yes.nodes = {node("Relu", {"x"}, {"p"})};
  yes.outputs = {untyped("p")};
  Graph no;
  no.nodes = {node("MatMul", {"x", "x"}, {"q"})};
  no.outputs = {untyped("q")};
  graph.nodes = {
      node("If", {"c"}, {"y"}, {{"then_branch", Subgraph(yes)}, {"else_branch", Subgraph(no)}})};
  graph.outputs = {untyped("y")};
  infer_types(model);
  CHECK(type_text(graph, "y") == "float32 [2, 4]");
}

TEST_CASE("loops nested in loops are inferred in linear time", "[graph][infer]") {
  Graph inner;
  inner.inputs = {untyped("i"), untyped("c"), untyped("s")};
  inner.nodes = {node("Identity", {"c"}, {"c2"}),
                 node("Concat", {"s", "s"}, {"s2"}, {{"axis", std::int64_t{0}}})};
  inner.outputs = {untyped("c2"), untyped("s2")};
  for (int depth = 0; depth < 50; ++depth) {
    const std::string level = std::to_string(depth);
    Graph next;
    next.inputs = {untyped("i" + level), untyped("c" + level), untyped("s" + level)};
    next.nodes = {
        node("Identity", {"c" + level}, {"k" + level}),
        node("Loop", {"", "c" + level, "s" + level}, {"o" + level}, {{"body", Subgraph(inner)}})};
    next.outputs = {untyped("k" + level), untyped("o" + level)};
    inner = next;
  }
  Model model;
  model.graph.inputs = {value("x", ElementType::float32, {"N"}),
                        value("b", ElementType::boolean, {})};
  model.graph.nodes = {node("Loop", {"", "b", "x"}, {"y"}, {{"body", Subgraph(inner)}})};
  model.graph.outputs = {untyped("y")};
  infer_types(model);  // 4 ** 51 visits would never end
  CHECK(type_text(model.graph, "y").starts_with("float32"));
}

TEST_CASE("infer_types sees through a model's own functions", "[graph][infer]") {
  Model model;
  Function function;
  function.domain = "own";
  function.name = "Twice";
  function.inputs = {"a"};
  function.outputs = {"b"};
  function.nodes = {node("Concat", {"a", "a"}, {"b"}, {{"axis", std::int64_t{0}}})};
  model.functions = {function};
  model.opsets["own"] = 1;
  model.graph.inputs = {value("x", ElementType::float16, {"N", 2})};
  Node call = node("Twice", {"x"}, {"y"});
  call.domain = "own";
  model.graph.nodes = {call, node("Neg", {"y"}, {"z"})};
  model.graph.outputs = {untyped("z")};
  infer_types(model);
  CHECK(type_text(model.graph, "y") == "float16 [2*N, 2]");
  CHECK(type_text(model.graph, "z") == "float16 [2*N, 2]");
  CHECK(model.functions.size() == 1);
}

TEST_CASE("a question mark is no name of an extent", "[graph][infer]") {
  Model model;
  model.graph.inputs = {value("x", ElementType::float32, {"N", "?", "?"})};
  model.graph.nodes = {node("Transpose", {"x"}, {"y"}, {{"perm", Ints{0, 2, 1}}}),
                       node("Shape", {"x"}, {"s"})};
  model.graph.outputs = {untyped("y"), untyped("s")};
  infer_types(model);
  CHECK(type_text(model.graph, "y") == "float32 [N, _d0, _d1]");
  const Model pinned = specialise(model, {{"x", {1, 2, 3}}});
  CHECK(type_text(pinned.graph, "y") == "float32 [1, 3, 2]");
}

// SPDX-License-Identifier: Apache-2.0
// Subgraphs and sequences, with sums and products that are easy to tell.
#include "graph/one_node.hpp"

using namespace one_node;

namespace {

using Integers = std::vector<std::int64_t>;
using Floats = std::vector<float>;

ValueInfo info(const std::string& name) { return {name, {}, {}, {}, {}}; }

Node node(const std::string& op, const std::vector<std::string>& inputs,
          const std::vector<std::string>& outputs) {
  Node made;
  made.op_type = op;
  made.inputs = inputs;
  made.outputs = outputs;
  return made;
}

Graph body_of(const std::vector<std::string>& inputs, const std::vector<std::string>& outputs,
              const std::vector<Node>& nodes) {
  Graph made;
  for (const std::string& name : inputs) made.inputs.push_back(info(name));
  for (const std::string& name : outputs) made.outputs.push_back(info(name));
  made.nodes = nodes;
  return made;
}

// sum += x with each turn; scans the sum.
Graph summing() {
  return body_of({"turn", "going", "sum"}, {"on", "next", "seen"},
                 {node("Identity", {"going"}, {"on"}), node("Add", {"sum", "sum"}, {"next"}),
                  node("Identity", {"next"}, {"seen"})});
}

Op loop(const Graph& body, int outputs) {
  return {"Loop", 21, {{"body", Subgraph(body)}}, outputs};
}

Tensor truth(bool value) { return Tensor::scalar(value); }

}  // namespace

TEST_CASE("If runs the branch that the condition names", "[graph][control]") {
  const auto branch = [](float value) {
    Node constant = node("Constant", {}, {"y"});
    constant.set("value_float", value);
    return Subgraph(body_of({}, {"y"}, {constant}));
  };
  const Op op{"If", 21, {{"then_branch", branch(1)}, {"else_branch", branch(2)}}};
  CHECK(floats_of(first(op, {truth(true)})) == Floats{1});
  CHECK(floats_of(first(op, {truth(false)})) == Floats{2});
  CHECK_THROWS_AS(first(op, {list({1})}), DTypeError);
  CHECK_THROWS_WITH(first(op, {Tensor::of<bool>(Shape{2}, {true, false})}),
                    "[graph.If] a condition must have one element, shape, got (2,)");
  const Op two{"If", 21, {{"then_branch", branch(1)}, {"else_branch", branch(2)}}, 2};
  CHECK_THROWS_AS(run(two, {truth(true)}), FormatError);
}

TEST_CASE("Loop runs as often as it is told, and stacks what it scans", "[graph][control]") {
  const Tensor one = floats(Shape{1}, {1});
  const auto results = run(loop(summing(), 2), {list({3}), truth(true), one});
  CHECK(floats_of(results[0].tensor()) == Floats{8});
  CHECK(results[1].tensor().shape() == Shape{3, 1});
  CHECK(floats_of(results[1].tensor()) == Floats{2, 4, 8});
  CHECK(floats_of(run(loop(summing(), 1), {list({0}), truth(true), one})[0].tensor()) == Floats{1});
  CHECK(floats_of(run(loop(summing(), 1), {list({5}), truth(false), one})[0].tensor()) ==
        Floats{1});
  CHECK(floats_of(run(loop(summing(), 1), {list({4}), Value(), one})[0].tensor()) == Floats{16});
}

TEST_CASE("Loop without a number of turns goes on while its condition holds", "[graph][control]") {
  const Graph body =
      body_of({"turn", "going", "sum"}, {"on", "next"},
              {node("Add", {"sum", "sum"}, {"next"}), node("Less", {"next", "limit"}, {"on"})});
  Graph with_limit = body;
  with_limit.initializers["limit"] = floats(Shape{1}, {100});
  const Tensor one = floats(Shape{1}, {1});
  CHECK(floats_of(run(loop(with_limit, 1), {Value(), truth(true), one})[0].tensor()) ==
        Floats{128});
  CHECK(floats_of(run(loop(with_limit, 1), {Value(), Value(), one})[0].tensor()) == Floats{128});
}

TEST_CASE("Loop is bounded by the steps of the run", "[graph][control]") {
  EvaluateOptions options;
  options.max_steps = 1000;
  const Tensor one = floats(Shape{1}, {1});
  CHECK_THROWS_WITH(run(loop(summing(), 1), {Value(), truth(true), one}, options),
                    "[graph.evaluate] loops must take at most 1000 steps (max_steps)");
}

TEST_CASE("Loop is bounded in what it stacks by the bytes of the run", "[graph][control]") {
  EvaluateOptions options;
  options.max_bytes = 1 << 16;
  const Tensor wide = iota(Shape{256});
  CHECK_THROWS_AS(run(loop(summing(), 2), {list({1000}), truth(true), wide}, options), Error);
}

TEST_CASE("Loop without turns gives scans of the declared type", "[graph][control]") {
  Graph body = summing();
  const Tensor one = floats(Shape{1}, {1});
  CHECK_THROWS_AS(run(loop(body, 2), {list({0}), truth(true), one}), UnsupportedError);
  body.outputs[2].type = ValueType::tensor(ElementType::float32, {{{1, {}, {}}}});
  const Tensor seen = run(loop(body, 2), {list({0}), truth(true), one})[1].tensor();
  CHECK(seen.shape() == Shape{0, 1});
  CHECK(seen.type() == ElementType::float32);
}

TEST_CASE("Loop carries sequences that grow", "[graph][control]") {
  const Graph body = body_of(
      {"turn", "going", "all"}, {"on", "more"},
      {node("Identity", {"going"}, {"on"}), node("SequenceInsert", {"all", "turn"}, {"more"})});
  const auto results = run(loop(body, 1), {list({3}), truth(true), Value(Value::Sequence{})});
  REQUIRE(results[0].sequence().size() == 3);
  CHECK(longs_of(results[0].sequence()[2]) == Integers{2});
}

TEST_CASE("Loop refuses scans that change their shape", "[graph][control]") {
  const Graph body =
      body_of({"turn", "going", "x"}, {"on", "next", "seen"},
              {node("Identity", {"going"}, {"on"}), node("Concat", {"x", "x"}, {"next"}),
               node("Identity", {"next"}, {"seen"})});
  Graph growing = body;
  growing.nodes[1].set("axis", std::int64_t{0});
  CHECK_THROWS_WITH(run(loop(growing, 2), {list({2}), truth(true), iota(Shape{1})}),
                    "[graph.Loop] scan outputs must keep their shape, shape, got (4,)");
}

TEST_CASE("Scan sums along any axis, in both directions", "[graph][control]") {
  const Graph body =
      body_of({"sum", "x"}, {"next", "seen"},
              {node("Add", {"sum", "x"}, {"next"}), node("Identity", {"next"}, {"seen"})});
  const auto scan = [&](std::vector<std::pair<std::string, AttributeValue>> attributes) {
    attributes.emplace_back("body", Subgraph(body));
    attributes.emplace_back("num_scan_inputs", std::int64_t{1});
    return Op{"Scan", 9, attributes, 2};
  };
  const Tensor zero = floats(Shape{2}, {0, 0});
  const Tensor x = floats(Shape{3, 2}, {1, 2, 3, 4, 5, 6});
  auto results = run(scan({}), {zero, x});
  CHECK(floats_of(results[0].tensor()) == Floats{9, 12});
  CHECK(floats_of(results[1].tensor()) == Floats{1, 2, 4, 6, 9, 12});
  results = run(scan({{"scan_input_directions", Integers{1}},
                      {"scan_output_directions", Integers{1}},
                      {"scan_output_axes", Integers{-1}}}),
                {zero, x});
  // 5 6, then 8 10, then 9 12, each put in front.
  CHECK(results[1].tensor().shape() == Shape{2, 3});
  CHECK(floats_of(results[1].tensor()) == Floats{9, 8, 5, 12, 10, 6});
  results = run(scan({{"scan_input_axes", Integers{1}}}), {floats(Shape{3}, {0, 0, 0}), x});
  CHECK(floats_of(results[0].tensor()) == Floats{3, 7, 11});
  CHECK_THROWS_AS(run(scan({{"scan_input_axes", Integers{2}}}), {zero, x}), Error);
  CHECK_THROWS_AS(run(scan({{"scan_input_directions", Integers{2}}}), {zero, x}), Error);
  CHECK_THROWS_AS(run(scan({{"scan_input_axes", Integers{0, 0}}}), {zero, x}), Error);
}

TEST_CASE("Scan of opset 8 runs every sequence of a batch to its length", "[graph][control]") {
  const Graph body =
      body_of({"sum", "x"}, {"next", "seen"},
              {node("Add", {"sum", "x"}, {"next"}), node("Identity", {"next"}, {"seen"})});
  const Op op{"Scan", 8, {{"body", Subgraph(body)}, {"num_scan_inputs", std::int64_t{1}}}, 2};
  const Tensor start = floats(Shape{2, 1}, {0, 10});
  const Tensor x = floats(Shape{2, 3, 1}, {1, 2, 3, 4, 5, 6});
  const auto results = run(op, {list({3, 2}), start, x});
  CHECK(floats_of(results[0].tensor()) == Floats{6, 19});
  CHECK(floats_of(results[1].tensor()) == Floats{1, 3, 6, 14, 19, 0});
  CHECK(floats_of(run(op, {Value(), start, x})[0].tensor()) == Floats{6, 25});
  CHECK_THROWS_WITH(run(op, {list({3, 4}), start, x}),
                    "[graph.Scan] sequence_lens must not exceed the scan inputs, got 4");
  CHECK_THROWS_AS(run(op, {list({3}), start, x}), Error);
}

TEST_CASE("sequences insert, erase and find their tensors", "[graph][sequence]") {
  const Tensor a = floats(Shape{1}, {1});
  const Tensor b = floats(Shape{2}, {2, 3});
  const Value both = run({"SequenceConstruct"}, {a, b})[0];
  CHECK(longs_of(first({"SequenceLength"}, {both})) == Integers{2});
  CHECK(first({"SequenceAt"}, {both, longs(Shape{}, {-1})}).raw() == b.raw());
  const Value three = run({"SequenceInsert"}, {both, b, longs(Shape{}, {-2})})[0];
  CHECK(three.sequence()[0].raw() == b.raw());
  CHECK(three.sequence().size() == 3);
  CHECK(run({"SequenceErase"}, {three, longs(Shape{}, {0})})[0].sequence()[0].raw() == a.raw());
  CHECK(run({"SequenceErase"}, {three})[0].sequence()[1].raw() == a.raw());
  CHECK(run({"SequenceEmpty"}, {})[0].sequence().empty());
  CHECK_THROWS_WITH(first({"SequenceAt"}, {both, longs(Shape{}, {2})}),
                    "[graph.SequenceAt] indices must be in [-2, 2), got 2");
  CHECK_THROWS_WITH(run({"SequenceInsert"}, {both, b, longs(Shape{}, {3})}),
                    "[graph.SequenceInsert] position must be in [-length, length], got 3");
  CHECK_THROWS_AS(run({"SequenceInsert"}, {both, list({1})}), DTypeError);
  CHECK_THROWS_AS(run({"SequenceErase"}, {Value(Value::Sequence{})}), Error);
  CHECK_THROWS_AS(first({"SequenceLength"}, {a}), DTypeError);
}

TEST_CASE("SplitToSequence and ConcatFromSequence undo each other", "[graph][sequence]") {
  const Tensor x = iota(Shape{3, 2});
  const Value rows = run({"SplitToSequence"}, {x})[0];
  REQUIRE(rows.sequence().size() == 3);
  CHECK(rows.sequence()[1].shape() == Shape{1, 2});
  const Op flat{"SplitToSequence", 11, {{"keepdims", std::int64_t{0}}}};
  const Value vectors = run(flat, {x})[0];
  CHECK(vectors.sequence()[1].shape() == Shape{2});
  CHECK(floats_of(first({"ConcatFromSequence", 11, {{"axis", std::int64_t{0}}}}, {rows})) ==
        floats_of(x));
  const Op stack{
      "ConcatFromSequence", 11, {{"axis", std::int64_t{-1}}, {"new_axis", std::int64_t{1}}}};
  const Tensor columns = first(stack, {vectors});
  CHECK(columns.shape() == Shape{2, 3});
  CHECK(floats_of(columns) == Floats{0, 2, 4, 1, 3, 5});
  const auto parts = run({"SplitToSequence"}, {x, longs(Shape{}, {2})})[0].sequence();
  CHECK(parts[1].shape() == Shape{1, 2});
  CHECK(run({"SplitToSequence"}, {x, list({1, 2})})[0].sequence()[1].shape() == Shape{2, 2});
  CHECK_THROWS_AS(run({"SplitToSequence"}, {x, list({1, 1})}), Error);
  CHECK_THROWS_WITH(run({"SplitToSequence"}, {x, longs(Shape{}, {0})}),
                    "[graph.SplitToSequence] split must be > 0, got 0");
  // A tensor without elements may be split into more parts than there is memory for.
  const std::int64_t huge = std::int64_t{1} << 50;
  CHECK_THROWS_AS(run({"SplitToSequence"}, {iota(Shape{huge, 0})}), Error);
  CHECK_THROWS_AS(
      first({"ConcatFromSequence", 11, {{"axis", std::int64_t{0}}}}, {Value(Value::Sequence{})}),
      Error);
}

TEST_CASE("SequenceMap runs its body for each tensor", "[graph][sequence]") {
  const Graph body = body_of({"x", "y"}, {"sum"}, {node("Add", {"x", "y"}, {"sum"})});
  const Op op{"SequenceMap", 17, {{"body", Subgraph(body)}}};
  const Value all(Value::Sequence{floats(Shape{1}, {1}), floats(Shape{1}, {2})});
  const Value sums = run(op, {all, all})[0];
  CHECK(floats_of(sums.sequence()[1]) == Floats{4});
  CHECK(floats_of(run(op, {all, floats(Shape{1}, {10})})[0].sequence()[0]) == Floats{11});
  CHECK_THROWS_AS(run(op, {all, Value(Value::Sequence{floats(Shape{1}, {1})})}), Error);
}

TEST_CASE("optional values tell whether they have an element", "[graph][sequence]") {
  const Tensor x = iota(Shape{2});
  CHECK(*first({"OptionalHasElement", 18}, {x}).data<bool>());
  CHECK_FALSE(*first({"OptionalHasElement", 18}, {}).data<bool>());
  CHECK(first({"OptionalGetElement", 18}, {x}).raw() == x.raw());
  CHECK_THROWS_WITH(first({"OptionalGetElement", 18}, {}),
                    "[graph.OptionalGetElement] input must hold an element, inputs, got 0");
  CHECK(run({"Optional", 15}, {x})[0].tensor().raw() == x.raw());
  CHECK_FALSE(run({"Optional", 15}, {})[0].has_value());
}

// SPDX-License-Identifier: Apache-2.0
#include <moptcore/graph/model.hpp>

#include "catch.hpp"

using namespace moptcore;
using namespace moptcore::graph;

namespace {

Node node(std::string op, std::vector<std::string> inputs, std::vector<std::string> outputs) {
  Node made;
  made.op_type = std::move(op);
  made.inputs = std::move(inputs);
  made.outputs = std::move(outputs);
  return made;
}

Graph chain() {
  Graph graph;
  graph.inputs = {{"x", {}, {}, {}, {}}};
  graph.outputs = {{"z", {}, {}, {}, {}}};
  graph.nodes = {node("B", {"y"}, {"z"}), node("A", {"x"}, {"y"})};
  return graph;
}

}  // namespace

TEST_CASE("sort_nodes puts writers before readers and keeps the order otherwise", "[graph]") {
  Graph graph = chain();
  graph.nodes.push_back(node("C", {"x"}, {"w"}));
  sort_nodes(graph);
  CHECK(graph.nodes[0].op_type == "A");
  CHECK(graph.nodes[1].op_type == "B");
  CHECK(graph.nodes[2].op_type == "C");
}

TEST_CASE("sort_nodes names what is wrong with a graph", "[graph]") {
  Graph cyclic = chain();
  cyclic.nodes[1].inputs = {"z"};
  CHECK_THROWS_WITH(sort_nodes(cyclic),
                    "[graph.sort_nodes] nodes must not form a cycle, at, got B 'z'");
  Graph twice = chain();
  twice.nodes.push_back(node("C", {"x"}, {"y"}));
  CHECK_THROWS_WITH(sort_nodes(twice),
                    "[graph.sort_nodes] a value must be written by one node only, got y");
  Graph missing = chain();
  missing.nodes[1].inputs = {"nowhere"};
  CHECK_THROWS_AS(sort_nodes(missing), FormatError);
}

TEST_CASE("copies of a graph do not share their subgraphs", "[graph]") {
  Node loop = node("Loop", {}, {"y"});
  loop.set("body", Subgraph(chain()));
  Node copy = loop;
  std::get<Subgraph>(copy.attributes[0].value)->name = "changed";
  CHECK(std::get<Subgraph>(loop.attributes[0].value)->name.empty());
}

TEST_CASE("sort_nodes counts what subgraphs read", "[graph]") {
  Graph graph = chain();
  Graph body;
  body.outputs = {{"y", {}, {}, {}, {}}};
  Node branch = node("If", {"x"}, {"w"});
  branch.set("then_branch", Subgraph(body));
  graph.nodes.insert(graph.nodes.begin(), branch);
  sort_nodes(graph);
  CHECK(graph.nodes[0].op_type == "A");
  CHECK(graph.nodes[1].op_type == "If");
}

TEST_CASE("inline_functions writes bodies out with names and attributes of the call", "[graph]") {
  Model model;
  Function function;
  function.domain = "own";
  function.name = "F";
  function.inputs = {"a", "b"};
  function.outputs = {"c"};
  Attribute alpha;
  alpha.name = "alpha";
  alpha.value = 0.0f;
  alpha.reference = "slope";
  Node inner = node("LeakyRelu", {"a"}, {"t"});
  inner.attributes = {alpha};
  function.nodes = {inner, node("Sum", {"t", "b"}, {"c"})};
  function.defaults = {{"slope", 0.5f, {}, {}, {}}};
  model.functions = {function};
  model.graph.inputs = {{"x", {}, {}, {}, {}}};
  model.graph.outputs = {{"y", {}, {}, {}, {}}};
  Node call = node("F", {"x"}, {"y"});
  call.domain = "own";
  model.graph.nodes = {call};
  inline_functions(model);
  REQUIRE(model.graph.nodes.size() == 2);
  CHECK(model.functions.empty());
  CHECK(model.graph.nodes[0].inputs == std::vector<std::string>{"x"});
  CHECK(model.graph.nodes[0].get<float>("alpha", 0.0f) == 0.5f);
  // b was left out.
  CHECK(model.graph.nodes[1].inputs[0] == model.graph.nodes[0].outputs[0]);
  CHECK(model.graph.nodes[1].inputs[1].empty());
  CHECK(model.graph.nodes[1].outputs == std::vector<std::string>{"y"});
}

TEST_CASE("a function that calls itself is refused", "[graph]") {
  Model model;
  Function function;
  function.domain = "own";
  function.name = "F";
  function.inputs = {"a"};
  function.outputs = {"c"};
  Node call = node("F", {"a"}, {"c"});
  call.domain = "own";
  function.nodes = {call};
  model.functions = {function};
  call.inputs = {"x"};
  model.graph.nodes = {call};
  CHECK_THROWS_WITH(inline_functions(model),
                    "[graph.inline_functions] a function must not call itself, got own.F");
}

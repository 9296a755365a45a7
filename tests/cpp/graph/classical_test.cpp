// SPDX-License-Identifier: Apache-2.0
// ai.onnx.ml on tables small enough to work out by hand.
#include <cmath>

#include "graph/one_node.hpp"

using namespace one_node;

namespace {

using Integers = std::vector<std::int64_t>;
using Floats = std::vector<float>;
using Strings = std::vector<std::string>;
using Attributes = std::vector<std::pair<std::string, AttributeValue>>;

Op ml(const std::string& name, Attributes attributes, std::int64_t version = 5, int outputs = 1) {
  return {name, version, std::move(attributes), outputs, "ai.onnx.ml"};
}

Tensor texts(const Strings& values) {
  return Tensor::of_strings(Shape{static_cast<std::int64_t>(values.size())}, values);
}

Tensor codes(const std::vector<std::uint8_t>& values) {
  return Tensor::of<std::uint8_t>(Shape{static_cast<std::int64_t>(values.size())},
                                  std::span<const std::uint8_t>(values));
}

Tensor row(const Floats& values) {
  return floats(Shape{static_cast<std::int64_t>(values.size())}, values);
}

// x <= 1: x in {0} or not; otherwise a leaf. Leaves 10, 20, 30 of targets 0, 0, 1.
Attributes small_tree() {
  return {{"nodes_modes", codes({0, 6})},       {"nodes_splits", row({1, 0})},
          {"nodes_featureids", Integers{0, 0}}, {"nodes_truenodeids", Integers{1, 0}},
          {"nodes_trueleafs", Integers{0, 1}},  {"nodes_falsenodeids", Integers{2, 1}},
          {"nodes_falseleafs", Integers{1, 1}}, {"leaf_targetids", Integers{0, 0, 1}},
          {"leaf_weights", row({10, 20, 30})},  {"membership_values", row({0, std::nanf("")})},
          {"tree_roots", Integers{0}},          {"n_targets", std::int64_t{2}}};
}

Attributes with(Attributes attributes, const std::string& name, AttributeValue value) {
  for (auto& [key, old] : attributes) {
    if (key == name) {
      old = std::move(value);
      return attributes;
    }
  }
  attributes.emplace_back(name, std::move(value));
  return attributes;
}

// A stump of the older operators: x0 < 0.5 is leaf 1, otherwise leaf 2.
Attributes stump(const std::string& votes) {
  return {{"nodes_treeids", Integers{0, 0, 0}},
          {"nodes_nodeids", Integers{0, 1, 2}},
          {"nodes_modes", Strings{"BRANCH_LT", "LEAF", "LEAF"}},
          {"nodes_featureids", Integers{0, 0, 0}},
          {"nodes_values", Floats{0.5f, 0, 0}},
          {"nodes_truenodeids", Integers{1, 0, 0}},
          {"nodes_falsenodeids", Integers{2, 0, 0}},
          {votes + "_treeids", Integers{0, 0}},
          {votes + "_nodeids", Integers{1, 2}},
          {votes + "_ids", Integers{0, 0}},
          {votes + "_weights", Floats{0.25f, 0.75f}}};
}

}  // namespace

TEST_CASE("LabelEncoder maps keys of every type, NaN too", "[graph][ml]") {
  const Attributes to_text = {{"keys_floats", Floats{1.5f, std::nanf("")}},
                              {"values_strings", Strings{"a", "nan"}}};
  CHECK(strings_of(first(ml("LabelEncoder", to_text), {row({std::nanf(""), 1.5f, 2})})) ==
        Strings{"nan", "a", "_Unused"});
  const Attributes to_long = {{"keys_strings", Strings{"a", "b"}},
                              {"values_int64s", Integers{5, 6}},
                              {"default_int64", std::int64_t{42}}};
  CHECK(longs_of(first(ml("LabelEncoder", to_long), {texts({"b", "c", "a"})})) ==
        Integers{6, 42, 5});
  const Attributes tensors = {{"keys_tensor", texts({"x"})},
                              {"values_tensor", Tensor::of<std::int16_t>(Shape{1}, {7})},
                              {"default_tensor", Tensor::of<std::int16_t>(Shape{1}, {9})}};
  CHECK(values_of<std::int16_t>(first(ml("LabelEncoder", tensors), {texts({"x", "y"})})) ==
        std::vector<std::int16_t>{7, 9});
  CHECK_THROWS_AS(first(ml("LabelEncoder", to_long), {list({1})}), DTypeError);
  CHECK_THROWS_AS(
      first(ml("LabelEncoder", with(to_long, "values_int64s", Integers{5})), {texts({"a"})}),
      FormatError);
  const Attributes old = {{"classes_strings", Strings{"p", "q"}}};
  CHECK(strings_of(first(ml("LabelEncoder", old, 1), {list({1, 0, 3})})) ==
        Strings{"q", "p", "_Unused"});
  CHECK(longs_of(first(ml("LabelEncoder", old, 1), {texts({"q", "z"})})) == Integers{1, -1});
}

TEST_CASE("features are taken, scaled, compared and put together", "[graph][ml]") {
  const Tensor x = floats(Shape{2, 2}, {1, 2, 3, 4});
  CHECK(floats_of(first(ml("ArrayFeatureExtractor", {}), {x, list({1})})) == Floats{2, 4});
  CHECK_THROWS_AS(first(ml("ArrayFeatureExtractor", {}), {x, list({2})}), Error);
  CHECK(floats_of(first(ml("Binarizer", {{"threshold", 2.0f}}), {x})) == Floats{0, 0, 1, 1});
  const Attributes scale = {{"offset", Floats{1, 2}}, {"scale", Floats{2}}};
  CHECK(floats_of(first(ml("Scaler", scale), {x})) == Floats{0, 0, 4, 4});
  CHECK_THROWS_AS(first(ml("Scaler", {{"offset", Floats{1, 2, 3}}}), {x}), Error);
  CHECK(floats_of(first(ml("Normalizer", {{"norm", std::string("MAX")}}), {x})) ==
        Floats{0.5f, 1, 0.75f, 1});
  CHECK(floats_of(first(ml("Normalizer", {{"norm", std::string("L2")}}),
                        {floats(Shape{1, 2}, {3, 4})})) == Floats{0.6f, 0.8f});
  const Attributes hot = {{"cats_int64s", Integers{4, 1}}};
  CHECK(floats_of(first(ml("OneHotEncoder", hot), {list({1, 9})})) == Floats{0, 1, 0, 0});
  CHECK_THROWS_AS(first(ml("OneHotEncoder", with(hot, "zeros", std::int64_t{0})), {list({9})}),
                  Error);
  const Attributes impute = {{"imputed_value_floats", Floats{7, 8}},
                             {"replaced_value_float", std::nanf("")}};
  CHECK(floats_of(first(ml("Imputer", impute), {floats(Shape{1, 2}, {1, std::nanf("")})})) ==
        Floats{1, 8});
  const Attributes widths = {{"inputdimensions", Integers{1, 3}}};
  CHECK(floats_of(first(ml("FeatureVectorizer", widths), {x, x})) ==
        Floats{1, 1, 2, 0, 3, 3, 4, 0});
  CHECK_THROWS_AS(first(ml("FeatureVectorizer", widths), {x}), Error);
  CHECK_THROWS_AS(first(ml("FeatureVectorizer", widths), {x, floats(Shape{1, 1}, {1})}), Error);
}

TEST_CASE("linear models add up and name the best class", "[graph][ml]") {
  const Tensor x = floats(Shape{2, 2}, {1, 2, -3, 0});
  const Attributes plane = {{"coefficients", Floats{2, 1}}, {"intercepts", Floats{0.5f}}};
  CHECK(floats_of(first(ml("LinearRegressor", plane), {x})) == Floats{4.5f, -5.5f});
  CHECK_THROWS_AS(first(ml("LinearRegressor", with(plane, "targets", std::int64_t{2})), {x}),
                  Error);
  Attributes two = plane;
  two.emplace_back("classlabels_strings", Strings{"no", "yes"});
  two.emplace_back("post_transform", std::string("LOGISTIC"));
  const auto results = run(ml("LinearClassifier", two, 5, 2), {x});
  CHECK(strings_of(results[0].tensor()) == Strings{"yes", "no"});
  // 1 / (1 + e^-4.5) = 0.98901305736...; float32 has steps of 2^-24 there.
  CHECK(std::abs(results[1].tensor().values<float>()[1] - 0.98901306f) <= 0x1p-23f);
  CHECK_THROWS_AS(first(ml("LinearClassifier", with(two, "post_transform", std::string("?"))), {x}),
                  Error);
}

TEST_CASE("TreeEnsemble walks to leaves and adds them to their targets", "[graph][ml]") {
  const Tensor x = floats(Shape{3, 1}, {0, 1, 2});
  CHECK(floats_of(first(ml("TreeEnsemble", small_tree()), {x})) == Floats{10, 0, 20, 0, 0, 30});
  const Attributes twice = with(small_tree(), "tree_roots", Integers{0, 0});
  CHECK(floats_of(first(ml("TreeEnsemble", twice), {x})) == Floats{20, 0, 40, 0, 0, 60});
  CHECK(floats_of(first(ml("TreeEnsemble", with(twice, "aggregate_function", std::int64_t{0})),
                        {x})) == Floats{10, 0, 20, 0, 0, 30});
  const Tensor nan = floats(Shape{1, 1}, {std::nanf("")});
  CHECK(floats_of(first(ml("TreeEnsemble", small_tree()), {nan})) == Floats{0, 30});
  const Attributes missing = with(small_tree(), "nodes_missing_value_tracks_true", Integers{1, 0});
  CHECK(floats_of(first(ml("TreeEnsemble", missing), {nan})) == Floats{20, 0});
  // NaN is a member of nothing.
  const Attributes member = with(small_tree(), "nodes_modes", codes({6, 6}));
  const Attributes lists =
      with(member, "membership_values", row({0, std::nanf(""), 0, std::nanf("")}));
  CHECK(floats_of(first(ml("TreeEnsemble", lists), {nan})) == Floats{0, 30});
}

TEST_CASE("TreeEnsemble refuses trees that lead nowhere", "[graph][ml]") {
  const Tensor x = floats(Shape{1, 1}, {0});
  const auto refuses = [&](const std::string& name, AttributeValue value) {
    CHECK_THROWS_AS(first(ml("TreeEnsemble", with(small_tree(), name, std::move(value))), {x}),
                    Error);
  };
  // A node that is its own child.
  CHECK_THROWS_WITH(
      first(ml("TreeEnsemble", with(small_tree(), "nodes_truenodeids", Integers{0, 0})), {x}),
      "[graph.TreeEnsemble] trees must not form a cycle, node, got 0");
  refuses("nodes_truenodeids", Integers{2, 0});
  refuses("nodes_truenodeids", Integers{-1, 0});
  refuses("nodes_falsenodeids", Integers{3, 1});
  refuses("nodes_featureids", Integers{1, 0});
  refuses("nodes_featureids", Integers{0});
  refuses("leaf_targetids", Integers{0, 0, 2});
  refuses("leaf_targetids", Integers{0, 0, -1});
  refuses("nodes_modes", codes({0, 7}));
  refuses("nodes_modes", row({0, 6}));
  refuses("membership_values", row({}));
  refuses("tree_roots", Integers{2});
  refuses("n_targets", std::int64_t{0});
  refuses("n_targets", std::numeric_limits<std::int64_t>::max());
  refuses("aggregate_function", std::int64_t{4});
  refuses("post_transform", std::int64_t{-1});
}

TEST_CASE("the older ensembles regress and classify", "[graph][ml]") {
  const Tensor x = floats(Shape{2, 1}, {0, 1});
  const Attributes target = stump("target");
  CHECK(floats_of(first(ml("TreeEnsembleRegressor", target, 1), {x})) == Floats{0.25f, 0.75f});
  CHECK(floats_of(first(ml("TreeEnsembleRegressor", with(target, "base_values", Floats{1}), 1),
                        {x})) == Floats{1.25f, 1.75f});
  const Attributes classes = with(stump("class"), "classlabels_int64s", Integers{5, 6});
  const auto results = run(ml("TreeEnsembleClassifier", classes, 1, 2), {x});
  CHECK(longs_of(results[0].tensor()) == Integers{5, 6});
  CHECK(floats_of(results[1].tensor()) == Floats{0.75f, 0.25f, 0.25f, 0.75f});
  CHECK_THROWS_AS(run(ml("TreeEnsembleClassifier", stump("class"), 1, 2), {x}), Error);
  CHECK_THROWS_AS(
      first(ml("TreeEnsembleRegressor", with(target, "nodes_truenodeids", Integers{9, 0, 0}), 1),
            {x}),
      FormatError);
  CHECK_THROWS_AS(
      first(ml("TreeEnsembleRegressor", with(target, "nodes_truenodeids", Integers{0, 0, 0}), 1),
            {x}),
      FormatError);
  CHECK_THROWS_AS(
      first(ml("TreeEnsembleRegressor", with(target, "target_nodeids", Integers{0, 2}), 1), {x}),
      FormatError);
  CHECK_THROWS_AS(first(ml("TreeEnsembleRegressor",
                           with(target, "nodes_modes", Strings{"BRANCH_MAYBE", "LEAF", "LEAF"}), 1),
                        {x}),
                  Error);
}

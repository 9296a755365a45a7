// SPDX-License-Identifier: Apache-2.0
// Operators of the domains ai.onnx.ml and ai.onnx.preview.training.
#include "graph/inference/rule.hpp"

namespace moptcore::inline v0::graph {
namespace {

constexpr std::string_view kDomain = "ai.onnx.ml";

void same(Inference& call) { call.set(0, call.element(0), call.dims(0)); }
void floats(Inference& call) { call.set(0, ElementType::float32, call.dims(0)); }

Extent rows(Inference& call) {
  if (call.rank(0) == 2) return (*call.dims(0))[0];
  if (call.rank(0) == 1) return call.k(1);
  return call.x.fresh();
}

void array_feature_extractor(Inference& call) {
  if (call.rank(0) < 1 || !call.dims(1)) {
    call.set(0, call.element(0));
    return;
  }
  Extents dims = *call.dims(0);
  const Extent count = call.x.product(*call.dims(1));
  if (dims.size() == 1) dims = {call.k(1), count};
  else dims.back() = count;
  call.set(0, call.element(0), dims);
}

void label_encoder(Inference& call) {
  ElementType element = ElementType::undefined;
  const auto has = [&](std::string_view name) { return call.node().find(name) != nullptr; };
  if (has("values_strings")) element = ElementType::string;
  else if (has("values_int64s")) element = ElementType::int64;
  else if (has("values_floats")) element = ElementType::float32;
  else if (const Attribute* table = call.node().find("values_tensor")) {
    if (const auto* tensor = std::get_if<Tensor>(&table->value)) element = tensor->type();
  } else if (has("classes_strings")) {
    element = call.element(0) == ElementType::string ? ElementType::int64 : ElementType::string;
  }
  call.set(0, element, call.dims(0));
}

void category_mapper(Inference& call) {
  call.set(0, call.element(0) == ElementType::string ? ElementType::int64 : ElementType::string,
           call.dims(0));
}

void one_hot_encoder(Inference& call) {
  std::optional<Extents> dims = call.dims(0);
  const std::size_t count = call.ints("cats_int64s").size() +
                            call.attribute<std::vector<std::string>>("cats_strings", {}).size();
  if (dims) dims->push_back(call.k(static_cast<std::int64_t>(count)));
  call.set(0, ElementType::float32, dims);
}

void feature_vectorizer(Inference& call) {
  Extent columns = call.k(0);
  for (const std::int64_t extent : call.ints("inputdimensions")) {
    columns = call.x.add(columns, extent);
  }
  call.set(0, ElementType::float32, Extents{rows(call), columns});
}

std::int64_t class_count(const Inference& call) {
  for (const std::string_view name : {"classlabels_ints", "classlabels_int64s"}) {
    const auto labels = call.ints(name);
    if (!labels.empty()) return static_cast<std::int64_t>(labels.size());
  }
  return static_cast<std::int64_t>(
      call.attribute<std::vector<std::string>>("classlabels_strings", {}).size());
}

void classifier(Inference& call) {
  const bool texts = !call.attribute<std::vector<std::string>>("classlabels_strings", {}).empty();
  call.set(0, texts ? ElementType::string : ElementType::int64, Extents{rows(call)});
  // One label stands for two classes in some operators: then the columns are left open.
  const std::int64_t count = class_count(call);
  call.set(1, ElementType::float32,
           Extents{rows(call), count > 2 ? call.k(count) : call.x.fresh()});
}

void linear_regressor(Inference& call) {
  call.set(0, ElementType::float32,
           Extents{rows(call), call.k(call.attribute<std::int64_t>("targets", 1))});
}

void tree_regressor(Inference& call) {
  call.set(0, ElementType::float32,
           Extents{rows(call), call.k(call.attribute<std::int64_t>("n_targets", 1))});
}

void tree_ensemble(Inference& call) {
  call.set(0, call.element(0),
           Extents{rows(call), call.k(call.attribute<std::int64_t>("n_targets", 1))});
}

void svm_regressor(Inference& call) {
  call.set(0, ElementType::float32, Extents{rows(call), call.k(1)});
}

// Optimizers: behind the rate and the step come `groups` lists of as many tensors; the outputs are
// those of the first list and of what stands behind the gradients.
void optimizer(Inference& call, int groups) {
  const int count = (call.input_count() - 2) / groups;
  for (int i = 0; i < call.output_count() && count > 0; ++i) {
    const int list = i / count;
    const int index = 2 + (list == 0 ? i : i + count);
    call.set(i, call.element(index), call.dims(index));
  }
}

void adagrad(Inference& call) { optimizer(call, 3); }
void adam(Inference& call) { optimizer(call, 4); }

constexpr std::string_view kTraining = "ai.onnx.preview.training";

constexpr Rule kRules[] = {
    {kTraining, "Adagrad", adagrad},
    {kTraining, "Adam", adam},
    {kTraining, "Momentum", adagrad},
    {kDomain, "ArrayFeatureExtractor", array_feature_extractor},
    {kDomain, "Binarizer", same},
    {kDomain, "CategoryMapper", category_mapper},
    {kDomain, "FeatureVectorizer", feature_vectorizer},
    {kDomain, "Imputer", same},
    {kDomain, "LabelEncoder", label_encoder},
    {kDomain, "LinearClassifier", classifier},
    {kDomain, "LinearRegressor", linear_regressor},
    {kDomain, "Normalizer", floats},
    {kDomain, "OneHotEncoder", one_hot_encoder},
    {kDomain, "SVMClassifier", classifier},
    {kDomain, "SVMRegressor", svm_regressor},
    {kDomain, "Scaler", floats},
    {kDomain, "TreeEnsemble", tree_ensemble},
    {kDomain, "TreeEnsembleClassifier", classifier},
    {kDomain, "TreeEnsembleRegressor", tree_regressor},
};

}  // namespace

std::span<const Rule> classical_rules() noexcept { return kRules; }

}  // namespace moptcore::inline v0::graph

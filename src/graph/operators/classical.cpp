// SPDX-License-Identifier: Apache-2.0
// Operators of ai.onnx.ml around classical models: encoders, scalers, linear models.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <unordered_map>

#include "graph/operators/families.hpp"
#include "graph/operators/moving.hpp"
#include "graph/operators/scores.hpp"

namespace moptcore::inline v0::graph {
namespace {

using Integers = std::vector<std::int64_t>;
using Strings = std::vector<std::string>;
using Floats = std::vector<float>;

// A list that an attribute holds as "<name>_tensor", "_strings", "_int64s" or "_floats".
Tensor listed(const Call& call, const std::string& name) {
  const auto shape = [](const auto& list) { return Shape{static_cast<std::int64_t>(list.size())}; };
  const Node& node = call.node();
  if (node.find(name + "_tensor") != nullptr) return call.required<Tensor>(name + "_tensor");
  if (node.find(name + "_strings") != nullptr) {
    const auto& list = call.required<Strings>(name + "_strings");
    return Tensor::of_strings(shape(list), list);
  }
  if (node.find(name + "_int64s") != nullptr) {
    const auto& list = call.required<Integers>(name + "_int64s");
    return Tensor::of<std::int64_t>(shape(list), std::span<const std::int64_t>(list));
  }
  const auto& list = call.required<Floats>(name + "_floats");
  return Tensor::of<float>(shape(list), std::span<const float>(list));
}

// Equal numbers have equal bits: there is one NaN and one zero.
template <class T>
std::uint64_t bits_of(T value) {
  if constexpr (kIsFloating<T>) {
    const auto number = static_cast<double>(static_cast<Arithmetic<T>>(value));
    if (std::isnan(number)) return ~std::uint64_t{0};
    return std::bit_cast<std::uint64_t>(number == 0.0 ? 0.0 : number);
  } else {
    return static_cast<std::uint64_t>(value);
  }
}

// For each element of `given` the place of the first equal one in `keys`, or -1.
Integers places_of(const Call& call, const Tensor& keys, const Tensor& given) {
  call.require<DTypeError>(given.type() == keys.type(), "input must have the type of the keys",
                           name(given.type()));
  Integers places(static_cast<std::size_t>(given.size()), -1);
  const auto look_up = [&](const auto& table, auto&& key_of) {
    for (std::size_t i = 0; i < places.size(); ++i) {
      const auto found = table.find(key_of(i));
      if (found != table.end()) places[i] = found->second;
    }
  };
  if (keys.type() == ElementType::string) {
    std::unordered_map<std::string, std::int64_t> table;
    for (std::int64_t i = 0; i < keys.size(); ++i) table.try_emplace(keys.strings()[i], i);
    look_up(table, [&](std::size_t i) { return given.strings()[i]; });
    return places;
  }
  visit_numbers(call, keys.type(), [&]<class T>() {
    std::unordered_map<std::uint64_t, std::int64_t> table;
    for (std::int64_t i = 0; i < keys.size(); ++i) table.try_emplace(bits_of(keys.data<T>()[i]), i);
    look_up(table, [&](std::size_t i) { return bits_of(given.data<T>()[i]); });
  });
  return places;
}

// What becomes of keys that there are not, in the type of the values.
Tensor fallback_of(const Call& call, ElementType type) {
  if (call.node().find("default_tensor") != nullptr) {
    const auto& given = call.required<Tensor>("default_tensor");
    call.require(given.size() == 1 && given.type() == type,
                 "default_tensor must have one element of the values' type, shape", given.shape());
    return given;
  }
  if (type == ElementType::string) {
    return Tensor::of_strings(Shape{}, {call.text("default_string", "_Unused")});
  }
  Tensor result = call.environment().allocate(type, Shape{});
  visit_numbers(call, type, [&]<class T>() {
    T& value = *result.mutable_data<T>();
    if constexpr (kIsFloating<T>) {
      value = static_cast<T>(call.attribute<float>("default_float", -0.0f));
    } else {
      value = static_cast<T>(call.attribute<std::int64_t>("default_int64", -1));
    }
  });
  return result;
}

void encode(Call& call, const Tensor& keys, const Tensor& values) {
  call.require<FormatError>(keys.size() == values.size(), "keys and values must be as many, values",
                            values.size());
  const Tensor& given = call.input(0);
  const Integers places = places_of(call, keys, given);
  const Tensor fallback = fallback_of(call, values.type());
  Tensor& out = call.output(0, values.type(), given.shape());
  visit_units(call, values.type(), [&]<class T>() {
    T* target = mutable_units<T>(out);
    for (std::size_t i = 0; i < places.size(); ++i) {
      target[i] = places[i] < 0 ? *units<T>(fallback) : units<T>(values)[places[i]];
    }
  });
}

void label_encoder(Call& call) { encode(call, listed(call, "keys"), listed(call, "values")); }

// Between texts and numbers, in the direction that the input asks for.
void map_categories(Call& call, const Strings& texts, const Integers& numbers) {
  const auto count = static_cast<std::int64_t>(texts.size());
  const Tensor names = Tensor::of_strings(Shape{count}, texts);
  const Tensor codes = Tensor::of<std::int64_t>(Shape{static_cast<std::int64_t>(numbers.size())},
                                                std::span<const std::int64_t>(numbers));
  if (call.input(0).type() == ElementType::string) encode(call, names, codes);
  else encode(call, codes, names);
}

void label_encoder_1(Call& call) {
  const auto& texts = call.required<Strings>("classes_strings");
  Integers numbers(texts.size());
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<std::int64_t>(i);
  map_categories(call, texts, numbers);
}

void category_mapper(Call& call) {
  map_categories(call, call.required<Strings>("cats_strings"),
                 call.required<Integers>("cats_int64s"));
}

void array_feature_extractor(Call& call) {
  const Tensor& data = call.input(0);
  call.require(data.rank() >= 1, "input must have a dimension at least, rank", data.rank());
  const Integers columns = call.integers(1);
  const std::int64_t width = data.shape()[data.rank() - 1];
  for (const std::int64_t column : columns) {
    call.require(column >= 0 && column < width, "indices must be in the last axis", column);
  }
  const auto count = static_cast<std::int64_t>(columns.size());
  Shape extents = data.rank() == 1 ? Shape{1, 1} : data.shape();
  extents[extents.rank() - 1] = count;
  Tensor& out = call.output(0, data.type(), extents);
  if (out.size() == 0) return;
  visit_units(call, data.type(), [&]<class T>() {
    const T* source = units<T>(data);
    T* target = mutable_units<T>(out);
    for (std::int64_t row = 0; row < out.size() / count; ++row, source += width) {
      for (const std::int64_t column : columns) *target++ = source[column];
    }
  });
}

void binarizer(Call& call) {
  const Tensor& x = call.input(0);
  const double threshold = call.attribute<float>("threshold", 0.0f);
  Tensor& out = call.output(0, x.type(), x.shape());
  visit_numbers(call, x.type(), [&]<class T>() {
    const T* in = x.data<T>();
    T* values = out.mutable_data<T>();
    for (std::int64_t i = 0; i < x.size(); ++i) {
      const bool above = static_cast<double>(static_cast<Arithmetic<T>>(in[i])) > threshold;
      values[i] = static_cast<T>(above ? 1.0f : 0.0f);
    }
  });
}

// A number for each feature, from a list of one, of as many or of none.
double of_feature(const Floats& list, std::int64_t feature, double fallback) {
  if (list.empty()) return fallback;
  return list[list.size() == 1 ? 0 : static_cast<std::size_t>(feature)];
}

std::int64_t width_of(const Call& call, const Tensor& x) {
  call.require(x.rank() >= 1, "input must have a dimension at least, rank", x.rank());
  return x.shape()[x.rank() - 1];
}

void scaler(Call& call) {
  const Tensor& x = call.input(0);
  const std::int64_t width = width_of(call, x);
  const auto offset = call.attribute<Floats>("offset", {});
  const auto scale = call.attribute<Floats>("scale", {});
  for (const Floats* list : {&offset, &scale}) {
    call.require(list->size() <= 1 || static_cast<std::int64_t>(list->size()) == width,
                 "offset and scale must be one or one for each feature, numbers", list->size());
  }
  const std::vector<double> numbers = numbers_of(call, x);
  auto* out = call.output(0, ElementType::float32, x.shape()).mutable_data<float>();
  std::int64_t feature = 0;
  for (const double number : numbers) {
    const double moved = number - of_feature(offset, feature, 0.0);
    *out++ = static_cast<float>(moved * of_feature(scale, feature, 1.0));
    if (++feature == width) feature = 0;
  }
}

void normalizer(Call& call) {
  const std::string norm = call.text("norm", "MAX");
  call.require(norm == "MAX" || norm == "L1" || norm == "L2", "norm must be MAX, L1 or L2", norm);
  const Features x = features_of(call);
  auto* out = call.output(0, ElementType::float32, call.input(0).shape()).mutable_data<float>();
  call.environment().spend(x.rows);
  for (std::int64_t i = 0; i < x.rows; ++i) {
    double size = 0.0;
    for (std::int64_t k = 0; k < x.width; ++k) {
      const double value = std::abs(x.row(i)[k]);
      if (norm == "MAX") size = std::max(size, value);
      else size += norm == "L1" ? value : value * value;
    }
    if (norm == "L2") size = std::sqrt(size);
    size = std::max(size, 1e-30);
    for (std::int64_t k = 0; k < x.width; ++k) *out++ = static_cast<float>(x.row(i)[k] / size);
  }
}

void one_hot_encoder(Call& call) {
  const Tensor& x = call.input(0);
  Integers places;
  std::int64_t classes = 0;
  if (x.type() == ElementType::string) {
    const Tensor keys = listed(call, "cats");
    classes = keys.size();
    places = places_of(call, keys, x);
  } else {
    const auto& categories = call.required<Integers>("cats_int64s");
    classes = static_cast<std::int64_t>(categories.size());
    std::unordered_map<std::uint64_t, std::int64_t> table;
    for (std::int64_t i = 0; i < classes; ++i) {
      table.try_emplace(bits_of(static_cast<double>(categories[i])), i);
    }
    for (const double number : numbers_of(call, x)) {
      const auto found = table.find(bits_of(number));
      places.push_back(found == table.end() ? -1 : found->second);
    }
  }
  const bool unknown = call.attribute<std::int64_t>("zeros", 1) != 0;
  Shape extents = x.shape();
  extents.push_back(classes);
  Tensor& out = call.output(0, ElementType::float32, extents);
  auto* values = out.mutable_data<float>();
  std::fill_n(values, out.size(), 0.0f);
  for (std::size_t i = 0; i < places.size(); ++i) {
    call.require(unknown || places[i] >= 0, "input must hold categories that there are, element",
                 i);
    if (places[i] >= 0) values[static_cast<std::int64_t>(i) * classes + places[i]] = 1.0f;
  }
}

template <class T, class List>
void impute(Call& call, const Tensor& x, std::int64_t width, const List& imputed, T replaced) {
  call.require(imputed.size() == 1 || static_cast<std::int64_t>(imputed.size()) == width,
               "imputed values must be one or one for each feature, values", imputed.size());
  Tensor& out = call.output(0, x.type(), x.shape());
  const T* in = x.data<T>();
  T* values = out.mutable_data<T>();
  std::int64_t feature = 0;
  for (std::int64_t i = 0; i < x.size(); ++i) {
    bool missing = in[i] == replaced;
    if constexpr (std::is_floating_point_v<T>) {
      missing = missing || (std::isnan(in[i]) && std::isnan(replaced));
    }
    values[i] = missing ? static_cast<T>(imputed[imputed.size() == 1 ? 0 : feature]) : in[i];
    if (++feature == width) feature = 0;
  }
}

void imputer(Call& call) {
  const Tensor& x = call.input(0);
  const std::int64_t width = width_of(call, x);
  const auto floats = call.attribute<Floats>("imputed_value_floats", {});
  const auto integers = call.attribute<Integers>("imputed_value_int64s", {});
  const float gap = call.attribute<float>("replaced_value_float", 0.0f);
  const std::int64_t code = call.attribute<std::int64_t>("replaced_value_int64", 0);
  switch (x.type()) {
    case ElementType::float32: return impute<float>(call, x, width, floats, gap);
    case ElementType::float64: return impute<double>(call, x, width, floats, gap);
    case ElementType::int64: return impute<std::int64_t>(call, x, width, integers, code);
    case ElementType::int32:
      call.require(code >= INT32_MIN && code <= INT32_MAX, "replaced_value_int64 must fit in int32",
                   code);
      return impute<std::int32_t>(call, x, width, integers, static_cast<std::int32_t>(code));
    default: refuse_type(call, "input must be float32, float64, int64 or int32", x.type());
  }
}

void feature_vectorizer(Call& call) {
  const auto& widths = call.required<Integers>("inputdimensions");
  call.require(static_cast<int>(widths.size()) == call.input_count() && !widths.empty(),
               "inputdimensions must be one for each input, dimensions", widths.size());
  const auto rows_of = [](const Tensor& x) { return x.rank() == 0 ? 1 : x.shape()[0]; };
  const std::int64_t rows = rows_of(call.input(0));
  std::int64_t width = 0;
  for (std::size_t i = 0; i < widths.size(); ++i) {
    const Tensor& x = call.input(static_cast<int>(i));
    call.require((x.rank() == 1 || x.rank() == 2) && rows_of(x) == rows,
                 "inputs must be vectors or matrices of as many rows, shape", x.shape());
    call.require(widths[i] >= 0, "inputdimensions must be >= 0", widths[i]);
    width = checked_sum(call, width, widths[i]);
  }
  Tensor& out = call.output(0, ElementType::float32, Shape{rows, width});
  if (out.size() == 0) return;
  auto* target = out.mutable_data<float>();
  for (std::size_t i = 0; i < widths.size(); ++i) {
    const Tensor& x = call.input(static_cast<int>(i));
    const std::vector<double> numbers = numbers_of(call, x);
    const std::int64_t own = x.rank() == 1 ? 1 : x.shape()[1];
    // Columns beyond are cut off, columns that lack are 0.
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t k = 0; k < widths[i]; ++k) {
        target[row * width + k] = k < own ? static_cast<float>(numbers[row * own + k]) : 0.0f;
      }
    }
    target += widths[i];
  }
}

// x * coefficients^T + intercepts, (rows, targets).
Tensor linear(const Call& call, const Features& x, std::int64_t targets) {
  const auto coefficients = call.attribute<Floats>("coefficients", {});
  const auto intercepts = call.attribute<Floats>("intercepts", {});
  call.require(targets >= 1 && static_cast<std::int64_t>(coefficients.size()) ==
                                   checked_product(call, targets, x.width),
               "coefficients must be one for each target and feature, coefficients",
               coefficients.size());
  call.require(intercepts.empty() || static_cast<std::int64_t>(intercepts.size()) == targets,
               "intercepts must be one for each target, intercepts", intercepts.size());
  Tensor scores = call.environment().allocate(ElementType::float64, Shape{x.rows, targets});
  auto* out = scores.mutable_data<double>();
  for (std::int64_t i = 0; i < x.rows; ++i) {
    for (std::int64_t target = 0; target < targets; ++target) {
      double sum = intercepts.empty() ? 0.0 : intercepts[target];
      const float* weights = coefficients.data() + target * x.width;
      for (std::int64_t k = 0; k < x.width; ++k) sum += x.row(i)[k] * weights[k];
      *out++ = sum;
    }
  }
  return scores;
}

void linear_regressor(Call& call) {
  const std::int64_t targets = call.attribute<std::int64_t>("targets", 1);
  const ScoreTransform transform = score_transform(call);
  const Features x = features_of(call);
  Tensor scores = linear(call, x, targets);
  for (std::int64_t i = 0; i < x.rows; ++i) {
    transform_scores(transform, {scores.mutable_data<double>() + i * targets,
                                 static_cast<std::size_t>(targets)});
  }
  write_scores(call, 0, ElementType::float32, scores.shape(), scores.values<double>());
}

void linear_classifier(Call& call) {
  const auto names = call.attribute<Strings>("classlabels_strings", {});
  const auto numbers = call.attribute<Integers>("classlabels_ints", {});
  const std::size_t classes = std::max(names.size(), numbers.size());
  call.require(names.empty() || numbers.empty(), "classlabels must be strings or ints, labels",
               classes);
  const ScoreTransform transform = score_transform(call);
  const Features x = features_of(call);
  call.require(x.width > 0, "input must have features, features", x.width);
  const auto given = static_cast<std::int64_t>(call.attribute<Floats>("coefficients", {}).size());
  Tensor scores = linear(call, x, given / x.width);
  std::int64_t width = given / x.width;
  if (width == 1 && classes == 2) {
    // The one score is that of the second class.
    Tensor both = call.environment().allocate(ElementType::float64, Shape{x.rows, 2});
    for (std::int64_t i = 0; i < x.rows; ++i) {
      const double score = scores.data<double>()[i];
      both.mutable_data<double>()[2 * i] = -score;
      both.mutable_data<double>()[2 * i + 1] = score;
    }
    scores = std::move(both);
    width = 2;
  }
  call.require<UnsupportedError>(width > 1, "there must be two classes at least, classes", width);
  call.require(classes == 0 || static_cast<std::int64_t>(classes) == width,
               "classlabels must be one for each class, labels", classes);
  Tensor& labels =
      call.output(0, names.empty() ? ElementType::int64 : ElementType::string, Shape{x.rows});
  for (std::int64_t i = 0; i < x.rows; ++i) {
    const std::span<double> row{scores.mutable_data<double>() + i * width,
                                static_cast<std::size_t>(width)};
    transform_scores(transform, row);
    const std::int64_t best = best_of(row);
    if (!names.empty()) labels.mutable_strings()[i] = names[best];
    else labels.mutable_data<std::int64_t>()[i] = numbers.empty() ? best : numbers[best];
  }
  write_scores(call, 1, ElementType::float32, scores.shape(), scores.values<double>());
}

constexpr Operator kOperators[] = {
    {"ai.onnx.ml", "LabelEncoder", 1, label_encoder_1},
    {"ai.onnx.ml", "LabelEncoder", 2, label_encoder},
    {"ai.onnx.ml", "CategoryMapper", 1, category_mapper},
    {"ai.onnx.ml", "ArrayFeatureExtractor", 1, array_feature_extractor},
    {"ai.onnx.ml", "Binarizer", 1, binarizer},
    {"ai.onnx.ml", "Scaler", 1, scaler},
    {"ai.onnx.ml", "Normalizer", 1, normalizer},
    {"ai.onnx.ml", "OneHotEncoder", 1, one_hot_encoder},
    {"ai.onnx.ml", "Imputer", 1, imputer},
    {"ai.onnx.ml", "FeatureVectorizer", 1, feature_vectorizer},
    {"ai.onnx.ml", "LinearRegressor", 1, linear_regressor},
    {"ai.onnx.ml", "LinearClassifier", 1, linear_classifier},
};

}  // namespace

std::span<const Operator> classical_operators() noexcept { return kOperators; }

}  // namespace moptcore::inline v0::graph

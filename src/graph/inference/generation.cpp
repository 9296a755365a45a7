// SPDX-License-Identifier: Apache-2.0
// Operators that make tensors of shapes and parameters, signals and texts.
#include <algorithm>
#include <cmath>

#include "graph/inference/rule.hpp"

namespace moptcore::inline v0::graph {
namespace {

void constant(Inference& call) {
  for (const Attribute& attribute : call.node().attributes) {
    if (const auto* tensor = std::get_if<Tensor>(&attribute.value)) {
      Extents dims;
      for (const std::int64_t extent : tensor->shape()) dims.push_back(call.k(extent));
      Fact fact = Fact::tensor(tensor->type(), dims);
      fact.constant = *tensor;
      call.set(0, std::move(fact));
    } else if (attribute.name == "value_float") {
      call.set(0, ElementType::float32, Extents{});
    } else if (attribute.name == "value_int") {
      call.set(0, ElementType::int64, Extents{});
      call.set_content({call.k(call.attribute<std::int64_t>("value_int", 0))});
    } else if (attribute.name == "value_string") {
      call.set(0, ElementType::string, Extents{});
    } else if (const auto* floats = std::get_if<std::vector<float>>(&attribute.value)) {
      call.set(0, ElementType::float32, Extents{call.k(static_cast<std::int64_t>(floats->size()))});
    } else if (const auto* ints = std::get_if<std::vector<std::int64_t>>(&attribute.value)) {
      call.set(0, ElementType::int64, Extents{call.k(static_cast<std::int64_t>(ints->size()))});
      if (ints->size() > kMaxContent) return;
      Extents content;
      for (const std::int64_t value : *ints) content.push_back(call.k(value));
      call.set_content(std::move(content));
    } else if (const auto* texts = std::get_if<std::vector<std::string>>(&attribute.value)) {
      call.set(0, ElementType::string, Extents{call.k(static_cast<std::int64_t>(texts->size()))});
    }
  }
}

// The extents that a shape input gives.
std::optional<Extents> extents_of(Inference& call, int index) {
  auto content = call.content(index);
  if (!content) {
    if (call.rank(index) != 1) return std::nullopt;
    const auto rank = call.x.value((*call.dims(index))[0]);
    if (!rank || *rank < 0 || *rank > kMaxRank) return std::nullopt;
    return call.fresh(static_cast<int>(*rank));
  }
  for (Extent& extent : *content) {
    const auto value = call.x.value(extent);
    call.require(!value || *value >= 0, "extents must be >= 0", value.value_or(0));
    if (call.x.lower_bound(extent).value_or(-1) < 0) extent = call.x.fresh();
  }
  return content;
}

void constant_of_shape(Inference& call) {
  const Attribute* value = call.node().find("value");
  const Tensor* tensor = value == nullptr ? nullptr : std::get_if<Tensor>(&value->value);
  const ElementType element = tensor == nullptr ? ElementType::float32 : tensor->type();
  call.set(0, element, extents_of(call, 0));
  const auto shape = call.integers(0);
  if (!shape || shape->size() > 1 || tensor == nullptr || tensor->size() != 1) return;
  const std::int64_t count = shape->empty() ? 1 : shape->front();
  if (count < 0 || count > static_cast<std::int64_t>(kMaxContent)) return;
  if (element != ElementType::int64) return;
  call.set_content(
      Extents(static_cast<std::size_t>(count), call.k(tensor->values<std::int64_t>()[0])));
}

void range(Inference& call) {
  const auto start = call.content(0);
  const auto limit = call.content(1);
  const auto delta = call.content(2);
  Extent count = call.x.fresh();
  const bool single =
      start && limit && delta && start->size() == 1 && limit->size() == 1 && delta->size() == 1;
  std::optional<std::int64_t> step;
  if (single) {
    step = call.x.value(delta->front());
    if (step && *step > 0) {
      const Extent distance = call.x.subtract(limit->front(), start->front());
      count = call.x.maximum(call.k(0), call.x.ceil_divide(distance, delta->front()));
    } else if (step && *step < 0 && *step > INT64_MIN) {
      const Extent distance = call.x.subtract(start->front(), limit->front());
      count = call.x.maximum(call.k(0), call.x.ceil_divide(distance, call.k(-*step)));
    }
  }
  if (!call.x.value(count)) {
    const auto a = call.numbers(0);
    const auto b = call.numbers(1);
    const auto c = call.numbers(2);
    if (a && b && c && a->size() == 1 && b->size() == 1 && c->size() == 1 && c->front() != 0) {
      const double steps = std::ceil((b->front() - a->front()) / c->front());
      if (steps >= 0 && steps < 4503599627370496.0) {
        count = call.k(static_cast<std::int64_t>(steps));
      } else if (steps < 0) {
        count = call.k(0);
      }
    }
  }
  call.set(0, call.element(0), Extents{count});
  const auto known = call.x.value(count);
  if (single && step && known && *known <= static_cast<std::int64_t>(kMaxContent)) {
    Extents content;
    Extent next = start->front();
    for (std::int64_t i = 0; i < *known; ++i) {
      content.push_back(next);
      next = call.x.add(next, delta->front());
    }
    call.set_content(std::move(content));
  }
}

void eye_like(Inference& call) {
  call.set(0, call.type_attribute("dtype", call.element(0)), call.dims(0));
}

void one_hot(Inference& call) {
  if (!call.dims(0)) {
    call.set(0, call.element(2));
    return;
  }
  Extents dims = *call.dims(0);
  const int axis =
      call.axis(call.attribute<std::int64_t>("axis", -1), static_cast<int>(dims.size()) + 1);
  Extent depth = call.x.fresh();
  if (const auto content = call.content(1); content && content->size() == 1) {
    if (call.x.lower_bound(content->front()).value_or(-1) >= 0) depth = content->front();
  }
  dims.insert(dims.begin() + axis, depth);
  call.set(0, call.element(2), dims);
}

void random(Inference& call) {
  Extents dims;
  for (const std::int64_t extent : call.ints("shape")) dims.push_back(call.k(extent));
  call.set(0, call.type_attribute("dtype", ElementType::float32), dims);
}

void multinomial(Inference& call) {
  const Extent batch = call.must_have_rank(0, 2) ? (*call.dims(0))[0] : call.x.fresh();
  call.set(0, call.type_attribute("dtype", ElementType::int32),
           Extents{batch, call.k(call.attribute<std::int64_t>("sample_size", 1))});
}

Extent length_of(Inference& call, int index) {
  const auto content = call.content(index);
  if (content && content->size() == 1 && call.x.lower_bound(content->front()).value_or(-1) >= 0) {
    return content->front();
  }
  return call.x.fresh();
}

void window(Inference& call) {
  call.set(0, call.type_attribute("output_datatype", ElementType::float32),
           Extents{length_of(call, 0)});
}

void mel_weights(Inference& call) {
  Extent bins = length_of(call, 1);
  bins = call.x.add(call.x.floor_divide(bins, 2), 1);
  call.set(0, call.type_attribute("output_datatype", ElementType::float32),
           Extents{bins, length_of(call, 0)});
}

void dft(Inference& call) {
  if (!call.must_have_rank_from(0, 2)) {
    call.set(0, call.element(0));
    return;
  }
  Extents dims = *call.dims(0);
  const bool inverse = call.attribute<std::int64_t>("inverse", 0) != 0;
  const bool onesided = call.attribute<std::int64_t>("onesided", 0) != 0;
  std::optional<std::int64_t> axis = call.version() >= 20 ? -2 : 1;
  if (call.version() >= 20) {
    if (call.has(2)) axis = call.integer(2);
  } else {
    axis = call.attribute<std::int64_t>("axis", 1);
  }
  dims.back() = call.k(inverse && onesided ? 1 : 2);
  if (!axis && !onesided && !call.has(1)) {
    call.set(0, call.element(0), dims);
    return;
  }
  if (!axis) {
    for (std::size_t i = 0; i + 1 < dims.size(); ++i) dims[i] = call.x.fresh();
    call.set(0, call.element(0), dims);
    return;
  }
  const int index = call.axis(*axis, call.rank(0));
  Extent length = dims[index];
  if (call.has(1)) length = length_of(call, 1);
  else if (inverse && onesided) length = call.x.multiply(call.x.add(length, -1), 2);
  if (onesided && !inverse) length = call.x.add(call.x.floor_divide(length, 2), 1);
  if (call.x.lower_bound(length).value_or(-1) < 0 && !call.x.value(length)) {
    length = call.x.fresh();
  }
  dims[index] = length;
  call.set(0, call.element(0), dims);
}

void stft(Inference& call) {
  const Extent batch = call.rank(0) >= 1 ? (*call.dims(0))[0] : call.x.fresh();
  std::optional<Extent> length;
  if (call.has(3)) {
    length = length_of(call, 3);
  } else if (call.has(2) && call.rank(2) == 1) {
    length = (*call.dims(2))[0];
  }
  Extent frames = call.x.fresh();
  Extent bins = call.x.fresh();
  const auto step = call.content(1);
  if (length && call.rank(0) >= 2 && step && step->size() == 1 &&
      call.x.lower_bound(step->front()).value_or(0) >= 1) {
    frames = call.x.add(
        call.x.floor_divide(call.x.subtract((*call.dims(0))[1], *length), step->front()), 1);
  }
  if (length) {
    bins = call.attribute<std::int64_t>("onesided", 1) != 0
               ? call.x.add(call.x.floor_divide(*length, 2), 1)
               : *length;
  }
  call.set(0, call.element(0), Extents{batch, frames, bins, call.k(2)});
}

void tf_idf(Inference& call) {
  std::optional<Extents> dims = call.dims(0);
  const auto indexes = call.ints("ngram_indexes");
  if (dims && !indexes.empty()) {
    const std::int64_t greatest = *std::ranges::max_element(indexes);
    call.require(greatest >= 0 && greatest < INT64_MAX, "ngram_indexes must be >= 0", greatest);
    if (dims->empty()) dims->push_back(call.k(greatest + 1));
    else dims->back() = call.k(greatest + 1);
  } else {
    dims.reset();
  }
  call.set(0, ElementType::float32, dims);
}

void string_normalizer(Inference& call) {
  std::optional<Extents> dims = call.dims(0);
  if (dims && !dims->empty()) {
    const bool removes = !call.attribute<std::vector<std::string>>("stopwords", {}).empty();
    if (removes) dims->back() = call.x.fresh();
  }
  call.set(0, ElementType::string, dims);
}

void string_split(Inference& call) {
  std::optional<Extents> dims = call.dims(0);
  call.set(1, ElementType::int64, dims);
  if (dims) dims->push_back(call.x.fresh());
  call.set(0, ElementType::string, dims);
}

void regex_full_match(Inference& call) { call.set(0, ElementType::boolean, call.dims(0)); }

void image_decoder(Inference& call) {
  const bool gray = call.text("pixel_format", "RGB") == "Grayscale";
  call.set(0, ElementType::uint8, Extents{call.x.fresh(), call.x.fresh(), call.k(gray ? 1 : 3)});
}

constexpr Rule kRules[] = {
    {"", "BlackmanWindow", window},
    {"", "Constant", constant},
    {"", "ConstantOfShape", constant_of_shape},
    {"", "DFT", dft},
    {"", "EyeLike", eye_like},
    {"", "HammingWindow", window},
    {"", "HannWindow", window},
    {"", "ImageDecoder", image_decoder},
    {"", "MelWeightMatrix", mel_weights},
    {"", "Multinomial", multinomial},
    {"", "OneHot", one_hot},
    {"", "RandomNormal", random},
    {"", "RandomUniform", random},
    {"", "Range", range},
    {"", "RegexFullMatch", regex_full_match},
    {"", "STFT", stft},
    {"", "StringNormalizer", string_normalizer},
    {"", "StringSplit", string_split},
    {"", "TfIdfVectorizer", tf_idf},
};

}  // namespace

std::span<const Rule> generation_rules() noexcept { return kRules; }

}  // namespace moptcore::inline v0::graph

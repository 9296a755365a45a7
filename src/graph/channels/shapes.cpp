// SPDX-License-Identifier: Apache-2.0
#include "graph/channels/shapes.hpp"

#include <algorithm>
#include <cstring>
#include <limits>

#include <moptcore/graph/infer.hpp>

namespace moptcore::inline v0::graph::channels {
namespace {

constexpr std::size_t kMostElements = 64;

// A position in a vector, counted from either end and kept within it.
std::int64_t clamped(std::int64_t position, std::int64_t size) {
  if (position < 0) position = position < -size ? 0 : position + size;
  return std::min(position, size);
}

using Elements = std::optional<std::vector<Element>>;

Elements elements_of_shape(const Coupling& all, const Walk& walk) {
  const Track& source = walk.in(0);
  if (!source.ranked) return std::nullopt;
  const std::int64_t rank = source.rank();
  const std::int64_t start = clamped(walk.node().get<std::int64_t>("start", 0), rank);
  const std::int64_t end = clamped(walk.node().get<std::int64_t>("end", rank), rank);
  std::vector<Element> elements;
  const std::int32_t id = all.find_track(source.name);
  for (std::int64_t axis = start; axis < end; ++axis) {
    elements.push_back({std::nullopt, {{id, static_cast<int>(axis)}}});
  }
  return elements;
}

Elements gathered(const Walk& walk, const std::vector<Element>& source) {
  const auto indices = walk.integers(1);
  const auto size = static_cast<std::int64_t>(source.size());
  if (!indices || walk.node().get<std::int64_t>("axis", 0) > 0) return std::nullopt;
  std::vector<Element> elements;
  for (const std::int64_t index : *indices) {
    if (index < -size || index >= size) return std::nullopt;
    elements.push_back(source[static_cast<std::size_t>(index < 0 ? index + size : index)]);
  }
  return elements;
}

Elements sliced(const Coupling& all, const Walk& walk, const std::vector<Element>& source) {
  const auto ranges = slice_ranges(all, walk.node(), walk.version());
  if (!ranges || ranges->size() > 1 || (ranges->size() == 1 && !ranges->contains(0))) {
    return std::nullopt;
  }
  std::vector<Element> elements;
  if (ranges->empty()) return source;
  const auto& [start, step] = ranges->at(0);
  const Track& result = walk.out(0);
  if (!result.ranked || result.rank() != 1 || result.axes[0].extent < 0) return std::nullopt;
  const auto size = static_cast<std::int64_t>(source.size());
  std::int64_t at = start;
  for (std::int64_t i = 0; i < result.axes[0].extent; ++i, at += step) {
    if (at < 0 || at >= size) return std::nullopt;
    elements.push_back(source[static_cast<std::size_t>(at)]);
  }
  return elements;
}

}  // namespace

std::map<std::string, const ValueType*, std::less<>> types_of(const Model& model) {
  std::map<std::string, const ValueType*, std::less<>> types;
  for (const auto* infos : {&model.graph.values, &model.graph.inputs, &model.graph.outputs}) {
    for (const ValueInfo& info : *infos) {
      // What inference wrote of a value between says more than what the file says of outputs.
      const auto [place, fresh] = types.emplace(info.name, &info.type);
      if (!fresh && !place->second->dimensions.has_value()) place->second = &info.type;
    }
  }
  return types;
}

void infer_with_constants(Model& model) {
  const std::vector<ValueInfo> inputs = model.graph.inputs;
  std::erase_if(model.graph.inputs, [&](const ValueInfo& input) {
    return model.graph.initializers.contains(input.name);
  });
  infer_types(model);
  model.graph.inputs = inputs;
}

std::optional<std::vector<std::int64_t>> integers_of(const Tensor& tensor) {
  if (tensor.rank() > 1 || tensor.size() > (std::int64_t{1} << 20)) return std::nullopt;
  std::vector<std::int64_t> values(static_cast<std::size_t>(tensor.size()));
  if (tensor.type() == ElementType::int64) {
    std::ranges::copy(tensor.values<std::int64_t>(), values.begin());
  } else if (tensor.type() == ElementType::int32) {
    std::ranges::copy(tensor.values<std::int32_t>(), values.begin());
  } else {
    return std::nullopt;
  }
  return values;
}

std::optional<Tensor> constant_of(const Node& node) {
  for (const Attribute& attribute : node.attributes) {
    if (!attribute.reference.empty()) return std::nullopt;
    const AttributeValue& value = attribute.value;
    if (attribute.name == "value") {
      const auto* tensor = std::get_if<Tensor>(&value);
      return tensor == nullptr ? std::nullopt : std::optional(*tensor);
    }
    if (attribute.name == "value_int") {
      if (const auto* one = std::get_if<std::int64_t>(&value)) return Tensor::scalar(*one);
    } else if (attribute.name == "value_float") {
      if (const auto* one = std::get_if<float>(&value)) return Tensor::scalar(*one);
    } else if (attribute.name == "value_ints") {
      if (const auto* many = std::get_if<std::vector<std::int64_t>>(&value)) {
        return Tensor::of<std::int64_t>({static_cast<std::int64_t>(many->size())}, *many);
      }
    } else if (attribute.name == "value_floats") {
      if (const auto* many = std::get_if<std::vector<float>>(&value)) {
        return Tensor::of<float>({static_cast<std::int64_t>(many->size())}, *many);
      }
    }
  }
  return std::nullopt;
}

std::optional<Tensor> filled_of(const Node& node, const Tensor& shape, std::int64_t most) {
  const auto extents = integers_of(shape);
  if (!extents || extents->size() > static_cast<std::size_t>(kMaxRank)) return std::nullopt;
  Tensor value = Tensor::scalar(0.0F);
  if (const Attribute* given = node.find("value")) {
    const auto* tensor = std::get_if<Tensor>(&given->value);
    if (tensor == nullptr || tensor->size() != 1) return std::nullopt;
    value = *tensor;
  }
  const int width = bit_width(value.type()) / 8;
  if (width == 0) return std::nullopt;
  std::int64_t count = 1;
  for (const std::int64_t extent : *extents) {
    if (extent <= 0 || extent > most / width / count) return std::nullopt;
    count *= extent;
  }
  Tensor filled(value.type(), Shape(std::span<const std::int64_t>(*extents)));
  auto* bytes = static_cast<unsigned char*>(filled.mutable_raw());
  for (std::int64_t i = 0; i < count; ++i) {
    std::memcpy(bytes + i * width, value.raw(), static_cast<std::size_t>(width));
  }
  return filled;
}

std::optional<std::vector<Element>> shape_elements(const Coupling& all, const Walk& walk) {
  const Node& node = walk.node();
  if (!node.domain.empty() || node.outputs.size() != 1) return std::nullopt;
  Elements elements;
  if (node.op_type == "Shape") {
    elements = elements_of_shape(all, walk);
  } else if (node.op_type == "Concat") {
    elements.emplace();
    for (int i = 0; i < walk.input_count(); ++i) {
      const auto* part = walk.elements(i);
      if (part == nullptr) return std::nullopt;
      elements->insert(elements->end(), part->begin(), part->end());
    }
  } else {
    const auto* source = walk.elements(0);
    if (source == nullptr) return std::nullopt;
    if (node.op_type == "Gather") {
      elements = gathered(walk, *source);
    } else if (node.op_type == "Slice") {
      elements = sliced(all, walk, *source);
    } else if (node.op_type == "Squeeze" || node.op_type == "Unsqueeze" ||
               node.op_type == "Identity" || node.op_type == "Reshape") {
      elements = *source;
    } else if (node.op_type == "Cast") {
      const auto to = node.get<std::int64_t>("to", 0);
      const bool whole =
          to == static_cast<int>(ElementType::int64) || to == static_cast<int>(ElementType::int32);
      if (whole) elements = *source;
    }
  }
  if (elements && elements->size() > kMostElements) return std::nullopt;
  return elements;
}

std::optional<std::vector<std::int64_t>> reshape_template(const Coupling& all, const Node& node) {
  const std::int32_t from = all.find_track(node.inputs[0]);
  const std::int32_t to = all.find_track(node.outputs[0]);
  if (from < 0 || to < 0) return std::nullopt;
  const Track& source = all.tracks()[static_cast<std::size_t>(from)];
  const Track& result = all.tracks()[static_cast<std::size_t>(to)];
  if (!source.ranked || !result.ranked) return std::nullopt;
  const auto* given = all.elements(node.inputs[1]);
  const bool copies = node.get<std::int64_t>("allowzero", 0) == 0;
  std::vector<std::int64_t> shape;
  int unknown = 0;
  for (int axis = 0; axis < result.rank(); ++axis) {
    const auto at = static_cast<std::size_t>(axis);
    const Axis& own = result.axes[at];
    if (own.extent >= 0) {
      shape.push_back(kOwnExtent);
      continue;
    }
    const bool zero = given != nullptr && at < given->size() && (*given)[at].value == 0;
    const bool copied = axis < source.rank() && source.axes[at].extent < 0 &&
                        (zero || (!own.symbol.empty() && own.symbol == source.axes[at].symbol));
    if (copies && copied) {
      shape.push_back(0);
    } else {
      shape.push_back(-1);
      ++unknown;
    }
  }
  if (unknown > 1) return std::nullopt;
  return shape;
}

std::optional<std::vector<std::int64_t>> expand_template(const Coupling& all, const Node& node) {
  const std::int32_t from = all.find_track(node.inputs[0]);
  const std::int32_t to = all.find_track(node.outputs[0]);
  if (from < 0 || to < 0) return std::nullopt;
  const Track& source = all.tracks()[static_cast<std::size_t>(from)];
  const Track& result = all.tracks()[static_cast<std::size_t>(to)];
  if (!source.ranked || !result.ranked) return std::nullopt;
  const int missing = result.rank() - source.rank();
  std::vector<std::int64_t> shape;
  for (int axis = 0; axis < result.rank(); ++axis) {
    const Axis& own = result.axes[static_cast<std::size_t>(axis)];
    const Axis* old =
        axis < missing ? nullptr : &source.axes[static_cast<std::size_t>(axis - missing)];
    const bool same = old != nullptr && old->extent == own.extent &&
                      (own.extent >= 0 || (!own.symbol.empty() && own.symbol == old->symbol));
    if (same) shape.push_back(1);
    else if (own.extent >= 0) shape.push_back(kOwnExtent);
    else return std::nullopt;
  }
  return shape;
}

namespace {

struct SliceOperands {
  std::optional<std::vector<std::int64_t>> starts, ends, axes, steps;
};

SliceOperands slice_operands(const Coupling& all, const Node& node, std::int64_t version) {
  SliceOperands operands;
  if (version < 10) {
    const auto attribute = [&](std::string_view name) {
      std::optional<std::vector<std::int64_t>> values;
      if (const Attribute* found = node.find(name)) {
        if (const auto* many = std::get_if<std::vector<std::int64_t>>(&found->value)) {
          values = *many;
        }
      }
      return values;
    };
    operands = {attribute("starts"), attribute("ends"), attribute("axes"), {}};
    if (!operands.axes && operands.starts) {
      operands.axes.emplace();
      for (std::size_t i = 0; i < operands.starts->size(); ++i) {
        operands.axes->push_back(static_cast<std::int64_t>(i));
      }
    }
    if (operands.starts) operands.steps.emplace(operands.starts->size(), 1);
    return operands;
  }
  const auto input = [&](std::size_t i) -> std::optional<std::vector<std::int64_t>> {
    if (i >= node.inputs.size() || node.inputs[i].empty()) return std::nullopt;
    return all.integers(node.inputs[i]);
  };
  const auto left_out = [&](std::size_t i) {
    return i >= node.inputs.size() || node.inputs[i].empty();
  };
  operands = {input(1), input(2), input(3), input(4)};
  std::size_t count = 0;
  if (operands.starts) count = operands.starts->size();
  else if (operands.ends) count = operands.ends->size();
  if (left_out(3) && count > 0) {
    operands.axes.emplace();
    for (std::size_t i = 0; i < count; ++i) operands.axes->push_back(static_cast<std::int64_t>(i));
  }
  if (left_out(4)) operands.steps.emplace(count, 1);
  return operands;
}

}  // namespace

std::optional<std::set<int>> slice_axes(const Coupling& all, const Node& node,
                                        std::int64_t version) {
  const SliceOperands operands = slice_operands(all, node, version);
  const std::int32_t from = all.find_track(node.inputs[0]);
  if (!operands.axes || from < 0) return std::nullopt;
  const int rank = all.tracks()[static_cast<std::size_t>(from)].rank();
  std::set<int> axes;
  for (const std::int64_t axis : *operands.axes) {
    if (axis < -rank || axis >= rank) return std::nullopt;
    axes.insert(static_cast<int>(axis < 0 ? axis + rank : axis));
  }
  return axes;
}

std::optional<std::map<int, SliceRange>> slice_ranges(const Coupling& all, const Node& node,
                                                      std::int64_t version) {
  const SliceOperands operands = slice_operands(all, node, version);
  const std::int32_t from = all.find_track(node.inputs[0]);
  if (!operands.starts || !operands.ends || !operands.axes || !operands.steps || from < 0) {
    return std::nullopt;
  }
  const Track& source = all.tracks()[static_cast<std::size_t>(from)];
  const std::size_t count = operands.starts->size();
  if (operands.ends->size() != count || operands.axes->size() != count ||
      operands.steps->size() != count) {
    return std::nullopt;
  }
  std::map<int, SliceRange> ranges;
  for (std::size_t i = 0; i < count; ++i) {
    const int rank = source.rank();
    const std::int64_t given = (*operands.axes)[i];
    if (given < -rank || given >= rank) return std::nullopt;
    const int axis = static_cast<int>(given < 0 ? given + rank : given);
    const std::int64_t extent = source.axes[static_cast<std::size_t>(axis)].extent;
    const std::int64_t step = (*operands.steps)[i];
    std::int64_t start = (*operands.starts)[i];
    if (extent >= 0) {
      if (start < 0) start = start < -extent ? 0 : start + extent;
      start = std::min(start, step < 0 ? std::max<std::int64_t>(extent - 1, 0) : extent);
    }
    ranges[axis] = {start, step};
  }
  return ranges;
}

}  // namespace moptcore::inline v0::graph::channels

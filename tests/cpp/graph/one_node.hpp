// SPDX-License-Identifier: Apache-2.0
// Models of one node, and small tensors to run them on.
#pragma once

#include <moptcore/graph/evaluate.hpp>

#include <algorithm>
#include <complex>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "catch.hpp"

namespace one_node {

using namespace moptcore;
using namespace moptcore::graph;

struct Op {
  std::string name;
  std::int64_t opset = 21;
  std::vector<std::pair<std::string, AttributeValue>> attributes = {};
  int outputs = 1;
  std::string domain = {};
};

/// What the node gives for these inputs; one without a value is left out.
inline std::vector<Value> run(const Op& op, const std::vector<Value>& inputs,
                              const EvaluateOptions& options = {}) {
  Model model;
  model.opsets = {{"", op.domain.empty() ? op.opset : 21}};
  if (!op.domain.empty()) model.opsets[op.domain] = op.opset;
  Node node;
  node.op_type = op.name;
  node.domain = op.domain;
  for (const auto& [name, value] : op.attributes) node.set(name, value);
  Values given;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i].has_value()) {
      node.inputs.emplace_back();
      continue;
    }
    const std::string name = "x" + std::to_string(i);
    node.inputs.push_back(name);
    model.graph.inputs.push_back({name, {}, {}, {}, {}});
    given[name] = inputs[i];
  }
  for (int i = 0; i < op.outputs; ++i) {
    const std::string name = "y" + std::to_string(i);
    node.outputs.push_back(name);
    model.graph.outputs.push_back({name, {}, {}, {}, {}});
  }
  model.graph.nodes = {node};
  const Values outputs = evaluate(model, given, options);
  std::vector<Value> results;
  for (const std::string& name : node.outputs) results.push_back(outputs.at(name));
  return results;
}

inline Tensor first(const Op& op, const std::vector<Value>& inputs,
                    const EvaluateOptions& options = {}) {
  return run(op, inputs, options).front().tensor();
}

inline Tensor floats(const Shape& shape, const std::vector<float>& values) {
  return Tensor::of<float>(shape, std::span<const float>(values));
}
inline Tensor longs(const Shape& shape, const std::vector<std::int64_t>& values) {
  return Tensor::of<std::int64_t>(shape, std::span<const std::int64_t>(values));
}
/// A vector of int64, as shapes and axes are given.
inline Tensor list(const std::vector<std::int64_t>& values) {
  return longs(Shape{static_cast<std::int64_t>(values.size())}, values);
}
/// 0, 1, 2 ... as float32.
inline Tensor iota(const Shape& shape) {
  Tensor tensor(ElementType::float32, shape);
  for (std::int64_t i = 0; i < tensor.size(); ++i) {
    tensor.mutable_data<float>()[i] = static_cast<float>(i);
  }
  return tensor;
}
/// Elements of a type without a C++ type, from their bytes.
inline Tensor bytes(ElementType type, const Shape& shape, const std::vector<int>& values) {
  Tensor tensor(type, shape);
  REQUIRE(static_cast<std::int64_t>(values.size()) == tensor.bytes());
  for (std::size_t i = 0; i < values.size(); ++i) {
    static_cast<std::uint8_t*>(tensor.mutable_raw())[i] = static_cast<std::uint8_t>(values[i]);
  }
  return tensor;
}

template <class T>
std::vector<T> values_of(const Tensor& tensor) {
  const auto all = tensor.values<T>();
  return {all.begin(), all.end()};
}
inline std::vector<float> floats_of(const Tensor& tensor) { return values_of<float>(tensor); }
inline std::vector<std::int64_t> longs_of(const Tensor& tensor) {
  return values_of<std::int64_t>(tensor);
}
inline std::vector<int> bytes_of(const Tensor& tensor) {
  const auto* raw = static_cast<const std::uint8_t*>(tensor.raw());
  return {raw, raw + tensor.bytes()};
}
inline std::vector<std::string> strings_of(const Tensor& tensor) {
  const auto all = tensor.strings();
  return {all.begin(), all.end()};
}

/// Random shapes for oracles: extents 0 to 4, seldom empty.
inline Shape random_shape(std::mt19937& random, int rank) {
  Shape shape;
  for (int axis = 0; axis < rank; ++axis) {
    shape.push_back(random() % 16 == 0 ? 0 : 1 + static_cast<std::int64_t>(random() % 4));
  }
  return shape;
}
inline std::int64_t between(std::mt19937& random, std::int64_t low, std::int64_t high) {
  return low + static_cast<std::int64_t>(random() % static_cast<unsigned>(high - low + 1));
}

/// Calls f with each index of a shape, row-major.
template <class F>
void for_each_index(const Shape& shape, F&& f) {
  if (element_count(shape) == 0) return;
  std::vector<std::int64_t> index(shape.size(), 0);
  while (true) {
    f(index);
    int axis = shape.rank() - 1;
    for (; axis >= 0; --axis) {
      if (++index[axis] < shape[axis]) break;
      index[axis] = 0;
    }
    if (axis < 0) return;
  }
}

/// Where an index lies, row-major.
inline std::int64_t at(const Shape& shape, const std::vector<std::int64_t>& index) {
  std::int64_t place = 0;
  for (int axis = 0; axis < shape.rank(); ++axis) place = place * shape[axis] + index[axis];
  return place;
}

}  // namespace one_node

// SPDX-License-Identifier: Apache-2.0
// One node with attributes by name, and random tensors for it.
#pragma once

#include <random>
#include <string>
#include <utility>
#include <vector>

#include <moptcore/graph/evaluate.hpp>

#include "graph/run_node.hpp"

namespace moptcore::test {

/// SingleNode(op).with("pads", list).with("group", 2).run({x, w}, version).
class SingleNode {
 public:
  explicit SingleNode(std::string op, std::string domain = "") {
    node_.op_type = std::move(op);
    node_.domain = std::move(domain);
  }

  SingleNode& with(const std::string& name, graph::AttributeValue value) {
    node_.set(name, std::move(value));
    return *this;
  }
  SingleNode& ints(const std::string& name, std::vector<std::int64_t> value) {
    return with(name, std::move(value));
  }

  /// The first `outputs` outputs; a Value without content among the inputs is left out.
  [[nodiscard]] std::vector<graph::Tensor> run(const std::vector<graph::Value>& inputs,
                                               std::int64_t version, int outputs = 1) const {
    run_node::Options options;
    options.version = version;
    options.outputs = outputs;
    options.domain = node_.domain;
    for (const graph::Attribute& attribute : node_.attributes) {
      options.attributes.emplace_back(attribute.name, attribute.value);
    }
    std::vector<graph::Tensor> tensors;
    for (const graph::Value& value : run_node::run_all(node_.op_type, inputs, options)) {
      tensors.push_back(value.tensor());
    }
    return tensors;
  }

 private:
  graph::Node node_;
};

/// Numbers in [-1, 1).
template <class T = float>
[[nodiscard]] graph::Tensor random_tensor(std::mt19937& random, const Shape& shape) {
  std::uniform_real_distribution<double> distribution(-1.0, 1.0);
  graph::Tensor tensor(graph::type_of<T>(), shape);
  T* values = tensor.mutable_data<T>();
  for (std::int64_t i = 0; i < tensor.size(); ++i) values[i] = static_cast<T>(distribution(random));
  return tensor;
}

/// An integer in [low, high].
[[nodiscard]] inline std::int64_t pick(std::mt19937& random, std::int64_t low, std::int64_t high) {
  return std::uniform_int_distribution<std::int64_t>(low, high)(random);
}

}  // namespace moptcore::test

// SPDX-License-Identifier: Apache-2.0
// What an operator of ONNX computes: one plain loop for each, found by domain, name and version.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <moptcore/core/export.hpp>
#include <moptcore/graph/model.hpp>

namespace moptcore::inline v0::graph {

/// What an operator needs of whoever runs it.
class MOPTCORE_API Environment {
 public:
  Environment() = default;
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;
  virtual ~Environment();

  /// Memory for an output, uninitialized. Throws Error where a limit of the environment is passed.
  virtual Tensor allocate(ElementType type, const Shape& shape) = 0;

  /// Runs a subgraph of the node that is being run, which also sees the values around it.
  virtual std::vector<Value> run(const Graph& body, std::span<const Value> inputs) = 0;

  /// Different for each call of a run, the same in every run with the same seed.
  virtual std::uint64_t next_seed() = 0;

  /// Counts iterations of loops and other work that no allocation bounds. Throws Error beyond the
  /// limit.
  virtual void spend(std::int64_t steps) = 0;
};

/// One execution of a node: checked access to inputs and attributes, room for outputs. Every error
/// names the operator: `[graph.Gather] axis must be in [-2, 2), got 3`.
class MOPTCORE_API Call {
 public:
  Call(const Node& node, std::int64_t version, std::span<const Value* const> inputs,
       std::span<Value> outputs, Environment& environment)
      : node_(&node),
        version_(version),
        inputs_(inputs),
        outputs_(outputs),
        environment_(&environment) {}

  [[nodiscard]] const Node& node() const noexcept { return *node_; }
  /// Of the domain of the node in the model: operators behave by it.
  [[nodiscard]] std::int64_t version() const noexcept { return version_; }
  [[nodiscard]] Environment& environment() const noexcept { return *environment_; }
  /// "graph.Gather".
  [[nodiscard]] std::string where() const { return "graph." + node_->op_type; }

  [[nodiscard]] int input_count() const noexcept { return static_cast<int>(inputs_.size()); }
  [[nodiscard]] int output_count() const noexcept { return static_cast<int>(outputs_.size()); }

  /// True where input `index` is given and has a value.
  [[nodiscard]] bool has(int index) const noexcept {
    return index < input_count() && inputs_[index] != nullptr && inputs_[index]->has_value();
  }
  /// Throws FormatError where it is left out.
  [[nodiscard]] const Value& value(int index) const;
  [[nodiscard]] const Tensor& input(int index) const;
  /// A required input of one type; DTypeError otherwise.
  [[nodiscard]] const Tensor& input(int index, ElementType type) const;
  /// int32 or int64 elements, such as axes, shapes and pads; DTypeError otherwise.
  [[nodiscard]] std::vector<std::int64_t> integers(int index) const;
  /// One of them, of a tensor with one element.
  [[nodiscard]] std::int64_t integer(int index) const;

  /// Attributes, or what they are where the node has none.
  template <class T>
  [[nodiscard]] T attribute(std::string_view name, T fallback) const {
    return node_->get<T>(name, std::move(fallback));
  }
  [[nodiscard]] std::string text(std::string_view name, std::string fallback) const {
    return node_->get<std::string>(name, std::move(fallback));
  }
  /// Of an attribute that must be there; FormatError otherwise.
  template <class T>
  [[nodiscard]] const T& required(std::string_view name) const {
    const Attribute* found = node_->find(name);
    check<FormatError>(found != nullptr, where(), "an attribute must be given", name);
    const T* value = std::get_if<T>(&found->value);
    check<FormatError>(value != nullptr, where(),
                       "attribute must be of the kind that its operator has", name);
    return *value;
  }

  /// True where somebody reads output `index`.
  [[nodiscard]] bool wants(int index) const noexcept {
    return index < static_cast<int>(node_->outputs.size()) && !node_->outputs[index].empty();
  }
  /// Makes output `index`, uninitialized.
  Tensor& output(int index, ElementType type, const Shape& shape);
  /// Sets output `index` to a tensor or sequence, perhaps one that shares an input's memory.
  void set(int index, Value value);

  /// Throws E("[graph.<op>] rule, got value") unless `ok`.
  template <class E = Error, class Got>
  void require(bool ok, std::string_view rule, const Got& got) const {
    if (!ok) [[unlikely]]
      check<E>(false, where(), rule, got);
  }

 private:
  const Node* node_;
  std::int64_t version_;
  std::span<const Value* const> inputs_;
  std::span<Value> outputs_;
  Environment* environment_;
};

using OperatorFunction = void (*)(Call&);

struct Operator {
  std::string_view domain;
  std::string_view name;
  std::int64_t since = 1;  ///< the first version of the domain that `evaluate` follows
  OperatorFunction evaluate = nullptr;
  bool deterministic = true;  ///< false: random numbers, so never folded
};

/// The operator with the greatest `since` that is not above `version`; null where there is none.
[[nodiscard]] MOPTCORE_API const Operator* find_operator(std::string_view domain,
                                                         std::string_view name,
                                                         std::int64_t version) noexcept;

/// All of them, in the order of domains and names.
[[nodiscard]] MOPTCORE_API std::span<const Operator> operators() noexcept;

}  // namespace moptcore::inline v0::graph

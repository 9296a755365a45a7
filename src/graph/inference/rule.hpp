// SPDX-License-Identifier: Apache-2.0
// What shape inference knows of a value, and what a rule sees of the node whose outputs it fills.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <moptcore/graph/model.hpp>

#include "graph/inference/extent.hpp"

namespace moptcore::inline v0::graph {

struct Fact {
  ValueType::Kind kind = ValueType::Kind::unknown;
  ElementType element = ElementType::undefined;
  std::optional<Extents> dims;
  std::shared_ptr<const Fact> inner;  // of a sequence or optional
  /// The elements of a small tensor of integers (or of whole numbers in floats), as expressions.
  std::optional<Extents> content;
  std::optional<Tensor> constant;
  std::string encoded;  // of other kinds

  static Fact tensor(ElementType element, std::optional<Extents> dims) {
    Fact fact;
    fact.kind = ValueType::Kind::tensor;
    fact.element = element;
    fact.dims = std::move(dims);
    return fact;
  }
};

/// Runs the subgraphs of a node, for the rules of If, Loop and Scan.
class BodyInference {
 public:
  virtual ~BodyInference() = default;
  /// The facts of the outputs of `body`, given those of its inputs.
  virtual std::vector<Fact> infer(Graph& body, std::span<const Fact> inputs) = 0;
  /// infer, where a contradiction makes the outputs unknown: a branch that nobody may take.
  virtual std::vector<Fact> infer_leniently(Graph& body, std::span<const Fact> inputs) = 0;
  /// How often the body of a loop may be looked at.
  [[nodiscard]] virtual int rounds() const noexcept = 0;
};

inline constexpr std::size_t kMaxContent = 512;

class Inference {
 public:
  Inference(Node& node, std::int64_t version, std::span<const Fact* const> inputs,
            std::span<Fact> outputs, ExtentTable& table, BodyInference& bodies)
      : x(table),
        bodies(bodies),
        node_(node),
        version_(version),
        inputs_(inputs),
        outputs_(outputs) {}

  ExtentTable& x;
  BodyInference& bodies;

  [[nodiscard]] Node& node() const noexcept { return node_; }
  [[nodiscard]] std::int64_t version() const noexcept { return version_; }
  [[nodiscard]] int input_count() const noexcept { return static_cast<int>(inputs_.size()); }
  [[nodiscard]] int output_count() const noexcept { return static_cast<int>(outputs_.size()); }

  /// True where the node names input `index`.
  [[nodiscard]] bool has(int index) const noexcept {
    return index < input_count() && inputs_[index] != nullptr;
  }
  [[nodiscard]] const Fact& fact(int index) const noexcept;
  [[nodiscard]] ElementType element(int index) const noexcept { return fact(index).element; }
  [[nodiscard]] const std::optional<Extents>& dims(int index) const noexcept {
    return fact(index).dims;
  }
  /// -1 where it is unknown.
  [[nodiscard]] int rank(int index) const noexcept {
    return dims(index) ? static_cast<int>(dims(index)->size()) : -1;
  }
  /// Contradicts unless the rank is unknown or `rank`; true where it is known.
  bool must_have_rank(int index, int rank) const;
  /// Contradicts unless the rank is unknown or at least `rank`; true where it is known.
  bool must_have_rank_from(int index, int rank) const;

  /// The elements of an integer (or whole-valued) tensor, as far as they are expressions.
  [[nodiscard]] std::optional<Extents> content(int index) const;
  /// Those of one that is known.
  [[nodiscard]] std::optional<std::vector<std::int64_t>> integers(int index) const;
  [[nodiscard]] std::optional<std::int64_t> integer(int index) const;
  [[nodiscard]] std::optional<std::vector<double>> numbers(int index) const;
  /// integers(index) where the input is given, else the attribute; `known` is false where the input
  /// is given and not known; an empty answer with known: neither is there.
  struct List {
    bool known = true;
    bool given = false;
    std::vector<std::int64_t> values;
  };
  [[nodiscard]] List list(int index, std::string_view attribute) const;

  template <class T>
  [[nodiscard]] T attribute(std::string_view name, T fallback) const {
    return node_.get<T>(name, std::move(fallback));
  }
  [[nodiscard]] std::string text(std::string_view name, std::string fallback) const {
    return node_.get<std::string>(name, std::move(fallback));
  }
  [[nodiscard]] std::vector<std::int64_t> ints(std::string_view name) const {
    return node_.get<std::vector<std::int64_t>>(name, {});
  }
  /// The element type that an integer attribute names, or the fallback.
  [[nodiscard]] ElementType type_attribute(std::string_view name, ElementType fallback) const;

  [[nodiscard]] bool wants(int index) const noexcept {
    return index < output_count() && !node_.outputs[index].empty();
  }
  void set(int index, ElementType element, std::optional<Extents> dims = std::nullopt);
  void set(int index, Fact fact);
  /// Of output 0, whose type must have been set; dropped where it does not fit.
  void set_content(Extents content);

  /// FormatError that names the node.
  template <class Got>
  [[noreturn]] void contradict(std::string_view rule, const Got& got) const {
    throw FormatError(error_text("graph.infer_types", title() + " " + std::string(rule), got));
  }
  template <class Got>
  void require(bool ok, std::string_view rule, const Got& got) const {
    if (!ok) [[unlikely]]
      contradict(rule, got);
  }
  [[nodiscard]] std::string title() const;

  [[nodiscard]] int axis(std::int64_t axis, int rank) const;
  /// One extent that must be both.
  Extent equal(Extent a, Extent b, std::string_view rule);
  Extents broadcast(const Extents& a, const Extents& b);
  /// Of inputs [first, last); nothing where a rank is unknown.
  std::optional<Extents> broadcast_inputs(int first, int last);
  Extents fresh(int rank);
  [[nodiscard]] Extent k(std::int64_t value) { return x.known(value); }

 private:
  Node& node_;
  std::int64_t version_;
  std::span<const Fact* const> inputs_;
  std::span<Fact> outputs_;
};

using RuleFunction = void (*)(Inference&);

struct Rule {
  std::string_view domain;
  std::string_view name;
  RuleFunction infer = nullptr;
};

[[nodiscard]] RuleFunction find_rule(std::string_view domain, std::string_view name) noexcept;

[[nodiscard]] std::span<const Rule> elementwise_rules() noexcept;
[[nodiscard]] std::span<const Rule> movement_rules() noexcept;
[[nodiscard]] std::span<const Rule> reduction_rules() noexcept;
[[nodiscard]] std::span<const Rule> neural_rules() noexcept;
[[nodiscard]] std::span<const Rule> generation_rules() noexcept;
[[nodiscard]] std::span<const Rule> quantization_rules() noexcept;
[[nodiscard]] std::span<const Rule> control_rules() noexcept;
[[nodiscard]] std::span<const Rule> classical_rules() noexcept;

/// What is true of both.
[[nodiscard]] Fact join(const Fact& a, const Fact& b, ExtentTable& table);

}  // namespace moptcore::inline v0::graph

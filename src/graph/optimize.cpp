// SPDX-License-Identifier: Apache-2.0
#include <moptcore/graph/optimize.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <set>
#include <span>
#include <unordered_map>

#include <moptcore/core/random.hpp>
#include <moptcore/graph/infer.hpp>
#include <moptcore/graph/passes/clean_quantization.hpp>
#include <moptcore/graph/passes/fold_affine.hpp>
#include <moptcore/graph/passes/fold_batch_norm.hpp>
#include <moptcore/graph/passes/fold_constants.hpp>
#include <moptcore/graph/passes/fold_padding.hpp>
#include <moptcore/graph/passes/fuse_activations.hpp>
#include <moptcore/graph/passes/fuse_attention.hpp>
#include <moptcore/graph/passes/fuse_gemm.hpp>
#include <moptcore/graph/passes/fuse_layer_norm.hpp>
#include <moptcore/graph/passes/merge_duplicates.hpp>
#include <moptcore/graph/passes/merge_initializers.hpp>
#include <moptcore/graph/passes/remove_dead_code.hpp>
#include <moptcore/graph/passes/remove_identities.hpp>
#include <moptcore/graph/passes/sink_transposes.hpp>
#include <moptcore/graph/upgrade.hpp>

#include "graph/passes/editor.hpp"
#include "graph/scope.hpp"

namespace moptcore::inline v0::graph {
namespace {

constexpr auto kWhere = "graph.optimize";
constexpr int kMaxRounds = 8;
// The first that has the operator.
constexpr std::int64_t kAttentionOpset = 23;

struct Pass {
  std::string_view name;
  PassReport (*run)(Model&, const PassOptions&);
};

// Patterns are looked for before constants are multiplied into weights, which would hide them.
constexpr std::array kPasses = {
    Pass{"fold_constants", fold_constants},
    Pass{"remove_identities", remove_identities},
    Pass{"remove_dead_code", remove_dead_code},
    Pass{"merge_initializers", merge_initializers},
    Pass{"merge_duplicates", merge_duplicates},
    Pass{"sink_transposes", sink_transposes},
    Pass{"fuse_layer_norm", fuse_layer_norm},
    Pass{"fuse_activations", fuse_activations},
    Pass{"fuse_attention", fuse_attention},
    Pass{"fold_batch_norm", fold_batch_norm},
    Pass{"fuse_gemm", fuse_gemm},
    Pass{"fold_affine", fold_affine},
    Pass{"fold_padding", fold_padding},
    Pass{"clean_quantization", clean_quantization},
    Pass{"remove_dead_code", remove_dead_code},
};

std::int64_t node_count(const Graph& graph) {
  auto total = static_cast<std::int64_t>(graph.nodes.size());
  for (const Node& node : graph.nodes) {
    for_each_subgraph(node, [&](const Graph& body) { total += node_count(body); });
  }
  return total;
}

// Nodes on the longest way from inputs to outputs.
std::int64_t depth_of(const Graph& graph) {
  std::unordered_map<std::string, std::int64_t> depths;
  std::int64_t deepest = 1;
  for (const Node& node : graph.nodes) {
    std::int64_t depth = 0;
    for (const std::string& name : node.inputs) {
      const auto found = depths.find(name);
      if (found != depths.end()) depth = std::max(depth, found->second);
    }
    for_each_subgraph(
        node, [&](const Graph& body) { depth += static_cast<std::int64_t>(body.nodes.size()); });
    for (const std::string& name : node.outputs) depths[name] = depth + 1;
    deepest = std::max(deepest, depth + 1);
  }
  return deepest;
}

class Randomness {
 public:
  explicit Randomness(std::uint64_t seed) : state_(seed * 2654435761U + 88172645463325252ULL) {}
  std::uint64_t next() {
    state_ += 0x9E3779B97F4A7C15ULL;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
  }
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-52 - 1.0; }

 private:
  std::uint64_t state_;
};

Tensor random_tensor(ElementType type, const Shape& shape, Randomness& random) {
  const std::int64_t count = element_count(shape);
  switch (type) {
    case ElementType::float32:
    case ElementType::float64:
    case ElementType::float16:
    case ElementType::bfloat16: {
      std::vector<double> values(static_cast<std::size_t>(count));
      for (double& value : values) value = random.uniform();
      return make_floats(type, shape, values);
    }
    case ElementType::string: {
      std::vector<std::string> values(static_cast<std::size_t>(count));
      for (std::string& value : values) value = std::string(1, "abc"[random.next() % 3]);
      return Tensor::of_strings(shape, std::move(values));
    }
    default: {
      // Small whole numbers are valid as most indices, lengths and labels; every byte but the
      // lowest of an element stays 0, which little-endian integers of each width share.
      Tensor tensor(type, shape);
      auto* bytes = static_cast<unsigned char*>(tensor.mutable_raw());
      const auto size = static_cast<std::size_t>(tensor.bytes());
      std::memset(bytes, 0, size);
      const auto width = static_cast<std::size_t>(std::max(bit_width(type) / 8, 1));
      for (std::size_t i = 0; i < size; i += width) {
        bytes[i] = static_cast<unsigned char>(random.next() % 2);
      }
      return tensor;
    }
  }
}

// The largest difference in parts of the largest magnitude; infinite where kinds or NaN differ.
double difference_of(const Value& a, const Value& b) {
  constexpr double kDifferent = INFINITY;
  if (a.is_sequence() && b.is_sequence()) {
    if (a.sequence().size() != b.sequence().size()) return kDifferent;
    double worst = 0.0;
    for (std::size_t i = 0; i < a.sequence().size(); ++i) {
      worst = std::max(worst, difference_of(a.sequence()[i], b.sequence()[i]));
    }
    return worst;
  }
  if (a.has_value() != b.has_value()) return kDifferent;
  if (!a.has_value()) return 0.0;
  if (!a.is_tensor() || !b.is_tensor()) return kDifferent;
  const Tensor& left = a.tensor();
  const Tensor& right = b.tensor();
  if (left.type() != right.type() || !(left.shape() == right.shape())) return kDifferent;
  if (left.type() == ElementType::string) {
    return std::ranges::equal(left.strings(), right.strings()) ? 0.0 : kDifferent;
  }
  const auto x = read_floats(left);
  const auto y = read_floats(right);
  if (!x || !y) {
    const bool equal =
        left.bytes() == 0 ||
        std::memcmp(left.raw(), right.raw(), static_cast<std::size_t>(left.bytes())) == 0;
    return equal ? 0.0 : kDifferent;
  }
  double largest = 1e-30;
  for (const double value : *x) {
    if (std::isfinite(value)) largest = std::max(largest, std::abs(value));
  }
  double worst = 0.0;
  for (std::size_t i = 0; i < x->size(); ++i) {
    const double one = (*x)[i];
    const double two = (*y)[i];
    if (one == two || (std::isnan(one) && std::isnan(two))) continue;
    if (!std::isfinite(one) || !std::isfinite(two)) return kDifferent;
    worst = std::max(worst, std::abs(one - two) / largest);
  }
  return worst;
}

double tolerance_of(const Model& model, const VerifyOptions& options) {
  if (options.tolerance > 0.0) return options.tolerance;
  return std::max(1e-5, 0x1p-21 * static_cast<double>(depth_of(model.graph)));
}

bool is_half(const Value& value) {
  return value.is_tensor() && (value.tensor().type() == ElementType::float16 ||
                               value.tensor().type() == ElementType::bfloat16);
}

// Extents of free axes: of those that come first, mostly batches, and of all others.
struct Trial {
  std::int64_t first = 3;
  std::int64_t other = 3;
};

// Networks that halve an image again and again, or read a line of text of one height, run at few
// extents only; whole batches of large images would take long.
constexpr Trial kEachTrial[] = {{3, 3},   {2, 16},  {2, 32},  {2, 48}, {2, 64},
                                {1, 224}, {16, 16}, {32, 32}, {64, 64}};
constexpr std::span<const Trial> kTrials = kEachTrial;

bool has_free_axes(const ValueInfo& input) {
  return input.type.dimensions && std::ranges::any_of(*input.type.dimensions, [](const auto& each) {
           return !each.is_known();
         });
}

Values inputs_of(const Model& model, const VerifyOptions& options, const Trial& trial) {
  Randomness random(options.seed);
  // A symbol that is an axis of another place in the order as well is no batch.
  std::set<std::string> others;
  for (const ValueInfo& input : model.graph.inputs) {
    if (!input.type.dimensions) continue;
    for (std::size_t i = 1; i < input.type.dimensions->size(); ++i) {
      others.insert((*input.type.dimensions)[i].symbol);
    }
  }
  Values values;
  for (const ValueInfo& input : model.graph.inputs) {
    if (model.graph.initializers.contains(input.name)) continue;
    if (input.type.kind == ValueType::Kind::optional) continue;
    check<UnsupportedError>(input.type.kind == ValueType::Kind::tensor && input.type.dimensions,
                            kWhere, "random inputs are made for tensors of known rank only, not",
                            input.name);
    Shape shape;
    for (const Dimension& dimension : *input.type.dimensions) {
      const bool first = shape.rank() == 0 && input.type.dimensions->size() > 1 &&
                         (dimension.symbol.empty() || !others.contains(dimension.symbol));
      shape.push_back(dimension.is_known() ? dimension.value : first ? trial.first : trial.other);
    }
    const std::int64_t count = element_count(shape);
    check(count <= options.max_bytes / 8, kWhere,
          "random inputs must have at most max_bytes, shape", shape);
    values.emplace(input.name, random_tensor(input.type.element, shape, random));
  }
  return values;
}

// One run of the reference: `outputs` of a model that does not change.
class Reference {
 public:
  Reference(const Model& model, const VerifyOptions& options) : options_(options) {
    tolerance_ = tolerance_of(model, options);
    evaluation_.max_bytes = options.max_bytes;
    evaluation_.seed = options.seed;
    try {
      const Evaluator evaluator(model);
      const bool is_free = std::ranges::any_of(model.graph.inputs, has_free_axes);
      const Trial given[] = {{options.extent, options.extent}};
      const bool chosen = options.extent != 0 || !is_free;
      for (const Trial& trial : chosen ? std::span<const Trial>(given) : kTrials) {
        if (run(evaluator, trial)) break;
      }
    } catch (const Error& error) {
      reason_ = error.what();
    }
  }

  Verification compare(const Model& after, std::string_view what) const {
    Verification result;
    result.ran = ran_;
    result.reason = reason_;
    if (!ran_) return result;
    Values inputs;
    for (const auto& [name, value] : inputs_) inputs.emplace(name, value);
    const Values outputs = Evaluator(after).run(inputs, {}, evaluation_);
    for (const auto& [name, value] : outputs_) {
      const auto found = outputs.find(name);
      check(found != outputs.end(), kWhere,
            std::string(what) + " must keep the outputs of the model, missing is", name);
      const double difference = difference_of(value, found->second);
      // Two roundings of 16-bit floats: one part in 2^7 of bfloat16.
      const double allowed = is_half(value) ? std::max(tolerance_, 0x1p-7) : tolerance_;
      check(difference <= allowed, kWhere,
            std::string(what) + " must not change output '" + name + "' by more than " +
                std::to_string(allowed) + " of its magnitude",
            difference);
      if (difference >= result.difference) {
        result.difference = difference;
        result.output = name;
      }
    }
    return result;
  }

 private:
  bool run(const Evaluator& evaluator, const Trial& trial) {
    try {
      inputs_ = inputs_of(evaluator.model(), options_, trial);
      outputs_ = evaluator.run(inputs_, {}, evaluation_);
      ran_ = true;
    } catch (const Error& error) {
      if (reason_.empty()) reason_ = error.what();
    } catch (const std::out_of_range& error) {
      if (reason_.empty()) reason_ = error.what();
    }
    return ran_;
  }

  VerifyOptions options_;
  EvaluateOptions evaluation_;
  double tolerance_ = 0.0;
  bool ran_ = false;
  std::string reason_;
  Values inputs_;
  Values outputs_;
};

const Pass* find_pass(std::string_view name) {
  const auto found = std::ranges::find(kPasses, name, &Pass::name);
  return found == kPasses.end() ? nullptr : &*found;
}

}  // namespace

Values random_inputs(const Model& model, const VerifyOptions& options) {
  const std::int64_t extent = options.extent == 0 ? 3 : options.extent;
  return inputs_of(model, options, {extent, extent});
}

Verification verify_equal(const Model& before, const Model& after, const VerifyOptions& options) {
  return Reference(before, options).compare(after, "a rewritten model");
}

std::vector<std::string> pass_names() {
  std::vector<std::string> names;
  for (const Pass& pass : kPasses) {
    if (std::ranges::find(names, pass.name) == names.end()) names.emplace_back(pass.name);
  }
  return names;
}

PassReport run_pass(Model& model, const std::string& name, const PassOptions& options) {
  const Pass* pass = find_pass(name);
  check(pass != nullptr, "graph.run_pass", "name must be that of a pass (pass_names)", name);
  return pass->run(model, options);
}

OptimizeReport optimize(Model& model, const OptimizeOptions& options) {
  for (const std::string& name : options.without) {
    check(find_pass(name) != nullptr, kWhere, "without must name passes (pass_names)", name);
  }
  OptimizeReport report;
  std::optional<Reference> reference;
  if (options.verify) reference.emplace(model, options.verification);
  if (!model.functions.empty()) inline_functions(model);
  const bool attends = options.attention && std::ranges::find(options.without, "fuse_attention") ==
                                                options.without.end();
  if (const auto own = model.opsets.find("");
      attends && own != model.opsets.end() && own->second < kAttentionOpset) {
    upgrade(model, kAttentionOpset);
  }
  report.nodes_before = node_count(model.graph);
  for (const std::string& name : pass_names()) report.passes.push_back({name, 0, 0, 0});
  // One budget for all rounds: what folding adds to the model does not raise it.
  PassOptions passes = options.passes;
  passes.max_fold_bytes = fold_limit(model, passes);
  const std::array untyped = {"remove_dead_code", "merge_initializers", "merge_duplicates"};
  for (report.rounds = 1; report.rounds <= kMaxRounds; ++report.rounds) {
    std::int64_t changes = 0;
    for (const Pass& pass : kPasses) {
      if (std::ranges::find(options.without, pass.name) != options.without.end()) continue;
      if (pass.name == "fuse_attention" && !options.attention) continue;
      const PassReport one = pass.run(model, passes);
      passes.max_fold_bytes -= std::min(one.bytes, passes.max_fold_bytes);
      // The last round of a pass that infers types changed nothing any more, unless it was cut off.
      const bool infers = std::ranges::find(untyped, pass.name) == untyped.end();
      passes.types_are_current =
          infers ? one.rounds < passes.max_rounds : passes.types_are_current && one.changes == 0;
      PassReport& total = *std::ranges::find(report.passes, pass.name, &PassReport::pass);
      total.changes += one.changes;
      total.rounds += one.rounds;
      total.bytes += one.bytes;
      changes += one.changes;
      if (reference && one.changes > 0) {
        report.verification = reference->compare(model, pass.name);
      }
    }
    if (changes == 0) break;
  }
  if (reference && report.verification.output.empty()) {
    report.verification = reference->compare(model, "optimize");
  }
  infer_types(model);
  report.nodes_after = node_count(model.graph);
  return report;
}

}  // namespace moptcore::inline v0::graph

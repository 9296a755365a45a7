// SPDX-License-Identifier: Apache-2.0
#include "runtime/program.hpp"

#include <algorithm>
#include <set>

#include <moptcore/core/parallel.hpp>

#include "graph/scope.hpp"
#include "kernels/gemm.hpp"
#include "kernels/winograd.hpp"
#include "runtime/fusion.hpp"

namespace moptcore::inline v0::runtime {
namespace {

using graph::ElementType;
using graph::Tensor;
using graph::Value;

// Bytes of a constant that is copied rather than left where it was read.
constexpr std::int64_t kSmall = std::int64_t{16} << 10;

// Folds nodes without subgraphs.
class Folding final : public graph::Environment {
 public:
  explicit Folding(FoldBudget& budget) : budget_(budget) {}

  Tensor allocate(ElementType type, const Shape& shape) override {
    const std::int64_t count = element_count(shape);
    const std::int64_t width =
        std::max<std::int64_t>(graph::byte_count(type, 1), 32 * (graph::bit_width(type) == 0));
    take(budget_.bytes, count, width, "bytes");
    return {type, shape};
  }
  std::vector<Value> run(const graph::Graph&, std::span<const Value>) override {
    throw UnsupportedError("[runtime.Session] constants are not folded through subgraphs");
  }
  std::uint64_t next_seed() override { return 0; }
  void spend(std::int64_t steps) override { take(budget_.steps, steps, 1, "steps"); }

 private:
  void take(std::int64_t& left, std::int64_t count, std::int64_t width, const char* what) {
    if (count > left / width) {
      budget_.lasted = false;
      throw Error(error_text("runtime.Session",
                             "the budget of folding must last, " + std::string(what), count));
    }
    left -= count * width;
  }

  FoldBudget& budget_;
};

Tensor reordered(const Tensor& from, const kernels::onednn::Layout& source,
                 const kernels::onednn::Layout& wanted) {
  Tensor result(ElementType::uint8, Shape{wanted.bytes()});
  kernels::onednn::reorder(source, from.raw(), wanted, result.mutable_raw());
  return result;
}

// [columns, depth], or [columns, depth, 3, 3]
Tensor packed_by_us(const Tensor& original, Packing packing,
                    const kernels::onednn::Layout& source) {
  const std::int64_t columns = source.shape()[0];
  const std::int64_t depth = source.shape()[1];
  const std::int64_t floats = kernels::packed_floats(depth, columns);
  const bool is_winograd = packing == Packing::winograd;
  Tensor result(ElementType::float32, Shape{is_winograd ? kernels::kProducts * floats : floats});
  const auto* from = original.data<float>();
  auto* to = result.mutable_data<float>();
  const Shape strides = source.strides();
  parallel_for(kernels::panels_of(columns), 2, [&](std::int64_t first, std::int64_t last) {
    if (is_winograd) kernels::pack_winograd(depth, columns, from, first, last, to);
    else kernels::pack_panels(depth, columns, from, strides[1], strides[0], first, last, to);
  });
  return result;
}

}  // namespace

Cell cell_of(Value value, bool is_fixed) {
  Cell cell;
  cell.is_fixed = is_fixed;
  if (value.is_tensor()) {
    const Tensor& tensor = value.tensor();
    // oneDNN describes up to 12 axes.
    if (tensor.type() == ElementType::float32 && tensor.size() > 0 && tensor.rank() <= 12) {
      cell.layout = kernels::onednn::Layout(tensor.shape());
      cell.memory = tensor;
    }
  }
  cell.value = std::move(value);
  return cell;
}

int Program::slot(const std::string& name) {
  const auto [found, added] = index_.emplace(name, static_cast<int>(names.size()));
  if (added) {
    names.push_back(name);
    constants.emplace_back();
    defaults.emplace_back();
  }
  return found->second;
}

Program::Program(const graph::Graph& own, const std::map<std::string, std::int64_t>& opsets,
                 Program* around, bool fuse, FoldBudget& budget)
    : graph(&own) {
  for (const graph::ValueInfo& input : own.inputs) inputs.push_back(slot(input.name));
  for (const auto& [name, tensor] : own.initializers) {
    const int index = slot(name);
    const bool is_input = std::ranges::find(inputs, index) != inputs.end();
    auto& place = is_input ? defaults : constants;
    place[static_cast<std::size_t>(index)] = tensor;
  }
  if (around != nullptr) {
    for (const std::string& name : graph::names_captured(own)) {
      const int outer = around->slot(name);
      const int index = slot(name);
      if (around->is_constant(outer)) {
        constants[static_cast<std::size_t>(index)] =
            around->constants[static_cast<std::size_t>(outer)];
      } else {
        captures.emplace_back(index, outer);
      }
    }
  }
  compile(opsets, fuse, budget);
}

void Program::compile(const std::map<std::string, std::int64_t>& opsets, bool fuse,
                      FoldBudget& budget) {
  for (const graph::Node& node : graph->nodes) {
    Step step;
    step.node = &node;
    step.version = opsets.at(node.domain);
    step.op = graph::find_operator(node.domain, node.op_type, step.version);
    for (const std::string& name : node.inputs) {
      step.inputs.push_back(name.empty() ? -1 : slot(name));
    }
    std::set<int> captured;
    graph::for_each_subgraph(node, [&](const graph::Graph& body) {
      auto program = std::make_unique<Program>(body, opsets, this, fuse, budget);
      for (const auto& [inner, outer] : program->captures) captured.insert(outer);
      step.is_pure = false;
      bodies.emplace(&body, std::move(program));
    });
    step.captures.assign(captured.begin(), captured.end());
    if (!step.op->deterministic) step.is_pure = false;
    for (const std::string& name : node.outputs) {
      step.outputs.push_back(name.empty() ? -1 : slot(name));
    }
    const bool known = step.is_pure && std::ranges::all_of(step.inputs, [&](int input) {
                         return input < 0 || is_constant(input);
                       });
    if (known) fold(step, budget);
    if (!known || !std::ranges::all_of(step.outputs, [&](int output) {
          return output < 0 || is_constant(output);
        })) {
      steps.push_back(std::move(step));
    }
  }
  for (const graph::ValueInfo& output : graph->outputs) outputs.push_back(slot(output.name));
  form_groups(*this, fuse);
  initial.resize(names.size());
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (!constants[i].has_value()) continue;
    // Memory of their own for small ones: none of them shall keep that of a whole file.
    if (constants[i].is_tensor() && constants[i].tensor().bytes() <= kSmall) {
      constants[i] = constants[i].tensor().clone();
    }
    initial[i] = cell_of(constants[i], true);
  }
  std::vector<int> reads(names.size(), 0);
  for (const Step& step : steps) {
    for (const int slot : step.inputs) {
      if (slot >= 0) ++reads[static_cast<std::size_t>(slot)];
    }
  }
  for (const auto& [body, program] : bodies) {
    for (const std::string& name : graph::names_captured(*body)) {
      reads[static_cast<std::size_t>(slot(name))] += 2;
    }
  }
  for (const int slot : outputs) reads[static_cast<std::size_t>(slot)] += 2;
  for (const int count : reads) read_once_.push_back(count == 1);
  given_up_.assign(names.size(), false);
}

// What cannot be folded is an error only if it is run.
void Program::fold(const Step& step, FoldBudget& budget) {
  std::vector<const Value*> given;
  for (const int input : step.inputs) {
    given.push_back(input < 0 ? nullptr : &constants[static_cast<std::size_t>(input)]);
  }
  std::vector<Value> results(step.outputs.size());
  Folding environment(budget);
  graph::Call call(*step.node, step.version, given, results, environment);
  try {
    step.op->evaluate(call);
  } catch (const Error&) {
    return;
  } catch (const std::out_of_range&) {
    return;
  }
  for (std::size_t i = 0; i < results.size(); ++i) {
    if (step.outputs[i] >= 0) {
      constants[static_cast<std::size_t>(step.outputs[i])] = std::move(results[i]);
    }
  }
}

Tensor Program::constant(int slot) const {
  const auto index = static_cast<std::size_t>(slot);
  if (!is_given_up(slot)) return constants[index].tensor();
  const std::lock_guard lock(mutex_);
  const auto& known = packed_.at(slot);
  const Packed& from = *std::ranges::find_if(
      known, [](const Packed& each) { return each.packing != Packing::winograd; });
  Tensor result(ElementType::float32, initial[index].layout.shape());
  if (from.packing == Packing::layout) {
    kernels::onednn::reorder(from.wanted, from.tensor.raw(), from.source, result.mutable_raw());
    return result;
  }
  const Shape& shape = from.source.shape();
  const Shape strides = from.source.strides();
  kernels::unpack_panels(shape[1], shape[0], from.tensor.data<float>(), strides[1], strides[0],
                         result.mutable_data<float>());
  return result;
}

bool Program::give_up(int slot) const {
  const auto index = static_cast<std::size_t>(slot);
  if (is_given_up(slot)) return true;
  if (!read_once_[index]) return false;
  const std::lock_guard lock(mutex_);
  const auto known = packed_.find(slot);
  if (known == packed_.end()) return false;
  // What Winograd's transformation rounds has no way back.
  const bool whole = std::ranges::any_of(
      known->second, [](const Packed& each) { return each.packing != Packing::winograd; });
  if (!whole) return false;
  constants[index] = Value();
  initial[index].value = Value();
  initial[index].memory = Tensor();
  given_up_[index] = true;
  return true;
}

Tensor Program::packed(int slot, Packing packing, const kernels::onednn::Layout& source,
                       const kernels::onednn::Layout& wanted) const {
  {
    const std::lock_guard lock(mutex_);
    for (const Packed& each : packed_[slot]) {
      if (each.packing != packing) continue;
      if (packing == Packing::layout ? each.wanted == wanted : each.source == source) {
        return each.tensor;
      }
    }
  }
  const Tensor original = constant(slot);
  const std::lock_guard lock(mutex_);
  Tensor result = packing == Packing::layout ? reordered(original, source, wanted)
                                             : packed_by_us(original, packing, source);
  packed_[slot].push_back({packing, source, wanted, result});
  return result;
}

}  // namespace moptcore::inline v0::runtime

// SPDX-License-Identifier: Apache-2.0
#include "runtime/engine.hpp"

#include <algorithm>
#include <array>
#include <string_view>

#include <moptcore/core/parallel.hpp>

#include "graph/naming.hpp"
#include "runtime/plan.hpp"

namespace moptcore::inline v0::runtime {
namespace {

namespace onednn = kernels::onednn;
using graph::ElementType;
using graph::Tensor;
using graph::Value;
using onednn::Layout;

// Sets of shapes that a group remembers at a time.
constexpr std::size_t kRemembered = 16;

// Nodes whose result is an input's memory in another shape.
bool is_view(const graph::Node& node) {
  constexpr std::array<std::string_view, 5> kViews = {"Reshape", "Flatten", "Squeeze", "Unsqueeze",
                                                      "Identity"};
  return node.domain.empty() && std::ranges::find(kViews, node.op_type) != kViews.end();
}

// Nodes whose result says how large their input is, and not what is in it.
bool reads_shape_only(const graph::Node& node) {
  return node.domain.empty() && (node.op_type == "Shape" || node.op_type == "Size");
}

class StepEnvironment final : public graph::Environment {
 public:
  StepEnvironment(const Engine& engine, const Program& program, const Step& step,
                  std::span<const Value> captured, Budget& budget)
      : engine_(engine), program_(program), step_(step), captured_(captured), budget_(budget) {}

  Tensor allocate(ElementType type, const Shape& shape) override {
    return runtime::allocate(engine_, type, shape);
  }

  std::vector<Value> run(const graph::Graph& body, std::span<const Value> inputs) override {
    const Program& program = *program_.bodies.at(&body);
    check<FormatError>(inputs.size() == program.inputs.size(), "runtime.Session",
                       "a subgraph must have as many inputs as its node gives it", inputs.size());
    std::vector<Value> captured;
    for (const auto& [own, outer] : program.captures) {
      const auto place = std::ranges::find(step_.captures, outer) - step_.captures.begin();
      captured.push_back(captured_[static_cast<std::size_t>(place)]);
    }
    return run_steps(engine_, program, inputs, captured, budget_, nullptr);
  }

  std::uint64_t next_seed() override { return budget_.seed++; }

  void spend(std::int64_t steps) override {
    check(steps <= engine_.max_steps - budget_.steps, "runtime.Session",
          "loops must take at most " + std::to_string(engine_.max_steps) + " steps (max_steps)");
    budget_.steps += steps;
  }

 private:
  const Engine& engine_;
  const Program& program_;
  const Step& step_;
  std::span<const Value> captured_;
  Budget& budget_;
};

Reference reference_to(const Value& value, int storage) {
  Reference result;
  result.storage = storage;
  result.is_tensor = value.is_tensor();
  if (value.is_tensor()) {
    result.type = value.tensor().type();
    result.shape = value.tensor().shape();
  }
  return result;
}

class Runner {
 public:
  Runner(const Engine& engine, const Program& program, Budget& budget, Plan* plan)
      : engine_(engine), program_(program), budget_(budget), plan_(plan), cells_(program.initial) {}

  void give(int slot, const Value& value, int input) {
    Cell& cell = cells_[static_cast<std::size_t>(slot)];
    cell = cell_of(value, false);
    cell.is_batched = !cell.layout.empty() && cell.layout.shape().rank() >= 1;
    if (plan_ == nullptr) return;
    Storage storage;
    storage.kind = Storage::Kind::input;
    storage.index = input;
    cell.storage = cell.plain_storage = plan_->add(std::move(storage));
  }

  void run() {
    for (const Group& group : program_.groups) {
      run_group(group);
      for (const int slot : group.last_uses) cells_[static_cast<std::size_t>(slot)] = Cell();
    }
  }

  std::vector<Value> outputs() {
    std::vector<Value> results;
    std::vector<Reference> references;
    for (const int slot : program_.outputs) {
      results.push_back(plain(slot));
      if (plan_ != nullptr) references.push_back(reference_to(results.back(), plain_storage(slot)));
    }
    if (plan_ != nullptr) {
      plan_->is_batched =
          std::ranges::all_of(program_.outputs, [&](int slot) { return cell(slot).is_batched; });
      plan_->finish(std::move(references));
    }
    return results;
  }

 private:
  struct Buffer {
    const void* data;
    int storage;
    Tensor owner;
  };

  Cell& cell(int slot) { return cells_[static_cast<std::size_t>(slot)]; }
  const Step& step(int index) const { return program_.steps[static_cast<std::size_t>(index)]; }

  int constant_storage(Value value) {
    Storage storage;
    storage.kind = Storage::Kind::constant;
    storage.constant = std::move(value);
    return plan_->add(std::move(storage));
  }

  int arena_storage(std::int64_t bytes) {
    Storage storage;
    storage.bytes = bytes;
    return plan_->add(std::move(storage));
  }

  int plain_storage(int slot) {
    Cell& at = cell(slot);
    plain(slot);
    if (at.plain_storage < 0 && at.value.has_value()) {
      at.plain_storage = constant_storage(at.value);
      if (at.layout.is_row_major()) at.storage = at.plain_storage;
    }
    return at.plain_storage;
  }

  // With its elements, should they be a constant's that lives on in packed form only.
  Cell& whole(int slot) {
    Cell& at = cell(slot);
    if (at.is_fixed && !at.layout.empty() && at.memory.raw() == nullptr) {
      at.memory = program_.constant(slot);
    }
    return at;
  }

  // The value row by row.
  const Value& plain(int slot) {
    Cell& at = whole(slot);
    if (at.value.has_value() || at.layout.empty()) return at.value;
    if (at.layout.is_row_major()) {
      at.value = at.memory;
      at.plain_storage = at.storage;
      return at.value;
    }
    const Layout rows(at.layout.shape());
    const Buffer made = reordered(at.layout, at.memory, at.storage, rows, "to rows");
    at.value = made.owner;
    at.plain_storage = made.storage;
    return at.value;
  }

  Tensor memory_of(const Layout& layout) const {
    if (layout.is_row_major()) return allocate(engine_, ElementType::float32, layout.shape());
    return allocate(engine_, ElementType::uint8, Shape{layout.bytes()});
  }

  Buffer reordered(const Layout& from, const Tensor& memory, int storage, const Layout& to,
                   const char* what) {
    const bool is_serial = time_to_move(from.bytes() + to.bytes()) < kSerial;
    const onednn::Threads threads(is_serial ? 1 : num_threads());
    const onednn::PrimitivePtr primitive = onednn::reorder(from, to);
    check<UnsupportedError>(primitive != nullptr, "runtime.Session",
                            "oneDNN must have a reorder, shape", from.shape());
    Buffer result{nullptr, -1, memory_of(to)};
    result.data = result.owner.raw();
    execute(*primitive, is_serial, {const_cast<void*>(memory.raw()), result.owner.mutable_raw()});
    if (plan_ != nullptr) {
      result.storage = arena_storage(to.bytes());
      Action action;
      action.primitive = primitive;
      action.buffers = {storage, result.storage};
      action.name = what;
      action.operation = "Reorder";
      action.is_serial = is_serial;
      action.shape = to.shape();
      plan_->record(std::move(action));
    }
    return result;
  }

  void execute(const onednn::Primitive& primitive, bool is_serial,
               std::vector<void*> buffers) const {
    const onednn::Threads threads(is_serial ? 1 : num_threads());
    const Tensor scratch(ElementType::uint8, Shape{primitive.scratch_bytes});
    buffers.push_back(const_cast<void*>(scratch.raw()));
    primitive.bind()->run(buffers.data());
  }

  Buffer acquire_packed(const Operand& operand) {
    Cell& at = cell(operand.slot);
    const Layout source = operand.source.empty() ? Layout(at.layout.shape()) : operand.source;
    const Tensor packed = program_.packed(operand.slot, operand.packing, source, operand.want);
    if (plan_ == nullptr) return {packed.raw(), -1, packed};
    // While a plan is made, nobody else uses the program.
    if (program_.give_up(operand.slot)) {
      at.value = Value();
      at.memory = Tensor();
    }
    return {packed.raw(), constant_storage(packed), packed};
  }

  Buffer acquire(const Operand& operand) {
    const bool repacked = operand.packing != Packing::layout;
    if (repacked || (program_.is_constant(operand.slot) && !operand.want.is_row_major())) {
      return acquire_packed(operand);
    }
    Cell& at = whole(operand.slot);
    const auto storage_of_memory = [&] {
      if (plan_ != nullptr && at.storage < 0) at.storage = constant_storage(at.memory);
      return at.storage;
    };
    if (at.layout == operand.want) return {at.memory.raw(), storage_of_memory(), at.memory};
    if (operand.want.is_row_major()) {
      const Tensor& rows = plain(operand.slot).tensor();
      return {rows.raw(), plan_ == nullptr ? -1 : plain_storage(operand.slot), rows};
    }
    if (at.layout.shape() == operand.want.shape() &&
        (operand.source.empty() || operand.source.is_row_major())) {
      Buffer made = reordered(at.layout, at.memory, storage_of_memory(), operand.want, "to blocks");
      // The next reader is likely to want the same.
      if (at.layout.is_row_major()) plain(operand.slot);
      at.layout = operand.want;
      at.memory = made.owner;
      at.storage = made.storage;
      return made;
    }
    const Tensor rows = plain(operand.slot).tensor();
    const int storage = plan_ == nullptr ? -1 : plain_storage(operand.slot);
    return reordered(operand.source, rows, storage, operand.want, "to blocks");
  }

  void run_group(const Group& group) {
    if (group.kind != Kind::plain && !is_fixed(group)) {
      if (const auto prepared = engine_.prepared(program_, group, cells_)) {
        run_prepared(group, *prepared);
        return;
      }
    }
    for (const int index : group.steps) {
      if (group.steps.size() > 1) run_group(program_.singles[static_cast<std::size_t>(index)]);
      else run_plain(step(index));
    }
  }

  // Whether samples stay apart in a group whose result has the given shape.
  bool keeps_batch(const Group& group, const Shape& shape) {
    const auto joins = [&](int slot) {
      const Cell& at = cell(slot);
      if (at.layout.empty()) return false;
      const Shape& own = at.layout.shape();
      if (at.is_batched) return own.rank() == shape.rank();
      return program_.is_constant(slot) && (own.rank() < shape.rank() || own[0] == 1);
    };
    const bool links = std::ranges::all_of(
        group.links, [&](const Link& link) { return link.operand < 0 || joins(link.operand); });
    if (!links || group.x < 0 || shape.rank() < 1) return false;
    const bool x = cell(group.x).is_batched;
    const Step& head = step(group.steps[0]);
    const int rank = shape.rank();
    const auto axis = [&](std::int64_t fallback) {
      const auto given = head.node->get<std::int64_t>("axis", fallback);
      return given < 0 ? given + rank : given;
    };
    switch (group.kind) {
      case Kind::convolution: return x && program_.is_constant(group.weight);
      case Kind::inner_product:
      case Kind::pool:
      case Kind::batch_norm:
      case Kind::layer_norm: return x;
      case Kind::elementwise: return joins(group.x) && (x || any_batched(group));
      case Kind::softmax: return x && axis(head.version < 13 ? 1 : -1) != 0;
      case Kind::concat:
        return axis(0) != 0 &&
               std::ranges::all_of(head.inputs, [&](int slot) { return cell(slot).is_batched; });
      case Kind::resample: {
        // Sizes that are given name the batch too.
        const bool sized = head.inputs.size() > 3 && head.inputs[3] >= 0;
        return x && !sized;
      }
      default: return false;
    }
  }

  bool any_batched(const Group& group) {
    return std::ranges::any_of(group.links, [&](const Link& link) {
      return link.operand >= 0 && cell(link.operand).is_batched;
    });
  }

  bool views_batch(const Step& at, const Shape& shape) {
    const Cell& from = cell(at.inputs[0]);
    if (!from.is_batched || shape.rank() < 1 || shape[0] != from.layout.shape()[0]) return false;
    const std::string& op = at.node->op_type;
    if (op == "Identity") return true;
    if (op == "Flatten") return at.node->get<std::int64_t>("axis", 1) == 1;
    // A constant shape that leaves nothing but the first extent open.
    if (op != "Reshape" || at.inputs.size() != 2 || !program_.is_constant(at.inputs[1])) {
      return false;
    }
    const auto extents = cell(at.inputs[1]).value.tensor().values<std::int64_t>();
    return (extents[0] == -1 || extents[0] == 0) &&
           std::all_of(extents.begin() + 1, extents.end(), [](std::int64_t n) { return n > 0; });
  }

  bool is_fixed(const Group& group) {
    return std::ranges::all_of(group.steps, [&](int index) {
      const Step& at = step(index);
      if (!at.is_pure) return false;
      return std::ranges::all_of(at.inputs, [&](int slot) {
        if (slot < 0 || cell(slot).is_fixed) return true;
        // Computed within the group.
        return !cell(slot).value.has_value() && cell(slot).layout.empty();
      });
    });
  }

  void run_prepared(const Group& group, const Prepared& prepared) {
    std::vector<Buffer> buffers;
    for (const Operand& operand : prepared.operands) buffers.push_back(acquire(operand));
    Cell result;
    result.layout = prepared.output;
    result.is_batched = keeps_batch(group, prepared.output.shape());
    if (prepared.primitive == nullptr) {
      result.memory = buffers[0].owner;
      result.storage = buffers[0].storage;
    } else {
      result.memory = memory_of(prepared.output);
      std::vector<void*> addresses;
      for (const Buffer& buffer : buffers) addresses.push_back(const_cast<void*>(buffer.data));
      addresses.push_back(result.memory.mutable_raw());
      execute(*prepared.primitive, prepared.is_serial, std::move(addresses));
      if (plan_ != nullptr) {
        result.storage = arena_storage(prepared.output.bytes());
        Action action;
        action.primitive = prepared.primitive;
        action.is_serial = prepared.is_serial;
        for (const Buffer& buffer : buffers) action.buffers.push_back(buffer.storage);
        action.buffers.push_back(result.storage);
        action.name = program_.names[static_cast<std::size_t>(group.output)];
        for (const int index : group.steps) {
          action.operation += (action.operation.empty() ? "" : "+") + step(index).node->op_type;
        }
        action.shape = prepared.output.shape();
        plan_->record(std::move(action));
      }
    }
    if (result.layout.is_row_major() && prepared.primitive != nullptr) {
      result.value = result.memory;
      result.plain_storage = result.storage;
    } else if (result.layout.is_row_major()) {
      result.value =
          Tensor(ElementType::float32, result.layout.shape(),
                 const_cast<void*>(result.memory.raw()), std::make_shared<Tensor>(result.memory));
      result.plain_storage = result.storage;
    }
    cell(group.output) = std::move(result);
  }

  void run_plain(const Step& at) {
    std::vector<const Value*> inputs;
    bool fixed = at.is_pure && !at.inputs.empty();
    const bool measures = reads_shape_only(*at.node);
    for (const int slot : at.inputs) {
      inputs.push_back(slot < 0 ? nullptr : &plain(slot));
      fixed = fixed && (slot < 0 || cell(slot).is_fixed || measures);
    }
    std::vector<Value> captured;
    for (const int slot : at.captures) captured.push_back(plain(slot));
    std::vector<Value> results = run_step(engine_, program_, at, inputs, captured, budget_);
    if (plan_ == nullptr || fixed) {
      for (std::size_t i = 0; i < results.size(); ++i) {
        if (at.outputs[i] >= 0) cell(at.outputs[i]) = cell_of(std::move(results[i]), fixed);
      }
      return;
    }
    if (is_view(*at.node) && stays_in_place(at, inputs, results)) {
      const int storage = plain_storage(at.inputs[0]);
      const bool batched = views_batch(at, results[0].tensor().shape());
      cell(at.outputs[0]) = cell_of(std::move(results[0]), false);
      cell(at.outputs[0]).is_batched = batched;
      cell(at.outputs[0]).storage = cell(at.outputs[0]).plain_storage = storage;
      return;
    }
    write_down(at, inputs, captured, results);
  }

  bool stays_in_place(const Step& at, std::span<const Value* const> inputs,
                      std::span<const Value> results) {
    if (results.size() != 1 || at.outputs[0] < 0 || inputs[0] == nullptr ||
        !inputs[0]->is_tensor() || !results[0].is_tensor() ||
        inputs[0]->tensor().type() == ElementType::string ||
        results[0].tensor().raw() != inputs[0]->tensor().raw()) {
      return false;
    }
    return std::all_of(at.inputs.begin() + 1, at.inputs.end(),
                       [&](int slot) { return slot < 0 || cell(slot).is_fixed; });
  }

  void write_down(const Step& at, std::span<const Value* const> inputs,
                  std::span<const Value> captured, std::vector<Value>& results) {
    Action action;
    action.step = &at;
    action.operation = at.node->op_type;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      const int slot = at.inputs[i];
      action.inputs.push_back(slot < 0 ? Reference()
                                       : reference_to(*inputs[i], plain_storage(slot)));
    }
    for (std::size_t i = 0; i < captured.size(); ++i) {
      action.captures.push_back(reference_to(captured[i], plain_storage(at.captures[i])));
    }
    for (std::size_t i = 0; i < results.size(); ++i) {
      Reference made;
      if (at.outputs[i] >= 0) {
        Storage storage;
        storage.kind = Storage::Kind::produced;
        made = reference_to(results[i], plan_->add(std::move(storage)));
        if (action.name.empty()) {
          action.name = program_.names[static_cast<std::size_t>(at.outputs[i])];
          action.shape = made.shape;
        }
        Cell& into = cell(at.outputs[i]);
        into = cell_of(std::move(results[i]), false);
        into.storage = into.plain_storage = made.storage;
      }
      action.outputs.push_back(std::move(made));
    }
    plan_->record(std::move(action));
  }

  const Engine& engine_;
  const Program& program_;
  Budget& budget_;
  Plan* plan_;
  std::vector<Cell> cells_;
};

}  // namespace

std::shared_ptr<const Prepared> Engine::prepared(const Program& program, const Group& group,
                                                 const std::vector<Cell>& cells) const {
  std::vector<Layout> layouts;
  const auto add = [&](int slot) {
    layouts.push_back(slot < 0 ? Layout() : cells[static_cast<std::size_t>(slot)].layout);
  };
  for (const int index : group.steps) {
    for (const int slot : program.steps[static_cast<std::size_t>(index)].inputs) add(slot);
  }
  // Results of these depend on the elements of some inputs too.
  const bool by_layouts = group.kind != Kind::mean && group.kind != Kind::resample;
  const std::pair key(&group, num_threads());
  if (by_layouts) {
    const std::lock_guard lock(mutex_);
    for (const Entry& entry : known_[key]) {
      if (entry.layouts == layouts) return entry.prepared;
    }
  }
  auto made = prepare(program, group, cells);
  std::shared_ptr<const Prepared> result;
  if (made) result = std::make_shared<const Prepared>(std::move(*made));
  if (by_layouts) {
    const std::lock_guard lock(mutex_);
    auto& entries = known_[key];
    entries.push_back({std::move(layouts), result});
    if (entries.size() > kRemembered) entries.pop_front();
  }
  return result;
}

Tensor allocate(const Engine& engine, ElementType type, const Shape& shape) {
  const std::int64_t count = element_count(shape);
  const std::int64_t width =
      std::max<std::int64_t>(graph::byte_count(type, 1), 32 * (graph::bit_width(type) == 0));
  check(count <= engine.max_bytes / width, "runtime.Session",
        "a tensor must have at most " + std::to_string(engine.max_bytes) +
            " bytes (max_bytes), shape",
        shape);
  return {type, shape};
}

std::vector<Value> run_step(const Engine& engine, const Program& program, const Step& step,
                            std::span<const Value* const> inputs, std::span<const Value> captured,
                            Budget& budget) {
  std::vector<Value> results(step.outputs.size());
  StepEnvironment environment(engine, program, step, captured, budget);
  graph::Call call(*step.node, step.version, inputs, results, environment);
  graph::with_name(*step.node, program.steps.size() == 1, [&] { step.op->evaluate(call); });
  return results;
}

std::vector<Value> run_steps(const Engine& engine, const Program& program,
                             std::span<const Value> inputs, std::span<const Value> captured,
                             Budget& budget, Plan* plan) {
  Runner runner(engine, program, budget, plan);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    runner.give(program.inputs[i], inputs[i], static_cast<int>(i));
  }
  for (std::size_t i = 0; i < captured.size(); ++i) {
    runner.give(program.captures[i].first, captured[i], -1);
  }
  runner.run();
  return runner.outputs();
}

}  // namespace moptcore::inline v0::runtime

// SPDX-License-Identifier: Apache-2.0
#include "runtime/plan.hpp"

#include <algorithm>
#include <chrono>
#include <map>
#include <numeric>
#include <span>
#include <tuple>

#include <moptcore/core/parallel.hpp>
#include <moptcore/core/pool.hpp>

namespace moptcore::inline v0::runtime {
namespace {

using graph::Tensor;
using graph::Value;
using Clock = std::chrono::steady_clock;

constexpr std::int64_t kAlignment = 64;

// Contexts that a plan keeps for the next callers.
constexpr std::size_t kIdle = 8;

// Storages that are placed by search; the others are small beside them.
constexpr std::size_t kSearched = 2000;

std::int64_t aligned(std::int64_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

// Memory and addresses of one run at a time.
struct Plan::Context {
  PoolBuffer arena;
  PoolBuffer scratch;
  std::vector<std::unique_ptr<kernels::onednn::Bound>> bound;  // by action
  std::vector<void*> pointers;                                 // by storage
  std::vector<Value> values;                                   // by storage: what owns them
  std::vector<void*> arguments;

  const std::byte* begin() const { return static_cast<const std::byte*>(arena.get()); }
};

Plan::Plan(const Engine& engine, const Program& program) : engine_(engine), program_(program) {}
Plan::~Plan() = default;

int Plan::add(Storage storage) {
  storages_.push_back(std::move(storage));
  return static_cast<int>(storages_.size()) - 1;
}

void Plan::record(Action action) { actions_.push_back(std::move(action)); }

void Plan::finish(std::vector<Reference> outputs) {
  outputs_ = std::move(outputs);
  for (const Reference& output : outputs_) {
    if (output.storage < 0) continue;
    Storage& storage = storages_[static_cast<std::size_t>(output.storage)];
    if (storage.kind == Storage::Kind::arena) {
      storage.kind = Storage::Kind::output;
      storage.shape = output.shape;
    }
  }
  for (int i = 0; i < static_cast<int>(actions_.size()); ++i) {
    const auto use = [&](int index) {
      if (index < 0) return;
      Storage& storage = storages_[static_cast<std::size_t>(index)];
      if (storage.first < 0) storage.first = i;
      storage.last = i;
    };
    const Action& action = actions_[static_cast<std::size_t>(i)];
    for (const int buffer : action.buffers) use(buffer);
    for (const Reference& each : action.inputs) use(each.storage);
    for (const Reference& each : action.captures) use(each.storage);
    for (const Reference& each : action.outputs) use(each.storage);
    if (action.primitive != nullptr) {
      scratch_bytes_ = std::max(scratch_bytes_, action.primitive->scratch_bytes);
    }
  }
  const auto last = static_cast<int>(actions_.size());
  for (const Reference& output : outputs_) {
    if (output.storage >= 0) storages_[static_cast<std::size_t>(output.storage)].last = last;
  }
  released_.resize(actions_.size());
  for (int i = 0; i < static_cast<int>(storages_.size()); ++i) {
    const Storage& storage = storages_[static_cast<std::size_t>(i)];
    if (storage.kind == Storage::Kind::produced && storage.last >= 0 && storage.last < last) {
      released_[static_cast<std::size_t>(storage.last)].push_back(i);
    }
  }
  place();
}

// In the order of their lives, each where one of its size or more has ended: no search that grows
// with their number.
void Plan::place_in_turn(std::span<int> small) {
  const auto at = [&](int index) -> Storage& { return storages_[static_cast<std::size_t>(index)]; };
  std::ranges::stable_sort(small, {}, [&](int index) { return at(index).first; });
  std::multimap<int, std::pair<std::int64_t, std::int64_t>> ends;  // of lives: bytes, offset
  std::multimap<std::int64_t, std::int64_t> free;                  // bytes, offset
  for (const int index : small) {
    Storage& storage = at(index);
    while (!ends.empty() && ends.begin()->first < storage.first) {
      free.insert(ends.begin()->second);
      ends.erase(ends.begin());
    }
    std::int64_t bytes = aligned(storage.bytes);
    if (const auto found = free.lower_bound(bytes); found != free.end()) {
      std::tie(bytes, storage.offset) = *found;
      free.erase(found);
    } else {
      storage.offset = arena_bytes_;
      arena_bytes_ += bytes;
    }
    ends.insert({storage.last, {bytes, storage.offset}});
  }
}

// The largest first, each at the lowest offset that is free during its whole life.
void Plan::place() {
  // Element by element, a result takes the place of an input that nobody reads any more.
  for (std::size_t i = 0; i < actions_.size(); ++i) {
    const Action& action = actions_[i];
    if (action.primitive == nullptr || !action.primitive->in_place) continue;
    const int from = action.buffers.front();
    const int to = action.buffers.back();
    Storage& source = storages_[static_cast<std::size_t>(from)];
    Storage& target = storages_[static_cast<std::size_t>(to)];
    const bool elsewhere = std::count(action.buffers.begin(), action.buffers.end(), from) > 1;
    if (source.kind != Storage::Kind::arena || target.kind != Storage::Kind::arena || elsewhere ||
        source.last != static_cast<int>(i) || source.bytes != target.bytes) {
      continue;
    }
    // Whoever shares with a sharer shares with the first of them.
    target.shares = source.shares < 0 ? from : source.shares;
  }
  const auto root_of = [&](int index) {
    const int shares = storages_[static_cast<std::size_t>(index)].shares;
    return shares < 0 ? index : shares;
  };
  std::vector<int> order;
  for (int i = 0; i < static_cast<int>(storages_.size()); ++i) {
    Storage& storage = storages_[static_cast<std::size_t>(i)];
    if (storage.kind != Storage::Kind::arena || storage.first < 0) continue;
    const int root = root_of(i);
    if (root == i) {
      order.push_back(i);
    } else {
      Storage& whole = storages_[static_cast<std::size_t>(root)];
      whole.last = std::max(whole.last, storage.last);
    }
  }
  std::ranges::stable_sort(order, [&](int a, int b) {
    return storages_[static_cast<std::size_t>(a)].bytes >
           storages_[static_cast<std::size_t>(b)].bytes;
  });
  const auto most = std::min(order.size(), kSearched);
  std::vector<int> placed;  // by offset
  for (const int index : std::span(order).first(most)) {
    Storage& storage = storages_[static_cast<std::size_t>(index)];
    std::int64_t offset = 0;
    for (const int other : placed) {
      const Storage& taken = storages_[static_cast<std::size_t>(other)];
      if (taken.last < storage.first || storage.last < taken.first) continue;
      if (taken.offset - offset >= storage.bytes) break;
      offset = std::max(offset, taken.offset + aligned(taken.bytes));
    }
    storage.offset = offset;
    arena_bytes_ = std::max(arena_bytes_, offset + aligned(storage.bytes));
    const auto position = std::ranges::upper_bound(placed, offset, {}, [&](int other) {
      return storages_[static_cast<std::size_t>(other)].offset;
    });
    placed.insert(position, index);
  }
  place_in_turn(std::span(order).subspan(most));
  for (int i = 0; i < static_cast<int>(storages_.size()); ++i) {
    const int root = root_of(i);
    if (root != i) {
      storages_[static_cast<std::size_t>(i)].offset =
          storages_[static_cast<std::size_t>(root)].offset;
    }
  }
}

std::unique_ptr<Plan::Context> Plan::make_context() const {
  auto context = std::make_unique<Context>();
  context->arena = pool_allocate(std::max<std::int64_t>(arena_bytes_, 1));
  context->scratch = pool_allocate(std::max<std::int64_t>(scratch_bytes_, 1));
  context->pointers.resize(storages_.size());
  context->values.resize(storages_.size());
  for (std::size_t i = 0; i < storages_.size(); ++i) {
    const Storage& storage = storages_[i];
    if (storage.kind == Storage::Kind::arena) {
      context->pointers[i] = static_cast<std::byte*>(context->arena.get()) + storage.offset;
    } else if (storage.kind == Storage::Kind::constant) {
      context->values[i] = storage.constant;
      if (storage.constant.is_tensor()) {
        context->pointers[i] = const_cast<void*>(storage.constant.tensor().raw());
      }
    }
  }
  for (const Action& action : actions_) {
    context->bound.push_back(action.primitive == nullptr ? nullptr : action.primitive->bind());
  }
  return context;
}

void Plan::run_node(Context& context, const Action& action, Budget& budget) const {
  // Of memory in the arena, a Tensor that nobody may keep.
  static const std::shared_ptr<void> nobody = std::make_shared<int>(0);
  const auto value_of = [&](const Reference& reference) -> Value {
    const auto index = static_cast<std::size_t>(reference.storage);
    const Value& owner = context.values[index];
    if (!reference.is_tensor) return owner;
    if (owner.is_tensor()) {
      const Tensor& tensor = owner.tensor();
      if (tensor.shape() == reference.shape) return owner;
      return tensor.reshaped(reference.shape);
    }
    return Tensor(reference.type, reference.shape, context.pointers[index], nobody);
  };
  std::vector<Value> given;
  std::vector<const Value*> inputs;
  std::vector<Value> captured;
  given.reserve(action.inputs.size());
  for (const Reference& each : action.inputs) {
    if (each.storage < 0) {
      inputs.push_back(nullptr);
      continue;
    }
    given.push_back(value_of(each));
    inputs.push_back(&given.back());
  }
  for (const Reference& each : action.captures) captured.push_back(value_of(each));
  std::vector<Value> results = run_step(engine_, program_, *action.step, inputs, captured, budget);
  const auto in_arena = [&](const Tensor& tensor) {
    const auto* data = static_cast<const std::byte*>(tensor.raw());
    return data >= context.begin() &&
           data < context.begin() + std::max<std::int64_t>(arena_bytes_, 1);
  };
  for (std::size_t i = 0; i < results.size(); ++i) {
    const Reference& expected = action.outputs[i];
    if (expected.storage < 0) continue;
    Value& result = results[i];
    if (result.is_tensor()) {
      if (!expected.is_tensor || result.tensor().type() != expected.type ||
          !(result.tensor().shape() == expected.shape)) {
        throw ShapesVary();
      }
      if (in_arena(result.tensor())) result = result.tensor().clone();
    } else if (expected.is_tensor) {
      throw ShapesVary();
    } else if (result.is_sequence() && std::ranges::any_of(result.sequence(), [&](const Tensor& t) {
                 return in_arena(t);
               })) {
      Value::Sequence copies;
      for (const Tensor& each : result.sequence()) copies.push_back(each.clone());
      result = std::move(copies);
    }
    const auto index = static_cast<std::size_t>(expected.storage);
    if (result.is_tensor()) context.pointers[index] = const_cast<void*>(result.tensor().raw());
    context.values[index] = std::move(result);
  }
}

void Plan::replay(Context& context, Times* times) const {
  Budget budget;
  const int threads = num_threads();
  kernels::onednn::Threads limit(threads);
  bool is_serial = false;
  const Clock::time_point start = Clock::now();
  const auto now = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  for (std::size_t i = 0; i < actions_.size(); ++i) {
    const Action& action = actions_[i];
    if (times != nullptr) times->begin.push_back(now());
    if (action.primitive != nullptr) {
      context.arguments.clear();
      for (const int buffer : action.buffers) {
        context.arguments.push_back(context.pointers[static_cast<std::size_t>(buffer)]);
      }
      context.arguments.push_back(context.scratch.get());
      if (action.is_serial != is_serial) {
        is_serial = action.is_serial;
        limit.set(is_serial ? 1 : threads);
      }
      context.bound[i]->run(context.arguments.data());
    } else {
      run_node(context, action, budget);
    }
    for (const int storage : released_[i]) {
      context.values[static_cast<std::size_t>(storage)] = Value();
    }
    if (times != nullptr) times->end.push_back(now());
  }
}

std::vector<Value> Plan::run(const std::vector<Value>& inputs, Times* times) const {
  std::unique_ptr<Context> context;
  {
    const std::lock_guard lock(mutex_);
    if (!idle_.empty()) {
      context = std::move(idle_.back());
      idle_.pop_back();
    }
  }
  if (context == nullptr) context = make_context();
  for (std::size_t i = 0; i < storages_.size(); ++i) {
    const Storage& storage = storages_[i];
    if (storage.kind == Storage::Kind::input) {
      context->values[i] = inputs[static_cast<std::size_t>(storage.index)];
    } else if (storage.kind == Storage::Kind::output) {
      context->values[i] = Tensor(graph::ElementType::float32, storage.shape);
    } else {
      continue;
    }
    const Value& value = context->values[i];
    context->pointers[i] = value.is_tensor() ? const_cast<void*>(value.tensor().raw()) : nullptr;
  }
  replay(*context, times);
  std::vector<Value> results;
  for (const Reference& output : outputs_) {
    if (output.storage < 0) {
      results.emplace_back();
      continue;
    }
    Value value = context->values[static_cast<std::size_t>(output.storage)];
    if (output.is_tensor && value.is_tensor() && !(value.tensor().shape() == output.shape)) {
      value = value.tensor().reshaped(output.shape);
    }
    results.push_back(std::move(value));
  }
  for (std::size_t i = 0; i < storages_.size(); ++i) {
    if (storages_[i].kind != Storage::Kind::constant) context->values[i] = Value();
  }
  const std::lock_guard lock(mutex_);
  if (idle_.size() < kIdle) idle_.push_back(std::move(context));
  return results;
}

}  // namespace moptcore::inline v0::runtime

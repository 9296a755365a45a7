// SPDX-License-Identifier: Apache-2.0
// Operators that run subgraphs: once, or again and again.
#include <cstring>
#include <limits>

#include <moptcore/graph/operator.hpp>
#include "graph/operators/moving.hpp"

namespace moptcore::inline v0::graph {
namespace {

using Integers = std::vector<std::int64_t>;

bool truth(const Call& call, const Value& value) {
  call.require<DTypeError>(value.is_tensor() && value.tensor().type() == ElementType::boolean,
                           "a condition must be a tensor of bool, tensor", value.is_tensor());
  const Tensor& tensor = value.tensor();
  call.require(tensor.size() == 1, "a condition must have one element, shape", tensor.shape());
  return *tensor.data<bool>();
}

std::vector<Value> run_body(Call& call, const Graph& body, std::span<const Value> inputs,
                            std::size_t outputs) {
  call.require<FormatError>(body.inputs.size() == inputs.size(),
                            "a subgraph must have as many inputs as it is given, inputs",
                            body.inputs.size());
  call.require<FormatError>(body.outputs.size() >= outputs,
                            "a subgraph must have as many outputs as its node needs, outputs",
                            body.outputs.size());
  return call.environment().run(body, inputs);
}

// Elements of one shape gathered turn by turn, stacked at the end along a new axis.
class Stack {
 public:
  void append(const Call& call, const Tensor& part) {
    const Tensor bytes = unpacked(call, part);
    if (count_ == 0) {
      type_ = part.type();
      shape_ = part.shape();
    }
    call.require<DTypeError>(part.type() == type_, "scan outputs must keep their type",
                             name(part.type()));
    call.require(part.shape() == shape_, "scan outputs must keep their shape, shape", part.shape());
    if (count_ == capacity_) grow(call, bytes.type());
    visit_units(call, bytes.type(), [&]<class T>() {
      copy_run<T>(mutable_units<T>(buffer_) + count_ * bytes.size(), units<T>(bytes), bytes.size());
    });
    ++count_;
  }

  [[nodiscard]] std::int64_t count() const noexcept { return count_; }

  // What the parts would be, where there is none. Extents that nobody knows are 0.
  void declare(const Call& call, const ValueInfo& declared) {
    const ValueType& type = declared.type;
    call.require<UnsupportedError>(
        type.kind == ValueType::Kind::tensor && type.element != ElementType::undefined,
        "a loop without turns must declare the types of what it scans, output", declared.name);
    type_ = type.element;
    shape_ = Shape{};
    if (!type.dimensions) return;
    for (const Dimension& dimension : *type.dimensions) {
      shape_.push_back(dimension.is_known() ? dimension.value : 0);
    }
  }

  // Zeros up to `count` parts.
  void fill_up(const Call& call, std::int64_t count) {
    call.environment().spend(count - count_);
    Tensor zero = call.environment().allocate(type_, shape_);
    if (type_ != ElementType::string && zero.bytes() > 0) {
      std::memset(zero.mutable_raw(), 0, static_cast<std::size_t>(zero.bytes()));
    }
    while (count_ < count) append(call, zero);
  }

  // With the new axis before `axis`; backwards where the last part comes first. `declared` is the
  // type of the parts, for when there is none.
  [[nodiscard]] Tensor finish(const Call& call, std::int64_t named, bool backwards,
                              const ValueInfo& declared) {
    if (count_ == 0) declare(call, declared);
    const int axis = axis_of(call, named, shape_.rank() + 1);
    Shape extents;
    std::int64_t outer = 1;
    std::int64_t inner = 1;
    for (int i = 0; i < axis; ++i) extents.push_back(shape_[i]);
    extents.push_back(count_);
    for (int i = axis; i < shape_.rank(); ++i) extents.push_back(shape_[i]);
    const ElementType units_type = is_packed(type_) ? ElementType::uint8 : type_;
    Tensor out = call.environment().allocate(units_type, extents);
    if (out.size() > 0) {
      for (int i = 0; i < axis; ++i) outer *= shape_[i];
      for (int i = axis; i < shape_.rank(); ++i) inner *= shape_[i];
      const std::int64_t size = outer * inner;
      const StridedAxis axes[] = {
          {outer, inner, count_ * inner}, {count_, backwards ? -size : size, inner}, {inner, 1, 1}};
      visit_units(call, units_type, [&]<class T>() {
        const T* first = units<T>(buffer_) + (backwards ? (count_ - 1) * size : 0);
        copy_strided<T>(mutable_units<T>(out), first, axes);
      });
    }
    return packed(call, out, type_);
  }

 private:
  // Doubling keeps the copies linear, and lets the limits of the run see what is gathered.
  void grow(const Call& call, ElementType type) {
    capacity_ = std::max<std::int64_t>(2 * capacity_, 4);
    const std::int64_t size = element_count(shape_);
    Tensor larger = call.environment().allocate(type, Shape{capacity_, size});
    visit_units(call, type, [&]<class T>() {
      if (count_ > 0) copy_run<T>(mutable_units<T>(larger), units<T>(buffer_), count_ * size);
    });
    buffer_ = std::move(larger);
  }

  ElementType type_ = ElementType::undefined;
  Shape shape_;
  Tensor buffer_;
  std::int64_t count_ = 0;
  std::int64_t capacity_ = 0;
};

void branch(Call& call) {
  const bool condition = truth(call, call.value(0));
  const Graph& body = *call.required<Subgraph>(condition ? "then_branch" : "else_branch");
  const auto count = static_cast<std::size_t>(call.output_count());
  std::vector<Value> outputs = run_body(call, body, {}, count);
  for (std::size_t i = 0; i < count; ++i) call.set(static_cast<int>(i), std::move(outputs[i]));
}

void loop(Call& call) {
  const Graph& body = *call.required<Subgraph>("body");
  const std::size_t states = static_cast<std::size_t>(std::max(call.input_count() - 2, 0));
  call.require<FormatError>(body.outputs.size() >= 1 + states,
                            "body must give the condition and every state, outputs",
                            body.outputs.size());
  const std::size_t scans = body.outputs.size() - 1 - states;
  const auto wanted = static_cast<std::size_t>(call.output_count());
  call.require<FormatError>(wanted <= states + scans,
                            "the node must not have more outputs than states and scans, outputs",
                            wanted);
  const bool counted = call.has(0);
  const std::int64_t turns = counted ? call.integer(0) : std::numeric_limits<std::int64_t>::max();
  // Where a number of turns alone is given, what the body says of going on does not count. Where
  // nothing is, heeding it is the only way to an end.
  const bool heeds = call.has(1) || !counted;
  bool going = call.has(1) ? truth(call, call.value(1)) : true;

  std::vector<Value> inputs(2 + states);
  for (std::size_t i = 0; i < states; ++i) {
    const int input = static_cast<int>(i) + 2;
    if (call.has(input)) inputs[2 + i] = call.value(input);
  }
  std::vector<Stack> stacks(scans);
  for (std::int64_t turn = 0; going && turn < turns; ++turn) {
    call.environment().spend(1);
    inputs[0] = Tensor::scalar(turn);
    inputs[1] = Tensor::scalar(going);
    std::vector<Value> outputs = run_body(call, body, inputs, 1 + states);
    if (heeds) going = truth(call, outputs[0]);
    for (std::size_t i = 0; i < states; ++i) inputs[2 + i] = std::move(outputs[1 + i]);
    for (std::size_t i = 0; i < scans; ++i) {
      const Value& part = outputs[1 + states + i];
      call.require<DTypeError>(part.is_tensor(), "scan outputs must be tensors, output", i);
      stacks[i].append(call, part.tensor());
    }
  }
  for (std::size_t i = 0; i < wanted; ++i) {
    const int output = static_cast<int>(i);
    if (i < states) {
      call.set(output, std::move(inputs[2 + i]));
    } else if (call.wants(output)) {
      call.set(output, stacks[i - states].finish(call, 0, false, body.outputs[1 + i]));
    }
  }
}

// Part `at` along an axis, which vanishes.
Tensor part_of(const Call& call, const Tensor& data, int axis, std::int64_t at) {
  Shape extents;
  for (int i = 0; i < data.rank(); ++i) {
    if (i != axis) extents.push_back(data.shape()[i]);
  }
  Tensor out = call.environment().allocate(data.type(), extents);
  if (out.size() == 0) return out;
  const Around all = around(data.shape(), axis);
  visit_units(call, data.type(), [&]<class T>() {
    const StridedAxis axes[] = {{all.outer, all.extent * all.inner, all.inner}, {all.inner, 1, 1}};
    copy_strided<T>(mutable_units<T>(out), units<T>(data) + at * all.inner, axes);
  });
  return out;
}

// One scan over `turns` places: `states` are replaced by what they end as, `stacks` filled. Inputs
// that share bytes come unpacked, with their type beside.
struct Scanned {
  Tensor data;
  ElementType type;
  int axis;
  bool backwards;
};

void scan_once(Call& call, const Graph& body, std::int64_t turns, std::vector<Value>& states,
               const std::vector<Scanned>& scanned, std::vector<Stack>& stacks) {
  for (std::int64_t turn = 0; turn < turns; ++turn) {
    call.environment().spend(1);
    std::vector<Value> inputs = states;
    for (const Scanned& input : scanned) {
      const Tensor part =
          part_of(call, input.data, input.axis, input.backwards ? turns - 1 - turn : turn);
      inputs.emplace_back(packed(call, part, input.type));
    }
    std::vector<Value> outputs = run_body(call, body, inputs, states.size() + stacks.size());
    for (std::size_t i = 0; i < states.size(); ++i) states[i] = std::move(outputs[i]);
    for (std::size_t i = 0; i < stacks.size(); ++i) {
      const Value& part = outputs[states.size() + i];
      call.require<DTypeError>(part.is_tensor(), "scan outputs must be tensors, output", i);
      stacks[i].append(call, part.tensor());
    }
  }
}

// Attribute i of a list that may be left out.
std::int64_t listed(const Call& call, std::string_view name, std::size_t i, std::size_t count) {
  if (call.node().find(name) == nullptr) return 0;
  const auto& list = call.required<Integers>(name);
  call.require(list.size() == count, "axes and directions must be one for each, numbers",
               list.size());
  return list[i];
}

bool backwards(const Call& call, std::string_view name, std::size_t i, std::size_t count) {
  const std::int64_t direction = listed(call, name, i, count);
  call.require(direction == 0 || direction == 1, "directions must be 0 or 1", direction);
  return direction == 1;
}

// How many of the inputs from `first` on are states, how many are scanned, and how many outputs
// beside the states the node has.
struct ScanCounts {
  std::size_t states;
  std::size_t inputs;
  std::size_t outputs;
};

ScanCounts scan_counts(const Call& call, int first, const Graph& body) {
  const auto scans = call.required<std::int64_t>("num_scan_inputs");
  const std::int64_t given = call.input_count() - first;
  call.require(scans >= 1 && scans <= given, "num_scan_inputs must be in [1, inputs]", scans);
  const std::int64_t states = given - scans;
  call.require<FormatError>(
      call.output_count() >= states &&
          body.outputs.size() >= static_cast<std::size_t>(call.output_count()),
      "node and body must have an output for every state, outputs", call.output_count());
  return {static_cast<std::size_t>(states), static_cast<std::size_t>(scans),
          static_cast<std::size_t>(call.output_count() - states)};
}

void scan(Call& call) {
  const Graph& body = *call.required<Subgraph>("body");
  const ScanCounts counts = scan_counts(call, 0, body);
  std::vector<Value> states;
  for (std::size_t i = 0; i < counts.states; ++i) states.push_back(call.value(static_cast<int>(i)));
  std::vector<Scanned> scanned;
  std::int64_t turns = 0;
  for (std::size_t i = 0; i < counts.inputs; ++i) {
    const Tensor& data = call.input(static_cast<int>(counts.states + i));
    const int axis = axis_of(call, listed(call, "scan_input_axes", i, counts.inputs), data.rank());
    const std::int64_t length = data.shape()[axis];
    call.require(i == 0 || length == turns, "scan inputs must be equally long, length", length);
    turns = length;
    scanned.push_back({unpacked(call, data), data.type(), axis,
                       backwards(call, "scan_input_directions", i, counts.inputs)});
  }
  std::vector<Stack> stacks(counts.outputs);
  scan_once(call, body, turns, states, scanned, stacks);
  for (std::size_t i = 0; i < counts.states; ++i) {
    call.set(static_cast<int>(i), std::move(states[i]));
  }
  for (std::size_t i = 0; i < counts.outputs; ++i) {
    const std::size_t output = counts.states + i;
    call.set(static_cast<int>(output),
             stacks[i].finish(call, listed(call, "scan_output_axes", i, counts.outputs),
                              backwards(call, "scan_output_directions", i, counts.outputs),
                              body.outputs[output]));
  }
}

// Of opset 8: every input has a batch in front, each sequence of it its own length.
void scan_batch(Call& call) {
  const Graph& body = *call.required<Subgraph>("body");
  const ScanCounts counts = scan_counts(call, 1, body);
  std::int64_t batch = -1;
  std::int64_t longest = -1;
  std::vector<Tensor> all;
  for (std::size_t i = 0; i < counts.states + counts.inputs; ++i) {
    const Tensor& data = call.input(static_cast<int>(i) + 1);
    const bool scans = i >= counts.states;
    call.require(data.rank() >= (scans ? 2 : 1) && (batch < 0 || data.shape()[0] == batch) &&
                     (!scans || longest < 0 || data.shape()[1] == longest),
                 "inputs must agree in batch and length, shape", data.shape());
    batch = data.shape()[0];
    if (scans) longest = data.shape()[1];
    all.push_back(unpacked(call, data));
  }
  call.environment().spend(batch);
  Integers lengths(static_cast<std::size_t>(batch), longest);
  if (call.has(0)) lengths = call.integers(0);
  call.require(static_cast<std::int64_t>(lengths.size()) == batch && batch > 0,
               "sequence_lens must be one for each of the batch, lengths", lengths.size());
  std::vector<Stack> final_states(counts.states);
  std::vector<Stack> results(counts.outputs);
  for (std::int64_t at = 0; at < batch; ++at) {
    call.require(lengths[at] >= 0 && lengths[at] <= longest,
                 "sequence_lens must not exceed the scan inputs", lengths[at]);
    std::vector<Value> states;
    std::vector<Scanned> scanned;
    for (std::size_t i = 0; i < counts.states + counts.inputs; ++i) {
      const ElementType type = call.input(static_cast<int>(i) + 1).type();
      const Tensor part = part_of(call, all[i], 0, at);
      if (i < counts.states) states.emplace_back(packed(call, part, type));
      else
        scanned.push_back(
            {part, type, 0, backwards(call, "directions", i - counts.states, counts.inputs)});
    }
    std::vector<Stack> stacks(counts.outputs);
    scan_once(call, body, lengths[at], states, scanned, stacks);
    for (std::size_t i = 0; i < counts.states; ++i) {
      call.require<DTypeError>(states[i].is_tensor(), "states must be tensors, output", i);
      final_states[i].append(call, states[i].tensor());
    }
    for (std::size_t i = 0; i < counts.outputs; ++i) {
      if (stacks[i].count() == 0) stacks[i].declare(call, body.outputs[counts.states + i]);
      stacks[i].fill_up(call, longest);
      results[i].append(call, stacks[i].finish(call, 0, false, body.outputs[counts.states + i]));
    }
  }
  for (int i = 0; i < call.output_count(); ++i) {
    const auto at = static_cast<std::size_t>(i);
    Stack& stack = at < counts.states ? final_states[at] : results[at - counts.states];
    call.set(i, stack.finish(call, 0, false, body.outputs[at]));
  }
}

constexpr Operator kOperators[] = {
    {"", "If", 1, branch},
    {"", "Loop", 1, loop},
    {"", "Scan", 8, scan_batch},
    {"", "Scan", 9, scan},
};

}  // namespace

std::span<const Operator> control_operators() noexcept { return kOperators; }

}  // namespace moptcore::inline v0::graph

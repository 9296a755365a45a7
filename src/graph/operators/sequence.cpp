// SPDX-License-Identifier: Apache-2.0
// Operators on sequences of tensors and on values that may be absent.
#include <moptcore/graph/operator.hpp>
#include "graph/operators/moving.hpp"

namespace moptcore::inline v0::graph {
namespace {

using Sequence = Value::Sequence;

const Sequence& sequence_of(const Call& call, int input) {
  const Value& value = call.value(input);
  call.require<DTypeError>(value.is_sequence(), "input must be a sequence of tensors, input",
                           input);
  return value.sequence();
}

// A sequence is copied where one grows: n insertions are n^2 / 2 copies, which no allocation
// counts.
Sequence copied(const Call& call, const Sequence& sequence) {
  call.environment().spend(static_cast<std::int64_t>(sequence.size()));
  return sequence;
}

void sequence_empty(Call& call) { call.set(0, Sequence{}); }

void sequence_construct(Call& call) {
  Sequence result;
  for (int i = 0; i < call.input_count(); ++i) {
    result.push_back(call.input(i));
    call.require<DTypeError>(result.back().type() == result.front().type(),
                             "tensors must be of one type", name(result.back().type()));
  }
  call.set(0, std::move(result));
}

void sequence_insert(Call& call) {
  const Tensor& tensor = call.input(1);
  Sequence result = copied(call, sequence_of(call, 0));
  const auto count = static_cast<std::int64_t>(result.size());
  call.require<DTypeError>(result.empty() || result.front().type() == tensor.type(),
                           "tensors must be of one type", name(tensor.type()));
  std::int64_t position = call.has(2) ? call.integer(2) : count;
  call.require(position >= -count && position <= count, "position must be in [-length, length]",
               position);
  if (position < 0) position += count;
  result.insert(result.begin() + position, tensor);
  call.set(0, std::move(result));
}

void sequence_erase(Call& call) {
  Sequence result = copied(call, sequence_of(call, 0));
  const std::int64_t position = call.has(1) ? call.integer(1) : -1;
  result.erase(result.begin() + index_of(call, position, static_cast<std::int64_t>(result.size())));
  call.set(0, std::move(result));
}

void sequence_at(Call& call) {
  const Sequence& sequence = sequence_of(call, 0);
  const auto count = static_cast<std::int64_t>(sequence.size());
  call.set(0, sequence[index_of(call, call.integer(1), count)]);
}

void sequence_length(Call& call) {
  const auto count = static_cast<std::int64_t>(sequence_of(call, 0).size());
  *call.output(0, ElementType::int64, Shape{}).mutable_data<std::int64_t>() = count;
}

void split_to_sequence(Call& call) {
  const Tensor& data = call.input(0);
  const int axis = axis_of(call, call.attribute<std::int64_t>("axis", 0), data.rank());
  const std::int64_t extent = data.shape()[axis];
  // A part takes about as much memory as this many steps of a loop take time.
  constexpr std::int64_t kStepsOfPart = 32;
  std::vector<std::int64_t> sizes;
  const bool given = call.has(1);
  const bool equal = !given || call.input(1).rank() == 0;
  if (equal) {
    const std::int64_t part = given ? call.integer(1) : 1;
    call.require(part > 0, "split must be > 0", part);
    const std::int64_t parts = extent / part + (extent % part != 0);
    call.environment().spend(checked_product(call, parts, kStepsOfPart));
    for (std::int64_t i = 0; i < parts; ++i) sizes.push_back(std::min(part, extent - i * part));
  } else {
    call.require(call.input(1).rank() == 1, "split must be a number or a list, shape",
                 call.input(1).shape());
    sizes = call.integers(1);
    std::int64_t sum = 0;
    for (const std::int64_t part : sizes) {
      call.require(part >= 0, "split must hold sizes >= 0", part);
      sum = checked_sum(call, sum, part);
    }
    call.require(sum == extent, "split must add up to the extent of the axis", sum);
  }
  const bool keep = given || call.attribute<std::int64_t>("keepdims", 1) != 0;
  const Around all = around(data.shape(), axis);
  Sequence result;
  std::int64_t start = 0;
  for (const std::int64_t size : sizes) {
    Shape extents = data.shape();
    extents[axis] = size;
    Tensor part = call.environment().allocate(data.type(), extents);
    if (part.size() > 0) {
      const std::int64_t run = size * all.inner;
      visit_units(call, data.type(), [&]<class T>() {
        const StridedAxis axes[] = {{all.outer, all.extent * all.inner, run}, {run, 1, 1}};
        copy_strided<T>(mutable_units<T>(part), units<T>(data) + start * all.inner, axes);
      });
    }
    if (!keep) {
      Shape without;
      for (int i = 0; i < data.rank(); ++i) {
        if (i != axis) without.push_back(extents[i]);
      }
      part = part.reshaped(without);
    }
    result.push_back(std::move(part));
    start += size;
  }
  call.set(0, std::move(result));
}

void concat_from_sequence(Call& call) {
  const Sequence& sequence = sequence_of(call, 0);
  const auto axis = call.required<std::int64_t>("axis");
  if (call.attribute<std::int64_t>("new_axis", 0) == 0) {
    return call.set(0, concatenated(call, sequence, axis));
  }
  call.require(!sequence.empty(), "there must be a tensor at least, tensors", sequence.size());
  const int added = axis_of(call, axis, sequence.front().rank() + 1);
  std::vector<Tensor> parts;
  for (const Tensor& tensor : sequence) {
    call.require(tensor.rank() == sequence.front().rank(),
                 "tensors must have as many dimensions, shape", tensor.shape());
    parts.push_back(with_axis(tensor, added));
  }
  call.set(0, concatenated(call, parts, added));
}

void sequence_map(Call& call) {
  const Graph& body = *call.required<Subgraph>("body");
  const Sequence& sequence = sequence_of(call, 0);
  std::vector<Sequence> results(static_cast<std::size_t>(call.output_count()));
  for (std::size_t i = 0; i < sequence.size(); ++i) {
    call.environment().spend(1);
    std::vector<Value> inputs{sequence[i]};
    for (int k = 1; k < call.input_count(); ++k) {
      const Value& value = call.value(k);
      if (value.is_sequence()) {
        call.require(value.sequence().size() == sequence.size(),
                     "sequences must be equally long, length", value.sequence().size());
        inputs.emplace_back(value.sequence()[i]);
      } else {
        inputs.push_back(value);
      }
    }
    const std::vector<Value> outputs = call.environment().run(body, inputs);
    call.require<FormatError>(outputs.size() >= results.size(),
                              "body must have as many outputs as the node, outputs",
                              outputs.size());
    for (std::size_t k = 0; k < results.size(); ++k) {
      call.require<DTypeError>(outputs[k].is_tensor(), "body must give tensors, output", k);
      results[k].push_back(outputs[k].tensor());
    }
  }
  for (std::size_t k = 0; k < results.size(); ++k) {
    call.set(static_cast<int>(k), std::move(results[k]));
  }
}

void optional(Call& call) { call.set(0, call.has(0) ? call.value(0) : Value()); }

void optional_has_element(Call& call) {
  const bool has = call.has(0);
  *call.output(0, ElementType::boolean, Shape{}).mutable_data<bool>() = has;
}

void optional_get_element(Call& call) {
  call.require(call.has(0), "input must hold an element, inputs", call.input_count());
  call.set(0, call.value(0));
}

constexpr Operator kOperators[] = {
    {"", "SequenceEmpty", 11, sequence_empty},
    {"", "SequenceConstruct", 11, sequence_construct},
    {"", "SequenceInsert", 11, sequence_insert},
    {"", "SequenceErase", 11, sequence_erase},
    {"", "SequenceAt", 11, sequence_at},
    {"", "SequenceLength", 11, sequence_length},
    {"", "SplitToSequence", 11, split_to_sequence},
    {"", "ConcatFromSequence", 11, concat_from_sequence},
    {"", "SequenceMap", 17, sequence_map},
    {"", "Optional", 15, optional},
    {"", "OptionalHasElement", 15, optional_has_element},
    {"", "OptionalGetElement", 15, optional_get_element},
};

}  // namespace

std::span<const Operator> sequence_operators() noexcept { return kOperators; }

}  // namespace moptcore::inline v0::graph

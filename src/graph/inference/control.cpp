// SPDX-License-Identifier: Apache-2.0
// Branches, loops, sequences and optional values.
#include <algorithm>
#include <set>

#include "graph/inference/rule.hpp"

namespace moptcore::inline v0::graph {
namespace {

Graph* body_of(Inference& call, std::string_view name) {
  for (Attribute& attribute : call.node().attributes) {
    if (attribute.name != name) continue;
    if (auto* body = std::get_if<Subgraph>(&attribute.value)) return &**body;
  }
  call.contradict("must have the attribute", name);
}

void branch(Inference& call) {
  Graph* yes = body_of(call, "then_branch");
  Graph* no = body_of(call, "else_branch");
  const auto condition = call.integer(0);
  std::vector<Fact> then_facts;
  std::vector<Fact> else_facts;
  if (condition) {
    // Only one of them ever runs; the other is looked at, so that its values have types.
    then_facts =
        *condition != 0 ? call.bodies.infer(*yes, {}) : call.bodies.infer_leniently(*yes, {});
    else_facts =
        *condition == 0 ? call.bodies.infer(*no, {}) : call.bodies.infer_leniently(*no, {});
  } else {
    then_facts = call.bodies.infer_leniently(*yes, {});
    else_facts = call.bodies.infer_leniently(*no, {});
  }
  for (int i = 0; i < call.output_count(); ++i) {
    const auto at = static_cast<std::size_t>(i);
    const Fact a = at < then_facts.size() ? then_facts[at] : Fact{};
    const Fact b = at < else_facts.size() ? else_facts[at] : Fact{};
    if (condition) call.set(i, *condition != 0 ? a : b);
    else call.set(i, join(a, b, call.x));
  }
}

// Without the elements: they change from one iteration to the next.
Fact typed(const Fact& fact) {
  Fact result = fact;
  result.content.reset();
  result.constant.reset();
  return result;
}

// What is true of a value in every iteration of a loop: extents of the body's own making are not.
Fact outside(const Fact& fact, ExtentTable& table) {
  Fact result = typed(fact);
  if (result.dims) {
    for (Extent& extent : *result.dims) {
      if (!table.is_named(extent)) extent = table.fresh();
    }
  }
  if (result.inner) {
    result.inner = std::make_shared<const Fact>(outside(*result.inner, table));
  }
  return result;
}

bool same_dims(const Fact& a, const Fact& b) {
  if (a.kind != b.kind || a.element != b.element || a.dims != b.dims) return false;
  if (static_cast<bool>(a.inner) != static_cast<bool>(b.inner)) return false;
  return !a.inner || same_dims(*a.inner, *b.inner);
}

// The state of a loop as it is in every iteration: `states` become what stays true when the body
// has run. `run` gives the outputs of the body for them.
template <class Run>
std::vector<Fact> settle(Inference& call, std::vector<Fact>& states, std::size_t first, Run&& run) {
  const int rounds = call.bodies.rounds();
  std::set<Extent> open;
  for (int round = 1;; ++round) {
    if (round >= rounds) {
      // Nothing but the element type stays true whatever the body does.
      for (Fact& state : states) {
        state.dims.reset();
        if (state.inner) {
          state.inner = std::make_shared<const Fact>(Fact::tensor(state.inner->element, {}));
        }
      }
    }
    std::vector<Fact> outputs = run(states);
    if (round >= rounds) return outputs;
    bool stable = true;
    for (std::size_t i = 0; i < states.size() && first + i < outputs.size(); ++i) {
      Fact next = typed(join(states[i], outputs[first + i], call.x));
      if (next.dims && states[i].dims) {
        for (std::size_t axis = 0; axis < next.dims->size(); ++axis) {
          const Extent before = (*states[i].dims)[axis];
          // An extent that may be any stays so.
          if (open.contains(before)) (*next.dims)[axis] = before;
          else if ((*next.dims)[axis] != before) open.insert((*next.dims)[axis]);
        }
      }
      if (same_dims(next, states[i])) continue;
      stable = false;
      states[i] = std::move(next);
    }
    if (stable) return outputs;
  }
}

void loop(Inference& call) {
  Graph* body = body_of(call, "body");
  std::vector<Fact> states;
  for (int i = 2; i < call.input_count(); ++i) states.push_back(typed(call.fact(i)));
  const std::size_t count = states.size();
  call.require(body->inputs.size() == count + 2, "body must have two inputs more than states",
               body->inputs.size());
  Fact iteration = Fact::tensor(ElementType::int64, Extents{});
  Fact condition = Fact::tensor(ElementType::boolean, Extents{});
  const bool begins = !call.has(1) || call.integer(1).value_or(0) == 1;
  if (begins) condition.content = Extents{call.k(1)};
  const auto outputs = settle(call, states, 1, [&](const std::vector<Fact>& current) {
    std::vector<Fact> inputs{iteration, condition};
    inputs.insert(inputs.end(), current.begin(), current.end());
    return call.bodies.infer(*body, inputs);
  });
  call.require(outputs.size() >= count + 1, "body must have an output for each state",
               outputs.size());
  // It runs to the end where the condition that begins as true stays true.
  Extent trips = call.x.fresh();
  const Fact& goes_on = outputs[0];
  const bool always = begins && goes_on.content && goes_on.content->size() == 1 &&
                      call.x.is(goes_on.content->front(), 1);
  if (const auto most = call.content(0); call.has(0) && always && most && most->size() == 1) {
    trips = call.x.maximum(most->front(), call.k(0));
  }
  for (int i = 0; i < call.output_count(); ++i) {
    const auto at = static_cast<std::size_t>(i);
    if (at < count) {
      // After no iteration the state is what it was before.
      call.set(i, outside(join(states[at], outputs[1 + at], call.x), call.x));
    } else if (at + 1 < outputs.size()) {
      Fact scanned = outside(outputs[1 + at], call.x);
      if (scanned.dims) scanned.dims->insert(scanned.dims->begin(), trips);
      call.set(i, std::move(scanned));
    }
  }
}

void scan(Inference& call) {
  if (call.version() < 9) return;
  Graph* body = body_of(call, "body");
  const auto scans = call.attribute<std::int64_t>("num_scan_inputs", 0);
  call.require(scans >= 0 && scans <= call.input_count(), "num_scan_inputs must be in range",
               scans);
  const auto count = static_cast<std::size_t>(call.input_count() - scans);
  call.require(body->inputs.size() == count + static_cast<std::size_t>(scans),
               "body must have an input for each of the node", body->inputs.size());
  const auto in_axes = call.ints("scan_input_axes");
  const auto out_axes = call.ints("scan_output_axes");
  Extent length = call.x.fresh();
  std::vector<Fact> slices;
  for (std::int64_t i = 0; i < scans; ++i) {
    Fact fact = typed(call.fact(static_cast<int>(count) + static_cast<int>(i)));
    if (fact.dims) {
      const auto at = static_cast<std::size_t>(i);
      const int axis =
          call.axis(at < in_axes.size() ? in_axes[at] : 0, static_cast<int>(fact.dims->size()));
      const Extent own = (*fact.dims)[axis];
      length =
          call.x.is_named(length) ? call.equal(length, own, "scanned extents must agree") : own;
      fact.dims->erase(fact.dims->begin() + axis);
    }
    slices.push_back(std::move(fact));
  }
  std::vector<Fact> states;
  for (std::size_t i = 0; i < count; ++i) states.push_back(typed(call.fact(static_cast<int>(i))));
  const auto outputs = settle(call, states, 0, [&](const std::vector<Fact>& current) {
    std::vector<Fact> inputs = current;
    inputs.insert(inputs.end(), slices.begin(), slices.end());
    return call.bodies.infer(*body, inputs);
  });
  for (int i = 0; i < call.output_count(); ++i) {
    const auto at = static_cast<std::size_t>(i);
    if (at >= outputs.size()) return;
    if (at < count) {
      call.set(i, outside(join(states[at], outputs[at], call.x), call.x));
      continue;
    }
    Fact scanned = outside(outputs[at], call.x);
    if (scanned.dims) {
      const int axis = call.axis(at - count < out_axes.size() ? out_axes[at - count] : 0,
                                 static_cast<int>(scanned.dims->size()) + 1);
      scanned.dims->insert(scanned.dims->begin() + axis, length);
    }
    call.set(i, std::move(scanned));
  }
}

Fact sequence_of(Fact inner) {
  Fact result;
  result.kind = ValueType::Kind::sequence;
  result.inner = std::make_shared<const Fact>(std::move(inner));
  return result;
}

Fact inner_of(const Fact& fact) { return fact.inner ? *fact.inner : Fact{}; }

void sequence_construct(Inference& call) {
  Fact inner = typed(call.fact(0));
  for (int i = 1; i < call.input_count(); ++i) {
    inner = typed(join(inner, call.fact(i), call.x));
  }
  call.set(0, sequence_of(outside(inner, call.x)));
}

void sequence_empty(Inference& call) {
  call.set(0, sequence_of(Fact::tensor(call.type_attribute("dtype", ElementType::float32), {})));
}

void sequence_insert(Inference& call) {
  call.set(0, sequence_of(typed(join(inner_of(call.fact(0)), call.fact(1), call.x))));
}

void sequence_erase(Inference& call) { call.set(0, call.fact(0)); }

void sequence_at(Inference& call) { call.set(0, outside(inner_of(call.fact(0)), call.x)); }

void sequence_length(Inference& call) { call.set(0, ElementType::int64, Extents{}); }

void split_to_sequence(Inference& call) {
  std::optional<Extents> dims = call.dims(0);
  if (dims) {
    const int axis = call.axis(call.attribute<std::int64_t>("axis", 0), call.rank(0));
    const auto split = call.integers(1);
    if (!call.has(1)) {
      if (call.attribute<std::int64_t>("keepdims", 1) != 0) (*dims)[axis] = call.k(1);
      else dims->erase(dims->begin() + axis);
    } else if (split && call.rank(1) == 0 && split->front() > 0 &&
               call.x.divide_exactly((*dims)[axis], call.k(split->front()))) {
      (*dims)[axis] = call.k(split->front());
    } else if (split && call.rank(1) == 1 && !split->empty() &&
               std::ranges::count(*split, split->front()) ==
                   static_cast<std::ptrdiff_t>(split->size())) {
      (*dims)[axis] = call.k(split->front());
    } else {
      (*dims)[axis] = call.x.fresh();
    }
  }
  call.set(0, sequence_of(Fact::tensor(call.element(0), dims)));
}

void concat_from_sequence(Inference& call) {
  const Fact inner = outside(inner_of(call.fact(0)), call.x);
  std::optional<Extents> dims = inner.dims;
  if (dims) {
    const auto axis = call.attribute<std::int64_t>("axis", 0);
    if (call.attribute<std::int64_t>("new_axis", 0) != 0) {
      const int at = call.axis(axis, static_cast<int>(dims->size()) + 1);
      dims->insert(dims->begin() + at, call.x.fresh());
    } else {
      (*dims)[call.axis(axis, static_cast<int>(dims->size()))] = call.x.fresh();
    }
  }
  call.set(0, inner.element, dims);
}

void sequence_map(Inference& call) {
  Graph* body = body_of(call, "body");
  std::vector<Fact> inputs;
  for (int i = 0; i < call.input_count(); ++i) {
    const Fact& fact = call.fact(i);
    inputs.push_back(fact.kind == ValueType::Kind::sequence ? outside(inner_of(fact), call.x)
                                                            : typed(fact));
  }
  call.require(inputs.size() == body->inputs.size(), "body must have an input for each of the node",
               body->inputs.size());
  const auto outputs = call.bodies.infer(*body, inputs);
  for (int i = 0; i < call.output_count() && i < static_cast<int>(outputs.size()); ++i) {
    call.set(i, sequence_of(outside(outputs[static_cast<std::size_t>(i)], call.x)));
  }
}

void optional_value(Inference& call) {
  Fact result;
  result.kind = ValueType::Kind::optional;
  if (call.has(0)) {
    result.inner = std::make_shared<const Fact>(typed(call.fact(0)));
  }
  if (call.has(0) || call.node().find("type") == nullptr) call.set(0, std::move(result));
}

void optional_get(Inference& call) {
  const Fact& fact = call.fact(0);
  if (fact.kind == ValueType::Kind::optional) call.set(0, inner_of(fact));
  else call.set(0, typed(fact));
}

void optional_has(Inference& call) { call.set(0, ElementType::boolean, Extents{}); }

constexpr Rule kRules[] = {
    {"", "ConcatFromSequence", concat_from_sequence},
    {"", "If", branch},
    {"", "Loop", loop},
    {"", "Optional", optional_value},
    {"", "OptionalGetElement", optional_get},
    {"", "OptionalHasElement", optional_has},
    {"", "Scan", scan},
    {"", "SequenceAt", sequence_at},
    {"", "SequenceConstruct", sequence_construct},
    {"", "SequenceEmpty", sequence_empty},
    {"", "SequenceErase", sequence_erase},
    {"", "SequenceInsert", sequence_insert},
    {"", "SequenceLength", sequence_length},
    {"", "SequenceMap", sequence_map},
    {"", "SplitToSequence", split_to_sequence},
};

}  // namespace

std::span<const Rule> control_rules() noexcept { return kRules; }

}  // namespace moptcore::inline v0::graph

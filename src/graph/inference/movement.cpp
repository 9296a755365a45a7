// SPDX-License-Identifier: Apache-2.0
// Operators that move elements: shapes, slices, gathers.
#include <algorithm>
#include <limits>
#include <numeric>

#include "graph/inference/rule.hpp"

namespace moptcore::inline v0::graph {
namespace {

void same(Inference& call) { call.set(0, call.element(0), call.dims(0)); }

void shape(Inference& call) {
  if (!call.dims(0)) {
    call.set(0, ElementType::int64, call.fresh(1));
    return;
  }
  const Extents& dims = *call.dims(0);
  const std::int64_t rank = call.rank(0);
  const auto clamp = [&](std::int64_t position) {
    if (position < 0) position += rank;
    return std::clamp<std::int64_t>(position, 0, rank);
  };
  const std::int64_t start = clamp(call.attribute<std::int64_t>("start", 0));
  const std::int64_t end = std::max(start, clamp(call.attribute<std::int64_t>("end", rank)));
  call.set(0, ElementType::int64, Extents{call.k(end - start)});
  call.set_content(Extents(dims.begin() + start, dims.begin() + end));
}

void size(Inference& call) {
  call.set(0, ElementType::int64, Extents{});
  if (call.dims(0)) call.set_content({call.x.product(*call.dims(0))});
}

// The extent that makes `target` hold as many elements as `from`.
Extent remaining(Inference& call, Extents from, Extents target) {
  for (auto wanted = target.begin(); wanted != target.end();) {
    const auto found = std::ranges::find(from, *wanted);
    if (found != from.end() && !call.x.is(*wanted, 0)) {
      from.erase(found);
      wanted = target.erase(wanted);
    } else {
      ++wanted;
    }
  }
  const Extent total = call.x.product(from);
  const Extent part = call.x.product(target);
  if (call.x.is(part, 0)) return call.x.fresh();
  const auto all = call.x.value(total);
  const auto given = call.x.value(part);
  if (all && given) {
    call.require(*all % *given == 0, "must keep the number of elements", *all);
  }
  return call.x.floor_divide(total, part);
}

void reshape(Inference& call) {
  const ElementType element = call.element(0);
  std::optional<Extents> wanted = call.content(1);
  if (!call.has(1) && call.node().find("shape") != nullptr) {
    wanted.emplace();
    for (const std::int64_t extent : call.ints("shape")) wanted->push_back(call.k(extent));
  }
  if (!wanted) {
    std::optional<Extents> dims;
    if (call.rank(1) == 1) {
      const auto rank = call.x.value((*call.dims(1))[0]);
      if (rank && *rank >= 0 && *rank <= kMaxRank) dims = call.fresh(static_cast<int>(*rank));
    }
    call.set(0, element, dims);
    return;
  }
  call.require(wanted->size() <= static_cast<std::size_t>(kMaxRank),
               "must have at most 16 dimensions", wanted->size());
  const bool zeros = call.attribute<std::int64_t>("allowzero", 0) != 0;
  Extents dims;
  int open = -1;
  for (std::size_t i = 0; i < wanted->size(); ++i) {
    Extent extent = (*wanted)[i];
    const auto value = call.x.value(extent);
    if (value == -1) {
      call.require(open < 0, "shape must have at most one -1, second at", i);
      open = static_cast<int>(i);
    } else if (value == 0 && !zeros) {
      if (call.dims(0)) {
        call.require(i < call.dims(0)->size(), "shape must not copy an axis that is not there", i);
        extent = (*call.dims(0))[i];
      } else {
        extent = call.x.fresh();
      }
    } else if (value) {
      call.require(*value >= 0, "shape must have extents >= -1", *value);
    } else if (call.x.lower_bound(extent).value_or(-1) < 0) {
      extent = call.x.fresh();  // it might be -1
    }
    dims.push_back(extent);
  }
  if (open >= 0) {
    if (call.dims(0)) {
      Extents others = dims;
      others.erase(others.begin() + open);
      dims[open] = remaining(call, *call.dims(0), others);
    } else {
      dims[open] = call.x.fresh();
    }
  } else if (call.dims(0)) {
    const auto before = call.x.value(call.x.product(*call.dims(0)));
    const auto after = call.x.value(call.x.product(dims));
    call.require(!before || !after || *before == *after, "must keep the number of elements",
                 after.value_or(0));
  }
  call.set(0, element, dims);
  if (auto content = call.content(0)) call.set_content(std::move(*content));
}

void flatten(Inference& call) {
  if (!call.dims(0)) {
    call.set(0, call.element(0), call.fresh(2));
    return;
  }
  const Extents& dims = *call.dims(0);
  const auto rank = static_cast<std::int64_t>(dims.size());
  std::int64_t axis = call.attribute<std::int64_t>("axis", 1);
  call.require(axis >= -rank && axis <= rank, "axis must be within the rank", axis);
  if (axis < 0) axis += rank;
  call.set(0, call.element(0),
           Extents{call.x.product(Extents(dims.begin(), dims.begin() + axis)),
                   call.x.product(Extents(dims.begin() + axis, dims.end()))});
}

void squeeze(Inference& call) {
  const auto axes = call.list(1, "axes");
  std::optional<Extents> result;
  if (call.dims(0) && axes.known) {
    const Extents& dims = *call.dims(0);
    std::vector<bool> gone(dims.size(), false);
    bool sure = true;
    if (axes.given) {
      for (const std::int64_t axis : axes.values) {
        const int index = call.axis(axis, call.rank(0));
        const auto value = call.x.value(dims[index]);
        call.require(!value || *value == 1, "squeezed axes must have extent 1", value.value_or(0));
        gone[index] = true;
      }
    } else {
      for (std::size_t i = 0; i < dims.size(); ++i) {
        gone[i] = call.x.is(dims[i], 1);
        if (!call.x.value(dims[i])) sure = false;
      }
    }
    if (sure) {
      result.emplace();
      for (std::size_t i = 0; i < dims.size(); ++i) {
        if (!gone[i]) result->push_back(dims[i]);
      }
    }
  }
  call.set(0, call.element(0), result);
  if (auto content = call.content(0)) call.set_content(std::move(*content));
}

void unsqueeze(Inference& call) {
  const auto axes = call.list(1, "axes");
  std::optional<Extents> result;
  if (call.dims(0) && axes.known) {
    const int rank = call.rank(0) + static_cast<int>(axes.values.size());
    call.require(rank <= kMaxRank, "must have at most 16 dimensions", rank);
    std::vector<bool> added(rank, false);
    for (const std::int64_t axis : axes.values) {
      const int index = call.axis(axis, rank);
      call.require(!added[index], "axes must differ", axis);
      added[index] = true;
    }
    result.emplace();
    std::size_t next = 0;
    for (int i = 0; i < rank; ++i) {
      result->push_back(added[i] ? call.k(1) : (*call.dims(0))[next++]);
    }
  }
  call.set(0, call.element(0), result);
  if (auto content = call.content(0)) call.set_content(std::move(*content));
}

void transpose(Inference& call) {
  if (!call.dims(0)) {
    call.set(0, call.element(0));
    return;
  }
  const int rank = call.rank(0);
  std::vector<std::int64_t> order = call.ints("perm");
  if (order.empty()) {
    for (int i = rank; i-- > 0;) order.push_back(i);
  }
  call.require(static_cast<int>(order.size()) == rank, "perm must have one entry for each axis",
               order.size());
  Extents dims;
  std::vector<bool> seen(rank, false);
  for (const std::int64_t axis : order) {
    const int index = call.axis(axis, rank);
    call.require(!seen[index], "perm must name each axis once", axis);
    seen[index] = true;
    dims.push_back((*call.dims(0))[index]);
  }
  call.set(0, call.element(0), dims);
  if (rank <= 1) {
    if (auto content = call.content(0)) call.set_content(std::move(*content));
  }
}

ElementType first_known(const Inference& call) {
  for (int i = 0; i < call.input_count(); ++i) {
    if (call.element(i) != ElementType::undefined) return call.element(i);
  }
  return ElementType::undefined;
}

void concat(Inference& call) {
  int rank = -1;
  for (int i = 0; i < call.input_count(); ++i) {
    if (call.rank(i) < 0) continue;
    call.require(rank < 0 || rank == call.rank(i), "inputs must have one rank", call.rank(i));
    rank = call.rank(i);
  }
  if (rank < 0) {
    call.set(0, first_known(call));
    return;
  }
  const int axis = call.axis(call.attribute<std::int64_t>("axis", 1), rank);
  Extents dims;
  bool complete = true;
  bool first = true;
  for (int i = 0; i < call.input_count(); ++i) {
    if (!call.dims(i)) {
      complete = false;
      continue;
    }
    const Extents& one = *call.dims(i);
    if (first) {
      dims = one;
      first = false;
      continue;
    }
    for (int d = 0; d < rank; ++d) {
      dims[d] = d == axis ? call.x.add(dims[d], one[d])
                          : call.equal(dims[d], one[d], "inputs must agree outside the axis");
    }
  }
  if (!complete) dims[axis] = call.x.fresh();
  call.set(0, first_known(call), dims);
  if (rank != 1 || !complete) return;
  Extents content;
  for (int i = 0; i < call.input_count(); ++i) {
    const auto part = call.content(i);
    if (!part || content.size() + part->size() > kMaxContent) return;
    content.insert(content.end(), part->begin(), part->end());
  }
  call.set_content(std::move(content));
}

void split(Inference& call) {
  const auto sizes = call.list(1, "split");
  const std::int64_t parts = call.output_count();
  if (!call.dims(0)) {
    for (int i = 0; i < call.output_count(); ++i) call.set(i, call.element(0));
    return;
  }
  const Extents& dims = *call.dims(0);
  const int axis = call.axis(call.attribute<std::int64_t>("axis", 0), call.rank(0));
  const auto symbolic = call.content(1);
  std::vector<Extent> extents;
  if (sizes.given && sizes.known) {
    call.require(static_cast<std::int64_t>(sizes.values.size()) == parts,
                 "split must have one entry for each output", sizes.values.size());
    std::int64_t total = 0;
    for (const std::int64_t size : sizes.values) {
      call.require(size >= 0, "split must be >= 0", size);
      call.require(!__builtin_add_overflow(total, size, &total), "split must be in range", size);
      extents.push_back(call.k(size));
    }
    const auto all = call.x.value(dims[axis]);
    call.require(!all || *all == total, "split must sum up to the extent of the axis", total);
  } else if (sizes.given && symbolic && static_cast<std::int64_t>(symbolic->size()) == parts) {
    for (const Extent extent : *symbolic) {
      extents.push_back(call.x.lower_bound(extent).value_or(-1) >= 0 ? extent : call.x.fresh());
    }
  } else if (sizes.given) {
    extents = call.fresh(static_cast<int>(parts));
  } else {
    const std::int64_t count = call.attribute<std::int64_t>("num_outputs", parts);
    call.require(count >= parts && count > 0, "num_outputs must be the number of outputs", count);
    // The last part is smaller where the extent does not divide.
    const Extent each = call.x.ceil_divide(dims[axis], call.k(count));
    for (std::int64_t i = 0; i < parts; ++i) extents.push_back(each);
    const auto even = call.x.divide_exactly(dims[axis], call.k(count));
    if (!even && parts == count) {
      const Extent before = call.x.multiply(each, count - 1);
      extents.back() = call.x.subtract(dims[axis], before);
      if (const auto value = call.x.value(extents.back()); value && *value < 0) {
        extents = call.fresh(static_cast<int>(parts));
      }
    }
  }
  const auto content = call.content(0);
  std::int64_t offset = 0;
  for (int i = 0; i < call.output_count(); ++i) {
    Extents own = dims;
    own[axis] = extents[i];
    Fact fact = Fact::tensor(call.element(0), own);
    const auto count = call.x.value(extents[i]);
    if (content && call.rank(0) == 1 && count && offset >= 0 &&
        offset + *count <= static_cast<std::int64_t>(content->size())) {
      fact.content = Extents(content->begin() + offset, content->begin() + offset + *count);
    }
    offset = count && offset >= 0 ? offset + *count : -1;
    call.set(i, std::move(fact));
  }
}

// How many elements a slice takes, and whether the answer is certain.
Extent sliced(Inference& call, Extent extent, std::optional<Extent> start,
              std::optional<Extent> end, std::optional<std::int64_t> step) {
  if (!start || !end || !step) return call.x.fresh();
  call.require(*step != 0, "steps must not be 0", *step);
  const auto n = call.x.value(extent);
  const auto from = call.x.value(*start);
  const auto to = call.x.value(*end);
  if (n && from && to) {
    const auto place = [&](std::int64_t position, std::int64_t low, std::int64_t high) {
      if (position < 0) position = position < -*n ? low : position + *n;
      return std::clamp(position, low, high);
    };
    std::int64_t count = 0;
    if (*step > 0) {
      const std::int64_t distance = place(*to, 0, *n) - place(*from, 0, *n);
      count = distance <= 0 ? 0 : (distance - 1) / *step + 1;
    } else {
      const std::int64_t first = place(*from, *n > 0 ? 0 : -1, *n - 1);
      // An end before the first element, written as a negative number, means "all".
      const std::int64_t last = *to < -*n ? -1 : place(*to, -1, *n - 1);
      const std::int64_t distance = first - last;
      const std::int64_t stride =
          *step == std::numeric_limits<std::int64_t>::min() ? INT64_MAX : -*step;
      count = distance <= 0 ? 0 : (distance - 1) / stride + 1;
    }
    return call.k(count);
  }
  constexpr std::int64_t kFar = std::int64_t{1} << 30;  // "to the end", as exporters write it
  if (*step < 0) {
    // All of it backwards.
    if (from && to && (*from == -1 || *from >= kFar) && *to <= -kFar) {
      return call.x.ceil_divide(extent, call.k(*step == INT64_MIN ? INT64_MAX : -*step));
    }
    return call.x.fresh();
  }
  // Positions counted from the front, clamped to the extent.
  const auto position = [&](Extent place) -> std::optional<Extent> {
    const auto value = call.x.value(place);
    if (value && *value >= kFar) return extent;
    if (value && *value < 0) {
      if (*value <= -kFar) return call.k(0);
      return call.x.maximum(call.x.add(extent, *value), call.k(0));
    }
    if (call.x.lower_bound(place).value_or(-1) < 0) return std::nullopt;
    return call.x.minimum(place, extent);
  };
  const auto first = position(*start);
  const auto last = position(*end);
  if (!first || !last) return call.x.fresh();
  const Extent distance = call.x.maximum(call.x.subtract(*last, *first), call.k(0));
  return call.x.ceil_divide(distance, call.k(*step));
}

void slice(Inference& call) {
  if (!call.dims(0)) {
    call.set(0, call.element(0));
    return;
  }
  Extents dims = *call.dims(0);
  std::optional<Extents> starts;
  std::optional<Extents> ends;
  std::optional<std::vector<std::int64_t>> axes;
  std::optional<std::vector<std::int64_t>> steps;
  if (call.version() >= 10) {
    starts = call.content(1);
    ends = call.content(2);
    if (call.has(3)) axes = call.integers(3);
    if (call.has(4)) steps = call.integers(4);
  } else {
    starts.emplace();
    ends.emplace();
    for (const std::int64_t value : call.ints("starts")) starts->push_back(call.k(value));
    for (const std::int64_t value : call.ints("ends")) ends->push_back(call.k(value));
    if (call.node().find("axes") != nullptr) axes = call.ints("axes");
  }
  const bool from_inputs = call.version() >= 10;
  const bool has_axes = axes || (from_inputs && call.has(3));
  const bool has_steps = from_inputs && call.has(4);
  std::optional<std::int64_t> count;
  if (starts) count = static_cast<std::int64_t>(starts->size());
  else if (ends) count = static_cast<std::int64_t>(ends->size());
  else if (axes) count = static_cast<std::int64_t>(axes->size());
  else if (call.rank(1) == 1) count = call.x.value((*call.dims(1))[0]);
  if ((has_axes && !axes) || !count) {
    call.set(0, call.element(0), call.fresh(call.rank(0)));
    return;
  }
  if (!axes) {
    call.require(*count <= call.rank(0), "starts must be at most one for each axis", *count);
    axes.emplace(static_cast<std::size_t>(*count));
    std::iota(axes->begin(), axes->end(), 0);
  }
  if (has_steps && steps) {
    call.require(steps->size() == axes->size(), "steps must be as many as axes", steps->size());
  }
  call.require(!starts || starts->size() == axes->size(), "starts must be as many as axes",
               starts ? starts->size() : 0);
  call.require(!ends || ends->size() == axes->size(), "ends must be as many as axes",
               ends ? ends->size() : 0);
  for (std::size_t i = 0; i < axes->size(); ++i) {
    const int axis = call.axis((*axes)[i], call.rank(0));
    std::optional<std::int64_t> step = 1;
    if (has_steps) step = steps ? std::optional((*steps)[i]) : std::nullopt;
    dims[axis] = sliced(call, dims[axis], starts ? std::optional((*starts)[i]) : std::nullopt,
                        ends ? std::optional((*ends)[i]) : std::nullopt, step);
  }
  call.set(0, call.element(0), dims);
  const auto content = call.content(0);
  if (!content || call.rank(0) != 1 || axes->size() != 1 || !starts || (has_steps && !steps)) {
    return;
  }
  const auto n = static_cast<std::int64_t>(content->size());
  const auto from = call.x.value(starts->front());
  const auto taken = call.x.value(dims[0]);
  const std::int64_t step = has_steps ? steps->front() : 1;
  if (!from || !taken) return;
  std::int64_t position = *from < 0 ? std::max<std::int64_t>(*from, -n) + n : *from;
  position = std::clamp<std::int64_t>(position, 0, step > 0 ? n : std::max<std::int64_t>(n - 1, 0));
  Extents result;
  for (std::int64_t i = 0; i < *taken; ++i) {
    const std::int64_t at = position + i * step;
    if (at < 0 || at >= n) return;
    result.push_back((*content)[at]);
  }
  call.set_content(std::move(result));
}

void gather(Inference& call) {
  if (!call.dims(0) || !call.dims(1)) {
    call.set(0, call.element(0));
    return;
  }
  call.must_have_rank_from(0, 1);
  const Extents& data = *call.dims(0);
  const Extents& indices = *call.dims(1);
  const int axis = call.axis(call.attribute<std::int64_t>("axis", 0), call.rank(0));
  Extents dims(data.begin(), data.begin() + axis);
  dims.insert(dims.end(), indices.begin(), indices.end());
  dims.insert(dims.end(), data.begin() + axis + 1, data.end());
  call.set(0, call.element(0), dims);
  const auto content = call.content(0);
  const auto wanted = call.integers(1);
  if (!content || !wanted || call.rank(0) != 1) return;
  Extents result;
  const auto n = static_cast<std::int64_t>(content->size());
  for (const std::int64_t index : *wanted) {
    if (index < -n || index >= n) return;
    result.push_back((*content)[index < 0 ? index + n : index]);
  }
  call.set_content(std::move(result));
}

void gather_elements(Inference& call) {
  if (call.rank(0) >= 0 && call.rank(1) >= 0) {
    call.require(call.rank(0) == call.rank(1), "indices must have the rank of data", call.rank(1));
  }
  call.set(0, call.element(0), call.dims(1));
}

void gather_nd(Inference& call) {
  if (!call.dims(0) || !call.dims(1)) {
    call.set(0, call.element(0));
    return;
  }
  call.must_have_rank_from(1, 1);
  const Extents& data = *call.dims(0);
  const Extents& indices = *call.dims(1);
  const auto batch = call.attribute<std::int64_t>("batch_dims", 0);
  const auto depth = call.x.value(indices.back());
  if (!depth) {
    call.set(0, call.element(0));
    return;
  }
  call.require(batch >= 0 && *depth >= 0 && *depth <= static_cast<std::int64_t>(data.size()) &&
                   batch + *depth <= static_cast<std::int64_t>(data.size()),
               "indices must not have more coordinates than data has axes", *depth);
  Extents dims(indices.begin(), indices.end() - 1);
  dims.insert(dims.end(), data.begin() + batch + *depth, data.end());
  call.set(0, call.element(0), dims);
}

void expand(Inference& call) {
  const auto wanted = call.content(1);
  if (!wanted) {
    std::optional<Extents> dims;
    if (call.dims(0) && call.rank(1) == 1) {
      const auto rank = call.x.value((*call.dims(1))[0]);
      if (rank && *rank >= 0 && *rank <= kMaxRank) {
        const int larger = std::max(call.rank(0), static_cast<int>(*rank));
        dims = call.fresh(larger);
        // Where there is an axis of another extent than 1, it stays.
        for (int i = 0; i < call.rank(0); ++i) {
          const Extent own = (*call.dims(0))[i];
          const auto value = call.x.value(own);
          if (value && *value != 1) (*dims)[larger - call.rank(0) + i] = own;
        }
      }
    }
    call.set(0, call.element(0), dims);
    return;
  }
  if (!call.dims(0)) {
    call.set(0, call.element(0));
    return;
  }
  Extents shape = *wanted;
  for (Extent& extent : shape) {
    if (call.x.lower_bound(extent).value_or(-1) < 0) extent = call.x.fresh();
  }
  call.set(0, call.element(0), call.broadcast(*call.dims(0), shape));
  const auto content = call.content(0);
  if (content && content->size() == 1) {
    const auto count = call.x.value(call.x.product(shape));
    if (count && *count <= static_cast<std::int64_t>(kMaxContent) && *count >= 0) {
      call.set_content(Extents(static_cast<std::size_t>(*count), content->front()));
    }
  } else if (content && call.rank(0) == 1 && shape.size() == 1) {
    call.set_content(*content);
  }
}

void tile(Inference& call) {
  if (!call.dims(0)) {
    call.set(0, call.element(0));
    return;
  }
  const auto repeats = call.content(1);
  if (!repeats) {
    call.set(0, call.element(0), call.fresh(call.rank(0)));
    return;
  }
  call.require(repeats->size() == call.dims(0)->size(), "repeats must be one for each axis",
               repeats->size());
  Extents dims;
  for (std::size_t i = 0; i < repeats->size(); ++i) {
    dims.push_back(call.x.multiply((*call.dims(0))[i], (*repeats)[i]));
  }
  call.set(0, call.element(0), dims);
  const auto content = call.content(0);
  const auto times = call.integers(1);
  if (content && call.rank(0) == 1 && times && times->front() >= 0 &&
      times->front() <= static_cast<std::int64_t>(kMaxContent) &&
      times->front() * static_cast<std::int64_t>(content->size()) <=
          static_cast<std::int64_t>(kMaxContent)) {
    Extents result;
    for (std::int64_t i = 0; i < times->front(); ++i) {
      result.insert(result.end(), content->begin(), content->end());
    }
    call.set_content(std::move(result));
  }
}

void pad(Inference& call) {
  if (!call.dims(0)) {
    call.set(0, call.element(0));
    return;
  }
  Extents dims = *call.dims(0);
  const int rank = call.rank(0);
  std::optional<Extents> pads;
  if (call.version() >= 11) {
    pads = call.content(1);
  } else {
    pads.emplace();
    for (const std::int64_t value : call.ints(call.version() < 2 ? "paddings" : "pads")) {
      pads->push_back(call.k(value));
    }
  }
  std::vector<std::int64_t> axes(static_cast<std::size_t>(rank));
  std::iota(axes.begin(), axes.end(), 0);
  bool known = pads.has_value();
  if (call.version() >= 18 && call.has(3)) {
    const auto given = call.integers(3);
    known = known && given;
    if (given) axes = *given;
  }
  if (!known) {
    call.set(0, call.element(0), call.fresh(rank));
    return;
  }
  call.require(pads->size() == 2 * axes.size(), "pads must be two for each axis", pads->size());
  for (std::size_t i = 0; i < axes.size(); ++i) {
    const int axis = call.axis(axes[i], rank);
    dims[axis] = call.x.add(dims[axis], call.x.add((*pads)[i], (*pads)[i + axes.size()]));
  }
  call.set(0, call.element(0), dims);
}

void depth_to_space(Inference& call) {
  if (!call.must_have_rank(0, 4)) {
    call.set(0, call.element(0), call.fresh(4));
    return;
  }
  const auto block = call.attribute<std::int64_t>("blocksize", 0);
  call.require(block > 0 && block < (1 << 20), "blocksize must be > 0", block);
  const Extents& in = *call.dims(0);
  const auto channels = call.x.value(in[1]);
  call.require(!channels || *channels % (block * block) == 0,
               "channels must be a multiple of blocksize * blocksize", channels.value_or(0));
  call.set(0, call.element(0),
           Extents{in[0], call.x.floor_divide(in[1], block * block), call.x.multiply(in[2], block),
                   call.x.multiply(in[3], block)});
}

void space_to_depth(Inference& call) {
  if (!call.must_have_rank(0, 4)) {
    call.set(0, call.element(0), call.fresh(4));
    return;
  }
  const auto block = call.attribute<std::int64_t>("blocksize", 0);
  call.require(block > 0 && block < (1 << 20), "blocksize must be > 0", block);
  const Extents& in = *call.dims(0);
  call.set(0, call.element(0),
           Extents{in[0], call.x.multiply(in[1], block * block), call.x.floor_divide(in[2], block),
                   call.x.floor_divide(in[3], block)});
}

void compress(Inference& call) {
  if (call.node().find("axis") == nullptr) {
    call.set(0, call.element(0), call.fresh(1));
    return;
  }
  if (!call.dims(0)) {
    call.set(0, call.element(0));
    return;
  }
  Extents dims = *call.dims(0);
  dims[call.axis(call.attribute<std::int64_t>("axis", 0), call.rank(0))] = call.x.fresh();
  call.set(0, call.element(0), dims);
}

void non_zero(Inference& call) {
  const int rank = call.rank(0);
  call.set(0, ElementType::int64,
           Extents{rank < 0 ? call.x.fresh() : call.k(rank), call.x.fresh()});
}

void unique(Inference& call) {
  const Extent count = call.x.fresh();
  std::optional<Extents> dims = Extents{count};
  Extent elements = call.dims(0) ? call.x.product(*call.dims(0)) : call.x.fresh();
  if (call.node().find("axis") != nullptr) {
    dims = call.dims(0);
    if (dims) {
      const int axis = call.axis(call.attribute<std::int64_t>("axis", 0), call.rank(0));
      elements = (*dims)[axis];
      (*dims)[axis] = count;
    } else {
      elements = call.x.fresh();
    }
  }
  call.set(0, call.element(0), dims);
  call.set(1, ElementType::int64, Extents{count});
  call.set(2, ElementType::int64, Extents{elements});
  call.set(3, ElementType::int64, Extents{count});
}

void center_crop_pad(Inference& call) {
  if (!call.dims(0)) {
    call.set(0, call.element(0));
    return;
  }
  Extents dims = *call.dims(0);
  const auto shape = call.content(1);
  std::vector<std::int64_t> axes = call.ints("axes");
  if (call.node().find("axes") == nullptr) {
    axes.resize(dims.size());
    std::iota(axes.begin(), axes.end(), 0);
  }
  if (shape) {
    call.require(shape->size() == axes.size(), "shape must be as long as axes", shape->size());
  }
  for (std::size_t i = 0; i < axes.size(); ++i) {
    const bool usable = shape && call.x.lower_bound((*shape)[i]).value_or(-1) >= 0;
    dims[call.axis(axes[i], call.rank(0))] = usable ? (*shape)[i] : call.x.fresh();
  }
  call.set(0, call.element(0), dims);
}

void reverse_sequence(Inference& call) { same(call); }

constexpr Rule kRules[] = {
    {"", "CenterCropPad", center_crop_pad},
    {"", "Compress", compress},
    {"", "Concat", concat},
    {"", "DepthToSpace", depth_to_space},
    {"", "Expand", expand},
    {"", "Flatten", flatten},
    {"", "Gather", gather},
    {"", "GatherElements", gather_elements},
    {"", "GatherND", gather_nd},
    {"", "NonZero", non_zero},
    {"", "Pad", pad},
    {"", "Reshape", reshape},
    {"", "ReverseSequence", reverse_sequence},
    {"", "Scatter", same},
    {"", "ScatterElements", same},
    {"", "ScatterND", same},
    {"", "Shape", shape},
    {"", "Size", size},
    {"", "Slice", slice},
    {"", "SpaceToDepth", space_to_depth},
    {"", "Split", split},
    {"", "Squeeze", squeeze},
    {"", "TensorScatter", same},
    {"", "Tile", tile},
    {"", "Transpose", transpose},
    {"", "Trilu", same},
    {"", "Unique", unique},
    {"", "Unsqueeze", unsqueeze},
};

}  // namespace

std::span<const Rule> movement_rules() noexcept { return kRules; }

}  // namespace moptcore::inline v0::graph

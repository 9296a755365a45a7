// SPDX-License-Identifier: Apache-2.0
// Operators that make fewer elements of many: reductions, products of matrices, contractions.
#include <algorithm>
#include <map>

#include "graph/inference/rule.hpp"

namespace moptcore::inline v0::graph {
namespace {

void reduce(Inference& call) {
  if (!call.dims(0)) {
    call.set(0, call.element(0));
    return;
  }
  const Extents& in = *call.dims(0);
  const bool keep = call.attribute<std::int64_t>("keepdims", 1) != 0;
  const auto axes = call.list(1, "axes");
  if (!axes.known) {
    std::optional<Extents> dims;
    if (keep) dims = call.fresh(call.rank(0));
    call.set(0, call.element(0), dims);
    return;
  }
  std::vector<bool> gone(in.size(), false);
  for (const std::int64_t axis : axes.values) gone[call.axis(axis, call.rank(0))] = true;
  if (axes.values.empty() && call.attribute<std::int64_t>("noop_with_empty_axes", 0) == 0) {
    gone.assign(in.size(), true);
  }
  Extents dims;
  for (std::size_t i = 0; i < in.size(); ++i) {
    if (!gone[i]) dims.push_back(in[i]);
    else if (keep) dims.push_back(call.k(1));
  }
  call.set(0, call.element(0), dims);
  // The number of elements, as exporters compute it: the product of a shape.
  const auto content = call.content(0);
  if (!content || call.rank(0) != 1 || !gone[0] || content->empty()) return;
  if (call.node().op_type == "ReduceProd") {
    call.set_content({call.x.product(*content)});
  } else if (call.node().op_type == "ReduceSum") {
    Extent sum = call.k(0);
    for (const Extent extent : *content) sum = call.x.add(sum, extent);
    call.set_content({sum});
  } else if (call.node().op_type == "ReduceMax" || call.node().op_type == "ReduceMin") {
    const bool greatest = call.node().op_type == "ReduceMax";
    Extent best = content->front();
    for (const Extent extent : *content) {
      best = greatest ? call.x.maximum(best, extent) : call.x.minimum(best, extent);
    }
    call.set_content({best});
  }
}

void arg_extreme(Inference& call) {
  if (!call.dims(0)) {
    call.set(0, ElementType::int64);
    return;
  }
  Extents dims = *call.dims(0);
  const int axis = call.axis(call.attribute<std::int64_t>("axis", 0), call.rank(0));
  if (call.attribute<std::int64_t>("keepdims", 1) != 0) dims[axis] = call.k(1);
  else dims.erase(dims.begin() + axis);
  call.set(0, ElementType::int64, dims);
}

void top_k(Inference& call) {
  std::optional<Extents> dims = call.dims(0);
  if (dims) {
    const int axis = call.axis(call.attribute<std::int64_t>("axis", -1), call.rank(0));
    Extent count = call.x.fresh();
    if (call.version() < 10) {
      count = call.k(call.attribute<std::int64_t>("k", 0));
    } else if (const auto content = call.content(1); content && content->size() == 1) {
      if (call.x.lower_bound(content->front()).value_or(-1) >= 0) count = content->front();
    }
    (*dims)[axis] = count;
  }
  call.set(0, call.element(0), dims);
  call.set(1, ElementType::int64, dims);
}

std::optional<Extents> product(Inference& call, int left, int right) {
  if (!call.dims(left) || !call.dims(right)) return std::nullopt;
  call.must_have_rank_from(left, 1);
  call.must_have_rank_from(right, 1);
  Extents a = *call.dims(left);
  Extents b = *call.dims(right);
  const bool row = a.size() == 1;
  const bool column = b.size() == 1;
  if (row) a.insert(a.begin(), call.k(1));
  if (column) b.push_back(call.k(1));
  (void)call.equal(a.back(), b[b.size() - 2], "inner extents must agree");
  Extents dims = call.broadcast(Extents(a.begin(), a.end() - 2), Extents(b.begin(), b.end() - 2));
  if (!row) dims.push_back(a[a.size() - 2]);
  if (!column) dims.push_back(b.back());
  return dims;
}

void mat_mul(Inference& call) { call.set(0, call.element(0), product(call, 0, 1)); }

void mat_mul_integer(Inference& call) { call.set(0, ElementType::int32, product(call, 0, 1)); }

void qlinear_mat_mul(Inference& call) { call.set(0, call.element(7), product(call, 0, 3)); }

void gemm(Inference& call) {
  const auto side = [&](int index, bool transposed, bool outer) -> Extent {
    if (!call.must_have_rank(index, 2)) return call.x.fresh();
    return (*call.dims(index))[outer != transposed ? 0 : 1];
  };
  const bool ta = call.attribute<std::int64_t>("transA", 0) != 0;
  const bool tb = call.attribute<std::int64_t>("transB", 0) != 0;
  (void)call.equal(side(0, ta, false), side(1, tb, true), "inner extents must agree");
  Extents dims{side(0, ta, true), side(1, !tb, true)};
  if (call.has(2) && call.dims(2)) {
    const Extents& bias = *call.dims(2);
    call.require(bias.size() <= 2, "C must have at most rank 2", bias.size());
    for (std::size_t i = 0; i < bias.size(); ++i) {
      const auto own = call.x.value(bias[i]);
      const auto out = call.x.value(dims[2 - bias.size() + i]);
      call.require(!own || !out || *own == 1 || *own == *out, "C must broadcast to the product",
                   own.value_or(0));
    }
  }
  call.set(0, call.element(0), dims);
}

void einsum(Inference& call) {
  std::string equation = call.text("equation", "");
  std::erase(equation, ' ');
  call.require(equation.size() < 4096, "equation must be short", equation.size());
  const std::size_t arrow = equation.find("->");
  std::vector<std::string> terms(1);
  for (const char c : equation.substr(0, arrow)) {
    if (c == ',') terms.emplace_back();
    else terms.back().push_back(c);
  }
  call.require(static_cast<int>(terms.size()) == call.input_count(),
               "equation must have a term for each input", terms.size());
  std::map<char, Extent> extents;
  std::map<char, int> uses;
  Extents broadcasted;
  bool has_ellipsis = false;
  for (int i = 0; i < call.input_count(); ++i) {
    const std::string& term = terms[i];
    const std::size_t dots = term.find("...");
    for (const char c : term) {
      if (c != '.') ++uses[c];
    }
    if (!call.dims(i)) {
      call.set(0, call.element(0));
      return;
    }
    const Extents& dims = *call.dims(i);
    const std::size_t letters = dots == std::string::npos ? term.size() : term.size() - 3;
    call.require(dots == std::string::npos ? letters == dims.size() : letters <= dims.size(),
                 "terms of the equation must have the ranks of the inputs", term);
    const std::size_t between = dims.size() - letters;
    std::size_t axis = 0;
    for (std::size_t c = 0; c < term.size(); ++c) {
      if (c == dots) {
        has_ellipsis = true;
        broadcasted = call.broadcast(
            broadcasted, Extents(dims.begin() + static_cast<std::ptrdiff_t>(axis),
                                 dims.begin() + static_cast<std::ptrdiff_t>(axis + between)));
        axis += between;
        c += 2;
        continue;
      }
      const auto [found, added] = extents.emplace(term[c], dims[axis]);
      if (!added) {
        // An extent of 1 broadcasts.
        const auto a = call.x.value(found->second);
        const auto b = call.x.value(dims[axis]);
        call.require(!a || !b || *a == *b || *a == 1 || *b == 1,
                     "equal letters must have equal extents", b.value_or(0));
        found->second = call.x.broadcast(found->second, dims[axis]);
      }
      ++axis;
    }
  }
  std::string result;
  if (arrow != std::string::npos) {
    result = equation.substr(arrow + 2);
  } else {
    if (has_ellipsis) result = "...";
    for (const auto& [letter, count] : uses) {
      if (count == 1) result.push_back(letter);
    }
  }
  Extents dims;
  for (std::size_t c = 0; c < result.size(); ++c) {
    if (result.compare(c, 3, "...") == 0) {
      dims.insert(dims.end(), broadcasted.begin(), broadcasted.end());
      c += 2;
      continue;
    }
    const auto found = extents.find(result[c]);
    call.require(found != extents.end(), "letters of the result must occur in a term",
                 std::string(1, result[c]));
    dims.push_back(found->second);
  }
  call.set(0, call.element(0), dims);
}

void determinant(Inference& call) {
  if (!call.must_have_rank_from(0, 2)) {
    call.set(0, call.element(0));
    return;
  }
  const Extents& in = *call.dims(0);
  (void)call.equal(in[in.size() - 1], in[in.size() - 2], "matrices must be square");
  call.set(0, call.element(0), Extents(in.begin(), in.end() - 2));
}

constexpr Rule kRules[] = {
    {"", "ArgMax", arg_extreme},
    {"", "ArgMin", arg_extreme},
    {"", "Det", determinant},
    {"", "Einsum", einsum},
    {"", "Gemm", gemm},
    {"", "MatMul", mat_mul},
    {"", "MatMulInteger", mat_mul_integer},
    {"", "QLinearMatMul", qlinear_mat_mul},
    {"", "ReduceL1", reduce},
    {"", "ReduceL2", reduce},
    {"", "ReduceLogSum", reduce},
    {"", "ReduceLogSumExp", reduce},
    {"", "ReduceMax", reduce},
    {"", "ReduceMean", reduce},
    {"", "ReduceMin", reduce},
    {"", "ReduceProd", reduce},
    {"", "ReduceSum", reduce},
    {"", "ReduceSumSquare", reduce},
    {"", "TopK", top_k},
};

}  // namespace

std::span<const Rule> reduction_rules() noexcept { return kRules; }

}  // namespace moptcore::inline v0::graph

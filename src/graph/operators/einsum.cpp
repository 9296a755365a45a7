// SPDX-License-Identifier: Apache-2.0
// Einsum: operands are contracted two at a time, each pair as a batch of matrix products.
#include <algorithm>
#include <iterator>
#include <limits>
#include <string>
#include <vector>

#include <moptcore/graph/operator.hpp>
#include "graph/operators/cast.hpp"
#include "graph/operators/chunk.hpp"
#include "graph/operators/gemm.hpp"
#include "graph/operators/types.hpp"

namespace moptcore::inline v0::graph {
namespace {

// Subscripts are letters, and for the axes of an ellipsis the numbers 1 to 16 from its end.
using Subscripts = std::basic_string<char>;

struct Equation {
  std::vector<Subscripts> inputs;
  Subscripts output;
};

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

Subscripts ellipsis_of(int rank) {
  Subscripts axes;
  for (int axis = rank; axis >= 1; --axis) axes.push_back(static_cast<char>(axis));
  return axes;
}

// One term; `ellipsis` axes stand for its "...", -1: it has none.
Subscripts parse_term(const Call& call, std::string_view term, int ellipsis) {
  Subscripts axes;
  bool seen = false;
  for (std::size_t i = 0; i < term.size(); ++i) {
    if (term.substr(i, 3) == "..." && !seen) {
      seen = true;
      i += 2;
      axes += ellipsis_of(std::max(0, ellipsis));
    } else {
      call.require<FormatError>(is_letter(term[i]), "equation must have letters and ... in terms",
                                term);
      axes.push_back(term[i]);
    }
  }
  return axes;
}

Equation parse(const Call& call, std::string text, const std::vector<const Tensor*>& inputs) {
  std::erase(text, ' ');
  const std::string_view all = text;
  const auto arrow = all.find("->");
  const std::string_view left = all.substr(0, arrow);
  Equation equation;
  int most = 0;  // axes that an ellipsis stands for
  std::size_t begin = 0;
  for (std::size_t index = 0;; ++index) {
    const std::size_t comma = left.find(',', begin);
    const std::string_view term = left.substr(begin, comma - begin);
    call.require<FormatError>(index < inputs.size(), "equation must have a term for each input",
                              text);
    const int rank = inputs[index]->rank();
    const bool open = term.find("...") != std::string_view::npos;
    const int letters = static_cast<int>(std::ranges::count_if(term, is_letter));
    call.require(
        open ? letters <= rank : letters == rank,
        "a term must have as many subscripts as its input has dimensions, " + std::to_string(rank),
        term);
    most = std::max(most, rank - letters);
    equation.inputs.push_back(parse_term(call, term, rank - letters));
    if (comma == std::string_view::npos) break;
    begin = comma + 1;
  }
  call.require<FormatError>(equation.inputs.size() == inputs.size(),
                            "equation must have a term for each input", text);
  Subscripts joined;
  for (const Subscripts& term : equation.inputs) joined += term;
  if (arrow != std::string_view::npos) {
    equation.output = parse_term(call, all.substr(arrow + 2), most);
    for (const char subscript : equation.output) {
      call.require<FormatError>(joined.find(subscript) != Subscripts::npos &&
                                    std::ranges::count(equation.output, subscript) == 1,
                                "the output's subscripts must be different ones of the inputs",
                                text);
    }
    return equation;
  }
  equation.output = ellipsis_of(most);
  Subscripts sorted = joined;
  std::ranges::sort(sorted);
  for (const char subscript : sorted) {
    if (is_letter(subscript) && std::ranges::count(joined, subscript) == 1) {
      equation.output.push_back(subscript);
    }
  }
  return equation;
}

// An operand whose axes are named, each name once: strides of repeated names are added, and those
// of extents that broadcast are 0.
struct Operand {
  Tensor tensor;
  Subscripts names;
  std::vector<std::int64_t> strides;

  [[nodiscard]] std::int64_t stride(char name) const {
    const auto at = names.find(name);
    return at == Subscripts::npos ? 0 : strides[at];
  }
};

struct Extents {
  std::int64_t of[128] = {};

  [[nodiscard]] std::int64_t product(const Call& call, const Subscripts& names) const {
    std::int64_t count = 1;
    for (const char name : names) {
      const std::int64_t extent = of[static_cast<int>(name)];
      call.require(extent == 0 || count <= std::numeric_limits<std::int64_t>::max() / extent,
                   "the products must fit in 63 bits, extent", extent);
      count *= extent;
    }
    return count;
  }
};

// Where a 0 is among them, extents could overflow in strides that nobody uses.
std::vector<std::int64_t> strides_of(const Shape& shape) {
  if (std::ranges::find(shape, 0) != shape.end()) {
    return std::vector<std::int64_t>(shape.size(), 0);
  }
  const Shape strides = contiguous_strides(shape);
  return {strides.begin(), strides.end()};
}

Operand operand_of(const Call& call, const Tensor& tensor, const Subscripts& subscripts,
                   Extents& extents) {
  Operand operand{tensor, {}, {}};
  const auto strides = strides_of(tensor.shape());
  for (int axis = 0; axis < tensor.rank(); ++axis) {
    const char name = subscripts[axis];
    const std::int64_t extent = tensor.shape()[axis];
    std::int64_t& common = extents.of[static_cast<int>(name)];
    call.require(extent == common || extent == 1,
                 "extents of one subscript must be equal or 1, " + std::to_string(common), extent);
    const std::int64_t stride = extent == 1 ? 0 : strides[axis];
    const auto at = operand.names.find(name);
    if (at == Subscripts::npos) {
      operand.names.push_back(name);
      operand.strides.push_back(stride);
    } else {
      operand.strides[at] += stride;
    }
  }
  return operand;
}

// The elements in the order of `names`, contiguous.
template <class T>
void gather(const Operand& operand, const Subscripts& names, const Extents& extents, T* to) {
  const T* from = static_cast<const T*>(operand.tensor.raw());
  const int rank = static_cast<int>(names.size());
  std::vector<std::int64_t> extent(rank + 1, 1);
  std::vector<std::int64_t> stride(rank + 1, 0);
  std::vector<std::int64_t> at(rank + 1, 0);
  for (int axis = 0; axis < rank; ++axis) {
    extent[axis] = extents.of[static_cast<int>(names[axis])];
    stride[axis] = operand.stride(names[axis]);
    if (extent[axis] == 0) return;
  }
  const int inner = std::max(0, rank - 1);
  std::int64_t offset = 0;
  while (true) {
    for (std::int64_t i = 0; i < extent[inner]; ++i) *to++ = from[offset + i * stride[inner]];
    int axis = inner - 1;
    for (; axis >= 0; --axis) {
      offset += stride[axis];
      if (++at[axis] < extent[axis]) break;
      offset -= extent[axis] * stride[axis];
      at[axis] = 0;
    }
    if (axis < 0) return;
  }
}

Subscripts chosen(const Subscripts& from, const auto& condition) {
  Subscripts result;
  std::ranges::copy_if(from, std::back_inserter(result), condition);
  return result;
}

Shape shape_of(const Subscripts& names, const Extents& extents) {
  Shape shape;
  for (const char name : names) shape.push_back(extents.of[static_cast<int>(name)]);
  return shape;
}

// The sum over all names of one operand that `kept` lacks.
template <class T>
Operand summed(const Call& call, const Operand& operand, const Subscripts& kept,
               const Extents& extents) {
  const auto is_kept = [&](char name) { return kept.find(name) != Subscripts::npos; };
  const Subscripts rest = chosen(operand.names, is_kept);
  const Subscripts gone = chosen(operand.names, [&](char name) { return !is_kept(name); });
  const std::int64_t rows = extents.product(call, rest);
  const std::int64_t columns = extents.product(call, gone);
  const ElementType type = operand.tensor.type();
  Tensor ordered = call.environment().allocate(type, Shape{extents.product(call, rest + gone)});
  gather(operand, rest + gone, extents, static_cast<T*>(ordered.mutable_raw()));
  const Shape shape = shape_of(rest, extents);
  if (gone.empty()) return {ordered.reshaped(shape), rest, strides_of(shape)};
  Tensor sums = call.environment().allocate(type, shape);
  const T* from = static_cast<const T*>(ordered.raw());
  T* to = static_cast<T*>(sums.mutable_raw());
  using Sum = std::conditional_t<std::is_floating_point_v<T>, double, T>;
  for (std::int64_t i = 0; i < rows; ++i) {
    Sum sum = 0;
    for (std::int64_t j = 0; j < columns; ++j) sum += from[i * columns + j];
    to[i] = static_cast<T>(sum);
  }
  return {sums, rest, strides_of(shape)};
}

// The product of two operands, summed over what `kept` (of later operands and the output) lacks.
template <class T>
Operand contracted(const Call& call, const Operand& given_a, const Operand& given_b,
                   const Subscripts& kept, const Extents& extents) {
  const auto has = [](const Subscripts& names, char name) {
    return names.find(name) != Subscripts::npos;
  };
  const Operand a = summed<T>(call, given_a, kept + given_b.names, extents);
  const Operand b = summed<T>(call, given_b, kept + given_a.names, extents);
  const auto shared = [&](char name) { return has(b.names, name); };
  const Subscripts batch =
      chosen(a.names, [&](char name) { return shared(name) && has(kept, name); });
  const Subscripts depth =
      chosen(a.names, [&](char name) { return shared(name) && !has(kept, name); });
  const Subscripts left = chosen(a.names, [&](char name) { return !shared(name); });
  const Subscripts right = chosen(b.names, [&](char name) { return !has(a.names, name); });
  const std::int64_t batches = extents.product(call, batch);
  const std::int64_t m = extents.product(call, left);
  const std::int64_t n = extents.product(call, right);
  const std::int64_t k = extents.product(call, depth);
  const ElementType type = a.tensor.type();
  const Subscripts names = batch + left + right;
  const Shape shape = shape_of(names, extents);
  Tensor result = call.environment().allocate(type, shape);
  T* const to = static_cast<T*>(result.mutable_raw());
  std::fill_n(to, result.size(), T(0));
  const Operand made{result, names, strides_of(shape)};
  if (result.size() == 0 || k == 0) return made;
  Tensor rows =
      call.environment().allocate(type, Shape{extents.product(call, batch + left + depth)});
  Tensor columns =
      call.environment().allocate(type, Shape{extents.product(call, batch + depth + right)});
  gather(a, batch + left + depth, extents, static_cast<T*>(rows.mutable_raw()));
  gather(b, batch + depth + right, extents, static_cast<T*>(columns.mutable_raw()));
  std::vector<std::int64_t> a_offsets(batches);
  std::vector<std::int64_t> b_offsets(batches);
  for (std::int64_t i = 0; i < batches; ++i) {
    a_offsets[i] = i * m * k;
    b_offsets[i] = i * k * n;
  }
  batched_gemm<T>(batches, m, n, k, {static_cast<const T*>(rows.raw()), k, 1}, a_offsets.data(),
                  {static_cast<const T*>(columns.raw()), n, 1}, b_offsets.data(), {to, n, 1},
                  m * n);
  return made;
}

template <class T>
Tensor evaluate(const Call& call, const Equation& equation, std::vector<Operand> operands,
                const Extents& extents) {
  Operand product = operands[0];
  for (std::size_t i = 1; i < operands.size(); ++i) {
    Subscripts kept = equation.output;
    for (std::size_t later = i + 1; later < operands.size(); ++later) {
      kept += operands[later].names;
    }
    product = contracted<T>(call, product, operands[i], kept, extents);
    operands[i].tensor = Tensor();
  }
  product = summed<T>(call, product, equation.output, extents);
  const Shape shape = shape_of(equation.output, extents);
  Tensor result = call.environment().allocate(product.tensor.type(), shape);
  gather(product, equation.output, extents, static_cast<T*>(result.mutable_raw()));
  return result;
}

void einsum(Call& call) {
  const int count = call.input_count();
  call.require<FormatError>(count >= 1, "inputs must be at least one", count);
  const ElementType type = call.input(0).type();
  visit_numbers(call, type, []<class T>() {});
  std::vector<const Tensor*> inputs;
  for (int i = 0; i < count; ++i) inputs.push_back(&call.input(i, type));
  const Equation equation = parse(call, call.required<std::string>("equation"), inputs);

  Extents extents;
  std::fill(std::begin(extents.of), std::end(extents.of), 1);
  for (int i = 0; i < count; ++i) {
    for (int axis = 0; axis < inputs[i]->rank(); ++axis) {
      const std::int64_t extent = inputs[i]->shape()[axis];
      if (extent != 1) extents.of[static_cast<int>(equation.inputs[i][axis])] = extent;
    }
  }
  const bool single = is_half(type) || type == ElementType::float32;
  // Integers wrap around in 64 bits as they would in fewer.
  const ElementType wide = single                         ? ElementType::float32
                           : type == ElementType::float64 ? type
                                                          : ElementType::int64;
  std::vector<Operand> operands;
  for (int i = 0; i < count; ++i) {
    const bool big = type == ElementType::uint64;
    const Tensor tensor = big ? *inputs[i] : cast_tensor(call, *inputs[i], wide);
    operands.push_back(operand_of(call, tensor, equation.inputs[i], extents));
  }
  Tensor result;
  if (single) result = evaluate<float>(call, equation, std::move(operands), extents);
  else if (wide == ElementType::float64) {
    result = evaluate<double>(call, equation, std::move(operands), extents);
  } else {
    result = evaluate<std::uint64_t>(call, equation, std::move(operands), extents);
  }
  call.set(0, cast_tensor(call, result, type));
}

constexpr Operator kOperators[] = {
    {"", "Einsum", 12, einsum},
};

}  // namespace

std::span<const Operator> einsum_operators() noexcept { return kOperators; }

}  // namespace moptcore::inline v0::graph

// SPDX-License-Identifier: Apache-2.0
#include <moptcore/graph/summary.hpp>

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <unordered_map>
#include <unordered_set>

#include "graph/scope.hpp"

namespace moptcore::inline v0::graph {
namespace {

constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();

std::int64_t plus(std::int64_t a, std::int64_t b) { return a > kMost - b ? kMost : a + b; }

std::int64_t times(std::int64_t a, std::int64_t b) {
  return a != 0 && b > kMost / a ? kMost : a * b;
}

using Extents = std::vector<std::int64_t>;

std::int64_t product(const Extents& extents, std::size_t first = 0) {
  std::int64_t total = 1;
  for (std::size_t i = first; i < extents.size(); ++i) total = times(total, extents[i]);
  return total;
}

struct Types {
  std::unordered_map<std::string, const ValueType*> values;
  std::unordered_map<std::string, const Tensor*> constants;
  const Types* outer = nullptr;

  [[nodiscard]] const Tensor* constant(const std::string& name) const {
    for (const Types* types = this; types != nullptr; types = types->outer) {
      const auto found = types->constants.find(name);
      if (found != types->constants.end()) return found->second;
    }
    return nullptr;
  }

  // Known extents, or nothing.
  [[nodiscard]] std::optional<Extents> shape(const std::string& name) const {
    if (const Tensor* tensor = constant(name)) {
      return Extents(tensor->shape().begin(), tensor->shape().end());
    }
    for (const Types* types = this; types != nullptr; types = types->outer) {
      const auto found = types->values.find(name);
      if (found == types->values.end()) continue;
      const ValueType& type = *found->second;
      if (type.kind != ValueType::Kind::tensor || !type.dimensions) return std::nullopt;
      Extents extents;
      for (const Dimension& dimension : *type.dimensions) {
        if (!dimension.is_known()) return std::nullopt;
        extents.push_back(dimension.value);
      }
      return extents;
    }
    return std::nullopt;
  }
};

// Operators without multiplications have 0; nothing where extents are unknown.
std::optional<std::int64_t> macs_of(const Node& node, const Types& types) {
  if (!node.domain.empty()) return 0;
  const auto in = [&](std::size_t index) {
    return index < node.inputs.size() ? types.shape(node.inputs[index]) : std::nullopt;
  };
  const auto out = [&] {
    return node.outputs.empty() ? std::nullopt : types.shape(node.outputs[0]);
  };
  const std::string& op = node.op_type;
  if (op == "Conv" || op == "ConvInteger" || op == "QLinearConv" || op == "DeformConv") {
    const auto weights = in(op == "QLinearConv" ? 3 : 1);
    const auto output = out();
    if (!weights || !output) return std::nullopt;
    return times(product(*output), product(*weights, 1));
  }
  if (op == "ConvTranspose") {
    const auto weights = in(1);
    const auto input = in(0);
    if (!weights || !input) return std::nullopt;
    return times(product(*input), product(*weights, 1));
  }
  if (op == "MatMul" || op == "MatMulInteger" || op == "QLinearMatMul") {
    const auto a = in(0);
    const auto output = out();
    if (!a || a->empty() || !output) return std::nullopt;
    return times(product(*output), a->back());
  }
  if (op == "Gemm") {
    const auto a = in(0);
    const auto output = out();
    if (!a || a->size() != 2 || !output) return std::nullopt;
    return times(product(*output), (*a)[node.get<std::int64_t>("transA", 0) != 0 ? 0 : 1]);
  }
  if (op == "RNN" || op == "GRU" || op == "LSTM") {
    const auto x = in(0);
    const auto w = in(1);
    const auto r = in(2);
    if (!x || !w || !r || x->size() != 3) return std::nullopt;
    return times(times((*x)[0], (*x)[1]), plus(product(*w), product(*r)));
  }
  if (op == "Attention") {
    const auto q = in(0);
    const auto k = in(1);
    const auto v = in(2);
    if (!q || !k || !v || q->size() != k->size() || k->size() != v->size()) return std::nullopt;
    const auto past =
        node.inputs.size() > 4 && !node.inputs[4].empty() ? in(4) : std::optional(Extents{});
    if (!past) return std::nullopt;
    const bool packed = q->size() == 3;
    const std::int64_t keys = plus((*k)[packed ? 1 : 2], past->size() == 4 ? (*past)[2] : 0);
    std::int64_t depth = v->back();
    std::int64_t heads = (*q)[1];
    if (packed) {
      heads = node.get<std::int64_t>("q_num_heads", 1);
      depth = v->back() / std::max<std::int64_t>(node.get<std::int64_t>("kv_num_heads", 1), 1);
    }
    const std::int64_t queries = (*q)[packed ? 1 : 2];
    const std::int64_t scores = times(product(*q), keys);
    return plus(scores, times(times(times((*q)[0], heads), times(queries, keys)), depth));
  }
  if (op == "Einsum") {
    if (node.inputs.size() != 2) return 0;
    std::string equation = node.get<std::string>("equation", "");
    std::erase(equation, ' ');
    const std::size_t comma = equation.find(',');
    const std::size_t arrow = std::min(equation.find("->"), equation.size());
    if (comma == std::string::npos || comma > arrow || equation.find('.') != std::string::npos) {
      return std::nullopt;
    }
    std::array<std::int64_t, 256> extents{};
    for (const std::size_t side : {0, 1}) {
      const std::string term =
          side == 0 ? equation.substr(0, comma) : equation.substr(comma + 1, arrow - comma - 1);
      const auto shape = in(side);
      if (!shape || shape->size() != term.size()) return std::nullopt;
      for (std::size_t i = 0; i < term.size(); ++i) {
        auto& extent = extents[static_cast<unsigned char>(term[i])];
        extent = std::max(extent, (*shape)[i]);
      }
    }
    std::int64_t total = 1;
    for (const std::int64_t extent : extents)
      total = times(total, std::max<std::int64_t>(extent, 1));
    return total;
  }
  return 0;
}

// What a Constant node holds as a tensor: some exporters keep weights there.
const Tensor* tensor_of(const Node& node) {
  if (!node.domain.empty() || node.op_type != "Constant" || node.outputs.empty()) return nullptr;
  const Attribute* value = node.find("value");
  return value == nullptr ? nullptr : std::get_if<Tensor>(&value->value);
}

class Counter {
 public:
  void run(const Graph& graph, const Types* outer) {
    Types types;
    types.outer = outer;
    for (const ValueInfo& info : graph.inputs) types.values.emplace(info.name, &info.type);
    for (const ValueInfo& info : graph.values) types.values.emplace(info.name, &info.type);
    for (const ValueInfo& info : graph.outputs) types.values.emplace(info.name, &info.type);
    for (const auto& [name, tensor] : graph.initializers) types.constants.emplace(name, &tensor);
    for (const Node& node : graph.nodes) {
      if (const Tensor* tensor = tensor_of(node)) types.constants.emplace(node.outputs[0], tensor);
    }
    for (const Node& node : graph.nodes) {
      result_.nodes.push_back(cost_of(node, types));
      for_each_subgraph(node, [&](const Graph& body) { run(body, &types); });
    }
  }

  ModelCost take() { return std::move(result_); }

 private:
  NodeCost cost_of(const Node& node, const Types& types) {
    NodeCost cost;
    cost.name = !node.name.empty() ? node.name : node.outputs.empty() ? "" : node.outputs[0];
    cost.op_type = node.domain.empty() ? node.op_type : node.domain + "." + node.op_type;
    for (const std::string& name : node.inputs) {
      if (name.empty()) continue;
      const Tensor* tensor = types.constant(name);
      // Shapes, axes and indices are no parameters.
      if (tensor == nullptr || tensor->type() == ElementType::int64) continue;
      if (!seen_.insert(tensor).second) continue;
      cost.parameters = plus(cost.parameters, tensor->size());
      cost.parameter_bytes = plus(cost.parameter_bytes, tensor->bytes());
    }
    for (const std::string& name : node.outputs) {
      if (name.empty()) continue;
      ValueInfo info;
      info.name = name;
      for (const Types* at = &types; at != nullptr; at = at->outer) {
        const auto found = at->values.find(name);
        if (found == at->values.end()) continue;
        info.type = *found->second;
        break;
      }
      const auto shape = types.shape(name);
      if (!shape || bit_width(info.type.element) == 0) {
        cost.output_bytes = -1;
      } else if (cost.output_bytes >= 0) {
        const std::int64_t count = product(*shape);
        const std::int64_t bytes =
            count > kMost / 16 ? kMost : byte_count(info.type.element, count);
        cost.output_bytes = plus(cost.output_bytes, bytes);
      }
      cost.outputs.push_back(std::move(info));
    }
    const auto macs = macs_of(node, types);
    cost.macs = macs.value_or(-1);
    result_.parameters = plus(result_.parameters, cost.parameters);
    result_.parameter_bytes = plus(result_.parameter_bytes, cost.parameter_bytes);
    if (macs) result_.macs = plus(result_.macs, *macs);
    if (cost.output_bytes >= 0) {
      result_.activation_bytes = plus(result_.activation_bytes, cost.output_bytes);
    }
    result_.complete = result_.complete && macs && cost.output_bytes >= 0;
    return cost;
  }

  ModelCost result_;
  std::unordered_set<const Tensor*> seen_;
};

std::string shape_text(const ValueType& type) {
  if (type.kind != ValueType::Kind::tensor) return "?";
  std::string text(name(type.element));
  if (!type.dimensions) return text;
  text += "(";
  for (std::size_t i = 0; i < type.dimensions->size(); ++i) {
    const Dimension& dimension = (*type.dimensions)[i];
    if (i > 0) text += ", ";
    text += dimension.is_known()     ? std::to_string(dimension.value)
            : dimension.is_unknown() ? "?"
                                     : dimension.symbol;
  }
  return text + ")";
}

std::string number_text(std::int64_t value) { return value < 0 ? "?" : std::to_string(value); }

}  // namespace

ModelCost count(const Model& model, const InputShapes& inputs) {
  Model plain = model;
  if (!plain.functions.empty()) inline_functions(plain);
  infer_types(plain, {inputs});
  Counter counter;
  counter.run(plain.graph, nullptr);
  return counter.take();
}

std::string table(const ModelCost& cost) {
  using Row = std::array<std::string, 6>;
  std::vector<Row> rows{{"node", "operator", "output", "parameters", "MACs", "output bytes"}};
  for (const NodeCost& node : cost.nodes) {
    rows.push_back(
        {node.name, node.op_type, node.outputs.empty() ? "" : shape_text(node.outputs[0].type),
         std::to_string(node.parameters), number_text(node.macs), number_text(node.output_bytes)});
  }
  // A sum without what is unknown is no more than a lower bound.
  const auto sum_text = [&](std::int64_t sum, std::int64_t NodeCost::* of) {
    const bool whole =
        std::ranges::none_of(cost.nodes, [&](const NodeCost& node) { return node.*of < 0; });
    return whole ? std::to_string(sum) : sum == 0 ? "?" : std::to_string(sum) + " + ?";
  };
  rows.push_back({"all", std::to_string(cost.nodes.size()) + " nodes", "",
                  std::to_string(cost.parameters), sum_text(cost.macs, &NodeCost::macs),
                  sum_text(cost.activation_bytes, &NodeCost::output_bytes)});
  std::array<std::size_t, 6> widths{};
  for (Row& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) {
      if (row[i].size() > 48) row[i] = row[i].substr(0, 45) + "...";
      widths[i] = std::max(widths[i], row[i].size());
    }
  }
  std::string text;
  for (const Row& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) {
      const std::string space(widths[i] - row[i].size(), ' ');
      line += i < 3 ? row[i] + space + "  " : space + row[i] + (i + 1 < row.size() ? "  " : "");
    }
    text += line + "\n";
  }
  if (!cost.complete) text += "?: unknown extents; count them with the shapes of the inputs\n";
  return text;
}

}  // namespace moptcore::inline v0::graph

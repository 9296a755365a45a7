// SPDX-License-Identifier: Apache-2.0
#include "graph/channels/masking.hpp"

#include <algorithm>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <unordered_set>
#include <utility>

namespace moptcore::inline v0::graph::channels {
namespace {

bool is_floating(ElementType type) {
  return type == ElementType::float32 || type == ElementType::float64 ||
         type == ElementType::float16 || type == ElementType::bfloat16;
}

template <class Range>
bool holds(const Range& names, std::string_view name) {
  return std::ranges::find(names, name) != std::end(names);
}

// Operators that make 0 of 0.
constexpr std::string_view kKeepZero[] = {
    "Abs",       "Asin",    "Asinh", "Atan",     "Atanh", "Cast",  "CastLike",  "Ceil",
    "Celu",      "Dropout", "Elu",   "Erf",      "Floor", "Gelu",  "HardSwish", "Identity",
    "LeakyRelu", "Mish",    "Neg",   "PRelu",    "Relu",  "Round", "Selu",      "Shrink",
    "Sign",      "Sin",     "Sinh",  "Softsign", "Sqrt",  "Swish", "Tan",       "Tanh"};
// Results are 0 where all operands are.
constexpr std::string_view kNeedAll[] = {"Add", "Sub", "Sum", "Mean", "Max", "Min", "Where"};
constexpr std::string_view kMove[] = {
    "Transpose",     "Reshape",         "Flatten",      "Squeeze",
    "Unsqueeze",     "Split",           "Slice",        "Concat",
    "Gather",        "Expand",          "Tile",         "DepthToSpace",
    "Resize",        "Upsample",        "SpaceToDepth", "MaxPool",
    "AveragePool",   "LpPool",          "ReduceSum",    "ReduceMean",
    "ReduceMax",     "ReduceMin",       "ReduceL1",     "ReduceL2",
    "Pad",           "ReduceSumSquare", "ReduceProd",   "GlobalAveragePool",
    "GlobalMaxPool", "GlobalLpPool"};
// The first input of these only is data.
constexpr std::string_view kOneInput[] = {"Reshape",    "Squeeze",         "Unsqueeze", "Split",
                                          "Slice",      "Gather",          "Expand",    "Tile",
                                          "Resize",     "Upsample",        "Pad",       "ReduceSum",
                                          "ReduceMean", "ReduceMax",       "ReduceMin", "ReduceL1",
                                          "ReduceL2",   "ReduceSumSquare", "ReduceProd"};

class Masker {
 public:
  Masker(const Coupling& all, const Removed& removed)
      : all_(all), removed_(removed), model_(all.model()) {
    zero_.resize(all.tracks().size());
    for (std::size_t id = 0; id < all.tracks().size(); ++id) {
      const Track& track = all.tracks()[id];
      names_.insert(track.name);
      for (const Axis& axis : track.axes) zero_[id].push_back(!removed_.any(axis));
    }
  }

  Model run() {
    clear_weights();
    std::map<std::int32_t, std::vector<Contraction>> contractions;
    for (const Contraction& each : all_.contractions()) {
      if (removed_.any(axis_of(each))) contractions[each.node].push_back(each);
    }
    std::vector<Node> nodes;
    for (std::size_t i = 0; i < model_.graph.nodes.size(); ++i) {
      Node& node = model_.graph.nodes[i];
      follow(node);
      const auto found = contractions.find(static_cast<std::int32_t>(i));
      if (found != contractions.end()) mask_inputs(node, found->second, nodes);
      nodes.push_back(std::move(node));
    }
    model_.graph.nodes = std::move(nodes);
    return std::move(model_);
  }

 private:
  [[nodiscard]] std::int32_t id(const std::string& name) const { return all_.find_track(name); }
  [[nodiscard]] const Track& track(std::int32_t id) const {
    return all_.tracks()[static_cast<std::size_t>(id)];
  }
  [[nodiscard]] const Axis& axis_of(const Contraction& each) const {
    const Node& node = all_.model().graph.nodes[static_cast<std::size_t>(each.node)];
    const std::int32_t input = id(node.inputs[static_cast<std::size_t>(each.input)]);
    return track(input).axes[static_cast<std::size_t>(each.axis)];
  }

  // Zeroes weights along the axes of what they produce, unless something divides by them.
  void clear_weights() {
    std::set<std::string> kept;
    std::set<std::pair<std::string, int>> summed;
    for (const Node& node : all_.model().graph.nodes) {
      for (std::size_t input = 0; input < node.inputs.size(); ++input) {
        if (!may_be_zero(node, input)) kept.insert(node.inputs[input]);
      }
    }
    for (const Contraction& each : all_.contractions()) {
      const Node& node = all_.model().graph.nodes[static_cast<std::size_t>(each.node)];
      summed.emplace(node.inputs[static_cast<std::size_t>(each.input)], each.axis);
    }
    for (std::size_t number = 0; number < all_.tracks().size(); ++number) {
      const Track& own = all_.tracks()[number];
      if (!own.initializer || !is_floating(own.element) || kept.contains(own.name)) continue;
      for (int axis = 0; axis < own.rank(); ++axis) {
        const Axis& along = own.axes[static_cast<std::size_t>(axis)];
        if (summed.contains({own.name, axis}) || !removed_.any(along)) continue;
        Tensor& tensor = model_.graph.initializers.find(own.name)->second;
        clear(tensor, axis, along);
        zero_[number][static_cast<std::size_t>(axis)] = true;
      }
    }
  }

  static bool may_be_zero(const Node& node, std::size_t input) {
    const std::string& op = node.op_type;
    if (!node.domain.empty()) return false;
    if (op == "BatchNormalization") return input == 1 || input == 2;
    if (op == "Div" || op == "Mod" || op == "Pow") return input == 0;
    constexpr std::string_view kNot[] = {"Reciprocal", "Log", "QuantizeLinear", "DequantizeLinear"};
    return !holds(kNot, op);
  }

  void clear(Tensor& tensor, int axis, const Axis& along) const {
    tensor = tensor.clone();
    std::int64_t outer = 1;
    std::int64_t inner = bit_width(tensor.type()) / 8;
    for (int i = 0; i < axis; ++i) outer *= tensor.shape()[i];
    for (int i = axis + 1; i < tensor.rank(); ++i) inner *= tensor.shape()[i];
    auto* bytes = static_cast<unsigned char*>(tensor.mutable_raw());
    for (std::int64_t i = 0; i < outer; ++i) {
      for (std::int64_t j = 0; j < along.extent; ++j) {
        if (removed_.at(along, j)) {
          std::memset(bytes + (i * along.extent + j) * inner, 0, static_cast<std::size_t>(inner));
        }
      }
    }
  }

  [[nodiscard]] bool is_zero(const std::string& name, int axis) const {
    const std::int32_t number = name.empty() ? -1 : id(name);
    return number >= 0 && axis >= 0 && axis < track(number).rank() &&
           zero_[static_cast<std::size_t>(number)][static_cast<std::size_t>(axis)];
  }

  // What an operand that is broadcast against a result has along an axis of the result: nothing
  // where it is repeated there.
  enum class Operand : std::uint8_t { repeated, zero, other };
  [[nodiscard]] Operand operand(const std::string& name, int axis, int rank) const {
    const std::int32_t number = id(name);
    if (number < 0) return Operand::other;
    const int own = axis - rank + track(number).rank();
    if (own < 0 || track(number).axes[static_cast<std::size_t>(own)].extent == 1) {
      return Operand::repeated;
    }
    return is_zero(name, own) ? Operand::zero : Operand::other;
  }

  [[nodiscard]] std::optional<double> constant(const std::string& name) const {
    const auto found = all_.model().graph.initializers.find(name);
    if (found == all_.model().graph.initializers.end() || found->second.size() != 1) {
      return std::nullopt;
    }
    if (found->second.type() == ElementType::float32) return found->second.values<float>()[0];
    if (found->second.type() == ElementType::float64) return found->second.values<double>()[0];
    return std::nullopt;
  }

  // Fills zero_ of what a node writes.
  void follow(const Node& node) {
    for (std::size_t i = 0; i < node.outputs.size(); ++i) {
      const std::int32_t number = node.outputs[i].empty() ? -1 : id(node.outputs[i]);
      if (number < 0) continue;
      auto& zero = zero_[static_cast<std::size_t>(number)];
      for (std::size_t axis = 0; axis < zero.size(); ++axis) {
        if (!zero[axis] && node.domain.empty()) {
          zero[axis] = makes_zero(node, static_cast<int>(axis), track(number).rank());
        }
      }
    }
  }

  // Empty where the node has fewer.
  static const std::string& input_of(const Node& node, std::size_t i) {
    static const std::string kNone;
    return i < node.inputs.size() ? node.inputs[i] : kNone;
  }

  [[nodiscard]] bool is_constant(const std::string& name) const {
    const std::int32_t number = id(name);
    return number >= 0 && track(number).initializer;
  }

  [[nodiscard]] bool makes_zero(const Node& node, int axis, int rank) const {
    const std::string& op = node.op_type;
    const auto given = [&](std::size_t i) {
      return i < node.inputs.size() && !input_of(node, i).empty();
    };
    if (holds(kKeepZero, op)) return is_zero(input_of(node, 0), axis);
    if (op == "Clip") return is_zero(input_of(node, 0), axis) && clips_to_zero(node);
    if (op == "Pow") {
      const auto exponent = given(1) ? constant(input_of(node, 1)) : std::nullopt;
      return exponent && *exponent > 0 && operand(input_of(node, 0), axis, rank) == Operand::zero;
    }
    if (op == "Mul" || op == "And" || holds(kNeedAll, op)) {
      const bool any = op == "Mul" || op == "And";
      const std::size_t first = op == "Where" ? 1 : 0;
      for (std::size_t i = first; i < node.inputs.size(); ++i) {
        const bool zero = operand(input_of(node, i), axis, rank) == Operand::zero;
        if (zero == any) return any;
      }
      return !any;
    }
    if (op == "Div") {
      const Operand divisor = operand(input_of(node, 1), axis, rank);
      const bool safe = divisor == Operand::repeated || is_constant(input_of(node, 1));
      return safe && operand(input_of(node, 0), axis, rank) == Operand::zero;
    }
    if (op == "Conv" || op == "ConvTranspose") {
      if (axis != 1 || (given(2) && !is_zero(input_of(node, 2), 0))) return false;
      // Whole groups lie along the rows of a transposed one.
      const bool grouped = node.get<std::int64_t>("group", 1) != 1;
      const std::int32_t number = id(input_of(node, 1));
      if (number < 0) return false;
      const Track& weight = track(number);
      if (op == "Conv") return is_zero(input_of(node, 1), 0);
      return removed_.any(weight.axes[1]) ? is_zero(input_of(node, 1), 1)
                                          : grouped && is_zero(input_of(node, 1), 0);
    }
    if (op == "Gemm") {
      if (given(2) && operand(input_of(node, 2), axis, rank) != Operand::zero) return false;
      const std::size_t side = axis == 0 ? 0 : 1;
      const bool turned = node.get<std::int64_t>(side == 0 ? "transA" : "transB", 0) != 0;
      return is_zero(input_of(node, side), turned ? 1 - axis : axis);
    }
    if (op == "MatMul") {
      const std::int32_t left = id(input_of(node, 0));
      const std::int32_t right = id(input_of(node, 1));
      if (left < 0 || right < 0) return false;
      const int a = track(left).rank();
      const int b = track(right).rank();
      const int batch = std::max(std::max(a - 2, b - 2), 0);
      if (axis >= batch) {
        const bool row = axis == batch && a > 1;
        return row ? is_zero(input_of(node, 0), a - 2) : is_zero(input_of(node, 1), b - 1);
      }
      return (a > 2 && operand(input_of(node, 0), axis, batch + 2) == Operand::zero) ||
             (b > 2 && operand(input_of(node, 1), axis, batch + 2) == Operand::zero);
    }
    if (op == "Einsum") return einsum_is_zero(node, axis);
    if (op == "BatchNormalization" || op == "InstanceNormalization" || op == "GroupNormalization") {
      return axis == 1 && is_zero(input_of(node, 1), 0) && is_zero(input_of(node, 2), 0);
    }
    if (holds(kMove, op)) {
      if (op == "Pad" && given(2) && constant(input_of(node, 2)) != 0.0) return false;
      if (op == "Pad" && node.get<float>("value", 0.0F) != 0.0F) return false;
      const std::size_t count = holds(kOneInput, op) ? 1 : node.inputs.size();
      for (std::size_t i = 0; i < count; ++i) {
        const std::int32_t number = id(input_of(node, i));
        if (number < 0) return false;
        for (const bool zero : zero_[static_cast<std::size_t>(number)]) {
          if (!zero) return false;
        }
      }
      return true;
    }
    return false;
  }

  [[nodiscard]] bool clips_to_zero(const Node& node) const {
    const auto bound = [&](std::size_t input, const char* name) -> std::optional<double> {
      if (node.find(name) != nullptr) return node.get<float>(name, 0.0F);
      if (input >= node.inputs.size() || node.inputs[input].empty()) return 0.0;
      return constant(node.inputs[input]);
    };
    const auto low = bound(1, "min");
    const auto high = bound(2, "max");
    return low && high && *low <= 0 && *high >= 0;
  }

  [[nodiscard]] bool einsum_is_zero(const Node& node, int axis) const {
    std::string text;
    for (const char c : node.get<std::string>("equation", "")) {
      if (c != ' ') text += c;
    }
    const char label = text[text.find("->") + 2 + static_cast<std::size_t>(axis)];
    std::size_t input = 0;
    int at = 0;
    for (const char c : text.substr(0, text.find("->"))) {
      if (c == ',') {
        ++input;
        at = 0;
        continue;
      }
      if (c == label &&
          removed_.any(track(id(node.inputs[input])).axes[static_cast<std::size_t>(at)]) &&
          is_zero(node.inputs[input], at)) {
        return true;
      }
      ++at;
    }
    return false;
  }

  // Puts nodes before a sum where neither side of its products is 0.
  void mask_inputs(Node& node, const std::vector<Contraction>& contractions,
                   std::vector<Node>& nodes) {
    bool safe = false;
    for (const Contraction& each : contractions) {
      const std::string& name = node.inputs[static_cast<std::size_t>(each.input)];
      const bool activation = !track(id(name)).initializer;
      if (activation && !is_zero(name, each.axis)) mask_input(node, each, nodes);
      safe = safe || activation || is_zero(name, each.axis);
    }
    if (!safe) mask_input(node, contractions.front(), nodes);
  }

  void mask_input(Node& node, const Contraction& each, std::vector<Node>& nodes) {
    std::string& name = node.inputs[static_cast<std::size_t>(each.input)];
    const Node& old = all_.model().graph.nodes[static_cast<std::size_t>(each.node)];
    const Track& own = track(id(old.inputs[static_cast<std::size_t>(each.input)]));
    check<UnsupportedError>(own.rank() <= kMaxRank, "graph.mask_channels",
                            "a value must have at most 16 axes", own.rank());
    const Axis& axis = own.axes[static_cast<std::size_t>(each.axis)];
    Shape shape;
    for (int i = 0; i < own.rank(); ++i) shape.push_back(i == each.axis ? axis.extent : 1);
    const bool selects = all_.model().opset("") >= 9;
    check<UnsupportedError>(
        is_floating(own.element) && (selects || own.element == ElementType::float32),
        "graph.mask_channels", "what is added up over cut channels must be floating, " + own.name,
        graph::name(own.element));
    Node mask;
    mask.op_type = selects ? "Where" : "Mul";
    const std::string constant = fresh(own.name + "_kept");
    const std::string result = fresh(own.name + "_masked");
    mask.name = result;
    mask.outputs = {result};
    if (selects) {
      Tensor kept(ElementType::boolean, shape);
      auto* flags = static_cast<unsigned char*>(kept.mutable_raw());
      for (std::int64_t i = 0; i < axis.extent; ++i) flags[i] = removed_.at(axis, i) ? 0 : 1;
      Tensor zero(own.element, Shape{});
      std::memset(zero.mutable_raw(), 0, static_cast<std::size_t>(zero.bytes()));
      const std::string nothing = fresh(own.name + "_zero");
      mask.inputs = {constant, name, nothing};
      model_.graph.initializers.emplace(constant, std::move(kept));
      model_.graph.initializers.emplace(nothing, std::move(zero));
    } else {
      Tensor kept(ElementType::float32, shape);
      auto* factors = kept.mutable_data<float>();
      for (std::int64_t i = 0; i < axis.extent; ++i) {
        factors[i] = removed_.at(axis, i) ? 0.0F : 1.0F;
      }
      mask.inputs = {name, constant};
      model_.graph.initializers.emplace(constant, std::move(kept));
    }
    nodes.push_back(std::move(mask));
    name = result;
  }

  std::string fresh(const std::string& wish) {
    std::string name = wish;
    for (int i = 1; !names_.insert(name).second; ++i) name = wish + std::to_string(i);
    return name;
  }

  const Coupling& all_;
  const Removed& removed_;
  Model model_;
  std::vector<std::vector<bool>> zero_;  // by track and axis: what is removed along it is 0
  std::unordered_set<std::string> names_;
};

}  // namespace

Model masked(const Coupling& all, const Removed& removed) { return Masker(all, removed).run(); }

}  // namespace moptcore::inline v0::graph::channels

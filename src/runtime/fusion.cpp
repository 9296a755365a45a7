// SPDX-License-Identifier: Apache-2.0
#include "runtime/fusion.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <string_view>

namespace moptcore::inline v0::runtime {
namespace {

using graph::ElementType;
using graph::Tensor;
using kernels::onednn::Algorithm;

// Functions behind a computation, and among them those that read a second tensor.
constexpr std::size_t kMostLinks = 8;
constexpr int kMostOperands = 3;

struct Match {
  std::vector<Link> links;
  std::vector<int> steps;
  int output;
};

class Former {
 public:
  Former(Program& program, bool fuse) : program_(program), fuse_(fuse) {
    const auto slots = static_cast<std::size_t>(program.slot_count());
    uses_.resize(slots);
    pinned_.assign(slots, false);
    for (int i = 0; i < static_cast<int>(program.steps.size()); ++i) {
      const Step& step = program.steps[static_cast<std::size_t>(i)];
      for (const int slot : step.inputs) {
        if (slot >= 0) uses_[static_cast<std::size_t>(slot)].push_back(i);
      }
      for (const int slot : step.captures) pinned_[static_cast<std::size_t>(slot)] = true;
    }
    for (const int slot : program.outputs) pinned_[static_cast<std::size_t>(slot)] = true;
  }

  void form() {
    const int count = static_cast<int>(program_.steps.size());
    std::vector<std::pair<int, Group>> placed;
    taken_.assign(static_cast<std::size_t>(count), false);
    for (int i = 0; i < count; ++i) {
      program_.singles.push_back(single(i));
      program_.singles.back().least_rank = rank_of_numbers(program_.singles.back());
    }
    for (int i = 0; i < count; ++i) {
      if (taken_[static_cast<std::size_t>(i)]) continue;
      Group group = program_.singles[static_cast<std::size_t>(i)];
      if (fuse_) extend(group, i);
      group.least_rank = rank_of_numbers(group);
      int last = i;
      for (const int step : group.steps) {
        taken_[static_cast<std::size_t>(step)] = true;
        last = std::max(last, step);
      }
      placed.emplace_back(last, std::move(group));
    }
    std::ranges::stable_sort(placed, {}, &std::pair<int, Group>::first);
    for (auto& [position, group] : placed) program_.groups.push_back(std::move(group));
    find_last_uses();
  }

 private:
  const Step& step(int index) const { return program_.steps[static_cast<std::size_t>(index)]; }
  bool is(int index, std::string_view op) const {
    return index >= 0 && step(index).node->domain.empty() && step(index).node->op_type == op;
  }
  int result(int index) const { return step(index).outputs.empty() ? -1 : step(index).outputs[0]; }

  // The step that is the only one to read a slot.
  int only_use(int slot) const {
    if (slot < 0 || pinned_[static_cast<std::size_t>(slot)]) return -1;
    const auto& all = uses_[static_cast<std::size_t>(slot)];
    return all.size() == 1 ? all[0] : -1;
  }

  const Tensor* constant(int slot) const {
    if (!program_.is_constant(slot)) return nullptr;
    const graph::Value& value = program_.constants[static_cast<std::size_t>(slot)];
    return value.is_tensor() ? &value.tensor() : nullptr;
  }

  std::optional<float> number(int slot) const {
    const Tensor* found = constant(slot);
    if (found == nullptr || found->type() != ElementType::float32 || found->size() != 1) {
      return std::nullopt;
    }
    return *found->data<float>();
  }

  // A number or bias with more axes than the tensor would add them to the result.
  int rank_of_numbers(const Group& group) const {
    int rank = 0;
    for (const int index : group.steps) {
      for (const int slot : step(index).inputs) {
        const Tensor* found = constant(slot);
        if (found != nullptr && found->size() == 1) rank = std::max(rank, found->rank());
      }
    }
    if (const Tensor* shift = constant(group.bias)) rank = std::max(rank, shift->rank());
    return rank;
  }

  bool is_number(int slot, double value) const {
    const auto found = number(slot);
    return found && std::abs(*found - value) <= 1e-6 * std::abs(value);
  }

  // The input of a step of two that is not `slot`; -1 where there is none.
  int other(int index, int slot) const {
    const auto& in = step(index).inputs;
    if (in.size() != 2 || in[0] == in[1]) return -1;
    return in[0] == slot ? in[1] : in[1] == slot ? in[0] : -1;
  }

  // Functions of one step and one tensor.
  std::optional<Link> unary(int index, int x) const {
    const Step& at = step(index);
    const graph::Node& node = *at.node;
    if (!node.domain.empty() || at.inputs.empty() || at.outputs.empty()) return std::nullopt;
    const std::string_view op = node.op_type;
    if (at.inputs[0] == x && at.inputs.size() == 1) {
      if (op == "Relu") return Link{Algorithm::relu, 0, 0};
      if (op == "LeakyRelu") return Link{Algorithm::relu, node.get<float>("alpha", 0.01f), 0};
      if (op == "Elu") return Link{Algorithm::elu, node.get<float>("alpha", 1.0f), 0};
      if (op == "Sigmoid") return Link{Algorithm::sigmoid};
      if (op == "Tanh") return Link{Algorithm::tanh};
      if (op == "HardSigmoid") {
        return Link{Algorithm::hard_sigmoid, node.get<float>("alpha", 0.2f),
                    node.get<float>("beta", 0.5f)};
      }
      if (op == "HardSwish") return Link{Algorithm::hard_swish, 1.0f / 6, 0.5f};
      // Softplus is no link: oneDNN 3.2 takes the logarithm of 1 + exp(x), which has no digits of
      // exp(x) left far below 0.
      if (op == "Mish") return Link{Algorithm::mish};
      if (op == "Abs") return Link{Algorithm::absolute};
      if (op == "Sqrt") return Link{Algorithm::square_root};
      if (op == "Exp") return Link{Algorithm::exponential};
      if (op == "Log") return Link{Algorithm::logarithm};
      if (op == "Neg") return Link{Algorithm::linear, -1, 0};
      if (op == "Swish") return Link{Algorithm::swish, node.get<float>("alpha", 1.0f), 0};
      if (op == "Gelu") {
        const auto kind = node.get<std::string>("approximate", "none");
        if (kind == "none") return Link{Algorithm::gelu_erf};
        if (kind == "tanh") return Link{Algorithm::gelu_tanh};
      }
    }
    if (op == "Clip" && at.inputs[0] == x) return clip(at);
    if (at.inputs.size() != 2) return std::nullopt;
    const int second = other(index, x);
    const auto value = second < 0 ? std::nullopt : number(second);
    if (!value) return std::nullopt;
    const bool first = at.inputs[0] == x;
    const float c = *value;
    if (op == "Add") return Link{Algorithm::linear, 1, c};
    if (op == "Mul") return Link{Algorithm::linear, c, 0};
    if (op == "Sub") return first ? Link{Algorithm::linear, 1, -c} : Link{Algorithm::linear, -1, c};
    if (op == "Div" && first && std::isfinite(1 / c)) return Link{Algorithm::linear, 1 / c, 0};
    if (op == "Pow" && first && (c == 2 || c == 0.5f || c == 3)) {
      return Link{Algorithm::power, 1, c};
    }
    return std::nullopt;
  }

  std::optional<Link> clip(const Step& at) const {
    Link link{Algorithm::clip, std::numeric_limits<float>::lowest(),
              std::numeric_limits<float>::max()};
    if (at.version < 11) {
      link.a = at.node->get<float>("min", link.a);
      link.b = at.node->get<float>("max", link.b);
    } else {
      const auto bound = [&](std::size_t index, float& place) {
        if (at.inputs.size() <= index || at.inputs[index] < 0) return true;
        const auto value = number(at.inputs[index]);
        if (value) place = *value;
        return value.has_value();
      };
      if (!bound(1, link.a) || !bound(2, link.b)) return std::nullopt;
    }
    if (!(link.a <= link.b)) return std::nullopt;
    return link;
  }

  std::optional<Algorithm> binary(int index) const {
    const Step& at = step(index);
    if (!at.node->domain.empty() || at.inputs.size() != 2 || at.inputs[0] < 0 || at.inputs[1] < 0 ||
        at.outputs.empty()) {
      return std::nullopt;
    }
    const std::string_view op = at.node->op_type;
    if (op == "Add" || op == "Sum") return Algorithm::add;
    if (op == "Mul") return Algorithm::multiply;
    if (op == "Sub") return Algorithm::subtract;
    if (op == "Div") return Algorithm::divide;
    if (op == "Max") return Algorithm::maximum;
    if (op == "Min") return Algorithm::minimum;
    return std::nullopt;
  }

  // Functions that are written as several steps, the first of them `first`.
  std::optional<Match> written_out(int first, int x) const {
    auto found = gated(first, x);
    if (!found) found = hard_swish(first, x);
    if (!found) found = gelu(first, x);
    if (!found) found = tanh_gelu(first, x);
    return found && is_free(*found) ? found : std::nullopt;
  }

  bool is_free(const Match& match) const {
    return std::ranges::none_of(match.steps,
                                [&](int each) { return taken_[static_cast<std::size_t>(each)]; });
  }

  // x sigmoid(x), x hard_sigmoid(x)
  std::optional<Match> gated(int first, int x) const {
    if (!is(first, "Sigmoid") && !is(first, "HardSigmoid")) return std::nullopt;
    if (step(first).inputs[0] != x) return std::nullopt;
    const int product = only_use(result(first));
    if (!is(product, "Mul") || other(product, result(first)) != x) return std::nullopt;
    Link link{Algorithm::swish, 1, 0};
    if (is(first, "HardSigmoid")) {
      link = {Algorithm::hard_swish, step(first).node->get<float>("alpha", 0.2f),
              step(first).node->get<float>("beta", 0.5f)};
    }
    return Match{{link}, {first, product}, result(product)};
  }

  // x clip(x + 3, 0, 6) / 6, or without the 6, which may have become part of what follows
  std::optional<Match> hard_swish(int first, int x) const {
    if (!is(first, "Add") || !is_number(other(first, x), 3)) return std::nullopt;
    const int bounded = only_use(result(first));
    if (!is(bounded, "Clip")) return std::nullopt;
    const auto limits = clip(step(bounded));
    if (!limits || limits->a != 0 || limits->b != 6) return std::nullopt;
    const auto sixth = [&](int index, int of) {
      return (is(index, "Div") && step(index).inputs[0] == of && is_number(other(index, of), 6)) ||
             (is(index, "Mul") && is_number(other(index, of), 1.0 / 6));
    };
    const Link link{Algorithm::hard_swish, 1.0f / 6, 0.5f};
    const int next = only_use(result(bounded));
    if (next < 0) return std::nullopt;
    if (is(next, "Mul") && other(next, result(bounded)) == x) {
      const int last = only_use(result(next));
      if (last < 0 || !sixth(last, result(next))) {
        return Match{{link, {Algorithm::linear, 6, 0}}, {first, bounded, next}, result(next)};
      }
      return Match{{link}, {first, bounded, next, last}, result(last)};
    }
    if (!sixth(next, result(bounded))) return std::nullopt;
    const int last = only_use(result(next));
    if (!is(last, "Mul") || other(last, result(next)) != x) return std::nullopt;
    return Match{{link}, {first, bounded, next, last}, result(last)};
  }

  // x (1 + erf(x / sqrt(2))) / 2
  std::optional<Match> gelu(int first, int x) const {
    const bool scaled = (is(first, "Div") && step(first).inputs[0] == x &&
                         is_number(other(first, x), std::numbers::sqrt2)) ||
                        (is(first, "Mul") && is_number(other(first, x), 1 / std::numbers::sqrt2));
    if (!scaled) return std::nullopt;
    const int erf = only_use(result(first));
    if (!is(erf, "Erf")) return std::nullopt;
    return halved({Algorithm::gelu_erf}, {first, erf}, x);
  }

  // x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2
  std::optional<Match> tanh_gelu(int first, int x) const {
    std::vector<int> steps{first};
    // A product of three times x and a number, in any order.
    int power = 0;
    double factor = 1;
    const auto multiply = [&](int operand) {
      const auto value = number(operand);
      if (operand == x) ++power;
      else if (value) factor *= *value;
      return operand == x || value.has_value();
    };
    if (is(first, "Pow") && step(first).inputs[0] == x && is_number(other(first, x), 3)) {
      power = 3;
    } else if (is(first, "Mul")) {
      for (const int operand : step(first).inputs) {
        if (!multiply(operand)) return std::nullopt;
      }
    } else {
      return std::nullopt;
    }
    int next = only_use(result(first));
    for (; is(next, "Mul"); next = only_use(result(next))) {
      if (!multiply(other(next, result(steps.back())))) return std::nullopt;
      steps.push_back(next);
    }
    if (power != 3 || std::abs(factor - 0.044715) > 1e-6 || !is(next, "Add") ||
        other(next, result(steps.back())) != x) {
      return std::nullopt;
    }
    steps.push_back(next);
    next = only_use(result(next));
    constexpr double kScale = std::numbers::sqrt2 * std::numbers::inv_sqrtpi;
    if (!is(next, "Mul") || !is_number(other(next, result(steps.back())), kScale)) {
      return std::nullopt;
    }
    steps.push_back(next);
    next = only_use(result(next));
    if (!is(next, "Tanh")) return std::nullopt;
    steps.push_back(next);
    return halved({Algorithm::gelu_tanh}, std::move(steps), x);
  }

  // x (1 + f) / 2, where f is what the last of the steps computes.
  std::optional<Match> halved(const Link& link, std::vector<int> steps, int x) const {
    const int f = result(steps.back());
    const int sum = only_use(f);
    if (!is(sum, "Add") || !is_number(other(sum, f), 1)) return std::nullopt;
    const int next = only_use(result(sum));
    if (!is(next, "Mul")) return std::nullopt;
    const int with = other(next, result(sum));
    const auto halves = [&](int index, int of) {
      return (is(index, "Mul") && is_number(other(index, of), 0.5)) ||
             (is(index, "Div") && step(index).inputs[0] == of && is_number(other(index, of), 2));
    };
    const auto found = [&](std::initializer_list<int> more, int last) {
      steps.insert(steps.end(), more);
      return Match{{link}, std::move(steps), result(last)};
    };
    if (with == x) {
      const int last = only_use(result(next));
      if (last < 0 || !halves(last, result(next))) return std::nullopt;
      return found({sum, next, last}, last);
    }
    if (is_number(with, 0.5)) {
      const int last = only_use(result(next));
      if (!is(last, "Mul") || other(last, result(next)) != x) return std::nullopt;
      return found({sum, next, last}, last);
    }
    // x / 2 on a way of its own.
    for (const int use : uses_[static_cast<std::size_t>(x)]) {
      if (result(use) == with && halves(use, x) && only_use(with) == next) {
        return found({sum, use, next}, next);
      }
    }
    return std::nullopt;
  }

  // What is done to `slot` and nothing but that.
  std::optional<Match> following(int slot) const {
    if (slot < 0 || pinned_[static_cast<std::size_t>(slot)]) return std::nullopt;
    const auto& all = uses_[static_cast<std::size_t>(slot)];
    if (all.empty()) return std::nullopt;
    for (const int use : all) {
      if (auto found = written_out(use, slot)) {
        const bool whole = std::ranges::all_of(all, [&](int each) {
          return std::ranges::find(found->steps, each) != found->steps.end();
        });
        if (whole) return found;
      }
    }
    if (all.size() != 1) return std::nullopt;
    const int use = all[0];
    if (taken_[static_cast<std::size_t>(use)]) return std::nullopt;
    if (const auto link = unary(use, slot)) return Match{{*link}, {use}, result(use)};
    if (const auto algorithm = binary(use)) {
      const bool swaps = *algorithm != Algorithm::subtract && *algorithm != Algorithm::divide;
      const int operand = other(use, slot);
      if (operand < 0 || (!swaps && step(use).inputs[0] != slot)) return std::nullopt;
      return Match{{Link{*algorithm, 0, 0, operand}}, {use}, result(use)};
    }
    return std::nullopt;
  }

  // A step alone.
  Group single(int index) const {
    Group group;
    group.steps = {index};
    const Step& at = step(index);
    const graph::Node& node = *at.node;
    const std::string_view op = node.op_type;
    const auto input = [&](std::size_t i) { return i < at.inputs.size() ? at.inputs[i] : -1; };
    const bool one =
        at.outputs.size() == 1 || std::all_of(at.outputs.begin() + (at.outputs.empty() ? 0 : 1),
                                              at.outputs.end(), [](int slot) { return slot < 0; });
    if (!node.domain.empty() || at.outputs.empty() || at.outputs[0] < 0 || !one) return group;
    group.x = input(0);
    group.output = at.outputs[0];
    if (op == "Conv" || op == "ConvTranspose") {
      group.kind = Kind::convolution;
      group.weight = input(1);
      group.bias = input(2);
    } else if (op == "Gemm") {
      if (is_linear(at)) {
        group.kind = Kind::inner_product;
        group.weight = input(1);
        const Tensor* shift = constant(input(2));
        const std::int64_t columns =
            constant(group.weight)->shape()[node.get<std::int64_t>("transB", 0) != 0 ? 0 : 1];
        if (shift != nullptr && shift->type() == ElementType::float32 && shift->size() == columns &&
            shift->rank() >= 1 && shift->shape().back() == columns) {
          group.bias = input(2);
        } else if (input(2) >= 0) {
          group.links.push_back({Algorithm::add, 0, 0, input(2)});
        }
      }
    } else if (op == "MatMul") {
      group.weight = input(1);
      const Tensor* weight = constant(group.weight);
      const bool fixed =
          weight != nullptr && weight->type() == ElementType::float32 && weight->rank() == 2;
      group.kind = fixed ? Kind::inner_product : Kind::matmul;
    } else if (op == "MaxPool" || op == "AveragePool" || op == "GlobalAveragePool" ||
               op == "GlobalMaxPool") {
      group.kind = Kind::pool;
    } else if (op == "Softmax" || op == "LogSoftmax") {
      group.kind = Kind::softmax;
    } else if (op == "LayerNormalization") {
      group.kind = Kind::layer_norm;
      group.weight = input(1);
      group.bias = input(2);
    } else if (op == "BatchNormalization") {
      group.kind = Kind::batch_norm;
    } else if (op == "Concat") {
      group.kind = Kind::concat;
    } else if (op == "Transpose") {
      group.kind = Kind::transpose;
    } else if (op == "ReduceMean") {
      group.kind = Kind::mean;
    } else if (op == "Resize" || op == "Upsample") {
      group.kind = Kind::resample;
    } else if (const auto link = unary_of_any(index)) {
      group.kind = Kind::elementwise;
      group.x = link->first;
      group.links.push_back(link->second);
    } else if (const auto algorithm = binary(index)) {
      group.kind = Kind::elementwise;
      group.links.push_back({*algorithm, 0, 0, at.inputs[1]});
    }
    return group;
  }

  std::optional<std::pair<int, Link>> unary_of_any(int index) const {
    for (const int slot : step(index).inputs) {
      if (slot < 0 || program_.is_constant(slot)) continue;
      if (const auto link = unary(index, slot)) return std::pair(slot, *link);
    }
    return std::nullopt;
  }

  // Gemm without a transposed or scaled input, with a constant matrix.
  bool is_linear(const Step& at) const {
    const graph::Node& node = *at.node;
    const Tensor* weight = at.inputs.size() > 1 ? constant(at.inputs[1]) : nullptr;
    return weight != nullptr && weight->type() == ElementType::float32 && weight->rank() == 2 &&
           node.get<std::int64_t>("transA", 0) == 0 && node.get<float>("alpha", 1.0f) == 1 &&
           (node.get<float>("beta", 1.0f) == 1 || at.inputs.size() < 3 || at.inputs[2] < 0);
  }

  void extend(Group& group, int index) const {
    if (group.kind == Kind::elementwise) {
      for (const int slot : step(index).inputs) {
        if (slot < 0) continue;
        if (const auto found = written_out(index, slot)) {
          group.x = slot;
          group.links = found->links;
          group.steps = found->steps;
          group.output = found->output;
          break;
        }
      }
    }
    if (group.kind == Kind::batch_norm) {
      const int next = only_use(group.output);
      if (!is(next, "Relu") || taken_[static_cast<std::size_t>(next)]) return;
      group.links.push_back({Algorithm::relu, 0, 0});
      group.steps.push_back(next);
      group.output = result(next);
      return;
    }
    if (group.kind != Kind::convolution && group.kind != Kind::inner_product &&
        group.kind != Kind::matmul && group.kind != Kind::elementwise) {
      return;
    }
    int operands = 0;
    for (const Link& link : group.links) operands += link.operand >= 0 ? 1 : 0;
    for (;;) {
      const auto found = following(group.output);
      if (!found || group.links.size() + found->links.size() > kMostLinks) {
        if (group.kind == Kind::matmul) add_transposition(group);
        return;
      }
      // What a group computes cannot be an operand of its own end.
      if (found->links[0].operand >= 0) {
        if (add_bias(group, *found)) continue;
        if (++operands > kMostOperands) return;
      }
      for (const Link& link : found->links) add_link(group.links, link);
      group.steps.insert(group.steps.end(), found->steps.begin(), found->steps.end());
      group.output = found->output;
    }
  }

  // A linear function of a linear one is one.
  static void add_link(std::vector<Link>& links, const Link& link) {
    if (!links.empty() && links.back().algorithm == Algorithm::linear &&
        link.algorithm == Algorithm::linear) {
      Link& before = links.back();
      const double scale = static_cast<double>(before.a) * link.a;
      const double shift = static_cast<double>(before.b) * link.a + link.b;
      // Where a product would overflow or vanish, two steps may not.
      if (std::abs(scale) < 1e30 && std::abs(scale) > 1e-30 && std::abs(shift) < 1e30) {
        before.a = static_cast<float>(scale);
        before.b = static_cast<float>(shift);
        return;
      }
    }
    links.push_back(link);
  }

  // A product of stacks of matrices can be stored transposed, as long as its rows stay together.
  void add_transposition(Group& group) const {
    const int next = only_use(group.output);
    if (!is(next, "Transpose") || taken_[static_cast<std::size_t>(next)]) return;
    const auto order = step(next).node->get<std::vector<std::int64_t>>("perm", {});
    const auto rank = static_cast<std::int64_t>(order.size());
    if (rank < 3 || order.back() != rank - 1) return;
    std::vector<bool> seen(order.size(), false);
    for (const std::int64_t axis : order) {
      if (axis < 0 || axis >= rank || seen[static_cast<std::size_t>(axis)]) return;
      seen[static_cast<std::size_t>(axis)] = true;
    }
    group.order.assign(order.begin(), order.end());
    group.steps.push_back(next);
    group.output = result(next);
  }

  // A vector added to the columns of a product.
  bool add_bias(Group& group, const Match& match) const {
    if (group.kind != Kind::inner_product || group.bias >= 0 || !group.links.empty() ||
        match.links[0].algorithm != Algorithm::add) {
      return false;
    }
    const Tensor* shift = constant(match.links[0].operand);
    const Step& head = step(group.steps[0]);
    const bool rows =
        head.node->op_type == "Gemm" && head.node->get<std::int64_t>("transB", 0) != 0;
    const std::int64_t columns = constant(group.weight)->shape()[rows ? 0 : 1];
    if (shift == nullptr || shift->type() != ElementType::float32 || shift->rank() < 1 ||
        shift->size() != columns || shift->shape().back() != columns) {
      return false;
    }
    group.bias = match.links[0].operand;
    group.steps.push_back(match.steps[0]);
    group.output = match.output;
    return true;
  }

  void find_last_uses() {
    std::vector<bool> read(uses_.size(), false);
    for (const int slot : program_.outputs) read[static_cast<std::size_t>(slot)] = true;
    for (auto group = program_.groups.rbegin(); group != program_.groups.rend(); ++group) {
      const auto use = [&](int slot) {
        if (slot < 0 || read[static_cast<std::size_t>(slot)]) return;
        read[static_cast<std::size_t>(slot)] = true;
        group->last_uses.push_back(slot);
      };
      for (const int index : group->steps) {
        for (const int slot : step(index).inputs) use(slot);
        for (const int slot : step(index).captures) use(slot);
        for (const int slot : step(index).outputs) use(slot);
      }
    }
  }

  Program& program_;
  bool fuse_;
  std::vector<std::vector<int>> uses_;
  std::vector<bool> pinned_;  // read by someone who is no step of the program
  std::vector<bool> taken_;   // steps that belong to a group
};

}  // namespace

void form_groups(Program& program, bool fuse) { Former(program, fuse).form(); }

}  // namespace moptcore::inline v0::runtime

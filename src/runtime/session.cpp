// SPDX-License-Identifier: Apache-2.0
#include <moptcore/runtime/session.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <map>
#include <mutex>
#include <set>
#include <shared_mutex>
#include <sstream>
#include <stdexcept>

#include <moptcore/core/isa.hpp>
#include <moptcore/core/parallel.hpp>
#include <moptcore/core/pool.hpp>
#include <moptcore/core/thread_scope.hpp>
#include <moptcore/graph/onnx.hpp>
#include <moptcore/graph/optimize.hpp>

#include "graph/passes/editor.hpp"
#include "runtime/engine.hpp"
#include "runtime/plan.hpp"

namespace moptcore::inline v0::runtime {
namespace {

using graph::ElementType;
using graph::Tensor;
using graph::Value;
using graph::ValueInfo;
using graph::ValueType;

constexpr auto kWhere = "runtime.Session";

// Bytes of values between that stay in the caches: a batch with more is run part by part.
constexpr std::int64_t kCached = std::int64_t{12} << 20;

// Combinations of input shapes that keep their plan.
constexpr std::size_t kPlans = 16;

void check_input(const ValueInfo& info, const Value& value) {
  if (info.type.kind != ValueType::Kind::tensor || !value.is_tensor()) return;
  const Tensor& tensor = value.tensor();
  const ElementType element = info.type.element;
  if (element != ElementType::undefined) {
    check<DTypeError>(tensor.type() == element, kWhere,
                      "input '" + info.name + "' must be " + std::string(name(element)),
                      name(tensor.type()));
  }
  if (!info.type.dimensions) return;
  const std::vector<graph::Dimension>& shape = *info.type.dimensions;
  bool fits = static_cast<int>(shape.size()) == tensor.rank();
  for (int axis = 0; fits && axis < tensor.rank(); ++axis) {
    const graph::Dimension& dimension = shape[static_cast<std::size_t>(axis)];
    fits = !dimension.is_known() || dimension.value == tensor.shape()[axis];
  }
  if (fits) return;
  std::ostringstream rule;
  rule << "input '" << info.name << "' must have shape (";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    rule << (i == 0 ? "" : ", ");
    if (shape[i].is_known()) rule << shape[i].value;
    else rule << (shape[i].symbol.empty() ? "?" : shape[i].symbol);
  }
  rule << (shape.size() == 1 ? ",)" : ")");
  throw Error(error_text(kWhere, rule.str(), tensor.shape()));
}

// A model must not lie about what it returns.
void check_outputs(const std::vector<ValueInfo>& outputs, const std::vector<Value>& results) {
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const ValueType& type = outputs[i].type;
    if (type.kind != ValueType::Kind::tensor || type.element == ElementType::undefined ||
        !results[i].is_tensor()) {
      continue;
    }
    const ElementType got = results[i].tensor().type();
    check<FormatError>(got == type.element, kWhere,
                       "output '" + outputs[i].name + "' must be " +
                           std::string(name(type.element)) + ", as the model declares it",
                       name(got));
  }
}

graph::Model load(const std::filesystem::path& path) {
  const std::filesystem::path ending = path.extension();
  check<UnsupportedError>(ending != ".tflite" && ending != ".safetensors", kWhere,
                          "path must be of an ONNX file", path.string());
  return graph::load(path.string());
}

// The samples that all inputs have along their first axis, which the model leaves open; else 0.
std::int64_t batch_of(const graph::Graph& graph, const std::vector<Value>& given) {
  std::int64_t batch = 0;
  for (std::size_t i = 0; i < given.size(); ++i) {
    const ValueType& type = graph.inputs[i].type;
    const bool open =
        type.dimensions && !type.dimensions->empty() && !type.dimensions->front().is_known();
    if (!open || !given[i].is_tensor() || given[i].tensor().rank() < 1 ||
        graph::bit_width(given[i].tensor().type()) < 8) {
      return 0;
    }
    const std::int64_t own = given[i].tensor().shape()[0];
    if (i > 0 && own != batch) return 0;
    batch = own;
  }
  return batch;
}

// Samples [first, last) of a tensor, where they lie.
Value slice(const Value& value, std::int64_t first, std::int64_t last) {
  const Tensor& tensor = value.tensor();
  Shape shape = tensor.shape();
  const std::int64_t sample = tensor.bytes() / shape[0];
  shape[0] = last - first;
  auto* data = static_cast<std::byte*>(const_cast<void*>(tensor.raw())) + first * sample;
  return Tensor(tensor.type(), shape, data, std::make_shared<Tensor>(tensor));
}

// What oneDNN refuses in the middle of a run is as little the caller's fault as ours.
template <class F>
auto translated(F&& f) {
  try {
    return f();
  } catch (const std::invalid_argument&) {
    throw;
  } catch (const std::runtime_error& error) {
    throw UnsupportedError('[' + std::string(kWhere) + "] oneDNN: " + error.what());
  }
}

}  // namespace

struct Session::State {
  State(graph::Model given, const SessionOptions& options)
      : options(options), engine(options.max_bytes, options.max_steps), model(std::move(given)) {}

  struct Known {
    std::shared_ptr<const Plan> plan;  // null: shapes depend on elements, nothing to write down
    std::uint64_t used = 0;
  };

  SessionOptions options;
  Engine engine;
  graph::Model model;
  std::unique_ptr<Program> program;
  bool is_partial = false;  // constants are left to compute
  std::once_flag compiled;
  std::vector<ValueInfo> inputs;  // that have no default

  // Shared by those who run the program, alone for who plans.
  std::shared_mutex planning;
  std::mutex mutex;
  std::map<std::vector<std::int64_t>, Known> plans;
  std::uint64_t clock = 0;

  // Samples to run at a time; 0: all that are given; -1: not known before the first run.
  std::atomic<std::int64_t> part{-1};

  bool compile(const graph::PassOptions& passes);  // true: all constants are computed
  void compile_fully();
  std::vector<Value> arranged(const graph::Values& given) const;
  std::vector<std::int64_t> signature(const std::vector<Value>& given) const;
  std::vector<Value> run(const std::vector<Value>& given, Times* times,
                         std::shared_ptr<const Plan>* used);
  std::vector<Value> run_batch(const std::vector<Value>& given);
  std::optional<Known> find(const std::vector<std::int64_t>& key);
  // True for the first.
  bool remember(const std::vector<std::int64_t>& key, std::shared_ptr<const Plan> plan);
};

Session::Session(graph::Model model, const SessionOptions& options) {
  check(options.threads >= 0 && options.threads <= 1024, kWhere,
        "threads must be in [0, 1024], 0 for num_threads()", options.threads);
  if (!options.max_isa.empty()) {
    set_max_isa(options.max_isa);
    check<UnsupportedError>(kernels::onednn::limit_isa(options.max_isa), kWhere,
                            "max_isa must be given before anything uses oneDNN", options.max_isa);
  }
  if (const auto missing = graph::missing_operators(model); !missing.empty()) {
    std::string list;
    for (const std::string& name : missing) list += (list.empty() ? "" : ", ") + name;
    throw UnsupportedError('[' + std::string(kWhere) +
                           "] operators must be ones that moptcore has, it lacks " + list);
  }
  graph::inline_functions(model);
  graph::sort_nodes(model.graph);
  state_ = std::make_unique<State>(std::move(model), options);
  const graph::Graph& graph = state_->model.graph;
  std::set<std::string> names;
  for (const ValueInfo& input : graph.inputs) {
    check<FormatError>(names.insert(input.name).second, kWhere,
                       "the inputs of a model must have different names", input.name);
    if (!graph.initializers.contains(input.name)) state_->inputs.push_back(input);
  }
  state_->is_partial = !state_->compile({});
}

Session::Session(const std::filesystem::path& path, const SessionOptions& options)
    : Session(load(path), options) {}

Session::Session(std::span<const std::uint8_t> bytes, const SessionOptions& options)
    : Session(graph::parse(bytes), options) {}

Session::Session(Session&&) noexcept = default;
Session& Session::operator=(Session&&) noexcept = default;
Session::~Session() = default;

const std::vector<ValueInfo>& Session::inputs() const noexcept { return state_->inputs; }
const std::vector<ValueInfo>& Session::outputs() const noexcept {
  return state_->model.graph.outputs;
}

bool Session::State::compile(const graph::PassOptions& passes) {
  // What groups of steps cannot express: weights that take over what follows them, and
  // normalization in parts. Passes infer types, which costs more than loading: they have to be
  // worth it.
  const bool rewritten = std::ranges::any_of(model.graph.nodes, [](const graph::Node& node) {
    return node.op_type == "BatchNormalization" || node.op_type == "ReduceMean";
  });
  FoldBudget budget{graph::fold_limit(model, passes), passes.max_fold_steps};
  if (options.fuse && rewritten) {
    graph::PassOptions left = passes;
    left.max_fold_bytes = budget.bytes;
    left.max_fold_ratio = 0;
    for (const char* pass :
         {"fold_constants", "fold_batch_norm", "fold_affine", "fuse_layer_norm"}) {
      budget.bytes -= std::min(graph::run_pass(model, pass, left).bytes, budget.bytes);
      // Constants that it has replaced go before the next one makes more.
      graph::run_pass(model, "remove_dead_code");
    }
  }
  translated([&] {
    program = std::make_unique<Program>(model.graph, model.opsets, nullptr, options.fuse, budget);
  });
  if (!budget.lasted) return false;
  // The program has what it needs of these.
  model.graph.initializers.clear();
  model.graph.values.clear();
  std::set<const graph::Node*> used;
  for (const Step& step : program->steps) used.insert(step.node);
  for (graph::Node& node : model.graph.nodes) {
    if (node.op_type == "Constant" && !used.contains(&node)) node.attributes.clear();
  }
  trim();
  return true;
}

// Loading is bounded by the size of the file. A run computes large constants anyway: the first one
// does so for all.
void Session::State::compile_fully() {
  if (!is_partial) return;
  std::call_once(compiled, [&] {
    graph::PassOptions passes;
    passes.max_fold_bytes = options.max_bytes;
    passes.max_fold_ratio = 0;
    passes.max_fold_steps = std::max(passes.max_fold_steps, options.max_steps);
    (void)compile(passes);
  });
}

// The values by the program's inputs.
std::vector<Value> Session::State::arranged(const graph::Values& given) const {
  const std::vector<ValueInfo>& all = model.graph.inputs;
  for (const auto& [name, value] : given) {
    if (std::ranges::find(all, name, &ValueInfo::name) != all.end()) continue;
    std::string known;
    for (const ValueInfo& info : inputs) known += (known.empty() ? "" : ", ") + info.name;
    throw Error(error_text(kWhere, "inputs must be ones that the model has (" + known + ")", name));
  }
  std::vector<Value> values;
  for (std::size_t i = 0; i < all.size(); ++i) {
    const ValueInfo& info = all[i];
    const auto value = given.find(info.name);
    if (value == given.end() || !value->second.has_value()) {
      const Value& fallback = program->defaults[static_cast<std::size_t>(program->inputs[i])];
      check(fallback.has_value() || info.type.kind == ValueType::Kind::optional, kWhere,
            "every input must be given, what is missing is", info.name);
      values.push_back(fallback);
      continue;
    }
    check_input(info, value->second);
    values.push_back(value->second);
  }
  return values;
}

std::vector<std::int64_t> Session::State::signature(const std::vector<Value>& given) const {
  std::vector<std::int64_t> key{num_threads()};
  for (const Value& value : given) {
    if (value.is_tensor()) {
      const Tensor& tensor = value.tensor();
      key.push_back(static_cast<std::int64_t>(tensor.type()));
      key.push_back(tensor.rank());
      key.insert(key.end(), tensor.shape().begin(), tensor.shape().end());
    } else {
      key.push_back(value.has_value() ? -2 : -1);
    }
  }
  return key;
}

std::optional<Session::State::Known> Session::State::find(const std::vector<std::int64_t>& key) {
  const std::lock_guard lock(mutex);
  const auto found = plans.find(key);
  if (found == plans.end()) return std::nullopt;
  found->second.used = ++clock;
  return found->second;
}

bool Session::State::remember(const std::vector<std::int64_t>& key,
                              std::shared_ptr<const Plan> plan) {
  const std::lock_guard lock(mutex);
  const bool is_first = plans.empty();
  plans[key] = {std::move(plan), ++clock};
  if (plans.size() <= kPlans) return is_first;
  const auto oldest =
      std::ranges::min_element(plans, {}, [](const auto& entry) { return entry.second.used; });
  plans.erase(oldest);
  return is_first;
}

std::vector<Value> Session::State::run(const std::vector<Value>& given, Times* times,
                                       std::shared_ptr<const Plan>* used) {
  const ThreadScope scope(is_forked() ? 1 : options.threads);
  const kernels::onednn::Threads threads(num_threads());
  const std::vector<std::int64_t> key = signature(given);
  auto known = find(key);
  Budget budget;
  if (!known) {
    const std::unique_lock alone(planning);
    known = find(key);  // another thread may have been first
    if (!known) {
      const auto plan = std::make_shared<Plan>(engine, *program);
      std::vector<Value> results = run_steps(engine, *program, given, {}, budget, plan.get());
      check_outputs(model.graph.outputs, results);
      // Values between had memory of their own, from now on they share the plan's. Sessions whose
      // shapes change need it again for the next plan.
      if (remember(key, plan)) trim();
      if (used != nullptr) *used = plan;
      return results;
    }
  }
  if (known->plan != nullptr) {
    try {
      if (used != nullptr) *used = known->plan;
      return known->plan->run(given, times);
    } catch (const ShapesVary&) {
      remember(key, nullptr);
    }
  }
  const std::shared_lock together(planning);
  return run_steps(engine, *program, given, {}, budget, nullptr);
}

// Convolutional networks compute sample by sample: as many at a time as the caches hold.
std::vector<Value> Session::State::run_batch(const std::vector<Value>& given) {
  const std::int64_t batch = batch_of(model.graph, given);
  std::int64_t most = part.load();
  if (most == 0 || batch < 2) return run(given, nullptr, nullptr);
  if (most < 0) {
    std::int64_t bytes = 1;
    for (const Value& value : given) bytes += value.tensor().bytes() / batch;
    const std::int64_t few = std::clamp<std::int64_t>(kCached / 6 / bytes, 1, batch);
    std::vector<Value> first;
    for (const Value& value : given) first.push_back(slice(value, 0, few));
    std::shared_ptr<const Plan> plan;
    std::vector<Value> results = run(first, nullptr, &plan);
    const bool splits = plan != nullptr && plan->is_batched &&
                        std::ranges::all_of(results, [&](const Value& value) {
                          return value.is_tensor() && value.tensor().rank() >= 1 &&
                                 value.tensor().shape()[0] == few;
                        });
    most = 0;
    if (splits) {
      const std::int64_t sample = std::max<std::int64_t>(plan->arena_bytes() / few, 1);
      most = std::max<std::int64_t>(1, kCached / sample);
    }
    part.store(most);
    if (few == batch) return results;
  }
  if (most == 0 || batch <= most + most / 2) return run(given, nullptr, nullptr);
  const std::int64_t size = block_count(batch, block_count(batch, most));
  std::vector<Value> whole;
  for (std::int64_t first = 0; first < batch; first += size) {
    const std::int64_t last = std::min(first + size, batch);
    std::vector<Value> inputs;
    for (const Value& value : given) inputs.push_back(slice(value, first, last));
    const std::vector<Value> results = run(inputs, nullptr, nullptr);
    for (std::size_t i = 0; i < results.size(); ++i) {
      const Tensor& got = results[i].tensor();
      if (first == 0) {
        Shape shape = got.shape();
        shape[0] = batch;
        whole.push_back(allocate(engine, got.type(), shape));
      }
      // Nobody else has it yet.
      auto& into = const_cast<Tensor&>(whole[i].tensor());
      const std::int64_t sample = into.bytes() / batch;
      std::memcpy(static_cast<std::byte*>(into.mutable_raw()) + first * sample, got.raw(),
                  static_cast<std::size_t>(got.bytes()));
    }
  }
  return whole;
}

graph::Values Session::run(const graph::Values& inputs) const {
  state_->compile_fully();
  const std::vector<Value> given = state_->arranged(inputs);
  std::vector<Value> results = translated([&] { return state_->run_batch(given); });
  graph::Values named;
  for (std::size_t i = 0; i < results.size(); ++i) {
    Value& value = results[i];
    // Results belong to the caller alone.
    if (value.is_tensor() && !value.tensor().is_sole_owner()) value = value.tensor().clone();
    named[outputs()[i].name] = std::move(value);
  }
  return named;
}

Profile Session::profile(const graph::Values& inputs, int runs) const {
  check(runs >= 1 && runs <= 1'000'000, kWhere, "runs must be in [1, 1000000]", runs);
  state_->compile_fully();
  const std::vector<Value> given = state_->arranged(inputs);
  translated([&] { return state_->run(given, nullptr, nullptr); });
  std::vector<std::vector<double>> spent;
  std::vector<double> whole;
  Times times;
  std::shared_ptr<const Plan> plan;
  for (int i = 0; i < runs; ++i) {
    times = Times();
    plan = nullptr;
    const auto start = std::chrono::steady_clock::now();
    translated([&] { return state_->run(given, &times, &plan); });
    const std::chrono::duration<double, std::milli> length =
        std::chrono::steady_clock::now() - start;
    check<UnsupportedError>(plan != nullptr && times.end.size() == plan->actions().size(), kWhere,
                            "a model whose shapes depend on its inputs' elements has no profile");
    whole.push_back(length.count());
    spent.resize(times.end.size());
    for (std::size_t k = 0; k < times.end.size(); ++k) {
      spent[k].push_back((times.end[k] - times.begin[k]) * 1e3);
    }
  }
  const auto median = [](std::vector<double> all) {
    const auto middle = all.begin() + static_cast<std::ptrdiff_t>(all.size() / 2);
    std::nth_element(all.begin(), middle, all.end());
    return *middle;
  };
  Profile profile;
  profile.milliseconds = median(whole);
  for (std::size_t k = 0; k < spent.size(); ++k) {
    const Action& action = plan->actions()[k];
    std::ostringstream shape;
    shape << action.shape;
    profile.rows.push_back({action.name, action.operation,
                            action.primitive == nullptr ? "graph" : action.primitive->name,
                            shape.str(), median(spent[k]), times.begin[k] * 1e3,
                            (times.end[k] - times.begin[k]) * 1e3});
  }
  return profile;
}

}  // namespace moptcore::inline v0::runtime

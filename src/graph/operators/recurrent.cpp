// SPDX-License-Identifier: Apache-2.0
// RNN, GRU and LSTM: the inputs of all steps are multiplied at once, the states step by step.
#include <algorithm>
#include <cctype>
#include <cmath>
#include <limits>

#include <moptcore/graph/operator.hpp>

#include "graph/operators/gemm.hpp"
#include "graph/operators/widen.hpp"
#include "kernels/curves.hpp"

namespace moptcore::inline v0::graph {
namespace {

constexpr std::int64_t kRows = 8;  // sequences that a block of work runs through

enum class Kind : std::uint8_t {
  relu,
  tanh,
  sigmoid,
  affine,
  leaky_relu,
  thresholded_relu,
  scaled_tanh,
  hard_sigmoid,
  elu,
  softsign,
  softplus
};

struct Activation {
  Kind kind = Kind::tanh;
  float alpha = 0;
  float beta = 0;
};

struct ActivationName {
  std::string_view name;
  Kind kind;
  int parameters;  // alpha, then beta
  float alpha;
  float beta;
};

constexpr ActivationName kActivations[] = {
    {"relu", Kind::relu, 0, 0, 0},
    {"tanh", Kind::tanh, 0, 0, 0},
    {"sigmoid", Kind::sigmoid, 0, 0, 0},
    {"affine", Kind::affine, 2, 1, 0},
    {"leakyrelu", Kind::leaky_relu, 1, 0.01f, 0},
    {"thresholdedrelu", Kind::thresholded_relu, 1, 1, 0},
    {"scaledtanh", Kind::scaled_tanh, 2, 1, 1},
    {"hardsigmoid", Kind::hard_sigmoid, 2, 0.2f, 0.5f},
    {"elu", Kind::elu, 1, 1, 0},
    {"softsign", Kind::softsign, 0, 0, 0},
    {"softplus", Kind::softplus, 0, 0, 0},
};

template <class T>
T sigmoid(T x) {
  return T(1) / (T(1) + std::exp(-x));
}

template <class T, class F>
void apply_each(T* values, std::int64_t count, F&& f) {
  for (std::int64_t i = 0; i < count; ++i) values[i] = f(values[i]);
}

template <class T>
void apply(const Activation& activation, T* values, std::int64_t count) {
  const T alpha = activation.alpha;
  const T beta = activation.beta;
  if constexpr (std::is_same_v<T, float>) {
    if (activation.kind == Kind::tanh) return kernels::tanh_f32(values, count, values);
    if (activation.kind == Kind::sigmoid) return kernels::sigmoid_f32(values, count, values);
  }
  switch (activation.kind) {
    case Kind::relu: return apply_each(values, count, [](T x) { return x > 0 ? x : T(0); });
    case Kind::tanh: return apply_each(values, count, [](T x) { return std::tanh(x); });
    case Kind::sigmoid: return apply_each(values, count, [](T x) { return sigmoid(x); });
    case Kind::affine: return apply_each(values, count, [=](T x) { return alpha * x + beta; });
    case Kind::leaky_relu:
      return apply_each(values, count, [=](T x) { return x >= 0 ? x : alpha * x; });
    case Kind::thresholded_relu:
      return apply_each(values, count, [=](T x) { return x >= alpha ? x : T(0); });
    case Kind::scaled_tanh:
      return apply_each(values, count, [=](T x) { return alpha * std::tanh(beta * x); });
    case Kind::hard_sigmoid:
      return apply_each(values, count,
                        [=](T x) { return std::min(std::max(alpha * x + beta, T(0)), T(1)); });
    case Kind::elu:
      return apply_each(values, count, [=](T x) { return x >= 0 ? x : alpha * std::expm1(x); });
    case Kind::softsign:
      return apply_each(values, count, [](T x) { return x / (T(1) + std::abs(x)); });
    case Kind::softplus:
      return apply_each(values, count,
                        [](T x) { return std::max(x, T(0)) + std::log1p(std::exp(-std::abs(x))); });
  }
}

// `count` activations for each direction; parameters are consumed by those that have some.
std::vector<Activation> read_activations(const Call& call, std::int64_t directions,
                                         std::initializer_list<std::string_view> defaults) {
  using Strings = std::vector<std::string>;
  Strings names = call.attribute<Strings>("activations", {});
  const std::size_t wanted = defaults.size() * static_cast<std::size_t>(directions);
  if (names.empty()) {
    for (std::int64_t i = 0; i < directions; ++i) {
      for (const std::string_view name : defaults) names.emplace_back(name);
    }
  }
  // The default of the schema of RNN names two, whatever the direction.
  if (names.size() > wanted && defaults.size() == 1) names.resize(wanted);
  call.require(names.size() == wanted,
               "activations must be " + std::to_string(wanted) + ", names given are", names.size());
  const auto alphas = call.attribute<std::vector<float>>("activation_alpha", {});
  const auto betas = call.attribute<std::vector<float>>("activation_beta", {});
  std::size_t alpha = 0;
  std::size_t beta = 0;
  std::vector<Activation> activations;
  for (const std::string& given : names) {
    std::string lower = given;
    for (char& letter : lower) {
      letter = static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
    }
    const auto* found = std::find_if(std::begin(kActivations), std::end(kActivations),
                                     [&](const ActivationName& a) { return a.name == lower; });
    call.require(found != std::end(kActivations), "activations must be ones that ONNX has", given);
    Activation made{found->kind, found->alpha, found->beta};
    if (found->parameters >= 1 && alpha < alphas.size()) made.alpha = alphas[alpha++];
    if (found->parameters >= 2 && beta < betas.size()) made.beta = betas[beta++];
    activations.push_back(made);
  }
  return activations;
}

// What RNN, GRU and LSTM have in common.
struct Recurrence {
  std::int64_t gates = 1;
  std::int64_t steps = 0;
  std::int64_t batch = 0;
  std::int64_t input = 0;
  std::int64_t hidden = 0;
  std::int64_t directions = 1;
  bool first_backward = false;
  bool batch_first = false;
  double clip = std::numeric_limits<double>::infinity();
  std::vector<std::int64_t> lengths;
  std::vector<Activation> activations;
  int per_direction = 1;

  [[nodiscard]] std::int64_t width() const { return gates * hidden; }
  [[nodiscard]] bool backward(std::int64_t direction) const {
    return direction == 1 || first_backward;
  }
  [[nodiscard]] const Activation& activation(std::int64_t direction, int index) const {
    return activations[static_cast<std::size_t>(direction * per_direction + index)];
  }
  // Row of X, of all directions of Y and of a state.
  [[nodiscard]] std::int64_t x_row(std::int64_t t, std::int64_t b) const {
    return batch_first ? b * steps + t : t * batch + b;
  }
  [[nodiscard]] std::int64_t y_row(std::int64_t t, std::int64_t d, std::int64_t b) const {
    return batch_first ? (b * steps + t) * directions + d : (t * directions + d) * batch + b;
  }
  [[nodiscard]] std::int64_t state_row(std::int64_t d, std::int64_t b) const {
    return batch_first ? b * directions + d : d * batch + b;
  }
  [[nodiscard]] Shape state_shape() const {
    return batch_first ? Shape{batch, directions, hidden} : Shape{directions, batch, hidden};
  }
  [[nodiscard]] Shape y_shape() const {
    return batch_first ? Shape{batch, steps, directions, hidden}
                       : Shape{steps, directions, batch, hidden};
  }
};

Recurrence read_recurrence(const Call& call, std::int64_t gates,
                           std::initializer_list<std::string_view> defaults) {
  const Shape& x = call.input(0).shape();
  const Shape& w = call.input(1).shape();
  const Shape& r = call.input(2).shape();
  call.require(x.rank() == 3, "X must have 3 dimensions, shape", x);
  call.require(w.rank() == 3, "W must have 3 dimensions, shape", w);
  call.require(r.rank() == 3, "R must have 3 dimensions, shape", r);
  Recurrence made;
  made.gates = gates;
  const std::string direction = call.text("direction", "forward");
  call.require(direction == "forward" || direction == "reverse" || direction == "bidirectional",
               "direction must be forward, reverse or bidirectional", direction);
  made.directions = direction == "bidirectional" ? 2 : 1;
  made.first_backward = direction == "reverse";
  made.batch_first = call.version() >= 14 && call.attribute<std::int64_t>("layout", 0) != 0;
  made.steps = x[made.batch_first ? 1 : 0];
  made.batch = x[made.batch_first ? 0 : 1];
  made.input = x[2];
  made.hidden = r[2];
  const std::int64_t named = call.attribute<std::int64_t>("hidden_size", made.hidden);
  call.require(named == made.hidden, "hidden_size must be the last extent of R", named);
  call.require(made.hidden <= std::numeric_limits<std::int64_t>::max() / 16,
               "hidden_size must be below 2^59", made.hidden);
  call.require(w == Shape({made.directions, made.width(), made.input}),
               "W must have the shape (directions, gates * hidden, input)", w);
  call.require(r == Shape({made.directions, made.width(), made.hidden}),
               "R must have the shape (directions, gates * hidden, hidden)", r);
  made.activations = read_activations(call, made.directions, defaults);
  made.per_direction = static_cast<int>(defaults.size());
  const float clip = call.attribute<float>("clip", 0.0f);
  call.require(clip >= 0, "clip must be >= 0", clip);
  if (clip > 0) made.clip = clip;
  if (call.has(4)) {
    made.lengths = call.integers(4);
    call.require(call.input(4).shape() == Shape({made.batch}),
                 "sequence_lens must have an element for each sequence, shape",
                 call.input(4).shape());
    for (const std::int64_t length : made.lengths) {
      call.require(length >= 0 && length <= made.steps,
                   "sequence_lens must be in [0, " + std::to_string(made.steps) + "]", length);
    }
  }
  return made;
}

// An optional input of that shape, widened.
std::optional<Tensor> shaped_input(Call& call, int index, const Shape& shape) {
  if (!call.has(index)) return std::nullopt;
  const Tensor& given = call.input(index, call.input(0).type());
  call.require(given.shape() == shape,
               "input " + std::to_string(index) + " must have the shape that X, W and R ask for",
               given.shape());
  return widened(call, given);
}

// X W^T + biases of all steps: rows of X, columns (gate, unit). `with_recurrent(gate)`: whether R's
// bias is added here.
template <class T, class F>
Tensor project(Call& call, const Recurrence& net, const Tensor& x, const Tensor& w, const T* bias,
               F&& with_recurrent) {
  const std::int64_t rows = element_count(Shape{net.steps, net.batch});
  const std::int64_t width = net.width();
  Tensor result = call.environment().allocate(w.type(), Shape{net.directions, rows, width});
  if (result.size() == 0) return result;
  T* out = result.mutable_data<T>();
  const T* in = x.data<T>();
  const T* weights = w.data<T>();
  std::vector<T> sums(static_cast<std::size_t>(width), T(0));
  for (std::int64_t d = 0; d < net.directions; ++d) {
    if (bias != nullptr) {
      const T* added = bias + d * 2 * width;
      for (std::int64_t i = 0; i < width; ++i) {
        sums[i] = with_recurrent(i / net.hidden) ? added[i] + added[width + i] : added[i];
      }
    }
    T* to = out + d * rows * width;
    for (std::int64_t row = 0; row < rows; ++row) {
      std::copy_n(sums.data(), width, to + row * width);
    }
    gemm(rows, width, net.input, Matrix<const T>{in, net.input, 1},
         Matrix<const T>{weights + d * width * net.input, 1, net.input}, Matrix<T>{to, width, 1});
  }
  return result;
}

// Rows [first, first + count) of R of each direction, which every step multiplies states by.
template <class T>
class StateWeights {
 public:
  StateWeights(Call& call, const Recurrence& net, const Tensor& r, std::int64_t first,
               std::int64_t count)
      : count_(count), depth_(net.hidden), size_(kernels::packed_size(count, net.hidden)) {
    packed_ = call.environment().allocate(r.type(), Shape{net.directions, size_});
    if (packed_.size() == 0) return;
    const T* from = r.data<T>() + first * depth_;
    T* to = packed_.mutable_data<T>();
    parallel_for(net.directions, 1, [&](std::int64_t d, std::int64_t) {
      const Matrix<const T> b{from + d * net.width() * depth_, 1, depth_};
      if constexpr (std::is_same_v<T, float>) {
        kernels::pack_f32(count_, depth_, b, to + d * size_);
      } else {
        kernels::pack_f64(count_, depth_, b, to + d * size_);
      }
    });
  }

  // Rows of `to`, `stride` apart, += `rows` states times the weights of direction d.
  void multiply(std::int64_t d, std::int64_t rows, const T* states, T* to,
                std::int64_t stride) const {
    const T* packed = packed_.data<T>() + d * size_;
    const Matrix<const T> a{states, depth_, 1};
    const Matrix<T> c{to, stride, 1};
    if constexpr (std::is_same_v<T, float>) {
      kernels::product_packed_f32(rows, count_, depth_, a, packed, c);
    } else {
      kernels::product_packed_f64(rows, count_, depth_, a, packed, c);
    }
  }

 private:
  std::int64_t count_;
  std::int64_t depth_;
  std::int64_t size_;
  Tensor packed_;
};

template <class T>
void clip(const Recurrence& net, T* values, std::int64_t count) {
  if (std::isinf(net.clip)) return;
  const T limit = static_cast<T>(net.clip);
  for (std::int64_t i = 0; i < count; ++i) values[i] = std::clamp(values[i], -limit, limit);
}

// f(direction, first sequence, behind the last, states) for blocks of sequences.
template <class F>
void for_each_block(const Recurrence& net, F&& f) {
  if (net.hidden == 0) return;  // nothing bounds the steps then
  const std::int64_t blocks = block_count(net.batch, kRows);
  parallel_for(net.directions * blocks, 1, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t job = first; job < last; ++job) {
      const std::int64_t begin = job % blocks * kRows;
      f(job / blocks, begin, std::min(begin + kRows, net.batch));
    }
  });
}

// Rows of a state: what is given, or 0.
template <class T>
std::vector<T> initial_rows(const Recurrence& net, const std::optional<Tensor>& given,
                            std::int64_t d, std::int64_t begin, std::int64_t end) {
  std::vector<T> rows(static_cast<std::size_t>((end - begin) * net.hidden), T(0));
  if (!given) return rows;
  for (std::int64_t b = begin; b < end; ++b) {
    std::copy_n(given->data<T>() + net.state_row(d, b) * net.hidden, net.hidden,
                rows.data() + (b - begin) * net.hidden);
  }
  return rows;
}

template <class T>
void keep_rows(const Recurrence& net, const std::vector<T>& rows, std::int64_t d,
               std::int64_t begin, std::int64_t end, Tensor& state) {
  for (std::int64_t b = begin; b < end; ++b) {
    std::copy_n(rows.data() + (b - begin) * net.hidden, net.hidden,
                state.mutable_data<T>() + net.state_row(d, b) * net.hidden);
  }
}

// f(t, b) for the steps of one block in the order of the direction; sequences that have ended are
// left out, their outputs become 0.
template <class T, class Step, class Cell>
void run_block(const Recurrence& net, std::int64_t d, std::int64_t begin, std::int64_t end,
               const std::vector<T>& state, Tensor& y, Step&& step, Cell&& cell) {
  T* out = y.mutable_data<T>();
  for (std::int64_t i = 0; i < net.steps; ++i) {
    const std::int64_t t = net.backward(d) ? net.steps - 1 - i : i;
    step(t);
    for (std::int64_t b = begin; b < end; ++b) {
      T* to = out + net.y_row(t, d, b) * net.hidden;
      if (!net.lengths.empty() && t >= net.lengths[b]) {
        std::fill_n(to, net.hidden, T(0));
        continue;
      }
      cell(t, b);
      std::copy_n(state.data() + (b - begin) * net.hidden, net.hidden, to);
    }
  }
}

struct Outputs {
  Tensor y;
  Tensor h;
  Tensor c;
};

Outputs make_outputs(Call& call, const Recurrence& net, ElementType type) {
  Outputs made;
  made.y = call.environment().allocate(type, net.y_shape());
  made.h = call.environment().allocate(type, net.state_shape());
  made.c = made.h;
  return made;
}

void set_outputs(Call& call, const Outputs& outputs, ElementType type) {
  if (call.wants(0)) set_rounded(call, 0, outputs.y, type);
  if (call.wants(1)) set_rounded(call, 1, outputs.h, type);
}

struct Inputs {
  ElementType type;
  Tensor x;
  Tensor w;
  Tensor r;
  std::optional<Tensor> bias;
  std::optional<Tensor> h;
};

Inputs read_inputs(Call& call, const Recurrence& net) {
  const ElementType type = call.input(0).type();
  return {type,
          widened(call, call.input(0)),
          widened(call, call.input(1, type)),
          widened(call, call.input(2, type)),
          shaped_input(call, 3, Shape{net.directions, 2 * net.width()}),
          shaped_input(call, 5, net.state_shape())};
}

void rnn(Call& call) {
  const Recurrence net = read_recurrence(call, 1, {"Tanh"});
  const Inputs in = read_inputs(call, net);
  Outputs out = make_outputs(call, net, in.x.type());
  visit_wide(call, in.x.type(), [&]<class T> {
    const T* bias = in.bias ? in.bias->data<T>() : nullptr;
    Tensor sums = project<T>(call, net, in.x, in.w, bias, [](std::int64_t) { return true; });
    const StateWeights<T> weights(call, net, in.r, 0, net.hidden);
    const std::int64_t rows = net.steps * net.batch;
    for_each_block(net, [&](std::int64_t d, std::int64_t begin, std::int64_t end) {
      std::vector<T> state = initial_rows<T>(net, in.h, d, begin, end);
      T* gates = sums.mutable_data<T>() + d * rows * net.hidden;
      const std::int64_t stride = (net.batch_first ? net.steps : 1) * net.hidden;
      run_block<T>(
          net, d, begin, end, state, out.y,
          [&](std::int64_t t) {
            weights.multiply(d, end - begin, state.data(), gates + net.x_row(t, begin) * net.hidden,
                             stride);
          },
          [&](std::int64_t t, std::int64_t b) {
            T* gate = gates + net.x_row(t, b) * net.hidden;
            clip(net, gate, net.hidden);
            apply(net.activation(d, 0), gate, net.hidden);
            std::copy_n(gate, net.hidden, state.data() + (b - begin) * net.hidden);
          });
      keep_rows(net, state, d, begin, end, out.h);
    });
  });
  set_outputs(call, out, in.type);
}

void gru(Call& call) {
  const Recurrence net = read_recurrence(call, 3, {"Sigmoid", "Tanh"});
  const bool linear_first = call.attribute<std::int64_t>("linear_before_reset", 0) != 0;
  const Inputs in = read_inputs(call, net);
  Outputs out = make_outputs(call, net, in.x.type());
  visit_wide(call, in.x.type(), [&]<class T> {
    const std::int64_t size = net.hidden;
    const std::int64_t width = net.width();
    const T* bias = in.bias ? in.bias->data<T>() : nullptr;
    Tensor sums = project<T>(call, net, in.x, in.w, bias,
                             [&](std::int64_t gate) { return gate < 2 || !linear_first; });
    const StateWeights<T> gate_weights(call, net, in.r, 0, 2 * size);
    const StateWeights<T> hidden_weights(call, net, in.r, 2 * size, size);
    const std::int64_t rows = net.steps * net.batch;
    for_each_block(net, [&](std::int64_t d, std::int64_t begin, std::int64_t end) {
      std::vector<T> state = initial_rows<T>(net, in.h, d, begin, end);
      std::vector<T> reset(state.size());
      std::vector<T> linear(state.size());
      T* gates = sums.mutable_data<T>() + d * rows * width;
      const std::int64_t stride = (net.batch_first ? net.steps : 1) * width;
      run_block<T>(
          net, d, begin, end, state, out.y,
          [&](std::int64_t t) {
            T* first = gates + net.x_row(t, begin) * width;
            gate_weights.multiply(d, end - begin, state.data(), first, stride);
            for (std::int64_t b = begin; b < end; ++b) {
              T* gate = gates + net.x_row(t, b) * width;
              clip(net, gate, 2 * size);
              apply(net.activation(d, 0), gate, 2 * size);
              const T* rt = gate + size;
              const T* h = state.data() + (b - begin) * size;
              T* to = reset.data() + (b - begin) * size;
              for (std::int64_t i = 0; i < size; ++i) to[i] = rt[i] * h[i];
            }
            if (!linear_first) {
              hidden_weights.multiply(d, end - begin, reset.data(), first + 2 * size, stride);
              return;
            }
            for (std::int64_t b = 0; b < end - begin; ++b) {
              for (std::int64_t i = 0; i < size; ++i) {
                linear[b * size + i] =
                    bias == nullptr ? T(0) : bias[d * 2 * width + width + 2 * size + i];
              }
            }
            hidden_weights.multiply(d, end - begin, state.data(), linear.data(), size);
          },
          [&](std::int64_t t, std::int64_t b) {
            T* gate = gates + net.x_row(t, b) * width;
            T* candidate = gate + 2 * size;
            if (linear_first) {
              const T* term = linear.data() + (b - begin) * size;
              for (std::int64_t i = 0; i < size; ++i) candidate[i] += gate[size + i] * term[i];
            }
            clip(net, candidate, size);
            apply(net.activation(d, 1), candidate, size);
            T* h = state.data() + (b - begin) * size;
            for (std::int64_t i = 0; i < size; ++i) {
              h[i] = (T(1) - gate[i]) * candidate[i] + gate[i] * h[i];
            }
          });
      keep_rows(net, state, d, begin, end, out.h);
    });
  });
  set_outputs(call, out, in.type);
}

void lstm(Call& call) {
  const Recurrence net = read_recurrence(call, 4, {"Sigmoid", "Tanh", "Tanh"});
  const bool coupled = call.attribute<std::int64_t>("input_forget", 0) != 0;
  const Inputs in = read_inputs(call, net);
  const auto initial_c = shaped_input(call, 6, net.state_shape());
  const auto peepholes = shaped_input(call, 7, Shape{net.directions, 3 * net.hidden});
  Outputs out = make_outputs(call, net, in.x.type());
  out.c = call.environment().allocate(in.x.type(), net.state_shape());
  visit_wide(call, in.x.type(), [&]<class T> {
    const std::int64_t size = net.hidden;
    const std::int64_t width = net.width();
    const T* bias = in.bias ? in.bias->data<T>() : nullptr;
    Tensor sums = project<T>(call, net, in.x, in.w, bias, [](std::int64_t) { return true; });
    const StateWeights<T> weights(call, net, in.r, 0, width);
    const std::int64_t rows = net.steps * net.batch;
    for_each_block(net, [&](std::int64_t d, std::int64_t begin, std::int64_t end) {
      std::vector<T> state = initial_rows<T>(net, in.h, d, begin, end);
      std::vector<T> cells = initial_rows<T>(net, initial_c, d, begin, end);
      std::vector<T> shown(static_cast<std::size_t>(size));
      T* gates = sums.mutable_data<T>() + d * rows * width;
      const T* peephole = peepholes ? peepholes->data<T>() + d * 3 * size : nullptr;
      const std::int64_t stride = (net.batch_first ? net.steps : 1) * width;
      // gate[which] += weights * cell, as far as there are any.
      const auto peep = [&](T* gate, int which, const T* cell) {
        if (peephole == nullptr) return;
        for (std::int64_t i = 0; i < size; ++i) gate[i] += peephole[which * size + i] * cell[i];
      };
      const auto activate = [&](int which, T* gate) {
        clip(net, gate, size);
        apply(net.activation(d, which), gate, size);
      };
      run_block<T>(
          net, d, begin, end, state, out.y,
          [&](std::int64_t t) {
            weights.multiply(d, end - begin, state.data(), gates + net.x_row(t, begin) * width,
                             stride);
          },
          [&](std::int64_t t, std::int64_t b) {
            T* input = gates + net.x_row(t, b) * width;
            T* output = input + size;
            T* forget = input + 2 * size;
            T* candidate = input + 3 * size;
            T* cell = cells.data() + (b - begin) * size;
            peep(input, 0, cell);
            activate(0, input);
            if (coupled) {
              for (std::int64_t i = 0; i < size; ++i) forget[i] = T(1) - input[i];
            } else {
              peep(forget, 2, cell);
              activate(0, forget);
            }
            activate(1, candidate);
            for (std::int64_t i = 0; i < size; ++i) {
              cell[i] = forget[i] * cell[i] + input[i] * candidate[i];
            }
            peep(output, 1, cell);
            activate(0, output);
            std::copy_n(cell, size, shown.data());
            activate(2, shown.data());
            T* h = state.data() + (b - begin) * size;
            for (std::int64_t i = 0; i < size; ++i) h[i] = output[i] * shown[i];
          });
      keep_rows(net, state, d, begin, end, out.h);
      keep_rows(net, cells, d, begin, end, out.c);
    });
  });
  set_outputs(call, out, in.type);
  if (call.wants(2)) set_rounded(call, 2, out.c, in.type);
}

constexpr Operator kOperators[] = {
    {"", "GRU", 7, gru},
    {"", "LSTM", 7, lstm},
    {"", "RNN", 7, rnn},
};

}  // namespace

std::span<const Operator> recurrent_operators() noexcept { return kOperators; }

}  // namespace moptcore::inline v0::graph

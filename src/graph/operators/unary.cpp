// SPDX-License-Identifier: Apache-2.0
// Operators of one element.
#include "graph/operators/unary.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include <moptcore/core/parallel.hpp>

#include <moptcore/graph/operator.hpp>
#include "graph/operators/cast.hpp"
#include "graph/operators/chunk.hpp"
#include "graph/operators/types.hpp"
#include "kernels/curves.hpp"

namespace moptcore::inline v0::graph {

Tensor& run_unary(Call& call, const Tensor& x, ElementType out_type, UnaryLoop loop,
                  const void* context) {
  Tensor& out = call.output(0, out_type, x.shape());
  const ElementType type = x.type();
  const std::int64_t width = bit_width(type) / 8;
  const std::int64_t out_width = bit_width(out_type) / 8;
  const auto* from = static_cast<const std::byte*>(x.raw());
  auto* to = static_cast<std::byte*>(out.mutable_raw());
  parallel_for(x.size(), 16 * kChunk, [&](std::int64_t begin, std::int64_t end) {
    if (!is_half(type)) {
      loop(from + begin * width, to + begin * out_width, end - begin, context);
      return;
    }
    float values[kChunk];
    float results[kChunk];
    for (std::int64_t first = begin; first < end; first += kChunk) {
      const std::int64_t count = std::min(kChunk, end - first);
      load_halves(type, from, first, count, values);
      if (is_half(out_type)) {
        loop(values, results, count, context);
        store_halves(out_type, results, first, count, to);
      } else {
        loop(values, to + first * out_width, count, context);
      }
    }
  });
  return out;
}

namespace {

template <class T>
T sigmoid(T x) {
  return T(1) / (T(1) + std::exp(-x));
}

template <class T>
T softplus(T x) {
  return std::log1p(std::exp(-std::abs(x))) + (x < T(0) ? T(0) : x);
}

// A function of a float that needs no attributes.
#define MOPTCORE_FLOAT_FUNCTION(Name, expression) \
  struct Name {                                   \
    template <class T>                            \
    T operator()(T x) const {                     \
      return expression;                          \
    }                                             \
  };

MOPTCORE_FLOAT_FUNCTION(Floor, std::floor(x))
MOPTCORE_FLOAT_FUNCTION(Ceil, std::ceil(x))
MOPTCORE_FLOAT_FUNCTION(Round, std::nearbyint(x))
MOPTCORE_FLOAT_FUNCTION(Sqrt, std::sqrt(x))
MOPTCORE_FLOAT_FUNCTION(Exp, std::exp(x))
MOPTCORE_FLOAT_FUNCTION(Log, std::log(x))
MOPTCORE_FLOAT_FUNCTION(Reciprocal, T(1) / x)
MOPTCORE_FLOAT_FUNCTION(Erf, std::erf(x))
MOPTCORE_FLOAT_FUNCTION(Sin, std::sin(x))
MOPTCORE_FLOAT_FUNCTION(Cos, std::cos(x))
MOPTCORE_FLOAT_FUNCTION(Tan, std::tan(x))
MOPTCORE_FLOAT_FUNCTION(Asin, std::asin(x))
MOPTCORE_FLOAT_FUNCTION(Acos, std::acos(x))
MOPTCORE_FLOAT_FUNCTION(Atan, std::atan(x))
MOPTCORE_FLOAT_FUNCTION(Sinh, std::sinh(x))
MOPTCORE_FLOAT_FUNCTION(Cosh, std::cosh(x))
MOPTCORE_FLOAT_FUNCTION(Tanh, std::tanh(x))
MOPTCORE_FLOAT_FUNCTION(Asinh, std::asinh(x))
MOPTCORE_FLOAT_FUNCTION(Acosh, std::acosh(x))
MOPTCORE_FLOAT_FUNCTION(Atanh, std::atanh(x))
MOPTCORE_FLOAT_FUNCTION(Sigmoid, sigmoid(x))
MOPTCORE_FLOAT_FUNCTION(Mish, x* std::tanh(softplus(x)))
MOPTCORE_FLOAT_FUNCTION(Softplus, softplus(x))
MOPTCORE_FLOAT_FUNCTION(Softsign, x / (T(1) + std::abs(x)))
MOPTCORE_FLOAT_FUNCTION(Gelu, T(0.5) * x * (T(1) + std::erf(x * T(0.70710678118654752))))
MOPTCORE_FLOAT_FUNCTION(GeluTanh, T(0.5) * x *
                                      (T(1) + std::tanh(T(0.79788456080286536) *
                                                        (x + T(0.044715) * x * x * x))))

#undef MOPTCORE_FLOAT_FUNCTION

// NaN stays NaN in all of these.
struct HardSwish {
  template <class T>
  T operator()(T x) const {
    const T gate = x / T(6) + T(0.5);
    return x * (gate < T(0) ? T(0) : gate > T(1) ? T(1) : gate);
  }
};

struct HardSigmoid {
  float alpha = 0.2f;
  float beta = 0.5f;

  template <class T>
  T operator()(T x) const {
    const T value = static_cast<T>(alpha) * x + static_cast<T>(beta);
    return value < T(0) ? T(0) : value > T(1) ? T(1) : value;
  }
};

struct LeakyRelu {
  float alpha = 0.01f;

  template <class T>
  T operator()(T x) const {
    return x < T(0) ? static_cast<T>(alpha) * x : x;
  }
};

struct Elu {
  float alpha = 1;

  template <class T>
  T operator()(T x) const {
    return x < T(0) ? static_cast<T>(alpha) * std::expm1(x) : x;
  }
};

struct Selu {
  float alpha = 1.67326319217681884765625f;
  float gamma = 1.05070102214813232421875f;

  template <class T>
  T operator()(T x) const {
    return static_cast<T>(gamma) * (x > T(0) ? x : static_cast<T>(alpha) * std::expm1(x));
  }
};

struct Celu {
  float alpha = 1;

  template <class T>
  T operator()(T x) const {
    const T scale = static_cast<T>(alpha);
    const T curve = scale * std::expm1(x / scale);
    return (x < T(0) ? T(0) : x) + (curve > T(0) ? T(0) : curve);
  }
};

struct ThresholdedRelu {
  float alpha = 1;

  template <class T>
  T operator()(T x) const {
    return x <= static_cast<T>(alpha) ? T(0) : x;
  }
};

struct Swish {
  float alpha = 1;

  template <class T>
  T operator()(T x) const {
    return x / (T(1) + std::exp(-static_cast<T>(alpha) * x));
  }
};

struct Shrink {
  float bias = 0;
  float lambda = 0.5f;

  template <class T>
  T operator()(T x) const {
    const auto bound = static_cast<T>(lambda);
    if (x < -bound) return x + static_cast<T>(bias);
    if (x > bound) return x - static_cast<T>(bias);
    return x == x ? T(0) : x;
  }
};

struct Relu {
  template <class T>
  T operator()(T x) const {
    return x < T(0) ? T(0) : x;
  }
};

struct Abs {
  template <class T>
  T operator()(T x) const {
    if constexpr (std::is_floating_point_v<T>) return std::abs(x);
    else if constexpr (std::is_signed_v<T>) {
      return x < 0 ? static_cast<T>(-static_cast<std::make_unsigned_t<T>>(x)) : x;
    } else {
      return x;
    }
  }
};

struct Neg {
  template <class T>
  T operator()(T x) const {
    if constexpr (std::is_floating_point_v<T>) return -x;
    else return static_cast<T>(-static_cast<std::make_unsigned_t<T>>(x));
  }
};

struct Sign {
  template <class T>
  T operator()(T x) const {
    if (x != x) return x;
    return static_cast<T>((x > T(0)) - (x < T(0)));
  }
};

using Kernel = void (*)(const float*, std::int64_t, float*) noexcept;

template <Kernel kKernel>
void kernel_loop(const void* x, void* y, std::int64_t count, const void*) {
  kKernel(static_cast<const float*>(x), count, static_cast<float*>(y));
}

// y = x / 2 (1 + kKernel(argument(x)))
template <Kernel kKernel, class Argument>
void gated_loop(const void* x, void* y, std::int64_t count, Argument&& argument) {
  float gates[kChunk];
  for (std::int64_t first = 0; first < count; first += kChunk) {
    const std::int64_t n = std::min(kChunk, count - first);
    const float* from = static_cast<const float*>(x) + first;
    float* to = static_cast<float*>(y) + first;
    for (std::int64_t i = 0; i < n; ++i) gates[i] = argument(from[i]);
    kKernel(gates, n, gates);
    for (std::int64_t i = 0; i < n; ++i) to[i] = 0.5f * from[i] * (1.0f + gates[i]);
  }
}

void gelu_loop(const void* x, void* y, std::int64_t count, const void*) {
  gated_loop<kernels::erf_f32>(x, y, count, [](float v) { return v * 0.70710678118654752f; });
}

void gelu_tanh_loop(const void* x, void* y, std::int64_t count, const void*) {
  gated_loop<kernels::tanh_f32>(
      x, y, count, [](float v) { return 0.79788456080286536f * (v + 0.044715f * v * v * v); });
}

// The loop over float32.
template <class Op>
constexpr UnaryLoop kFloatLoop = unary_loop<Op, float>;
template <>
constexpr UnaryLoop kFloatLoop<Floor> = kernel_loop<kernels::floor_f32>;
template <>
constexpr UnaryLoop kFloatLoop<Ceil> = kernel_loop<kernels::ceil_f32>;
template <>
constexpr UnaryLoop kFloatLoop<Round> = kernel_loop<kernels::round_f32>;
template <>
constexpr UnaryLoop kFloatLoop<Erf> = kernel_loop<kernels::erf_f32>;
template <>
constexpr UnaryLoop kFloatLoop<Sigmoid> = kernel_loop<kernels::sigmoid_f32>;
template <>
constexpr UnaryLoop kFloatLoop<Tanh> = kernel_loop<kernels::tanh_f32>;
template <>
constexpr UnaryLoop kFloatLoop<Gelu> = gelu_loop;
template <>
constexpr UnaryLoop kFloatLoop<GeluTanh> = gelu_tanh_loop;

template <class Op>
void run_floats(Call& call, const Op& op = Op()) {
  const Tensor& x = call.input(0);
  const UnaryLoop loop = visit_floats(call, arithmetic_type(x.type()), []<class T>() -> UnaryLoop {
    if constexpr (kIsHalf<T>) return nullptr;
    else if constexpr (std::is_same_v<T, float>) return kFloatLoop<Op>;
    else return unary_loop<Op, T>;
  });
  run_unary(call, x, x.type(), loop, &op);
}

template <class Op>
void floats(Call& call) {
  run_floats<Op>(call);
}

template <class Op>
void numbers(Call& call) {
  const Tensor& x = call.input(0);
  const auto loop = visit_numbers(call, arithmetic_type(x.type()), []<class T>() -> UnaryLoop {
    if constexpr (kIsHalf<T>) return nullptr;
    else return unary_loop<Op, T>;
  });
  run_unary(call, x, x.type(), loop);
}

template <class Op>
void with_alpha(Call& call) {
  Op op;
  op.alpha = call.attribute("alpha", op.alpha);
  run_floats(call, op);
}

void selu(Call& call) {
  Selu op;
  op.alpha = call.attribute("alpha", op.alpha);
  op.gamma = call.attribute("gamma", op.gamma);
  run_floats(call, op);
}

void hard_sigmoid(Call& call) {
  HardSigmoid op;
  op.alpha = call.attribute("alpha", op.alpha);
  op.beta = call.attribute("beta", op.beta);
  run_floats(call, op);
}

void gelu(Call& call) {
  const std::string form = call.text("approximate", "none");
  call.require(form == "none" || form == "tanh", "approximate must be none or tanh", form);
  if (form == "tanh") run_floats<GeluTanh>(call);
  else run_floats<Gelu>(call);
}

void shrink(Call& call) {
  Shrink op;
  op.bias = call.attribute("bias", op.bias);
  op.lambda = call.attribute("lambd", op.lambda);
  const Tensor& x = call.input(0);
  if (x.type() == ElementType::float32 || x.type() == ElementType::float64 || is_half(x.type())) {
    return run_floats(call, op);
  }
  // Bounds and bias need not be integers.
  visit_integers(call, x.type(), []<class T>() {});
  const Tensor wide = cast_tensor(call, x, ElementType::float64);
  const Tensor& result =
      run_unary(call, wide, ElementType::float64, unary_loop<Shrink, double>, &op);
  call.set(0, cast_tensor(call, result, x.type()));
}

template <class T>
struct Clip {
  T least = std::numeric_limits<T>::lowest();
  T greatest = std::numeric_limits<T>::max();

  T operator()(T x) const {
    const T raised = x < least ? least : x;
    return raised > greatest ? greatest : raised;
  }
};

void clip(Call& call) {
  const Tensor& x = call.input(0);
  visit_numbers(call, arithmetic_type(x.type()), [&]<class T>() {
    if constexpr (!kIsHalf<T>) {
      Clip<T> op;
      if (call.version() < 11) {
        if constexpr (std::is_floating_point_v<T>) {
          op.least = call.attribute("min", std::numeric_limits<float>::lowest());
          op.greatest = call.attribute("max", std::numeric_limits<float>::max());
        } else {
          refuse_type(call, "elements must be floats before opset 11", x.type());
        }
      } else {
        if constexpr (std::is_floating_point_v<T>) {
          op.least = -std::numeric_limits<T>::infinity();
          op.greatest = std::numeric_limits<T>::infinity();
        }
        const auto bound = [&](int index, T& value) {
          if (!call.has(index)) return;
          const Tensor& given = call.input(index, x.type());
          call.require(given.size() == 1, "min and max must have one element, shape",
                       given.shape());
          value = *cast_tensor(call, given, type_of<T>()).template data<T>();
        };
        bound(1, op.least);
        bound(2, op.greatest);
      }
      run_unary(call, x, x.type(), unary_loop<Clip<T>, T>, &op);
    }
  });
}

constexpr Operator kOperators[] = {
    {"", "Abs", 6, numbers<Abs>},
    {"", "Neg", 6, numbers<Neg>},
    {"", "Sign", 9, numbers<Sign>},
    {"", "Floor", 6, floats<Floor>},
    {"", "Ceil", 6, floats<Ceil>},
    {"", "Round", 11, floats<Round>},
    {"", "Sqrt", 6, floats<Sqrt>},
    {"", "Exp", 6, floats<Exp>},
    {"", "Log", 6, floats<Log>},
    {"", "Reciprocal", 6, floats<Reciprocal>},
    {"", "Erf", 9, floats<Erf>},
    {"", "Sin", 7, floats<Sin>},
    {"", "Cos", 7, floats<Cos>},
    {"", "Tan", 7, floats<Tan>},
    {"", "Asin", 7, floats<Asin>},
    {"", "Acos", 7, floats<Acos>},
    {"", "Atan", 7, floats<Atan>},
    {"", "Sinh", 9, floats<Sinh>},
    {"", "Cosh", 9, floats<Cosh>},
    {"", "Tanh", 6, floats<Tanh>},
    {"", "Asinh", 9, floats<Asinh>},
    {"", "Acosh", 9, floats<Acosh>},
    {"", "Atanh", 9, floats<Atanh>},
    {"", "Sigmoid", 6, floats<Sigmoid>},
    {"", "Relu", 6, numbers<Relu>},
    {"", "LeakyRelu", 6, with_alpha<LeakyRelu>},
    {"", "Elu", 6, with_alpha<Elu>},
    {"", "Selu", 6, selu},
    {"", "Celu", 12, with_alpha<Celu>},
    {"", "ThresholdedRelu", 10, with_alpha<ThresholdedRelu>},
    {"", "HardSigmoid", 6, hard_sigmoid},
    {"", "HardSwish", 14, floats<HardSwish>},
    {"", "Swish", 24, with_alpha<Swish>},
    {"", "Mish", 18, floats<Mish>},
    {"", "Softplus", 1, floats<Softplus>},
    {"", "Softsign", 1, floats<Softsign>},
    {"", "Gelu", 20, gelu},
    {"", "Shrink", 9, shrink},
    {"", "Clip", 6, clip},
};

}  // namespace

std::span<const Operator> unary_operators() noexcept { return kOperators; }

}  // namespace moptcore::inline v0::graph

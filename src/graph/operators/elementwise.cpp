// SPDX-License-Identifier: Apache-2.0
// Arithmetic of two or more operands that broadcast.
#include <algorithm>
#include <cmath>
#include <span>
#include <type_traits>

#include <moptcore/graph/operator.hpp>
#include "graph/operators/binary.hpp"
#include "graph/operators/cast.hpp"
#include "graph/operators/chunk.hpp"
#include "graph/operators/types.hpp"

namespace moptcore::inline v0::graph {
namespace {

// Integers wrap around: unsigned, and never narrower than int, whose overflow has no meaning.
template <class T>
using Wrapping = typename std::conditional_t<
    std::is_floating_point_v<T>, std::type_identity<T>,
    std::conditional_t<sizeof(T) < 4, std::type_identity<unsigned>,
                       std::make_unsigned<std::conditional_t<std::is_integral_v<T>, T, int>>>>::
    type;

struct Add {
  template <class T>
  T operator()(T a, T b) const {
    return static_cast<T>(static_cast<Wrapping<T>>(a) + static_cast<Wrapping<T>>(b));
  }
};

struct Sub {
  template <class T>
  T operator()(T a, T b) const {
    return static_cast<T>(static_cast<Wrapping<T>>(a) - static_cast<Wrapping<T>>(b));
  }
};

struct Mul {
  template <class T>
  T operator()(T a, T b) const {
    return static_cast<T>(static_cast<Wrapping<T>>(a) * static_cast<Wrapping<T>>(b));
  }
};

// Divisors of integers are not 0 here.
struct Div {
  template <class T>
  T operator()(T a, T b) const {
    if constexpr (std::is_signed_v<T> && std::is_integral_v<T>) {
      if (b == -1) return Sub()(T(0), a);
    }
    return static_cast<T>(a / b);
  }
};

struct Min {
  template <class T>
  T operator()(T a, T b) const {
    return a < b || a != a ? a : b;  // a NaN of either operand is the result
  }
};

struct Max {
  template <class T>
  T operator()(T a, T b) const {
    return a > b || a != a ? a : b;
  }
};

// The remainder with the sign of the divisor.
struct FloorMod {
  template <class T>
  T operator()(T a, T b) const {
    if constexpr (std::is_floating_point_v<T>) {
      const T rest = std::fmod(a, b);
      if (rest == 0) return std::copysign(T(0), b);
      return (rest < 0) != (b < 0) ? rest + b : rest;
    } else if constexpr (std::is_signed_v<T>) {
      if (b == -1) return 0;
      const T rest = static_cast<T>(a % b);
      return rest != 0 && (rest < 0) != (b < 0) ? static_cast<T>(rest + b) : rest;
    } else {
      return static_cast<T>(a % b);
    }
  }
};

// The remainder with the sign of the dividend.
struct TruncMod {
  template <class T>
  T operator()(T a, T b) const {
    if constexpr (std::is_floating_point_v<T>) {
      return std::fmod(a, b);
    } else if constexpr (std::is_signed_v<T>) {
      return b == -1 ? T(0) : static_cast<T>(a % b);
    } else {
      return static_cast<T>(a % b);
    }
  }
};

struct Power {
  template <class T>
  T operator()(T a, T b) const {
    if constexpr (std::is_floating_point_v<T>) {
      return b == T(2) ? a * a : std::pow(a, b);
    } else {  // int64; the negative powers of 0 have been refused
      if (b < 0) return a == 1 ? 1 : a == -1 ? (b % 2 == 0 ? 1 : -1) : 0;
      std::uint64_t result = 1;
      auto base = static_cast<std::uint64_t>(a);
      for (auto rest = static_cast<std::uint64_t>(b); rest != 0; rest >>= 1) {
        if ((rest & 1) != 0) result *= base;
        base *= base;
      }
      return static_cast<T>(result);
    }
  }
};

struct SlopedRelu {
  template <class T>
  T operator()(T x, T slope) const {
    return x < T(0) ? Mul()(x, slope) : x;
  }
};

struct SwishGate {
  float alpha = 1;

  template <class T>
  T operator()(T a, T b) const {
    return a / (T(1) + std::exp(-static_cast<T>(alpha) * a)) * b;
  }
};

// The loop of Op for each type of visit_numbers; signed integers share the loop of the unsigned
// ones where Op makes the same bits of both.
template <class Op, bool kSameBits = false>
BinaryLoop number_loop(const Call& call, ElementType type) {
  return visit_numbers(call, arithmetic_type(type), [&]<class T>() -> BinaryLoop {
    if constexpr (kIsHalf<T>) return nullptr;
    else if constexpr (kSameBits && std::is_integral_v<T>) {
      return binary_loop<Op, std::make_unsigned_t<T>>;
    } else {
      return binary_loop<Op, T>;
    }
  });
}

template <class Op>
BinaryLoop float_loop(const Call& call, ElementType type) {
  return visit_floats(call, arithmetic_type(type), [&]<class T>() -> BinaryLoop {
    if constexpr (kIsHalf<T>) return nullptr;
    else return binary_loop<Op, T>;
  });
}

template <class Op>
void arithmetic(Call& call) {
  const auto [a, b] = matching_inputs(call);
  run_binary(call, a, b, a.type(), number_loop<Op, true>(call, a.type()));
}

void refuse_zeros(const Call& call, const Tensor& divisor) {
  visit_numbers(call, divisor.type(), [&]<class T>() {
    if constexpr (!kIsFloating<T>) {
      for (const T value : divisor.values<T>()) {
        call.require(value != 0, "an integer divisor must not be 0", 0);
      }
    }
  });
}

void div(Call& call) {
  const auto [a, b] = matching_inputs(call);
  refuse_zeros(call, b);
  run_binary(call, a, b, a.type(), number_loop<Div>(call, a.type()));
}

void mod(Call& call) {
  const auto [a, b] = matching_inputs(call);
  refuse_zeros(call, b);
  const bool truncates = call.attribute<std::int64_t>("fmod", 0) != 0;
  run_binary(
      call, a, b, a.type(),
      truncates ? number_loop<TruncMod>(call, a.type()) : number_loop<FloorMod>(call, a.type()));
}

bool is_float(ElementType type) {
  return is_half(type) || type == ElementType::float32 || type == ElementType::float64;
}

void pow(Call& call) {
  const Tensor& x = call.input(0);
  const Tensor& y = call.input(1);
  if (x.type() == y.type() && is_float(x.type())) {
    run_binary(call, x, y, x.type(), float_loop<Power>(call, x.type()));
    return;
  }
  // Mixed types: in double where a float is among them, else in int64, and back to the type of x.
  const bool floating = is_float(x.type()) || is_float(y.type());
  const ElementType wide = floating ? ElementType::float64 : ElementType::int64;
  const Tensor base = cast_tensor(call, x, wide);
  const Tensor exponent = cast_tensor(call, y, wide);
  if (!floating && std::ranges::count(base.values<std::int64_t>(), 0) > 0) {
    for (const std::int64_t value : exponent.values<std::int64_t>()) {
      call.require(value >= 0, "the exponent of an integer 0 must be >= 0", value);
    }
  }
  const Tensor& result =
      run_binary(call, base, exponent, wide,
                 floating ? &binary_loop<Power, double> : &binary_loop<Power, std::int64_t>);
  call.set(0, cast_tensor(call, result, x.type()));
}

template <class Op>
void extreme(Call& call) {
  run_variadic(call, number_loop<Op>(call, call.input(0).type()));
}

void sum(Call& call) { run_variadic(call, float_loop<Add>(call, call.input(0).type())); }

void mean(Call& call) {
  run_variadic(call, float_loop<Add>(call, call.input(0).type()), call.input_count());
}

void prelu(Call& call) {
  const auto [x, slope] = matching_inputs(call);
  const Shape* shapes[] = {&x.shape(), &slope.shape()};
  call.require(broadcast_shape(call, shapes) == x.shape(),
               "the slope must broadcast to the shape of the input", slope.shape());
  run_binary(call, x, slope, x.type(), number_loop<SlopedRelu>(call, x.type()));
}

void swiglu(Call& call) {
  const auto [a, b] = matching_inputs(call);
  call.require(a.shape() == b.shape(), "both inputs must have the same shape", b.shape());
  const SwishGate gate{call.attribute("alpha", 1.0f)};
  run_binary(call, a, b, a.type(), float_loop<SwishGate>(call, a.type()), &gate);
}

constexpr Operator kOperators[] = {
    {"", "Add", 7, arithmetic<Add>},
    {"", "Sub", 7, arithmetic<Sub>},
    {"", "Mul", 7, arithmetic<Mul>},
    {"", "Div", 7, div},
    {"", "Mod", 10, mod},
    {"", "Pow", 7, pow},
    {"", "Min", 6, extreme<Min>},
    {"", "Max", 6, extreme<Max>},
    {"", "Sum", 6, sum},
    {"", "Mean", 6, mean},
    {"", "PRelu", 7, prelu},
    {"", "SwiGLU", 28, swiglu},
};

}  // namespace

std::span<const Operator> elementwise_operators() noexcept { return kOperators; }

}  // namespace moptcore::inline v0::graph

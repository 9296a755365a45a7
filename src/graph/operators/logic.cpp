// SPDX-License-Identifier: Apache-2.0
// Comparisons, truth values, bits, and choosing by them.
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include <moptcore/graph/operator.hpp>
#include "graph/operators/binary.hpp"
#include "graph/operators/cast.hpp"
#include "graph/operators/chunk.hpp"
#include "graph/operators/types.hpp"
#include "graph/operators/unary.hpp"

namespace moptcore::inline v0::graph {
namespace {

// Truth values are bytes here, any but 0 true: files may hold others than 0 and 1.
using Truth = std::uint8_t;

struct Equal {
  template <class T>
  Truth operator()(T a, T b) const {
    return a == b;
  }
};

struct Less {
  template <class T>
  Truth operator()(T a, T b) const {
    return a < b;
  }
};

struct LessOrEqual {
  template <class T>
  Truth operator()(T a, T b) const {
    return a <= b;
  }
};

struct And {
  Truth operator()(Truth a, Truth b) const { return (a != 0) & (b != 0); }
};

struct Or {
  Truth operator()(Truth a, Truth b) const { return (a != 0) | (b != 0); }
};

struct Xor {
  Truth operator()(Truth a, Truth b) const { return (a != 0) != (b != 0); }
};

struct BitAnd {
  template <class T>
  T operator()(T a, T b) const {
    return a & b;
  }
};

struct BitOr {
  template <class T>
  T operator()(T a, T b) const {
    return a | b;
  }
};

struct BitXor {
  template <class T>
  T operator()(T a, T b) const {
    return a ^ b;
  }
};

// Shifts by less than 0, or by all bits and more, leave only what the sign fills in.
struct ShiftLeft {
  template <class T>
  T operator()(T a, T b) const {
    constexpr int kBits = std::numeric_limits<std::make_unsigned_t<T>>::digits;
    if (b < T(0) || b >= T(kBits)) return 0;
    return static_cast<T>(static_cast<std::uint64_t>(a) << b);
  }
};

struct ShiftRight {
  template <class T>
  T operator()(T a, T b) const {
    constexpr int kBits = std::numeric_limits<std::make_unsigned_t<T>>::digits;
    if (b < T(0) || b >= T(kBits)) return a < T(0) ? static_cast<T>(-1) : T(0);
    return static_cast<T>(a >> b);
  }
};

template <class Op>
BinaryLoop comparison_loop(const Call& call, ElementType type) {
  return visit_numbers(call, arithmetic_type(type), [&]<class T>() -> BinaryLoop {
    if constexpr (kIsHalf<T>) return nullptr;
    else return binary_loop<Op, T, Truth>;
  });
}

template <class Op, bool kSwapped = false>
void comparison(Call& call) {
  const auto [a, b] = matching_inputs(call);
  run_binary(call, kSwapped ? b : a, kSwapped ? a : b, ElementType::boolean,
             comparison_loop<Op>(call, a.type()));
}

template <class Op>
void truth(Call& call) {
  const auto [a, b] = matching_inputs(call);
  call.require<DTypeError>(a.type() == ElementType::boolean, "inputs must be bool", name(a.type()));
  run_binary(call, a, b, ElementType::boolean, binary_loop<Op, Truth>);
}

void equal(Call& call) {
  const auto [a, b] = matching_inputs(call);
  if (a.type() == ElementType::boolean) {
    // Not (a xor b), which takes other true bytes than 1.
    Tensor& out = run_binary(call, a, b, ElementType::boolean, binary_loop<Xor, Truth>);
    auto* values = static_cast<Truth*>(out.mutable_raw());
    for (std::int64_t i = 0; i < out.size(); ++i) values[i] ^= 1;
  } else if (a.type() == ElementType::string) {
    const Broadcast broadcast(call, {&a.shape(), &b.shape()});
    bool* out = call.output(0, ElementType::boolean, broadcast.shape()).mutable_data<bool>();
    const auto left = a.strings();
    const auto right = b.strings();
    broadcast.for_each_run(
        0, broadcast.size(),
        [&](std::int64_t first, std::int64_t count, const std::int64_t* offsets) {
          for (std::int64_t i = 0; i < count; ++i) {
            out[first + i] = left[offsets[0] + (broadcast.moves(0) ? i : 0)] ==
                             right[offsets[1] + (broadcast.moves(1) ? i : 0)];
          }
        });
  } else {
    comparison<Equal>(call);
  }
}

template <class Op>
void bitwise(Call& call) {
  const auto [a, b] = matching_inputs(call);
  run_binary(call, a, b, a.type(), visit_integers(call, a.type(), []<class T>() -> BinaryLoop {
               return binary_loop<Op, std::make_unsigned_t<T>>;
             }));
}

void bit_shift(Call& call) {
  const auto [a, b] = matching_inputs(call);
  const std::string& direction = call.required<std::string>("direction");
  const bool left = direction == "LEFT";
  call.require(left || direction == "RIGHT", "direction must be LEFT or RIGHT", direction);
  run_binary(call, a, b, a.type(), visit_integers(call, a.type(), [&]<class T>() -> BinaryLoop {
               return left ? &binary_loop<ShiftLeft, T> : &binary_loop<ShiftRight, T>;
             }));
}

struct BitNot {
  template <class T>
  T operator()(T x) const {
    return static_cast<T>(~x);
  }
};

void bitwise_not(Call& call) {
  const Tensor& x = call.input(0);
  run_unary(call, x, x.type(), visit_integers(call, x.type(), []<class T>() -> UnaryLoop {
              return unary_loop<BitNot, std::make_unsigned_t<T>>;
            }));
}

struct LogicNot {
  Truth operator()(Truth x) const { return x == 0; }
};

void logic_not(Call& call) {
  run_unary(call, call.input(0, ElementType::boolean), ElementType::boolean,
            unary_loop<LogicNot, Truth>);
}

struct IsNaN {
  template <class T>
  Truth operator()(T x) const {
    return x != x;
  }
};

struct IsInf {
  bool negative = true;
  bool positive = true;

  template <class T>
  Truth operator()(T x) const {
    constexpr T kInfinity = std::numeric_limits<T>::infinity();
    return (negative & (x == -kInfinity)) | (positive & (x == kInfinity));
  }
};

template <class Op>
void classify(Call& call, const Op& op) {
  const Tensor& given = call.input(0);
  const bool small = small_float_of(given.type()) != nullptr;
  const Tensor x = small ? cast_tensor(call, given, ElementType::float32) : given;
  const ElementType type = arithmetic_type(x.type());
  const UnaryLoop loop = visit_floats(call, type, []<class T>() -> UnaryLoop {
    if constexpr (kIsHalf<T>) return nullptr;
    else return unary_loop<Op, T, Truth>;
  });
  run_unary(call, x, ElementType::boolean, loop, &op);
}

void is_nan(Call& call) { classify(call, IsNaN()); }

void is_inf(Call& call) {
  classify(call, IsInf{call.attribute<std::int64_t>("detect_negative", 1) != 0,
                       call.attribute<std::int64_t>("detect_positive", 1) != 0});
}

template <class T>
void choose(const Broadcast& broadcast, const void* condition, const T* x, const T* y, T* out) {
  const bool c_moves = broadcast.moves(0);
  const std::int64_t x_step = broadcast.moves(1) ? 1 : 0;
  const std::int64_t y_step = broadcast.moves(2) ? 1 : 0;
  broadcast.parallel_runs([&](std::int64_t first, std::int64_t count, const std::int64_t* offsets) {
    const Truth* c = static_cast<const Truth*>(condition) + offsets[0];
    const T* left = x + offsets[1];
    const T* right = y + offsets[2];
    T* to = out + first;
    if (!c_moves) {
      const T* from = *c != 0 ? left : right;
      const std::int64_t step = *c != 0 ? x_step : y_step;
      for (std::int64_t i = 0; i < count; ++i) to[i] = from[i * step];
    } else if (x_step == 1 && y_step == 1) {
      for (std::int64_t i = 0; i < count; ++i) to[i] = c[i] != 0 ? left[i] : right[i];
    } else {
      for (std::int64_t i = 0; i < count; ++i) {
        to[i] = c[i] != 0 ? left[i * x_step] : right[i * y_step];
      }
    }
  });
}

void where(Call& call) {
  const Tensor& condition = call.input(0, ElementType::boolean);
  const Tensor& x = call.input(1);
  const Tensor& y = call.input(2, x.type());
  const Broadcast broadcast(call, {&condition.shape(), &x.shape(), &y.shape()});
  Tensor& out = call.output(0, x.type(), broadcast.shape());
  if (x.type() == ElementType::string) {
    choose(broadcast, condition.raw(), x.strings().data(), y.strings().data(),
           out.mutable_strings().data());
    return;
  }
  visit_width(call, x.type(), [&]<class T>() {
    choose(broadcast, condition.raw(), static_cast<const T*>(x.raw()),
           static_cast<const T*>(y.raw()), static_cast<T*>(out.mutable_raw()));
  });
}

constexpr Operator kOperators[] = {
    {"", "And", 7, truth<And>},
    {"", "Or", 7, truth<Or>},
    {"", "Xor", 7, truth<Xor>},
    {"", "Not", 1, logic_not},
    {"", "Equal", 7, equal},
    {"", "Less", 7, comparison<Less>},
    {"", "LessOrEqual", 12, comparison<LessOrEqual>},
    {"", "Greater", 7, comparison<Less, true>},
    {"", "GreaterOrEqual", 12, comparison<LessOrEqual, true>},
    {"", "BitShift", 11, bit_shift},
    {"", "BitwiseAnd", 18, bitwise<BitAnd>},
    {"", "BitwiseOr", 18, bitwise<BitOr>},
    {"", "BitwiseXor", 18, bitwise<BitXor>},
    {"", "BitwiseNot", 18, bitwise_not},
    {"", "IsNaN", 9, is_nan},
    {"", "IsInf", 10, is_inf},
    {"", "Where", 9, where},
};

}  // namespace

std::span<const Operator> logic_operators() noexcept { return kOperators; }

}  // namespace moptcore::inline v0::graph

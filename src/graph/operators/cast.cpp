// SPDX-License-Identifier: Apache-2.0
#include "graph/operators/cast.hpp"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>

#include <moptcore/core/parallel.hpp>

#include <moptcore/graph/operator.hpp>
#include "graph/operators/chunk.hpp"
#include "graph/operators/types.hpp"
#include "kernels/convert.hpp"

namespace moptcore::inline v0::graph {
namespace {

// Every conversion goes through one of four types that hold its source exactly.
enum class Carrier : std::uint8_t { signed_integer, unsigned_integer, single, wide };

union Carried {
  std::int64_t integers[kChunk];
  std::uint64_t naturals[kChunk];
  float floats[kChunk];
  double doubles[kChunk];
};

Carrier carrier_of(const Call& call, ElementType type) {
  switch (type) {
    case ElementType::int8:
    case ElementType::int16:
    case ElementType::int32:
    case ElementType::int64:
    case ElementType::int4:
    case ElementType::int2: return Carrier::signed_integer;
    case ElementType::boolean:
    case ElementType::uint8:
    case ElementType::uint16:
    case ElementType::uint32:
    case ElementType::uint64:
    case ElementType::uint4:
    case ElementType::uint2: return Carrier::unsigned_integer;
    case ElementType::float32:
    case ElementType::float16:
    case ElementType::bfloat16:
    case ElementType::float8e4m3fn:
    case ElementType::float8e4m3fnuz:
    case ElementType::float8e5m2:
    case ElementType::float8e5m2fnuz:
    case ElementType::float8e8m0:
    case ElementType::float4e2m1: return Carrier::single;
    case ElementType::float64: return Carrier::wide;
    default: refuse_type(call, "elements must be of a type that can be cast", type);
  }
}

template <class T, class C>
void widen(const void* data, std::int64_t first, std::int64_t count, C* to) {
  const T* from = static_cast<const T*>(data) + first;
  for (std::int64_t i = 0; i < count; ++i) to[i] = static_cast<C>(from[i]);
}

// The code of element `index` of a packed type, in the low bits.
std::uint8_t packed_code(const void* data, std::int64_t index, int bits) {
  const int per_byte = 8 / bits;
  const auto byte = static_cast<const std::uint8_t*>(data)[index / per_byte];
  return static_cast<std::uint8_t>((byte >> (index % per_byte * bits)) & ((1 << bits) - 1));
}

void load(ElementType type, const void* data, std::int64_t first, std::int64_t count, Carried& to) {
  const int bits = bit_width(type);
  switch (type) {
    case ElementType::int8: return widen<std::int8_t>(data, first, count, to.integers);
    case ElementType::int16: return widen<std::int16_t>(data, first, count, to.integers);
    case ElementType::int32: return widen<std::int32_t>(data, first, count, to.integers);
    case ElementType::int64: return widen<std::int64_t>(data, first, count, to.integers);
    case ElementType::uint8: return widen<std::uint8_t>(data, first, count, to.naturals);
    case ElementType::uint16: return widen<std::uint16_t>(data, first, count, to.naturals);
    case ElementType::uint32: return widen<std::uint32_t>(data, first, count, to.naturals);
    case ElementType::uint64: return widen<std::uint64_t>(data, first, count, to.naturals);
    case ElementType::float32: return widen<float>(data, first, count, to.floats);
    case ElementType::float64: return widen<double>(data, first, count, to.doubles);
    case ElementType::float16:
    case ElementType::bfloat16: return load_halves(type, data, first, count, to.floats);
    case ElementType::boolean:
      for (std::int64_t i = 0; i < count; ++i) {
        to.naturals[i] = static_cast<const std::uint8_t*>(data)[first + i] != 0;
      }
      return;
    case ElementType::int4:
    case ElementType::int2:
      for (std::int64_t i = 0; i < count; ++i) {
        const int sign = 1 << (bits - 1);
        to.integers[i] = (packed_code(data, first + i, bits) ^ sign) - sign;
      }
      return;
    case ElementType::uint4:
    case ElementType::uint2:
      for (std::int64_t i = 0; i < count; ++i) {
        to.naturals[i] = packed_code(data, first + i, bits);
      }
      return;
    case ElementType::float8e8m0:
      for (std::int64_t i = 0; i < count; ++i) {
        to.floats[i] = decode_e8m0(static_cast<const std::uint8_t*>(data)[first + i]);
      }
      return;
    default: {
      const SmallFloat& format = *small_float_of(type);
      float table[256];
      for (int code = 0; code < 1 << bits; ++code) {
        table[code] = decode(format, static_cast<std::uint8_t>(code));
      }
      for (std::int64_t i = 0; i < count; ++i) {
        to.floats[i] = table[bits == 8 ? static_cast<const std::uint8_t*>(data)[first + i]
                                       : packed_code(data, first + i, bits)];
      }
    }
  }
}

// Toward zero; what does not fit saturates, NaN is 0.
template <class T, class F>
T saturated(F value) {
  constexpr F kEnd = static_cast<F>(std::numeric_limits<T>::max() / 2 + 1) * F(2);
  constexpr F kLeast = static_cast<F>(std::numeric_limits<T>::min());
  if (value >= kLeast && value < kEnd) [[likely]]
    return static_cast<T>(value);
  if (value != value) return 0;
  return value < kLeast ? std::numeric_limits<T>::min() : std::numeric_limits<T>::max();
}

template <class T, class C>
T to_integer(C value) {
  if constexpr (std::is_integral_v<C>) return static_cast<T>(value);
  else if constexpr (std::is_same_v<T, std::int32_t>) return saturated<std::int32_t>(value);
  else if constexpr (std::is_same_v<T, std::uint64_t>) {
    return value < 0 ? static_cast<T>(saturated<std::int64_t>(value))
                     : saturated<std::uint64_t>(value);
  } else {
    return static_cast<T>(saturated<std::int64_t>(value));
  }
}

// A float from which rounding to fewer bits gives what it would from `value`.
template <class C>
float nearly(C value) {
  if constexpr (std::is_same_v<C, float>) return value;
  else if constexpr (std::is_same_v<C, double>) return round_to_odd(value);
  else {
    constexpr C kExact = C{1} << 53;  // beyond it, 11 bits or fewer get lost in double
    const bool large = value > kExact || (std::is_signed_v<C> && value < -kExact);
    const C kept = large && (value & 2047) != 0 ? static_cast<C>((value & ~C{2047}) | 1024) : value;
    return round_to_odd(static_cast<double>(kept));
  }
}

template <class T, class C>
void narrow(const C* from, std::int64_t first, std::int64_t count, void* data) {
  T* to = static_cast<T*>(data) + first;
  for (std::int64_t i = 0; i < count; ++i) {
    if constexpr (std::is_floating_point_v<T>) to[i] = static_cast<T>(from[i]);
    else if constexpr (kIsHalf<T>) to[i] = T(nearly(from[i]));
    else to[i] = to_integer<T>(from[i]);
  }
}

// Stores codes of `bits` bits; `first` begins a byte.
template <class Code>
void store_codes(int bits, std::int64_t first, std::int64_t count, void* data, Code&& code) {
  const int per_byte = 8 / bits;
  const int mask = (1 << bits) - 1;
  auto* to = static_cast<std::uint8_t*>(data) + first / per_byte;
  for (std::int64_t i = 0; i < count; i += per_byte) {
    int byte = 0;
    for (int j = 0; j < per_byte && i + j < count; ++j) byte |= (code(i + j) & mask) << (j * bits);
    *to++ = static_cast<std::uint8_t>(byte);
  }
}

template <class C>
void store(ElementType type, const C* from, std::int64_t first, std::int64_t count, void* data,
           const CastRounding& rounding) {
  switch (type) {
    case ElementType::int8: return narrow<std::int8_t>(from, first, count, data);
    case ElementType::int16: return narrow<std::int16_t>(from, first, count, data);
    case ElementType::int32: return narrow<std::int32_t>(from, first, count, data);
    case ElementType::int64: return narrow<std::int64_t>(from, first, count, data);
    case ElementType::uint8: return narrow<std::uint8_t>(from, first, count, data);
    case ElementType::uint16: return narrow<std::uint16_t>(from, first, count, data);
    case ElementType::uint32: return narrow<std::uint32_t>(from, first, count, data);
    case ElementType::uint64: return narrow<std::uint64_t>(from, first, count, data);
    case ElementType::float32: return narrow<float>(from, first, count, data);
    case ElementType::float64: return narrow<double>(from, first, count, data);
    case ElementType::float16: return narrow<float16>(from, first, count, data);
    case ElementType::bfloat16: return narrow<bfloat16>(from, first, count, data);
    case ElementType::boolean:
      return store_codes(8, first, count, data, [&](std::int64_t i) { return from[i] != C(0); });
    case ElementType::int4:
    case ElementType::uint4:
    case ElementType::int2:
    case ElementType::uint2:
      return store_codes(bit_width(type), first, count, data, [&](std::int64_t i) {
        return static_cast<int>(to_integer<std::int8_t>(from[i]));
      });
    case ElementType::float8e8m0:
      return store_codes(8, first, count, data, [&](std::int64_t i) {
        return encode_e8m0(nearly(from[i]), rounding.scale, rounding.saturate);
      });
    default: {
      const SmallFloat& format = *small_float_of(type);
      store_codes(bit_width(type), first, count, data, [&](std::int64_t i) {
        return encode(format, nearly(from[i]), rounding.saturate);
      });
    }
  }
}

void store(ElementType type, Carrier carrier, const Carried& from, std::int64_t first,
           std::int64_t count, void* data, const CastRounding& rounding) {
  switch (carrier) {
    case Carrier::signed_integer: return store(type, from.integers, first, count, data, rounding);
    case Carrier::unsigned_integer: return store(type, from.naturals, first, count, data, rounding);
    case Carrier::single: return store(type, from.floats, first, count, data, rounding);
    case Carrier::wide: return store(type, from.doubles, first, count, data, rounding);
  }
}

// Elements [first, last) of `data` as others, where that needs no carrier.
using DirectLoop = void (*)(const void* data, std::int64_t first, std::int64_t last, void* to);

template <auto kKernel, class From, class To>
void kernel_loop(const void* data, std::int64_t first, std::int64_t last, void* to) {
  kKernel(static_cast<const From*>(data) + first, last - first, static_cast<To*>(to) + first);
}

template <class From, class To>
void plain_loop(const void* data, std::int64_t first, std::int64_t last, void* to) {
  narrow<To>(static_cast<const From*>(data) + first, first, last - first, to);
}

// Integers of 52 bits are exact in the fraction of a double, which takes vectors less than
// converting them one by one.
void long_loop(const void* data, std::int64_t first, std::int64_t last, void* to) {
  constexpr std::int64_t kHalf = std::int64_t{1} << 51;
  constexpr double kMagic = 0x1.8p52;
  for (; first < last; first += kChunk) {
    const std::int64_t n = std::min(kChunk, last - first);
    const std::int64_t* from = static_cast<const std::int64_t*>(data) + first;
    float* values = static_cast<float*>(to) + first;
    std::uint64_t beyond = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      beyond |= (static_cast<std::uint64_t>(from[i]) + kHalf) >> 52;
    }
    if (beyond != 0) {
      narrow<float>(from, 0, n, values);
      continue;
    }
    for (std::int64_t i = 0; i < n; ++i) {
      const double biased = std::bit_cast<double>(from[i] + std::bit_cast<std::int64_t>(kMagic));
      values[i] = static_cast<float>(biased - kMagic);
    }
  }
}

void truth_loop(const void* data, std::int64_t first, std::int64_t last, void* to) {
  const auto* from = static_cast<const std::uint8_t*>(data);
  for (std::int64_t i = first; i < last; ++i) {
    static_cast<float*>(to)[i] = from[i] != 0 ? 1.0f : 0.0f;
  }
}

DirectLoop loop_to_float(ElementType from) {
  switch (from) {
    case ElementType::float16: return kernel_loop<kernels::widen_f16, float16, float>;
    case ElementType::bfloat16: return kernel_loop<kernels::widen_bf16, bfloat16, float>;
    case ElementType::boolean: return truth_loop;
    case ElementType::int8: return plain_loop<std::int8_t, float>;
    case ElementType::uint8: return plain_loop<std::uint8_t, float>;
    case ElementType::int32: return plain_loop<std::int32_t, float>;
    case ElementType::int64: return long_loop;
    case ElementType::float64: return plain_loop<double, float>;
    default: return nullptr;
  }
}

DirectLoop loop_of_float(ElementType to) {
  switch (to) {
    case ElementType::float16: return kernel_loop<kernels::narrow_f16, float, float16>;
    case ElementType::bfloat16: return kernel_loop<kernels::narrow_bf16, float, bfloat16>;
    case ElementType::int32: return kernel_loop<kernels::truncate_f32, float, std::int32_t>;
    case ElementType::int64: return plain_loop<float, std::int64_t>;
    case ElementType::uint8: return plain_loop<float, std::uint8_t>;
    case ElementType::int8: return plain_loop<float, std::int8_t>;
    case ElementType::float64: return plain_loop<float, double>;
    default: return nullptr;
  }
}

// Null where there is none.
DirectLoop direct_loop(ElementType from, ElementType to) {
  if (to == ElementType::float32) return loop_to_float(from);
  if (from == ElementType::float32) return loop_of_float(to);
  if (from == ElementType::int64 && to == ElementType::int32) {
    return plain_loop<std::int64_t, std::int32_t>;
  }
  if (from == ElementType::int32 && to == ElementType::int64) {
    return plain_loop<std::int32_t, std::int64_t>;
  }
  return nullptr;
}

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  const auto first = text.find_first_not_of(kSpace);
  if (first == std::string_view::npos) return {};
  text = text.substr(first, text.find_last_not_of(kSpace) - first + 1);
  if (text.size() > 1 && text[0] == '+' && text[1] != '-' && text[1] != '+') text.remove_prefix(1);
  return text;
}

template <class T>
bool parse(std::string_view text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if constexpr (std::is_floating_point_v<T>) {
    // from_chars leaves `value` alone where the number is too large or too small.
    if (error == std::errc::result_out_of_range && end == text.data() + text.size()) {
      const auto exponent = text.find_first_of("eE");
      const bool tiny = exponent != std::string_view::npos
                            ? text[exponent + 1] == '-'
                            : text.find_first_of("123456789") > text.find('.');
      value = tiny ? T(0) : std::numeric_limits<T>::infinity();
      if (text[0] == '-') value = -value;
      return true;
    }
  }
  return error == std::errc() && end == text.data() + text.size();
}

bool equals_lower(std::string_view text, std::string_view lower) {
  return std::ranges::equal(text, lower, [](char a, char b) {
    return (a >= 'A' && a <= 'Z' ? static_cast<char>(a - 'A' + 'a') : a) == b;
  });
}

void parse_strings(const Call& call, const Tensor& from, Tensor& to, const CastRounding& rounding) {
  const auto texts = from.strings();
  const Carrier target = carrier_of(call, to.type());
  // Halves and smaller take the double nearest to the text.
  const bool exact = to.type() == ElementType::float32;
  const Carrier carrier = target == Carrier::single && !exact ? Carrier::wide : target;
  const auto count = static_cast<std::int64_t>(texts.size());
  for (std::int64_t first = 0; first < count; first += kChunk) {
    Carried carried;
    const std::int64_t n = std::min(kChunk, count - first);
    for (std::int64_t i = 0; i < n; ++i) {
      const std::string_view text = trimmed(texts[first + i]);
      double number = 0;
      bool good = false;
      if (carrier == Carrier::single) {
        good = parse(text, carried.floats[i]);
      } else if (carrier == Carrier::wide) {
        good = parse(text, carried.doubles[i]);
      } else if (carrier == Carrier::signed_integer) {
        good = parse(text, carried.integers[i]);
        if (!good && (good = parse(text, number))) {
          carried.integers[i] = to_integer<std::int64_t>(number);
        }
      } else {
        good = parse(text, carried.naturals[i]);
        if (!good && (good = parse(text, number))) {
          carried.naturals[i] = to_integer<std::uint64_t>(number);
        }
        if (!good && to.type() == ElementType::boolean) {
          carried.naturals[i] = equals_lower(text, "true");
          good = carried.naturals[i] != 0 || equals_lower(text, "false");
        }
      }
      call.require(good, "strings must be numbers to be cast",
                   std::string_view(texts[first + i]).substr(0, 40));
    }
    store(to.type(), carrier, carried, first, n, to.mutable_raw(), rounding);
  }
}

// The shortest digits that `same` accepts, as NumPy writes them: 1.0, 0.5, 1e-05, 1e+16.
template <class F, class Same>
std::string number_text(F value, Same&& same) {
  if (value != value) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  const F magnitude = std::abs(value);
  const bool plain = magnitude == 0 || (magnitude >= F(1e-4) && magnitude < F(1e16));
  char digits[64];
  char* end =
      std::to_chars(digits, digits + sizeof digits, value, std::chars_format::scientific).ptr;
  for (int precision = 0; precision < 5; ++precision) {
    char* const shorter = std::to_chars(digits, digits + sizeof digits, value,
                                        std::chars_format::scientific, precision)
                              .ptr;
    F read = 0;
    std::from_chars(digits, shorter, read);
    if (same(read)) {
      end = shorter;
      break;
    }
    end = std::to_chars(digits, digits + sizeof digits, value, std::chars_format::scientific).ptr;
  }
  if (!plain) return {digits, end};
  F shortest = value;
  std::from_chars(digits, end, shortest);
  char text[400];
  end = std::to_chars(text, text + sizeof text, shortest, std::chars_format::fixed).ptr;
  std::string made(text, end);
  if (made.find('.') == std::string::npos) made += ".0";
  return made;
}

void format_strings(const Tensor& from, Carrier carrier, Tensor& to) {
  const auto texts = to.mutable_strings();
  const auto count = static_cast<std::int64_t>(texts.size());
  const ElementType type = from.type();
  for (std::int64_t first = 0; first < count; first += kChunk) {
    Carried carried;
    const std::int64_t n = std::min(kChunk, count - first);
    load(type, from.raw(), first, n, carried);
    for (std::int64_t i = 0; i < n; ++i) {
      std::string& text = texts[first + i];
      if (type == ElementType::boolean) {
        text = carried.naturals[i] != 0 ? "True" : "False";
      } else if (carrier == Carrier::signed_integer) {
        text = std::to_string(carried.integers[i]);
      } else if (carrier == Carrier::unsigned_integer) {
        text = std::to_string(carried.naturals[i]);
      } else if (carrier == Carrier::wide) {
        const double value = carried.doubles[i];
        text = number_text(value, [&](double read) { return read == value; });
      } else {
        const float value = carried.floats[i];
        text = number_text(value, [&](float read) {
          if (type == ElementType::float16) return float16(read).bits == float16(value).bits;
          if (type == ElementType::bfloat16) return bfloat16(read).bits == bfloat16(value).bits;
          return read == value;
        });
      }
    }
  }
}

CastRounding rounding_attributes(const Call& call) {
  CastRounding rounding;
  rounding.saturate = call.attribute<std::int64_t>("saturate", 1) != 0;
  const std::string mode = call.text("round_mode", "up");
  if (mode == "down") rounding.scale = ScaleRounding::down;
  else if (mode == "nearest") rounding.scale = ScaleRounding::nearest;
  else call.require(mode == "up", "round_mode must be up, down or nearest", mode);
  return rounding;
}

void cast(Call& call) {
  const ElementType to = element_type_attribute(call, "to");
  call.set(0, cast_tensor(call, call.input(0), to, rounding_attributes(call)));
}

void cast_like(Call& call) {
  const ElementType to = call.input(1).type();
  call.set(0, cast_tensor(call, call.input(0), to, rounding_attributes(call)));
}

void bit_cast(Call& call) {
  const Tensor& from = call.input(0);
  const ElementType to = element_type_attribute(call, "to");
  call.require<DTypeError>(bit_width(to) != 0 && bit_width(to) == bit_width(from.type()),
                           "the types must have the same number of bits, and not be strings, " +
                               std::string(name(from.type())) + " to",
                           name(to));
  Tensor& out = call.output(0, to, from.shape());
  if (from.size() > 0) std::memcpy(out.mutable_raw(), from.raw(), from.bytes());
}

constexpr Operator kOperators[] = {
    {"", "Cast", 6, cast},
    {"", "CastLike", 15, cast_like},
    {"", "BitCast", 26, bit_cast},
};

}  // namespace

ElementType element_type_attribute(const Call& call, std::string_view attribute,
                                   ElementType fallback) {
  const auto number = call.attribute<std::int64_t>(attribute, static_cast<std::int64_t>(fallback));
  call.require<FormatError>(
      number > 0 && number < kElementTypeCount,
      std::string(attribute) + " must be a TensorProto.DataType that moptcore has", number);
  return static_cast<ElementType>(number);
}

Tensor cast_tensor(const Call& call, const Tensor& from, ElementType to,
                   const CastRounding& rounding) {
  if (from.type() == to) return from;
  const bool parses = from.type() == ElementType::string;
  const bool formats = to == ElementType::string;
  const Carrier carrier = carrier_of(call, parses ? to : from.type());
  if (!formats) static_cast<void>(carrier_of(call, to));
  Tensor result = call.environment().allocate(to, from.shape());
  if (parses) {
    parse_strings(call, from, result, rounding);
  } else if (formats) {
    format_strings(from, carrier, result);
  } else if (const DirectLoop loop = direct_loop(from.type(), to); loop != nullptr) {
    void* const data = result.mutable_raw();
    parallel_for(from.size(), 32 * kChunk, [&](std::int64_t first, std::int64_t last) {
      loop(from.raw(), first, last, data);
    });
  } else {
    void* const data = result.mutable_raw();
    parallel_for(from.size(), 32 * kChunk, [&](std::int64_t begin, std::int64_t end) {
      Carried carried;
      for (std::int64_t first = begin; first < end; first += kChunk) {
        const std::int64_t n = std::min(kChunk, end - first);
        load(from.type(), from.raw(), first, n, carried);
        store(to, carrier, carried, first, n, data, rounding);
      }
    });
  }
  return result;
}

std::span<const Operator> cast_operators() noexcept { return kOperators; }

}  // namespace moptcore::inline v0::graph

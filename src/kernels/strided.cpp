// SPDX-License-Identifier: Apache-2.0
#include "kernels/strided.hpp"

#include <cstring>

namespace moptcore::inline v0::kernels {
namespace {

// Calls run(offset, stride, done, count) for each stretch of elements [first, first + n) that lies
// along the last axis; offsets and strides count elements, `done` those already visited.
template <class Run>
void for_each_run(const Layout& layout, std::int64_t first, std::int64_t n, Run&& run) noexcept {
  if (n <= 0) return;
  if (layout.is_contiguous()) {
    run(first, std::int64_t{1}, std::int64_t{0}, n);
    return;
  }
  const int rank = layout.rank();
  const Shape& shape = layout.shape();
  const Shape& strides = layout.strides();
  std::int64_t index[kMaxRank];
  std::int64_t rest = first;
  std::int64_t offset = 0;
  for (int axis = rank - 1; axis >= 0; --axis) {
    index[axis] = rest % shape[axis];
    rest /= shape[axis];
    offset += index[axis] * strides[axis];
  }
  const int last = rank - 1;
  for (std::int64_t done = 0; done < n;) {
    const std::int64_t count = std::min(shape[last] - index[last], n - done);
    run(offset, strides[last], done, count);
    done += count;
    index[last] += count;
    offset += count * strides[last];
    for (int axis = last; axis > 0 && index[axis] == shape[axis]; --axis) {
      offset += strides[axis - 1] - shape[axis] * strides[axis];
      index[axis] = 0;
      ++index[axis - 1];
    }
  }
}

template <class F>
void visit(DType dtype, F&& f) noexcept {
  switch (dtype) {
    case DType::float64: return f.template operator()<double>();
    case DType::float32: return f.template operator()<float>();
    case DType::float16: return f.template operator()<float16>();
    case DType::bfloat16: return f.template operator()<bfloat16>();
    case DType::int64: return f.template operator()<std::int64_t>();
    case DType::int32: return f.template operator()<std::int32_t>();
    case DType::int16: return f.template operator()<std::int16_t>();
    case DType::int8: return f.template operator()<std::int8_t>();
    case DType::uint64: return f.template operator()<std::uint64_t>();
    case DType::uint32: return f.template operator()<std::uint32_t>();
    case DType::uint16: return f.template operator()<std::uint16_t>();
    case DType::uint8: return f.template operator()<std::uint8_t>();
    case DType::boolean: return f.template operator()<bool>();
    case DType::int4:
    case DType::uint4: return;  // callers unpack these with core/int4.hpp
  }
}

template <class To, class From>
To convert(From value) noexcept {
  if constexpr (std::is_same_v<From, float16> || std::is_same_v<From, bfloat16>) {
    return static_cast<To>(static_cast<float>(value));
  } else if constexpr (std::is_same_v<To, float16> || std::is_same_v<To, bfloat16>) {
    return To(static_cast<float>(value));
  } else {
    return static_cast<To>(value);
  }
}

template <class T>
void load_as(const AnyView& src, std::int64_t first, std::int64_t n, T* dst) noexcept {
  visit(src.dtype(), [&]<class From>() {
    const auto* data = static_cast<const From*>(src.data());
    for_each_run(
        src, first, n,
        [&](std::int64_t offset, std::int64_t stride, std::int64_t done, std::int64_t count) {
          const From* from = data + offset;
          T* to = dst + done;
          if (stride == 1) {
            for (std::int64_t i = 0; i < count; ++i) to[i] = convert<T>(from[i]);
          } else {
            for (std::int64_t i = 0; i < count; ++i) to[i] = convert<T>(from[i * stride]);
          }
        });
  });
}

template <class T>
void store_from(const T* src, std::int64_t first, std::int64_t n,
                const MutableAnyView& dst) noexcept {
  visit(dst.dtype(), [&]<class To>() {
    auto* data = static_cast<To*>(dst.data());
    for_each_run(
        dst, first, n,
        [&](std::int64_t offset, std::int64_t stride, std::int64_t done, std::int64_t count) {
          To* to = data + offset;
          const T* from = src + done;
          for (std::int64_t i = 0; i < count; ++i) to[i * stride] = convert<To>(from[i]);
        });
  });
}

template <class F>
void visit_width(DType dtype, F&& f) noexcept {
  switch (bit_width(dtype)) {
    case 8: return f.template operator()<std::uint8_t>();
    case 16: return f.template operator()<std::uint16_t>();
    case 32: return f.template operator()<std::uint32_t>();
    default: return f.template operator()<std::uint64_t>();
  }
}

}  // namespace

void load(const AnyView& src, std::int64_t first, std::int64_t n, float* dst) noexcept {
  load_as(src, first, n, dst);
}

void load(const AnyView& src, std::int64_t first, std::int64_t n, double* dst) noexcept {
  load_as(src, first, n, dst);
}

void store(const float* src, std::int64_t first, std::int64_t n,
           const MutableAnyView& dst) noexcept {
  store_from(src, first, n, dst);
}

void store(const double* src, std::int64_t first, std::int64_t n,
           const MutableAnyView& dst) noexcept {
  store_from(src, first, n, dst);
}

void gather(const AnyView& src, std::int64_t first, std::int64_t n, void* dst) noexcept {
  visit_width(src.dtype(), [&]<class Word>() {
    const auto* data = static_cast<const Word*>(src.data());
    for_each_run(
        src, first, n,
        [&](std::int64_t offset, std::int64_t stride, std::int64_t done, std::int64_t count) {
          Word* to = static_cast<Word*>(dst) + done;
          if (stride == 1) {
            std::memcpy(to, data + offset, static_cast<std::size_t>(count) * sizeof(Word));
          } else {
            for (std::int64_t i = 0; i < count; ++i) to[i] = data[offset + i * stride];
          }
        });
  });
}

void scatter(const void* src, std::int64_t first, std::int64_t n,
             const MutableAnyView& dst) noexcept {
  visit_width(dst.dtype(), [&]<class Word>() {
    auto* data = static_cast<Word*>(dst.data());
    for_each_run(
        dst, first, n,
        [&](std::int64_t offset, std::int64_t stride, std::int64_t done, std::int64_t count) {
          const Word* from = static_cast<const Word*>(src) + done;
          if (stride == 1) {
            std::memcpy(data + offset, from, static_cast<std::size_t>(count) * sizeof(Word));
          } else {
            for (std::int64_t i = 0; i < count; ++i) data[offset + i * stride] = from[i];
          }
        });
  });
}

}  // namespace moptcore::inline v0::kernels

// SPDX-License-Identifier: Apache-2.0
// Bytes of the fuzzer as numbers, shapes and tensors of any strides.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>

#include <moptcore/core/core.hpp>

namespace moptcore::fuzz {

inline void require(bool ok) {
  if (!ok) std::abort();
}

/// A tensor in memory of exactly its extent, so that AddressSanitizer sees one element too far.
struct Tensor {
  std::unique_ptr<std::byte[]> memory;
  std::int64_t bytes = 0;
  MutableAnyView view;

  /// A tensor without gaps, of zeros.
  Tensor(DType dtype, const Shape& shape)
      : memory(new std::byte[static_cast<std::size_t>(byte_count(dtype, element_count(shape)))]()),
        bytes(byte_count(dtype, element_count(shape))),
        view(memory.get(), dtype, shape) {}

  /// A tensor with these strides; its elements are bytes of no meaning until they are filled.
  Tensor(DType dtype, const Shape& shape, const Shape& strides) {
    std::int64_t low = 0;
    std::int64_t high = element_count(shape) == 0 ? -1 : 0;
    for (int axis = 0; axis < shape.rank() && high >= 0; ++axis) {
      const std::int64_t reach = (shape[axis] - 1) * strides[axis];
      (reach < 0 ? low : high) += reach;
    }
    const std::int64_t width = bit_width(dtype) / 8;
    bytes = (high - low + 1) * width;
    memory.reset(new std::byte[static_cast<std::size_t>(bytes)]());
    view = MutableAnyView(memory.get() - low * width, dtype, shape, strides);
  }

  [[nodiscard]] bool same_bits(const Tensor& other) const {
    return bytes == other.bytes &&
           std::memcmp(memory.get(), other.memory.get(), static_cast<std::size_t>(bytes)) == 0;
  }

  /// The same elements without gaps.
  [[nodiscard]] Tensor contiguous() const {
    Tensor copy(view.dtype(), view.shape());
    copy_elements(view, copy.view);
    return copy;
  }
};

class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}

  /// The next bytes as a number; they repeat when they are used up.
  template <class T>
  T take() {
    T value{};
    std::uint8_t bytes[sizeof(T)];
    for (auto& byte : bytes) byte = size_ == 0 ? 0 : data_[next_++ % size_];
    std::memcpy(&value, bytes, sizeof(T));
    return value;
  }

  std::int64_t between(std::int64_t low, std::int64_t high) {
    return low + take<std::uint16_t>() % (high - low + 1);
  }

  bool coin() { return (take<std::uint8_t>() & 1) != 0; }

  DType floating() { return static_cast<DType>(between(0, 3)); }

  /// Mostly in [0, 1), at times any double there is.
  double fraction() {
    return take<std::uint8_t>() < 250 ? take<std::uint16_t>() / 65536.0 : take<double>();
  }

  /// At most 4 dimensions and some thousand elements; one axis may be long enough for vectors.
  Shape shape() {
    Shape made;
    const std::int64_t rank = between(0, 4);
    const std::int64_t longest = between(-1, 3);
    for (std::int64_t axis = 0; axis < rank; ++axis) {
      made.push_back(axis == longest ? between(0, 130) : between(0, 5));
    }
    return made;
  }

  Tensor tensor(DType dtype, const Shape& shape, bool broadcast = true) {
    Shape strides = shape;
    std::int64_t step = 1;
    for (int axis = shape.rank() - 1; axis >= 0; --axis) {
      const auto kind = take<std::uint8_t>();
      const std::int64_t gap = kind % 4 == 1 ? 2 : 1;
      strides[axis] = (kind & 16) != 0 ? -step * gap : step * gap;
      if (broadcast && kind > 240) strides[axis] = 0;
      step *= std::max<std::int64_t>(shape[axis], 1) * gap;
    }
    Tensor made(dtype, shape, strides);
    for (std::int64_t i = 0; i < made.bytes; ++i) made.memory[i] = take<std::byte>();
    tame(made);
    return made;
  }

 private:
  // Random bits are mostly huge, tiny or NaN: half of the tensors get numbers around 1.
  void tame(Tensor& tensor) {
    if (!coin()) return;
    const std::int64_t width = bit_width(tensor.view.dtype()) / 8;
    for (std::int64_t i = 0; i < tensor.bytes / width; ++i) {
      const double value = take<std::int8_t>() / 32.0;
      std::byte* at = tensor.memory.get() + i * width;
      const auto put = [at](auto number) { std::memcpy(at, &number, sizeof(number)); };
      switch (tensor.view.dtype()) {
        case DType::float64: put(value); break;
        case DType::float32: put(static_cast<float>(value)); break;
        case DType::float16: put(float16(static_cast<float>(value))); break;
        case DType::bfloat16: put(bfloat16(static_cast<float>(value))); break;
        default: return;
      }
    }
  }

  const std::uint8_t* data_;
  std::size_t size_;
  std::size_t next_ = 0;
};

/// Runs `compute` with the best instruction set and with the plainest one.
template <class F>
void on_two_isas(F&& compute) {
  set_max_isa("");
  compute(0);
  set_max_isa("baseline");
  compute(1);
}

}  // namespace moptcore::fuzz

// SPDX-License-Identifier: Apache-2.0
// A tensor that owns its elements or shares them: weights of a graph and what operators compute.
#pragma once

#include <complex>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include <moptcore/core/export.hpp>
#include <moptcore/core/tensor_view.hpp>
#include <moptcore/graph/element_type.hpp>

namespace moptcore::inline v0::graph {

/// What TensorView's elements can be, and complex numbers.
template <class T>
concept TensorElement =
    Element<T> || std::same_as<T, std::complex<float>> || std::same_as<T, std::complex<double>>;

template <TensorElement T>
[[nodiscard]] constexpr ElementType type_of() noexcept {
  if constexpr (std::same_as<T, std::complex<float>>) return ElementType::complex64;
  else if constexpr (std::same_as<T, std::complex<double>>) return ElementType::complex128;
  else return element_type_of<T>();
}

/// Row-major elements. Copies share the memory: whoever writes (`mutable_data`) must be the only
/// holder, as an operator is of the output that it has just made. Strings lie in a vector instead
/// of bytes. float8, float4 and the packed types have no C++ type: their bytes are `raw`.
class MOPTCORE_API Tensor {
 public:
  /// float32 without elements, shape (0,).
  Tensor() noexcept;

  /// Uninitialized elements (empty strings) from the pool. Throws Error for sizes beyond 2^63
  /// bytes, std::bad_alloc.
  Tensor(ElementType type, const Shape& shape);

  /// Elements that belong to `owner`, which is kept; no copy. `data` must hold them all.
  Tensor(ElementType type, const Shape& shape, void* data, std::shared_ptr<void> owner);

  /// A copy of `values`, as many as the shape has elements.
  template <TensorElement T>
  static Tensor of(const Shape& shape, std::span<const T> values) {
    Tensor tensor(type_of<T>(), shape);
    check(static_cast<std::int64_t>(values.size()) == tensor.size(), "graph.Tensor",
          "values must be as many as the shape has elements", values.size());
    std::copy(values.begin(), values.end(), tensor.mutable_data<T>());
    return tensor;
  }
  template <TensorElement T>
  static Tensor of(const Shape& shape, std::initializer_list<T> values) {
    return of<T>(shape, std::span<const T>(values.begin(), values.size()));
  }
  template <TensorElement T>
  static Tensor scalar(T value) {
    return of<T>(Shape{}, {value});
  }
  static Tensor of_strings(const Shape& shape, std::vector<std::string> values);

  [[nodiscard]] ElementType type() const noexcept { return type_; }
  [[nodiscard]] const Shape& shape() const noexcept { return shape_; }
  [[nodiscard]] int rank() const noexcept { return shape_.rank(); }
  [[nodiscard]] std::int64_t size() const noexcept { return size_; }
  [[nodiscard]] std::int64_t bytes() const noexcept { return byte_count(type_, size_); }

  /// Throws DTypeError unless T is the type of the elements.
  template <TensorElement T>
  [[nodiscard]] const T* data() const {
    require(type_of<T>());
    return static_cast<const T*>(data_);
  }
  template <TensorElement T>
  [[nodiscard]] T* mutable_data() {
    require(type_of<T>());
    return static_cast<T*>(data_);
  }
  template <TensorElement T>
  [[nodiscard]] std::span<const T> values() const {
    return {data<T>(), static_cast<std::size_t>(size_)};
  }

  /// The bytes, for any type but string.
  [[nodiscard]] const void* raw() const noexcept { return data_; }
  [[nodiscard]] void* mutable_raw() noexcept { return data_; }

  /// Throws DTypeError unless the type is string.
  [[nodiscard]] std::span<const std::string> strings() const;
  [[nodiscard]] std::span<std::string> mutable_strings();

  /// The same elements in another shape of as many; shares the memory. Throws Error.
  [[nodiscard]] Tensor reshaped(const Shape& shape) const;

  /// A copy that nobody shares.
  [[nodiscard]] Tensor clone() const;

  /// True where no other Tensor shares the elements.
  [[nodiscard]] bool is_sole_owner() const noexcept { return owner_.use_count() == 1; }

  /// For the primitives of the core. Throws UnsupportedError for types that it lacks.
  [[nodiscard]] AnyView view() const;
  [[nodiscard]] MutableAnyView mutable_view();

 private:
  void require(ElementType type) const;

  ElementType type_ = ElementType::float32;
  Shape shape_{0};
  std::int64_t size_ = 0;
  void* data_ = nullptr;
  std::shared_ptr<void> owner_;
};

/// What flows along an edge of a graph: a tensor, a sequence of tensors, or nothing (an optional
/// input that is absent, or an optional value without an element).
class Value {
 public:
  using Sequence = std::vector<Tensor>;

  Value() = default;
  Value(Tensor tensor) : content_(std::move(tensor)) {}  // NOLINT(google-explicit-constructor)
  Value(Sequence sequence)                               // NOLINT(google-explicit-constructor)
      : content_(std::make_shared<const Sequence>(std::move(sequence))) {}

  [[nodiscard]] bool has_value() const noexcept { return content_.index() != 0; }
  [[nodiscard]] bool is_tensor() const noexcept { return content_.index() == 1; }
  [[nodiscard]] bool is_sequence() const noexcept { return content_.index() == 2; }

  /// Throws DTypeError where the value is something else.
  [[nodiscard]] const Tensor& tensor() const {
    check<DTypeError>(is_tensor(), "graph.Value", "a value must be a tensor",
                      is_sequence() ? "a sequence" : "nothing");
    return std::get<1>(content_);
  }
  [[nodiscard]] const Sequence& sequence() const {
    check<DTypeError>(is_sequence(), "graph.Value", "a value must be a sequence of tensors",
                      is_tensor() ? "a tensor" : "nothing");
    return *std::get<2>(content_);
  }

 private:
  std::variant<std::monostate, Tensor, std::shared_ptr<const Sequence>> content_;
};

}  // namespace moptcore::inline v0::graph

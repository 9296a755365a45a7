// SPDX-License-Identifier: Apache-2.0
// A tensor that belongs to someone else: pointer, shape, strides. Strides may be negative or zero.
#pragma once

#include <concepts>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include <moptcore/core/dtype.hpp>
#include <moptcore/core/shape.hpp>

namespace moptcore::inline v0 {

/// Shape and strides of a view, and what follows from them.
class Layout {
 public:
  Layout() = default;
  explicit Layout(const Shape& shape)
      : shape_(shape), strides_(contiguous_strides(shape)), size_(element_count(shape)) {}
  Layout(const Shape& shape, const Shape& strides)
      : shape_(shape), strides_(strides), size_(element_count(shape)) {
    check(shape.rank() == strides.rank(), "core.TensorView",
          "strides must be as many as the dimensions", strides);
  }

  [[nodiscard]] const Shape& shape() const noexcept { return shape_; }
  [[nodiscard]] const Shape& strides() const noexcept { return strides_; }  ///< in elements
  [[nodiscard]] std::int64_t size() const noexcept { return size_; }
  [[nodiscard]] int rank() const noexcept { return shape_.rank(); }
  [[nodiscard]] bool empty() const noexcept { return size_ == 0; }

  /// Row-major without gaps. Axes of extent 1 do not count, nor do empty tensors.
  [[nodiscard]] bool is_contiguous() const noexcept {
    if (size_ == 0) return true;
    std::int64_t step = 1;
    for (int axis = rank() - 1; axis >= 0; --axis) {
      if (shape_[axis] != 1 && strides_[axis] != step) return false;
      step *= shape_[axis];
    }
    return true;
  }

 private:
  Shape shape_;
  Shape strides_;
  std::int64_t size_ = 1;
};

template <class T>
class TensorView;

/// A container that tells where its elements are: data(), shape(), strides() in elements, as
/// xtensor containers and strided views do. A data_offset() is added where there is one.
template <class C>
concept StridedContainer = requires(C& c) {
  { c.data() };
  requires std::is_pointer_v<std::remove_cvref_t<decltype(c.data())>>;
  Shape(c.shape());
  Shape(c.strides());
};

/// Eigen's dense matrices and maps.
template <class C>
concept EigenDense = requires(C& c) {
  { c.data() };
  requires std::is_pointer_v<std::remove_cvref_t<decltype(c.data())>>;
  { c.rows() } -> std::convertible_to<std::int64_t>;
  { c.cols() } -> std::convertible_to<std::int64_t>;
  { c.rowStride() } -> std::convertible_to<std::int64_t>;
  { c.colStride() } -> std::convertible_to<std::int64_t>;
};

namespace detail {

template <class C>
using PointerOf = std::remove_reference_t<decltype(*std::declval<C&>().data())>;

// A vector or span: one dimension, and not one of the richer kinds above.
template <class C>
concept FlatContainer = !StridedContainer<C> && !EigenDense<C> && requires(C& c) {
  { c.data() };
  requires std::is_pointer_v<std::remove_cvref_t<decltype(c.data())>>;
  { c.size() } -> std::convertible_to<std::size_t>;
};

template <class C>
concept IsView = requires { typename std::remove_cvref_t<C>::moptcore_view; };

template <class C>
concept Viewable = !IsView<C> && (StridedContainer<C> || EigenDense<C> || FlatContainer<C>) &&
                   Element<std::remove_cv_t<PointerOf<C>>>;

template <class C>
Layout layout_of(C& container) {
  if constexpr (StridedContainer<C>) {
    return Layout(Shape(container.shape()), Shape(container.strides()));
  } else if constexpr (EigenDense<C>) {
    return Layout(Shape{container.rows(), container.cols()},
                  Shape{container.rowStride(), container.colStride()});
  } else {
    return Layout(Shape{static_cast<std::int64_t>(container.size())});
  }
}

template <class C>
auto* pointer_of(C& container) {
  if constexpr (StridedContainer<C> && requires { container.data_offset(); }) {
    return container.data() + container.data_offset();
  } else {
    return container.data();
  }
}

// A temporary may only be viewed when it does not own its elements or outlives the full
// expression as a function argument; const lvalues and rvalues both bind to `C&&` here.
template <class C, class T>
concept ViewableAs =
    Viewable<std::remove_reference_t<C>> &&
    std::same_as<std::remove_cv_t<PointerOf<std::remove_reference_t<C>>>, std::remove_cv_t<T>> &&
    (std::is_const_v<T> || !std::is_const_v<PointerOf<std::remove_reference_t<C>>>);

}  // namespace detail

/// Elements of type T, read-only where T is const. Copying the view copies no element.
/// Element (i, j) lies at data() + i * strides()[0] + j * strides()[1].
template <class T>
class TensorView : public Layout {
  static_assert(Element<std::remove_cv_t<T>>, "not an element type of core/dtype.hpp");

 public:
  using moptcore_view = void;
  using element_type = T;

  TensorView() : Layout(Shape{0}) {}
  TensorView(T* data, const Shape& shape) : Layout(shape), data_(data) {}
  TensorView(T* data, const Shape& shape, const Shape& strides)
      : Layout(shape, strides), data_(data) {}
  TensorView(T* data, const Layout& layout) : Layout(layout), data_(data) {}

  template <class C>
    requires detail::ViewableAs<C, T>
  TensorView(C&& container)  // NOLINT(google-explicit-constructor): views convert
      : Layout(detail::layout_of(container)), data_(detail::pointer_of(container)) {}

  TensorView(const TensorView<std::remove_const_t<T>>& other)  // NOLINT
    requires std::is_const_v<T>
      : Layout(other), data_(other.data()) {}

  [[nodiscard]] T* data() const noexcept { return data_; }
  [[nodiscard]] static constexpr DType dtype() noexcept { return dtype_of<std::remove_cv_t<T>>(); }

 private:
  T* data_ = nullptr;
};

namespace detail {

// What TensorView<void> and TensorView<const void> share: the dtype is known at run time.
template <class Void>
class ErasedView : public Layout {
 public:
  using moptcore_view = void;

  ErasedView() : Layout(Shape{0}) {}
  ErasedView(Void* data, DType dtype, const Layout& layout)
      : Layout(layout), data_(data), dtype_(dtype) {
    check<DTypeError>(!is_packed(dtype) || this->is_contiguous(), "core.TensorView",
                      "packed int4 and uint4 tensors must be contiguous, strides", strides());
  }
  ErasedView(Void* data, DType dtype, const Shape& shape)
      : ErasedView(data, dtype, Layout(shape)) {}
  ErasedView(Void* data, DType dtype, const Shape& shape, const Shape& strides)
      : ErasedView(data, dtype, Layout(shape, strides)) {}

  [[nodiscard]] Void* data() const noexcept { return data_; }
  [[nodiscard]] DType dtype() const noexcept { return dtype_; }

  /// The same elements with their type; throws DTypeError if it is another one.
  template <class T>
  [[nodiscard]] auto as() const {
    using Typed = std::conditional_t<std::is_const_v<Void>, const T, T>;
    check<DTypeError>(dtype_ == dtype_of<T>(), "core.TensorView", "dtype must match the view",
                      name(dtype_));
    return TensorView<Typed>(static_cast<Typed*>(data_), static_cast<const Layout&>(*this));
  }

 private:
  Void* data_ = nullptr;
  DType dtype_ = DType::float32;
};

}  // namespace detail

/// A read-only tensor whose dtype is known at run time. What the primitives take.
template <>
class TensorView<const void> : public detail::ErasedView<const void> {
 public:
  using ErasedView::ErasedView;

  template <class T>
    requires(!std::is_void_v<T>)
  TensorView(const TensorView<T>& typed)  // NOLINT(google-explicit-constructor): views convert
      : ErasedView(typed.data(), typed.dtype(), static_cast<const Layout&>(typed)) {}

  TensorView(const TensorView<void>& other);  // NOLINT

  template <class C>
    requires detail::Viewable<std::remove_reference_t<C>>
  TensorView(C&& container)  // NOLINT(google-explicit-constructor): views convert
      : ErasedView(detail::pointer_of(container),
                   dtype_of<std::remove_cv_t<detail::PointerOf<std::remove_reference_t<C>>>>(),
                   detail::layout_of(container)) {}
};

/// A writable tensor whose dtype is known at run time. Where the primitives put their results.
template <>
class TensorView<void> : public detail::ErasedView<void> {
 public:
  using ErasedView::ErasedView;

  template <class T>
    requires(!std::is_void_v<T> && !std::is_const_v<T>)
  TensorView(const TensorView<T>& typed)  // NOLINT(google-explicit-constructor): views convert
      : ErasedView(typed.data(), typed.dtype(), static_cast<const Layout&>(typed)) {}

  template <class C>
    requires detail::Viewable<std::remove_reference_t<C>> &&
             (!std::is_const_v<detail::PointerOf<std::remove_reference_t<C>>>)
  TensorView(C&& container)  // NOLINT(google-explicit-constructor): views convert
      : ErasedView(detail::pointer_of(container),
                   dtype_of<detail::PointerOf<std::remove_reference_t<C>>>(),
                   detail::layout_of(container)) {}
};

inline TensorView<const void>::TensorView(const TensorView<void>& other)
    : ErasedView(other.data(), other.dtype(), static_cast<const Layout&>(other)) {}

/// What primitives take and fill: a tensor of any dtype.
using AnyView = TensorView<const void>;
using MutableAnyView = TensorView<void>;

/// Address range that the elements of a view span, in bytes: [first, last).
[[nodiscard]] inline std::pair<std::uintptr_t, std::uintptr_t> extent_of(const AnyView& view) {
  const auto start = reinterpret_cast<std::uintptr_t>(view.data());
  if (view.empty()) return {start, start};
  if (is_packed(view.dtype())) {
    return {start, start + static_cast<std::uintptr_t>(byte_count(view.dtype(), view.size()))};
  }
  std::int64_t low = 0;
  std::int64_t high = 0;
  for (int axis = 0; axis < view.rank(); ++axis) {
    const std::int64_t reach = (view.shape()[axis] - 1) * view.strides()[axis];
    (reach < 0 ? low : high) += reach;
  }
  const std::int64_t bytes = bit_width(view.dtype()) / 8;
  return {start + static_cast<std::uintptr_t>(low * bytes),
          start + static_cast<std::uintptr_t>((high + 1) * bytes)};
}

/// Throws unless the writable tensor `out` is either exactly `in` (same address, dtype width and
/// strides) or disjoint from it: half-overlapping results would depend on the order of writing.
inline void check_no_partial_overlap(const AnyView& in, const AnyView& out, std::string_view where,
                                     std::string_view out_name) {
  const auto [in_first, in_last] = extent_of(in);
  const auto [out_first, out_last] = extent_of(out);
  if (in_last <= out_first || out_last <= in_first) return;
  const bool identical = in.data() == out.data() && in.shape() == out.shape() &&
                         in.strides() == out.strides() &&
                         bit_width(in.dtype()) == bit_width(out.dtype());
  check(identical, where,
        std::string(out_name) + " must not overlap an input unless it is the same array");
}

/// Calls `function.template operator()<T>()` with T the C++ type of a floating dtype.
template <class F>
decltype(auto) visit_floating(DType dtype, std::string_view where, std::string_view argument,
                              F&& function) {
  switch (dtype) {
    case DType::float64: return function.template operator()<double>();
    case DType::float32: return function.template operator()<float>();
    case DType::float16: return function.template operator()<float16>();
    case DType::bfloat16: return function.template operator()<bfloat16>();
    default:
      throw DTypeError(error_text(
          where, std::string(argument) + " must be float64, float32, float16 or bfloat16",
          name(dtype)));
  }
}

}  // namespace moptcore::inline v0

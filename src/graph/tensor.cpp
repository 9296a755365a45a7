// SPDX-License-Identifier: Apache-2.0
#include <moptcore/graph/tensor.hpp>

#include <cstring>
#include <limits>

#include <moptcore/core/pool.hpp>

namespace moptcore::inline v0::graph {
namespace {

constexpr auto kWhere = "graph.Tensor";

}  // namespace

Tensor::Tensor() noexcept = default;

Tensor::Tensor(ElementType type, const Shape& shape)
    : type_(type), shape_(shape), size_(element_count(shape)) {
  check<DTypeError>(type != ElementType::undefined, kWhere, "a tensor must have an element type");
  if (type == ElementType::string) {
    auto strings = std::make_shared<std::vector<std::string>>(static_cast<std::size_t>(size_));
    data_ = strings.get();
    owner_ = std::move(strings);
    return;
  }
  check(size_ <= std::numeric_limits<std::int64_t>::max() / 16, kWhere,
        "the bytes must fit in 63 bits", shape);
  PoolBuffer buffer = pool_allocate(std::max<std::int64_t>(bytes(), 1));
  data_ = buffer.get();
  owner_ = std::move(buffer);
}

Tensor::Tensor(ElementType type, const Shape& shape, void* data, std::shared_ptr<void> owner)
    : type_(type),
      shape_(shape),
      size_(element_count(shape)),
      data_(data),
      owner_(std::move(owner)) {
  check<DTypeError>(type != ElementType::undefined && type != ElementType::string, kWhere,
                    "a tensor over given memory must have elements of fixed size", name(type));
}

Tensor Tensor::of_strings(const Shape& shape, std::vector<std::string> values) {
  Tensor tensor(ElementType::string, shape);
  check(static_cast<std::int64_t>(values.size()) == tensor.size(), kWhere,
        "values must be as many as the shape has elements", values.size());
  *static_cast<std::vector<std::string>*>(tensor.data_) = std::move(values);
  return tensor;
}

std::span<const std::string> Tensor::strings() const {
  require(ElementType::string);
  return *static_cast<const std::vector<std::string>*>(data_);
}

std::span<std::string> Tensor::mutable_strings() {
  require(ElementType::string);
  return *static_cast<std::vector<std::string>*>(data_);
}

Tensor Tensor::reshaped(const Shape& shape) const {
  check(element_count(shape) == size_, kWhere, "the elements must stay as many, new shape", shape);
  Tensor result = *this;
  result.shape_ = shape;
  return result;
}

Tensor Tensor::clone() const {
  if (type_ == ElementType::string) {
    const auto all = strings();
    return of_strings(shape_, {all.begin(), all.end()});
  }
  Tensor copy(type_, shape_);
  if (bytes() > 0) std::memcpy(copy.data_, data_, static_cast<std::size_t>(bytes()));
  return copy;
}

AnyView Tensor::view() const {
  const auto dtype = dtype_of(type_);
  check<UnsupportedError>(dtype.has_value(), kWhere, "no view of elements of this type",
                          name(type_));
  return {data_, *dtype, shape_};
}

MutableAnyView Tensor::mutable_view() {
  const auto dtype = dtype_of(type_);
  check<UnsupportedError>(dtype.has_value(), kWhere, "no view of elements of this type",
                          name(type_));
  return {data_, *dtype, shape_};
}

void Tensor::require(ElementType type) const {
  if (type_ != type) [[unlikely]] {
    throw DTypeError(
        error_text(kWhere, "elements must be " + std::string(name(type)), name(type_)));
  }
}

}  // namespace moptcore::inline v0::graph

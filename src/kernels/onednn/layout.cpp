// SPDX-License-Identifier: Apache-2.0
#include "kernels/onednn/layout.hpp"

#include <algorithm>
#include <stdexcept>

#include "kernels/onednn/engine.hpp"

namespace moptcore::inline v0::kernels::onednn {
namespace {

using dnnl::memory;

// Extents 1 have no stride worth comparing.
bool lies_row_major(const Shape& shape, const memory::dims& strides) {
  std::int64_t step = 1;
  for (int axis = shape.rank() - 1; axis >= 0; --axis) {
    if (shape[axis] != 1 && strides[static_cast<std::size_t>(axis)] != step) return false;
    step *= shape[axis];
  }
  return true;
}

std::shared_ptr<const Layout::State> state_of(const memory::desc& desc, const Shape& shape) {
  auto state = std::make_shared<Layout::State>();
  state->desc = desc;
  state->shape = shape;
  const bool blocked = desc.get_format_kind() == memory::format_kind::blocked;
  state->strided = blocked && desc.get_inner_nblks() == 0;
  state->dense = blocked && desc.get_padded_dims() == desc.get_dims() &&
                 static_cast<std::int64_t>(desc.get_size()) == 4 * element_count(shape);
  state->row_major = state->strided && state->dense && lies_row_major(shape, desc.get_strides());
  return state;
}

memory::desc described(const Shape& shape, const Shape& strides) try {
  memory::dims steps(strides.begin(), strides.end());
  if (steps.empty()) steps.push_back(1);
  return {dims_of(shape), memory::data_type::f32, steps};
} catch (const dnnl::error& error) {
  throw std::runtime_error(error.what());
}

}  // namespace

Layout::Layout(const Shape& shape) : Layout(shape, contiguous_strides(shape)) {}

Layout::Layout(const Shape& shape, const Shape& strides)
    : state_(state_of(described(shape, strides), shape)) {}

Layout layout_of(const memory::desc& desc, const Shape& shape) {
  return Layout(state_of(desc, shape));
}

const Shape& Layout::shape() const noexcept { return state_->shape; }
std::int64_t Layout::bytes() const noexcept {
  return static_cast<std::int64_t>(state_->desc.get_size());
}
bool Layout::is_row_major() const noexcept { return state_ != nullptr && state_->row_major; }
bool Layout::is_dense() const noexcept { return state_ != nullptr && state_->dense; }
bool Layout::is_strided() const noexcept { return state_ != nullptr && state_->strided; }

Shape Layout::strides() const {
  const memory::dims all = state_->desc.get_strides();
  return Shape(
      std::span<const std::int64_t>(all.data(), static_cast<std::size_t>(state_->shape.rank())));
}

Layout Layout::transposed(std::span<const int> axes) const {
  Shape shape;
  for (const int axis : axes) shape.push_back(state_->shape[axis]);
  if (is_strided()) {
    const Shape old = strides();
    Shape steps;
    for (const int axis : axes) steps.push_back(old[axis]);
    return Layout(shape, steps);
  }
  std::vector<int> places(axes.size());
  for (std::size_t i = 0; i < axes.size(); ++i)
    places[static_cast<std::size_t>(axes[i])] = static_cast<int>(i);
  return Layout(state_of(state_->desc.permute_axes(places), shape));
}

Layout Layout::with_axis(int axis) const {
  Shape shape;
  for (int i = 0; i <= state_->shape.rank(); ++i) {
    if (i == axis) shape.push_back(1);
    if (i < state_->shape.rank()) shape.push_back(state_->shape[i]);
  }
  return Layout(state_of(state_->desc.reshape(dims_of(shape)), shape));
}

Layout Layout::without_axis(int axis) const {
  Shape shape;
  for (int i = 0; i < state_->shape.rank(); ++i) {
    if (i != axis) shape.push_back(state_->shape[i]);
  }
  return Layout(state_of(state_->desc.reshape(dims_of(shape)), shape));
}

bool operator==(const Layout& a, const Layout& b) noexcept {
  if (a.state_ == b.state_) return true;
  if (a.empty() || b.empty()) return false;
  if (!(a.state_->shape == b.state_->shape)) return false;
  return (a.state_->row_major && b.state_->row_major) || a.state_->desc == b.state_->desc;
}

}  // namespace moptcore::inline v0::kernels::onednn

// SPDX-License-Identifier: Apache-2.0
// What the files of this room share: oneDNN's engine, and its names for ours.
#pragma once

#include <utility>
#include <vector>

#include <dnnl.hpp>

#include "kernels/onednn/primitive.hpp"

namespace moptcore::inline v0::kernels::onednn {

struct Layout::State {
  dnnl::memory::desc desc;
  Shape shape;
  bool row_major = false;
  bool dense = false;
  bool strided = false;
};

[[nodiscard]] const dnnl::engine& cpu();

/// A layout that oneDNN chose for a tensor of `shape`.
[[nodiscard]] Layout layout_of(const dnnl::memory::desc& desc, const Shape& shape);

[[nodiscard]] inline const dnnl::memory::desc& desc_of(const Layout& layout) {
  return layout.state().desc;
}

/// The dimensions of `shape`, {1} for rank 0.
[[nodiscard]] dnnl::memory::dims dims_of(const Shape& shape);

/// Any layout that the primitive likes.
[[nodiscard]] dnnl::memory::desc any_of(const Shape& shape);

[[nodiscard]] dnnl::algorithm algorithm_of(Algorithm algorithm);

/// Scratch memory comes from the caller, and `posts` are appended.
[[nodiscard]] dnnl::primitive_attr attributes_of(std::span<const Post> posts);

/// True for code that oneDNN keeps as its reference: one element after the other.
[[nodiscard]] bool is_slow(const char* implementation);

/// A primitive of oneDNN with its arguments, in the order of inputs; the operands of `posts` are
/// added behind them.
[[nodiscard]] PrimitivePtr wrap(const dnnl::primitive& primitive,
                                std::vector<std::pair<int, Layout>> inputs,
                                std::pair<int, Layout> output, const dnnl::memory::desc& scratch,
                                std::span<const Post> posts, std::string name,
                                bool in_place = false);

/// Runs `make`, and gives null where oneDNN has no implementation.
template <class F>
PrimitivePtr prepared(F&& make) {
  try {
    return make();
  } catch (const dnnl::error& error) {
    if (error.status == dnnl_unimplemented || error.status == dnnl_invalid_arguments) {
      return nullptr;
    }
    throw std::runtime_error(error.what());
  }
}

}  // namespace moptcore::inline v0::kernels::onednn

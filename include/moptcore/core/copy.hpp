// SPDX-License-Identifier: Apache-2.0
// Copying between tensors of any strides.
#pragma once

#include <moptcore/core/export.hpp>
#include <moptcore/core/tensor_view.hpp>

namespace moptcore::inline v0 {

/// Copies `src` into `dst`, which has the same dtype and shape and is disjoint from it or the same
/// tensor. Throws DTypeError or Error where dtype or shape differ.
MOPTCORE_API void copy_elements(const AnyView& src, const MutableAnyView& dst);

}  // namespace moptcore::inline v0

// SPDX-License-Identifier: Apache-2.0
// TensorProto and SparseTensorProto: every way in which elements are written down.
#pragma once

#include <string>

#include "reader.hpp"

namespace moptcore::inline v0::graph::onnx {

struct NamedTensor {
  std::string name;
  Tensor tensor;
  InitializerNote note;
};

[[nodiscard]] NamedTensor read_tensor(Bytes bytes, const Path& path, Context& context);

/// A sparse tensor with all its zeros; its name is that of the values.
[[nodiscard]] NamedTensor read_sparse(Bytes bytes, const Path& path, Context& context);

}  // namespace moptcore::inline v0::graph::onnx

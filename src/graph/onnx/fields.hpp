// SPDX-License-Identifier: Apache-2.0
// The numbers of the fields in ONNX's messages.
#pragma once

namespace moptcore::inline v0::graph::onnx {

namespace model_field {
enum : int {
  ir_version = 1,
  producer_name = 2,
  producer_version = 3,
  domain = 4,
  model_version = 5,
  doc_string = 6,
  graph = 7,
  opset_import = 8,
  metadata_props = 14,
  functions = 25,
};
}
namespace opset_field {
enum : int { domain = 1, version = 2 };
}
namespace entry_field {
enum : int { key = 1, value = 2 };
}
namespace graph_field {
enum : int {
  node = 1,
  name = 2,
  initializer = 5,
  doc_string = 10,
  input = 11,
  output = 12,
  value_info = 13,
  sparse_initializer = 15,
  metadata_props = 16,
};
}
namespace node_field {
enum : int {
  input = 1,
  output = 2,
  name = 3,
  op_type = 4,
  attribute = 5,
  doc_string = 6,
  domain = 7,
  overload = 8,
  metadata_props = 9,
};
}
namespace attribute_field {
enum : int {
  name = 1,
  f = 2,
  i = 3,
  s = 4,
  t = 5,
  g = 6,
  floats = 7,
  ints = 8,
  strings = 9,
  tensors = 10,
  graphs = 11,
  doc_string = 13,
  tp = 14,
  type_protos = 15,
  type = 20,
  ref_attr_name = 21,
  sparse_tensor = 22,
  sparse_tensors = 23,
};
}
/// AttributeProto.AttributeType.
enum class AttributeKind : int {
  undefined = 0,
  one_float = 1,
  one_int = 2,
  one_string = 3,
  one_tensor = 4,
  one_graph = 5,
  floats = 6,
  ints = 7,
  strings = 8,
  tensors = 9,
  graphs = 10,
  sparse_tensor = 11,
  sparse_tensors = 12,
  one_type = 13,
  types = 14,
};
namespace value_field {
enum : int { name = 1, type = 2, doc_string = 3, metadata_props = 4 };
}
namespace type_field {
enum : int {
  tensor = 1,
  sequence = 4,
  map = 5,
  denotation = 6,
  opaque = 7,
  sparse = 8,
  optional = 9
};
}
namespace tensor_type_field {
enum : int { elem_type = 1, shape = 2 };
}
namespace shape_field {
enum : int { dim = 1 };
}
namespace dimension_field {
enum : int { dim_value = 1, dim_param = 2, denotation = 3 };
}
namespace tensor_field {
enum : int {
  dims = 1,
  data_type = 2,
  segment = 3,
  float_data = 4,
  int32_data = 5,
  string_data = 6,
  int64_data = 7,
  name = 8,
  raw_data = 9,
  double_data = 10,
  uint64_data = 11,
  doc_string = 12,
  external_data = 13,
  data_location = 14,
  metadata_props = 16,
};
}
namespace sparse_field {
enum : int { values = 1, indices = 2, dims = 3 };
}
namespace function_field {
enum : int {
  name = 1,
  input = 4,
  output = 5,
  attribute = 6,
  node = 7,
  doc_string = 8,
  opset_import = 9,
  domain = 10,
  attribute_proto = 11,
  value_info = 12,
  overload = 13,
  metadata_props = 14,
};
}

}  // namespace moptcore::inline v0::graph::onnx

// SPDX-License-Identifier: Apache-2.0
#include "writer.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <set>
#include <variant>

#include <moptcore/graph/onnx.hpp>

#include "fields.hpp"

#include <protozero/types.hpp>
#include <protozero/varint.hpp>

namespace moptcore::inline v0::graph::onnx {
namespace {

using Wire = protozero::pbf_wire_type;

std::uint64_t tag(int field, Wire wire) {
  return static_cast<std::uint64_t>(field) << 3 | static_cast<std::uint64_t>(wire);
}

struct Target {
  Writer& writer;
  const Places& places;
  std::string_view external;
};

void write_entry(Writer& writer, int field, std::string_view key, std::string_view value) {
  writer.message(field, [&] {
    writer.bytes(entry_field::key, key);
    writer.bytes(entry_field::value, value);
  });
}

void write_metadata(Writer& writer, int field, const Metadata& metadata) {
  for (const auto& [key, value] : metadata) write_entry(writer, field, key, value);
}

void write_tensor(const Target& target, int field, std::string_view name, const Tensor& tensor,
                  const InitializerNote& note) {
  Writer& writer = target.writer;
  writer.message(field, [&] {
    for (const std::int64_t extent : tensor.shape()) writer.integer(tensor_field::dims, extent);
    writer.integer(tensor_field::data_type, static_cast<std::int64_t>(tensor.type()));
    if (tensor.type() == ElementType::string) {
      for (const std::string& text : tensor.strings()) {
        writer.bytes(tensor_field::string_data, text);
      }
    }
    writer.text(tensor_field::name, name);
    const auto place = target.places.find(tensor.raw());
    const bool is_external = place != target.places.end() && tensor.type() != ElementType::string &&
                             place->second.bytes == tensor.bytes();
    if (tensor.type() != ElementType::string && !is_external) {
      writer.bytes(tensor_field::raw_data, {static_cast<const char*>(tensor.raw()),
                                            static_cast<std::size_t>(tensor.bytes())});
    }
    writer.text(tensor_field::doc_string, note.doc);
    if (is_external) {
      write_entry(writer, tensor_field::external_data, "location", target.external);
      write_entry(writer, tensor_field::external_data, "offset",
                  std::to_string(place->second.offset));
      write_entry(writer, tensor_field::external_data, "length", std::to_string(tensor.bytes()));
      writer.integer(tensor_field::data_location, 1);
    }
    write_metadata(writer, tensor_field::metadata_props, note.metadata);
    writer.encoded(note.unknown);
  });
}

void write_dimension(Writer& writer, const Dimension& dimension) {
  writer.message(shape_field::dim, [&] {
    if (dimension.is_known()) writer.integer(dimension_field::dim_value, dimension.value);
    else writer.text(dimension_field::dim_param, dimension.symbol);
    writer.text(dimension_field::denotation, dimension.denotation);
  });
}

void write_type(Writer& writer, int field, const ValueType& type) {
  const auto inner = [&](int number) {
    writer.message(number, [&] {
      if (!type.inner.empty() && type.inner[0].kind != ValueType::Kind::unknown) {
        write_type(writer, 1, type.inner[0]);
      }
    });
  };
  if (type.kind == ValueType::Kind::other) return writer.bytes(field, type.encoded);
  writer.message(field, [&] {
    switch (type.kind) {
      case ValueType::Kind::tensor:
        writer.message(type_field::tensor, [&] {
          writer.integer(tensor_type_field::elem_type, static_cast<std::int64_t>(type.element));
          if (!type.dimensions) return;
          writer.message(tensor_type_field::shape, [&] {
            for (const Dimension& dimension : *type.dimensions) write_dimension(writer, dimension);
          });
        });
        break;
      case ValueType::Kind::sequence: inner(type_field::sequence); break;
      case ValueType::Kind::optional: inner(type_field::optional); break;
      default: break;
    }
    writer.text(type_field::denotation, type.denotation);
  });
}

void write_value_info(Writer& writer, int field, const ValueInfo& info) {
  writer.message(field, [&] {
    writer.bytes(value_field::name, info.name);
    const bool typed = info.type.kind != ValueType::Kind::unknown || !info.type.denotation.empty();
    if (typed) write_type(writer, value_field::type, info.type);
    writer.text(value_field::doc_string, info.doc);
    write_metadata(writer, value_field::metadata_props, info.metadata);
    writer.encoded(info.unknown);
  });
}

void write_graph(const Target& target, int field, const Graph& graph);

AttributeKind kind_of(const AttributeValue& value) {
  constexpr AttributeKind kKinds[] = {
      AttributeKind::one_int,    AttributeKind::one_float, AttributeKind::one_string,
      AttributeKind::one_tensor, AttributeKind::one_graph, AttributeKind::one_type,
      AttributeKind::ints,       AttributeKind::floats,    AttributeKind::strings,
      AttributeKind::tensors,    AttributeKind::graphs,    AttributeKind::types};
  static_assert(std::variant_size_v<AttributeValue> == std::size(kKinds));
  return kKinds[value.index()];
}

void write_attribute_value(const Target& target, const AttributeValue& value) {
  Writer& writer = target.writer;
  std::visit(
      [&]<class T>(const T& held) {
        if constexpr (std::same_as<T, std::int64_t>) {
          writer.integer(attribute_field::i, held);
        } else if constexpr (std::same_as<T, float>) {
          writer.single(attribute_field::f, held);
        } else if constexpr (std::same_as<T, std::string>) {
          writer.bytes(attribute_field::s, held);
        } else if constexpr (std::same_as<T, Tensor>) {
          write_tensor(target, attribute_field::t, {}, held, {});
        } else if constexpr (std::same_as<T, Subgraph>) {
          write_graph(target, attribute_field::g, *held);
        } else if constexpr (std::same_as<T, ValueType>) {
          write_type(writer, attribute_field::tp, held);
        } else if constexpr (std::same_as<T, std::vector<std::int64_t>>) {
          for (const std::int64_t one : held) writer.integer(attribute_field::ints, one);
        } else if constexpr (std::same_as<T, std::vector<float>>) {
          for (const float one : held) writer.single(attribute_field::floats, one);
        } else if constexpr (std::same_as<T, std::vector<std::string>>) {
          for (const std::string& one : held) writer.bytes(attribute_field::strings, one);
        } else if constexpr (std::same_as<T, std::vector<Tensor>>) {
          for (const Tensor& one : held) {
            write_tensor(target, attribute_field::tensors, {}, one, {});
          }
        } else if constexpr (std::same_as<T, std::vector<Subgraph>>) {
          for (const Subgraph& one : held) write_graph(target, attribute_field::graphs, *one);
        } else {
          for (const ValueType& one : held) write_type(writer, attribute_field::type_protos, one);
        }
      },
      value);
}

void write_attribute(const Target& target, int field, const Attribute& attribute) {
  Writer& writer = target.writer;
  writer.message(field, [&] {
    writer.bytes(attribute_field::name, attribute.name);
    if (attribute.reference.empty()) write_attribute_value(target, attribute.value);
    writer.text(attribute_field::doc_string, attribute.doc);
    writer.integer(attribute_field::type, static_cast<int>(kind_of(attribute.value)));
    writer.text(attribute_field::ref_attr_name, attribute.reference);
    writer.encoded(attribute.unknown);
  });
}

void write_node(const Target& target, int field, const Node& node) {
  Writer& writer = target.writer;
  writer.message(field, [&] {
    for (const std::string& name : node.inputs) writer.bytes(node_field::input, name);
    for (const std::string& name : node.outputs) writer.bytes(node_field::output, name);
    writer.text(node_field::name, node.name);
    writer.bytes(node_field::op_type, node.op_type);
    for (const Attribute& attribute : node.attributes) {
      write_attribute(target, node_field::attribute, attribute);
    }
    writer.text(node_field::doc_string, node.doc);
    writer.text(node_field::domain, node.domain);
    writer.text(node_field::overload, node.overload);
    write_metadata(writer, node_field::metadata_props, node.metadata);
    writer.encoded(node.unknown);
  });
}

void write_graph(const Target& target, int field, const Graph& graph) {
  Writer& writer = target.writer;
  writer.message(field, [&] {
    for (const Node& node : graph.nodes) write_node(target, graph_field::node, node);
    // Checkers want a name; subgraphs of some exporters have none.
    writer.bytes(graph_field::name, graph.name.empty() ? "graph" : graph.name);
    const InitializerNote none;
    for (const auto& [name, tensor] : graph.initializers) {
      const auto note = graph.notes.find(name);
      write_tensor(target, graph_field::initializer, name, tensor,
                   note == graph.notes.end() ? none : note->second);
    }
    writer.text(graph_field::doc_string, graph.doc);
    for (const ValueInfo& info : graph.inputs) write_value_info(writer, graph_field::input, info);
    for (const ValueInfo& info : graph.outputs) write_value_info(writer, graph_field::output, info);
    for (const ValueInfo& info : graph.values) {
      write_value_info(writer, graph_field::value_info, info);
    }
    write_metadata(writer, graph_field::metadata_props, graph.metadata);
    writer.encoded(graph.unknown);
  });
}

void write_opsets(Writer& writer, int field, const std::map<std::string, std::int64_t>& opsets) {
  for (const auto& [domain, version] : opsets) {
    writer.message(field, [&] {
      writer.bytes(opset_field::domain, domain);
      writer.integer(opset_field::version, version);
    });
  }
}

void write_function(const Target& target, const Function& function) {
  Writer& writer = target.writer;
  writer.message(model_field::functions, [&] {
    writer.bytes(function_field::name, function.name);
    for (const std::string& name : function.inputs) writer.bytes(function_field::input, name);
    for (const std::string& name : function.outputs) writer.bytes(function_field::output, name);
    for (const std::string& name : function.attributes) {
      writer.bytes(function_field::attribute, name);
    }
    for (const Node& node : function.nodes) write_node(target, function_field::node, node);
    writer.text(function_field::doc_string, function.doc);
    write_opsets(writer, function_field::opset_import, function.opsets);
    writer.bytes(function_field::domain, function.domain);
    for (const Attribute& attribute : function.defaults) {
      write_attribute(target, function_field::attribute_proto, attribute);
    }
    for (const ValueInfo& info : function.values) {
      write_value_info(writer, function_field::value_info, info);
    }
    writer.text(function_field::overload, function.overload);
    write_metadata(writer, function_field::metadata_props, function.metadata);
    writer.encoded(function.unknown);
  });
}

// Before version 4 of the format an initializer had to be an input as well.
std::int64_t ir_version_of(const Model& model) {
  if (model.ir_version >= 4) return model.ir_version;
  std::set<std::string_view> inputs;
  for (const ValueInfo& info : model.graph.inputs) inputs.insert(info.name);
  const bool listed = std::ranges::all_of(
      model.graph.initializers, [&](const auto& entry) { return inputs.contains(entry.first); });
  return listed ? model.ir_version : 4;
}

void visit_tensors(const std::vector<Node>& nodes, const std::function<void(const Tensor&)>& f);

void visit_tensors(const Graph& graph, const std::function<void(const Tensor&)>& f) {
  for (const auto& [name, tensor] : graph.initializers) f(tensor);
  visit_tensors(graph.nodes, f);
}

void visit_tensors(const AttributeValue& value, const std::function<void(const Tensor&)>& f) {
  if (const auto* one = std::get_if<Tensor>(&value)) f(*one);
  if (const auto* many = std::get_if<std::vector<Tensor>>(&value)) std::ranges::for_each(*many, f);
  if (const auto* body = std::get_if<Subgraph>(&value)) visit_tensors(**body, f);
  if (const auto* bodies = std::get_if<std::vector<Subgraph>>(&value)) {
    for (const Subgraph& body : *bodies) visit_tensors(*body, f);
  }
}

void visit_tensors(const std::vector<Node>& nodes, const std::function<void(const Tensor&)>& f) {
  for (const Node& node : nodes) {
    for (const Attribute& attribute : node.attributes) visit_tensors(attribute.value, f);
  }
}

}  // namespace

void Writer::varint(std::uint64_t value) {
  char buffer[protozero::max_varint_length];
  const int size = protozero::write_varint(buffer, value);
  put(buffer, static_cast<std::size_t>(size));
}

void Writer::begin_bytes(int field, std::int64_t length) {
  varint(tag(field, Wire::length_delimited));
  varint(static_cast<std::uint64_t>(length));
}

void Writer::integer(int field, std::int64_t value) {
  varint(tag(field, Wire::varint));
  varint(static_cast<std::uint64_t>(value));
}

void Writer::single(int field, float value) {
  varint(tag(field, Wire::fixed32));
  char buffer[sizeof value];
  std::memcpy(buffer, &value, sizeof value);
  put(buffer, sizeof value);
}

void Writer::bytes(int field, std::string_view value) {
  begin_bytes(field, static_cast<std::int64_t>(value.size()));
  put(value.data(), value.size());
}

void write_model(Writer& writer, const Model& model, const Places& places,
                 std::string_view external) {
  const Target target{writer, places, external};
  writer.integer(model_field::ir_version, ir_version_of(model));
  writer.text(model_field::producer_name, model.producer);
  writer.text(model_field::producer_version, model.producer_version);
  writer.text(model_field::domain, model.domain);
  if (model.version != 0) writer.integer(model_field::model_version, model.version);
  writer.text(model_field::doc_string, model.doc);
  write_graph(target, model_field::graph, model.graph);
  write_opsets(writer, model_field::opset_import, model.opsets);
  write_metadata(writer, model_field::metadata_props, model.metadata);
  for (const Function& function : model.functions) write_function(target, function);
  writer.encoded(model.unknown);
}

void for_each_tensor(const Model& model, const std::function<void(const Tensor&)>& f) {
  visit_tensors(model.graph, f);
  for (const Function& function : model.functions) {
    visit_tensors(function.nodes, f);
    for (const Attribute& attribute : function.defaults) visit_tensors(attribute.value, f);
  }
}

}  // namespace moptcore::inline v0::graph::onnx

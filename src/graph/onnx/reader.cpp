// SPDX-License-Identifier: Apache-2.0
#include "reader.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <unordered_set>

#include <moptcore/graph/onnx.hpp>

#include "elements.hpp"
#include "fields.hpp"

namespace moptcore::inline v0::graph {
namespace onnx {
namespace {

// Subgraphs in subgraphs, types in types.
constexpr int kMaxDepth = 64;
constexpr std::int64_t kMaxNodes = 10'000'000;
constexpr std::size_t kMaxName = std::size_t{64} << 10;

// What a std::string, a node of a map or a vector takes from the allocator beside its bytes.
constexpr std::int64_t kBlock = 16;

bool is_utf8(Bytes text) {
  for (std::size_t i = 0; i < text.size();) {
    const std::uint8_t lead = text[i];
    if (lead < 0x80) {
      ++i;
      continue;
    }
    const std::size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    if (lead < 0xc2 || lead > 0xf4 || text.size() - i < length) return false;
    std::uint32_t code = lead & (0xffu >> (length + 1));
    for (std::size_t k = 1; k < length; ++k) {
      if ((text[i + k] & 0xc0) != 0x80) return false;
      code = code << 6 | (text[i + k] & 0x3fu);
    }
    const bool overlong = code < (length == 4 ? 0x10000u : length == 3 ? 0x800u : 0x80u);
    if (overlong || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return false;
    i += length;
  }
  return true;
}

// How many fields of each number a message has, so that every vector is made once.
class Counts {
 public:
  Counts(Bytes bytes, const Path& path) {
    for (Message field(bytes, path); field.next();) {
      if (field.number() < static_cast<int>(counts_.size())) ++counts_[field.number()];
    }
  }
  [[nodiscard]] std::int64_t operator[](int number) const noexcept { return counts_[number]; }

 private:
  std::array<std::int64_t, 32> counts_{};
};

template <class T>
void reserve(std::vector<T>& vector, std::int64_t count, const Path& path, Context& context) {
  if (count == 0) return;
  context.budget.charge(count * static_cast<std::int64_t>(sizeof(T)) + kBlock, path);
  vector.reserve(static_cast<std::size_t>(count));
}

std::string read_domain(Bytes bytes, const Path& path, Context& context) {
  std::string domain = read_name(bytes, path, "domain", context);
  return domain == "ai.onnx" ? std::string() : domain;
}

ValueType read_type(Bytes bytes, const Path& path, int depth, Context& context);

std::vector<Dimension> read_shape(Bytes bytes, const Path& path, Context& context) {
  std::vector<Dimension> dimensions;
  reserve(dimensions, Counts(bytes, path)[shape_field::dim], path, context);
  for (Message field(bytes, path); field.next();) {
    if (field.number() != shape_field::dim) continue;
    const Path at{&path, "dim", std::ssize(dimensions)};
    Dimension dimension;
    for (Message part(field.bytes("dim"), at); part.next();) {
      switch (part.number()) {
        case dimension_field::dim_value:
          dimension.value = part.integer("dim_value");
          // Some exporters write -1 for an extent that they do not know.
          require(dimension.value >= -1, at, "dim_value must be >= 0", dimension.value);
          dimension.symbol.clear();
          break;
        case dimension_field::dim_param:
          dimension.symbol = read_name(part.bytes("dim_param"), at, "dim_param", context);
          // So one exporter writes extents that it does not know, different ones too.
          if (dimension.symbol == "?") dimension.symbol.clear();
          dimension.value = -1;
          break;
        case dimension_field::denotation:
          dimension.denotation = read_name(part.bytes("denotation"), at, "denotation", context);
          break;
        default: break;
      }
    }
    dimensions.push_back(std::move(dimension));
  }
  return dimensions;
}

void read_tensor_type(Bytes bytes, const Path& path, ValueType& type, Context& context) {
  for (Message field(bytes, path); field.next();) {
    if (field.number() == tensor_type_field::elem_type) {
      const auto number = static_cast<std::int32_t>(field.integer("elem_type"));
      require<UnsupportedError>(number >= 0 && number < kElementTypeCount, path,
                                "elem_type must be one of the first 26 types of ONNX", number);
      type.element = static_cast<ElementType>(number);
    } else if (field.number() == tensor_type_field::shape) {
      type.dimensions = read_shape(field.bytes("shape"), {&path, "shape"}, context);
    }
  }
}

void read_inner_type(Bytes bytes, const Path& path, int depth, ValueType& type, Context& context) {
  for (Message field(bytes, path); field.next();) {
    if (field.number() != 1) continue;
    require(type.inner.empty(), path, "elem_type must be there once", 2);
    context.budget.charge(std::int64_t{sizeof(ValueType)} + kBlock, path);
    type.inner.push_back(
        read_type(field.bytes("elem_type"), {&path, "elem_type"}, depth + 1, context));
  }
  if (type.inner.empty()) type.inner.emplace_back();
}

ValueType read_type(Bytes bytes, const Path& path, int depth, Context& context) {
  require(depth <= kMaxDepth, path, "must be nested at most 64 deep", depth);
  ValueType type;
  int kinds = 0;
  for (Message field(bytes, path); field.next();) {
    switch (field.number()) {
      case type_field::tensor:
        type.kind = ValueType::Kind::tensor;
        read_tensor_type(field.bytes("tensor_type"), {&path, "tensor_type"}, type, context);
        ++kinds;
        break;
      case type_field::sequence:
        type.kind = ValueType::Kind::sequence;
        read_inner_type(field.bytes("sequence_type"), {&path, "sequence_type"}, depth, type,
                        context);
        ++kinds;
        break;
      case type_field::optional:
        type.kind = ValueType::Kind::optional;
        read_inner_type(field.bytes("optional_type"), {&path, "optional_type"}, depth, type,
                        context);
        ++kinds;
        break;
      case type_field::denotation:
        type.denotation = read_name(field.bytes("denotation"), path, "denotation", context);
        break;
      default:
        type.kind = ValueType::Kind::other;
        type.encoded = read_text(bytes, path, context);
        ++kinds;
    }
    require(kinds <= 1, path, "must be of one kind", kinds);
  }
  return type;
}

ValueInfo read_value_info(Bytes bytes, const Path& path, Context& context) {
  ValueInfo info;
  bool has_type = false;
  for (Message field(bytes, path); field.next();) {
    switch (field.number()) {
      case value_field::name:
        info.name = read_name(field.bytes("name"), path, "name", context);
        break;
      case value_field::type:
        require(!has_type, path, "type must be there once", 2);
        has_type = true;
        info.type = read_type(field.bytes("type"), {&path, "type"}, 0, context);
        break;
      case value_field::doc_string:
        info.doc = read_text(field.bytes("doc_string"), path, context);
        break;
      case value_field::metadata_props:
        read_entry(field.bytes("metadata_props"),
                   {&path, "metadata_props", std::ssize(info.metadata)}, info.metadata, context);
        break;
      default: keep_unknown(field, info.unknown, context);
    }
  }
  require(!info.name.empty(), path, "must have a name", "''");
  return info;
}

Graph read_graph(Bytes bytes, const Path& path, int depth, Context& context);

// What an attribute's fields are, by kind.
struct KindOf {
  int field;
  AttributeKind kind;
};
constexpr KindOf kKinds[] = {{attribute_field::f, AttributeKind::one_float},
                             {attribute_field::i, AttributeKind::one_int},
                             {attribute_field::s, AttributeKind::one_string},
                             {attribute_field::t, AttributeKind::one_tensor},
                             {attribute_field::g, AttributeKind::one_graph},
                             {attribute_field::floats, AttributeKind::floats},
                             {attribute_field::ints, AttributeKind::ints},
                             {attribute_field::strings, AttributeKind::strings},
                             {attribute_field::tensors, AttributeKind::tensors},
                             {attribute_field::graphs, AttributeKind::graphs},
                             {attribute_field::sparse_tensor, AttributeKind::sparse_tensor},
                             {attribute_field::sparse_tensors, AttributeKind::sparse_tensors},
                             {attribute_field::tp, AttributeKind::one_type},
                             {attribute_field::type_protos, AttributeKind::types}};

AttributeValue empty_value(AttributeKind kind, const Path& path) {
  switch (kind) {
    case AttributeKind::one_float: return 0.0f;
    case AttributeKind::one_int: return std::int64_t{0};
    case AttributeKind::one_string: return std::string();
    case AttributeKind::one_tensor: return Tensor();
    case AttributeKind::one_graph: return Subgraph();
    case AttributeKind::one_type: return ValueType();
    case AttributeKind::floats: return std::vector<float>();
    case AttributeKind::ints: return std::vector<std::int64_t>();
    case AttributeKind::strings: return std::vector<std::string>();
    case AttributeKind::tensors: return std::vector<Tensor>();
    case AttributeKind::graphs: return std::vector<Subgraph>();
    case AttributeKind::types: return std::vector<ValueType>();
    case AttributeKind::sparse_tensor: return Tensor();
    default: break;
  }
  require<UnsupportedError>(kind != AttributeKind::sparse_tensors, path,
                            "must be of another kind than a list of sparse tensors",
                            "SPARSE_TENSORS");
  require(false, path, "type must be in [1, 14]", static_cast<int>(kind));
  return {};
}

// Adds what a field of the attribute holds to the value, which is of its kind.
void read_attribute_value(const Message& field, AttributeKind kind, const Path& path, int depth,
                          AttributeValue& value, Context& context) {
  const auto at = [&](std::string_view name, std::int64_t index = -1) {
    return Path{&path, name, index};
  };
  const auto tensor_of = [&](const Path& where) {
    NamedTensor read = kind == AttributeKind::sparse_tensor
                           ? read_sparse(field.bytes("sparse_tensor"), where, context)
                           : read_tensor(field.bytes("t"), where, context);
    return std::move(read.tensor);
  };
  switch (kind) {
    case AttributeKind::one_float: value = field.single("f"); break;
    case AttributeKind::one_int: value = field.integer("i"); break;
    case AttributeKind::one_string: value = read_text(field.bytes("s"), path, context); break;
    case AttributeKind::one_tensor: value = tensor_of(at("t")); break;
    case AttributeKind::sparse_tensor: value = tensor_of(at("sparse_tensor")); break;
    case AttributeKind::one_graph:
      value = Subgraph(read_graph(field.bytes("g"), at("g"), depth + 1, context));
      break;
    case AttributeKind::one_type: value = read_type(field.bytes("tp"), at("tp"), 0, context); break;
    case AttributeKind::floats: {
      auto& floats = std::get<std::vector<float>>(value);
      const Bytes bytes = field.fixed<float>("floats");
      const std::size_t before = floats.size();
      floats.resize(before + bytes.size() / sizeof(float));
      if (!bytes.empty()) std::memcpy(floats.data() + before, bytes.data(), bytes.size());
      break;
    }
    case AttributeKind::ints: {
      auto& ints = std::get<std::vector<std::int64_t>>(value);
      field.each_integer("ints", [&](std::int64_t integer) { ints.push_back(integer); });
      break;
    }
    case AttributeKind::strings: {
      auto& strings = std::get<std::vector<std::string>>(value);
      strings.push_back(read_text(field.bytes("strings"), path, context));
      break;
    }
    case AttributeKind::tensors: {
      auto& tensors = std::get<std::vector<Tensor>>(value);
      tensors.push_back(tensor_of(at("tensors", std::ssize(tensors))));
      break;
    }
    case AttributeKind::graphs: {
      auto& graphs = std::get<std::vector<Subgraph>>(value);
      graphs.emplace_back(
          read_graph(field.bytes("graphs"), at("graphs", std::ssize(graphs)), depth + 1, context));
      break;
    }
    case AttributeKind::types: {
      auto& types = std::get<std::vector<ValueType>>(value);
      types.push_back(
          read_type(field.bytes("type_protos"), at("type_protos", std::ssize(types)), 0, context));
      break;
    }
    default: break;
  }
}

// Entries of lists of numbers, so that they are stored once.
void reserve_numbers(Bytes bytes, const Path& path, AttributeValue& value, Context& context) {
  std::int64_t count = 0;
  auto* floats = std::get_if<std::vector<float>>(&value);
  auto* ints = std::get_if<std::vector<std::int64_t>>(&value);
  if (floats == nullptr && ints == nullptr) return;
  for (Message field(bytes, path); field.next();) {
    if (floats != nullptr && field.number() == attribute_field::floats) {
      count += std::ssize(field.fixed<float>("floats")) / 4;
    } else if (ints != nullptr && field.number() == attribute_field::ints) {
      count += field.integer_count("ints");
    }
  }
  if (floats != nullptr) reserve(*floats, count, path, context);
  if (ints != nullptr) reserve(*ints, count, path, context);
}

Attribute read_attribute(Bytes bytes, const Path& path, int depth, Context& context) {
  Attribute attribute;
  auto kind = AttributeKind::undefined;
  for (Message field(bytes, path); field.next();) {
    switch (field.number()) {
      case attribute_field::name:
        attribute.name = read_name(field.bytes("name"), path, "name", context);
        break;
      case attribute_field::type:
        kind = static_cast<AttributeKind>(static_cast<std::int32_t>(field.integer("type")));
        break;
      case attribute_field::ref_attr_name:
        attribute.reference =
            read_name(field.bytes("ref_attr_name"), path, "ref_attr_name", context);
        break;
      case attribute_field::doc_string:
        attribute.doc = read_text(field.bytes("doc_string"), path, context);
        break;
      default:
        if (std::ranges::find(kKinds, field.number(), &KindOf::field) == std::end(kKinds)) {
          keep_unknown(field, attribute.unknown, context);
        }
    }
  }
  require(!attribute.name.empty(), path, "must have a name", "''");

  const Counts counts(bytes, path);
  for (const KindOf& candidate : kKinds) {
    if (counts[candidate.field] == 0) continue;
    if (kind == AttributeKind::undefined) kind = candidate.kind;
    require(kind == candidate.kind, path, "must have the field of its type only, of which it has",
            static_cast<int>(kind));
  }
  attribute.value = empty_value(kind, path);
  const auto own = std::ranges::find(kKinds, kind, &KindOf::kind);
  const std::int64_t count = counts[own->field];
  const bool is_list = attribute.value.index() >= 6;
  if (!attribute.reference.empty()) {
    require(count == 0, path, "must not have a value beside ref_attr_name", attribute.reference);
    return attribute;
  }
  // Numbers and strings have a default; a tensor or graph must be there.
  const bool has_default = kind == AttributeKind::one_int || kind == AttributeKind::one_float ||
                           kind == AttributeKind::one_string;
  require(is_list || count == 1 || (has_default && count == 0), path, "must have one value", count);
  if (is_list) {
    reserve_numbers(bytes, path, attribute.value, context);
    std::visit(
        [&]<class T>(T& list) {
          if constexpr (std::same_as<T, std::vector<std::string>> ||
                        std::same_as<T, std::vector<Tensor>> ||
                        std::same_as<T, std::vector<Subgraph>> ||
                        std::same_as<T, std::vector<ValueType>>) {
            reserve(list, count, path, context);
          }
        },
        attribute.value);
  }
  for (Message field(bytes, path); field.next();) {
    if (field.number() != own->field) continue;
    read_attribute_value(field, kind, path, depth, attribute.value, context);
  }
  return attribute;
}

Node read_node(Bytes bytes, const Path& path, int depth, Context& context) {
  ++context.nodes;
  require<Error>(context.nodes <= kMaxNodes, path, "must be one of at most 10000000 nodes",
                 context.nodes);
  Node node;
  const Counts counts(bytes, path);
  reserve(node.inputs, counts[node_field::input], path, context);
  reserve(node.outputs, counts[node_field::output], path, context);
  reserve(node.attributes, counts[node_field::attribute], path, context);
  reserve(node.metadata, counts[node_field::metadata_props], path, context);
  for (Message field(bytes, path); field.next();) {
    switch (field.number()) {
      case node_field::input:
        node.inputs.push_back(read_name(field.bytes("input"), path, "input", context));
        break;
      case node_field::output:
        node.outputs.push_back(read_name(field.bytes("output"), path, "output", context));
        break;
      case node_field::name:
        node.name = read_name(field.bytes("name"), path, "name", context);
        break;
      case node_field::op_type:
        node.op_type = read_name(field.bytes("op_type"), path, "op_type", context);
        break;
      case node_field::domain:
        node.domain = read_domain(field.bytes("domain"), path, context);
        break;
      case node_field::overload:
        node.overload = read_name(field.bytes("overload"), path, "overload", context);
        break;
      case node_field::attribute:
        node.attributes.push_back(read_attribute(field.bytes("attribute"),
                                                 {&path, "attribute", std::ssize(node.attributes)},
                                                 depth, context));
        break;
      case node_field::doc_string:
        node.doc = read_text(field.bytes("doc_string"), path, context);
        break;
      case node_field::metadata_props:
        read_entry(field.bytes("metadata_props"),
                   {&path, "metadata_props", std::ssize(node.metadata)}, node.metadata, context);
        break;
      default: keep_unknown(field, node.unknown, context);
    }
  }
  require(!node.op_type.empty(), path, "must have an op_type", "''");
  std::unordered_set<std::string_view> names;
  for (Attribute& attribute : node.attributes) {
    require(names.insert(attribute.name).second, path, "must not have two attributes of a name",
            attribute.name);
  }
  for (Attribute& attribute : node.attributes) {
    if (attribute.name != "sparse_value") continue;
    // Its zeros are written out, so that it is a tensor like any other.
    if (node.op_type == "Constant" && std::holds_alternative<Tensor>(attribute.value)) {
      require(!names.contains("value"), path, "must have one value", "value and sparse_value");
      attribute.name = "value";
    }
  }
  return node;
}

template <class Read>
void add_initializer(Graph& graph, const Path& path, Context& context, Read&& read) {
  NamedTensor named = read();
  require(!named.name.empty(), path, "must have a name", "''");
  context.budget.charge(std::int64_t{sizeof(std::string) + sizeof(Tensor)} + 3 * kBlock, path);
  InitializerNote& note = named.note;
  if (!note.doc.empty() || !note.metadata.empty() || !note.unknown.empty()) {
    context.budget.charge(std::int64_t{sizeof(std::string) + sizeof(InitializerNote)} + 3 * kBlock,
                          path);
    graph.notes.emplace(named.name, std::move(note));
  }
  const auto [at, added] =
      graph.initializers.emplace(std::move(named.name), std::move(named.tensor));
  require(added, path, "must not have the name of another", at->first);
}

Graph read_graph(Bytes bytes, const Path& path, int depth, Context& context) {
  require(depth <= kMaxDepth, path, "must be nested at most 64 deep", depth);
  Graph graph;
  const Counts counts(bytes, path);
  reserve(graph.nodes, counts[graph_field::node], path, context);
  reserve(graph.inputs, counts[graph_field::input], path, context);
  reserve(graph.outputs, counts[graph_field::output], path, context);
  reserve(graph.values, counts[graph_field::value_info], path, context);
  reserve(graph.metadata, counts[graph_field::metadata_props], path, context);
  std::int64_t dense = 0;
  std::int64_t sparse = 0;
  for (Message field(bytes, path); field.next();) {
    switch (field.number()) {
      case graph_field::node:
        graph.nodes.push_back(read_node(field.bytes("node"),
                                        {&path, "node", std::ssize(graph.nodes)}, depth, context));
        break;
      case graph_field::name:
        graph.name = read_name(field.bytes("name"), path, "name", context);
        break;
      case graph_field::initializer: {
        const Path at{&path, "initializer", dense++};
        add_initializer(graph, at, context,
                        [&] { return read_tensor(field.bytes("initializer"), at, context); });
        break;
      }
      case graph_field::sparse_initializer: {
        const Path at{&path, "sparse_initializer", sparse++};
        add_initializer(graph, at, context, [&] {
          return read_sparse(field.bytes("sparse_initializer"), at, context);
        });
        break;
      }
      case graph_field::input:
        graph.inputs.push_back(read_value_info(
            field.bytes("input"), {&path, "input", std::ssize(graph.inputs)}, context));
        break;
      case graph_field::output:
        graph.outputs.push_back(read_value_info(
            field.bytes("output"), {&path, "output", std::ssize(graph.outputs)}, context));
        break;
      case graph_field::value_info:
        graph.values.push_back(read_value_info(
            field.bytes("value_info"), {&path, "value_info", std::ssize(graph.values)}, context));
        break;
      case graph_field::doc_string:
        graph.doc = read_text(field.bytes("doc_string"), path, context);
        break;
      case graph_field::metadata_props:
        read_entry(field.bytes("metadata_props"),
                   {&path, "metadata_props", std::ssize(graph.metadata)}, graph.metadata, context);
        break;
      default: keep_unknown(field, graph.unknown, context);
    }
  }
  std::unordered_set<std::string_view> names;
  for (std::size_t i = 0; i < graph.inputs.size(); ++i) {
    require(names.insert(graph.inputs[i].name).second,
            {&path, "input", static_cast<std::int64_t>(i)}, "must not have the name of another",
            graph.inputs[i].name);
  }
  return graph;
}

void read_opset(Bytes bytes, const Path& path, std::map<std::string, std::int64_t>& opsets,
                Context& context) {
  std::string domain;
  std::int64_t version = 0;
  for (Message field(bytes, path); field.next();) {
    if (field.number() == opset_field::domain) {
      domain = read_domain(field.bytes("domain"), path, context);
    } else if (field.number() == opset_field::version) {
      version = field.integer("version");
    }
  }
  require(version >= 1, path, "version must be >= 1", version);
  if (domain.empty()) {
    require<UnsupportedError>(version >= kOldestOpset && version <= kNewestOpset, path,
                              "version must be an opset of 7 to 28", version);
  }
  context.budget.charge(std::int64_t{sizeof(std::string)} + 4 * kBlock, path);
  require(opsets.emplace(std::move(domain), version).second, path,
          "must not name a domain again, version", version);
}

Function read_function(Bytes bytes, const Path& path, Context& context) {
  Function function;
  const Counts counts(bytes, path);
  reserve(function.inputs, counts[function_field::input], path, context);
  reserve(function.outputs, counts[function_field::output], path, context);
  reserve(function.attributes, counts[function_field::attribute], path, context);
  reserve(function.defaults, counts[function_field::attribute_proto], path, context);
  reserve(function.nodes, counts[function_field::node], path, context);
  reserve(function.values, counts[function_field::value_info], path, context);
  reserve(function.metadata, counts[function_field::metadata_props], path, context);
  std::int64_t opsets = 0;
  for (Message field(bytes, path); field.next();) {
    switch (field.number()) {
      case function_field::name:
        function.name = read_name(field.bytes("name"), path, "name", context);
        break;
      case function_field::domain:
        function.domain = read_domain(field.bytes("domain"), path, context);
        break;
      case function_field::overload:
        function.overload = read_name(field.bytes("overload"), path, "overload", context);
        break;
      case function_field::input:
        function.inputs.push_back(read_name(field.bytes("input"), path, "input", context));
        break;
      case function_field::output:
        function.outputs.push_back(read_name(field.bytes("output"), path, "output", context));
        break;
      case function_field::attribute:
        function.attributes.push_back(
            read_name(field.bytes("attribute"), path, "attribute", context));
        break;
      case function_field::attribute_proto:
        function.defaults.push_back(
            read_attribute(field.bytes("attribute_proto"),
                           {&path, "attribute_proto", std::ssize(function.defaults)}, 0, context));
        break;
      case function_field::node:
        function.nodes.push_back(read_node(
            field.bytes("node"), {&path, "node", std::ssize(function.nodes)}, 0, context));
        break;
      case function_field::opset_import:
        read_opset(field.bytes("opset_import"), {&path, "opset_import", opsets++}, function.opsets,
                   context);
        break;
      case function_field::value_info:
        function.values.push_back(
            read_value_info(field.bytes("value_info"),
                            {&path, "value_info", std::ssize(function.values)}, context));
        break;
      case function_field::doc_string:
        function.doc = read_text(field.bytes("doc_string"), path, context);
        break;
      case function_field::metadata_props:
        read_entry(field.bytes("metadata_props"),
                   {&path, "metadata_props", std::ssize(function.metadata)}, function.metadata,
                   context);
        break;
      default: keep_unknown(field, function.unknown, context);
    }
  }
  require(!function.name.empty(), path, "must have a name", "''");
  return function;
}

}  // namespace

std::string read_name(Bytes bytes, const Path& above, std::string_view field, Context& context) {
  const Path path{&above, field};
  require(bytes.size() <= kMaxName, path, "must have at most 65536 bytes", bytes.size());
  require(is_utf8(bytes), path, "must be UTF-8, bytes", bytes.size());
  return read_text(bytes, path, context);
}

std::string read_text(Bytes bytes, const Path& path, Context& context) {
  // Short ones lie in the string itself.
  if (bytes.size() > 15) context.budget.charge(std::ssize(bytes) + kBlock, path);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

void keep_unknown(const Message& field, std::string& unknown, Context& context) {
  context.budget.charge(std::ssize(field.encoded()), field.path());
  unknown += field.encoded();
}

void read_entry(Bytes bytes, const Path& path, Metadata& metadata, Context& context) {
  std::string key;
  std::string value;
  for (Message field(bytes, path); field.next();) {
    if (field.number() == entry_field::key) {
      key = read_name(field.bytes("key"), path, "key", context);
    } else if (field.number() == entry_field::value) {
      value = read_text(field.bytes("value"), path, context);
    }
  }
  if (metadata.size() == metadata.capacity()) {
    context.budget.charge(std::int64_t{2 * sizeof(metadata[0])}, path);
  }
  metadata.emplace_back(std::move(key), std::move(value));
}

Model read_model(Bytes bytes, Context& context) {
  Model model;
  model.ir_version = 0;
  model.opsets.clear();
  const Path root;
  const Counts counts(bytes, root);
  reserve(model.metadata, counts[model_field::metadata_props], root, context);
  reserve(model.functions, counts[model_field::functions], root, context);
  require(counts[model_field::graph] == 1, root, "must have one graph", counts[model_field::graph]);
  // The versions come first: what is too old or too new may look broken in other places.
  std::int64_t opsets = 0;
  for (Message field(bytes, root); field.next();) {
    if (field.number() == model_field::ir_version) model.ir_version = field.integer("ir_version");
  }
  require<UnsupportedError>(model.ir_version >= 3 && model.ir_version <= kNewestIr, root,
                            "ir_version must be in [3, 14]", model.ir_version);
  for (Message field(bytes, root); field.next();) {
    if (field.number() != model_field::opset_import) continue;
    read_opset(field.bytes("opset_import"), {&root, "opset_import", opsets++}, model.opsets,
               context);
  }
  require(!model.opsets.empty(), root, "opset_import must name a version", "none");
  for (Message field(bytes, root); field.next();) {
    switch (field.number()) {
      case model_field::ir_version:
      case model_field::opset_import: break;
      case model_field::producer_name:
        model.producer = read_name(field.bytes("producer_name"), root, "producer_name", context);
        break;
      case model_field::producer_version:
        model.producer_version =
            read_name(field.bytes("producer_version"), root, "producer_version", context);
        break;
      case model_field::domain:
        model.domain = read_name(field.bytes("domain"), root, "domain", context);
        break;
      case model_field::model_version: model.version = field.integer("model_version"); break;
      case model_field::doc_string:
        model.doc = read_text(field.bytes("doc_string"), root, context);
        break;
      case model_field::graph:
        model.graph = read_graph(field.bytes("graph"), {&root, "graph"}, 0, context);
        break;
      case model_field::metadata_props:
        read_entry(field.bytes("metadata_props"),
                   {&root, "metadata_props", std::ssize(model.metadata)}, model.metadata, context);
        break;
      case model_field::functions:
        model.functions.push_back(read_function(
            field.bytes("functions"), {&root, "functions", std::ssize(model.functions)}, context));
        break;
      default: keep_unknown(field, model.unknown, context);
    }
  }
  if (model.ir_version < 4) {
    // Every initializer had to be listed as an input, which says nothing about it.
    std::erase_if(model.graph.inputs, [&](const ValueInfo& input) {
      return model.graph.initializers.contains(input.name);
    });
  }
  sort_nodes(model.graph);
  return model;
}

}  // namespace onnx

namespace {

std::int64_t budget_of(const LoadOptions& options, std::size_t file_bytes) {
  check(options.max_bytes >= 0, onnx::kLoad, "max_bytes must be >= 0", options.max_bytes);
  if (options.max_bytes > 0) return options.max_bytes;
  return 3 * static_cast<std::int64_t>(file_bytes) + (std::int64_t{32} << 20);
}

}  // namespace

Model parse(std::span<const std::uint8_t> bytes, const LoadOptions& options) {
  onnx::Context context{onnx::Budget(budget_of(options, bytes.size())), {}, nullptr, 0};
  if (!options.external_directory.empty()) {
    context.external = onnx::ExternalFiles(options.external_directory);
  }
  return onnx::read_model(bytes, context);
}

Model load(const std::string& path, const LoadOptions& options) {
  onnx::FileBytes file = onnx::read_file(path);
  onnx::Context context{onnx::Budget(budget_of(options, file.bytes.size())), {}, file.owner, 0};
  std::string folder = options.external_directory;
  if (folder.empty()) {
    const std::size_t slash = path.rfind('/');
    folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  }
  context.external = onnx::ExternalFiles(std::move(folder));
  return onnx::read_model(file.bytes, context);
}

}  // namespace moptcore::inline v0::graph

// SPDX-License-Identifier: Apache-2.0
#include "elements.hpp"

#include <algorithm>
#include <bit>
#include <charconv>
#include <concepts>
#include <iterator>
#include <limits>
#include <optional>
#include <string>

#include <moptcore/core/pool.hpp>

#include "fields.hpp"

namespace moptcore::inline v0::graph::onnx {
namespace {

static_assert(std::endian::native == std::endian::little, "raw_data is little-endian");

// What a tensor says, before its elements are made.
struct Proto {
  Shape shape;
  std::int64_t count = 1;
  ElementType type = ElementType::undefined;
  std::optional<Bytes> raw;
  const std::uint8_t* raw_field = nullptr;  // where the field of raw begins
  Bytes message;                            // all of it: typed fields are read when all is known
  bool is_typed = false;
  bool is_external = false;
  Metadata external;
};

ElementType element_type(std::int64_t number, const Path& path) {
  require(number > 0, path, "data_type must name a type", number);
  require<UnsupportedError>(number < kElementTypeCount, path,
                            "data_type must be one of the first 26 types of ONNX", number);
  return static_cast<ElementType>(number);
}

std::int64_t count_of(const Shape& shape, const Path& path) {
  std::int64_t count = 1;
  bool zero = false;
  for (const std::int64_t extent : shape) zero = zero || extent == 0;
  if (zero) return 0;
  for (const std::int64_t extent : shape) {
    require(!__builtin_mul_overflow(count, extent, &count) &&
                count <= std::numeric_limits<std::int64_t>::max() / 64,
            path, "dims must have a product below 2^57", shape);
  }
  return count;
}

void read_dims(const Message& field, const Path& path, Shape& shape) {
  field.each_integer("dims", [&](std::int64_t extent) {
    const Path at{&path, "dims", shape.rank()};
    require<UnsupportedError>(shape.rank() < kMaxRank, at, "must be one of at most 16", extent);
    require(extent >= 0, at, "must be >= 0", extent);
    shape.push_back(extent);
  });
}

std::size_t alignment_of(ElementType type) {
  const int bits = bit_width(type);
  return static_cast<std::size_t>(std::clamp(bits / 8, 1, 8));
}

// A bool that is neither 0 nor 1 would not be one in C++.
void settle_booleans(Tensor& tensor) {
  if (tensor.type() != ElementType::boolean) return;
  auto* bytes = static_cast<std::uint8_t*>(tensor.mutable_raw());
  for (std::int64_t i = 0; i < tensor.size(); ++i) bytes[i] = bytes[i] != 0;
}

Tensor fresh(const Proto& proto, const Path& path, Context& context) {
  // What the smallest block of the pool and its owner take.
  constexpr std::int64_t kLeast = 256;
  const bool is_string = proto.type == ElementType::string;
  const std::int64_t bytes = is_string ? proto.count * std::int64_t{sizeof(std::string)}
                                       : byte_count(proto.type, proto.count);
  context.budget.charge(bytes + kLeast, path);
  return {proto.type, proto.shape};
}

Tensor from_raw(const Proto& proto, const Path& path, Context& context) {
  const std::int64_t bytes = byte_count(proto.type, proto.count);
  require(static_cast<std::int64_t>(proto.raw->size()) == bytes, path,
          "raw_data must have the bytes of its dims and data_type, " + std::to_string(bytes),
          proto.raw->size());
  if (context.owner == nullptr) {
    Tensor tensor = fresh(proto, path, context);
    if (bytes > 0) std::memcpy(tensor.mutable_raw(), proto.raw->data(), proto.raw->size());
    settle_booleans(tensor);
    return tensor;
  }
  // The memory is ours, and the tag and length in front of the elements are read: where elements
  // lie askew they move over those.
  auto* data = const_cast<std::uint8_t*>(proto.raw->data());
  const std::size_t askew = reinterpret_cast<std::uintptr_t>(data) % alignment_of(proto.type);
  if (askew > static_cast<std::size_t>(data - proto.raw_field)) {
    Tensor tensor = fresh(proto, path, context);
    std::memcpy(tensor.mutable_raw(), data, proto.raw->size());
    return tensor;
  }
  if (askew != 0) std::memmove(data - askew, data, proto.raw->size());
  Tensor tensor(proto.type, proto.shape, data - askew, context.owner);
  settle_booleans(tensor);
  return tensor;
}

std::int64_t number_of(const std::string& text, const Path& path) {
  std::int64_t number = -1;
  const char* const end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, number);
  require(error == std::errc() && at == end && number >= 0, path, "must be a number in [0, 2^63)",
          '\'' + text.substr(0, 40) + '\'');
  return number;
}

Tensor from_file(const Proto& proto, const Path& path, Context& context) {
  require(proto.type != ElementType::string, path, "must not have strings in an external file",
          name(proto.type));
  std::optional<std::string> location;
  std::optional<std::int64_t> offset;
  std::optional<std::int64_t> length;
  for (std::size_t i = 0; i < proto.external.size(); ++i) {
    const auto& [key, value] = proto.external[i];
    const Path at{&path, "external_data", static_cast<std::int64_t>(i)};
    bool is_new = true;
    if (key == "location") {
      is_new = !location;
      location = value;
    } else if (key == "offset") {
      is_new = !offset;
      offset = number_of(value, at);
    } else if (key == "length") {
      is_new = !length;
      length = number_of(value, at);
    } else {
      require(key == "checksum", at, "must have the key location, offset, length or checksum",
              '\'' + key.substr(0, 40) + '\'');
    }
    require(is_new, at, "must not repeat a key", key);
  }
  const Path at{&path, "external_data"};
  require(location.has_value(), at, "must have a location", proto.external.size());
  const std::int64_t bytes = byte_count(proto.type, proto.count);
  require(length.value_or(bytes) == bytes, at,
          "must have the length of its dims and data_type, " + std::to_string(bytes),
          length.value_or(0));
  bool is_new = false;
  const std::int64_t size = context.external.open(*location, at, is_new);
  const std::int64_t first = offset.value_or(0);
  require(first <= size && bytes <= size - first, at,
          "must lie in its file of " + std::to_string(size) + " bytes, offset " +
              std::to_string(first) + " and length",
          bytes);
  if (is_new)
    context.budget.extend(size < std::numeric_limits<std::int64_t>::max() / 1024 ? 4 * size : 0);
  Tensor tensor = fresh(proto, path, context);
  context.external.read(tensor.mutable_raw(), first, bytes, at);
  settle_booleans(tensor);
  return tensor;
}

// Calls f(field) with each field of that number.
template <class F>
void each_field(const Proto& proto, const Path& path, int number, F&& f) {
  for (Message field(proto.message, path); field.next();) {
    if (field.number() == number) f(field);
  }
}

// The field in which elements of a type lie, and entries for each element.
struct Typed {
  int number;
  std::string_view name;
  std::int64_t entries;
};

Typed typed_field(ElementType type, std::int64_t count) {
  switch (type) {
    case ElementType::float32: return {tensor_field::float_data, "float_data", count};
    case ElementType::complex64: return {tensor_field::float_data, "float_data", 2 * count};
    case ElementType::float64: return {tensor_field::double_data, "double_data", count};
    case ElementType::complex128: return {tensor_field::double_data, "double_data", 2 * count};
    case ElementType::int64: return {tensor_field::int64_data, "int64_data", count};
    case ElementType::uint32:
    case ElementType::uint64: return {tensor_field::uint64_data, "uint64_data", count};
    case ElementType::string: return {tensor_field::string_data, "string_data", count};
    default: break;
  }
  // Packed types have an entry for each byte.
  const std::int64_t entries = is_packed(type) ? byte_count(type, count) : count;
  return {tensor_field::int32_data, "int32_data", entries};
}

std::int64_t entry_count(const Proto& proto, const Path& path, const Typed& typed) {
  std::int64_t count = 0;
  each_field(proto, path, typed.number, [&](const Message& field) {
    switch (typed.number) {
      case tensor_field::float_data: count += std::ssize(field.fixed<float>(typed.name)) / 4; break;
      case tensor_field::double_data:
        count += std::ssize(field.fixed<double>(typed.name)) / 8;
        break;
      case tensor_field::string_data: ++count; break;
      default: count += field.integer_count(typed.name);
    }
  });
  return count;
}

template <class T>
void copy_fixed(const Proto& proto, const Path& path, const Typed& typed, void* out) {
  auto* to = static_cast<std::uint8_t*>(out);
  each_field(proto, path, typed.number, [&](const Message& field) {
    const Bytes bytes = field.fixed<T>(typed.name);
    if (!bytes.empty()) std::memcpy(to, bytes.data(), bytes.size());
    to += bytes.size();
  });
}

template <class T>
void copy_integers(const Proto& proto, const Path& path, const Typed& typed, void* out) {
  auto* to = static_cast<T*>(out);
  each_field(proto, path, typed.number, [&](const Message& field) {
    field.each_integer(typed.name, [&](std::int64_t value) {
      if constexpr (std::same_as<T, bool>) *to++ = static_cast<std::int32_t>(value) != 0;
      else *to++ = static_cast<T>(value);
    });
  });
}

void copy_strings(const Proto& proto, const Path& path, const Typed& typed, Tensor& tensor,
                  Context& context) {
  const auto strings = tensor.mutable_strings();
  std::int64_t next = 0;
  each_field(proto, path, typed.number, [&](const Message& field) {
    const Path at{&path, typed.name, next};
    strings[static_cast<std::size_t>(next++)] = read_text(field.bytes(typed.name), at, context);
  });
}

Tensor from_fields(const Proto& proto, const Path& path, Context& context) {
  const Typed typed = typed_field(proto.type, proto.count);
  const std::int64_t found = entry_count(proto, path, typed);
  require(found == typed.entries, path,
          std::string(typed.name) + " must have the entries of its dims and data_type, " +
              std::to_string(typed.entries),
          found);
  Tensor tensor = fresh(proto, path, context);
  if (proto.type == ElementType::string) {
    copy_strings(proto, path, typed, tensor, context);
    return tensor;
  }
  void* const out = tensor.mutable_raw();
  switch (typed.number) {
    case tensor_field::float_data: copy_fixed<float>(proto, path, typed, out); break;
    case tensor_field::double_data: copy_fixed<double>(proto, path, typed, out); break;
    default:
      if (proto.type == ElementType::boolean) {
        copy_integers<bool>(proto, path, typed, out);
        break;
      }
      // Integers, the bits of halves, the bytes of float8 and of packed types.
      switch (bit_width(proto.type)) {
        case 64: copy_integers<std::uint64_t>(proto, path, typed, out); break;
        case 32: copy_integers<std::uint32_t>(proto, path, typed, out); break;
        case 16: copy_integers<std::uint16_t>(proto, path, typed, out); break;
        default: copy_integers<std::uint8_t>(proto, path, typed, out);
      }
  }
  return tensor;
}

Proto read_proto(Bytes bytes, const Path& path, NamedTensor& result, Context& context) {
  Proto proto;
  proto.message = bytes;
  for (Message field(bytes, path); field.next();) {
    switch (field.number()) {
      case tensor_field::dims: read_dims(field, path, proto.shape); break;
      case tensor_field::data_type:
        proto.type = element_type(static_cast<std::int32_t>(field.integer("data_type")), path);
        break;
      case tensor_field::segment:
        require<UnsupportedError>(false, path, "must be whole", "a segment");
        break;
      case tensor_field::float_data:
      case tensor_field::int32_data:
      case tensor_field::int64_data:
      case tensor_field::double_data:
      case tensor_field::uint64_data:
      case tensor_field::string_data: proto.is_typed = true; break;
      case tensor_field::name:
        result.name = read_name(field.bytes("name"), path, "name", context);
        break;
      case tensor_field::raw_data:
        proto.raw = field.bytes("raw_data");
        proto.raw_field = reinterpret_cast<const std::uint8_t*>(field.encoded().data());
        break;
      case tensor_field::doc_string:
        result.note.doc = read_text(field.bytes("doc_string"), path, context);
        break;
      case tensor_field::external_data:
        read_entry(field.bytes("external_data"),
                   {&path, "external_data", static_cast<std::int64_t>(proto.external.size())},
                   proto.external, context);
        break;
      case tensor_field::data_location: {
        const std::int64_t location = field.integer("data_location");
        require(location == 0 || location == 1, path, "data_location must be 0 or 1", location);
        proto.is_external = location == 1;
        break;
      }
      case tensor_field::metadata_props:
        read_entry(
            field.bytes("metadata_props"),
            {&path, "metadata_props", static_cast<std::int64_t>(result.note.metadata.size())},
            result.note.metadata, context);
        break;
      default: keep_unknown(field, result.note.unknown, context);
    }
  }
  require(proto.type != ElementType::undefined, path, "must have a data_type", 0);
  proto.count = count_of(proto.shape, path);
  return proto;
}

}  // namespace

NamedTensor read_tensor(Bytes bytes, const Path& path, Context& context) {
  NamedTensor result;
  const Proto proto = read_proto(bytes, path, result, context);
  require(int{proto.is_typed} + int{proto.raw.has_value()} + int{proto.is_external} <= 1, path,
          "must have its elements in one place: raw_data, typed fields or an external file",
          "several");
  if (proto.is_external) {
    result.tensor = from_file(proto, path, context);
  } else if (proto.raw) {
    require(proto.type != ElementType::string, path, "must have its strings in string_data",
            "raw_data");
    result.tensor = from_raw(proto, path, context);
  } else {
    result.tensor = from_fields(proto, path, context);
  }
  return result;
}

NamedTensor read_sparse(Bytes bytes, const Path& path, Context& context) {
  std::optional<NamedTensor> values;
  std::optional<NamedTensor> indices;
  Shape shape;
  const Path values_path{&path, "values"};
  const Path indices_path{&path, "indices"};
  for (Message field(bytes, path); field.next();) {
    switch (field.number()) {
      case sparse_field::values:
        require(!values, values_path, "must be there once", 2);
        values = read_tensor(field.bytes("values"), values_path, context);
        break;
      case sparse_field::indices:
        require(!indices, indices_path, "must be there once", 2);
        indices = read_tensor(field.bytes("indices"), indices_path, context);
        break;
      case sparse_field::dims: read_dims(field, path, shape); break;
      default:
        require<UnsupportedError>(false, path, "must have the fields values, indices and dims only",
                                  field.number());
    }
  }
  require(values.has_value() && indices.has_value(), path, "must have values and indices",
          values.has_value() ? "values only" : "no values");
  require(shape.rank() > 0, path, "must have dims", shape);
  const Tensor& from = values->tensor;
  const Tensor& where = indices->tensor;
  const std::int64_t rank = shape.rank();
  const std::int64_t given = from.size();
  require(from.rank() == 1, values_path, "must have one dimension", from.shape());
  require(where.type() == ElementType::int64, indices_path, "must be int64", name(where.type()));
  const bool linear = where.shape() == Shape{given};
  require(linear || where.shape() == Shape({given, rank}), indices_path,
          "must have the shape (values,) or (values, rank)", where.shape());

  const std::int64_t count = count_of(shape, path);
  const ElementType type = from.type();
  require<UnsupportedError>(!is_packed(type), values_path, "must have elements of whole bytes",
                            name(type));
  Proto whole;
  whole.type = type;
  whole.shape = shape;
  whole.count = count;
  Tensor dense = fresh(whole, path, context);
  const std::int64_t width = byte_count(type, 1);
  if (width > 0 && count > 0) {
    std::memset(dense.mutable_raw(), 0, static_cast<std::size_t>(count * width));
  }
  std::int64_t before = -1;
  for (std::int64_t i = 0; i < given; ++i) {
    const Path at{&indices_path, "", i};
    std::int64_t offset = 0;
    if (linear) {
      offset = where.data<std::int64_t>()[i];
      require(offset >= 0 && offset < count, at, "must be in [0, " + std::to_string(count) + ")",
              offset);
    } else {
      for (int axis = 0; axis < rank; ++axis) {
        const std::int64_t index = where.data<std::int64_t>()[i * rank + axis];
        require(index >= 0 && index < shape[axis], at,
                "must lie in the shape, in [0, " + std::to_string(shape[axis]) + ")", index);
        offset = offset * shape[axis] + index;
      }
    }
    require(offset > before, at, "must come behind the one before", offset);
    before = offset;
    if (type == ElementType::string) {
      dense.mutable_strings()[static_cast<std::size_t>(offset)] =
          from.strings()[static_cast<std::size_t>(i)];
    } else {
      std::memcpy(static_cast<char*>(dense.mutable_raw()) + offset * width,
                  static_cast<const char*>(from.raw()) + i * width,
                  static_cast<std::size_t>(width));
    }
  }
  return {std::move(values->name), std::move(dense), std::move(values->note)};
}

}  // namespace moptcore::inline v0::graph::onnx

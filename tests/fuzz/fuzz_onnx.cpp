// SPDX-License-Identifier: Apache-2.0
// Any bytes are a model or an error; a model runs within its limits or is refused, and comes back
// from its own bytes as it was. The mutator keeps the lengths of messages right.
#include <moptcore/graph/evaluate.hpp>
#include <moptcore/graph/onnx.hpp>
#include <moptcore/graph/upgrade.hpp>

#include <algorithm>
#include <cstring>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "input.hpp"

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t limit);

namespace {

using namespace moptcore;
using namespace moptcore::graph;
using fuzz::require;

constexpr std::int64_t kBytes = std::int64_t{1} << 15;

// Elements 0, 1, 2 ... in each input; symbols are 2.
std::optional<Values> inputs_of(const Model& model) {
  Values values;
  for (const ValueInfo& info : model.graph.inputs) {
    if (model.graph.initializers.contains(info.name)) continue;
    if (info.type.kind == ValueType::Kind::optional) continue;
    const bool is_sequence = info.type.kind == ValueType::Kind::sequence;
    const ValueType& type =
        is_sequence && !info.type.inner.empty() ? info.type.inner[0] : info.type;
    if (type.kind != ValueType::Kind::tensor || type.element == ElementType::undefined) return {};
    std::vector<std::int64_t> extents;
    std::int64_t count = 1;
    for (const Dimension& dimension : type.dimensions.value_or(std::vector<Dimension>{})) {
      extents.push_back(dimension.is_known() ? dimension.value : 2);
      if (extents.back() > kBytes || extents.size() > 8) return {};
      count = std::min(count * extents.back(), kBytes);
    }
    if (count * 16 > kBytes) return {};
    Tensor tensor(type.element, Shape(std::span<const std::int64_t>(extents)));
    if (type.element == ElementType::string) {
      for (std::string& text : tensor.mutable_strings()) text = "a b";
    } else {
      auto* bytes = static_cast<std::uint8_t*>(tensor.mutable_raw());
      for (std::int64_t i = 0; i < tensor.bytes(); ++i) {
        bytes[i] = static_cast<std::uint8_t>(type.element == ElementType::boolean ? i & 1 : i * 37);
      }
    }
    values[info.name] = is_sequence ? Value(Value::Sequence{tensor, tensor}) : Value(tensor);
  }
  return values;
}

void run(const Model& model) {
  const std::optional<Values> inputs = inputs_of(model);
  if (!inputs) return;
  EvaluateOptions options;
  options.max_bytes = kBytes;
  options.max_steps = 1000;
  (void)evaluate(model, *inputs, options);
}

template <class F>
void allow_errors(F&& f) {
  try {
    f();
  } catch (const Error&) {
  } catch (const std::out_of_range&) {
  }
}

// ---- A field of a message, found by walking down at random -------------------------------------

struct Field {
  std::size_t begin = 0;
  std::size_t body = 0;  // behind tag and length
  std::size_t end = 0;
  bool has_length = false;
};

std::optional<std::uint64_t> read_varint(const std::string& data, std::size_t& at,
                                         std::size_t end) {
  std::uint64_t value = 0;
  for (int shift = 0; shift < 64 && at < end; shift += 7) {
    const auto byte = static_cast<std::uint8_t>(data[at++]);
    value |= std::uint64_t{byte & 0x7fu} << shift;
    if (byte < 0x80) return value;
  }
  return {};
}

std::string varint(std::uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  return out + static_cast<char>(value);
}

std::optional<std::vector<Field>> fields_of(const std::string& data, std::size_t at,
                                            std::size_t end) {
  std::vector<Field> fields;
  while (at < end) {
    Field field;
    field.begin = at;
    const auto tag = read_varint(data, at, end);
    if (!tag || *tag >> 3 == 0 || *tag >> 3 > 40) return {};
    std::uint64_t length = 0;
    switch (*tag & 7) {
      case 0:
        field.body = at;
        if (!read_varint(data, at, end)) return {};
        break;
      case 1: length = 8; break;
      case 5: length = 4; break;
      case 2: {
        const auto read = read_varint(data, at, end);
        if (!read) return {};
        length = *read;
        field.has_length = true;
        break;
      }
      default: return {};
    }
    if ((*tag & 7) != 0) field.body = at;
    if (length > end - at) return {};
    at += length;
    field.end = at;
    fields.push_back(field);
  }
  return fields;
}

using Random = std::minstd_rand;

std::string mutated(std::string data) {
  const std::size_t size = data.size();
  data.resize(size + 64);
  data.resize(LLVMFuzzerMutate(reinterpret_cast<std::uint8_t*>(data.data()), size, data.size()));
  return data;
}

// A message with one of its fields changed, at any depth.
std::string mutate_message(const std::string& data, Random& random, int depth) {
  const auto fields = fields_of(data, 0, data.size());
  if (!fields || fields->empty()) return mutated(data);
  const Field& field = (*fields)[random() % fields->size()];
  const std::string before = data.substr(0, field.begin);
  const std::string whole = data.substr(field.begin, field.end - field.begin);
  const std::string after = data.substr(field.end);
  switch (random() % 12) {
    case 0: return before + after;
    case 1: return before + whole + whole + after;
    case 2: {  // another field of the message in its place
      const Field& other = (*fields)[random() % fields->size()];
      return before + data.substr(other.begin, other.end - other.begin) + after;
    }
    default: break;
  }
  const std::string body = data.substr(field.body, field.end - field.body);
  if (!field.has_length) {
    const std::uint64_t edges[] = {
        0, 1, 2, random() % 30, ~std::uint64_t{0}, std::uint64_t{1} << 62};
    const bool is_varint = (static_cast<std::uint8_t>(data[field.begin]) & 7) == 0;
    const std::string tag = data.substr(field.begin, field.body - field.begin);
    if (is_varint) return before + tag + varint(edges[random() % 6]) + after;
    std::string fixed = mutated(body);
    fixed.resize(body.size());
    return before + tag + fixed + after;
  }
  const std::string changed =
      depth < 12 && !body.empty() ? mutate_message(body, random, depth + 1) : mutated(body);
  std::size_t at = field.begin;
  (void)read_varint(data, at, field.body);
  return before + data.substr(field.begin, at - field.begin) + varint(changed.size()) + changed +
         after;
}

}  // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t limit, unsigned seed) {
  Random random(seed);
  if (random() % 20 == 0) return LLVMFuzzerMutate(data, size, limit);
  const std::string out =
      mutate_message(std::string(reinterpret_cast<const char*>(data), size), random, 0);
  const std::size_t used = std::min(out.size(), limit);
  std::memcpy(data, out.data(), used);
  return used;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  LoadOptions options;
  options.max_bytes = std::int64_t{1} << 22;
  std::optional<Model> model;
  allow_errors([&] { model = parse({data, size}, options); });
  if (!model) return 0;

  const std::vector<std::uint8_t> written = serialize(*model);
  options.max_bytes = std::int64_t{1} << 28;
  require(serialize(parse(written, options)) == written);
  allow_errors([&] { run(*model); });
  allow_errors([&] {
    upgrade(*model, kNewestOpset);
    require(!serialize(*model).empty());
    run(*model);
  });
  return 0;
}

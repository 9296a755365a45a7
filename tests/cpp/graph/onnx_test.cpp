// SPDX-License-Identifier: Apache-2.0
#include <moptcore/graph/onnx.hpp>

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include <moptcore/graph/evaluate.hpp>

#include "catch.hpp"

using namespace moptcore;
using namespace moptcore::graph;

namespace {

// Messages of protobuf, written by hand: the reader is judged by the format, not by our writer.
std::string varint(std::uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  return out + static_cast<char>(value);
}
std::string number(int field, std::uint64_t value) {
  return varint(static_cast<std::uint64_t>(field) << 3) + varint(value);
}
std::string bytes(int field, std::string_view body) {
  return varint(static_cast<std::uint64_t>(field) << 3 | 2) + varint(body.size()) +
         std::string(body);
}

std::string model(std::string_view graph, std::uint64_t opset = 21, std::uint64_t ir = 10) {
  return number(1, ir) + bytes(8, number(2, opset)) + bytes(7, graph);
}
std::string value_info(std::string_view name) { return bytes(1, name); }
std::string identity(std::string_view from, std::string_view to) {
  return bytes(1, from) + bytes(2, to) + bytes(4, "Identity");
}
// y = x with the tensor x.
std::string with_tensor(std::string_view tensor) {
  return model(bytes(1, identity("x", "y")) + bytes(5, std::string(tensor) + bytes(8, "x")) +
               bytes(12, value_info("y")));
}

Model read(std::string_view text) {
  return parse({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
}
Tensor result_of(std::string_view text) { return evaluate(read(text), {}).at("y").tensor(); }

template <class E>
void refuses(std::string_view text, std::string_view message) {
  std::string thrown = "nothing";
  try {
    (void)read(text);
  } catch (const E& error) {
    thrown = error.what();
  }
  INFO(message << "\n" << thrown);
  CHECK(thrown.find(message) != std::string::npos);
}

}  // namespace

TEST_CASE("Elements are read from raw bytes and from typed fields", "[graph][onnx]") {
  const std::string two = bytes(1, varint(2)) + number(2, 1);
  const float expected[] = {1.5f, -2.0f};
  const std::string raw(reinterpret_cast<const char*>(expected), sizeof expected);
  const auto same = [&](const Tensor& tensor) {
    return tensor.shape() == Shape{2} && tensor.values<float>()[0] == 1.5f &&
           tensor.values<float>()[1] == -2.0f;
  };
  CHECK(same(result_of(with_tensor(two + bytes(9, raw)))));
  CHECK(same(result_of(with_tensor(two + bytes(4, raw)))));
  // Not packed: one field for each element.
  const std::string unpacked =
      varint(4 << 3 | 5) + raw.substr(0, 4) + varint(4 << 3 | 5) + raw.substr(4);
  CHECK(same(result_of(with_tensor(two + unpacked))));
}

TEST_CASE("A lying model is refused with the path of the field", "[graph][onnx]") {
  const std::string one = number(1, 1) + number(2, 1);
  refuses<FormatError>(with_tensor(number(1, static_cast<std::uint64_t>(-1)) + number(2, 1)),
                       "[graph.load] graph.initializer[0].dims[0] must be >= 0, got -1");
  refuses<FormatError>(with_tensor(one + bytes(9, "abc")),
                       "graph.initializer[0] raw_data must have the bytes of its dims and "
                       "data_type, 4, got 3");
  const std::string huge = number(1, std::uint64_t{1} << 62) + number(1, 4) + number(2, 1);
  refuses<FormatError>(with_tensor(huge), "dims must have a product below 2^57");
  refuses<FormatError>(with_tensor(number(1, 1) + bytes(9, "abcd")), "must have a data_type");
  refuses<UnsupportedError>(with_tensor(number(1, 1) + number(2, 27)), "data_type must be one of");
  refuses<FormatError>(model(bytes(1, identity("a", "b")) + bytes(1, identity("b", "a"))),
                       "nodes must not form a cycle");
}

TEST_CASE("Versions that are too old or too new are named", "[graph][onnx]") {
  refuses<UnsupportedError>(model("", 6), "opset_import[0] version must be an opset of 7 to 28");
  refuses<UnsupportedError>(model("", 29), "opset of 7 to 28, got 29");
  refuses<UnsupportedError>(model("", 21, 2), "ir_version must be in [3, 14], got 2");
  refuses<FormatError>(number(1, 10) + bytes(7, ""), "opset_import must name a version");
}

TEST_CASE("Initializers are inputs only of files that could have left them out", "[graph][onnx]") {
  const std::string tensor =
      number(1, 1) + number(2, 1) + bytes(8, "w") + bytes(9, std::string(4, '\0'));
  const std::string graph = bytes(1, identity("w", "y")) + bytes(2, "g") + bytes(5, tensor) +
                            bytes(11, value_info("x")) + bytes(11, value_info("w")) +
                            bytes(12, value_info("y"));
  CHECK(read(model(graph, 8, 3)).graph.inputs.size() == 1);
  CHECK(read(model(graph, 8, 4)).graph.inputs.size() == 2);
}

TEST_CASE("What is written is read as it was, unknown fields too", "[graph][onnx]") {
  // Field 39 is of no message that we know.
  const std::string later = bytes(39, "later");
  const std::string node = identity("x", "y") + later;
  const std::string tensor = number(1, 1) + number(2, 6) + bytes(9, "\x2a\x01\x01\x01") +
                             bytes(8, "x") + bytes(12, "what it is") + later;
  const std::string graph = bytes(1, node) + bytes(2, "g") + bytes(5, tensor) +
                            bytes(12, value_info("y") + later) + later;
  const Model first = read(model(graph) + later);
  const std::vector<std::uint8_t> written = serialize(first);
  const std::string text(written.begin(), written.end());
  std::size_t kept = 0;
  for (std::size_t at = text.find(later); at != std::string::npos; at = text.find(later, at + 1)) {
    ++kept;
  }
  CHECK(kept == 5);
  CHECK(text.find("what it is") != std::string::npos);
  CHECK(serialize(read(text)) == written);
}

TEST_CASE("A limit on memory is that of the caller", "[graph][onnx]") {
  const std::string tensor = number(1, 1000) + number(2, 3) + bytes(9, std::string(1000, 'a'));
  const std::string text = with_tensor(tensor);
  LoadOptions options;
  options.max_bytes = 1000;
  const std::span<const std::uint8_t> span(reinterpret_cast<const std::uint8_t*>(text.data()),
                                           text.size());
  CHECK_THROWS_AS(parse(span, options), Error);
  options.max_bytes = 10000;
  CHECK_NOTHROW(parse(span, options));
  options.max_bytes = -1;
  CHECK_THROWS_AS(parse(span, options), Error);
}

TEST_CASE("A bool that is neither 0 nor 1 is read as true", "[graph][onnx]") {
  const Tensor read = result_of(
      with_tensor(number(1, 3) + number(2, 9) + bytes(9, std::string("\x00\x02\xff", 3))));
  const auto* raw = static_cast<const std::uint8_t*>(read.raw());
  CHECK(raw[0] == 0);
  CHECK(raw[1] == 1);
  CHECK(raw[2] == 1);
}

TEST_CASE("Weights that lie askew in a file are moved, not misread", "[graph][onnx]") {
  // Names of every length put the elements at every offset.
  for (std::size_t length = 1; length <= 16; ++length) {
    const std::string name(length, 'x');
    const double values[] = {1.25, -7.5, 1e300};
    const std::string raw(reinterpret_cast<const char*>(values), sizeof values);
    const std::string tensor = bytes(8, name) + number(1, 3) + number(2, 11) + bytes(9, raw);
    const std::string text =
        model(bytes(1, identity(name, "y")) + bytes(5, tensor) + bytes(12, value_info("y")));
    const std::string path = "onnx_test_askew.onnx";
    std::ofstream(path, std::ios::binary) << text;
    const Model loaded = load(path);
    std::remove(path.c_str());
    const Tensor y = evaluate(loaded, {}).at("y").tensor();
    CHECK(reinterpret_cast<std::uintptr_t>(y.raw()) % 8 == 0);
    for (int i = 0; i < 3; ++i) CHECK(y.values<double>()[i] == values[i]);
  }
}

// SPDX-License-Identifier: Apache-2.0
#include <moptcore/graph/onnx.hpp>

#include <cstdint>
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

// SPDX-License-Identifier: Apache-2.0
#include <moptcore/pack/file.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>
#include <vector>

#include "catch.hpp"

using namespace moptcore;
using namespace moptcore::pack;
using Catch::Matchers::Contains;

namespace {

std::vector<std::uint8_t> file_of(const std::string& header, const std::string& data = "") {
  std::vector<std::uint8_t> bytes(8 + header.size() + data.size());
  for (std::size_t i = 0; i < 8; ++i) {
    bytes[i] = static_cast<std::uint8_t>(header.size() >> (8 * i));
  }
  const auto rest = std::copy(header.begin(), header.end(), bytes.begin() + 8);
  std::copy(data.begin(), data.end(), rest);
  return bytes;
}

}  // namespace

TEST_CASE("A saved file holds its tensors and metadata", "[pack]") {
  const std::string path =
      (std::filesystem::temp_directory_path() / "moptcore_file_test.safetensors").string();
  std::vector<float> weight(10'000);
  for (std::size_t i = 0; i < weight.size(); i += 9) weight[i] = static_cast<float>(i % 7) - 3.5f;
  const std::vector<double> bias = {1.0, -0.0, 2.5};
  const std::vector<Named> tensors = {{"weight", weight, {}},
                                      {"bias", bias, parse_encoding("dense+plain")}};
  const std::int64_t bytes = save(path, tensors, {{"format", "pt"}});
  CHECK(bytes == static_cast<std::int64_t>(std::filesystem::file_size(path)));
  CHECK(bytes < 3000);  // a bit and a third each, and the header
  {
    const Reader reader(path);
    REQUIRE(reader.entries().size() == 2);
    CHECK(reader.metadata() == Metadata{{"format", "pt"}});
    CHECK(reader.entries()[0].name == "bias");
    CHECK(reader.entries()[0].encoding == "dense");
    std::vector<double> bias_back(3);
    std::vector<float> weight_back(weight.size());
    reader.read(0, bias_back);
    reader.read(1, weight_back);
    CHECK(bias_back == bias);
    CHECK(std::signbit(bias_back[1]));
    CHECK(weight_back == weight);
    CHECK_THROWS_AS(reader.read(0, weight_back), DTypeError);
    CHECK_THROWS_AS(reader.read(2, weight_back), Error);
  }
  std::filesystem::resize_file(path, static_cast<std::uintmax_t>(bytes - 1));
  CHECK_THROWS_WITH(Reader(path), Contains("must fill the file"));
  std::remove(path.c_str());
  CHECK_THROWS_AS(Reader(path), std::system_error);
}

TEST_CASE("A plain file in memory is read", "[pack]") {
  const auto whole =
      file_of(R"({"\u0061b":{"dtype":"U8","shape":[2,1],"data_offsets":[0,2]}} )", "xy");
  const Reader reader(whole);
  REQUIRE(reader.entries().size() == 1);
  CHECK(reader.entries()[0].name == "ab");
  CHECK(reader.entries()[0].shape == Shape{2, 1});
  std::array<std::uint8_t, 2> out{};
  reader.read(0, MutableAnyView(out.data(), DType::uint8, Shape{2, 1}));
  CHECK(out == std::array<std::uint8_t, 2>{'x', 'y'});
}

TEST_CASE("No prefix of a file is read as a file", "[pack]") {
  const auto bytes = file_of(R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})", "xyz");
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    CHECK_THROWS_AS(Reader(std::span(bytes).first(size)), FormatError);
  }
}

TEST_CASE("Offsets that overlap, leave gaps or overflow are refused", "[pack]") {
  const auto [header, text] = GENERATE(table<std::string, std::string>(
      {{R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})", "must begin where"},
       {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
        R"("b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
        "must begin where"},
       {R"({"a":{"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,3]}})",
        "as many as"},
       {R"({"a":{"dtype":"U8","shape":[99999999999999999999],"data_offsets":[0,3]}})",
        "below 2^63"},
       {R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[3,0]}})", "as many as"},
       {R"({"a":{"dtype":"F4","shape":[3],"data_offsets":[0,3]}})", "as many as"}}));
  CAPTURE(header);
  CHECK_THROWS_WITH(Reader(file_of(header, "xyz")), Contains(text));
}

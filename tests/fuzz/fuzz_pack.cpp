// SPDX-License-Identifier: Apache-2.0
// Readers take any bytes; what encode makes comes back bit for bit.
#include <moptcore/pack/pack.hpp>

#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "input.hpp"

namespace {

using namespace moptcore;
using fuzz::Input;
using fuzz::require;
using fuzz::Tensor;

// Bytes behind a right checksum, or no mutation would get past it.
std::vector<std::uint8_t> sealed(const std::uint8_t* data, std::size_t size) {
  std::vector<std::uint8_t> bytes(data, data + size);
  const std::uint32_t sum = pack::crc32(bytes);
  for (int i = 0; i < 4; ++i) bytes.push_back(static_cast<std::uint8_t>(sum >> (8 * i)));
  return bytes;
}

void decode(const std::vector<std::uint8_t>& bytes) {
  const pack::Description header = pack::describe_header(bytes);
  require(header.dense_bytes <= 1024 * static_cast<std::int64_t>(bytes.size()));
  const Tensor out(header.dtype, header.shape);
  pack::decode(bytes, out.view);
  require(pack::describe(bytes).dense_bytes == out.bytes);
}

void read(std::span<const std::uint8_t> bytes) {
  const pack::Reader reader(bytes);
  for (std::size_t i = 0; i < reader.entries().size(); ++i) {
    const pack::Entry& entry = reader.entries()[i];
    const Tensor out(entry.dtype, entry.shape);
    reader.read(i, out.view);
  }
}

// A file whose header is the fuzzer's and whose length is right.
std::vector<std::uint8_t> with_header(const std::uint8_t* data, std::size_t size) {
  const std::size_t header = size / 2;
  std::vector<std::uint8_t> bytes(8);
  for (int i = 0; i < 8; ++i) {
    bytes[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(header >> (8 * i));
  }
  bytes.insert(bytes.end(), data, data + size);
  return bytes;
}

// A file of one bundle, behind a right checksum.
std::vector<std::uint8_t> with_bundle(const std::uint8_t* data, std::size_t size) {
  const std::vector<std::uint8_t> bundle = sealed(data, size);
  const std::string length = std::to_string(bundle.size());
  const std::string header =
      R"({"__metadata__":{"moptcore.pack":"1 00000000"},"::pack::pack":{"dtype":"U8","shape":[)" +
      length + R"(],"data_offsets":[0,)" + length + "]}}";
  std::vector<std::uint8_t> bytes(8);
  for (std::size_t i = 0; i < 8; ++i) {
    bytes[i] = static_cast<std::uint8_t>(header.size() >> (8 * i));
  }
  bytes.insert(bytes.end(), header.begin(), header.end());
  bytes.insert(bytes.end(), bundle.begin(), bundle.end());
  return bytes;
}

void round_trip(Input& input) {
  constexpr DType kDTypes[] = {DType::float64,  DType::float32, DType::float16,
                               DType::bfloat16, DType::int32,   DType::int8};
  const Tensor made = input.tensor(kDTypes[input.between(0, 5)], input.shape());
  const Tensor dense = made.contiguous();
  constexpr const char* kEncodings[] = {
      "auto",          "bitmap",     "csr", "codebook", "nm", "int4", "2:4", "bitmap+codebook+rans",
      "csr+int8+zstd", "dense+plain"};
  const auto bytes = pack::encode(made.view, pack::parse_encoding(kEncodings[input.between(0, 9)]));
  const Tensor back(dense.view.dtype(), dense.view.shape());
  pack::decode(bytes, back.view);
  require(back.same_bits(dense));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  try {
    switch (data[0] % 5) {
      case 0: decode(sealed(data + 1, size - 1)); break;
      case 1: read({data + 1, size - 1}); break;
      case 2: read(with_header(data + 1, size - 1)); break;
      case 3: read(with_bundle(data + 1, size - 1)); break;
      default: {
        Input input(data + 1, size - 1);
        round_trip(input);
      }
    }
  } catch (const Error&) {  // no format of ours, or a tensor that does not fit
    return 0;
  }
  return 0;
}

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

// A stream of the coder rans behind a right header: data[0] picks its lanes, data[1] the symbols.
void decode_rans(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return;
  const std::size_t symbols = 64 + std::size_t{data[1]} * 4;
  constexpr std::uint8_t kLanes[] = {0, 1, 2, 3, 5, 5, 5, 4};
  std::vector<std::uint8_t> bytes = {2, static_cast<std::uint8_t>(DType::uint8), 0, 1};
  const auto put = [&](std::size_t number) {
    for (; number >= 128; number >>= 7) bytes.push_back(static_cast<std::uint8_t>(number | 128));
    bytes.push_back(static_cast<std::uint8_t>(number));
  };
  put(symbols);
  bytes.insert(bytes.end(), {0, static_cast<std::uint8_t>(pack::Coder::rans)});
  put(size - 1);
  bytes.push_back(kLanes[data[0] % 8]);
  bytes.insert(bytes.end(), data + 2, data + size);
  decode(sealed(bytes.data(), bytes.size()));
}

// Zeros of both signs, as products with a mask have them.
void round_trip_signs(Input& input) {
  const DType dtype = input.floating();
  const Tensor made(dtype, input.shape());
  const std::int64_t width = bit_width(dtype) / 8;
  for (std::int64_t i = 0; i < made.bytes; i += width) {
    const auto kind = input.take<std::uint8_t>();
    auto* element = made.memory.get() + i;
    // The byte with the sign, and one of few other values.
    if (kind % 4 == 0) element[width - 1] = std::byte{0x80};
    if (kind % 4 == 1) element[width - 1] = static_cast<std::byte>(0x3e | (kind & 0x80));
  }
  constexpr const char* kEncodings[] = {"auto", "bitmap",  "csr+raw", "codebook",
                                        "int8", "nm+int4", "2:4",     "dense+plain"};
  const auto bytes = pack::encode(made.view, pack::parse_encoding(kEncodings[input.between(0, 7)]));
  const Tensor back(dtype, made.view.shape());
  pack::decode(bytes, back.view);
  require(back.same_bits(made));
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
    switch (data[0] % 7) {
      case 0: decode(sealed(data + 1, size - 1)); break;
      case 1: read({data + 1, size - 1}); break;
      case 2: read(with_header(data + 1, size - 1)); break;
      case 3: read(with_bundle(data + 1, size - 1)); break;
      case 4: decode_rans(data + 1, size - 1); break;
      default: {
        Input input(data + 1, size - 1);
        if (data[0] % 7 == 5) round_trip(input);
        else round_trip_signs(input);
      }
    }
  } catch (const Error&) {  // no format of ours, or a tensor that does not fit
    return 0;
  }
  return 0;
}
